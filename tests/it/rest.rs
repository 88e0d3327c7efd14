//! The HTTP contract, by a real client on a real port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use trunkline::domain::HeadForm;

use crate::inference::world::{drawn_primary, encoder};
use crate::support::TestServer;

const TEXT: &str = "🦀 Meet Anna in Krakow";

#[tokio::test]
async fn ner_answers_in_the_contracts_shape() {
    let server = TestServer::start().await;
    let asked = json!({"inputs": [TEXT, ["Meet", "Anna"], ""], "adapter": "places"});
    let answer = server.post("/v1/ner", asked.clone()).await;
    let body = answer.success();
    assert_eq!(keys(&body), ["adapter", "id", "object", "offset_unit", "results", "usage"]);
    assert!(body["id"].as_str().unwrap().starts_with("req_"));
    assert_eq!((&body["object"], &body["offset_unit"]), (&json!("ner"), &json!("char")));
    assert_eq!((&body["adapter"]["name"], &body["adapter"]["version"]), (&json!("places"), &json!(1)));
    assert!(body["adapter"]["digest"].as_str().unwrap().starts_with("sha256:"));
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(keys(&results[0]), ["entities", "tokens", "truncated", "windows"]);
    let tokens: u64 = results.iter().map(|result| result["tokens"].as_u64().unwrap()).sum();
    assert_eq!(body["usage"], json!({"sequences": 3, "tokens": tokens}));
    let over_http2 = server.send_h2c("POST", "/v1/ner", asked).await.success();
    assert_eq!(over_http2["results"], body["results"]);
}

#[tokio::test]
async fn a_word_is_the_text_between_its_offsets_in_every_unit() {
    let server = TestServer::start().await;
    for unit in ["char", "byte", "utf16"] {
        let parameters = json!({"offset_unit": unit, "aggregation_strategy": "none", "ignore_labels": []});
        let body = server.post("/v1/ner", json!({"inputs": TEXT, "parameters": parameters})).await.success();
        let entities = body["results"][0]["entities"].as_array().unwrap().clone();
        assert!(!entities.is_empty());
        for entity in entities {
            assert_eq!(keys(&entity), ["end", "entity", "index", "score", "start", "word"]);
            let place = |key: &str| entity[key].as_u64().unwrap() as usize;
            assert_eq!(slice(TEXT, unit, place("start"), place("end")), entity["word"].as_str().unwrap(), "{unit}");
        }
    }
}

/// What a caller cuts out of its own text.
fn slice(text: &str, unit: &str, start: usize, end: usize) -> String {
    match unit {
        "char" => text.chars().skip(start).take(end - start).collect(),
        "byte" => text[start..end].to_owned(),
        _ => String::from_utf16(&text.encode_utf16().collect::<Vec<_>>()[start..end]).unwrap(),
    }
}

#[tokio::test]
async fn classify_takes_texts_and_pairs_and_gives_labels_best_first() {
    let server = TestServer::start().await;
    let inputs = json!(["ok", {"text": "the food was cold", "text_pair": "it was good"}]);
    let body = server.post("/v1/classify", json!({"inputs": inputs})).await.success();
    assert_eq!(body["object"], "classify");
    assert_eq!(body["adapter"]["name"], "topics");
    for result in body["results"].as_array().unwrap() {
        let scores: Vec<f64> =
            result["labels"].as_array().unwrap().iter().map(|l| l["score"].as_f64().unwrap()).collect();
        assert_eq!(scores.len(), 3);
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{scores:?}");
    }
    let one = json!({"inputs": {"text": "a", "text_pair": "b"}, "parameters": {"top_k": 1}});
    let body = server.post("/v1/classify", one).await.success();
    assert_eq!(body["results"][0]["labels"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn analyze_answers_by_adapter_as_asked_and_one_that_fails_fails_alone() {
    let server = TestServer::start().await;
    let asked = json!({"inputs": [TEXT, "ok"], "adapters": ["places", "topics@1", "nobody"]});
    let body = server.post("/v1/analyze", asked).await.success();
    assert_eq!(keys(&body["adapters"]), ["places", "topics@1"]);
    for result in body["results"].as_array().unwrap() {
        assert_eq!(keys(result), ["nobody", "places", "topics@1"]);
        assert!(result["places"]["entities"].is_array() && result["topics@1"]["labels"].is_array());
        assert_eq!(result["nobody"]["error"]["code"], "adapter_not_found");
    }
    let none = server.post("/v1/analyze", json!({"inputs": "a", "adapters": ["nobody"]})).await;
    none.assert_problem(404, "adapter_not_found", "nobody");
}

#[tokio::test]
async fn names_that_the_request_brings_are_found_and_chosen_from() {
    let server = TestServer::start().await;
    for (name, form) in [("by-type", HeadForm::Concepts), ("by-class", HeadForm::Similarity)] {
        let files = drawn_primary(form, 5).to_files(&encoder()).unwrap();
        server.world.registry().publish(&name.parse().unwrap(), files, true).await.unwrap();
    }
    let ask = async |family: &str, adapter: &str, parameters: Value| {
        let body = json!({"inputs": TEXT, "adapter": adapter, "parameters": parameters});
        server.post(&format!("/v1/{family}"), body).await
    };
    let names = json!(["person", "place_name"]);
    let found = ask("ner", "by-type", json!({"candidate_labels": names, "threshold": 0.01})).await.success();
    let entities = found["results"][0]["entities"].as_array().unwrap();
    assert!(!entities.is_empty() && entities.iter().all(|e| names.as_array().unwrap().contains(&e["entity_group"])));
    let parameters = json!({"candidate_labels": names, "hypothesis_template": "About {}.", "top_k": 1});
    let chosen = ask("classify", "by-class", parameters).await.success();
    assert!(names.as_array().unwrap().contains(&chosen["results"][0]["labels"][0]["label"]));
    assert_eq!(chosen["results"][0]["labels"].as_array().unwrap().len(), 1);
    ask("ner", "by-type", json!({})).await.assert_problem(409, "conflict", "needs candidate_labels");
    ask("classify", "topics", json!({"candidate_labels": names})).await.assert_problem(
        409,
        "conflict",
        "named concepts",
    );
}

#[tokio::test]
async fn embed_gives_unit_vectors_unless_told_otherwise() {
    let server = TestServer::start().await;
    let body = server.post("/v1/embed", json!({"inputs": ["one", "two words"]})).await.success();
    assert_eq!((&body["adapter"], body["embeddings"].as_array().unwrap().len()), (&Value::Null, 2));
    let norm = |vector: &Value| -> f64 {
        vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum::<f64>().sqrt()
    };
    assert!((norm(&body["embeddings"][1]) - 1.0).abs() < 1e-4);
    let parameters = json!({"pooling": "cls", "normalize": false});
    let asked = json!({"inputs": "one", "adapter": "topics", "parameters": parameters});
    let body = server.post("/v1/embed", asked).await.success();
    assert_eq!(body["adapter"]["name"], "topics");
    assert!((norm(&body["embeddings"][0]) - 1.0).abs() > 1e-2);
}

#[tokio::test]
async fn a_long_text_is_embedded_as_its_caller_wants() {
    let server = TestServer::start().await;
    let long = "the river ran past old walls ".repeat(60);
    let asked = async |long_text: &str| {
        let parameters = json!({"long_text": long_text});
        server.post("/v1/embed", json!({"inputs": ["short", long], "parameters": parameters})).await
    };
    let cut = asked("truncate").await.success();
    assert_eq!(cut["truncated"], json!([false, true]));
    let default = server.post("/v1/embed", json!({"inputs": ["short", long]})).await.success();
    assert_eq!((&default["embeddings"], &default["truncated"]), (&cut["embeddings"], &cut["truncated"]));
    let whole = asked("window").await.success();
    assert_eq!(whole["truncated"], json!([false, false]));
    assert!(whole["usage"]["tokens"].as_u64() > cut["usage"]["tokens"].as_u64());
    assert_eq!(whole["embeddings"][0], cut["embeddings"][0], "a short text is one window either way");
    assert_ne!(whole["embeddings"][1], cut["embeddings"][1]);
    asked("error").await.assert_problem(422, "unprocessable", "inputs[1]: the text has");
    asked("middle").await.assert_problem(400, "invalid_request", "parameters.long_text: unknown variant `middle`");
}

#[tokio::test]
async fn bad_input_is_answered_with_what_was_got_and_what_is_wanted() {
    let server = TestServer::with(|config| config.body_bytes_max = 64 << 10).await;
    let text = |s: &str| s.as_bytes().to_vec();
    let many = json!({"inputs": vec!["a"; 10_000]}).to_string();
    let labels = json!({"inputs": "a", "parameters": {"candidate_labels": vec!["a"; 257]}}).to_string();
    let table: Vec<(&str, Vec<u8>, u16, &str, &str)> = vec![
        ("/v1/ner", text(""), 400, "invalid_request", "empty"),
        ("/v1/ner", text("hello"), 400, "invalid_request", "not JSON"),
        ("/v1/ner", text("{\"inputs\": \"a\"} x"), 400, "invalid_request", "trailing characters"),
        ("/v1/ner", text("[]"), 400, "invalid_request", "expected an object"),
        ("/v1/ner", text("{}"), 400, "invalid_request", "missing field `inputs`"),
        ("/v1/ner", text(r#"{"inputs": []}"#), 400, "invalid_request", "inputs: an empty list"),
        ("/v1/ner", text(r#"{"inputs": 3}"#), 400, "invalid_request", "inputs: invalid type: integer `3`"),
        ("/v1/ner", text(r#"{"inputs": ["a", null]}"#), 400, "invalid_request", "inputs[1]: invalid type: null"),
        ("/v1/ner", text(r#"{"inputs": "a", "adaptor": "b"}"#), 400, "invalid_request", "unknown field `adaptor`"),
        (
            "/v1/ner",
            text(r#"{"inputs": "a", "parameters": {"strid": 1}}"#),
            400,
            "invalid_request",
            "parameters.strid: unknown field `strid`",
        ),
        (
            "/v1/ner",
            text(r#"{"inputs": "a", "parameters": {"offset_unit": "words"}}"#),
            400,
            "invalid_request",
            "parameters.offset_unit: unknown variant `words`, expected one of `char`, `byte`, `utf16`",
        ),
        ("/v1/ner", text(r#"{"inputs": "a", "parameters": {"threshold": 2}}"#), 400, "invalid_request", "threshold"),
        ("/v1/ner", labels.into(), 400, "invalid_request", "candidate_labels: 257"),
        (
            "/v1/ner",
            text(r#"{"inputs": "a", "parameters": {"candidate_labels": ["a", "b", "a"]}}"#),
            400,
            "invalid_request",
            "parameters.candidate_labels: \"a\" is there twice",
        ),
        (
            "/v1/ner",
            text(r#"{"inputs": "a", "parameters": {"candidate_labels": ["a"], "aggregation_strategy": "none"}}"#),
            400,
            "invalid_request",
            "parameters.aggregation_strategy",
        ),
        (
            "/v1/classify",
            text(r#"{"inputs": "a", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "It is."}}"#),
            400,
            "invalid_request",
            "parameters.hypothesis_template: \"It is.\"",
        ),
        (
            "/v1/classify",
            text(r#"{"inputs": "a", "parameters": {"hypothesis_template": "It is {}."}}"#),
            400,
            "invalid_request",
            "no candidate_labels",
        ),
        (
            "/v1/ner",
            text(r#"{"inputs": {"text": "a", "text_pair": "b"}}"#),
            400,
            "invalid_request",
            "inputs[0]: a pair",
        ),
        ("/v1/ner", text(r#"{"inputs": "\ud800"}"#), 400, "invalid_request", "surrogate"),
        ("/v1/ner", b"{\"inputs\": \"\xff\"}".to_vec(), 400, "invalid_request", "not UTF-8 from byte 12"),
        ("/v1/ner", text(r#"{"inputs": "a", "adapter": "a b"}"#), 400, "invalid_request", "adapter: adapter name"),
        ("/v1/ner", text(r#"{"inputs": "a", "adapter": "places@x"}"#), 400, "invalid_request", "version number"),
        ("/v1/ner", text(r#"{"inputs": "a", "adapter": "place"}"#), 404, "adapter_not_found", "places"),
        ("/v1/ner", text(r#"{"inputs": "a", "adapter": "places@9"}"#), 404, "adapter_not_found", "9"),
        ("/v1/ner", text(r#"{"inputs": "a", "adapter": "topics"}"#), 409, "conflict", "topics"),
        ("/v1/classify", text(r#"{"inputs": "a", "adapter": "places"}"#), 409, "conflict", "places"),
        ("/v1/classify", text(r#"{"inputs": "a", "parameters": {"top_k": 0}}"#), 400, "invalid_request", "top_k"),
        ("/v1/analyze", text(r#"{"inputs": "a", "adapters": []}"#), 400, "invalid_request", "adapters: 0 of them"),
        ("/v1/analyze", text(r#"{"inputs": "a", "adapters": ["x", "x"]}"#), 400, "invalid_request", "there twice"),
        ("/v1/ner", many.into(), 413, "payload_too_large", "10000 of them; at most 512"),
        ("/v1/ner", vec![b' '; 100 << 10], 413, "payload_too_large", "limit of 65536 bytes"),
        ("/v1/ner", vec![b' '; 9 << 20], 413, "payload_too_large", "limit of 65536 bytes"),
        (
            "/v1/ner",
            json!({"inputs": "long ".repeat(200), "parameters": {"long_text": "error"}}).to_string().into(),
            422,
            "unprocessable",
            "token",
        ),
    ];
    for (path, body, status, code, detail) in table {
        server.send("POST", path, &[], body).await.assert_problem(status, code, detail);
    }
}

#[tokio::test]
async fn odd_text_is_text() {
    let server = TestServer::start().await;
    let word = "x".repeat(1 << 20);
    for text in ["", "\0", "a\0b", "\u{fffd}", "  ", "👩‍👩‍👧", "\u{202e}abc", &word] {
        let body = server.post("/v1/ner", json!({"inputs": text})).await.success();
        assert_eq!(body["results"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn unknown_places_and_wrong_methods_are_problems_too() {
    let server = TestServer::start().await;
    server.get("/v1/nothing").await.assert_problem(404, "not_found", "no route");
    server.get("/v1/admin/jobs/job_x").await.assert_problem(404, "not_found", "job_x");
    server.get("/v1/adapters/nobody").await.assert_problem(404, "adapter_not_found", "nobody");
    let wrong_method = server.get("/v1/ner").await;
    wrong_method.assert_problem(405, "invalid_request", "does not take GET");
    assert_eq!(wrong_method.header("allow"), "POST");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let answer = server.send("POST", "/v1/ner", &form, "{\"inputs\": \"a\"}").await;
    answer.assert_problem(400, "invalid_request", "application/json is wanted");
    for json in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"] {
        let answer = server.send("POST", "/v1/ner", &[("content-type", json)], "{\"inputs\": \"a\"}").await;
        assert_eq!(answer.status, 200, "{json}");
    }
    server.get("/v1/admin/jobs?limit=0").await.assert_problem(400, "invalid_request", "limit");
    server.get("/v1/admin/jobs?lmit=1").await.assert_problem(400, "invalid_request", "lmit");
}

#[tokio::test]
async fn every_answer_carries_a_request_id_and_its_timings() {
    let server = TestServer::start().await;
    for (method, path) in
        [("POST", "/v1/ner"), ("GET", "/healthz"), ("GET", "/nowhere"), ("GET", "/docs/"), ("PUT", "/v1/ner")]
    {
        for (given, kept) in [("abc-123", true), ("", false), ("with space", false), (&"x".repeat(129), false)] {
            let answer = server.send(method, path, &[("x-request-id", given)], "{\"inputs\": \"a\"}").await;
            let id = answer.header("x-request-id");
            assert_eq!(id == given, kept, "{path} {given:?} {id}");
            assert!(kept || id.starts_with("req_"), "{id}");
            let timing = answer.header("server-timing");
            let names: Vec<&str> = timing.split(", ").map(|entry| entry.split(";dur=").next().unwrap()).collect();
            assert_eq!(names, ["queue", "tokenize", "compute", "total"], "{timing}");
        }
    }
}

#[tokio::test]
async fn a_deadline_that_cannot_be_kept_is_an_error_of_its_own() {
    let server = TestServer::start().await;
    let body = json!({"inputs": vec!["a long text of many words"; 400]}).to_string();
    let answer = server.send("POST", "/v1/ner", &[("x-request-timeout-ms", "1")], body).await;
    let code = answer.json()["code"].as_str().unwrap().to_owned();
    assert!(["deadline_exceeded", "overloaded"].contains(&code.as_str()), "{code}");
    let answer = server.send("POST", "/v1/ner", &[("x-request-timeout-ms", "soon")], "{\"inputs\": \"a\"}").await;
    answer.assert_problem(400, "invalid_request", "x-request-timeout-ms");
}

#[tokio::test]
async fn a_request_is_counted_once_under_its_route_adapter_and_code() {
    let server = TestServer::start().await;
    server.post("/v1/ner", json!({"inputs": "a"})).await.success();
    server.post("/v1/ner", json!({"inputs": "a", "adapter": "places"})).await.success();
    server.post("/v1/ner", json!({"inputs": "a", "adapter": "topics"})).await;
    server.post("/v1/ner", json!({"inputs": []})).await;
    server.post("/v1/ner", json!({"inputs": "a", "adapter": "a-stranger"})).await;
    server.get("/what?text=secret").await;
    server.get("/v1/adapters/places").await.success();
    let count = |labels: &str| server.metric(&format!("trunkline_requests_total{{{labels}}}"));
    for (adapter, code, route, wanted) in [
        ("places", "ok", "/v1/ner", 2.0),
        ("topics", "conflict", "/v1/ner", 1.0),
        ("", "invalid_request", "/v1/ner", 1.0),
        ("other", "adapter_not_found", "/v1/ner", 1.0),
        ("", "not_found", "unmatched", 1.0),
        ("places", "ok", "/v1/adapters/{name}", 1.0),
    ] {
        assert_eq!(
            count(&format!("adapter=\"{adapter}\",code=\"{code}\",route=\"{route}\"")),
            wanted,
            "{route} {code}"
        );
    }
    assert_eq!(server.metric("trunkline_request_duration_seconds_count{route=\"/v1/ner\"}"), 5.0);
    for code in ["internal", "unavailable", "deadline_exceeded"] {
        let series = format!("trunkline_requests_total{{adapter=\"places\",code=\"{code}\",route=\"/v1/ner\"}} 0");
        assert!(server.get("/metrics").await.text().contains(&series), "{series} before the first failure");
    }
    let text = server.get("/metrics").await.text();
    assert!(text.contains("trunkline_requests_total") && !text.contains("secret") && !text.contains("stranger"));
}

#[tokio::test]
async fn keys_open_what_their_role_may() {
    let server = TestServer::with(|config| {
        config.admin_key = Some("boss".to_owned());
        config.infer_key = Some("guest".to_owned());
    })
    .await;
    let with = async |path: &str, key: Option<&str>| {
        let key = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("authorization", key.as_str())).collect();
        server.send("GET", path, &headers, "").await
    };
    assert_eq!(with("/v1/adapters", Some("guest")).await.status, 200);
    assert_eq!(with("/v1/adapters", Some("boss")).await.status, 200);
    assert_eq!(with("/v1/admin/backbone", Some("boss")).await.status, 200);
    let none = with("/v1/adapters", None).await;
    none.assert_problem(401, "unauthenticated", "authorization: Bearer");
    assert_eq!(none.header("www-authenticate"), "Bearer");
    with("/v1/adapters", Some("gues")).await.assert_problem(401, "unauthenticated", "not known");
    with("/v1/admin/backbone", Some("guest")).await.assert_problem(403, "permission_denied", "\"admin\" is wanted");
    assert_eq!(with("/healthz", None).await.status, 200);
}

#[tokio::test]
async fn without_a_key_the_admin_routes_do_not_leave_this_machine() {
    let refused = |listen: &'static str, admin: Option<&'static str>| {
        TestServer::try_with(move |config| {
            config.listen = listen.parse().unwrap();
            config.admin_listen = admin.map(|address| address.parse().unwrap());
        })
    };
    let error = refused("0.0.0.0:0", None).await.err().expect("a refusal");
    assert!(error.message().contains("--admin-key-file") && error.message().contains("--admin-listen"), "{error}");
    assert!(refused("127.0.0.1:0", Some("0.0.0.0:0")).await.is_err());
    assert!(refused("0.0.0.0:0", Some("127.0.0.1:0")).await.is_ok());
    let server = TestServer::start().await;
    let foreign = [("origin", "https://example.org")];
    let answer = server.send("GET", "/v1/admin/backbone", &foreign, "").await;
    answer.assert_problem(403, "permission_denied", "origin");
}

#[tokio::test]
async fn an_admin_listener_takes_the_admin_routes_with_it() {
    let server = TestServer::with(|config| config.admin_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    server.get("/v1/admin/backbone").await.assert_problem(404, "not_found", "/v1/admin/backbone");
    assert_eq!(server.send_admin("GET", "/v1/admin/backbone").await.success()["name"], "tiny");
    assert_eq!(server.send_admin("GET", "/metrics").await.status, 200);
    server.send_admin("POST", "/v1/ner").await.assert_problem(404, "not_found", "/v1/ner");
}

#[tokio::test]
async fn an_adapter_goes_through_its_life() {
    let server = TestServer::start().await;
    let archive = server.get("/v1/admin/adapters/places/download").await;
    assert_eq!(archive.header("content-type"), "application/x-tar");
    let put = async |path: &str, body: &[u8]| server.send("PUT", path, &[], body.to_vec()).await;
    let published = put("/v1/admin/adapters/copy", &archive.body).await;
    assert_eq!(published.status, 201, "{}", published.text());
    assert_eq!(keys(&published.json()), ["active", "digest", "name", "version"]);
    let staged = put("/v1/admin/adapters/copy?activate=false", &archive.body).await.success();
    assert_eq!((&staged["version"], &staged["active"]), (&json!(2), &json!(false)));
    let view = server.get("/v1/adapters/copy").await.success();
    assert_eq!((&view["active_version"], &view["family"]), (&json!(1), &json!("ner")));
    assert_eq!(view["versions"][0]["state"], "resident");
    assert!(view["versions"][0]["created_at"].as_str().unwrap().ends_with('Z'), "{view}");
    let view = server.post("/v1/admin/adapters/copy/activate", json!({"version": 2})).await.success();
    assert_eq!(view["active_version"], 2);
    for (verb, key, wanted) in [("pin", "pinned", json!(true)), ("unpin", "pinned", json!(false))] {
        assert_eq!(server.post(&format!("/v1/admin/adapters/copy/{verb}"), json!({})).await.success()[key], wanted);
    }
    for (verb, state) in [("unload", "registered"), ("load", "resident")] {
        let view = server.post(&format!("/v1/admin/adapters/copy/{verb}?version=1"), json!({})).await.success();
        assert_eq!(view["versions"][0]["state"], state);
    }
    let split = json!({"targets": [{"adapter": "copy@1", "weight": 9}, {"adapter": "copy@2"}], "shadow": "places"});
    let alias = put("/v1/admin/aliases/mix", split.to_string().as_bytes()).await.success();
    assert_eq!((&alias["targets"][1]["weight"], &alias["shadow"]), (&json!(1), &json!("places")));
    assert_eq!(
        server.post("/v1/ner", json!({"inputs": "a", "adapter": "mix"})).await.success()["adapter"]["name"],
        "copy"
    );
    assert_eq!(server.get("/v1/admin/aliases/mix").await.success(), alias);
    assert_eq!(server.send("DELETE", "/v1/admin/aliases/mix", &[], "").await.success()["deleted"], true);
    server.get("/v1/admin/aliases/mix").await.assert_problem(404, "not_found", "no alias mix");
    let gone = server.send("DELETE", "/v1/admin/adapters/copy", &[], "").await.success();
    assert_eq!(gone, json!({"name": "copy", "deleted": true}));
    server.get("/v1/adapters/copy").await.assert_problem(404, "adapter_not_found", "copy");
}

#[tokio::test]
async fn an_upload_may_be_a_form_and_a_bad_one_is_refused_whole() {
    let server = TestServer::start().await;
    let archive = server.get("/v1/admin/adapters/topics/download").await.body;
    let form = form_of(&archive);
    let multipart = [("content-type", "multipart/form-data; boundary=cut")];
    let published = server.send("PUT", "/v1/admin/adapters/form", &multipart, form).await.success();
    let digest = server.get("/v1/adapters/topics").await.success()["versions"][0]["digest"].clone();
    assert_eq!(published["digest"], digest, "the same files make the same version");
    let garbage = server.send("PUT", "/v1/admin/adapters/bad", &[], "not an archive").await;
    assert_eq!(garbage.status, 422, "{}", garbage.text());
    let family = server.send("PUT", "/v1/admin/adapters/bad?family=x", &[], archive).await;
    family.assert_problem(400, "invalid_request", "family");
    server.get("/v1/adapters/bad").await.assert_problem(404, "adapter_not_found", "bad");
}

/// An archive's files as a form.
fn form_of(archive: &[u8]) -> Vec<u8> {
    let mut form = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let head = format!("--cut\r\ncontent-disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n");
        form.extend_from_slice(head.as_bytes());
        entry.read_to_end(&mut form).unwrap();
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--cut--\r\n");
    form
}

#[tokio::test]
async fn a_dataset_upload_is_answered_with_the_doctors_report() {
    let server = TestServer::start().await;
    let put = async |path: &str, rows: &str| server.send("PUT", path, &[], rows.to_owned()).await;
    let answer = put("/v1/admin/datasets/mail?family=classify&split=train", &rows(8)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let report = answer.json();
    assert_eq!((&report["rows"], &report["labels"]["spam"]), (&json!(8), &json!(4)), "{report}");
    assert_eq!((&report["name"], &report["split"], &report["version"]), (&json!("mail"), &json!("train"), &json!(1)));
    assert!(report["warnings"].is_array() && report["errors"].as_array().unwrap().is_empty());
    let dataset = server.get("/v1/admin/datasets/mail").await.success();
    assert_eq!((&dataset["family"], &dataset["splits"][0]["rows"]), (&json!("classify"), &json!(8)));
    let bad = put("/v1/admin/datasets/bad?family=ner", "{\"tokens\": [\"a\"], \"tags\": []}\n").await;
    bad.assert_problem(422, "unprocessable", "");
    assert!(!bad.json()["problems"].as_array().unwrap().is_empty());
    let error = &bad.json()["report"]["errors"][0];
    assert_eq!(
        (&error["code"], &error["line"], &error["row"]),
        (&json!("tag_scheme"), &json!(1), &json!(1)),
        "{error}"
    );
    put("/v1/admin/datasets/bad", "x").await.assert_problem(400, "invalid_request", "family");
    put("/v1/admin/datasets/bad?family=x", "x").await.assert_problem(400, "invalid_request", "none of ner");
    assert_eq!(server.get("/v1/admin/datasets").await.success()["data"].as_array().unwrap().len(), 1);
    server.send("DELETE", "/v1/admin/datasets/mail", &[], "").await.success();
    server.get("/v1/admin/datasets/mail").await.assert_problem(404, "not_found", "mail");
}

#[tokio::test]
async fn a_dataset_upload_is_read_as_its_caller_says() {
    let server = TestServer::start().await;
    let put = async |query: &str, rows: &str| {
        server.send("PUT", &format!("/v1/admin/datasets/mail?family=classify{query}"), &[], rows.to_owned()).await
    };
    let rows = "Review;Stars\nfine;1\nbad;0\nso so;7\n";
    let query = "&text_column=Review&label_column=2&labels=neg,pos&rename=pos:good&on_error=skip&multi_label=false";
    let answer = put(query, rows).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let report = answer.json();
    assert_eq!((&report["labels"], &report["skipped"]), (&json!({"good": 1, "neg": 1}), &json!(1)), "{report}");
    assert_eq!(report["preview"][0], json!({"line": 2, "row": 1, "text": "fine", "label": "good"}));
    let skipped = &report["warnings"][0];
    assert_eq!((&skipped["row"], &skipped["samples"][0]["line"]), (&json!(3), &json!(4)), "{report}");
    put("&on_error=ignore", rows).await.assert_problem(400, "invalid_request", "on_error");
    put("&columns=word:1,tag:2", rows).await.assert_problem(
        400,
        "invalid_request",
        "columns is for data of family ner",
    );
    put("&colums=word:1,tag:2", rows).await.assert_problem(400, "invalid_request", "colums");
}

fn rows(count: usize) -> String {
    let row = |at: usize| {
        let (label, text) = if at.is_multiple_of(2) { ("spam", "win money") } else { ("ham", "see you") };
        json!({"text": format!("{text} number {at}"), "label": label}).to_string() + "\n"
    };
    (0..count).map(row).collect()
}

#[tokio::test]
async fn a_job_is_created_listed_and_watched_to_its_end() {
    let server = TestServer::start().await;
    server.send("PUT", "/v1/admin/datasets/mail?family=classify&split=train", &[], rows(40)).await.success();
    let spec = json!({
        "kind": "fine_tune", "adapter": "mail", "family": "classify", "data": {"train": "mail:train"},
        "hyperparameters": {"epochs": 1, "batch_size": 8, "layers": "last:1", "max_length": 16},
    });
    let created = server.post("/v1/admin/jobs", spec).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let job = created.json();
    let path = created.header("location").to_owned();
    assert_eq!(path, format!("/v1/admin/jobs/{}", job["id"].as_str().unwrap()));
    assert_eq!((&job["object"], &job["spec"]["hyperparameters"]["batch_size"]), (&json!("job"), &json!(8)));
    let accept = ("accept", "text/event-stream");
    let stream = server.send("GET", &format!("{path}/events"), &[accept], "").await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let events = data_of(&stream.text());
    let ids: Vec<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    assert_eq!(server.get(&path).await.success()["status"], "succeeded", "{}", stream.text());
    let timed = |route: &str| {
        server.metric(&format!("trunkline_request_duration_seconds_count{{route=\"/v1/admin/{route}\"}}"))
    };
    assert_eq!(
        (timed("jobs/{id}/events"), timed("datasets/{name}")),
        (0.0, 0.0),
        "neither streams nor uploads are timed"
    );
    let list = server.get(&format!("{path}/events?after=1&limit=2")).await.success();
    assert_eq!((&list["data"], &list["has_more"]), (&json!(events[1..3]), &json!(true)));
    let resumed = server.send("GET", &format!("{path}/events"), &[accept, ("last-event-id", "2")], "").await;
    assert_eq!(data_of(&resumed.text()), events[2..]);
    let last = ids.len().to_string();
    let over = server.send("GET", &format!("{path}/events"), &[accept, ("last-event-id", &last)], "").await;
    assert_eq!(over.status, 204);
    assert!(server.get(&format!("{path}/report")).await.success().is_object());
    assert_eq!(server.get("/v1/admin/jobs").await.success()["data"][0]["id"], job["id"]);
    server.post(&format!("{path}/cancel"), json!({})).await.assert_problem(409, "conflict", "");
    let asked = json!({"inputs": "win money", "adapter": "mail"});
    assert_eq!(server.post("/v1/classify", asked).await.success()["adapter"]["version"], 1);
}

/// The `data:` of each event.
fn data_of(stream: &str) -> Vec<Value> {
    stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).unwrap())
        .collect()
}

#[tokio::test]
async fn backbones_are_shown_loaded_switched_and_retired_and_answers_name_theirs() {
    let server = TestServer::start().await;
    let change = async |what: &str, backbone: &str| {
        server.post(&format!("/v1/admin/backbone/{what}"), json!({"backbone": backbone})).await
    };
    let shown = server.get("/v1/admin/backbone").await.success();
    assert_eq!((&shown["name"], &shown["layers"], &shown["is_active"]), (&json!("tiny"), &json!(3), &json!(true)));
    assert_eq!((&shown["adapters"], &shown["available"][1]), (&json!(["places@1", "topics@1"]), &json!("moved")));
    assert!(shown["bytes"].as_u64().unwrap() > 0);
    assert_eq!(change("activate", "tiny").await.success()["resident"].as_array().unwrap().len(), 1);
    change("activate", "nowhere").await.assert_problem(404, "not_found", "nowhere");
    change("retire", "tiny").await.assert_problem(409, "conflict", "activate another before");
    assert_eq!(change("load", "moved").await.success()["name"], "tiny");
    let switched = change("activate", "moved").await.success();
    assert_eq!((&switched["name"], &switched["resident"][0]["name"]), (&json!("moved"), &json!("tiny")));
    let found = server.post("/v1/ner", json!({"inputs": TEXT, "adapter": "places"})).await.success();
    assert_eq!(found["adapter"]["backbone"], json!({"name": "tiny", "fingerprint": shown["fingerprint"]}));
    let embedded = server.post("/v1/embed", json!({"inputs": TEXT})).await.success();
    assert_eq!(embedded["backbone"], json!({"name": "moved", "fingerprint": switched["fingerprint"]}));
    let analyzed = server.post("/v1/analyze", json!({"inputs": TEXT, "adapters": ["topics"]})).await.success();
    assert_eq!(analyzed["adapters"]["topics"]["backbone"]["name"], "tiny");
    change("retire", "tiny").await.success();
    let gone = server.post("/v1/ner", json!({"inputs": TEXT, "adapter": "places"})).await;
    gone.assert_problem(409, "conflict", shown["fingerprint"].as_str().unwrap());
    change("activate", "tiny").await.success();
    server.post("/v1/ner", json!({"inputs": TEXT, "adapter": "places"})).await.success();
}

#[tokio::test]
async fn ready_means_that_the_encoder_answers_and_nothing_drains() {
    let server = TestServer::start().await;
    server.get("/readyz").await.success();
    server.health.set_engine_answers(false);
    let answer = server.get("/readyz").await;
    answer.assert_problem(503, "unavailable", "encoder");
    assert_eq!(answer.header("retry-after"), "1");
    server.health.set_engine_answers(true);
    server.health.start_draining();
    server.get("/readyz").await.assert_problem(503, "unavailable", "draining");
    server.get("/healthz").await.success();
}

#[tokio::test]
async fn the_pages_ask_nothing_of_the_outside_network() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/openapi.json").await.text(), trunkline::transport::openapi_json());
    for path in ["/", "/console.js", "/console.css", "/docs/", "/docs/swagger-initializer.js"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        for outside in ["http://", "https://", "src=\"//"] {
            assert!(!answer.text().contains(outside), "{path} names {outside}");
        }
    }
    assert!(server.get("/").await.header("content-security-policy").contains("default-src 'self'"));
    let initializer = server.get("/docs/swagger-initializer.js").await.text();
    assert!(
        initializer.contains("/openapi.json") && initializer.contains("\"validatorUrl\": \"none\""),
        "{initializer}"
    );
}

#[tokio::test]
async fn a_connection_that_says_too_little_is_closed() {
    let server = TestServer::with(|config| config.header_timeout = Duration::from_millis(200)).await;
    for opening in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: x\r\nx-"] {
        let address = server.address;
        let closed = tokio::task::spawn_blocking(move || closed_after(address, opening)).await.unwrap();
        assert!(closed < Duration::from_secs(5), "{opening:?} held its connection for {closed:?}");
    }
    server.get("/healthz").await.success();
}

/// How long the server lets a connection be that sends `opening` and falls silent.
fn closed_after(address: SocketAddr, opening: &str) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(opening.as_bytes()).unwrap();
    let start = Instant::now();
    let _reset_or_end = stream.read_to_end(&mut Vec::new());
    start.elapsed()
}

#[tokio::test]
async fn at_the_bound_of_connections_the_oldest_makes_room_for_a_new_one() {
    let server = TestServer::with(|config| config.connections_max = 2).await;
    let address = server.address;
    let ended = tokio::task::spawn_blocking(move || {
        let mut open: Vec<_> = (0..2).map(|_| asked(address)).collect();
        let _newest = asked(address);
        open.iter_mut().map(is_ended).collect::<Vec<_>>()
    });
    assert_eq!(ended.await.unwrap(), [true, false]);
}

/// A connection on which one request was answered, which took no idle connection's time-out.
fn asked(address: SocketAddr) -> TcpStream {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0, "closed without an answer");
    assert!(start.elapsed() < Duration::from_secs(5), "answered after {:?}", start.elapsed());
    stream
}

fn is_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    matches!(stream.read(&mut [0; 4096]), Ok(0))
}

#[tokio::test]
async fn a_burst_of_connections_fits_in_the_kernels_queue() {
    let server = TestServer::start().await;
    let address = server.address;
    // This thread is the server's only one: nothing is accepted meanwhile. A dropped packet would be sent again after a second.
    let start = Instant::now();
    let burst: Vec<_> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(start.elapsed() < Duration::from_millis(900), "{} connections took {:?}", burst.len(), start.elapsed());
}

#[tokio::test]
async fn shutting_down_ends_idle_connections_and_cuts_those_that_outstay_the_deadline() {
    let server = TestServer::start().await;
    server.get("/healthz").await.success();
    let address = server.address;
    assert!(server.shut_down(Duration::from_secs(10)).await, "an idle connection kept the server");
    assert!(TcpStream::connect(address).is_err());

    let server = TestServer::start().await;
    let mut stalled = TcpStream::connect(server.address).unwrap();
    stalled
        .write_all(b"POST /v1/ner HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        .unwrap();
    let stalled = tokio::task::spawn_blocking(move || {
        let mut first = [0; 12];
        stalled.read_exact(&mut first).unwrap();
        stalled
    });
    let _under_way = stalled.await.unwrap();
    assert!(!server.shut_down(Duration::from_millis(100)).await, "a request without its body was answered");
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
