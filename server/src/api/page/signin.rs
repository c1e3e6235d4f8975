//! Coming in: by the first link, or with a token. What is done is `login`'s; this is what is seen.

use askama::Template;
use axum::{
    http::{StatusCode, Uri},
    response::Response,
};

use super::{Shell, data::encoded, form::Fields, page_with};
use crate::api::error::Problem;

/// What stands at the door.
pub(in crate::api) enum Door<'a> {
    /// A link that is looked at, and whom it is for: who presses the button uses it up.
    Link(&'a str),
    /// A token is asked for; `ended` when a session was over.
    Token {
        /// Whether one was.
        ended: bool,
    },
    /// It stayed shut.
    Refused(&'a Problem),
}

#[derive(Template)]
#[template(path = "signin.html")]
struct SignIn<'a> {
    shell: Shell,
    link: Option<&'a str>,
    then: &'a str,
    ended: bool,
    problem: Option<&'a Problem>,
}

impl SignIn<'_> {
    /// Where the form goes. It says itself where to go on: so does the page that refuses it.
    fn action(&self) -> String {
        if self.then == "/" { "/login".to_owned() } else { format!("/login?then={}", encoded(self.then)) }
    }
}

/// The page at the door. `then` is where to go on afterwards.
pub(in crate::api) fn door(door: &Door<'_>, then: &str) -> Response {
    let (link, problem, ended) = match door {
        Door::Link(name) => (Some(*name), None, false),
        Door::Token { ended } => (None, None, *ended),
        Door::Refused(problem) => (None, Some(*problem), false),
    };
    let status = problem.map_or(200, |problem| problem.status());
    let page = SignIn { shell: Shell::outside("Sign in"), link, then: within(then), ended, problem };
    page_with(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), &page)
}

/// The page that asks for a token, as its address says: where to go on, and whether a session was over.
pub(in crate::api) fn asked(uri: &Uri) -> Response {
    let fields = fields(uri);
    door(&Door::Token { ended: fields.one("ended").is_some() }, fields.one("then").unwrap_or("/"))
}

/// The page that stayed shut, and asks once more. `uri` is the form's, and says where to go on.
pub(super) fn shut(problem: &Problem, uri: &Uri) -> Response {
    door(&Door::Refused(problem), fields(uri).one("then").unwrap_or("/"))
}

fn fields(uri: &Uri) -> Fields {
    Fields::read(uri.query().unwrap_or_default()).unwrap_or_default()
}

/// Where to go on: within this site, whatever the address says.
pub(in crate::api) fn within(then: &str) -> &str {
    // What a header cannot hold, an address has encoded (RFC 3986 §2).
    let odd = |c: char| c == '\\' || !c.is_ascii_graphic();
    let inside = then.starts_with('/') && !then.starts_with("//") && !then.contains(odd);
    if inside { then } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere_after_signing_in() {
        let here = "/devices?filter=state%3Aactive";
        assert_eq!(within(here), here);
        for away in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "",
            "/a\nb",
            "/a b",
            "/ü",
        ] {
            assert_eq!(within(away), "/", "{away:?}");
        }
    }
}
