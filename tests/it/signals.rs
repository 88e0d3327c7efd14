//! Signals to the real binary: at every moment of its start they end it, afterwards it drains.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");
/// A debug build on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Of a process that has nothing to drain.
const END_MAX: Duration = Duration::from_secs(20);

const HANG_UP: (&str, u8) = ("HUP", 1);
const INTERRUPT: (&str, u8) = ("INT", 2);
const TERMINATE: (&str, u8) = ("TERM", 15);

/// Who runs the tests may ignore SIGHUP (`nohup`), and the server honours that: here it is to be heard.
const HANG_UP_HEARD: [&str; 2] = ["env", "--default-signal=HUP"];

/// `trunkline serve`, and what it runs under.
struct Started {
    outer: Child,
    /// The server itself.
    id: u32,
    folder: TempDir,
}

impl Started {
    /// `around`: a command that takes ours as its arguments; empty for none.
    fn new(around: &[&'static str], backbone: &Path) -> Self {
        let mut started = Self::spawn(HANG_UP_HEARD.iter().chain(around).copied().chain([BINARY]), backbone);
        started.id = started.wait_for(|s| s.server());
        started
    }

    /// As `words` say, which end with our binary. It may have ended already.
    fn spawn(mut words: impl Iterator<Item = &'static str>, backbone: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--threads", "1", "--backbone"]);
        command.arg(backbone).arg("--adapters-dir").arg(folder.path().join("adapters"));
        command.arg("--state-dir").arg(folder.path().join("state"));
        let outer = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { id: outer.id(), outer, folder }
    }

    /// Our own binary: the process that was started, or its child.
    fn server(&self) -> Option<u32> {
        let outer = self.outer.id();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        let all = children.split_whitespace().filter_map(|id| id.parse().ok()).chain([outer]);
        let wanted = Path::new(BINARY).canonicalize().unwrap();
        all.into_iter().find(|id| std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == wanted))
    }

    /// Whether the mask `line` of the server's status has the signal: `SigCgt` caught, `SigIgn` ignored.
    fn has(&self, line: &str, (_, number): (&str, u8)) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap_or_default();
        let mask = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
        mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() >> (number - 1) & 1 == 1)
    }

    fn listen_file(&self) -> PathBuf {
        self.folder.path().join("state/listen")
    }

    fn address(&mut self) -> String {
        self.wait_for(|s| std::fs::read_to_string(s.listen_file()).ok()).trim().to_owned()
    }

    fn send(&self, (name, _): (&str, u8)) {
        assert!(Command::new("kill").args(["-s", name, &self.id.to_string()]).status().unwrap().success());
    }

    fn wait_for<T>(&mut self, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + START_MAX;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(self.outer.try_wait().unwrap().is_none() && Instant::now() < end, "it ended or never came");
            std::thread::yield_now();
        }
    }

    /// How it ended; fails if it goes on.
    fn ended(&mut self, what: &str) -> ExitStatus {
        let end = Instant::now() + END_MAX;
        loop {
            if let Some(status) = self.outer.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "{what}: it goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _already_gone = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// A new PID namespace, in which the server is process 1; None, and why, where it cannot be had.
fn as_first_process() -> Option<Vec<&'static str>> {
    let around = ["unshare", "--pid", "--fork", "--kill-child"];
    let works = Command::new(around[0]).args(&around[1..]).arg("true").stderr(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) {
        return Some(around.to_vec());
    }
    println!("skipped as process 1: this machine lets nobody make a PID namespace (unshare --pid)");
    None
}

#[test]
fn at_any_moment_of_the_start_a_signal_ends_it() {
    let backbone = crate::support::plain_backbone();
    let moments = [0, 1, 3, 10, 30, 100, 300, 1000].map(Duration::from_millis);
    let signals = [TERMINATE, HANG_UP, INTERRUPT];
    for around in [Some(Vec::new()), as_first_process()].into_iter().flatten() {
        for (moment, signal) in moments.into_iter().zip(signals.into_iter().cycle()) {
            let mut started = Started::new(&around, backbone);
            // Before it has handlers the kernel decides; they stand before anything else is done.
            started.wait_for(|s| s.has("SigCgt", TERMINATE).then_some(()));
            std::thread::sleep(moment);
            let what = format!("{} {moment:?} after the handlers stood, {around:?}", signal.0);
            started.send(signal);
            assert_eq!(started.ended(&what).code(), Some(0), "{what}");
        }
    }
}

#[test]
fn the_handlers_stand_before_anything_is_read() {
    // It ends by itself, so one look may come too late for it; but it cannot always.
    let stood = (0..20).any(|_| {
        let mut started = Started::spawn([BINARY].into_iter(), Path::new("/no/such/backbone"));
        loop {
            match started.has("SigCgt", TERMINATE) {
                true => break true,
                false if started.outer.try_wait().unwrap().is_some() => break false,
                false => std::thread::yield_now(),
            }
        }
    });
    assert!(stood, "it read its arguments first");
    let mut no_server = Command::new(BINARY)
        .args(["predict", "classify", "serve", "--backbone", "/no"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(no_server.wait().unwrap().code(), Some(2), "a word among others makes no server");
}

#[test]
fn each_signal_drains_a_server_that_serves() {
    let backbone = Path::new("tests/fixtures/architectures/bert");
    for around in [Some(Vec::new()), as_first_process()].into_iter().flatten() {
        for signal in [TERMINATE, HANG_UP, INTERRUPT] {
            let mut started = Started::new(&around, backbone);
            let address = started.address();
            let mut under_way = half_a_request(&address);
            started.send(signal);
            // A service manager that means it sends a second one at once.
            started.send(HANG_UP);
            started.wait_for(|_| TcpStream::connect(&address).is_err().then_some(()));
            under_way.write_all(b"lo\"}").unwrap();
            let mut answer = String::new();
            under_way.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{}: {answer}", signal.0);
            assert_eq!(started.ended(signal.0).code(), Some(0), "{}", signal.0);
        }
    }
}

/// A request that the server has begun to read.
fn half_a_request(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = "{\"inputs\":\"hello\"}";
    let head = format!(
        "POST /v1/embed HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"inputs\":\"hel").unwrap();
    stream
}

#[test]
fn what_nohup_started_outlives_its_terminal() {
    let mut started = Started::new(&["nohup"], Path::new("tests/fixtures/architectures/bert"));
    started.address();
    assert!(started.has("SigIgn", HANG_UP) && !started.has("SigCgt", HANG_UP));
    started.send(TERMINATE);
    assert_eq!(started.ended("SIGTERM").code(), Some(0));
}
