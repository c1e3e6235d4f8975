//! Which devices there are: search, filters, pages of a listing, a choice of several.

use askama::Template;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::{
    Section, Shell,
    data::{Api, encoded},
    events::device_href,
    may, page,
    parts::{Chip, Seen, When, count, look},
};
use crate::{
    api::{Query, auth::Need, error::Problem, view},
    registry::DeviceState,
};

/// Rows of a page.
const ROWS: u32 = 50;

#[derive(Deserialize, Default)]
pub(super) struct Asked {
    filter: Option<String>,
    after: Option<String>,
    sort: Option<String>,
    cols: Option<String>,
    density: Option<String>,
    /// From the bar: one device that is named exactly is shown at once.
    go: Option<String>,
}

impl Asked {
    fn filter(&self) -> &str {
        self.filter.as_deref().unwrap_or_default().trim()
    }

    /// This page's address with another filter: sort and looks stay, the place in the listing does not.
    fn href(&self, filter: &str) -> String {
        let mut query = vec![("filter", filter.to_owned())];
        for (name, value) in [("sort", &self.sort), ("cols", &self.cols), ("density", &self.density)] {
            query.push((name, value.clone().unwrap_or_default()));
        }
        address("/devices", &query)
    }

    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The whole listing in a file, in the order it is shown in.
    fn taken_out(&self, path: &str) -> String {
        let query = [("filter", self.filter().to_owned()), ("sort", self.sort.clone().unwrap_or_default())];
        address(path, &query)
    }

    pub(super) fn api(&self, limit: u32, after: Option<&str>) -> String {
        let query = [
            ("filter", self.filter().to_owned()),
            ("sort", self.sort.clone().unwrap_or_default()),
            ("after", after.unwrap_or_default().to_owned()),
            ("limit", limit.to_string()),
        ];
        address("/v1/devices", &query)
    }
}

/// An address with those parameters that say something.
fn address(path: &str, query: &[(&str, String)]) -> String {
    let said: Vec<_> = query
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    if said.is_empty() { path.to_owned() } else { format!("{path}?{}", said.join("&")) }
}

/// A word of the filter, and the address without it.
struct Token {
    word: String,
    without: String,
}

/// A filter that is often wanted.
struct Quick {
    name: String,
    glyph: &'static str,
    href: String,
    here: bool,
}

/// A column that may be shown beside the ones that always are.
struct Extra {
    key: &'static str,
    head: &'static str,
    cell: fn(&view::Device) -> String,
}

const EXTRAS: &[Extra] = &[
    Extra { key: "model", head: "Model", cell: |of| of.product.clone() },
    Extra { key: "id", head: "Device id", cell: |of| of.device_id.clone() },
    Extra { key: "tenant", head: "Tenant", cell: |of| of.tenant.clone() },
    Extra {
        key: "address",
        head: "Address",
        cell: |of| of.presence.address.clone().unwrap_or_else(|| "unknown".to_owned()),
    },
    Extra { key: "issuer", head: "Issuer", cell: |of| of.issuer.clone() },
    Extra { key: "station", head: "Station", cell: |of| of.station.clone() },
    Extra {
        key: "registered",
        head: "Registered",
        cell: |of| of.registered_at.get(..10).unwrap_or(&of.registered_at).to_owned(),
    },
    Extra { key: "refused", head: "Refused 24 h", cell: |of| count(of.refused_24h) },
];

/// A row.
pub(super) struct Row {
    pub(super) serial: String,
    pub(super) target: String,
    pub(super) href: String,
    pub(super) chip: Chip,
    pub(super) seen: Seen,
    pub(super) batch: String,
    pub(super) firmware: String,
    pub(super) ends: When,
    pub(super) note: String,
    pub(super) extras: Vec<String>,
}

/// A head that sorts by its column.
struct Head {
    name: &'static str,
    href: String,
    /// `ascending`, `descending`, or nothing.
    sorted: &'static str,
}

/// Columns that are sorted by, with the order's word; the first press gives what is asked for most.
const SORTS: [(&str, &str); 4] =
    [("Serial", "serial"), ("Presence", "seen"), ("Certificate ends", "expires"), ("Note", "refused")];

fn sorts(asked: &Asked) -> Vec<Head> {
    let now = asked.sort.as_deref().unwrap_or_default();
    let head = |(name, key): (&'static str, &str)| {
        let reversed = format!("-{key}");
        // By serial and by end the least comes first, by the others the most.
        let (first, second) = match key {
            "serial" | "expires" => ("ascending", "descending"),
            _ => ("descending", "ascending"),
        };
        let (sorted, next) = match now {
            now if now == key => (first, reversed),
            now if now == reversed => (second, String::new()),
            _ => ("", key.to_owned()),
        };
        let query = [
            ("filter", asked.filter().to_owned()),
            ("sort", next),
            ("cols", asked.cols.clone().unwrap_or_default()),
            ("density", asked.density.clone().unwrap_or_default()),
        ];
        Head { name, href: address("/devices", &query), sorted }
    };
    SORTS.into_iter().map(head).collect()
}

impl Row {
    pub(super) fn of(device: &view::Device) -> Self {
        Self {
            serial: device.serial.clone(),
            target: format!("{}/{}", device.tenant, device.serial),
            href: device_href(&device.serial),
            chip: Chip(device.state.clone()),
            seen: Seen::of(&device.presence),
            batch: device.batch.clone(),
            firmware: device.firmware.clone().unwrap_or_else(|| "unknown".to_owned()),
            ends: When::ends(&device.certificate_ends_at),
            note: note(device),
            extras: Vec::new(),
        }
    }

    pub(super) fn batch_href(&self) -> String {
        format!("/batches/{}", encoded(&self.batch))
    }
}

/// What stands out of a device: why it is refused, or what somebody wrote on it.
fn note(device: &view::Device) -> String {
    match &device.last_refusal {
        Some(refusal) if device.refused_24h > 0 => {
            format!("{} refused in 24 h [{}] {}", count(device.refused_24h), refusal.code, refusal.words)
        }
        _ => device.note.clone().unwrap_or_default(),
    }
}

#[derive(Template)]
#[template(path = "devices.html")]
struct Devices {
    shell: Shell,
    problem: Option<Problem>,
    filter: String,
    tokens: Vec<Token>,
    quick: Vec<Quick>,
    rows: Vec<Row>,
    heads: Vec<&'static str>,
    sorts: Vec<Head>,
    choices: Vec<(&'static str, &'static str, bool)>,
    compact: bool,
    comfortable_href: String,
    compact_href: String,
    csv_href: String,
    json_href: String,
    /// `50 of 1 204`.
    told: String,
    next_href: Option<String>,
    first_href: Option<String>,
    may_decide: bool,
    may_revoke: bool,
    /// The registry has no device at all.
    none_at_all: bool,
}

pub(super) async fn list(api: Api, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let status = api.status().await?;
    let filter = asked.filter().to_owned();
    if asked.go.is_some()
        && !filter.is_empty()
        && !filter.contains([':', ' '])
        && api
            .find::<serde_json::Value>(&format!("/v1/devices/{}", encoded(&filter)))
            .await
            .is_ok_and(|of| of.is_some())
    {
        return Ok(Redirect::to(&device_href(&filter)).into_response());
    }
    // A filter that cannot be read is a page too: it says which word, and how to go on.
    let (found, problem) = match api.get(&asked.api(ROWS, asked.after.as_deref())).await {
        Ok(found) => (found, None),
        Err(problem) if problem.status() == 400 => {
            (view::Page::new("device", Vec::new(), None, None), Some(problem))
        }
        Err(problem) => return Err(problem),
    };
    Ok(page(&render(&status, &asked, found, problem)))
}

fn render(
    status: &view::Status,
    asked: &Asked,
    found: view::Page<view::Device>,
    problem: Option<Problem>,
) -> Devices {
    let filter = asked.filter().to_owned();
    let wanted = asked.cols.clone().unwrap_or_default();
    let wanted: Vec<_> = wanted.split(',').collect();
    let extras: Vec<_> = EXTRAS.iter().filter(|extra| wanted.contains(&extra.key)).collect();
    let rows: Vec<_> = found
        .items
        .iter()
        .map(|device| Row {
            extras: extras.iter().map(|extra| (extra.cell)(device)).collect(),
            ..Row::of(device)
        })
        .collect();
    let told = match found.total {
        Some(total) => format!("{} of {}", count(rows.len() as u64), count(total)),
        // Counting stops where it would take long.
        None => match found.total_at_least {
            Some(least) => format!("{} of more than {}", count(rows.len() as u64), count(least)),
            None => count(rows.len() as u64),
        },
    };
    let density = |density: &str| {
        let query = [
            ("filter", filter.clone()),
            ("sort", asked.sort.clone().unwrap_or_default()),
            ("cols", asked.cols.clone().unwrap_or_default()),
            ("density", density.to_owned()),
        ];
        address("/devices", &query)
    };
    let next_href = found.next.as_ref().map(|next| {
        let base = asked.href(&filter);
        format!("{base}{}after={}", if base.contains('?') { '&' } else { '?' }, encoded(next))
    });
    Devices {
        shell: Shell::new("Devices", Section::Devices, status),
        tokens: tokens(asked),
        quick: quick(asked),
        none_at_all: found.total == Some(0) && filter.is_empty(),
        rows,
        sorts: sorts(asked),
        heads: extras.iter().map(|extra| extra.head).collect(),
        choices: EXTRAS.iter().map(|extra| (extra.key, extra.head, wanted.contains(&extra.key))).collect(),
        compact: asked.density.as_deref() == Some("compact"),
        comfortable_href: density(""),
        compact_href: density("compact"),
        csv_href: asked.taken_out("/devices.csv"),
        json_href: asked.taken_out("/devices.json"),
        told,
        next_href,
        first_href: asked.after.as_ref().map(|_| asked.href(&filter)),
        may_decide: may(status, Need::Decide),
        may_revoke: may(status, Need::Decide),
        problem,
        filter,
    }
}

fn tokens(asked: &Asked) -> Vec<Token> {
    let words: Vec<&str> = asked.filter().split_whitespace().collect();
    let without = |at: usize| {
        let others: Vec<_> =
            words.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, word)| *word).collect();
        asked.href(&others.join(" "))
    };
    words
        .iter()
        .enumerate()
        .map(|(at, word)| Token { word: (*word).to_owned(), without: without(at) })
        .collect()
}

fn quick(asked: &Asked) -> Vec<Quick> {
    let states = [
        DeviceState::Active,
        DeviceState::Registered,
        DeviceState::Suspended,
        DeviceState::Quarantined,
        DeviceState::Revoked,
    ];
    let states = states.map(|state| (state.to_string(), look(state.as_str()).0, format!("state:{state}")));
    let others = [
        ("online", "", "online:yes"),
        ("refused in 24 h", "", "refused:>0"),
        ("ends in 30 days", "", "expires:<30d"),
    ];
    let others = others.map(|(name, glyph, filter)| (name.to_owned(), glyph, filter.to_owned()));
    let all = [("all".to_owned(), "", String::new())];
    all.into_iter()
        .chain(states)
        .chain(others)
        .map(|(name, glyph, filter)| Quick {
            here: asked.filter() == filter,
            href: asked.href(&filter),
            name,
            glyph,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_can_be_taken_out_of_the_filter() {
        let asked = Asked {
            filter: Some("state:active batch:B-1 x".into()),
            density: Some("compact".into()),
            ..Asked::default()
        };
        let tokens = tokens(&asked);
        assert_eq!(tokens[1].word, "batch:B-1");
        assert_eq!(tokens[1].without, "/devices?filter=state%3Aactive%20x&density=compact");
    }

    #[test]
    fn a_head_sorts_its_way_then_the_other_then_no_more() {
        let of = |sort: &str| {
            let asked = Asked { sort: (!sort.is_empty()).then(|| sort.to_owned()), ..Asked::default() };
            let serial = sorts(&asked).remove(0);
            (serial.sorted, serial.href)
        };
        assert_eq!(of(""), ("", "/devices?sort=serial".to_owned()));
        assert_eq!(of("serial"), ("ascending", "/devices?sort=-serial".to_owned()));
        assert_eq!(of("-serial"), ("descending", "/devices".to_owned()));
    }
}
