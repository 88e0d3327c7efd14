//! What a publication may bring: patterns, names, labels, lengths and aliases out of bounds are refused with a reason, and cost nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trunkline::adapter::{AdapterFiles, archive_of, read_archive, write_tar};

use crate::support::TestServer;

/// Each refusal compiles a pattern at most; a debug build on a busy machine takes its time.
const REFUSAL_MAX: Duration = Duration::from_secs(20);

/// The files of `topics` with one of its JSON files changed.
async fn changed(server: &TestServer, card: bool, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let archive = server.get("/v1/admin/adapters/topics/download").await.body;
    let files = read_archive(&archive).unwrap().files;
    let old = if card { files.card.clone().unwrap() } else { files.config.clone() };
    let mut json: Value = serde_json::from_slice(&old).unwrap();
    change(&mut json);
    let new = serde_json::to_vec(&json).unwrap();
    let files = if card { AdapterFiles { card: Some(new), ..files } } else { AdapterFiles { config: new, ..files } };
    write_tar(&files).unwrap()
}

#[tokio::test]
async fn what_is_out_of_bounds_in_a_folder_is_refused_with_its_reason() {
    let server = TestServer::start().await;
    let many = |count: usize, pattern: &str| -> Value {
        (0..count).map(|at| (format!("{pattern}q{at}"), json!(8))).collect::<serde_json::Map<_, _>>().into()
    };
    for (key, value, named) in [
        ("rank_pattern", many(100, r"\w{205}"), "regular expressions"),
        ("rank_pattern", many(30, r"\w{205}"), "too large"),
        ("alpha_pattern", many(1025, "a"), "1025 entries"),
        ("target_modules", json!(r"(?<=\w{1,900})query"), "looks back"),
        ("target_modules", json!("a".repeat(3000)), "3000 bytes"),
        ("exclude_modules", json!(r"\w{900}"), "too large"),
        ("modules_to_save", json!(vec!["x"; 2000]), "2000 entries"),
        ("layers_to_transform", json!((0..2000).collect::<Vec<_>>()), "2000 entries"),
        ("r", json!(1_000_000_000), "rank 1000000000"),
    ] {
        let started = Instant::now();
        let archive = changed(&server, false, |config| config[key] = value).await;
        let answer = server.send("PUT", "/v1/admin/adapters/fresh", &[], archive).await;
        assert!(answer.status == 422 && answer.text().contains(named), "{key}, {named}: {}", answer.text());
        assert!(answer.body.len() < 64 << 10, "{key}: {} bytes of refusal", answer.body.len());
        assert!(started.elapsed() < REFUSAL_MAX, "{key}, {named}: {:?}", started.elapsed());
    }
    for (key, value, named) in [
        ("labels", json!(["x".repeat(3_000_000), "b"]), "3000000 bytes"),
        ("labels", json!(["line\nbreak", "b"]), "control character"),
        ("labels", json!((0..5000).map(|at| at.to_string()).collect::<Vec<_>>()), "5000 labels"),
        ("max_length", json!(1), "leave no room"),
        ("max_length", json!(1_u64 << 40), "over the backbone's"),
        ("thresholds", json!({"no such label": 0.5}), "is no label"),
    ] {
        let archive = changed(&server, true, |card| card[key] = value).await;
        let answer = server.send("PUT", "/v1/admin/adapters/fresh", &[], archive).await;
        assert!(answer.status == 422 && answer.text().contains(named), "{key}, {named}: {}", answer.text());
        assert!(answer.body.len() < 64 << 10, "{key}: {} bytes of refusal", answer.body.len());
    }
    server.get("/v1/adapters/fresh").await.assert_problem(404, "adapter_not_found", "fresh");
}

/// The files of `topics` as PEFT would have left them, with a `config.json` beside.
async fn fresh_from_peft(server: &TestServer, base_model: &str, model: &Value) -> Vec<u8> {
    let archive = server.get("/v1/admin/adapters/topics/download").await.body;
    let files = read_archive(&archive).unwrap().files;
    let mut config: Value = serde_json::from_slice(&files.config).unwrap();
    config["base_model_name_or_path"] = json!(base_model);
    let (config, model) = (config.to_string(), model.to_string());
    let parts = [
        ("adapter_config.json", config.as_bytes()),
        ("adapter_model.safetensors", &files.weights),
        ("config.json", model.as_bytes()),
        ("checkpoint-1/adapter_config.json", b"{}"),
        ("optimizer.pt", b"x"),
    ];
    archive_of(parts).unwrap()
}

#[tokio::test]
async fn what_lies_beside_an_adapter_counts_where_nothing_else_says_so() {
    let server = TestServer::start().await;
    let named = json!({
        "id2label": {"0": "sport", "1": "money", "2": "art"}, "problem_type": "multi_label_classification",
    });
    let archive = fresh_from_peft(&server, "/home/me/model", &named).await;
    let published = server.send("PUT", "/v1/admin/adapters/fresh", &[], archive.clone()).await.success();
    assert_eq!(published["warnings"], Value::Null);
    assert_eq!(server.get("/v1/adapters/fresh").await.success()["labels"], json!(["sport", "money", "art"]));
    let body = server.post("/v1/classify", json!({"inputs": "one", "adapter": "fresh"})).await.success();
    let scores = body["results"][0]["labels"].as_array().unwrap().iter().map(|label| label["score"].as_f64().unwrap());
    assert!((scores.sum::<f64>() - 1.0).abs() > 1e-3, "each label has a score of its own: {body}");
    server.send("PUT", "/v1/admin/adapters/fresh?labels=a,b,c", &[], archive).await.success();
    assert_eq!(server.get("/v1/adapters/fresh").await.success()["labels"], json!(["a", "b", "c"]));
}

#[tokio::test]
async fn a_doubtful_upload_is_published_with_a_warning() {
    let server = TestServer::start().await;
    let archive = fresh_from_peft(&server, "bert-base-cased", &json!({"id2label": {"0": "one"}})).await;
    let published = server.send("PUT", "/v1/admin/adapters/fresh", &[], archive).await.success();
    let warnings: Vec<&str> = published["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert!(warnings.iter().any(|warning| warning.contains("names 1 labels, but the head has 3 rows")), "{warnings:?}");
    assert_eq!(server.get("/v1/adapters/fresh").await.success()["labels"], json!(["LABEL_0", "LABEL_1", "LABEL_2"]));
}

#[tokio::test]
async fn a_name_that_is_a_files_or_anothers_is_refused() {
    let server = TestServer::start().await;
    let archive = server.get("/v1/admin/adapters/topics/download").await.body;
    for (name, status, code, said) in [
        ("aliases.json", 400, "invalid_request", "is the name of a file"),
        ("README.md", 400, "invalid_request", "is the name of a file"),
        ("topics.damaged-1", 400, "invalid_request", "is the name of a file"),
        ("TOPICS", 409, "conflict", "differs from \"topics\" in case alone"),
        ("default-ner", 409, "conflict", "is an alias"),
        ("Default-Ner", 409, "conflict", "is an alias"),
    ] {
        let path = format!("/v1/admin/adapters/{name}");
        server.send("PUT", &path, &[], archive.clone()).await.assert_problem(status, code, said);
    }
    let json = [("content-type", "application/json")];
    let alias = |targets: usize| json!({"targets": vec![json!({"adapter": "topics@1"}); targets]}).to_string();
    for (name, targets, status, code) in [
        ("mood", 33, 422, "unprocessable"),
        ("mood", 30_000, 422, "unprocessable"),
        ("mood", 0, 400, "invalid_request"),
        ("aliases.json", 1, 400, "invalid_request"),
        ("topics", 1, 409, "conflict"),
        ("Topics", 1, 409, "conflict"),
    ] {
        let answer = server.send("PUT", &format!("/v1/admin/aliases/{name}"), &json, alias(targets)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["code"]),
            (status, &json!(code)),
            "{name}: {}",
            answer.text()
        );
    }
    server.send("PUT", "/v1/admin/aliases/mood", &json, alias(32)).await.success();
    server.send("DELETE", "/v1/admin/aliases/mood", &[], "").await.success();
    server.send("PUT", "/v1/admin/adapters/mood", &[], archive).await.success();
}

#[tokio::test]
async fn series_of_labels_go_with_the_version_that_gave_them() {
    let server = TestServer::start().await;
    let classify = |adapter: &str| json!({"inputs": ["one", "two words", "and three words"], "adapter": adapter});
    let labelled = |word: &'static str| {
        move |card: &mut Value| {
            let labels = card["labels"].as_array_mut().unwrap();
            labels.iter_mut().enumerate().for_each(|(at, label)| *label = json!(format!("{word}{at}")));
            card["thresholds"] = json!({});
        }
    };
    for word in ["first", "second"] {
        let archive = changed(&server, true, labelled(word)).await;
        server.send("PUT", "/v1/admin/adapters/moving", &[], archive).await.success();
        server.post("/v1/classify", classify("moving")).await.success();
    }
    let series = || {
        let text = server.world.metrics.render();
        let of_adapter = text.lines().filter(|line| line.contains("predictions_total{adapter=\"moving\""));
        of_adapter.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    assert!(series().contains("label=\"second") && !series().contains("label=\"first"), "{}", series());
    server.post("/v1/classify", classify("moving@1")).await.success();
    assert!(series().contains("label=\"other\"") && !series().contains("label=\"first"), "{}", series());
    server.post("/v1/admin/adapters/moving/activate", json!({"version": 1})).await.success();
    server.post("/v1/classify", classify("moving")).await.success();
    assert!(series().contains("label=\"first") && !series().contains("label=\"second"), "{}", series());
}
