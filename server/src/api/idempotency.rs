//! Writes that may be repeated: a request with an `Idempotency-Key` header is done once, and each repeat of it is
//! answered as the first was (draft-ietf-httpapi-idempotency-key-header).
//!
//! | key | answer |
//! |---|---|
//! | new | the request is done, to its end even when the client goes away, and its answer kept for a day |
//! | known, the same request | the first answer, with `Idempotency-Replayed: true` |
//! | known, another request | 422 [`Code::KeyReused`] |
//! | its request has not ended, or a crash cut it short | 409 [`Code::KeyInUse`] |
//!
//! What was not done for want of a token, a role, time or room is not kept: its repeat is tried again. An answer
//! that holds what is shown once is never kept: its repeat is told that it was done.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts as _, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use muster_shared::Code;
use sha2::{Digest as _, Sha256};

use super::{
    Doors,
    asking::credential,
    auth::{Caller, Need},
    body,
    error::{MEDIA_TYPE, Problem},
};
use crate::registry::{
    idempotency::{Ended, Key},
    now_ms,
};

/// The header.
const NAME: &str = "idempotency-key";
/// Longest key, octets.
const KEY_MAX: usize = 128;
/// Largest answer that is kept, octets; of a larger one only that it was given.
const ANSWER_MAX: usize = 1 << 20;

/// What this works on.
#[derive(Clone)]
pub(super) struct Keeping {
    pub(super) doors: Doors,
    /// Paths whose answers hold what is shown once.
    pub(super) secret: Arc<BTreeSet<&'static str>>,
}

/// Goes around every request.
pub(super) async fn keep(State(keeping): State<Keeping>, request: Request, next: Next) -> Response {
    // Of any other method none is served: whoever asks with one is told so, under a key or not.
    let writes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    if !writes || !request.headers().contains_key(NAME) {
        return next.run(request).await;
    }
    match keeping.once(request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

impl Keeping {
    async fn once(self, request: Request, next: Next) -> Result<Response, Problem> {
        let key = key(request.headers())?;
        let (mut parts, octets) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, &self.doors).await?;
        let who = credential(caller.may(Need::Look)?);
        let octets = body(octets, self.doors.facts.body_max).await?;
        let mut hash = Sha256::new();
        let place = parts.uri.path_and_query().map_or("", |place| place.as_str());
        for text in [parts.method.as_str().as_bytes(), place.as_bytes(), &octets] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        match self.doors.registry.key_begin(&who, &key, hash.finalize().into(), now_ms()).await? {
            Key::New => {}
            Key::Open => return Err(Problem::new(Code::KeyInUse)),
            Key::Reused => return Err(Problem::new(Code::KeyReused)),
            Key::Full => {
                return Err(Problem::new(Code::RateLimited).because("too many idempotency keys within a day"));
            }
            Key::Ended(ended) => return replay(ended),
        }
        let secret =
            parts.extensions.get::<MatchedPath>().is_some_and(|path| self.secret.contains(path.as_str()));
        let request = Request::from_parts(parts, Body::from(octets));
        // On a task of its own: a client that goes away asks again, and is then told how it ended.
        let done = tokio::spawn(async move {
            let response = next.run(request).await;
            self.ended(&who, &key, response, secret).await
        });
        done.await.map_err(|_| Problem::new(Code::Fault))
    }

    /// Keeps what became of it, and gives the answer on.
    async fn ended(&self, who: &str, key: &str, response: Response, secret: bool) -> Response {
        let (parts, octets) = response.into_parts();
        let Ok(octets) = body(octets, usize::MAX).await else {
            return Problem::new(Code::Fault).into_response();
        };
        let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let kept = !secret && octets.len() <= ANSWER_MAX;
        let ended = Ended {
            status: parts.status.as_u16(),
            media: text(header::CONTENT_TYPE).unwrap_or_default().to_owned(),
            etag: text(header::ETAG).map(str::to_owned),
            body: kept.then(|| octets.to_vec()),
        };
        let written = match fate(parts.status) {
            Fate::Kept => self.doors.registry.key_end(who, key, Some(ended)).await,
            Fate::NotDone => self.doors.registry.key_end(who, key, None).await,
            Fate::Unknown => Ok(()),
        };
        if let Err(error) = written {
            tracing::error!(%error, "an idempotency key stays open: its request's end cannot be written");
        }
        Response::from_parts(parts, Body::from(octets))
    }
}

/// What an answer says of its request.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It has come to this, for good.
    Kept,
    /// Nothing was done.
    NotDone,
    /// Something may have been done.
    Unknown,
}

fn fate(status: StatusCode) -> Fate {
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE => Fate::NotDone,
        StatusCode::REQUEST_TIMEOUT => Fate::Unknown,
        status if status.is_server_error() => Fate::Unknown,
        _ => Fate::Kept,
    }
}

/// The key: a quoted string (RFC 8941 §3.3.3), or the same characters without quotes.
fn key(headers: &HeaderMap) -> Result<String, Problem> {
    let wrong = |why: &str| {
        Problem::new(Code::UsageWrong)
            .what("the Idempotency-Key is not one")
            .because(why)
            .next("send one, such as a UUID, in quotes")
    };
    let mut all = headers.get_all(NAME).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return Err(wrong("there are several")) };
    let text = value.to_str().map_err(|_| wrong("it is not printable ASCII"))?.trim();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if inner.is_empty() || inner.len() > KEY_MAX {
        return Err(wrong("it has 1 to 128 characters"));
    }
    if !inner.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'"' && octet != b'\\') {
        return Err(wrong("it holds a quote, a backslash or a space"));
    }
    Ok(inner.to_owned())
}

fn replay(ended: Ended) -> Result<Response, Problem> {
    let Some(octets) = ended.body else {
        return Err(Problem::new(Code::KeyInUse)
            .what(format!("it was done, with status {}; its answer is not kept", ended.status))
            .next("look at what it made, or repeat it with a new key"));
    };
    let replayed = (HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    if let Some(problem) = Problem::from_document(&octets).filter(|_| ended.media == MEDIA_TYPE) {
        return Ok(([replayed], problem).into_response());
    }
    let status = StatusCode::from_u16(ended.status).unwrap_or(StatusCode::OK);
    let mut response = (status, [replayed], Bytes::from(octets)).into_response();
    for (name, text) in [(header::CONTENT_TYPE, Some(ended.media)), (header::ETAG, ended.etag)] {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_quoted_string_or_a_word() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(NAME, value.parse().unwrap());
            }
            key(&headers).ok()
        };
        assert_eq!(of(&["\"8e03978e-40d5\""]).as_deref(), Some("8e03978e-40d5"));
        assert_eq!(of(&["8e03978e-40d5"]).as_deref(), Some("8e03978e-40d5"));
        let long = "x".repeat(129);
        for wrong in [&["\"\""][..], &["a b"], &["\"a"], &["a\\b"], &[&long], &["a", "a"]] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_what_is_settled_is_kept() {
        let of = |status: u16| fate(StatusCode::from_u16(status).unwrap());
        for kept in [200, 202, 400, 404, 409, 412, 422, 428] {
            assert_eq!(of(kept), Fate::Kept, "{kept}");
        }
        for again in [401, 403, 429, 503] {
            assert_eq!(of(again), Fate::NotDone, "{again}");
        }
        for unknown in [408, 500] {
            assert_eq!(of(unknown), Fate::Unknown, "{unknown}");
        }
    }
}
