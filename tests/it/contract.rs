//! What is committed is what the code and `proto/` generate. `UPDATE=1` writes it instead; review the diff.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;

use prost::Message as _;
use serde_json::Value;

const PROTO_FILES: [&str; 2] = ["trunkline/v1/inference.proto", "trunkline/v1/admin.proto"];
const HEAD: &str = "// Generated from proto/trunkline/v1 by tests/it/contract.rs; never edited.\n";

#[test]
fn the_openapi_document_is_what_the_routes_say() {
    check("openapi/openapi.json", trunkline::transport::openapi_json().as_bytes());
}

#[test]
fn the_openapi_document_is_whole() {
    let document: Value = serde_json::from_str(&trunkline::transport::openapi_json()).unwrap();
    for reference in strings_under(&document, "$ref") {
        let path = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(path).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for id in strings_under(&document, "operationId") {
        assert!(ids.insert(id), "{id} names two operations");
    }
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    for operation in operations {
        assert!(ids.contains(operation["operationId"].as_str().unwrap()) && operation["summary"].is_string());
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].is_string(), "{} {status} has no description", operation["operationId"]);
        }
    }
}

/// Every string under `key`, wherever it is.
fn strings_under<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    let children: Vec<&Value> = match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return Vec::new(),
    };
    let below = children.into_iter().flat_map(|child| strings_under(child, key));
    value.get(key).and_then(Value::as_str).into_iter().chain(below).collect()
}

#[test]
fn the_generated_grpc_code_is_what_the_proto_files_say() {
    let descriptors = protox::compile(PROTO_FILES, ["proto"]).expect("the proto files compile");
    check("src/transport/proto/descriptor.bin", &descriptors.encode_to_vec());
    let server = tonic_prost_build::configure().build_client(false);
    check("src/transport/proto/v1.rs", &generate(server, &descriptors));
    let client = tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .extern_path(".trunkline.v1", "::trunkline::transport::proto");
    check("tests/it/client/v1.rs", &generate(client, &descriptors));
}

fn generate(builder: tonic_prost_build::Builder, descriptors: &prost_types::FileDescriptorSet) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    builder
        .out_dir(folder.path())
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .btree_map(".")
        .compile_fds(descriptors.clone())
        .expect("code is generated");
    let code = fs::read_to_string(folder.path().join("trunkline.v1.rs")).unwrap();
    format!("{HEAD}{code}").into_bytes()
}

/// Compares a committed file with what it should hold, or writes it.
fn check(path: &str, wanted: &[u8]) {
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        fs::write(path, wanted).unwrap();
    }
    let committed = fs::read(path).unwrap_or_default();
    assert!(committed == wanted, "{path} is out of date: UPDATE=1 cargo test --test it contract");
}
