//! One refusal, as every surface of the server says it: what, where, why, next.
//!
//! The API answers it as a problem document (RFC 9457, `application/problem+json`); the command line
//! reads that document back with [`Problem::from_document`] and prints it. Writer and reader live here
//! together, so that no surface can say it differently.

use std::ops::{Deref, DerefMut};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry::{PlaceError, RegistryError};

/// A refusal with its particulars. Boxed: it is the rare end of results that are common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Particulars>);

/// What a [`Problem`] says. `code` decides the short words, the exit status and the HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Particulars {
    /// Which refusal.
    pub code: Code,
    /// What happened, with the particulars: `device MU-000118 is suspended`.
    pub what: String,
    /// Where: a route, an address, a file and line.
    pub place: Option<String>,
    /// Why, when known: who decided, and what they wrote.
    pub why: Option<String>,
    /// A runnable line or one physical act.
    pub next: String,
    /// The request's id, as the server's log has it.
    pub request_id: Option<String>,
    /// After how many seconds it may be tried again (`Retry-After`); `None`: nobody knows.
    pub retry_s: Option<u64>,
}

impl Deref for Problem {
    type Target = Particulars;
    fn deref(&self) -> &Particulars {
        &self.0
    }
}

impl DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut Particulars {
        &mut self.0
    }
}

impl Problem {
    /// A refusal with the code's own words.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self(Box::new(Particulars {
            code,
            what: code.words().to_owned(),
            place: None,
            why: None,
            next: code.entry().next.to_owned(),
            request_id: None,
            retry_s: None,
        }))
    }

    /// Says what happened with the particulars.
    #[must_use]
    pub fn what(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Replaces the code's next step by one that fits better here.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Says when it may be tried again.
    #[must_use]
    pub fn retry(mut self, after: std::time::Duration) -> Self {
        self.retry_s = Some(after.as_secs().max(1));
        self
    }

    /// Puts the device's serial into the next step.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        self.next = self.next.replace("{}", serial);
        self
    }

    /// The exit status of the command line.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.code.entry().exit
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.code.entry().http
    }

    /// The problem document (RFC 9457 §3.1) as one line of JSON.
    #[must_use]
    pub fn to_document(&self) -> String {
        let document = Document {
            kind: format!("urn:muster:error:{}", self.code),
            title: self.code.words().to_owned(),
            status: self.status(),
            detail: self.what.clone(),
            refusal: Refusal::of(self),
        };
        serde_json::to_string(&document).expect("strings and numbers always serialise")
    }

    /// The same refusal as the command line prints it with `--json`: `muster.error/1`.
    #[must_use]
    pub fn to_cli_json(&self) -> String {
        let document = CliDocument { schema: CLI_SCHEMA.to_owned(), refusal: Refusal::of(self) };
        serde_json::to_string(&document).expect("strings and numbers always serialise")
    }

    /// Reads a problem document. `None` when `body` is not one of ours.
    ///
    /// A code this build does not know (an older command line, a newer server) becomes
    /// [`Code::Fault`] and keeps its own id in the text.
    #[must_use]
    pub fn from_document(body: &[u8]) -> Option<Self> {
        let Document { refusal, .. } = serde_json::from_slice(body).ok()?;
        let (code, what) = match refusal.code.parse() {
            Ok(code) => (code, refusal.what),
            Err(_) => (Code::Fault, format!("{} {}", refusal.code, refusal.what)),
        };
        Some(Self(Box::new(Particulars {
            code,
            what,
            place: refusal.place,
            why: refusal.why,
            next: refusal.next,
            request_id: refusal.request_id,
            retry_s: None,
        })))
    }
}

/// What a problem document is sent as (RFC 9457 §3).
pub const MEDIA_TYPE: &str = "application/problem+json";
/// The schema name of an error on the command line.
const CLI_SCHEMA: &str = "muster.error/1";

/// The problem document, as it is written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: String,
    #[serde(flatten)]
    refusal: Refusal,
}

/// The same on the command line's standard error.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct CliDocument {
    schema: String,
    #[serde(flatten)]
    refusal: Refusal,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Refusal {
    code: String,
    what: String,
    #[serde(rename = "where")]
    place: Option<String>,
    why: Option<String>,
    next: String,
    exit: u8,
    request_id: Option<String>,
}

impl Refusal {
    fn of(problem: &Problem) -> Self {
        Self {
            code: problem.code.id().to_owned(),
            what: problem.what.clone(),
            place: problem.place.clone(),
            why: problem.why.clone(),
            next: problem.next.clone(),
            exit: problem.exit(),
            request_id: problem.request_id.clone(),
        }
    }
}

impl From<PlaceError> for Problem {
    /// The URL was read with the configuration: what can go wrong later is the password's file.
    fn from(error: PlaceError) -> Self {
        Self::new(Code::FileUnreadable).at("registry.password_file").because(error.to_string())
    }
}

impl From<RegistryError> for Problem {
    /// The one mapping of the registry's refusals. A fault is logged with its cause and answered without.
    fn from(error: RegistryError) -> Self {
        let problem = Self::new(error.code());
        match &error {
            RegistryError::Database(source) => {
                tracing::error!(%error, source = source.as_ref(), "the registry failed");
                problem
            }
            RegistryError::Damaged(_) => {
                tracing::error!(%error, "the registry failed");
                problem
            }
            RegistryError::Manifest { what, batch, line, .. } => {
                let batch = batch.as_ref().map(|batch| format!("batch {batch}"));
                let line = line.map(|line| format!("line {line}"));
                let place: Vec<_> = batch.into_iter().chain(line).collect();
                let problem = problem.because(what);
                if place.is_empty() { problem } else { problem.at(place.join(" ")) }
            }
            RegistryError::Station(why) | RegistryError::StationConflict(why) => problem.because(why),
            RegistryError::RootDiffers(_) | RegistryError::Ambiguous { .. } => {
                problem.because(error.to_string())
            }
            RegistryError::TokenUnknown | RegistryError::Closed => problem,
            _ => problem.what(error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.to_document()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2: a 401 names the scheme that would be accepted.
            let scheme = HeaderValue::from_static("Bearer realm=\"muster\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(after) = self.retry_s {
            response.headers_mut().insert(header::RETRY_AFTER, after.into());
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_reads_back_as_the_problem_it_was_written_from() {
        let problem = Problem::new(Code::DeviceSuspended)
            .what("device MU-1 is suspended")
            .at("POST /v1/devices/MU-1/command")
            .because("suspended by ana \"case 881\"")
            .serial("MU-1");
        let document = problem.to_document();
        assert_eq!(Problem::from_document(document.as_bytes()), Some(problem));
        let json: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(json["type"], "urn:muster:error:M201");
        assert_eq!(json["status"], 403);
        assert_eq!(json["next"], "muster device resume MU-1 --reason \"…\"");
        // Every field stands there, known or not.
        assert!(json.get("request_id").is_some_and(serde_json::Value::is_null));
    }

    #[test]
    fn an_unknown_code_is_kept_in_the_text() {
        let document = Problem::new(Code::Fault).to_document().replace("M506", "M999");
        let problem = Problem::from_document(document.as_bytes()).unwrap();
        assert_eq!(problem.code, Code::Fault);
        assert!(problem.what.starts_with("M999 "), "{}", problem.what);
    }

    #[test]
    fn what_is_not_a_problem_document_is_not_read_as_one() {
        for body in [&b""[..], b"{}", b"<html>", b"[]", b"{\"code\":\"M201\"}"] {
            assert_eq!(Problem::from_document(body), None);
        }
    }

    #[test]
    fn the_api_answers_no_code_with_a_success() {
        for code in Code::ALL {
            assert!(code.entry().http >= 400, "{code}");
        }
    }
}
