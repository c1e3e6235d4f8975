//! How a person gets in and out: the one-time link, a token typed into the page, signing out.
//!
//! `GET /once/{secret}` shows a button and changes nothing: mail scanners and previews open every link they
//! see. The `POST` of that button uses the link up and sets the session's cookie. These pages work without
//! script.

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Path, attempts,
    auth::{self, COOKIE, Caller, With},
    body,
    error::Problem,
    page::{self, Door},
    routes::{About, Routes},
    time, view,
};
use crate::registry::{
    Arrival, RegistryError,
    login::{SESSION_MS, Session},
};

/// Where links lead. What follows it is a secret: no log and no refusal shows it.
pub(super) const ONCE: &str = "/once/";
/// Largest form: a token and its name.
const FORM_MAX: usize = 4096;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.post(
        "/v1/login",
        token,
        About::new("Use a one-time link up for a token")
            .takes::<Posted>()
            .answers::<view::NewToken>("token")
            .refuses([Code::LinkEnded, Code::SignInLimited, Code::OriginForeign])
            .open()
            .secret(),
    )
}

/// Shows whom a link is for, and the button that uses it up.
pub(super) async fn once(
    State(doors): State<Doors>,
    Path(secret): Path<String>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let at = auth::arrival(&parts);
    let looked = match doors.access.may_try(&at) {
        Ok(()) => match doors.registry.look_at_link(&secret).await {
            Ok(name) => Ok(name),
            Err(error) => Err(failed(&doors, &at, error).await),
        },
        Err(limited) => Err(limited),
    };
    match looked {
        Ok(name) => page::door(&Door::Link(&name), "/"),
        Err(problem) => problem.into_response(),
    }
}

/// Uses a link up.
pub(super) async fn redeem(
    State(doors): State<Doors>,
    Path(secret): Path<String>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let at = auth::arrival(&parts);
    match redeemed(&doors, &secret, &parts, &at).await {
        Ok(session) => signed_in(&session, "/"),
        Err(problem) => problem.into_response(),
    }
}

async fn redeemed(doors: &Doors, secret: &str, parts: &Parts, at: &Arrival) -> Result<Session, Problem> {
    auth::same_origin(parts, true)?;
    doors.access.may_try(at)?;
    match doors.registry.redeem_link(secret, at).await {
        Ok(session) => Ok(session),
        Err(error) => Err(failed(doors, at, error).await),
    }
}

/// The form that takes a token.
pub(super) async fn form(uri: Uri) -> Response {
    page::asked(&uri)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    token: String,
    /// Where to go on.
    then: Option<String>,
}

/// Opens a session with a token that was typed in.
pub(super) async fn sign_in(State(doors): State<Doors>, request: Request) -> Response {
    let (parts, octets) = request.into_parts();
    let at = auth::arrival(&parts);
    match typed(&doors, &parts, octets, &at).await {
        Ok((session, then)) => signed_in(&session, page::within(&then)),
        Err(problem) => problem.into_response(),
    }
}

async fn typed(
    doors: &Doors,
    parts: &Parts,
    octets: Body,
    at: &Arrival,
) -> Result<(Session, String), Problem> {
    auth::same_origin(parts, true)?;
    doors.access.may_try(at)?;
    let octets = body(octets, FORM_MAX).await?;
    let wrong =
        |why: String| Problem::new(Code::UsageWrong).what("the form is not the one shown").because(why);
    // A form is written as a query is (URL standard, application/x-www-form-urlencoded).
    let text = std::str::from_utf8(&octets).map_err(|error| wrong(error.to_string()))?;
    let uri =
        format!("/?{text}").parse().map_err(|error: axum::http::uri::InvalidUri| wrong(error.to_string()))?;
    let Typed { token, then } =
        axum::extract::Query::try_from_uri(&uri).map_err(|error| wrong(error.body_text()))?.0;
    match doors.registry.sign_in(token.trim(), at).await {
        Ok(session) => Ok((session, then.unwrap_or_default())),
        Err(error) => Err(failed(doors, at, error).await),
    }
}

/// A failed sign-in: counted, recorded, and said.
async fn failed(doors: &Doors, at: &Arrival, error: RegistryError) -> Problem {
    let limited = match attempts::failure(&error) {
        Some(failure) => doors.access.failed(&doors.registry, at, failure).await,
        None => None,
    };
    limited.unwrap_or_else(|| auth::problem(error))
}

/// Ends the session, and takes its cookie back.
pub(super) async fn sign_out(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    if caller.with() != With::Session {
        return Err(Problem::new(Code::UsageWrong)
            .what("only a session of the page can be signed out of")
            .next("end a token with: muster token revoke ID"));
    }
    doors.registry.sign_out(caller.actor()).await?;
    Ok(away("/login", &format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")))
}

fn signed_in(session: &Session, then: &str) -> Response {
    // The server ends it, used or not; the browser forgets it at the latest then.
    let age_s = SESSION_MS / 1000;
    let secret = session.expose_secret();
    away(then, &format!("{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={age_s}"))
}

/// To another page of ours, with a cookie.
fn away(path: &str, cookie: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    if let Ok(path) = HeaderValue::from_str(path) {
        headers.insert(header::LOCATION, path);
    }
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    link: String,
}

/// Uses a link up for a token: how the command line signs in.
pub(super) async fn token(
    State(doors): State<Doors>,
    request: Request,
) -> Result<Json<view::NewToken>, Problem> {
    let (parts, octets) = request.into_parts();
    let at = auth::arrival(&parts);
    auth::same_origin(&parts, true)?;
    doors.access.may_try(&at)?;
    let octets = body(octets, FORM_MAX).await?;
    let Posted { link } = serde_json::from_slice(&octets).map_err(|error| {
        Problem::new(Code::UsageWrong)
            .what("the request's body is not {\"link\": \"…\"}")
            .because(error.to_string())
            .next("muster login")
    })?;
    let secret = link.rsplit('/').next().unwrap_or_default();
    match doors.registry.redeem_link_for_token(secret, &at).await {
        Ok((token, role, ends_at_ms)) => Ok(Json(view::NewToken {
            schema: "muster.token/1".to_owned(),
            id: token.id.clone(),
            name: format!("{}-login", token.operator.rsplit('/').next().unwrap_or_default()),
            operator: token.operator.clone(),
            role: role.as_str().to_owned(),
            tenant: token.scope.tenant().map(ToString::to_string),
            ends_at: Some(time::from_ms(ends_at_ms)),
            token: token.expose_secret().to_owned(),
        })),
        Err(error) => Err(failed(&doors, &at, error).await),
    }
}
