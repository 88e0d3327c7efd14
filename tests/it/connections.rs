//! Connections that make no progress: each ends, and none costs others their place.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use trunkline::transport::TransportConfig;

use crate::support::TestServer;

/// No check waits for longer: what was to end has not ended.
const PATIENCE: Duration = Duration::from_secs(10);

const DRIP_EVERY: Duration = Duration::from_millis(20);

/// Bounds small enough for a test, a hundredth of the usual ones.
fn impatient(config: &mut TransportConfig) {
    config.header_timeout = Duration::from_millis(300);
    config.keep_alive_timeout = Duration::from_millis(900);
    config.body_timeout = Duration::from_secs(5);
    config.stall_timeout = Duration::from_millis(300);
    config.bytes_per_second_min = 50_000;
}

/// A client that says what it wants byte by byte.
struct Raw(TcpStream);

impl Raw {
    async fn open(server: &TestServer) -> Self {
        Self(TcpStream::connect(server.address).await.unwrap())
    }

    /// With a receive buffer so small that an unread answer soon fills it.
    async fn narrow(server: &TestServer) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        Self(socket.connect(server.address).await.unwrap())
    }

    async fn saying(server: &TestServer, bytes: impl AsRef<[u8]>) -> Self {
        let mut raw = Self::open(server).await;
        raw.say(bytes).await;
        raw
    }

    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// All that comes until the server ends the connection, and how long that took; sends `drip` again and again meanwhile.
    async fn until_end(&mut self, drip: &[u8]) -> (String, Duration) {
        let (start, mut read) = (Instant::now(), Vec::new());
        let (mut from, mut to) = self.0.split();
        let dripping = async {
            while !drip.is_empty() && to.write_all(drip).await.is_ok() {
                sleep(DRIP_EVERY).await;
            }
            std::future::pending::<()>().await;
        };
        let reading = timeout(PATIENCE, from.read_to_end(&mut read));
        tokio::select! {
            ended = reading => { let _reset = ended.expect("the server never ended the connection"); }
            () = dripping => (),
        }
        (String::from_utf8_lossy(&read).into_owned(), start.elapsed())
    }

    /// What has come when `marker` has.
    async fn until(&mut self, marker: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        let reading = async {
            while !read.windows(marker.len()).any(|window| window == marker) {
                let mut piece = [0; 4096];
                let bytes = self.0.read(&mut piece).await.unwrap();
                assert_ne!(bytes, 0, "the connection ended: {}", String::from_utf8_lossy(&read));
                read.extend_from_slice(&piece[..bytes]);
            }
        };
        timeout(PATIENCE, reading).await.expect("it never came");
        read
    }
}

/// HTTP/2, frame by frame.
mod h2 {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const DATA: u8 = 0;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Preface and settings; `window` is what each answer may send unasked.
    pub(super) fn opening(window: u32) -> Vec<u8> {
        let settings = [&4u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
        [PREFACE, &frame(4, 0, 0, &settings)].concat()
    }

    pub(super) fn ping() -> Vec<u8> {
        frame(6, 0, 0, b"12345678")
    }

    pub(super) fn headers(flags: u8, stream: u32, method: &str, path: &str, content_type: &str) -> Vec<u8> {
        let fields = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "x"),
            (":path", path),
            ("content-type", content_type),
        ];
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        frame(HEADERS, flags | END_HEADERS, stream, &block)
    }

    pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
        headers(END_STREAM, stream, "GET", path, "text/plain")
    }

    /// The head of such a frame, without its length.
    pub(super) fn head(kind: u8, flags: u8, stream: u32) -> Vec<u8> {
        [&[kind, flags], &stream.to_be_bytes()[..]].concat()
    }
}

fn post(path: &str, content_length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {content_length}\r\n\r\n"
    )
}

/// An honest client on a connection of its own.
async fn honest(server: &TestServer) -> Duration {
    let start = Instant::now();
    let body = json!({"inputs": "hello", "adapter": "topics"}).to_string();
    let mut raw = Raw::saying(server, post("/v1/classify", body.len()) + &body).await;
    let answer = String::from_utf8(raw.until(b"\"results\"").await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    start.elapsed()
}

/// Polls a series until it has reached `value`.
async fn until_metric(server: &TestServer, series: &str, value: f64) {
    let start = Instant::now();
    while server.metric(series) < value {
        assert!(start.elapsed() < PATIENCE, "{series} is {} and not {value}", server.metric(series));
        sleep(DRIP_EVERY).await;
    }
}

fn cut(reason: &str) -> String {
    format!("trunkline_connections_cut_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_its_connection_in_either_version_of_http() {
    let server = TestServer::with(impatient).await;
    let settings = h2::opening(65_535);
    let begun_block = [&settings[..], &h2::frame(h2::HEADERS, 0, 1, &[0x82])].concat();
    for (opening, drip) in [
        (&b""[..], &b""[..]),
        (b"", b"G"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ", b"a"),
        (h2::PREFACE, b""),
        (&settings, b""),
        (&settings, &h2::ping()),
        (&begun_block, b""),
    ] {
        let mut raw = Raw::saying(&server, opening).await;
        let (_, took) = raw.until_end(drip).await;
        assert!(took < Duration::from_secs(3), "{opening:?} and {drip:?} again and again: {took:?}");
    }
    assert!(server.metric(&cut("header")) >= 7.0);
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_its_own_time_and_a_second_head_for_the_heads() {
    let server = TestServer::with(impatient).await;
    let ask = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut idle = Raw::saying(&server, ask).await;
    idle.until(b"\"ok\"").await;
    let (_, took) = idle.until_end(b"").await;
    assert!(took > Duration::from_millis(600), "closed after {took:?}, before the keep-alive time-out");
    let mut dripping = Raw::saying(&server, ask).await;
    dripping.until(b"\"ok\"").await;
    let (_, took) = dripping.until_end(b"G").await;
    assert!(took < Duration::from_millis(800), "a head was awaited for {took:?}");
    let mut http2 = Raw::saying(&server, [h2::opening(65_535), h2::get(1, "/healthz")].concat()).await;
    http2.until(b"\"ok\"").await;
    let (_, took) = http2.until_end(&h2::ping()).await;
    assert!(took > Duration::from_millis(600) && took < Duration::from_secs(5), "HTTP/2 was kept for {took:?}");
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_told_so_and_its_connection_ends() {
    let server = TestServer::with(impatient).await;
    let chunked =
        "POST /v1/ner HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let burst = post("/v1/ner", 1 << 20) + &" ".repeat(200_000);
    for (opening, drip) in [
        (post("/v1/ner", 1 << 20), &b""[..]),
        (post("/v1/ner", 1 << 20), b" "),
        (burst, b" "),
        (chunked.to_owned(), b"1\r\n \r\n"),
        (
            format!(
                "PUT /v1/admin/datasets/d?family=ner&split=train HTTP/1.1\r\nhost: {}\r\ncontent-length: 99999\r\n\r\n",
                server.address
            ),
            b" ",
        ),
    ] {
        let mut raw = Raw::saying(&server, &opening).await;
        let (answer, took) = raw.until_end(drip).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("too slowly"), "{answer}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    assert_eq!(server.metric(&cut("body")), 5.0);
}

#[tokio::test]
async fn a_body_at_the_least_rate_has_a_total_time() {
    let limits = |config: &mut TransportConfig| {
        config.bytes_per_second_min = 1;
        config.body_timeout = Duration::from_millis(400);
    };
    let server = TestServer::with(limits).await;
    let mut raw = Raw::saying(&server, post("/v1/ner", 1 << 20)).await;
    let (answer, _) = raw.until_end(b"          ").await;
    assert!(answer.contains("longer than the limit of 0.4 s"), "{answer}");
}

#[tokio::test]
async fn a_stream_of_http_2_without_its_body_is_answered_and_its_neighbours_live() {
    let server = TestServer::with(impatient).await;
    for (path, content_type, wanted) in [
        ("/v1/ner", "application/json", b"too slowly".to_vec()),
        // A head that is an end: the failure of a call.
        ("/trunkline.v1.Inference/Ner", "application/grpc", h2::head(h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, 1)),
    ] {
        let mut raw = Raw::saying(&server, h2::opening(65_535)).await;
        raw.say(h2::headers(0, 1, "POST", path, content_type)).await;
        raw.say(h2::frame(h2::DATA, 0, 1, &[0, 0, 0, 0, 0])).await;
        raw.until(&wanted).await;
        raw.say(h2::get(3, "/healthz")).await;
        raw.until(b"\"ok\"").await;
    }
    assert_eq!(server.metric(&cut("body")), 2.0);
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_ended() {
    let server = TestServer::with(impatient).await;
    let mut unread = Raw::narrow(&server).await;
    unread.say("GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200)).await;
    until_metric(&server, &cut("answer"), 1.0).await;
    // A client of HTTP/2 that opens no window loses its stream; others of its connection, a proxy's perhaps, go on.
    for window in [0, 10, 65_535] {
        let before = server.metric(&cut("answer"));
        let mut raw = Raw::saying(&server, [h2::opening(window), h2::get(1, "/openapi.json")].concat()).await;
        raw.until(&h2::head(3, 0, 1)).await;
        assert_eq!(server.metric(&cut("answer")), before + 1.0, "window {window}");
        raw.say(h2::ping()).await;
        raw.until(&h2::head(6, 1, 0)).await;
    }
    honest(&server).await;
}

#[tokio::test]
async fn an_answer_that_waits_in_a_window_of_one_byte_ends_with_its_connection() {
    let server = TestServer::with(impatient).await;
    let mut raw = Raw::saying(&server, [h2::opening(1), h2::get(1, "/healthz")].concat()).await;
    let (_, took) = raw.until_end(&h2::ping()).await;
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test]
async fn at_the_bound_those_who_make_no_progress_make_room() {
    let server = TestServer::with(|config| config.connections_max = 8).await;
    let grpc = |path| [h2::opening(0), h2::headers(0, 1, "POST", path, "application/grpc")].concat();
    let watch = [
        h2::opening(65_535),
        h2::headers(0, 1, "POST", "/grpc.health.v1.Health/Watch", "application/grpc"),
        h2::frame(h2::DATA, h2::END_STREAM, 1, &[0; 5]),
    ];
    let openings: [Vec<u8>; 9] = [
        Vec::new(),
        b"GET / HT".to_vec(),
        h2::PREFACE.to_vec(),
        h2::opening(0),
        [h2::opening(0), h2::get(1, "/openapi.json")].concat(),
        grpc("/trunkline.v1.Inference/NerStream"),
        grpc("/trunkline.v1.Inference/Ner"),
        post("/v1/ner", 100_000).into_bytes(),
        watch.concat(),
    ];
    let mut open = Vec::new();
    for opening in openings {
        for _ in 0..12 {
            open.push(Raw::saying(&server, &opening).await);
        }
        sleep(Duration::from_millis(50)).await;
        for _ in 0..3 {
            let took = honest(&server).await;
            assert!(took < Duration::from_secs(1), "beside {:?}: {took:?}", String::from_utf8_lossy(&opening));
        }
    }
    assert!(server.metric(&cut("crowded")) >= 100.0, "{}", server.metric(&cut("crowded")));
    assert!(server.metric("trunkline_connections ") <= 8.0 + 1.0);
}

#[tokio::test]
async fn when_all_are_at_work_probes_are_answered_and_others_told_to_come_again() {
    let limits = |config: &mut TransportConfig| {
        config.connections_max = 2;
        // No body past a connection's own bytes finds room: such a request waits for us.
        config.inflight_bytes_max = 0;
    };
    let server = TestServer::with(limits).await;
    let body = " ".repeat(100_000);
    let mut busy = Vec::new();
    for _ in 0..2 {
        busy.push(Raw::saying(&server, post("/v1/ner", body.len()) + &body).await);
    }
    sleep(Duration::from_millis(200)).await;
    for (path, status) in [("/healthz", "200"), ("/readyz", "200"), ("/metrics", "200"), ("/openapi.json", "503")] {
        let mut raw = Raw::saying(&server, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let (answer, _) = raw.until_end(b"").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")) && head.contains("connection: close"),
            "{path}: {head}"
        );
        assert_eq!(
            head.contains("retry-after: 1") && body.contains("\"unavailable\""),
            status == "503",
            "{path}: {body}"
        );
    }
    // They are refused once they have waited long enough, and then there is room again.
    for raw in &mut busy {
        let answer = String::from_utf8(raw.until(b"--max-inflight-bytes").await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    }
    assert_eq!(server.metric("trunkline_rejected_total{reason=\"bytes_full\"}"), 2.0);
    honest(&server).await;
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_and_those_who_hold_them_for_nothing_lose_them() {
    let server = TestServer::with(|config| config.inflight_bytes_max = 100 << 10).await;
    let mut holding = Vec::new();
    for _ in 0..2 {
        holding.push(Raw::saying(&server, post("/v1/ner", 1 << 20) + &" ".repeat(80_000)).await);
    }
    // Small requests have each connection's own bytes.
    assert!(honest(&server).await < Duration::from_secs(1));
    let text = "x".repeat(60_000);
    let body = json!({"inputs": text, "adapter": "topics", "parameters": {"long_text": "truncate"}}).to_string();
    let answer = server.send("POST", "/v1/classify", &[], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    until_metric(&server, &cut("bytes"), 1.0).await;
    drop(holding);
    until_held(&server, 0.0).await;
}

async fn until_held(server: &TestServer, bytes: f64) {
    let start = Instant::now();
    while server.metric("trunkline_inflight_bytes ") > bytes {
        assert!(start.elapsed() < PATIENCE, "{} bytes are held", server.metric("trunkline_inflight_bytes "));
        sleep(DRIP_EVERY).await;
    }
}

#[tokio::test]
async fn draining_takes_no_longer_than_its_deadline_whoever_is_connected() {
    let server = TestServer::start().await;
    let mut open = Vec::new();
    for opening in [
        Vec::new(),
        b"GET / HT".to_vec(),
        h2::PREFACE.to_vec(),
        h2::opening(0),
        [h2::opening(0), h2::get(1, "/openapi.json")].concat(),
        post("/v1/ner", 100_000).into_bytes(),
    ] {
        open.push(Raw::saying(&server, opening).await);
    }
    honest(&server).await;
    let start = Instant::now();
    let _some_were_cut = server.shut_down(Duration::from_secs(2)).await;
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
}
