//! The web page: rendered here, whole without its script.
//!
//! # Invariants
//!
//! - A page is a client of the API ([`data`]): it has no reads, no writes and no rules of its own.
//! - What devices and people said is text. Templates escape it, and what writes markup in code escapes it
//!   itself; the script never makes markup from text.
//! - Nothing is loaded from elsewhere and nothing runs inline: the headers say so ([`HEADERS`]), and a test
//!   in a browser looks.
//! - Nothing changes by GET. What cannot be undone has a page of its own.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | `routes` | which page is where |
//! | `data` | the API, asked within the process |
//! | `assets` | style sheet, script, icon: in the binary, named by digest |
//! | `parts`, `chart`, `events`, `bounds` | chips, instants, icons; charts in SVG; one line for what happened; limits |
//! | `overview`, `devices`, `device`, `readings`, `acts`, `jobs`, `batches`, `certificates`, `audit`, `settings`, `signin` | the pages |

use askama::Template;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use muster_shared::Code;

mod acts;
mod assets;
mod audit;
mod batches;
mod bounds;
mod certificates;
mod chart;
#[cfg(test)]
mod contrast;
mod data;
mod device;
mod devices;
mod events;
mod form;
mod jobs;
mod overview;
mod parts;
mod readings;
mod routes;
mod settings;
mod several;
mod signin;
mod taken_out;

use self::parts::{Icon, When};
use super::{auth::Need, error::Problem, time, view};
use crate::registry::{Role, now_ms};

pub(super) use self::{
    data::Routes,
    routes::routes,
    signin::{Door, asked, door, within},
};

/// What a browser is told about every page: nothing from elsewhere, nothing inline, in nobody's frame.
pub(super) const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ),
];

/// Whether an address is a person's, not a program's.
pub(super) fn is_page(uri: &Uri) -> bool {
    let path = uri.path();
    let program = ["/v1", "/metrics", "/healthz", "/readyz"];
    !program
        .iter()
        .any(|of| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The sections of the bar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Overview,
    Devices,
    Batches,
    Certificates,
    Audit,
    Settings,
    None,
}

/// A line of the bar.
struct Tab {
    name: &'static str,
    href: &'static str,
    key: &'static str,
    icon: Icon,
    here: bool,
    /// Not among the five at the foot of a narrow page.
    wide: bool,
}

/// What surrounds every page.
struct Shell {
    title: String,
    section: Section,
    assets: assets::Addresses,
    viewer: Option<Viewer>,
    now: When,
    version: &'static str,
}

/// Who looks.
struct Viewer {
    name: String,
    role: String,
    not_ready: Vec<String>,
}

impl Shell {
    fn new(title: impl Into<String>, section: Section, status: &view::Status) -> Self {
        let mut shell = Self::outside(title);
        shell.section = section;
        shell.viewer = Some(Viewer {
            name: status.operator.clone(),
            role: status.role.clone(),
            not_ready: status.not_ready.clone(),
        });
        shell
    }

    /// For who is not signed in.
    fn outside(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            section: Section::None,
            assets: assets::addresses(),
            viewer: None,
            now: When::exact(&time::from_ms(now_ms())),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Templates reach what they need through the shell.
    fn icon(&self, name: &'static str) -> Icon {
        Icon(name)
    }

    fn tabs(&self) -> Vec<Tab> {
        [
            ("Overview", "/", "o", "overview", Section::Overview),
            ("Devices", "/devices", "d", "devices", Section::Devices),
            ("Batches", "/batches", "b", "batches", Section::Batches),
            ("Certificates", "/certificates", "c", "certificates", Section::Certificates),
            ("Audit", "/audit", "a", "audit", Section::Audit),
            ("Settings", "/settings/operators", "s", "settings", Section::Settings),
        ]
        .into_iter()
        .map(|(name, href, key, icon, section)| Tab {
            name,
            href,
            key,
            icon: Icon(icon),
            here: self.section == section,
            wide: section == Section::Settings,
        })
        .collect()
    }
}

/// Whether this role's pages have buttons: what may not be done is absent, not grey.
fn may(status: &view::Status, need: Need) -> bool {
    status.role.parse::<Role>().is_ok_and(|role| role.covers(need))
}

/// A template as an answer.
fn page(template: &impl Template) -> Response {
    page_with(StatusCode::OK, template)
}

fn page_with(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be rendered\n").into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    shell: Shell,
    problem: &'a Problem,
    /// Pages to choose from, where an address names several things.
    choices: Vec<String>,
}

/// A refusal as a person sees it: what, where, why, next. Who is not signed in is asked to.
pub(super) fn refused(problem: &Problem, uri: &Uri) -> Response {
    let path = uri.path();
    if path == "/login" || path.starts_with("/once/") {
        return signin::shut(problem, uri);
    }
    if matches!(problem.code, Code::NotSignedIn | Code::TokenEnded | Code::SessionEnded) {
        let then = uri.path_and_query().map_or("/", |whole| whole.as_str());
        let ended = if problem.code != Code::NotSignedIn { "&ended=1" } else { "" };
        return Redirect::to(&format!("/login?then={}{ended}", data::encoded(then))).into_response();
    }
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    page_with(status, &ProblemPage::of(problem))
}

impl<'a> ProblemPage<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self { shell: Shell::outside(problem.code.words()), problem, choices: Vec::new() }
    }
}

/// The page of a refusal.
///
/// # Errors
/// When its template cannot be rendered.
pub fn refusal(problem: &Problem) -> Result<String, askama::Error> {
    ProblemPage::of(problem).render()
}
