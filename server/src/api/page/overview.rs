//! The first page: is anything wrong, is the fleet there, what changed.

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;
use muster_shared::Code;

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
        overview::{Activity, Handshakes, Overview},
        time, view,
    },
    registry::{DeviceState, now_ms},
};

/// Lines of what needs attention, and of what happened.
const ATTENTION_MAX: usize = 7;
const EVENTS: u64 = 10;
/// Lines of a chart that differ by colour and dashes.
const LINES_MAX: usize = 4;

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
    Ok(page(&Page {
        shell: Shell::new("Overview", Section::Overview, &status),
        needs: needs(&overview),
        checked: When::clock(&time::from_ms(now_ms())),
        states: states(&overview),
        online: format!("{} of {} online", count(overview.online), counted(overview.devices, "device")),
        devices: overview.devices,
        charts: charts(&overview),
        events: happened(&rows.items, &overview.activity),
    }))
}

/// The last events: what was decided, and what devices did.
fn happened(rows: &[view::AuditRow], activity: &[Activity]) -> Vec<Event> {
    let seen = activity.iter().map(|of| Event {
        device: of.serial.as_deref().map(|serial| (serial.to_owned(), events::device_href(serial))),
        ..events::line(&of.event)
    });
    let mut all: Vec<_> = rows.iter().map(events::decision).chain(seen).collect();
    all.sort_by_key(|event| std::cmp::Reverse(event.at.ms()));
    all.truncate(EVENTS as usize);
    all
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
    let connected = vec![Series { name: "connections".to_owned(), buckets: connected }];
    let refused = by_code(overview)
        .into_iter()
        .map(|(name, hours)| Series { name, buckets: hours.into_iter().map(|(at, n)| bar(at, n)).collect() });
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
            "Refusals by code, 24 h".to_owned(),
            filter("refused:>0"),
            Chart::new(&plan("refusals an hour, by code", refused.collect(), Form::Bars, hour)),
        ),
        (
            "Connections, 24 h".to_owned(),
            filter("online:yes"),
            Chart::new(&plan("connections an hour", connected, Form::Bars, hour)),
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

/// Refusals of each hour by code: those there were most of by themselves, the rest together. There are as many
/// colours as a chart has.
fn by_code(overview: &Overview) -> Vec<(String, BTreeMap<&str, u64>)> {
    let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
    for refused in &overview.refusals_24h {
        *codes.entry(&refused.code).or_default() += refused.count;
    }
    let mut codes: Vec<_> = codes.into_iter().collect();
    codes.sort_by_key(|(code, n)| (std::cmp::Reverse(*n), *code));
    let own = if codes.len() > LINES_MAX { LINES_MAX - 1 } else { codes.len() };
    let mut series: Vec<(String, BTreeMap<&str, u64>)> = Vec::new();
    for (at, (code, _)) in codes.iter().enumerate() {
        let name = if at < own { said(code) } else { "other codes".to_owned() };
        if at <= own {
            series.push((name, BTreeMap::new()));
        }
        let Some((_, hours)) = series.last_mut() else { continue };
        for refused in overview.refusals_24h.iter().filter(|of| of.code == **code) {
            *hours.entry(&refused.at).or_default() += refused.count;
        }
    }
    series
}

/// `M201 device is suspended`.
fn said(code: &str) -> String {
    code.parse::<Code>().map_or_else(|_| code.to_owned(), |known| format!("{code} {}", known.words()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::overview::HourOf;

    #[test]
    fn the_codes_there_were_most_of_stand_alone() {
        let at = "2026-11-20T09:00:00.000Z";
        let of = |code: &str, count| HourOf { at: at.to_owned(), code: code.to_owned(), count };
        let mut overview: Overview = serde_json::from_value(serde_json::json!({
            "schema": "muster.overview/1", "from": at, "to": at, "devices": 0, "online": 0, "states": [],
            "quarantined_at": null, "refused": [], "strangers": 0, "ending_30d": 0, "ends": [],
            "stations_stopped": [], "bucket_ms": 900_000, "online_24h": [], "connections_24h": [],
            "refusals_24h": [], "activity": [],
        }))
        .unwrap();
        assert!(by_code(&overview).is_empty());
        overview.refusals_24h = vec![of("M202", 3), of("M201", 9), of("M201", 1)];
        let series = by_code(&overview);
        assert_eq!(series.len(), 2);
        assert!(series[0].0.starts_with("M201 ") && series[0].1[at] == 10, "{series:?}");
        overview.refusals_24h.extend([of("M205", 2), of("M210", 2), of("M302", 1)]);
        let series = by_code(&overview);
        let names: Vec<_> = series.iter().map(|(name, _)| name.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["M201", "M202", "M205", "other"]);
        assert_eq!(series[3].1[at], 3);
    }
}
