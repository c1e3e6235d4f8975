//! Who asks, and whether their role covers it.
//!
//! ```text
//! Authorization: Bearer TOKEN   a program, the command line        (RFC 6750 §2.1)
//! Cookie: __Host-muster=SECRET  a browser that has signed in
//! a certificate of the operator CA, shown in the TLS handshake
//! ```
//!
//! Looked at in this order; the first that is there decides, and all become the same [`Actor`]. A browser
//! adds cookies and certificates to whatever any page makes it send: so what came with one of those changes
//! something only when the page it came from was ours ([`same_origin`]).

use std::time::Instant;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use muster_shared::{CertificateId, Code, Tenant};

use super::{Doors, RequestId, asking::credential, attempts, error::Problem, time};
pub(super) use crate::registry::Need;
use crate::registry::{Actor, Arrival, RegistryError, Role, Scope};

/// The session's cookie. A browser takes a `__Host-` cookie only from this very host, over HTTPS and for
/// every path (RFC 6265bis §4.1.3.2).
pub(super) const COOKIE: &str = "__Host-muster";
/// The actor of who can read the data directory of the running server.
const HOST: &str = "host";

/// The other end of a connection: put into each of its requests by [`super::serve`].
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: std::net::SocketAddr,
    pub(super) certificate: Option<OperatorCertificate>,
}

/// A certificate of the operator CA, verified in the handshake.
#[derive(Debug, Clone)]
pub(super) struct OperatorCertificate {
    /// `CN`: whom it names.
    pub(super) name: String,
    pub(super) id: CertificateId,
    /// Its last good second; a connection may outlive it.
    pub(super) not_after_s: i64,
}

/// With what somebody came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    Token,
    Session,
    Certificate,
    /// The secret in the data directory of the running server.
    Host,
}

/// Somebody whose credential was checked. Handlers take it as an argument, so a route without a caller has
/// no actor to decide with.
pub(super) struct Caller {
    actor: Actor,
    with: With,
}

impl Caller {
    /// Who asked before and is asked about again: no request of theirs, so none is counted.
    ///
    /// # Errors
    /// What they would be refused with.
    pub(super) async fn again(parts: &mut Parts, doors: &Doors) -> Result<Self, Problem> {
        parts.extensions.insert(Counted);
        Self::from_request_parts(parts, doors).await
    }

    /// The one tenant they see; `None` for every.
    pub(super) fn tenant(&self) -> Option<&Tenant> {
        self.actor.tenant()
    }

    /// The actor, if the role covers `need`.
    ///
    /// # Errors
    /// M503.
    pub(super) fn may(&self, need: Need) -> Result<&Actor, Problem> {
        if self.can(need) {
            return Ok(&self.actor);
        }
        Err(Problem::new(Code::RoleMissing)
            .what(format!("{} may not do that as {}", self.actor.name, self.actor.role))
            .because(format!("it needs the role {} or a higher one", need.least())))
    }

    /// The actor, if the role covers `need` and they see every tenant: for what cannot be divided.
    ///
    /// # Errors
    /// M503.
    pub(super) fn may_everywhere(&self, need: Need) -> Result<&Actor, Problem> {
        let actor = self.may(need)?;
        if *self.scope() == Scope::Every {
            return Ok(actor);
        }
        Err(Problem::new(Code::RoleMissing)
            .what(format!("{} may not do that for one tenant", actor.name))
            .because("it is about what all tenants share, and needs somebody who sees every tenant"))
    }

    /// Whether the role covers `need`: what is not covered is not offered.
    pub(super) fn can(&self, need: Need) -> bool {
        self.actor.role.covers(need)
    }

    /// Whose things they see: what every read of the registry takes.
    pub(super) fn scope(&self) -> &Scope {
        &self.actor.scope
    }

    /// Who they are.
    pub(super) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// With what they came.
    pub(super) fn with(&self) -> With {
        self.with
    }
}

/// The request was counted.
#[derive(Clone, Copy)]
struct Counted;

impl FromRequestParts<Doors> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, Problem> {
        let at = arrival(parts);
        let (actor, with) = match identify(parts, doors).await {
            Ok(found) => found,
            Err(error) => return Err(refused(doors, &at, error).await),
        };
        // One request is counted once, however often it is asked who asks.
        if parts.extensions.insert(Counted).is_none() {
            doors.asking.request(&credential(&actor), Instant::now())?;
        }
        let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !safe && matches!(with, With::Session | With::Certificate) {
            same_origin(parts, with == With::Certificate)?;
        }
        Ok(Self { actor: Actor { request: at.request, address: at.address, ..actor }, with })
    }
}

/// Where a request came from, for the record.
pub(super) fn arrival(parts: &Parts) -> Arrival {
    let id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip().to_canonical().to_string());
    Arrival { request: id.unwrap_or_default(), address: peer.unwrap_or_default() }
}

/// Why nobody was recognised.
enum Unknown {
    /// Nothing was shown.
    Nothing(&'static str),
    /// What was shown is not, or no longer, good.
    Refused(RegistryError),
}

impl From<RegistryError> for Unknown {
    fn from(error: RegistryError) -> Self {
        Self::Refused(error)
    }
}

async fn identify(parts: &Parts, doors: &Doors) -> Result<(Actor, With), Unknown> {
    let registry = &doors.registry;
    if let Some(token) = bearer(&parts.headers)? {
        if doors.access.is_host(token) && parts.uri.path().starts_with("/v1/operators") {
            return Ok((Actor::named(HOST, Role::Admin), With::Host));
        }
        return Ok((registry.check_token(token).await?, With::Token));
    }
    if let Some(secret) = cookie(&parts.headers) {
        return Ok((registry.check_session(secret).await?, With::Session));
    }
    let peer = parts.extensions.get::<Peer>();
    if let Some(certificate) = peer.and_then(|peer| peer.certificate.as_ref()) {
        if certificate.not_after_s < (crate::registry::now_ms() / 1000).cast_signed() {
            return Err(Unknown::Nothing("the certificate has ended since the connection was made"));
        }
        let actor = registry.check_operator_certificate(&certificate.name, &certificate.id).await?;
        return Ok((actor, With::Certificate));
    }
    Err(Unknown::Nothing("there is no Authorization header, no session and no certificate"))
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1); `None` without the header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Unknown> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(Unknown::Nothing("there is not exactly one Authorization header")),
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(Some(token))
        }
        _ => Err(Unknown::Nothing("the Authorization header is not Bearer TOKEN")),
    }
}

/// The session's secret. Two cookies of the name, which no browser sends, are none.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value);
    ours.next().filter(|_| ours.next().is_none())
}

/// A refusal with its particulars. One that looks like guessing is counted and recorded; who signs in anew
/// from there waits, and a program with a good token does not.
async fn refused(doors: &Doors, at: &Arrival, unknown: Unknown) -> Problem {
    let error = match unknown {
        Unknown::Nothing(why) => return Problem::new(Code::NotSignedIn).because(why),
        Unknown::Refused(error) => error,
    };
    if let Some(failed) = attempts::failure(&error) {
        let _ = doors.access.failed(&doors.registry, at, failed).await;
    }
    problem(error)
}

/// A refused credential, as every door says it.
pub(super) fn problem(error: RegistryError) -> Problem {
    match error {
        RegistryError::TokenEnded { name, role, ended_at_ms, .. } => Problem::new(Code::TokenEnded)
            .what(format!("token {name:?} ended at {}", time::from_ms(ended_at_ms)))
            .because(format!("role {role}"))
            .next(format!("an admin runs: muster token create {name} --role {role} --days 90")),
        RegistryError::OperatorUnknown(name) => Problem::new(Code::NotSignedIn)
            .what(format!("the certificate names {name:?}, who is no operator")),
        RegistryError::LinkEnded { why, .. } => Problem::new(Code::LinkEnded).because(why),
        RegistryError::SessionEnded { why, .. } => Problem::new(Code::SessionEnded).because(why),
        other => other.into(),
    }
}

/// Whether a browser sent this from a page of ours. `Sec-Fetch-Site` says so where the browser is new enough;
/// `Origin` otherwise, which every browser sends with a POST. A program that has a certificate sends neither.
///
/// # Errors
/// M522.
pub(super) fn same_origin(parts: &Parts, program: bool) -> Result<(), Problem> {
    let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let foreign = |why: String| Err(Problem::new(Code::OriginForeign).because(why));
    if let Some(site) = text("sec-fetch-site") {
        return if site == "same-origin" { Ok(()) } else { foreign(format!("Sec-Fetch-Site is {site}")) };
    }
    // HTTP/2 has the host in the request's own address (RFC 9113 §8.3.1).
    let host = parts.uri.authority().map(|authority| authority.as_str()).or_else(|| text("host"));
    match (text("origin"), host) {
        (Some(origin), Some(host)) if origin.strip_prefix("https://") == Some(host) => Ok(()),
        (Some(origin), _) => foreign(format!("Origin is {origin}")),
        (None, _) if program => Ok(()),
        (None, _) => foreign("there is neither Sec-Fetch-Site nor Origin".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_one_well_formed_bearer_is_taken() {
        let of = |values: &[&str]| {
            let headers = headers(header::AUTHORIZATION, values);
            bearer(&headers).map(|token| token.map(str::to_owned)).map_err(|_| ())
        };
        assert_eq!(of(&["Bearer abc"]), Ok(Some("abc".to_owned())));
        assert_eq!(of(&["bearer abc"]), Ok(Some("abc".to_owned())));
        assert_eq!(of(&[]), Ok(None));
        for wrong in [&["Bearer"][..], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(of(wrong), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn only_one_cookie_of_the_very_name_is_taken() {
        let of = |values: &[&str]| cookie(&headers(header::COOKIE, values)).map(str::to_owned);
        assert_eq!(of(&["a=b; __Host-muster=xyz; c=d"]).as_deref(), Some("xyz"));
        assert_eq!(of(&["a=b", "__Host-muster=xyz"]).as_deref(), Some("xyz"));
        for none in [
            &[][..],
            &["muster=xyz"],
            &["__host-muster=xyz"],
            &["__Host-muster"],
            &["__Host-muster=x; __Host-muster=y"],
            &["__Host-muster=x", "__Host-muster=x"],
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_write_from_another_page_is_refused() {
        let of = |pairs: &[(&str, &str)], program| {
            let mut request = axum::http::Request::builder().uri("/v1/tokens");
            for (name, value) in pairs {
                request = request.header(*name, *value);
            }
            same_origin(&request.body(()).unwrap().into_parts().0, program).map_err(|problem| problem.code)
        };
        let host = ("host", "muster.local:8443");
        assert_eq!(of(&[host, ("sec-fetch-site", "same-origin")], false), Ok(()));
        assert_eq!(of(&[host, ("origin", "https://muster.local:8443")], false), Ok(()));
        assert_eq!(of(&[host], true), Ok(()));
        for foreign in [
            &[host][..],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("sec-fetch-site", "cross-site"), ("origin", "https://muster.local:8443")],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://muster.local:8443")],
            &[host, ("origin", "https://muster.local")],
            &[host, ("origin", "https://muster.local:8443.evil.test")],
            &[("origin", "https://muster.local:8443")],
        ] {
            assert_eq!(of(foreign, false), Err(Code::OriginForeign), "{foreign:?}");
        }
        assert_eq!(of(&[host, ("origin", "https://evil.test")], true), Err(Code::OriginForeign));
    }
}
