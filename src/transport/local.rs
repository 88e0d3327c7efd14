//! Whether a request came from this machine itself: what the admin routes go by while there is no key for them.
//!
//! The peer's address says who connected, and not who asked: a proxy on this machine passes on what others ask, and a web page that is
//! open here is asked by its author. So everything a request says of where it comes from must say "here" as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// Headers that a proxy, a load balancer or a content network adds. `x-forwarded…` is known by its beginning.
const FORWARDED: [&str; 19] = [
    "forwarded",
    "forwarded-for",
    "via",
    "x-real-ip",
    "x-real-host",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-proxyuser-ip",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "cdn-loop",
];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request does not count as local; None if it does. `uri` has the name where the request line or HTTP/2's `:authority` gave one.
pub(super) fn why_not_local(peer: Option<IpAddr>, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if !peer.is_some_and(|ip| ip.to_canonical().is_loopback()) {
        return Some("this connection comes from another machine".to_owned());
    }
    if let Some(header) = headers.keys().find(|name| is_forwarding(name)) {
        return Some(format!("the header {header} says that the request came through a proxy"));
    }
    let name = match asked_name(uri, headers) {
        Ok(name) if is_this_machine(name) => name,
        Ok(name) => return Some(format!("the host {name:?} is not a name of this machine, as 127.0.0.1 is")),
        Err(why) => return Some(why.to_owned()),
    };
    why_foreign_page(name, headers)
}

fn is_forwarding(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded") || FORWARDED.contains(&name.as_str())
}

/// The one name that the request asks for, whichever way it is said.
fn asked_name<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, &'static str> {
    let authority = uri.authority().map(|authority| authority.as_str());
    let mut hosts = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    match (authority, hosts.next(), hosts.next()) {
        (_, _, Some(_)) => Err("the header host is there twice"),
        (Some(authority), Some(host), None) if !authority.eq_ignore_ascii_case(host) => {
            Err("the request names two hosts")
        }
        (Some(name), _, None) | (None, Some(name), None) => Ok(name),
        (None, None, None) => Err("the request names no host"),
    }
}

/// A page reaches this machine by its address; its browser says whose page it is.
fn why_foreign_page(name: &str, headers: &HeaderMap) -> Option<String> {
    let own = format!("http://{name}");
    let is_own = |origin: &HeaderValue| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
    if !headers.get_all(ORIGIN).iter().all(is_own) {
        return Some("the header origin names another page than one of this server".to_owned());
    }
    // `none`: somebody typed the address.
    let is_here = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    if !headers.get_all(SEC_FETCH_SITE).iter().all(is_here) {
        return Some("the header sec-fetch-site says that a page of another origin asks".to_owned());
    }
    None
}

/// `localhost` or a loopback address, with or without a port, and nothing else: a name that merely leads here (`127.0.0.1.nip.io`)
/// is somebody's.
fn is_this_machine(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).and_then(|host| host.parse().ok());
    let address = v6.map(|ip: Ipv6Addr| IpAddr::V6(ip)).or_else(|| host.parse::<Ipv4Addr>().ok().map(IpAddr::V4));
    let is_host = host.eq_ignore_ascii_case("localhost") || address.is_some_and(|ip| ip.to_canonical().is_loopback());
    is_host && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1";

    /// Empty where the request counts as local.
    fn refusal(peer: &str, uri: &str, headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        why_not_local(Some(peer.parse().unwrap()), &uri.parse().unwrap(), &map).unwrap_or_default()
    }

    #[test]
    fn only_a_name_of_this_machine_is_one() {
        for name in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.8.9.1:1",
            "localhost",
            "LocalHost:8080",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:8080",
            "[::ffff:7f00:1]",
            "localhost:65535",
        ] {
            assert_eq!(refusal(HERE, "/v1", &[("host", name)]), "", "{name}");
        }
        for name in [
            "",
            ":8080",
            "evil.example",
            "evil.example:8080",
            "evil@127.0.0.1",
            "evil.example@localhost:8080",
            "evil:pass@[::1]",
            "127.0.0.1@evil.example",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "app.localhost",
            "localhost.",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "0.0.0.0",
            "[::]",
            "::1",
            "[127.0.0.1]",
            "[::1%25lo]",
            "[::1",
            "::1]",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:+80",
            "127.0.0.1:65536",
            "127.0.0.1:80:80",
            "127.0.0.1, evil.example",
            " 127.0.0.1",
            "127.0.0.1/",
            "127.0.0.1?",
            "203.0.113.7",
            "é",
            "[::ffff:203.0.113.7]",
        ] {
            let got = refusal(HERE, "/v1", &[("host", name)]);
            assert!(got.contains("is not a name of this machine"), "{name:?}: {got}");
        }
    }

    #[test]
    fn the_name_is_wherever_the_protocol_puts_it_and_there_once() {
        for (uri, hosts, wanted) in [
            ("http://127.0.0.1:8080/v1", &[][..], ""),
            ("http://127.0.0.1:8080/v1", &["127.0.0.1:8080"], ""),
            ("http://LOCALHOST/v1", &["localhost"], ""),
            ("http://evil.example/v1", &[], "is not a name of this machine"),
            ("http://evil.example/v1", &["127.0.0.1"], "names two hosts"),
            ("http://127.0.0.1/v1", &["evil.example"], "names two hosts"),
            ("http://127.0.0.1:8080/v1", &["127.0.0.1"], "names two hosts"),
            ("http://evil@127.0.0.1/v1", &[], "is not a name of this machine"),
            ("http://evil@127.0.0.1/v1", &["127.0.0.1"], "names two hosts"),
            ("/v1", &["127.0.0.1", "127.0.0.1"], "twice"),
            ("/v1", &["127.0.0.1", "evil.example"], "twice"),
            ("http://127.0.0.1/v1", &["127.0.0.1", "evil.example"], "twice"),
            ("/v1", &[], "names no host"),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let got = refusal(HERE, uri, &headers);
            assert!(got.contains(wanted) && got.is_empty() == wanted.is_empty(), "{uri} {hosts:?}: {got}");
        }
    }

    #[test]
    fn what_came_through_a_proxy_is_not_local() {
        for name in
            FORWARDED.into_iter().chain(["x-forwarded-for", "x-forwarded-proto", "X-Forwarded-Host", "x-forwarded"])
        {
            let got = refusal(HERE, "/v1", &[("host", "127.0.0.1"), (name, "127.0.0.1")]);
            assert!(got.contains("proxy") && got.contains(&name.to_ascii_lowercase()), "{name}: {got}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_not_local() {
        for (name, value, is_local) in [
            ("origin", "http://127.0.0.1:8080", true),
            ("origin", "https://evil.example", false),
            ("origin", "http://127.0.0.1:3000", false),
            ("origin", "https://127.0.0.1:8080", false),
            ("origin", "null", false),
            ("origin", "", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
            ("sec-fetch-site", "whatever-comes", false),
        ] {
            let got = refusal(HERE, "/v1", &[("host", "127.0.0.1:8080"), (name, value)]);
            assert_eq!(got.is_empty(), is_local, "{name} {value}: {got}");
        }
        let own = ("origin", "http://127.0.0.1:8080");
        let both = [("host", "127.0.0.1:8080"), own, ("origin", "https://evil.example")];
        assert!(refusal(HERE, "/v1", &both).contains("origin"));
    }

    #[test]
    fn the_connection_comes_from_here() {
        for (peer, is_local) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("203.0.113.7", false),
            ("::ffff:203.0.113.7", false),
            ("10.0.0.1", false),
            ("fe80::1", false),
            ("::", false),
        ] {
            assert_eq!(refusal(peer, "/v1", &[("host", "127.0.0.1")]).is_empty(), is_local, "{peer}");
        }
        assert!(why_not_local(None, &"/".parse().unwrap(), &HeaderMap::new()).is_some());
    }
}
