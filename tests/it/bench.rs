//! `trunkline bench`, the real binary, against a real server.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::TestServer;

/// Runs the bench beside the server that this test's runtime serves.
async fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.args(["bench", "--log", "warn"]).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn count(stage: &Value, key: &str) -> u64 {
    stage[key].as_u64().unwrap_or_else(|| panic!("no count {key} in {stage}"))
}

fn rate(stage: &Value) -> f64 {
    stage["rate"].as_f64().unwrap_or_else(|| panic!("no rate in {stage}"))
}

/// Of `value` and all that is in it.
fn keys(value: &Value) -> Vec<String> {
    let within = |values: Vec<&Value>| values.into_iter().flat_map(keys).collect::<Vec<_>>();
    match value {
        Value::Object(fields) => [fields.keys().cloned().collect(), within(fields.values().collect())].concat(),
        Value::Array(items) => within(items.iter().collect()),
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_once_by_client_and_server() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (json, svg) = (folder.path().join("report.json"), folder.path().join("latency.svg"));
    let url = format!("http://{}", server.address);
    let output = bench(&[
        "--url",
        &url,
        "--family",
        "ner",
        "--adapters",
        "places,places@1",
        "--words",
        "4",
        "--rate",
        "50,100",
        "--seconds",
        "0.4",
        "--warm-up",
        "0",
        "--json",
        json.to_str().unwrap(),
        "--svg",
        svg.to_str().unwrap(),
    ])
    .await;
    assert!(output.status.success(), "{}", said(&output));

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&report["object"], &report["schema"]), (&"trunkline.bench".into(), &1.into()));
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.iter().map(rate).collect::<Vec<_>>(), [50.0, 100.0]);
    for stage in stages {
        let ends: u64 = ["accepted", "refused", "expired", "failed"].iter().map(|end| count(stage, end)).sum();
        assert_eq!(count(stage, "offered"), ends, "{stage}");
        assert!(count(stage, "accepted") > 0 && count(stage, "failed") == 0, "{stage}");
        assert!(stage["tokens_per_sequence"].as_f64().unwrap() >= 4.0, "{stage}");
        let latency = |key: &str| stage["latency_ms"][key].as_f64().unwrap();
        assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{stage}");
        assert!(stage["server_ms"]["total"].as_f64().unwrap() <= latency("max"), "{stage}");
    }
    let help = String::from_utf8(bench(&["--help"]).await.stdout).unwrap();
    let words: Vec<&str> = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    keys(&report).iter().for_each(|key| assert!(words.contains(&key.as_str()), "--help says nothing of {key}"));
    // No warm-up, so the server saw what was offered, and a probe of each adapter.
    let seen = server.metric("trunkline_requests_total{adapter=\"places\",code=\"ok\",route=\"/v1/ner\"}") as u64;
    assert_eq!(seen, 2 + stages.iter().map(|stage| count(stage, "accepted")).sum::<u64>());
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert_eq!(drawn.matches("<polyline").count(), stages.len());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("goodput/s") && table.contains("open, 100.0/s"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_of_the_capacity_that_a_closed_loop_finds() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let url = format!("http://{}", server.address);
    let load = ["--load", "0.25,0.5", "--clients", "2", "--seconds", "0.4", "--warm-up", "0"];
    let output = bench(&[&["--url", &url, "--json", json.to_str().unwrap()][..], &load].concat()).await;
    if !output.status.success() {
        // A machine too busy for a single answer in this time has no capacity to take shares of.
        assert!(said(&output).contains("no capacity"), "{}", said(&output));
        return;
    }
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let [closed, quarter, half] = &report["stages"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&closed["loop"], &closed["clients"]), (&"closed".into(), &2.into()));
    assert_eq!(report["capacity_per_second"], closed["answers_per_second"]);
    let capacity = closed["answers_per_second"].as_f64().unwrap();
    for (stage, share) in [(quarter, 0.25), (half, 0.5)] {
        assert!((rate(stage) - share * capacity).abs() < 1e-6 * capacity, "{stage}");
    }
    assert_eq!(count(closed, "offered"), count(closed, "accepted"), "two clients are never too many: {closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_is_not_there_is_named_before_the_load() {
    let server = TestServer::start().await;
    let url = format!("http://{}", server.address);
    let output = bench(&["--url", &url, "--adapters", "topics,topix"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("topix") && said(&output).contains("404"), "{}", said(&output));
    let wrong_family = bench(&["--url", &url, "--adapters", "places"]).await;
    assert!(said(&wrong_family).contains("409"), "{}", said(&wrong_family));
    // One probe of topics; nothing more was sent.
    assert_eq!(server.metric("trunkline_requests_total{adapter=\"topics\",code=\"ok\",route=\"/v1/classify\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_ends_with_2_and_no_server_with_1() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}");
    for (arguments, code, wanted) in [
        (&["--rate", "0"][..], 2, "over 0"),
        (&["--rate", "5,x"], 2, "--rate"),
        (&["--rate", "5", "--load", "1"], 2, "cannot be used with"),
        (&["--zipf", "-1"], 2, "--zipf"),
        (&["--seconds", "4000"], 2, "at most 3600"),
        (&["--clients", "9", "--connections", "8"], 2, "--connections 8"),
        (&["--family", "poem"], 2, "poem"),
        (&["--texts", "/no/such/file"], 2, "/no/such/file"),
        (&["--json", "/no/such/folder/report.json"], 2, "/no/such/folder"),
        (&["--url", "https://127.0.0.1"], 2, "http://HOST:PORT"),
        (&["--url", "http://192.0.2.1:80"], 2, "--allow-remote"),
        (&["--url", &nobody], 1, "no server at"),
    ] {
        let output = bench(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(wanted), "{arguments:?}: {}", said(&output));
    }
}
