//! Who may ask for what. Keys are kept hashed and compared in constant time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::domain::{Error, ErrorKind, Result};
use crate::transport::api::Api;
use crate::transport::error::Failure;
use crate::transport::local::why_not_local;

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
    fn authorize(&self, role: Role, peer: Option<IpAddr>, uri: &Uri, headers: &HeaderMap) -> Result<()> {
        match role {
            Role::Admin if self.admin.is_none() => local_only(peer, uri, headers),
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
    api.keys.authorize(role, peer, request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn bearer(headers: &HeaderMap) -> Result<&str> {
    let wanted = || unauthenticated("a key is wanted: authorization: Bearer KEY");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).ok_or_else(wanted)?;
    if values.next().is_some() {
        return Err(unauthenticated("the header authorization is there twice; one key is wanted"));
    }
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(wanted()),
    }
}

fn local_only(peer: Option<IpAddr>, uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let refused = |why| {
        denied(&format!(
            "no admin key is configured, so the admin routes answer requests of this machine alone, and {why}"
        ))
    };
    why_not_local(peer, uri, headers).map_or(Ok(()), |why| Err(refused(why)))
}

fn denied(message: &str) -> Error {
    Error::new(ErrorKind::PermissionDenied, message)
}

fn unauthenticated(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use axum::http::header::HOST;

    use super::*;

    const LOCAL: &str = "127.0.0.1";
    const REMOTE: &str = "203.0.113.7";

    /// `ok` or the failure's code.
    fn ask(keys: (Option<&str>, Option<&str>), role: Role, key: Option<&str>, peer: &str) -> &'static str {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(AUTHORIZATION, key.parse().unwrap());
        }
        headers.insert(HOST, "localhost:8080".parse().unwrap());
        let (peer, uri) = (Some(peer.parse().unwrap()), Uri::from_static("/v1"));
        let result = Keys::new(keys.0, keys.1).authorize(role, peer, &uri, &headers);
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
        assert_eq!(ask((None, None), Role::Admin, None, REMOTE), "permission_denied");
        assert_eq!(ask((None, None), Role::Infer, None, REMOTE), "ok");
        assert_eq!(ask((Some("boss"), None), Role::Infer, None, REMOTE), "ok");
    }

    #[test]
    fn one_key_is_given_once() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer boss".parse().unwrap());
        headers.append(AUTHORIZATION, "Bearer guest".parse().unwrap());
        assert!(bearer(&headers).unwrap_err().message().contains("twice"));
    }
}
