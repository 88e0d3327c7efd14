//! Who may ask for what. Keys are kept hashed and compared in constant time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::domain::{Error, ErrorKind, Result};
use crate::transport::api::Api;
use crate::transport::error::Failure;

/// The other end of the connection, as the accept loop saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What a group of routes demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Infer,
    Admin,
}

/// SHA-256 of each key.
pub(super) struct Keys {
    admin: Option<[u8; 32]>,
    infer: Option<[u8; 32]>,
}

impl Keys {
    pub(super) fn new(admin: Option<&str>, infer: Option<&str>) -> Self {
        Self { admin: admin.map(hash), infer: infer.map(hash) }
    }

    /// Admin routes without a key of their own are open to this machine alone; inference routes without one are open.
    fn authorize(&self, role: Role, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<()> {
        match role {
            Role::Admin if self.admin.is_none() => local_only(headers, peer),
            Role::Infer if self.infer.is_none() => Ok(()),
            _ => self.check(role, bearer(headers)?),
        }
    }

    fn check(&self, role: Role, key: &str) -> Result<()> {
        let given = hash(key);
        let is = |key: &Option<[u8; 32]>| key.is_some_and(|key| bool::from(key.ct_eq(&given)));
        let (admin, infer) = (is(&self.admin), is(&self.infer));
        match role {
            _ if admin => Ok(()),
            Role::Infer if infer => Ok(()),
            Role::Admin if infer => Err(denied("this key has the role \"infer\"; the role \"admin\" is wanted")),
            _ => Err(unauthenticated("this key is not known")),
        }
    }
}

/// Lets a request through to routes of `role`, or answers 401 or 403.
pub(super) async fn demand(
    State((api, role)): State<(Arc<Api>, Role)>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    api.keys.authorize(role, request.headers(), peer)?;
    Ok(next.run(request).await)
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn bearer(headers: &HeaderMap) -> Result<&str> {
    let wanted = || unauthenticated("a key is wanted: authorization: Bearer KEY");
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(wanted)?;
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(wanted()),
    }
}

/// Without a key, the peer's address is all we know. A web page open on this machine has that address too:
/// it is kept out by its `origin`, and one that renamed itself to 127.0.0.1 by the `host` it still sends.
fn local_only(headers: &HeaderMap, peer: Option<IpAddr>) -> Result<()> {
    if !peer.is_some_and(|ip| ip.to_canonical().is_loopback()) {
        return Err(denied("no admin key is configured, so the admin routes answer on a loopback address only"));
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| !is_local_name(host)) {
        return Err(denied("without an admin key the admin routes want a host of this machine, as 127.0.0.1"));
    }
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    if origin.is_some_and(|origin| host.is_none_or(|host| origin != format!("http://{host}"))) {
        return Err(denied("without an admin key the admin routes do not answer pages of other origins"));
    }
    Ok(())
}

fn is_local_name(authority: &str) -> bool {
    let Ok(uri) = authority.parse::<Uri>() else { return false };
    let Some(host) = uri.host() else { return false };
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn denied(message: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, message)
}

fn unauthenticated(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "127.0.0.1";
    const REMOTE: &str = "203.0.113.7";

    /// `ok` or the failure's code.
    fn ask(keys: (Option<&str>, Option<&str>), role: Role, key: Option<&str>, peer: &str) -> &'static str {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(AUTHORIZATION, key.parse().unwrap());
        }
        let result = Keys::new(keys.0, keys.1).authorize(role, &headers, Some(peer.parse().unwrap()));
        result.map_or_else(|error| error.kind().code(), |()| "ok")
    }

    #[test]
    fn a_key_opens_what_its_role_may() {
        let both = (Some("boss"), Some("guest"));
        let table = [
            (Role::Admin, Some("Bearer boss"), "ok"),
            (Role::Admin, Some("bearer boss"), "ok"),
            (Role::Admin, Some("Bearer guest"), "permission_denied"),
            (Role::Admin, Some("Bearer wrong"), "unauthenticated"),
            (Role::Admin, Some("Basic boss"), "unauthenticated"),
            (Role::Admin, None, "unauthenticated"),
            (Role::Infer, Some("Bearer guest"), "ok"),
            (Role::Infer, Some("Bearer boss"), "ok"),
            (Role::Infer, None, "unauthenticated"),
        ];
        for (role, key, wanted) in table {
            assert_eq!(ask(both, role, key, LOCAL), wanted, "{role:?} with {key:?}");
        }
    }

    #[test]
    fn without_an_admin_key_only_this_machine_is_let_in() {
        assert_eq!(ask((None, None), Role::Admin, None, LOCAL), "ok");
        assert_eq!(ask((None, None), Role::Admin, None, "::ffff:127.0.0.1"), "ok");
        assert_eq!(ask((None, None), Role::Admin, None, REMOTE), "permission_denied");
        assert_eq!(ask((None, None), Role::Infer, None, REMOTE), "ok");
        assert_eq!(ask((Some("boss"), None), Role::Infer, None, REMOTE), "ok");
    }

    #[test]
    fn without_an_admin_key_a_web_page_cannot_borrow_this_machines_address() {
        let table = [
            ("127.0.0.1:8080", None, "ok"),
            ("localhost:8080", Some("http://localhost:8080"), "ok"),
            ("[::1]:8080", None, "ok"),
            ("evil.example:8080", None, "permission_denied"),
            ("127.0.0.1:8080", Some("https://evil.example"), "permission_denied"),
            ("127.0.0.1:8080", Some("null"), "permission_denied"),
        ];
        for (host, origin, wanted) in table {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            let result = Keys::new(None, None).authorize(Role::Admin, &headers, Some(LOCAL.parse().unwrap()));
            assert_eq!(result.map_or_else(|e| e.kind().code(), |()| "ok"), wanted, "{host} {origin:?}");
        }
    }
}
