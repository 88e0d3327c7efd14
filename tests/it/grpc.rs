//! The gRPC contract, by a real client on the same port as REST.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt;
use trunkline::domain::HeadForm;
use trunkline::transport::proto;
use trunkline::transport::proto::input::Kind;
use trunkline::transport::proto::ner_stream_response::Outcome;
use trunkline::transport::proto::{adapter_result, classify_stream_response};

use crate::client::{AdminClient, InferenceClient};
use crate::inference::world::{drawn_primary, encoder};
use crate::support::TestServer;

fn text(text: &str) -> proto::Input {
    proto::Input { kind: Some(Kind::Text(text.to_owned())) }
}

fn ner(adapter: &str, texts: &[&str]) -> proto::NerRequest {
    let inputs = texts.iter().map(|t| text(t)).collect();
    proto::NerRequest { inputs, adapter: Some(adapter.to_owned()), parameters: None }
}

/// The contract's code of a status.
fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_unary_answer_is_rests_answer() {
    let server = TestServer::start().await;
    let mut client = InferenceClient::new(server.grpc().await);
    let parameters = proto::NerParameters {
        aggregation_strategy: Some("none".to_owned()),
        offset_unit: Some("utf16".to_owned()),
        ignore_labels: Some(proto::StringList::default()),
        ..Default::default()
    };
    let request = proto::NerRequest { parameters: Some(parameters), ..ner("places", &["🦀 Meet Anna"]) };
    let answer = client.ner(request).await.unwrap();
    assert!(answer.metadata().get("x-request-id").unwrap().to_str().unwrap().starts_with("req_"));
    assert!(answer.metadata().contains_key("server-timing"));
    let answer = answer.into_inner();
    let parameters = json!({"aggregation_strategy": "none", "offset_unit": "utf16", "ignore_labels": []});
    let asked = json!({"inputs": "🦀 Meet Anna", "adapter": "places", "parameters": parameters});
    let rest = server.post("/v1/ner", asked).await.success();
    assert_eq!((answer.offset_unit.as_str(), answer.adapter.unwrap().version), ("utf16", 1));
    let entities = &answer.results[0].entities;
    assert!(!entities.is_empty());
    for (grpc, rest) in entities.iter().zip(rest["results"][0]["entities"].as_array().unwrap()) {
        let same = |key: &str, value: Value| assert_eq!(rest[key], value, "{key}");
        same("entity", json!(grpc.entity));
        same("word", json!(grpc.word));
        same("start", json!(grpc.start));
        same("end", json!(grpc.end));
        same("index", json!(grpc.index));
        assert_eq!(rest["score"].as_f64().unwrap() as f32, grpc.score);
    }
    assert_eq!(answer.usage.unwrap().tokens, rest["usage"]["tokens"].as_u64().unwrap());
}

#[tokio::test]
async fn names_that_the_request_brings_are_scored_as_over_rest() {
    let server = TestServer::start().await;
    for (name, form) in [("by-type", HeadForm::Concepts), ("by-class", HeadForm::Similarity)] {
        let files = drawn_primary(form, 5).to_files(&encoder()).unwrap();
        server.world.registry().publish(&name.parse().unwrap(), files, true).await.unwrap();
    }
    let mut client = InferenceClient::new(server.grpc().await);
    let names = ["person", "place_name"];
    let values = || Some(proto::StringList { values: names.map(str::to_owned).to_vec() });
    let parameters =
        proto::NerParameters { threshold: Some(0.01), candidate_labels: values(), ..proto::NerParameters::default() };
    let request = proto::NerRequest { parameters: Some(parameters), ..ner("by-type", &["Meet Anna"]) };
    let found = client.ner(request).await.unwrap().into_inner();
    let asked = json!({"inputs": "Meet Anna", "adapter": "by-type", "parameters": {"threshold": 0.01, "candidate_labels": names}});
    let rest = server.post("/v1/ner", asked).await.success();
    let rest = rest["results"][0]["entities"].as_array().unwrap();
    assert!(!rest.is_empty() && rest.len() == found.results[0].entities.len());
    for (grpc, rest) in found.results[0].entities.iter().zip(rest) {
        assert_eq!(
            (rest["entity_group"].as_str(), rest["start"].as_u64()),
            (grpc.entity_group.as_deref(), Some(u64::from(grpc.start)))
        );
    }
    let template = "About {}.".to_owned();
    let request = proto::ClassifyRequest {
        inputs: vec![text("Meet Anna")],
        adapter: Some("by-class".to_owned()),
        parameters: Some(proto::ClassifyParameters {
            candidate_labels: values(),
            hypothesis_template: Some(template.clone()),
            ..Default::default()
        }),
    };
    let chosen = client.classify(request).await.unwrap().into_inner();
    let parameters = json!({"candidate_labels": names, "hypothesis_template": template});
    let asked = json!({"inputs": "Meet Anna", "adapter": "by-class", "parameters": parameters});
    let rest = server.post("/v1/classify", asked).await.success();
    for (at, label) in chosen.results[0].labels.iter().enumerate() {
        let wanted = &rest["results"][0]["labels"][at];
        assert_eq!(wanted["label"], label.label);
        assert!((wanted["score"].as_f64().unwrap() as f32 - label.score).abs() < 1e-5);
    }
    assert_eq!(chosen.adapter.unwrap().backbone.unwrap().name, "tiny");
}

#[tokio::test]
async fn classify_analyze_embed_and_the_list_answer_too() {
    let server = TestServer::start().await;
    let mut client = InferenceClient::new(server.grpc().await);
    let pair = proto::TextPair { text: "a".to_owned(), text_pair: "b".to_owned() };
    let inputs = vec![proto::Input { kind: Some(Kind::Pair(pair)) }];
    let answer = client.classify(proto::ClassifyRequest { inputs, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((answer.results[0].labels.len(), answer.adapter.unwrap().name.as_str()), (3, "topics"));

    let adapters = ["places", "topics", "nobody"].map(str::to_owned).to_vec();
    let request = proto::AnalyzeRequest { inputs: vec![text("a")], adapters, parameters: None };
    let answer = client.analyze(request).await.unwrap().into_inner();
    let kinds = &answer.results[0].by_adapter;
    assert!(matches!(kinds["places"].kind, Some(adapter_result::Kind::Ner(_))));
    assert!(matches!(kinds["topics"].kind, Some(adapter_result::Kind::Classify(_))));
    let Some(adapter_result::Kind::Error(error)) = &kinds["nobody"].kind else { panic!("{:?}", kinds["nobody"]) };
    assert_eq!(error.code, Code::NotFound as i32);

    let request = proto::EmbedRequest { inputs: vec![text("a"), text("b")], ..Default::default() };
    assert_eq!(client.embed(request).await.unwrap().into_inner().embeddings.len(), 2);
    let list = client.list_adapters(proto::ListAdaptersRequest {}).await.unwrap().into_inner();
    let names: Vec<&str> = list.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
    assert_eq!(names, ["places", "topics"]);
}

#[tokio::test]
async fn errors_are_those_of_rest() {
    let server = TestServer::with(|config| config.body_bytes_max = 64 << 10).await;
    let mut client = InferenceClient::new(server.grpc().await);
    let strategy = proto::NerParameters { aggregation_strategy: Some("best".to_owned()), ..Default::default() };
    let table = [
        (ner("places", &[]), Code::InvalidArgument, "invalid_request", "inputs: an empty list"),
        (ner("no name", &["a"]), Code::InvalidArgument, "invalid_request", "adapter: "),
        (ner("plces", &["a"]), Code::NotFound, "adapter_not_found", "places"),
        (ner("topics", &["a"]), Code::FailedPrecondition, "conflict", "topics"),
        (ner("places", &["a"; 513]), Code::InvalidArgument, "payload_too_large", "513"),
        (ner("places", &[&"a ".repeat(64 << 10)]), Code::InvalidArgument, "payload_too_large", "limit"),
        (
            proto::NerRequest { parameters: Some(strategy), ..ner("places", &["a"]) },
            Code::InvalidArgument,
            "invalid_request",
            "parameters.aggregation_strategy: unknown variant `best`",
        ),
        (
            proto::NerRequest { inputs: vec![proto::Input { kind: None }], ..ner("places", &[]) },
            Code::InvalidArgument,
            "invalid_request",
            "inputs[0]: nothing is set",
        ),
    ];
    for (request, code, wanted, message) in table {
        let mut request = Request::new(request);
        request.metadata_mut().insert("x-request-id", MetadataValue::from_static("mine"));
        let status = client.ner(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, wanted), "{status}");
        assert!(status.message().contains(message), "{status}");
        assert_eq!(status.metadata().get("x-request-id").unwrap(), "mine");
    }
    let counted =
        "trunkline_requests_total{adapter=\"topics\",code=\"conflict\",route=\"/trunkline.v1.Inference/Ner\"}";
    assert_eq!(server.metric(counted), 1.0);
}

#[tokio::test]
async fn a_deadline_is_kept() {
    let server = TestServer::start().await;
    let mut client = InferenceClient::new(server.grpc().await);
    let mut request = Request::new(ner("places", &["a"; 400]));
    request.metadata_mut().insert("x-request-timeout-ms", MetadataValue::from_static("1"));
    let status = client.ner(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::ResourceExhausted), "{status}");
    if status.code() == Code::ResourceExhausted {
        assert!(status.get_error_details().retry_info().is_some());
    }
}

#[tokio::test]
async fn a_stream_mixes_adapters_and_goes_on_after_an_error() {
    let server = TestServer::start().await;
    let mut client = InferenceClient::new(server.grpc().await);
    let message = |at: usize| {
        let adapter = if at % 10 == 3 { "nobody" } else { "places" };
        let request = Some(ner(adapter, &["Meet Anna", "in Krakow"][..1 + at % 2]));
        proto::NerStreamRequest { id: at.to_string(), request, timeout_ms: Some(20_000) }
    };
    let answers = client.ner_stream(tokio_stream::iter((0..200).map(message))).await.unwrap().into_inner();
    let answers: Vec<proto::NerStreamResponse> = answers.map(|answer| answer.unwrap()).collect().await;
    let by_id: BTreeMap<usize, Outcome> =
        answers.into_iter().map(|answer| (answer.id.parse().unwrap(), answer.outcome.unwrap())).collect();
    assert_eq!(by_id.len(), 200);
    for (at, outcome) in by_id {
        match outcome {
            Outcome::Error(status) => assert_eq!((at % 10, status.code), (3, Code::NotFound as i32)),
            Outcome::Response(response) => assert_eq!(response.results.len(), 1 + at % 2, "{at}"),
        }
    }
    let route = "route=\"/trunkline.v1.Inference/NerStream\"";
    let count = |adapter: &str, code: &str| {
        server.metric(&format!("trunkline_requests_total{{adapter=\"{adapter}\",code=\"{code}\",{route}}}"))
    };
    assert_eq!((count("places", "ok"), count("other", "adapter_not_found"), count("", "ok")), (180.0, 20.0, 0.0));
    assert_eq!(server.metric(&format!("trunkline_request_duration_seconds_count{{{route}}}")), 0.0, "not timed");
}

#[tokio::test]
async fn a_drain_ends_a_stream_after_what_it_read() {
    let server = TestServer::start().await;
    let mut client = InferenceClient::new(server.grpc().await);
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let outbound = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let first = proto::ClassifyStreamRequest {
        id: "1".to_owned(),
        request: Some(proto::ClassifyRequest { inputs: vec![text("a")], ..Default::default() }),
        timeout_ms: None,
    };
    sender.send(first).await.unwrap();
    let mut answers = client.classify_stream(outbound).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    assert!(matches!(answer.outcome, Some(classify_stream_response::Outcome::Response(_))));
    server.health.start_draining();
    assert!(answers.next().await.is_none(), "the stream ends cleanly though the caller's half is open");
    drop((answers, client));
    assert!(server.shut_down(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_call_whose_client_left_is_counted_as_cancelled() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.grpc().await);
    let mut watch = client.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();
    drop(watch);
    let labels = ["/grpc.health.v1.Health/Watch", "", "cancelled"];
    server.world.until("the count", |metrics| metrics.requests.with_label_values(&labels).get() == 1).await;
}

#[tokio::test]
async fn the_admin_service_mirrors_the_admin_routes() {
    let server = TestServer::start().await;
    let mut client = AdminClient::new(server.grpc().await);
    let name = || "places".to_owned();
    let request = proto::AdapterVersionRequest { name: name(), version: None };
    let archive = client.download_adapter(request).await.unwrap().into_inner().archive;
    let request = proto::PublishAdapterRequest { name: name(), archive, ..Default::default() };
    let published = client.publish_adapter(request).await.unwrap().into_inner();
    assert_eq!((published.version, published.active), (2, true));
    let request = proto::ActivateAdapterRequest { name: name(), version: 1 };
    assert_eq!(client.activate_adapter(request).await.unwrap().into_inner().active_version, Some(1));
    let target = proto::AliasTarget { adapter: "places@2".to_owned(), weight: None };
    let alias = proto::Alias { alias: "new".to_owned(), targets: vec![target], shadow: None };
    assert_eq!(client.put_alias(alias).await.unwrap().into_inner().targets[0].weight, Some(1));
    assert_eq!(client.list_aliases(proto::ListAliasesRequest {}).await.unwrap().into_inner().aliases.len(), 3);

    let data =
        (0..20).map(|at| format!("{{\"text\": \"row {at}\", \"label\": \"l{}\"}}\n", at % 2)).collect::<String>();
    let request = proto::PutDatasetRequest {
        name: "rows".to_owned(),
        family: "classify".to_owned(),
        split: "train".to_owned(),
        data: data.into_bytes(),
        ..Default::default()
    };
    let split = client.put_dataset(request).await.unwrap().into_inner();
    assert_eq!(split.report.unwrap().rows, 20);
    assert_eq!(client.get_backbone(proto::GetBackboneRequest {}).await.unwrap().into_inner().name, "tiny");
    let moved = || "moved".to_owned();
    let loaded = client.load_backbone(proto::LoadBackboneRequest { backbone: moved() }).await.unwrap().into_inner();
    assert_eq!((loaded.name.as_str(), loaded.resident.len()), ("tiny", 2));
    let active = client.activate_backbone(proto::ActivateBackboneRequest { backbone: moved() }).await.unwrap();
    assert_eq!(active.into_inner().name, "moved");
    let status = client.retire_backbone(proto::RetireBackboneRequest { backbone: moved() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "conflict"));
    let status = client.get_job(proto::JobRequest { id: "job_x".to_owned() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "not_found"));
}

#[tokio::test]
async fn a_job_is_watched_to_its_end() {
    let server = TestServer::start().await;
    let mut client = AdminClient::new(server.grpc().await);
    let data =
        (0..40).map(|at| format!("{{\"text\": \"row {at}\", \"label\": \"l{}\"}}\n", at % 2)).collect::<String>();
    server.send("PUT", "/v1/admin/datasets/rows?family=classify", &[], data).await.success();
    let word = |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.to_owned())) };
    let number = |n: f64| prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(n)) };
    let group = |fields: Vec<(&str, prost_types::Value)>| prost_types::Struct {
        fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    let nested = |s| prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(s)) };
    let spec = group(vec![
        ("kind", word("fine_tune")),
        ("adapter", word("rows")),
        ("family", word("classify")),
        ("data", nested(group(vec![("train", word("rows:train"))]))),
        (
            "hyperparameters",
            nested(group(vec![("epochs", number(1.0)), ("batch_size", number(8.0)), ("max_length", number(16.0))])),
        ),
    ]);
    let job = client.create_job(proto::CreateJobRequest { spec: Some(spec) }).await.unwrap().into_inner();
    let watch = proto::WatchJobRequest { id: job.id.clone(), after: 0 };
    let events = client.watch_job(watch).await.unwrap().into_inner();
    let ids: Vec<u64> = events.map(|event| event.unwrap().id).collect().await;
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    let job = client.get_job(proto::JobRequest { id: job.id }).await.unwrap().into_inner();
    assert_eq!(job.status, "succeeded", "{:?}", job.error);
    assert_eq!(job.result.unwrap().adapter, "rows");
    let status = client.watch_job(proto::WatchJobRequest { id: "job_x".to_owned(), after: 0 }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn keys_hold_here_too() {
    let server = TestServer::with(|config| {
        config.admin_key = Some("boss".to_owned());
        config.infer_key = Some("guest".to_owned());
    })
    .await;
    let channel = server.grpc().await;
    let with = |key: &'static str| {
        move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", MetadataValue::from_static(key));
            Ok(request)
        }
    };
    let status = InferenceClient::new(channel.clone()).ner(ner("places", &["a"])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "unauthenticated"));
    let mut guest = InferenceClient::with_interceptor(channel.clone(), with("Bearer guest"));
    guest.ner(ner("places", &["a"])).await.unwrap();
    let mut guest = AdminClient::with_interceptor(channel.clone(), with("Bearer guest"));
    let status = guest.get_backbone(proto::GetBackboneRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let mut boss = AdminClient::with_interceptor(channel, with("Bearer boss"));
    boss.get_backbone(proto::GetBackboneRequest {}).await.unwrap();
}

#[tokio::test]
async fn health_follows_readiness() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.grpc().await);
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watch = client.watch(request("trunkline.v1.Inference")).await.unwrap().into_inner();
    // The reporter may still be on its way to its first word.
    while watch.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    server.health.set_engine_answers(false);
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(client.check(request("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    assert_eq!(client.check(request("nothing")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services_and_describes_them() {
    let server = TestServer::start().await;
    let mut client = ServerReflectionClient::new(server.grpc().await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let asked = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("trunkline.v1.Inference".to_owned())),
        ask(MessageRequest::FileContainingSymbol("google.rpc.Status".to_owned())),
    ];
    let answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
    let answers: Vec<ServerReflectionResponse> = answers.map(|answer| answer.unwrap()).collect().await;
    let Some(MessageResponse::ListServicesResponse(list)) = &answers[0].message_response else { panic!("{answers:?}") };
    let mut names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    let wanted = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "trunkline.v1.Admin",
        "trunkline.v1.Inference",
    ];
    assert_eq!(names, wanted);
    for answer in &answers[1..] {
        assert!(matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn an_unknown_method_or_service_is_unimplemented() {
    let server = TestServer::start().await;
    for path in ["/trunkline.v1.Inference/Nothing", "/another.Service/Method"] {
        let answer = server.send("POST", path, &[("content-type", "application/grpc")], "").await;
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, "12"), "{path}");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    let counted = "trunkline_requests_total{adapter=\"\",code=\"not_found\",route=\"unmatched\"}";
    assert_eq!(server.metric(counted), 2.0);
}
