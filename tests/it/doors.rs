//! Who gets in and who is told what: keys, requests of this machine, bodies and messages that are none.

use std::io::Write as _;

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use trunkline::transport::proto;

use crate::client::AdminClient;
use crate::support::TestServer;

#[tokio::test]
async fn without_a_key_a_forwarded_request_is_not_local() {
    let server = TestServer::start().await;
    for (name, value) in [
        ("forwarded", "for=203.0.113.9"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "trunk.example"),
        ("x-real-ip", "203.0.113.9"),
        ("via", "1.1 proxy"),
    ] {
        let answer = server.send("GET", "/v1/admin/jobs", &[(name, value)], "").await;
        answer.assert_problem(403, "permission_denied", &format!("the header {name} says"));
    }
    for (name, value) in [("host", "evil@127.0.0.1"), ("host", "127.0.0.1.nip.io"), ("sec-fetch-site", "cross-site")] {
        let answer = server.send("GET", "/v1/admin/jobs", &[(name, value)], "").await;
        answer.assert_problem(403, "permission_denied", "of this machine alone");
    }
    assert_eq!(server.send("GET", "/v1/adapters", &[("via", "1.1 proxy")], "").await.status, 200);
    let mut client = AdminClient::new(server.grpc().await);
    client.get_backbone(proto::GetBackboneRequest {}).await.unwrap();
    let mut forwarded = Request::new(proto::GetBackboneRequest {});
    forwarded.metadata_mut().insert("x-forwarded-for", MetadataValue::from_static("203.0.113.9"));
    let status = client.get_backbone(forwarded).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("x-forwarded-for"), "{status}");
}

#[tokio::test]
async fn behind_a_proxy_a_key_is_enough() {
    let server = TestServer::with(|config| config.admin_key = Some("boss".to_owned())).await;
    let headers = [("authorization", "Bearer boss"), ("via", "1.1 proxy"), ("host", "trunk.example")];
    assert_eq!(server.send("GET", "/v1/admin/jobs", &headers, "").await.status, 200);
}

#[tokio::test]
async fn no_header_makes_another_method_of_a_request() {
    let server = TestServer::start().await;
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let answer = server.send("GET", "/v1/admin/aliases/default-ner", &[(name, "DELETE")], "").await;
        assert_eq!(answer.success()["alias"], "default-ner");
        let answer = server.send("POST", "/v1/admin/aliases/default-ner?_method=DELETE", &[(name, "DELETE")], "").await;
        assert_eq!(answer.status, 405);
    }
    assert_eq!(server.get("/v1/admin/aliases/default-ner").await.status, 200);
}

#[tokio::test]
async fn metrics_want_the_inference_key_unless_they_are_public() {
    let asked = async |public: bool, infer: bool| {
        let server = TestServer::with(|config| {
            config.admin_key = Some("boss".to_owned());
            config.infer_key = infer.then(|| "guest".to_owned());
            config.metrics_public = public;
            config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
        })
        .await;
        let with =
            async |key: &str| server.send("GET", "/metrics", &[("authorization", key)], "").await.status.as_u16();
        let without = server.get("/metrics").await.status.as_u16();
        let beside = server.send_admin("GET", "/metrics").await.status.as_u16();
        [without, beside, with("Bearer guest").await, with("Bearer boss").await]
    };
    assert_eq!(asked(false, true).await, [401, 401, 200, 200]);
    assert_eq!(asked(true, true).await, [200; 4]);
    assert_eq!(asked(false, false).await, [200; 4]);
}

#[tokio::test]
async fn an_address_that_others_reach_wants_an_inference_key_or_a_word() {
    let started = async |listen: &'static str, key: bool, anonymous: bool| {
        let server = TestServer::try_with(|config| {
            config.listen = listen.parse().unwrap();
            config.admin_key = Some("boss".to_owned());
            config.infer_key = key.then(|| "guest".to_owned());
            config.allow_anonymous = anonymous;
        });
        server.await.map(|_| ()).map_err(|error| error.message().to_owned())
    };
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let refusal = started(listen, false, false).await.unwrap_err();
        for way in ["--infer-key-file", "TRUNKLINE_INFER_KEY", "--listen 127.0.0.1", "--allow-anonymous"] {
            assert!(refusal.contains(way), "{refusal}");
        }
    }
    assert_eq!(started("0.0.0.0:0", true, false).await, Ok(()));
    assert_eq!(started("0.0.0.0:0", false, true).await, Ok(()));
    assert_eq!(started("127.0.0.1:0", false, false).await, Ok(()));
}

#[tokio::test]
async fn an_array_is_no_object_and_a_field_is_there_once() {
    let server = TestServer::start().await;
    for (method, path, body, wanted) in [
        ("POST", "/v1/ner", r#"["Meet Anna", null, null]"#, "expected an object"),
        ("POST", "/v1/embed", r#"["x", null, [null, null]]"#, "expected an object"),
        ("POST", "/v1/ner", r#"{"inputs": "x", "parameters": ["simple"]}"#, "parameters: invalid type: sequence"),
        (
            "POST",
            "/v1/classify",
            r#"{"inputs": [["a"], ["b"]], "parameters": [1]}"#,
            "parameters: invalid type: sequence",
        ),
        (
            "POST",
            "/v1/classify",
            r#"{"inputs": ["a", {"text": ["a"], "text_pair": "b"}]}"#,
            "inputs[1].text: invalid type",
        ),
        ("POST", "/v1/analyze", r#"["x", ["places"], null]"#, "expected an object"),
        (
            "POST",
            "/v1/analyze",
            r#"{"inputs": "x", "adapters": ["places"], "parameters": {"ner": []}}"#,
            "parameters.ner: ",
        ),
        ("PUT", "/v1/admin/aliases/zz", r#"[[["places", 3]], null]"#, "expected an object"),
        ("PUT", "/v1/admin/aliases/zz", r#"{"targets": [["places", 3]]}"#, "targets[0]: invalid type: sequence"),
        ("POST", "/v1/admin/adapters/places/activate", "[1]", "expected an object"),
        ("POST", "/v1/admin/backbone/activate", r#"["tiny"]"#, "expected an object"),
        ("POST", "/v1/admin/jobs", r#"["fine_tune"]"#, "a job is a JSON object"),
        ("POST", "/v1/admin/jobs", r#"{"kind": "fine_tune", "kind": "pre_finetune"}"#, "\"kind\" is there twice"),
        ("POST", "/v1/ner", r#"{"inputs": "a", "inputs": "b"}"#, "\"inputs\" is there twice"),
        (
            "POST",
            "/v1/ner",
            r#"{"inputs": "a", "parameters": {"offset_unit": {"char": null}}}"#,
            "parameters.offset_unit: ",
        ),
    ] {
        let answer = server.send(method, path, &[("content-type", "application/json")], body).await;
        answer.assert_problem(400, "invalid_request", wanted);
    }
}

#[tokio::test]
async fn an_alias_of_an_alias_is_a_conflict_with_what_is_there() {
    let server = TestServer::start().await;
    let spec = r#"{"targets": [{"adapter": "places"}], "shadow": "default-ner"}"#;
    server.send("PUT", "/v1/admin/aliases/zz", &[], spec).await.assert_problem(409, "conflict", "is itself an alias");
}

#[tokio::test]
async fn a_content_encoding_that_is_not_taken_is_said() {
    let server = TestServer::start().await;
    let json = r#"{"inputs": "x"}"#;
    for (method, path, encoding, status) in [
        ("POST", "/v1/ner", "gzip", 400),
        ("POST", "/v1/ner", "br", 415),
        ("POST", "/v1/ner", "identity", 200),
        ("PUT", "/v1/admin/aliases/zz", "deflate", 415),
        ("POST", "/v1/admin/jobs", "zstd", 415),
        ("PUT", "/v1/admin/datasets/d?family=ner", "br", 415),
        ("PUT", "/v1/admin/datasets/d?family=ner", "gzip, gzip", 415),
        ("PUT", "/v1/admin/datasets/d?family=ner", "gzip", 422),
        ("PUT", "/v1/admin/adapters/d", "zstd", 415),
        ("PUT", "/v1/admin/adapters/d", "x-gzip", 422),
    ] {
        let answer = server.send(method, path, &[("content-encoding", encoding)], json).await;
        assert_eq!(answer.status, status, "{path} {encoding}: {}", answer.text());
        if status == 415 {
            answer.assert_problem(415, "unsupported_encoding", "content-encoding");
            assert!(answer.header("accept-encoding").contains("gzip"), "{path} {encoding}");
        }
    }
}

#[tokio::test]
async fn json_is_read_packed_and_with_a_byte_order_mark() {
    let server = TestServer::start().await;
    let json = r#"{"inputs": "Meet Anna"}"#;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(json.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let plain = server.send("POST", "/v1/ner", &[], json).await.success()["results"].clone();
    for (encoding, body) in [("gzip", packed.clone()), ("X-GZIP", packed), ("", format!("\u{feff}{json}").into_bytes())]
    {
        let answer = server.send("POST", "/v1/ner", &[("content-encoding", encoding)], body).await;
        assert_eq!(answer.success()["results"], plain, "{encoding:?}");
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&vec![b' '; 8 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    let answer = server.send("POST", "/v1/ner", &[("content-encoding", "gzip")], bomb).await;
    answer.assert_problem(413, "payload_too_large", "unpacks to more");
}

#[tokio::test]
async fn a_trailing_slash_makes_no_other_route() {
    let server = TestServer::start().await;
    for path in [
        "/healthz/",
        "/v1/adapters/",
        "/v1/adapters/places/",
        "/v1/adapters//",
        "/v1/admin/jobs/?limit=1",
        "/",
        "/docs/",
    ] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    assert_eq!(server.send("POST", "/v1/ner/", &[], r#"{"inputs": "x"}"#).await.status, 200);
    assert_eq!(server.get("/v1/nobody/").await.status, 404);
}

#[tokio::test]
async fn a_failure_is_short_whatever_it_quotes() {
    let server = TestServer::start().await;
    let long = "語".repeat(300_000);
    let bodies = [
        json!({"inputs": "x", "adapter": long}),
        json!({"inputs": "x", "parameters": {"offset_unit": long}}),
        json!({"inputs": "x", long.as_str(): 1}),
        json!({"inputs": "x", "parameters": {long.as_str(): 1}}),
    ];
    let mut answers = Vec::new();
    for body in bodies {
        answers.push(server.post("/v1/ner", body).await);
    }
    answers.push(server.get(&format!("/{}", "x".repeat(20_000))).await);
    answers.push(server.get(&format!("/v1/adapters/{}", "x".repeat(20_000))).await);
    answers.push(server.get(&format!("/v1/admin/jobs?{}=1", "x".repeat(20_000))).await);
    for answer in answers {
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(answer.status.is_client_error() && detail.len() <= 1000, "{}: {detail}", answer.status);
        assert!(detail.contains('…'), "{detail}");
    }
}

/// One message as gRPC frames it.
fn framed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    [&[flag], &u32::try_from(length).unwrap().to_be_bytes()[..], message].concat()
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    let server = TestServer::start().await;
    let whole = |message: &[u8]| framed(0, message.len(), message);
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("a length past the end", whole(b"\x0a\xff")),
        ("a string that is not UTF-8", whole(b"\x12\x02\xff\xfe")),
        ("a wrong wire type", whole(b"\x0f\x01\x02")),
        ("a field number of 0", whole(b"\x02\x00")),
        ("a compressed flag without an encoding", framed(1, 2, b"\x0a\x00")),
        ("a flag that means nothing", framed(7, 2, b"\x0a\x00")),
        ("a frame cut short", framed(0, 100, b"\x0a\x00")),
        ("a header cut short", vec![0, 0, 0]),
        ("garbage after a message", [whole(b""), vec![9; 9]].concat()),
    ];
    let methods = [
        "Inference/Ner",
        "Inference/Embed",
        "Admin/PutAlias",
        "Admin/GetBackbone",
        "Inference/NerStream",
        "Inference/ClassifyStream",
    ];
    let mut asked = std::collections::BTreeMap::new();
    for method in methods {
        let path = format!("/trunkline.v1.{method}");
        for (what, body) in &bodies {
            if *what == "a string that is not UTF-8" && method == "Admin/GetBackbone" {
                continue; // it has no strings
            }
            let answer = server.send_grpc(&path, &[], Bytes::from(body.clone())).await;
            let said = answer.headers.get("grpc-message").map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(answer.header("grpc-status"), "3", "{method}, {what}: {said:?}");
            // Of a stream the message before the garbage is a request of its own, and an empty one is invalid too.
            let counted = if *what == "garbage after a message" && method.ends_with("Stream") { 2.0 } else { 1.0 };
            *asked.entry(path.clone()).or_insert(0.0) += counted;
        }
        let answer = server.send_grpc(&path, &[("grpc-encoding", "gzip")], whole(b"")).await;
        assert_eq!(answer.header("grpc-status"), "12", "{method} with an encoding that is not known");
        let counted = |code: &str| {
            server.metric(&format!("trunkline_requests_total{{adapter=\"\",code=\"{code}\",route=\"{path}\"}}"))
        };
        assert_eq!(counted("invalid_request"), asked[&path], "{method}");
        assert_eq!((counted("unsupported_encoding"), counted("internal")), (1.0, 0.0), "{method}");
    }
    let missing = server.send_grpc("/trunkline.v1.Inference/Ner", &[], Bytes::new()).await;
    assert_eq!(missing.header("grpc-status"), "3", "a call without a message");
    let large = server.send_grpc("/trunkline.v1.Inference/Ner", &[], framed(0, 3 << 20, b"\x0a")).await;
    assert_eq!(large.header("grpc-status"), "3", "a message over the limit");
    let garbage = server.send_grpc("/grpc.health.v1.Health/Check", &[], whole(b"\x0a\xff")).await;
    assert_eq!(garbage.header("grpc-status"), "3", "health reads messages too");
    let longest = server.send_grpc(&format!("/nobody.v1.Here/{}", "x".repeat(10_000)), &[], whole(b"")).await;
    assert_eq!(longest.header("grpc-status"), "12");
    assert!(longest.header("grpc-message").len() < 3100);
}
