//! A start with damaged files: inference answers, what needs the files says why not, nothing is overwritten, and a repair mends it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::serve::{Running, import, run};

const LABELS: &str = "billing,delivery,greeting,other";
const ROWS: &str = "text,label\nhello there,a\nsend it back,b\nwhere is it,a\nthank you,b\n";
const JOB: &str = r#"{"kind": "fine_tune", "adapter": "mails", "family": "classify", "data": {"train": "mail:train"}}"#;

fn classify(adapter: &str) -> String {
    format!(r#"{{"inputs": "hello", "adapter": "{adapter}"}}"#)
}

/// An adapter with two versions, an alias, a dataset, a journal of jobs and one of backbones.
fn furnish(folder: &Path) {
    import(folder, "topics", "cls-r8-qv", LABELS);
    import(folder, "topics", "cls-r8-qv", LABELS);
    let server = Running::start(folder);
    for (path, body) in [
        ("/v1/admin/aliases/second", r#"{"targets": [{"adapter": "topics"}]}"#),
        ("/v1/admin/datasets/mail?family=classify&split=train", ROWS),
    ] {
        let (status, answer) = server.request("PUT", path, body);
        assert!(status / 100 == 2, "{path}: {status} {answer}");
    }
}

/// Method, path, body, and what the refusal names.
fn routes() -> [(&'static str, &'static str, String, &'static str); 10] {
    let backbone = r#"{"backbone": "default"}"#.to_owned();
    let alias = r#"{"targets": [{"adapter": "topics"}]}"#.to_owned();
    [
        ("GET", "/v1/admin/aliases", String::new(), "aliases.json"),
        ("GET", "/v1/admin/aliases/second", String::new(), "aliases.json"),
        ("PUT", "/v1/admin/aliases/third", alias, "aliases.json"),
        ("POST", "/v1/classify", classify("second"), "aliases.json"),
        ("POST", "/v1/classify", classify("topics@1"), "version.json"),
        ("GET", "/v1/admin/jobs", String::new(), "jobs.sqlite"),
        ("GET", "/v1/admin/jobs/job_1/events", String::new(), "jobs.sqlite"),
        ("POST", "/v1/admin/jobs", JOB.to_owned(), "jobs.sqlite"),
        ("GET", "/v1/admin/datasets/mail", String::new(), "dataset.json"),
        ("POST", "/v1/admin/backbone/activate", backbone, "backbones.json"),
    ]
}

const PARTS: [&str; 5] = ["adapters", "aliases", "backbones", "datasets", "jobs"];

#[test]
fn what_is_damaged_costs_its_own_routes_and_a_repair_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let (adapters, state) = (folder.path().join("adapters"), folder.path().join("state"));
    let damaged = [
        adapters.join("aliases.json"),
        state.join("backbones.json"),
        state.join("jobs.sqlite"),
        state.join("datasets/mail/dataset.json"),
    ];
    // What the killed server had not yet moved from SQLite's log would mend the journal by itself.
    for beside in ["jobs.sqlite-wal", "jobs.sqlite-shm"] {
        let _none = fs::remove_file(state.join(beside));
    }
    damaged.iter().for_each(|path| fs::write(path, "{damaged").unwrap());
    let pipe = adapters.join("topics/versions/1/version.json");
    fs::remove_file(&pipe).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    let server = Running::start(folder.path());
    let (status, answer) = server.request("POST", "/v1/classify", &classify("topics"));
    assert!(status == 200 && answer.contains("\"version\":2"), "{status} {answer}");
    for (method, path, body, named) in routes() {
        let (status, answer) = server.request(method, path, &body);
        assert!(status == 503 && answer.contains(named), "{method} {path}: {status} {answer}");
        assert!(answer.contains("\"code\":\"unavailable\""), "{method} {path}: {answer}");
    }
    let metrics = server.request("GET", "/metrics", "").1;
    for part in PARTS {
        assert!(metrics.contains(&format!("trunkline_degraded{{part=\"{part}\"}} 1")), "{part}");
    }
    assert!(metrics.contains("trunkline_degraded{part=\"state\"} 0"));
    drop(server);
    damaged.iter().for_each(|path| assert_eq!(fs::read_to_string(path).unwrap(), "{damaged", "{}", path.display()));

    let check = |flags: &[&str]| {
        let folders = ["--adapters-dir", adapters.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        let output = run(&[&["store", "check"], &folders[..], flags].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = check(&[]);
    assert_eq!(code, Some(1), "{said}");
    for path in damaged.iter().chain([&pipe]) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(name), "{name}: {said}");
    }
    let (code, said) = check(&["--repair"]);
    assert!(code == Some(0) && said.matches("repaired: ").count() == 5, "{said}");
    assert_eq!(check(&[]).0, Some(0));

    let server = Running::start(folder.path());
    for (method, path, body, _) in routes() {
        let (status, answer) = server.request(method, path, &body);
        assert_ne!(status, 503, "{method} {path}: {answer}");
        assert!(status < 500, "{method} {path}: {status} {answer}");
    }
    assert_eq!(server.request("POST", "/v1/classify", &classify("topics")).0, 200);
    let metrics = server.request("GET", "/metrics", "").1;
    for part in PARTS {
        assert!(metrics.contains(&format!("trunkline_degraded{{part=\"{part}\"}} 0")), "{part}");
    }
}
