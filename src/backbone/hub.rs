//! Files of a hub repository over HTTP. Redirects are followed here, because the hub names a file's hash on the first answer only.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::{Response, StatusCode, header};

use crate::backbone::files::{Landing, OPTIONAL, REQUIRED};
use crate::backbone::{FetchProgress, Hub};
use crate::domain::{Digest, Error, Result};

/// The hub needs two at most: to the repository's new name and to its storage.
const REDIRECTS_MAX: usize = 5;

/// Fetches the repository's files into `landing`. `pin` knows what a file must be, else the hub's own hash is held against it.
pub(super) fn fetch(
    hub: &Hub,
    repository: &str,
    pin: &dyn Fn(&str) -> Option<Digest>,
    landing: &mut Landing,
    progress: FetchProgress<'_>,
) -> Result<()> {
    let agent = agent(hub);
    // The small files first: a repository that lacks one is refused before its weights come.
    for name in [REQUIRED[0], REQUIRED[2]].into_iter().chain(OPTIONAL).chain([REQUIRED[1]]) {
        let url = format!("{}/{repository}/resolve/main/{name}", hub.endpoint);
        let Some(answer) = get(&agent, url)? else {
            if OPTIONAL.contains(&name) {
                continue;
            }
            return Err(Error::not_found(format!("{repository} has no {name} there (404)")));
        };
        let wanted = pin(name).or(answer.sha256);
        let what = format!("{} {name}", hub.endpoint);
        let mut body = Paced { body: answer.body, bytes: 0, started: Instant::now(), hub };
        landing.receive(name, wanted.as_ref(), &mut body, &mut |bytes| progress(&what, bytes, answer.bytes))?;
    }
    Ok(())
}

fn agent(hub: &Hub) -> Agent {
    Agent::config_builder()
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_resolve(Some(hub.connect_timeout))
        .timeout_connect(Some(hub.connect_timeout))
        .timeout_send_request(Some(hub.answer_timeout))
        .timeout_recv_response(Some(hub.answer_timeout))
        .timeout_per_read(Some(hub.answer_timeout))
        .user_agent(concat!("trunkline/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

struct Answer {
    /// What the hub says the file's SHA-256 is; it knows of large files only.
    sha256: Option<Digest>,
    bytes: Option<u64>,
    body: Box<dyn Read>,
}

/// None: 404.
fn get(agent: &Agent, mut url: String) -> Result<Option<Answer>> {
    let mut sha256 = None;
    for _ in 0..=REDIRECTS_MAX {
        let answer = agent.get(&url).call().map_err(|e| Error::unavailable(format!("{url}: {e}")).with_source(e))?;
        sha256 = sha256.or_else(|| stated_sha256(&answer));
        match answer.status() {
            StatusCode::OK => {
                let bytes = answer.body().content_length();
                return Ok(Some(Answer { sha256, bytes, body: Box::new(answer.into_body().into_reader()) }));
            }
            StatusCode::NOT_FOUND => return Ok(None),
            status if status.is_redirection() => url = redirected(&url, &answer)?,
            status => return Err(Error::unavailable(format!("{url}: answered {status}, wanted 200"))),
        }
    }
    Err(Error::unavailable(format!("{url}: more than {REDIRECTS_MAX} redirects")))
}

/// The hash in `x-linked-etag` or `etag`: 64 hexadecimal digits in quotes; anything shorter is git's own.
fn stated_sha256<T>(answer: &Response<T>) -> Option<Digest> {
    let stated = |name: &str| {
        let etag = answer.headers().get(name)?.to_str().ok()?;
        format!("sha256:{}", etag.trim_start_matches("W/").trim_matches('"')).parse().ok()
    };
    stated("x-linked-etag").or_else(|| stated("etag"))
}

/// Where `location` points, seen from `url`. Never from https to http: small files are not hashed by the hub.
fn redirected<T>(url: &str, answer: &Response<T>) -> Result<String> {
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let origin_len = url.find("://").and_then(|at| Some(at + 3 + url[at + 3..].find('/')?)).unwrap_or(url.len());
    let to = match location {
        path if path.starts_with('/') && !path.starts_with("//") => format!("{}{path}", &url[..origin_len]),
        whole => whole.to_owned(),
    };
    let is_safe = to.starts_with("https://") || to.starts_with("http://") && url.starts_with("http://");
    is_safe.then_some(to).ok_or_else(|| Error::unavailable(format!("{url}: redirects to {location:?}")))
}

/// A body that fails once it is clear that it will take too long.
struct Paced<'a> {
    body: Box<dyn Read>,
    bytes: u64,
    started: Instant,
    hub: &'a Hub,
}

impl Read for Paced<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.body.read(into)?;
        self.bytes += len as u64;
        let elapsed = self.started.elapsed();
        if len > 0 && is_too_slow(self.bytes, elapsed, self.hub) {
            let message = format!("only {} bytes in {:.1} s, given up", self.bytes, elapsed.as_secs_f32());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(len)
    }
}

fn is_too_slow(bytes: u64, elapsed: Duration, hub: &Hub) -> bool {
    let wanted = hub.bytes_per_second_min as f64 * elapsed.as_secs_f64();
    hub.slow_grace < elapsed && (bytes as f64) < wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_too_slow_only_after_its_grace() {
        let hub = Hub { slow_grace: Duration::from_secs(10), bytes_per_second_min: 1000, ..Hub::default() };
        for (bytes, seconds, slow) in [(0, 10, false), (10_999, 11, true), (11_000, 11, false), (1 << 30, 900, false)] {
            assert_eq!(is_too_slow(bytes, Duration::from_secs(seconds), &hub), slow, "{bytes} in {seconds} s");
        }
    }

    #[test]
    fn a_redirect_is_followed_to_a_path_or_an_address_but_never_out_of_https() {
        let cases = [
            ("https://a/x/y", "/api/z", Some("https://a/api/z")),
            ("https://a/x", "https://b/z", Some("https://b/z")),
            ("http://a", "http://b/z", Some("http://b/z")),
            ("https://a/x", "http://b/z", None),
            ("https://a/x", "//b/z", None),
            ("https://a/x", "", None),
        ];
        for (url, location, wanted) in cases {
            let answer = Response::builder().header("location", location).body(()).unwrap();
            assert_eq!(redirected(url, &answer).ok().as_deref(), wanted, "{url} to {location}");
        }
    }

    #[test]
    fn only_a_sha256_counts_as_a_stated_hash() {
        let hex = "ab".repeat(32);
        let cases = [
            ("x-linked-etag", format!("\"{hex}\""), true),
            ("etag", format!("W/\"{hex}\""), true),
            ("etag", "\"1b2c3d\"".to_owned(), false),
        ];
        for (name, value, is_stated) in cases {
            let answer = Response::builder().header(name, &value).body(()).unwrap();
            assert_eq!(stated_sha256(&answer).is_some(), is_stated, "{name}: {value}");
        }
    }
}
