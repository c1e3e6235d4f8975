//! Batches: what was made, imported and is at work.

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    Section, Shell,
    chart::{Bucket, Chart, Form, Plan, Series},
    data::{Api, encoded},
    devices::Row,
    page,
    parts::{When, count, short},
};
use crate::api::{Path, Query, error::Problem, time, view};

const HOUR_MS: i64 = 60 * 60 * 1000;
/// Fewest and most bars of a chart.
const BARS_MIN: i64 = 8;
const BARS_MAX: i64 = 240;

#[derive(Deserialize)]
pub(super) struct Asked {
    after: Option<String>,
}

struct Batch {
    batch: String,
    href: String,
    tenant: String,
    product: String,
    station: String,
    devices: String,
    active: String,
    closed: When,
    made: String,
    /// Seconds a unit.
    pace: String,
    /// The beginning of its manifest's digest.
    short: Option<String>,
}

impl Batch {
    fn of(row: &view::Batch) -> Self {
        Self {
            batch: row.batch.clone(),
            href: format!("/batches/{}", encoded(&row.batch)),
            tenant: row.tenant.clone(),
            product: row.product.clone(),
            station: row.station.clone(),
            made: row.made.map_or_else(|| "no manifest".to_owned(), count),
            pace: row.s_per_unit.map_or_else(|| "no manifest".to_owned(), |s| format!("{s:.1} s")),
            devices: count(row.devices),
            active: count(row.active),
            closed: When::exact(&row.closed_at),
            short: row.manifest_digest.as_deref().map(|digest| short(digest).to_owned()),
        }
    }
}

#[derive(Template)]
#[template(path = "batches.html")]
struct Batches {
    shell: Shell,
    rows: Vec<Batch>,
    told: String,
    next_href: Option<String>,
}

pub(super) async fn list(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let status = api.status().await?;
    let after = asked.after.map(|after| format!("?after={}", encoded(&after))).unwrap_or_default();
    let found: view::Page<view::Batch> = api.get(&format!("/v1/batches{after}")).await?;
    let shown = found.items.len() as u64;
    Ok(page(&Batches {
        shell: Shell::new("Batches", Section::Batches, &status),
        told: format!("{} of {}", count(shown), count(found.total.unwrap_or(shown))),
        rows: found.items.iter().map(Batch::of).collect(),
        next_href: found.next.map(|next| format!("/batches?after={}", encoded(&next))),
    }))
}

#[derive(Deserialize)]
pub(super) struct Look {
    check: Option<String>,
}

/// A step of the way from the line to the field.
struct Step {
    name: &'static str,
    n: String,
    /// Of a thousand: how far the bar goes.
    part: u64,
    href: String,
}

struct Imported {
    sequence: u64,
    digest: String,
    devices: String,
    at: When,
    by: String,
    href: String,
}

#[derive(Template)]
#[template(path = "batch.html")]
struct One {
    shell: Shell,
    name: String,
    product: String,
    station: String,
    tenant: String,
    closed: When,
    steps: Vec<Step>,
    manifests: Vec<Imported>,
    /// What does not add up, each with how many.
    odd: Vec<(String, String)>,
    /// Units made an hour, or a day.
    made: Option<Chart>,
    rows: Vec<Row>,
    told: String,
    all_href: String,
    check_href: String,
    checked: Option<(bool, String, Vec<String>)>,
}

pub(super) async fn show(
    api: Api,
    Path(name): Path<String>,
    Query(look): Query<Look>,
) -> Result<Response, Problem> {
    let status = api.status().await?;
    let path = format!("/v1/batches/{}", encoded(&name));
    let of: view::BatchDetail = api.get(&path).await?;
    let checked = match look.check {
        Some(_) => Some(checked(&api.get(&format!("{path}/verify")).await?)),
        None => None,
    };
    let filter = |more: &str| format!("/devices?filter={}", encoded(&format!("batch:{}{more}", of.batch)));
    let first = format!("/v1/devices?filter={}&limit=10", encoded(&format!("batch:{}", of.batch)));
    let devices: view::Page<view::Device> = api.get(&first).await?;
    let active = of.states.iter().find(|of| of.state == "active").map_or(0, |of| of.devices);
    let step = |step: &'static str, n: u64, href: String| Step {
        name: step,
        n: count(n),
        part: (n * 1000).checked_div(of.made).unwrap_or(0).min(1000),
        href,
    };
    let shown = devices.items.len() as u64;
    Ok(page(&One {
        shell: Shell::new(of.batch.clone(), Section::Batches, &status),
        steps: vec![
            step("made", of.made, filter("")),
            step("imported", of.registered, filter("")),
            step("connected", of.first_seen, filter(" -seen:never")),
            step("active", active, filter(" state:active")),
        ],
        odd: odd(&of),
        made: made(&of.made_hours),
        told: format!("{} of {}", count(shown), count(of.registered)),
        rows: devices.items.iter().map(Row::of).collect(),
        all_href: filter(""),
        check_href: format!("/batches/{}?check=1", encoded(&of.batch)),
        checked,
        manifests: of.manifests.iter().map(|manifest| imported(&path, manifest)).collect(),
        closed: When::exact(&of.closed_at),
        name: of.batch,
        product: of.product,
        station: of.station,
        tenant: of.tenant,
    }))
}

/// How fast they were made: by the hour, and by the day where that would be more bars than can be told apart.
fn made(hours: &[view::MadeIn]) -> Option<Chart> {
    let ms = |at: &str| time::to_ms(at).unwrap_or(0);
    let (first, last) = (ms(&hours.first()?.at), ms(&hours.last()?.at));
    let (word, bucket_ms) =
        if last - first < BARS_MAX * HOUR_MS { ("an hour", HOUR_MS) } else { ("a day", 24 * HOUR_MS) };
    let mut bars = BTreeMap::<i64, u64>::new();
    for of in hours {
        *bars.entry(ms(&of.at) / bucket_ms * bucket_ms).or_default() += of.devices;
    }
    let buckets =
        bars.iter().map(|(at_ms, n)| Bucket { at_ms: *at_ms, min: 0.0, max: *n as f64, last: *n as f64 });
    let from_ms = first / bucket_ms * bucket_ms;
    Some(Chart::new(&Plan {
        title: format!("units made {word}"),
        unit: String::new(),
        from_ms,
        // A batch of one hour is no wall.
        to_ms: (last / bucket_ms + 1).max(from_ms / bucket_ms + BARS_MIN) * bucket_ms,
        bucket_ms,
        series: vec![Series { name: "units".to_owned(), buckets: buckets.collect() }],
        marks: Vec::new(),
        form: Form::Bars,
        from_zero: true,
    }))
}

fn imported(path: &str, of: &view::BatchManifest) -> Imported {
    Imported {
        sequence: of.sequence,
        digest: of.digest.clone(),
        devices: count(of.devices),
        at: When::exact(&of.imported_at),
        by: of.imported_by.clone(),
        href: format!("{path}/manifest?sequence={}", of.sequence),
    }
}

fn odd(of: &view::BatchDetail) -> Vec<(String, String)> {
    let ranges: Vec<_> = of.gaps.iter().take(3).map(|gap| format!("{} – {}", gap.first, gap.last)).collect();
    let all = [
        (of.refused, "rows refused: duplicates, or taken out of use for ever".to_owned()),
        (of.unannounced, "devices here that no manifest of it names".to_owned()),
        (of.missing, format!("serials left out: {}", ranges.join(", "))),
        (of.over_quota, format!("more than its station may make ({} of {})", of.station_devices, of.quota)),
    ];
    all.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| (count(n), what)).collect()
}

fn checked(of: &view::BatchVerdict) -> (bool, String, Vec<String>) {
    let said = if of.intact {
        format!("{} manifests and {} rows are as they were made", count(of.manifests), count(of.rows))
    } else {
        "not everything is as it was made".to_owned()
    };
    (of.intact, said, of.faults.clone())
}
