//! The HTTPS API: the only way in for people and programs. Each route parses, asks the registry, renders.
//!
//! Every route but `/healthz` and `/readyz` needs a token whose role covers it (`auth`). Every refusal is
//! a problem document with a stable code ([`error`]). Bodies, times and connections are bounded.
//!
//! | module | is |
//! |---|---|
//! | [`error`], [`view`], [`time`] | refusals, documents, instants: each with its reader |
//! | `auth`, [`attempts`], `login` | who asks, and whether their role covers it; failed tries; getting in |
//! | `routes`, [`openapi`] | the one list of routes; the document made of it |
//! | `page` | the web page: a client of these routes |
//! | `devices`, `acts`, `commands`, `groups`, `readings`, `twin`, `batches`, [`certificates`], `rotation`, [`audit`],
//! `operators`, `tokens`, `status`, [`config`] | the routes |
//! | `status_list` | the signed status list |
//! | `stream`, [`jobs`], `explain`, `health` | what happens, told; one act on many; why, and why not; how it is |
//! | [`limits`], [`asking`], `idempotency` | how much may be asked; what is asked twice |
//! | [`serve`] | TLS, connections, graceful end |

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{FromRequest, Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use muster_shared::{Code, Tenant};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::Instrument as _;

mod acts;
pub mod asking;
pub mod attempts;
pub mod audit;
mod auth;
mod backup;
mod batches;
pub mod certificates;
mod chain;
mod commands;
pub mod config;
mod devices;
pub mod error;
pub mod exchange;
mod explain;
mod groups;
mod health;
mod idempotency;
pub mod jobs;
pub mod limits;
mod lists;
mod login;
mod metrics;
pub mod openapi;
mod operators;
pub mod overview;
mod page;
mod readings;
mod replace;
mod rotation;
mod routes;
pub mod serve;
mod sessions;
mod status;
mod status_list;
mod stream;
pub mod time;
mod tokens;
mod twin;
pub mod view;

use crate::{
    bus::Bus,
    certificate::Renewing,
    config::Keys,
    edge::{
        Roster, Sessions, Tail, Trust,
        figures::Figures,
        guard::{Guard, Tally},
    },
    registry::Registry,
    revocation::Revocation,
    uplink::{History, Writer},
};
use asking::Asking;
use error::Problem;
pub use page::refusal as page_of_refusal;
use routes::{About, Route, Routes};

/// Lines of a page when nobody says, and at most.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 1000;

/// What the routes work on. Cheap to clone.
#[derive(Clone)]
pub struct Doors {
    /// Decisions and listings.
    pub registry: Registry,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// What is kept of who is not.
    pub sessions: Arc<Sessions>,
    /// What went through the devices' door.
    pub figures: Arc<Figures>,
    /// What stands at it.
    pub guard: Arc<Guard>,
    /// Decisions that end sessions, seen through.
    pub revocation: Revocation,
    /// Whether messages can be stored.
    pub uplink: Writer,
    /// What sensors said over the last days.
    pub history: History,
    /// The authorities whose keys this server holds.
    pub held: Arc<certificates::Held>,
    /// Whether readers are woken.
    pub bus: Arc<dyn Bus>,
    /// What guards the ways in.
    pub access: Arc<attempts::Access>,
    /// Where messages are read.
    pub tail: Arc<Tail>,
    /// Whom the edge believes.
    pub trust: Arc<Trust>,
    /// How much may be asked.
    pub asking: Arc<Asking>,
    /// What is fixed from the start on.
    pub facts: Arc<Facts>,
}

/// What is fixed from the start on.
#[derive(Debug)]
pub struct Facts {
    /// When this process started, Unix milliseconds.
    pub started_at_ms: u64,
    /// Where devices connect.
    pub mqtt: String,
    /// Where what survives is kept.
    pub data_dir: PathBuf,
    /// How much may be asked.
    pub limits: limits::Limits,
    /// Largest body, octets.
    pub body_max: usize,
    /// Longest a request may take.
    pub request: Duration,
    /// Where the keys of the server's own authorities lie.
    pub keys: Keys,
    /// The broker's certificate in use.
    pub broker: Arc<Renewing>,
    /// The services that belong to one tenant.
    pub services: BTreeMap<String, Tenant>,
    /// What the guards at the devices' door see.
    pub tally: Arc<Tally>,
    /// What is told of the configuration in force.
    pub config: view::Config,
}

/// Every route, and the web page beside them.
pub fn router(doors: Doors) -> Router {
    let routes = described(Routes::new());
    let secret = routes.list().iter().filter(|route| route.about.secret).map(|route| route.path);
    let keeping = idempotency::Keeping { doors: doors.clone(), secret: Arc::new(secret.collect()) };
    let (router, list) = routes.finish();
    let described = Described { list, document: OnceLock::new(), index: OnceLock::new() };
    let router = router.layer(Extension(Arc::new(described)));
    let asked_within = page::Routes(router.clone().with_state(doors.clone()));
    router
        .merge(page::routes().layer(Extension(asked_within)))
        .fallback(|| async { Problem::new(Code::RouteUnknown) })
        .method_not_allowed_fallback(|| async { Problem::new(Code::MethodNotAllowed) })
        .layer(from_fn_with_state(keeping, idempotency::keep))
        .layer(from_fn_with_state(doors.clone(), frame))
        .with_state(doors)
}

/// What the routes are. Written when somebody asks first: devices need not wait for it at a start.
struct Described {
    list: Vec<Route>,
    document: OnceLock<Bytes>,
    index: OnceLock<Bytes>,
}

impl Described {
    fn document(&self) -> Bytes {
        self.document.get_or_init(|| openapi::document(&self.list).to_string().into()).clone()
    }

    fn index(&self) -> Bytes {
        self.index.get_or_init(|| index(&self.list).to_string().into()).clone()
    }
}

/// Adds every route: the one list of them.
fn described(routes: Routes) -> Routes {
    let routes = routes
        .get("/v1", list_routes, About::new("What there is").answers::<view::Page<view::Route>>("route.list"))
        .get(openapi::PATH, document, About::new("This document").open().answers::<Value>(""));
    let routes = metrics::routes(status::routes(routes));
    let routes = sessions::routes(routes);
    let routes = overview::routes(routes);
    let routes = devices::routes(routes);
    let routes = readings::routes(routes);
    let routes = twin::routes(routes);
    let routes = certificates::routes(routes);
    let routes = rotation::routes(routes);
    let routes = acts::routes(routes);
    let routes = replace::routes(routes);
    let routes = commands::routes(routes);
    let routes = batches::routes(routes);
    let routes = groups::routes(routes);
    let routes = audit::routes(routes);
    let routes = operators::routes(routes);
    let routes = login::routes(routes);
    let routes = tokens::routes(routes);
    let routes = jobs::routes(routes);
    let routes = explain::routes(routes);
    let routes = health::routes(routes);
    let routes = config::routes(routes);
    let routes = backup::routes(routes);
    let routes = exchange::routes(routes);
    stream::routes(routes)
}

async fn document(Extension(described): Extension<Arc<Described>>) -> Response {
    written(described.document())
}

async fn list_routes(
    caller: auth::Caller,
    Extension(described): Extension<Arc<Described>>,
) -> Result<Response, Problem> {
    caller.may(auth::Need::Look)?;
    Ok(written(described.index()))
}

/// A JSON document that is written already.
fn written(document: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

fn index(routes: &[Route]) -> Value {
    let items = routes.iter().map(|route| view::Route {
        method: route.method.to_owned(),
        path: route.path.to_owned(),
        summary: route.about.summary.to_owned(),
    });
    let page = view::Page::new("route", items.collect(), None, Some(routes.len() as u64));
    serde_json::to_value(page).expect("plain fields have a JSON form")
}

/// A request's id, as the server's log has it.
#[derive(Debug, Clone)]
struct RequestId(String);

/// What surrounds every request: an id, a time limit, headers, and the id within every refusal.
async fn frame(State(doors): State<Doors>, mut request: Request, next: Next) -> Response {
    let id = request_id();
    request.extensions_mut().insert(RequestId(id.clone()));
    // What follows a link's path is a secret.
    let path = request.uri().path();
    let path = if path.starts_with(login::ONCE) { "/once/…" } else { path };
    let place = format!("{} {path}", request.method());
    let shown_to_a_person = page::is_page(request.uri()).then(|| request.uri().clone());
    let span = tracing::info_span!("request", id = %id, place = %place);
    let answer = tokio::time::timeout(doors.facts.request, next.run(request)).instrument(span.clone()).await;
    let mut response = answer.unwrap_or_else(|_| Problem::new(Code::RequestTimeout).into_response());
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.request_id = Some(id.clone());
        problem.place.get_or_insert(place);
        span.in_scope(|| tracing::info!(code = %problem.code, what = %problem.what, "refused"));
        // What the first rendering set besides the body stays: Allow, for one.
        let headers = std::mem::take(response.headers_mut());
        response = match &shown_to_a_person {
            Some(uri) => page::refused(&problem, uri),
            None => problem.into_response(),
        };
        let rendered = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::WWW_AUTHENTICATE];
        for (name, value) in headers.iter().filter(|(name, _)| !rendered.contains(name)) {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in page::HEADERS {
        headers.insert(name, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    response
}

fn request_id() -> String {
    let mut octets = [0; 8];
    // An id names a request in the log; it guards nothing, so a failed draw is only a duller name.
    let _ = aws_lc_rs::rand::fill(&mut octets);
    hex::encode(octets)
}

/// A body, whole and within the limit.
async fn body(body: Body, max: usize) -> Result<Bytes, Problem> {
    let mut octets = BytesMut::new();
    each_piece(body, max, |piece| {
        octets.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    Ok(octets.freeze())
}

/// A body as it comes, within the limit.
async fn each_piece(
    body: Body,
    max: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), Problem> + Send,
) -> Result<(), Problem> {
    let too_large = || Problem::new(Code::RequestTooLarge).because(format!("the limit is {max} octets"));
    // A length that is announced is refused before a single octet is kept.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let mut came = 0;
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            Problem::new(Code::UsageWrong).what("the request's body was cut short").because(error.to_string())
        })?;
        came += piece.len();
        if came > max {
            return Err(too_large());
        }
        take(&piece)?;
    }
    Ok(())
}

/// A JSON body. Unlike [`axum::Json`] its refusals are ours.
struct Document<T>(T);

impl<T: DeserializeOwned> FromRequest<Doors> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, doors: &Doors) -> Result<Self, Problem> {
        let octets = body(request.into_body(), doors.facts.limits.json_max).await?;
        serde_json::from_slice(&octets).map(Self).map_err(|error| {
            Problem::new(Code::UsageWrong)
                .what("the request's body is not the document this needs")
                .because(error.to_string())
                .next("GET /v1 lists what there is")
        })
    }
}

/// Refuses what no text that is stored can hold: NUL, which PostgreSQL has no place for and nobody types.
fn without_nul(encoded: &str) -> Result<(), Problem> {
    if encoded.contains("%00") {
        return Err(Problem::new(Code::UsageWrong).what("the character NUL stands in no value"));
    }
    Ok(())
}

/// The parameters of a query. Unlike [`axum::extract::Query`] its refusals are ours.
struct Query<T>(T);

impl<T: DeserializeOwned> axum::extract::FromRequestParts<Doors> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &Doors) -> Result<Self, Problem> {
        without_nul(parts.uri.query().unwrap_or_default())?;
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|error| {
            Problem::new(Code::UsageWrong)
                .what("the query has a parameter this does not take")
                .because(error.body_text())
                .next("GET /v1 lists what there is")
        })
    }
}

/// The parameters of a path. Unlike [`axum::extract::Path`] its refusals are ours.
struct Path<T>(T);

impl<T: DeserializeOwned + Send> axum::extract::FromRequestParts<Doors> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        doors: &Doors,
    ) -> Result<Self, Problem> {
        without_nul(parts.uri.path())?;
        let path = axum::extract::Path::from_request_parts(parts, doors).await;
        path.map(|path| Self(path.0)).map_err(|error| {
            Problem::new(Code::UsageWrong)
                .what("the path has a part this does not take")
                .because(error.body_text())
                .next("GET /v1 lists what there is")
        })
    }
}

/// Lines asked for, within what a page may have.
fn page_limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(PAGE_DEFAULT) {
        0 => Err(Problem::new(Code::UsageWrong).what("limit is 0; a page has at least one line")),
        limit => Ok(limit.min(PAGE_MAX)),
    }
}
