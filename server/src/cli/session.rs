//! `muster session …` and `muster status`: what is going on now.

use serde_json::json;

use super::{
    Done,
    args::Session,
    bulk,
    client::{Client, read},
    device::{encode, pages},
    screen::{Screen, Style, Text},
    table::{self, About, Column, thousands},
    watch::{self, Watched},
    words,
};
use crate::api::{
    error::Problem,
    view::{self, Page, Status},
};

const COLUMNS: &[Column<view::Session>] = &[
    Column { head: "SERIAL", wide: false, cell: |of, _| Text::plain(who(of)) },
    Column { head: "SINCE", wide: false, cell: |of, _| Text::plain(words::instant(&of.since)) },
    Column { head: "ADDRESS", wide: false, cell: |of, _| Text::plain(&of.address) },
    Column { head: "MQTT", wide: false, cell: |of, _| Text::plain(&of.mqtt) },
    Column { head: "SUBS", wide: false, cell: |of, _| Text::plain(of.subscriptions.to_string()) },
    Column { head: "IN/s", wide: false, cell: |of, _| Text::plain(rate(of.received_per_s)) },
    Column { head: "OUT/s", wide: false, cell: |of, _| Text::plain(rate(of.sent_per_s)) },
    Column { head: "IN", wide: true, cell: |of, _| Text::plain(thousands(of.received)) },
    Column { head: "OUT", wide: true, cell: |of, _| Text::plain(thousands(of.sent)) },
    Column { head: "QUEUE", wide: true, cell: |of, _| Text::plain(thousands(of.queued)) },
    Column { head: "DROPPED", wide: true, cell: |of, _| Text::plain(thousands(of.dropped)) },
    Column { head: "CIPHER", wide: true, cell: |of, _| Text::plain(words::or_unknown(of.cipher.as_deref())) },
    Column { head: "KEEPALIVE", wide: true, cell: |of, _| Text::plain(format!("{}s", of.keep_alive_s)) },
    Column { head: "DEVICE-ID", wide: true, cell: |of, _| Text::plain(client_id(of)) },
    Column { head: "TENANT", wide: true, cell: |of, _| Text::plain(of.tenant.as_deref().unwrap_or("-")) },
    Column { head: "CERT", wide: true, cell: |of, _| Text::plain(words::short(&of.certificate_id)) },
];

fn who(of: &view::Session) -> String {
    match (&of.serial, &of.service) {
        (Some(serial), _) => serial.clone(),
        (None, Some(service)) => format!("service {service}"),
        (None, None) => "-".to_owned(),
    }
}

/// `0.2`: on average since the session began.
fn rate(per_s: f64) -> String {
    if per_s >= 10.0 { format!("{per_s:.0}") } else { format!("{per_s:.1}") }
}

fn client_id(of: &view::Session) -> &str {
    of.device_id.as_deref().or(of.client_id.as_deref()).unwrap_or("-")
}

pub(super) fn run(verb: &Session, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let list = match verb {
        Session::Disconnect(decide) => {
            return bulk::decide("disconnect", decide, &json!({}), client, screen);
        }
        Session::Show { serial } => return show(serial, client, screen),
        Session::List(list) => list,
    };
    let query = list.filter.as_ref().map(|filter| format!("&filter={}", encode(filter)));
    let query = query.unwrap_or_default();
    if list.watch {
        let watched = Watched {
            path: "/v1/sessions",
            query: &query,
            after: list.after.as_deref(),
            limit: list.limit,
            narrow: None,
            columns: COLUMNS,
            name: |of: &view::Session| {
                format!("{}/{}/{}", words::or_unknown(of.tenant.as_deref()), who(of), client_id(of))
            },
        };
        return watch::run(&watched, client, screen);
    }
    let document = pages(client, "/v1/sessions", &query, list.after.clone(), list.limit)?;
    let page: Page<view::Session> = read(&document)?;
    let about = About {
        noun: "session",
        total: page.total,
        filter: list.filter.as_deref(),
        next: page.next.as_deref(),
        empty: "nobody is connected. Who was refused, and why: muster device list -o wide",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

const PAST: &[Column<view::PastSession>] = &[
    Column { head: "SINCE", wide: false, cell: |of, _| Text::plain(words::instant(&of.began_at)) },
    Column {
        head: "UNTIL",
        wide: false,
        cell: |of, _| Text::plain(of.ended_at.as_deref().map_or("now".to_owned(), words::instant)),
    },
    Column { head: "ADDRESS", wide: false, cell: |of, _| Text::plain(&of.address) },
    Column { head: "MQTT", wide: false, cell: |of, _| Text::plain(&of.mqtt) },
    Column {
        head: "ENDED-BY",
        wide: false,
        cell: |of, _| {
            Text::plain(of.reason.as_deref().map_or("is open".to_owned(), |why| why.replace('_', " ")))
        },
    },
];

/// A device's last sessions.
fn show(serial: &str, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get(&format!("/v1/devices/{}", encode(serial)))?;
    let detail: view::DeviceDetail = read(&document)?;
    let about = About {
        noun: "session",
        total: None,
        filter: None,
        next: None,
        empty: "it never connected. Why: muster device show SERIAL",
    };
    let document =
        json!({ "schema": "muster.session.history/1", "items": document["sessions"], "next": null });
    table::print(screen, &document, &detail.sessions, PAST, &about);
    Ok(Done::Well)
}

pub(super) fn status(client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get("/v1/status")?;
    let status: Status = read(&document)?;
    let done = if status.ready { Done::Well } else { Done::AnswerIsNo };
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(done);
    }
    let (mark, word, style) = if status.ready {
        (screen.glyph("●", "*"), "ready", Style::Green)
    } else {
        (screen.glyph("✕", "x"), "not ready", Style::Red)
    };
    screen.pieces(&[
        Text::new(mark, style),
        Text::plain(format!(" {} · {word} · muster {}", client.base(), status.version)),
    ]);
    for why in &status.not_ready {
        screen.line(format!("  {:<11} {why}", "not ready"));
    }
    let line = |label: &str, said: String| screen.line(format!("  {label:<11} {said}"));
    line("devices", format!("{} known, {} online", thousands(status.devices), thousands(status.sessions)));
    line(
        "mqtt",
        format!("{} · certificate ends {}", status.mqtt, words::instant(&status.broker_certificate_ends_at)),
    );
    line("decisions", format!("generation {}", status.generation));
    line("started", format!("{} ({})", words::instant(&status.started_at), words::ago(&status.started_at)));
    line("you", format!("{}, {}", status.operator, status.role));
    Ok(done)
}
