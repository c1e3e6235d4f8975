//! The first page: is anything wrong, is the fleet there, what changed.

use askama::Template;
use axum::response::Response;

use super::{
    Section, Shell,
    chart::{Bucket, Chart, Form, Plan, Series},
    data::{Api, encoded},
    events::{self, Event},
    page,
    parts::{When, count, counted, look},
};
use crate::{
    api::{
        error::Problem,
        overview::{Handshakes, Overview},
        time, view,
    },
    registry::{DeviceState, now_ms},
};

/// Lines of what needs attention, and of what happened.
const ATTENTION_MAX: usize = 7;
const EVENTS: u64 = 10;

/// Something that needs somebody.
struct Need {
    glyph: &'static str,
    class: &'static str,
    text: String,
    href: String,
    age: Option<When>,
}

/// How many devices are in a state.
struct Count {
    state: &'static str,
    glyph: &'static str,
    meaning: &'static str,
    n: String,
    href: String,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    shell: Shell,
    needs: Vec<Need>,
    checked: When,
    states: Vec<Count>,
    online: String,
    devices: u64,
    charts: Vec<(String, String, Chart)>,
    events: Vec<Event>,
}

pub(super) async fn show(api: Api) -> Result<Response, Problem> {
    let status = api.status().await?;
    let overview: Overview = api.get("/v1/overview").await?;
    let rows: view::Page<view::AuditRow> = api.get(&format!("/v1/audit?order=newest&limit={EVENTS}")).await?;
    let happened = rows.items.iter().map(events::decision).collect();
    Ok(page(&Page {
        shell: Shell::new("Overview", Section::Overview, &status),
        needs: needs(&overview),
        checked: When::clock(&time::from_ms(now_ms())),
        states: states(&overview),
        online: format!("{} of {} online", count(overview.online), counted(overview.devices, "device")),
        devices: overview.devices,
        charts: charts(&overview),
        events: happened,
    }))
}

fn filter(filter: &str) -> String {
    format!("/devices?filter={}", encoded(filter))
}

fn states(overview: &Overview) -> Vec<Count> {
    DeviceState::ALL
        .iter()
        .map(|state| {
            let (glyph, meaning) = look(state.as_str());
            let n = overview.states.iter().find(|of| of.state == state.as_str()).map_or(0, |of| of.devices);
            Count {
                state: state.as_str(),
                glyph,
                meaning,
                n: count(n),
                href: filter(&format!("state:{state}")),
            }
        })
        .collect()
}

/// Worst first.
fn needs(overview: &Overview) -> Vec<Need> {
    let in_state = |state: &str| overview.states.iter().find(|of| of.state == state);
    let mut needs = Vec::new();
    for station in &overview.stations_stopped {
        needs.push(Need {
            glyph: "✕",
            class: "t-revoked",
            text: format!("station {} is stopped: {}", station.station, station.why),
            href: "/settings/trust".to_owned(),
            age: Some(When::ago(&station.at)),
        });
    }
    if let Some(of) = in_state("quarantined").filter(|of| of.devices > 0) {
        needs.push(Need {
            glyph: "▲",
            class: "t-quarantined",
            text: format!("{} quarantined: something is wrong with each", counted(of.devices, "device")),
            href: filter("state:quarantined"),
            age: overview.quarantined_at.as_deref().map(When::ago),
        });
    }
    for refused in &overview.refused {
        let state = refused.state.as_str();
        let (glyph, _) = look(state);
        let text = format!(
            "{} from {}",
            counted(refused.refusals, "refusal"),
            counted(refused.devices, &format!("{state} device"))
        );
        let class = match state {
            "suspended" => "t-suspended",
            "quarantined" => "t-quarantined",
            "revoked" | "decommissioned" => "t-revoked",
            _ => "t-registered",
        };
        let href = filter(&format!("state:{state} refused:>0"));
        needs.push(Need { glyph, class, text, href, age: Some(When::ago(&refused.last_at)) });
    }
    if overview.strangers > 0 {
        needs.push(Need {
            glyph: "✕",
            class: "t-revoked",
            text: format!(
                "{} of devices this server does not know, in 24 h",
                counted(overview.strangers, "refusal")
            ),
            href: "/batches".to_owned(),
            age: None,
        });
    }
    if overview.ending_30d > 0 {
        needs.push(Need {
            glyph: "◷",
            class: "t-suspended",
            text: format!("certificates ending in 30 days: {}", count(overview.ending_30d)),
            href: filter("expires:<30d"),
            age: None,
        });
    }
    needs.truncate(ATTENTION_MAX);
    needs
}

/// Name, address of what is behind it, drawing.
fn charts(overview: &Overview) -> Vec<(String, String, Chart)> {
    let ms = |at: &str| time::to_ms(at).unwrap_or(0);
    let (from_ms, to_ms) = (ms(&overview.from), ms(&overview.to));
    let hour = 3_600_000;
    // Whole buckets: the last is the one that is not over.
    let plan = |title: &str, series, form, bucket_ms: i64| Plan {
        title: title.to_owned(),
        unit: String::new(),
        from_ms: from_ms / bucket_ms * bucket_ms,
        to_ms: (to_ms / bucket_ms + 1) * bucket_ms,
        bucket_ms,
        series,
        marks: Vec::new(),
        form,
        from_zero: true,
    };
    let online = overview.online_24h.iter().map(|of| Bucket {
        at_ms: ms(&of.at),
        min: of.min as f64,
        max: of.max as f64,
        last: of.last as f64,
    });
    let online = Series { name: "online".to_owned(), buckets: online.collect() };
    let bar = |at: &str, n: u64| Bucket { at_ms: ms(at), min: 0.0, max: n as f64, last: n as f64 };
    let connected = overview.connections_24h.iter().map(|of| bar(&of.at, of.count)).collect();
    let mut hours: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
    for refused in &overview.refusals_24h {
        *hours.entry(&refused.at).or_default() += refused.count;
    }
    let refused = hours.into_iter().map(|(at, n)| bar(at, n)).collect();
    let both = vec![
        Series { name: "connections".to_owned(), buckets: connected },
        Series { name: "refusals".to_owned(), buckets: refused },
    ];
    let mut charts = vec![
        (
            "Online, 24 h".to_owned(),
            filter("online:yes"),
            Chart::new(&plan(
                "devices online",
                vec![online],
                Form::Lines,
                i64::try_from(overview.bucket_ms).unwrap_or(hour),
            )),
        ),
        (
            "Connections and refusals, 24 h".to_owned(),
            filter("refused:>0"),
            Chart::new(&plan("connections and refusals an hour", both, Form::Bars, hour)),
        ),
    ];
    // They are every tenant's: an operator of one is not told.
    if !overview.handshakes_24h.is_empty() {
        let line = |name: &str, of: fn(&Handshakes) -> f64| Series {
            name: name.to_owned(),
            buckets: overview
                .handshakes_24h
                .iter()
                .map(|at| Bucket { at_ms: ms(&at.at), min: of(at), max: of(at), last: of(at) })
                .collect(),
        };
        let lines = vec![line("p50", |of| of.p50_ms), line("p99", |of| of.p99_ms)];
        let bucket_ms = i64::try_from(overview.bucket_ms).unwrap_or(hour);
        let drawn =
            Plan { unit: "ms".to_owned(), ..plan("handshake time in ms", lines, Form::Lines, bucket_ms) };
        charts.push(("Handshake time, 24 h".to_owned(), filter("seen:<1d"), Chart::new(&drawn)));
    }
    charts
}
