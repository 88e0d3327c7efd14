//! The real binary: start, answer, drain, refuse, go on after a crash.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");
/// A debug build on a busy machine, the backbone's first fetch included.
const START_MAX: Duration = Duration::from_secs(120);

/// A started server; killed with the test.
pub(crate) struct Running {
    process: Child,
    address: String,
}

impl Running {
    pub(crate) fn start(folder: &Path) -> Self {
        crate::support::plain_backbone();
        Self::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: &Path, flags: &[&str]) -> Self {
        Self::start_command(Command::new(BINARY), folder, flags)
    }

    /// With an environment of its own.
    fn start_command(mut command: Command, folder: &Path, flags: &[&str]) -> Self {
        let state = folder.join("state");
        let _ = std::fs::remove_file(state.join("listen"));
        let process = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--threads", "1"])
            .args(flags)
            .arg("--adapters-dir")
            .arg(folder.join("adapters"))
            .arg("--state-dir")
            .arg(&state)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Self { process, address: String::new() };
        running.address = running.wait_for(|r| {
            let text = std::fs::read_to_string(state.join("listen")).ok()?;
            r.address = text.trim().to_owned();
            (r.request("GET", "/readyz", "").0 == 200).then(|| r.address.clone())
        });
        running
    }

    /// Polls with `look` until it finds something.
    fn wait_for<T>(&mut self, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + START_MAX;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                self.process.try_wait().unwrap().is_none() && Instant::now() < end,
                "the server ended or never came"
            );
            std::thread::yield_now();
        }
    }

    /// One request on a connection of its own: status and body; (0, "") if nothing answers.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let Ok(stream) = TcpStream::connect(&self.address) else { return (0, String::new()) };
        write(&stream, method, path, body);
        read(stream)
    }

    /// The active backbone's name.
    fn backbone(&self) -> String {
        let (status, body) = self.request("GET", "/v1/admin/backbone", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["name"].as_str().unwrap().to_owned()
    }

    fn terminate(&self) {
        let status = Command::new("kill").args(["-s", "TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _ = self.process.wait();
    }
}

fn write(mut stream: &TcpStream, method: &str, path: &str, body: &str) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).unwrap();
}

fn read(mut stream: TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    let _closed_early = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map_or_else(String::new, |(_head, body)| body.to_owned()))
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

pub(crate) fn import(folder: &Path, name: &str, fixture: &str, labels: &str) {
    crate::support::plain_backbone();
    let adapters = folder.join("adapters");
    let source = format!("tests/fixtures/peft/{fixture}");
    let output =
        run(&["adapters", "import", name, &source, "--labels", labels, "--adapters-dir", adapters.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_starts_answers_and_drains_what_it_accepted() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), "topics", "cls-r8-qv", "billing,delivery,greeting,other");
    let mut server = Running::start(folder.path());
    let (status, body) = server.request("POST", "/v1/classify", r#"{"inputs": "hello", "adapter": "topics"}"#);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"version\":1"), "{body}");

    // A long request is under way when the signal comes: it must be answered, and the exit code must be 0.
    let texts = vec!["a text of quite a few words so that it takes a while ".repeat(6); 64];
    let stream = TcpStream::connect(&server.address).unwrap();
    let long = serde_json::json!({"inputs": texts, "adapter": "topics"}).to_string();
    write(&stream, "POST", "/v1/classify", &long);
    server.wait_for(|s| {
        s.request("GET", "/metrics", "").1.contains("trunkline_queue_tokens{adapter=\"topics\"} ").then_some(())
    });
    server.terminate();
    let (status, body) = read(stream);
    assert_eq!(status, 200, "{body}");
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn a_signal_ends_it_within_the_drain_time_out_whoever_is_connected() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = ["--backbone", "tests/fixtures/architectures/bert", "--drain-timeout", "2"];
    let mut server = Running::start_with(folder.path(), &encoder);
    let begun_body = "POST /v1/ner HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{";
    let unread = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(300);
    let open: Vec<TcpStream> = ["", "GET / HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", begun_body, &unread]
        .into_iter()
        .map(|opening| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(opening.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.request("GET", "/readyz", "").0, 200);
    let start = Instant::now();
    server.terminate();
    let status = server.process.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?} with {} connections open", start.elapsed(), open.len());
}

#[test]
fn it_starts_with_the_backbone_that_was_activated_last_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let made_here = folder.path().join("state/backbones/made-here");
    std::fs::create_dir_all(&made_here).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(Path::new("tests/fixtures/architectures/electra").join(file), made_here.join(file)).unwrap();
    }
    let first = ["--backbone", "tests/fixtures/architectures/bert"];
    let server = Running::start_with(folder.path(), &first);
    assert_eq!(server.backbone(), first[1]);
    let (status, body) = server.request("POST", "/v1/admin/backbone/activate", r#"{"backbone": "nowhere"}"#);
    assert_eq!(status, 404, "{body}");
    let (status, body) = server.request("POST", "/v1/admin/backbone/activate", r#"{"backbone": "made-here"}"#);
    assert!(status == 200 && body.contains("made-here"), "{body}");
    assert_eq!(server.backbone(), "made-here");
    drop(server);
    assert_eq!(Running::start_with(folder.path(), &[]).backbone(), "made-here");
    assert_eq!(Running::start_with(folder.path(), &first).backbone(), first[1]);
}

#[test]
fn after_kill_9_it_serves_what_was_published() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), "topics", "cls-r8-qv", "billing,delivery,greeting,other");
    let ask =
        |server: &Running| server.request("POST", "/v1/classify", r#"{"inputs": "hello", "adapter": "topics"}"#).1;
    let scores = |body: String| body.split("\"results\"").nth(1).unwrap().to_owned();
    let mut server = Running::start(folder.path());
    let before = scores(ask(&server));
    server.process.kill().unwrap();
    drop(server);
    let server = Running::start(folder.path());
    assert_eq!(scores(ask(&server)), before);
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wanted() {
    for (arguments, wanted) in [
        (&["serve", "--listen", "nowhere"][..], "--listen"),
        (&["serve", "--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (&["serve", "--max-batch-tokens", "4096", "--max-queue-tokens", "1"], "--max-queue-tokens 1"),
        (&["serve", "--max-inflight-bytes", "1000"], "--max-inflight-bytes 1000"),
        (&["serve", "--keep-alive-timeout", "0"], "--keep-alive-timeout"),
        (&["serve", "--device", "abacus"], "abacus"),
        (&["serve", "--precision", "bf16", "--kernel", "portable-f32"], "portable-f32"),
        (&["predict", "poem", "x"], "poem"),
        (&["datasets", "check", "/no/such/file", "--family", "ner"], "/no/such/file"),
        (&["train", "fine-tune", "--adapter", "a", "--family", "classify", "--set", "epochs"], "NAME=VALUE"),
    ] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[test]
fn an_address_that_others_reach_wants_an_admin_key() {
    crate::support::plain_backbone();
    let folder = tempfile::tempdir().unwrap();
    let adapters = folder.path().join("adapters");
    let state = folder.path().join("state");
    let output = run(&[
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--adapters-dir",
        adapters.to_str().unwrap(),
        "--state-dir",
        state.to_str().unwrap(),
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("admin"), "{said}");
}

/// How `serve` ends with these variables; for what it finds out before it loads anything.
fn serve_with(variables: &[(&str, &str)], flags: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY)
        .args(["serve", "--backbone", "/no/such/backbone", "--state-dir", folder.path().to_str().unwrap()])
        .args(flags)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_address_that_others_reach_wants_a_key_for_inference_or_a_word() {
    let admin = ("TRUNKLINE_ADMIN_KEY", "boss");
    let (code, said) = serve_with(&[admin], &["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    for way in ["--infer-key-file", "--listen 127.0.0.1:8080", "--allow-anonymous"] {
        assert!(said.contains(way), "{said}");
    }
    for (variables, flags) in [
        (vec![admin, ("TRUNKLINE_INFER_KEY", "guest")], vec![]),
        (vec![admin], vec!["--allow-anonymous"]),
        (vec![admin, ("TRUNKLINE_ALLOW_ANONYMOUS", "true")], vec![]),
        (vec![admin, ("TRUNKLINE_ALLOW_ANONYMOUS", "1")], vec![]),
    ] {
        let (_, said) = serve_with(&variables, &[&["--listen", "0.0.0.0:0"], &flags[..]].concat());
        assert!(said.contains("/no/such/backbone"), "{variables:?} {flags:?}: it goes on to the backbone; {said}");
    }
}

#[test]
fn an_empty_key_is_a_mistake() {
    for variable in ["TRUNKLINE_ADMIN_KEY", "TRUNKLINE_INFER_KEY"] {
        for empty in ["", " ", "\t\n"] {
            let (code, said) = serve_with(&[(variable, empty)], &[]);
            assert!(code == Some(2) && said.contains(variable) && said.contains("empty"), "{empty:?}: {said}");
        }
    }
}

#[test]
fn a_key_of_the_environment_is_read_as_one_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    command.env("TRUNKLINE_ADMIN_KEY", " boss\n");
    let server = Running::start_command(command, folder.path(), &["--backbone", "tests/fixtures/architectures/bert"]);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .write_all(b"GET /v1/admin/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer boss\r\n\r\n")
        .unwrap();
    assert_eq!(read(stream).0, 200);
}

#[test]
fn a_backbone_in_a_folder_needs_no_home() {
    let folder = tempfile::tempdir().unwrap();
    let homeless = |backbone: &str| {
        let state = folder.path().join("state");
        let output = Command::new(BINARY)
            .env_clear()
            .args(["backbone", "verify", "--backbone", backbone])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("TMPDIR", &state)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(homeless("tests/fixtures/architectures/bert"), (Some(0), String::new()));
    let (code, said) = homeless("default");
    assert!(code == Some(2) && said.contains("HOME"), "{said}");
    let mut command = Command::new(BINARY);
    command.env_clear();
    let server = Running::start_command(command, folder.path(), &["--backbone", "tests/fixtures/architectures/bert"]);
    assert_eq!(server.request("POST", "/v1/embed", "{\"inputs\": \"hello\"}").0, 200);
}

#[test]
fn predict_answers_on_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), "people", "ner-r8-qv", "O,B-PER,I-PER,B-ORG,I-ORG,B-LOC,I-LOC,B-MISC,I-MISC");
    let adapters = folder.path().join("adapters");
    let text = "Meet Anna Kowalska at the Hilton in Kraków on Friday at 3pm.";
    let output =
        run(&["predict", "ner", text, "--adapter", "people", "--json", "--adapters-dir", adapters.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for entity in answer["entities"].as_array().unwrap() {
        let at = |key: &str| usize::try_from(entity[key].as_u64().unwrap()).unwrap();
        assert_eq!(entity["word"], text[at("start")..at("end")]);
    }
    assert!(!answer["entities"].as_array().unwrap().is_empty());
}

#[test]
fn the_default_backbone_is_found_from_wherever_the_program_runs() {
    crate::support::backbone("default");
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(["backbone", "verify"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("minilm-mtpf"), "{said}");
}
