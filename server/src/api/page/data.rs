//! The page's one way to anything: the API, asked within the process.
//!
//! A page has no reads and no writes of its own. It sends the request a program would send, with the
//! credentials of whoever asked for the page, to the same routes: so what it shows, whom it shows it and what
//! it refuses are the API's, word for word.

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Request},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Response, header, request::Parts},
};
use muster_shared::Code;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::api::{Doors, RequestId, auth::Peer, error::Problem, view};

/// What of the browser's request the API judges it by: who asks, and from which page.
const PASSED_ON: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::ORIGIN,
    header::HOST,
    HeaderName::from_static("sec-fetch-site"),
];

/// Largest answer a page is made of, octets: a thousand lines of a listing fit.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// The API's routes, as a service. Put beside the page's own routes when the router is made.
#[derive(Clone)]
pub(in crate::api) struct Routes(pub(in crate::api) Router);

/// The API, asked as whoever asked for the page.
pub(super) struct Api {
    routes: Router,
    headers: HeaderMap,
    /// The connection and the request it came with: for certificates, and for the record.
    extensions: Extensions,
}

impl FromRequestParts<Doors> for Api {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Doors) -> Result<Self, Problem> {
        let routes = parts.extensions.get::<Routes>();
        let Routes(routes) = routes.cloned().ok_or_else(|| Problem::new(Code::Fault))?;
        let mut headers = HeaderMap::new();
        for name in &PASSED_ON {
            for value in parts.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let mut extensions = Extensions::new();
        if let Some(peer) = parts.extensions.get::<Peer>() {
            extensions.insert(peer.clone());
        }
        if let Some(id) = parts.extensions.get::<RequestId>() {
            extensions.insert(id.clone());
        }
        Ok(Self { routes, headers, extensions })
    }
}

impl Api {
    /// A document.
    ///
    /// # Errors
    /// What the API refused it with.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        read(&self.send(Method::GET, path, None, Body::empty()).await?.into_body())
    }

    /// A document, or nothing where there is none of that name.
    ///
    /// # Errors
    /// Any other refusal.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Problem> {
        match self.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(problem) if problem.status() == 404 => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// What the API answers to a document that is posted.
    ///
    /// # Errors
    /// What the API refused it with.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> Result<T, Problem> {
        read(&self.posted(path, document).await?.into_body())
    }

    /// The same, if what it changes is still of the version that was seen, where one was.
    ///
    /// # Errors
    /// What the API refused it with; M532 when it has changed.
    pub(super) async fn post_seen<T: DeserializeOwned>(
        &self,
        path: &str,
        seen: Option<u64>,
        document: &impl Serialize,
    ) -> Result<T, Problem> {
        read(&self.write(path, seen, document).await?.into_body())
    }

    /// The same with its headers: a cookie, for one.
    ///
    /// # Errors
    /// What the API refused it with.
    pub(super) async fn posted(
        &self,
        path: &str,
        document: &impl Serialize,
    ) -> Result<Response<Bytes>, Problem> {
        self.write(path, None, document).await
    }

    async fn write(
        &self,
        path: &str,
        seen: Option<u64>,
        document: &impl Serialize,
    ) -> Result<Response<Bytes>, Problem> {
        let body = serde_json::to_vec(document).map_err(|error| {
            Problem::new(Code::Fault).what("a form could not be sent on").because(error.to_string())
        })?;
        self.send(Method::POST, path, seen, body.into()).await
    }

    /// Who asks, and how the server is.
    ///
    /// # Errors
    /// M501 and M502 when nobody is signed in.
    pub(super) async fn status(&self) -> Result<view::Status, Problem> {
        self.get("/v1/status").await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        seen: Option<u64>,
        body: Body,
    ) -> Result<Response<Bytes>, Problem> {
        let mut request = Request::new(body);
        *request.uri_mut() = path.parse().map_err(|_| Problem::new(Code::RouteUnknown))?;
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        if let Some(seen) = seen {
            let version = HeaderValue::from_str(&format!("\"{seen}\""));
            let version = version.expect("digits in quotes are a header's value");
            request.headers_mut().insert(header::IF_MATCH, version);
        }
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        *request.method_mut() = method;
        let Ok(response) = self.routes.clone().oneshot(request).await;
        let (mut parts, body) = response.into_parts();
        if let Some(problem) = parts.extensions.remove::<Problem>() {
            return Err(problem);
        }
        if !parts.status.is_success() {
            // Only what no route took comes without a refusal of ours.
            return Err(Problem::new(Code::RouteUnknown));
        }
        let body = to_bytes(body, ANSWER_MAX).await.map_err(|error| {
            Problem::new(Code::Fault).what("an answer could not be read").because(error.to_string())
        })?;
        Ok(Response::from_parts(parts, body))
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(changed)
}

/// A part of a document that was read.
///
/// # Errors
/// It is not what it should be.
pub(super) fn parsed<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_json::from_value(value).map_err(changed)
}

fn changed(error: serde_json::Error) -> Problem {
    Problem::new(Code::Fault).what("an answer is not the document it should be").because(error.to_string())
}

/// A text as one segment of a path, or one value of a query (RFC 3986 §2.3: what is unreserved stays).
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_whatever_is_in_it() {
        assert_eq!(encoded("MU-000_1.x~"), "MU-000_1.x~");
        assert_eq!(encoded("a/b?c=d&e#f g%"), "a%2Fb%3Fc%3Dd%26e%23f%20g%25");
        assert_eq!(encoded("ü"), "%C3%BC");
    }
}
