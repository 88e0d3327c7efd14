//! The server under load: where it is, whether it may be loaded, what it runs, and that it answers for every adapter.

use std::net::SocketAddr;

use hyper::body::Bytes;
use hyper::{Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use crate::domain::{AdapterRef, Error, ErrorKind, Family, Result};

use super::args::BenchArgs;
use super::client::{Client, Failure};

pub(super) struct Target {
    pub(super) client: Client,
    /// Of the family's route.
    pub(super) path: &'static str,
    /// At least one; the most popular first.
    pub(super) adapters: Vec<AdapterRef>,
    pub(super) about: About,
    /// Its machine is this one.
    pub(super) is_local: bool,
}

/// What the server says of itself in `/metrics`; None where it does not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct About {
    pub(super) version: Option<String>,
    pub(super) backbone: Option<Backbone>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Backbone {
    pub(super) name: String,
    pub(super) fingerprint: String,
    pub(super) precision: String,
    pub(super) kernel: String,
}

impl Target {
    /// Refuses an address of another machine unless that was allowed, and sends one probe for each adapter.
    pub(super) async fn open(args: &BenchArgs) -> Result<Self> {
        let host = host(&args.url)?;
        let address = resolve(&host).await?;
        let is_local = address.ip().to_canonical().is_loopback();
        if !is_local && !args.allow_remote {
            return Err(Error::invalid(format!(
                "--url {}: {} is another machine's address, and this command sends all the load it was asked for; \
                 if its owner agrees, say --allow-remote",
                args.url,
                address.ip()
            )));
        }
        let client = Client::new(address, &host, args.infer_key()?.as_deref())?;
        let about = about(&get(&client, &args.url, "/metrics").await?);
        let path = path(args.family);
        let adapters = adapters(&client, args).await?;
        for adapter in &adapters {
            probe(&client, path, adapter).await?;
        }
        Ok(Self { client, path, adapters, about, is_local })
    }
}

fn path(family: Family) -> &'static str {
    match family {
        Family::Ner => "/v1/ner",
        Family::Classify => "/v1/classify",
    }
}

/// `HOST:PORT` of `http://HOST[:PORT]`.
fn host(url: &str) -> Result<String> {
    let wrong = |what: &str| Error::invalid(format!("--url {url}: {what}; http://HOST:PORT is wanted"));
    let uri: Uri = url.parse().map_err(|e| wrong(&format!("{e}")))?;
    match (uri.scheme_str(), uri.authority(), uri.path()) {
        (Some("http"), Some(authority), "" | "/") if uri.query().is_none() && !authority.as_str().contains('@') => {
            Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
        }
        (Some("http"), Some(_), _) => Err(wrong("more than a host and a port")),
        (Some(scheme), _, _) => Err(wrong(&format!("the scheme {scheme:?} is not spoken here"))),
        (None, _, _) => Err(wrong("no scheme")),
    }
}

/// A name of several addresses stands for the first one.
async fn resolve(host: &str) -> Result<SocketAddr> {
    let unknown = |what: String| Error::unavailable(format!("{host}: {what}"));
    let mut found = tokio::net::lookup_host(host).await.map_err(|e| unknown(e.to_string()))?;
    found.next().ok_or_else(|| unknown("the name has no address".to_owned()))
}

async fn get(client: &Client, url: &str, path: &str) -> Result<Bytes> {
    let answer = client.ask(Method::GET, path, Bytes::new()).await;
    let (status, body) = answer.map_err(|failure| {
        let reason = match failure {
            Failure::Connect => "nothing listens there",
            Failure::Timeout => "no answer in time",
            _ => "no HTTP answer",
        };
        Error::unavailable(format!("no server at {url}: {reason}; `trunkline serve` starts one"))
    })?;
    match status {
        StatusCode::OK => Ok(body),
        _ => Err(refusal(&format!("{url}{path}"), status, &body)),
    }
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<ListedAdapter>,
}

#[derive(Deserialize)]
struct ListedAdapter {
    name: String,
    family: Option<String>,
    active_version: Option<u32>,
}

/// The ones asked for, else all of the family that can answer, in the order the server lists them.
async fn adapters(client: &Client, args: &BenchArgs) -> Result<Vec<AdapterRef>> {
    if !args.adapters.is_empty() {
        return Ok(args.adapters.clone());
    }
    let body = get(client, &args.url, "/v1/adapters").await?;
    let listed: Listed = serde_json::from_slice(&body)
        .map_err(|e| Error::unavailable(format!("{}/v1/adapters is not trunkline's list: {e}", args.url)))?;
    let serves = |a: &ListedAdapter| a.family.as_deref() == Some(args.family.as_str()) && a.active_version.is_some();
    let found: Vec<AdapterRef> =
        listed.data.iter().filter(|a| serves(a)).map(|a| a.name.parse()).collect::<Result<_>>()?;
    match found.is_empty() {
        true => Err(Error::conflict(format!("{} serves no adapter of the family {}", args.url, args.family))),
        false => Ok(found),
    }
}

/// A busy server may refuse the probe; that, too, shows that it knows the adapter.
async fn probe(client: &Client, path: &str, adapter: &AdapterRef) -> Result<()> {
    let body = serde_json::json!({"adapter": adapter.to_string(), "inputs": "is it there?"}).to_string();
    let answer = client.ask(Method::POST, path, body.into()).await;
    let what = format!("a first request to adapter {adapter}");
    match answer.map_err(|failure| Error::unavailable(format!("{what}: {failure}")))? {
        (StatusCode::OK | StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT, _) => Ok(()),
        (status, body) => Err(refusal(&what, status, &body)),
    }
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

fn refusal(what: &str, status: StatusCode, body: &[u8]) -> Error {
    let detail =
        serde_json::from_slice(body).map_or_else(|_| "no detail".to_owned(), |problem: Problem| problem.detail);
    let kind = if status == StatusCode::NOT_FOUND { ErrorKind::NotFound } else { ErrorKind::Unavailable };
    Error::new(kind, format!("{what} was answered with {}: {detail}", status.as_u16()))
}

fn about(metrics: &[u8]) -> About {
    let metrics = String::from_utf8_lossy(metrics);
    let series = |name: &str| series_where(&metrics, name, None);
    let active = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("trunkline_backbone_active{")?.strip_suffix("} 1"))
        .find_map(|labels| label(labels, "fingerprint"));
    About {
        version: series("trunkline_build_info").and_then(|labels| label(labels, "version")),
        // Of several the active one; a server that has one at most does not say which.
        backbone: series_where(&metrics, "trunkline_backbone_info", active.as_deref()).and_then(|labels| {
            Some(Backbone {
                name: label(labels, "name")?,
                fingerprint: label(labels, "fingerprint")?,
                precision: label(labels, "precision")?,
                kernel: label(labels, "kernel")?,
            })
        }),
    }
}

/// The labels of the first series of a metric, with this fingerprint where one is wanted.
fn series_where<'a>(metrics: &'a str, name: &str, fingerprint: Option<&str>) -> Option<&'a str> {
    let mut labels = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    labels.find(|labels| fingerprint.is_none_or(|wanted| label(labels, "fingerprint").as_deref() == Some(wanted)))
}

/// A label's value. `labels` is a series after its `{`; a value with an escape in it is cut there, which these have not.
fn label(labels: &str, name: &str) -> Option<String> {
    let opening = format!("{name}=\"");
    let at = labels.match_indices(&opening).map(|(at, _)| at).find(|&at| at == 0 || labels[..at].ends_with(','))?;
    let value = &labels[at + opening.len()..];
    Some(value[..value.find(['"', '\\'])?].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        for (url, wanted) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://localhost:81/", "localhost:81"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://example.org", "example.org:80"),
        ] {
            assert_eq!(host(url).unwrap(), wanted);
        }
        for (url, wanted) in [
            ("127.0.0.1:8080", "http://HOST:PORT"),
            ("localhost", "no scheme"),
            ("https://localhost", "\"https\""),
            ("http://localhost:8080/v1/ner", "more than a host"),
            ("http://localhost:8080?a=b", "more than a host"),
            ("http://me@localhost", "more than a host"),
            ("", "--url"),
        ] {
            let error = host(url).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidRequest && error.to_string().contains(wanted), "{url}: {error}");
        }
    }

    #[test]
    fn the_server_tells_its_version_and_backbone() {
        let metrics = b"# HELP trunkline_backbone_info A resident backbone\n\
            trunkline_backbone_active{fingerprint=\"sha256:aa\",name=\"old\"} 0\n\
            trunkline_backbone_active{fingerprint=\"sha256:ab\",name=\"all-MiniLM-L6-v2\"} 1\n\
            trunkline_backbone_info{fingerprint=\"sha256:aa\",kernel=\"avx512\",name=\"old\",precision=\"f32\"} 1\n\
            trunkline_backbone_info{fingerprint=\"sha256:ab\",kernel=\"avx512\",name=\"all-MiniLM-L6-v2\",precision=\"f32\"} 1\n\
            trunkline_build_info{version=\"0.1.0\"} 1\n";
        let backbone = Backbone {
            name: "all-MiniLM-L6-v2".into(),
            fingerprint: "sha256:ab".into(),
            precision: "f32".into(),
            kernel: "avx512".into(),
        };
        assert_eq!(about(metrics), About { version: Some("0.1.0".into()), backbone: Some(backbone) });
        assert_eq!(about(b"up 1\n"), About { version: None, backbone: None });
    }
}
