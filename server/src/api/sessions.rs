//! Who is connected now, page by page.
//!
//! Sessions are in memory, so a page is cut from all of them: devices by tenant and device id, then services by
//! name and client id. The order holds while sessions come and go: the cursor is a place in it, and whoever stays
//! connected is on exactly one page.

use std::collections::BinaryHeap;

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Query,
    auth::{Caller, Need},
    error::Problem,
    page_limit,
    routes::{About, Routes},
    status::seen,
    time, view,
};
use crate::{
    edge::{Owner, SessionInfo},
    registry::{Verdicts, now_ms},
};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/v1/sessions",
        list,
        About::new("Live sessions: devices by tenant and id, then services")
            .query::<List>()
            .answers::<view::Page<view::Session>>("session.list"),
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// Such as `tenant:acme mqtt:5.0 kind:device address:10.0. MU-0001`: a word is the beginning of a serial, a
    /// device id, a service or a client id.
    filter: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

/// Where a session stands: devices (0) before services (1), then whose, then which.
type Place = (u8, String, String);

/// A part of a filter.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Tenant(String),
    Mqtt(String),
    Devices(bool),
    /// The beginning of an address.
    Address(String),
    /// The beginning of a name, lower case.
    Word(String),
}

fn parts(text: &str) -> Result<Vec<Part>, Problem> {
    let wrong = |token: &str| {
        Problem::new(Code::UsageWrong)
            .what(format!("the filter has {token:?}"))
            .at("--filter")
            .next("possible: tenant:NAME mqtt:3.1.1 mqtt:5.0 kind:device kind:service address:10.0. or the beginning of a name")
    };
    let part = |token: &str| {
        Ok(match token.split_once(':') {
            None => Part::Word(token.to_lowercase()),
            Some(("tenant", tenant)) => Part::Tenant(tenant.to_owned()),
            Some(("mqtt", version @ ("3.1.1" | "5.0"))) => Part::Mqtt(version.to_owned()),
            Some(("mqtt", "5")) => Part::Mqtt("5.0".to_owned()),
            Some(("kind", "device")) => Part::Devices(true),
            Some(("kind", "service")) => Part::Devices(false),
            Some(("address", address)) if !address.is_empty() => Part::Address(address.to_owned()),
            Some(_) => return Err(wrong(token)),
        })
    };
    text.split_whitespace().map(part).collect()
}

fn matches(session: &view::Session, parts: &[Part]) -> bool {
    parts.iter().all(|part| match part {
        Part::Tenant(tenant) => session.tenant.as_ref() == Some(tenant),
        Part::Mqtt(version) => session.mqtt == *version,
        Part::Devices(devices) => session.serial.is_some() == *devices,
        Part::Address(address) => session.address.starts_with(address.as_str()),
        Part::Word(word) => [&session.serial, &session.device_id, &session.service, &session.client_id]
            .into_iter()
            .flatten()
            .any(|name| name.to_lowercase().starts_with(word.as_str())),
    })
}

fn place(session: &view::Session) -> Place {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match &session.device_id {
        Some(id) => (0, text(&session.tenant), id.clone()),
        None => (1, text(&session.service), text(&session.client_id)),
    }
}

fn cursor(place: &Place) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(place).unwrap_or_default())
}

fn read(cursor: &str) -> Result<Place, Problem> {
    let octets = URL_SAFE_NO_PAD.decode(cursor).ok();
    octets.and_then(|octets| serde_json::from_slice(&octets).ok()).ok_or_else(|| {
        Problem::new(Code::UsageWrong).what("after is no cursor of this listing").next("muster session list")
    })
}

/// A session in the heap: what is last in the order goes first.
struct Found(Place, view::Session);

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Found {}
impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Found {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// The first `limit` that match behind `after`, where the next page begins, and how many match in all.
fn page(
    sessions: impl Iterator<Item = view::Session>,
    parts: &[Part],
    after: Option<&Place>,
    limit: usize,
) -> (Vec<view::Session>, Option<String>, u64) {
    let mut total = 0;
    let mut first: BinaryHeap<Found> = BinaryHeap::new();
    for session in sessions.filter(|session| matches(session, parts)) {
        total += 1;
        let place = place(&session);
        if after.is_none_or(|after| place > *after) {
            first.push(Found(place, session));
            // One more than is shown tells whether there is another page.
            if first.len() > limit + 1 {
                first.pop();
            }
        }
    }
    let mut items = first.into_sorted_vec();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| cursor(&last.0));
    (items.into_iter().map(|found| found.1).collect(), next, total)
}

async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::Session>>, Problem> {
    caller.may(Need::Look)?;
    let limit = page_limit(query.limit)?;
    let parts = parts(query.filter.as_deref().unwrap_or_default())?;
    let after = query.after.as_deref().map(read).transpose()?;
    let verdicts = doors.registry.verdicts();
    let sessions = seen(&doors, caller.scope());
    let shown = sessions.iter().map(|session| shown(session, &verdicts));
    let (items, next, total) = page(shown, &parts, after.as_ref(), limit as usize);
    Ok(Json(view::Page::new("session", items, next, Some(total))))
}

/// A live session as every document shows it.
pub(super) fn shown(session: &SessionInfo, verdicts: &Verdicts) -> view::Session {
    let arrival = &session.arrival;
    let device = arrival.owner.device().map(|device| verdicts.name(device));
    let (service, client_id) = match &arrival.owner {
        Owner::Device(_) => (None, None),
        Owner::Service(client) => (Some(client.name.to_string()), Some(client.client_id.to_string())),
    };
    // Less than a second old: what came, came in a second.
    let age_s = (now_ms().saturating_sub(session.since_ms) as f64 / 1000.0).max(1.0);
    let per_s = |count: u64| (count as f64 / age_s * 1000.0).round() / 1000.0;
    view::Session {
        number: session.number,
        serial: device.as_ref().map(|name| name.serial.to_string()),
        tenant: device.as_ref().map(|name| name.tenant.to_string()),
        device_id: device.as_ref().map(|name| name.device_id.to_string()),
        service,
        client_id,
        since: time::from_ms(session.since_ms),
        address: arrival.peer.to_string(),
        mqtt: arrival.protocol.as_str().to_owned(),
        subscriptions: session.subscriptions,
        received: session.received,
        sent: session.sent,
        received_per_s: per_s(session.received),
        sent_per_s: per_s(session.sent),
        queued: session.queued,
        dropped: session.dropped,
        cipher: arrival.cipher.and_then(|suite| suite.as_str()).map(str::to_owned),
        keep_alive_s: arrival.keep_alive_s,
        certificate_id: arrival.certificate.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(tenant: &str, id: &str) -> view::Session {
        let device = tenant != "service";
        let some = |text: &str, when: bool| when.then(|| text.to_owned());
        view::Session {
            number: 1,
            serial: some(&id.to_uppercase(), device),
            tenant: some(tenant, device),
            device_id: some(id, device),
            service: some(id, !device),
            client_id: some("c", !device),
            since: time::from_ms(0),
            address: "10.0.4.17:5000".to_owned(),
            mqtt: "5.0".to_owned(),
            subscriptions: 0,
            received: 0,
            sent: 0,
            received_per_s: 0.0,
            sent_per_s: 0.0,
            queued: 0,
            dropped: 0,
            cipher: None,
            keep_alive_s: 30,
            certificate_id: String::new(),
        }
    }

    #[test]
    fn every_session_is_on_one_page_in_their_order() {
        let mut all: Vec<_> = (0..25).rev().map(|n| session("acme", &format!("mu-{n:02}"))).collect();
        all.extend([session("service", "billing"), session("abc", "zz-1")]);
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let (items, next, total) = page(all.iter().cloned(), &[], after.as_ref(), 4);
            assert!(items.len() <= 4 && total == 27);
            seen.extend(items.iter().map(place));
            let Some(next) = next else { break };
            after = Some(read(&next).unwrap());
        }
        let mut sorted: Vec<_> = all.iter().map(place).collect();
        sorted.sort();
        assert_eq!(seen, sorted);
        assert_eq!((&*seen[0].1, &*seen[26].1), ("abc", "billing"));
    }

    #[test]
    fn a_filter_is_all_of_its_parts_and_what_is_none_is_refused() {
        let all = [session("acme", "mu-1"), session("other", "mu-2"), session("service", "billing")];
        let of = |filter: &str| {
            let parts = parts(filter).unwrap();
            all.iter().filter(|session| matches(session, &parts)).count()
        };
        assert_eq!(
            [of(""), of("tenant:acme"), of("kind:service"), of("mu-"), of("MU-1 mqtt:5")],
            [3, 1, 1, 2, 1]
        );
        assert_eq!([of("address:10.0."), of("address:10.9."), of("mqtt:3.1.1")], [3, 0, 0]);
        for wrong in ["colour:red", "mqtt:4", "kind:human", "address:"] {
            assert_eq!(parts(wrong).unwrap_err().code, Code::UsageWrong, "{wrong}");
        }
        assert!(read("!!").is_err() && read("bm8").is_err());
    }
}
