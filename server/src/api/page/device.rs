//! One device: what it is, what happened to it, what may be done.

use askama::Template;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Section, Shell,
    acts::{self, Undo},
    data::{Api, encoded},
    events::{self, Event, device_href},
    may, page,
    parts::{Chip, Seen, When, count, counted, short},
};
use crate::{
    api::{Path, Query, auth::Need, error::Problem, view},
    registry::{Act, DeviceState, query::Proven},
};

#[derive(Deserialize, Default)]
pub(super) struct Asked {
    tab: Option<String>,
    kind: Option<String>,
    /// Where the timeline goes on.
    after: Option<String>,
    /// The number of a decision that was just made here.
    done: Option<u64>,
}

/// An act, with its address, or with why the state does not allow it.
pub(super) struct Offer {
    pub(super) name: String,
    pub(super) href: String,
    /// Shown in a dialog; what cannot be undone has its own page.
    pub(super) dialog: bool,
    pub(super) why_not: Option<String>,
}

/// Lines of the timeline on a page.
const LINES: u32 = 100;

/// A day of the timeline.
struct Day {
    day: String,
    events: Vec<Event>,
}

struct Certificate {
    id: String,
    short: String,
    status: String,
    fault: bool,
    not_before: When,
    not_after: When,
    revoked: Option<(String, When)>,
    chain: Vec<Link>,
    /// Who saw that the device holds the key.
    proven: Option<&'static str>,
    pem: String,
}

/// A certificate of the chain, and what is wrong with it.
struct Link {
    role: String,
    name: String,
    fingerprint: Option<String>,
    ends: Option<When>,
    fault: Option<String>,
}

struct Session {
    began: When,
    ended: Option<When>,
    lasted: String,
    reason: String,
    address: String,
    mqtt: String,
}

struct Reading {
    sensor: String,
    value: String,
    at: When,
}

/// A half of the twin: what is said of it, when, and its document as text.
struct Half {
    name: &'static str,
    said: String,
    at: When,
    text: String,
}

struct Live {
    since: When,
    address: String,
    cipher: Option<String>,
    mqtt: String,
    subscriptions: String,
    received: String,
    sent: String,
    keep_alive: String,
}

/// What stands on top of every page about a device.
pub(super) struct Head {
    pub(super) serial: String,
    pub(super) href: String,
    pub(super) tenant: String,
    pub(super) device_id: String,
    pub(super) chip: Chip,
    pub(super) seen: Seen,
    pub(super) product: String,
    pub(super) changed: When,
    pub(super) why: Option<Event>,
    pub(super) offers: Vec<Offer>,
    pub(super) more: Vec<Offer>,
    /// Name, address, whether it is this one.
    pub(super) tabs: Vec<(&'static str, String, bool)>,
}

/// The head of a device's page, with its tab `here`.
pub(super) fn head(status: &view::Status, detail: &view::DeviceDetail, here: &str) -> Head {
    let device = &detail.device;
    let href = device_href(&device.serial);
    let (offers, more) =
        if may(status, Need::Decide) { offers(detail, &href) } else { (Vec::new(), Vec::new()) };
    let address = |key: &str| match key {
        "" => href.clone(),
        "readings" => format!("{href}/readings"),
        key => format!("{href}?tab={key}"),
    };
    Head {
        serial: device.serial.clone(),
        tenant: device.tenant.clone(),
        device_id: device.device_id.clone(),
        chip: Chip(device.state.clone()),
        seen: Seen::of(&device.presence),
        product: device.product.clone(),
        changed: When::ago(&device.changed_at),
        why: detail.why.as_ref().map(events::decision),
        offers,
        more,
        tabs: TABS.iter().map(|(key, name)| (*name, address(key), *key == here)).collect(),
        href,
    }
}

#[derive(Template)]
#[template(path = "device.html")]
struct Device {
    head: Head,
    shell: Shell,
    batch: String,
    batch_href: String,
    station: String,
    firmware: Option<String>,
    registered: When,
    first_connected: Option<When>,
    tab: String,
    kind: String,
    kinds: Vec<(&'static str, &'static str)>,
    days: Vec<Day>,
    older_href: Option<String>,
    labels: view::Labels,
    /// Who took its place, and whose place it took: serial and address.
    replaced_by: Option<(String, String)>,
    replaces: Option<(String, String)>,
    certificates: Vec<Certificate>,
    /// Device, issuer, root.
    chain: Vec<Link>,
    sessions: Vec<Session>,
    readings: Vec<Reading>,
    twin: Vec<Half>,
    live: Option<Live>,
    refused: Option<String>,
    json: String,
    done: Option<acts::Done>,
}

pub(super) async fn show(
    api: Api,
    Path(serial): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let status = api.status().await?;
    let path = format!("/v1/devices/{}", encoded(&serial));
    let document: Value = api.get(&path).await?;
    let detail: view::DeviceDetail = serde_json::from_value(document.clone()).map_err(|error| {
        Problem::new(muster_shared::Code::Fault)
            .what("the device's document has changed")
            .because(error.to_string())
    })?;
    let may_decide = may(&status, Need::Decide);
    let done = asked.done.and_then(|no| acts::done(&detail, no, may_decide));
    let live = match detail.device.presence.word.as_str() {
        "online" => live(&api, &detail.device).await?,
        _ => None,
    };
    let (lines, twin) = match asked.tab.as_deref() {
        None | Some("") => {
            let after = asked.after.as_ref().map(|after| format!("&after={}", encoded(after)));
            // A word that is no kind shows nothing, as a filter that nothing matches.
            let kind = asked.kind.as_ref().filter(|kind| !kind.is_empty());
            let known = kind.is_none_or(|kind| KINDS.iter().any(|(key, _)| key == kind));
            let kind = kind.filter(|_| known).map(|kind| format!("&kind={kind}"));
            let (kind, after) = (kind.unwrap_or_default(), after.unwrap_or_default());
            let lines = format!("{path}/timeline?limit={LINES}{kind}{after}");
            let lines = if known { api.get(&lines).await? } else { nothing() };
            (lines, halves(&api.get(&format!("{path}/twin")).await?))
        }
        _ => (nothing(), Vec::new()),
    };
    let json = match asked.tab.as_deref() {
        Some("json") => serde_json::to_string_pretty(&document).unwrap_or_default(),
        _ => String::new(),
    };
    Ok(page(&render(&status, &detail, &asked, (live, lines, twin), json, done)))
}

fn nothing() -> view::Page<view::Event> {
    view::Page::new("event", Vec::new(), None, None)
}

/// The halves of a twin that there are.
fn halves(twin: &view::Twin) -> Vec<Half> {
    let text = |document: &Value| serde_json::to_string_pretty(document).unwrap_or_default();
    let mut halves = Vec::new();
    if let (Some(document), Some(at)) = (&twin.desired, &twin.desired_at) {
        let by = twin.desired_by.as_deref().unwrap_or_default();
        let waits = if twin.published { "" } else { ", not on its topic yet" };
        halves.push(Half {
            name: "Desired",
            said: format!("version {}, by {by}{waits}", twin.desired_version),
            at: When::ago(at),
            text: text(document),
        });
    }
    if let Some(at) = &twin.reported_at {
        let coded = twin.reported_base64.clone();
        halves.push(Half {
            name: "Reported",
            said: if coded.is_some() { "no JSON, in base64".to_owned() } else { String::new() },
            at: When::ago(at),
            text: coded.unwrap_or_else(|| twin.reported.as_ref().map(text).unwrap_or_default()),
        });
    }
    halves
}

/// Its live session's figures.
async fn live(api: &Api, device: &view::Device) -> Result<Option<Live>, Problem> {
    let target = format!("{}/{}", device.tenant, device.serial);
    let path = format!("/v1/devices/{}/session", encoded(&target));
    let sessions: view::Page<view::Session> = api.get(&path).await?;
    let of = sessions.items.into_iter().next();
    Ok(of.map(|session| Live {
        since: When::span(&session.since),
        address: session.address,
        cipher: session.cipher,
        mqtt: session.mqtt,
        subscriptions: count(session.subscriptions),
        received: count(session.received),
        sent: count(session.sent),
        keep_alive: match session.keep_alive_s {
            0 => "none".to_owned(),
            s => format!("{s} s"),
        },
    }))
}

fn render(
    status: &view::Status,
    detail: &view::DeviceDetail,
    asked: &Asked,
    (live, lines, twin): (Option<Live>, view::Page<view::Event>, Vec<Half>),
    json: String,
    done: Option<acts::Done>,
) -> Device {
    let device = &detail.device;
    let kind = asked.kind.clone().unwrap_or_default();
    let older = if kind.is_empty() { "?".to_owned() } else { format!("?kind={}&", encoded(&kind)) };
    let older = format!("{}{older}", device_href(&device.serial));
    let tab = asked.tab.clone().filter(|tab| TABS.iter().any(|(key, _)| key == tab)).unwrap_or_default();
    Device {
        shell: Shell::new(device.serial.clone(), Section::Devices, status),
        head: head(status, detail, &tab),
        batch: device.batch.clone(),
        batch_href: format!("/batches/{}", encoded(&device.batch)),
        station: device.station.clone(),
        firmware: device.firmware.clone(),
        registered: When::exact(&device.registered_at),
        first_connected: device.first_connected_at.as_deref().map(When::exact),
        kinds: KINDS.to_vec(),
        days: days(&lines.items),
        older_href: lines.next.as_ref().map(|next| format!("{older}after={}", encoded(next))),
        labels: detail.labels.clone(),
        replaced_by: detail.replaced_by.as_deref().map(linked),
        replaces: detail.replaces.as_deref().map(linked),
        certificates: detail.certificates.iter().map(certificate).collect(),
        chain: detail.chain.iter().map(link).collect(),
        sessions: detail.sessions.iter().map(session).collect(),
        readings: detail.readings.iter().map(reading).collect(),
        twin,
        refused: (device.refused_24h > 0).then(|| refused(device)),
        live,
        tab,
        kind,
        json,
        done,
    }
}

fn linked(serial: &str) -> (String, String) {
    (serial.to_owned(), device_href(serial))
}

const TABS: [(&str, &str); 5] = [
    ("", "Timeline"),
    ("readings", "Readings"),
    ("sessions", "Sessions"),
    ("certificates", "Certificates"),
    ("json", "Raw JSON"),
];
const KINDS: [(&str, &str); 4] =
    [("", "everything"), ("decision", "decisions"), ("session", "sessions"), ("refusal", "refusals")];

fn refused(device: &view::Device) -> String {
    let last = device.last_refusal.as_ref();
    let code = last.map(|refusal| format!(" [{}] {}", refusal.code, refusal.words)).unwrap_or_default();
    format!("{} in 24 h, last{code}", counted(device.refused_24h, "refusal"))
}

/// The lines of the timeline under their days.
fn days(lines: &[view::Event]) -> Vec<Day> {
    let mut days: Vec<Day> = Vec::new();
    for event in lines.iter().map(events::line) {
        match days.last_mut().filter(|day| day.day == event.at.day()) {
            Some(day) => day.events.push(event),
            None => days.push(Day { day: event.at.day().to_owned(), events: vec![event] }),
        }
    }
    days
}

fn certificate(of: &view::Certificate) -> Certificate {
    Certificate {
        short: short(&of.certificate_id).to_owned(),
        id: of.certificate_id.clone(),
        fault: of.status == "revoked",
        status: of.status.clone(),
        not_before: When::exact(&of.not_before),
        not_after: When::ends(&of.not_after),
        revoked: of.revoked_at.as_ref().map(|at| {
            (of.revocation_reason.clone().unwrap_or_else(|| "unspecified".to_owned()), When::exact(at))
        }),
        chain: of.chain.iter().map(link).collect(),
        proven: proven(of),
        pem: of.pem.clone(),
    }
}

/// Before whom the key was proven.
fn proven(of: &view::Certificate) -> Option<&'static str> {
    match of.key_proven.as_deref()?.parse().ok()? {
        Proven::Station => Some("proven to its station, whose manifest names it"),
        Proven::Handshake => Some("proven to this server in a handshake"),
    }
}

fn link(of: &view::ChainLink) -> Link {
    Link {
        role: of.role.clone(),
        name: of.name.clone(),
        fingerprint: of.fingerprint.clone(),
        ends: of.not_after.as_deref().map(When::ends),
        fault: of.fault.clone(),
    }
}

fn session(of: &view::PastSession) -> Session {
    let lasted = of.ended_at.as_ref().map(|ended| {
        crate::span::span(When::exact(ended).ms().saturating_sub(When::exact(&of.began_at).ms()))
    });
    Session {
        began: When::exact(&of.began_at),
        ended: of.ended_at.as_deref().map(When::exact),
        lasted: lasted.unwrap_or_else(|| "still on".to_owned()),
        reason: of.reason.as_deref().map_or_else(String::new, events::left),
        address: of.address.clone(),
        mqtt: of.mqtt.clone(),
    }
}

fn reading(of: &view::Reading) -> Reading {
    Reading {
        sensor: of.sensor.clone(),
        value: super::readings::said(&of.value),
        at: When::ago(&of.received_at),
    }
}

/// The acts in the order they are shown: two as words, the others under More, each with why it cannot be.
fn offers(detail: &view::DeviceDetail, href: &str) -> (Vec<Offer>, Vec<Offer>) {
    // What is decided about a group is taken back there, not here.
    let state = detail.device.own_state.as_str();
    let online = detail.device.presence.word == "online";
    let may = |act: Act| {
        let state: Option<DeviceState> = state.parse().ok();
        let connected = detail.device.first_connected_at.is_some();
        state.is_some_and(|state| state.step(act, connected).is_ok())
            // Whatever is not revoked is revoked first.
            || (act == Act::Decommission && state.is_some_and(|state| state.step(Act::Revoke, connected).is_ok()))
    };
    let offer = |act: Act| Offer {
        name: acts::name(act.as_str()),
        href: format!("{href}/{act}"),
        dialog: !matches!(act, Act::Revoke | Act::Decommission),
        why_not: (!may(act)).then(|| format!("a {state} device cannot be {}", act.participle())),
    };
    let first = [Act::Release, Act::Resume, Act::Suspend]
        .into_iter()
        .map(offer)
        .find(|offer| offer.why_not.is_none());
    let mut words: Vec<_> = first.into_iter().collect();
    if online {
        let href = format!("{href}/disconnect");
        words.push(Offer { name: acts::name("disconnect"), href, dialog: true, why_not: None });
    }
    let shown: Vec<_> = words.iter().map(|offer| offer.name.clone()).collect();
    let mut more: Vec<_> =
        [Act::Suspend, Act::Resume, Act::Quarantine, Act::Release, Act::Revoke, Act::Decommission]
            .into_iter()
            .map(offer)
            .filter(|offer| !shown.contains(&offer.name))
            .collect();
    let revoke = offer(Act::Revoke);
    more.push(Offer {
        name: acts::name("replace"),
        href: format!("{href}/replace"),
        why_not: revoke.why_not.map(|_| format!("a {state} device cannot be replaced")),
        ..revoke
    });
    if !online {
        more.push(Offer {
            name: acts::name("disconnect"),
            href: String::new(),
            dialog: false,
            why_not: Some("it is not connected".to_owned()),
        });
    }
    (words, more)
}

/// A step of the decision that lets a device in, as the API replays it.
struct Check {
    glyph: &'static str,
    class: &'static str,
    /// What a screen reader says of the outcome.
    outcome: &'static str,
    name: String,
    said: String,
}

/// Whether it may use a topic.
struct Topic {
    allowed: bool,
    said: String,
}

#[derive(Template)]
#[template(path = "why.html")]
struct Why {
    shell: Shell,
    serial: String,
    href: String,
    chip: Chip,
    seen: Seen,
    checks: Vec<Check>,
    /// `[M201] device is suspended`; nothing when it may connect.
    refusal: Option<String>,
    /// What it was refused with for what it sent, when it has not been let in since.
    last: Option<String>,
    next: String,
    because: Option<Event>,
    offers: Vec<Offer>,
    asked: String,
    topic: Option<Topic>,
}

#[derive(Deserialize)]
pub(super) struct WhyAsked {
    topic: Option<String>,
}

/// The connect decision, check by check.
pub(super) async fn why(
    api: Api,
    Path(serial): Path<String>,
    Query(asked): Query<WhyAsked>,
) -> Result<Response, Problem> {
    let status = api.status().await?;
    let detail: view::DeviceDetail = api.get(&format!("/v1/devices/{}", encoded(&serial))).await?;
    let asked = asked.topic.unwrap_or_default().trim().to_owned();
    let query = if asked.is_empty() { String::new() } else { format!("?topic={}", encoded(&asked)) };
    let told: Value = api.get(&format!("/v1/explain/{}{query}", encoded(&serial))).await?;
    let href = device_href(&detail.device.serial);
    let (offers, _) =
        if may(&status, Need::Decide) { offers(&detail, &href) } else { (Vec::new(), Vec::new()) };
    let refused = told["may_connect"] == Value::Bool(false);
    let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    Ok(page(&Why {
        shell: Shell::new(format!("Why {serial}"), Section::Devices, &status),
        serial: detail.device.serial.clone(),
        chip: Chip(detail.device.state.clone()),
        seen: Seen::of(&detail.device.presence),
        checks: told["checks"].as_array().into_iter().flatten().map(check).collect(),
        refusal: refused.then(|| format!("[{}] {}", text(&told["code"]), text(&told["words"]))),
        last: (told["refused_since"] == Value::Bool(true)).then(|| {
            let last = &told["last_refusal"];
            format!("[{}] {}", text(&last["code"]), text(&last["words"]))
        }),
        next: text(&told["next"]),
        because: detail.why.as_ref().filter(|_| refused).map(events::decision),
        topic: told["topic"].as_object().map(|of| Topic {
            allowed: of.get("allowed") == Some(&Value::Bool(true)),
            said: of.get("why").and_then(Value::as_str).unwrap_or_default().to_owned(),
        }),
        offers,
        href,
        asked,
    }))
}

fn check(of: &Value) -> Check {
    let text = |key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (glyph, class, outcome) = match of.get("outcome").and_then(Value::as_str) {
        Some("yes") => ("✓", "passed", "passed"),
        Some("no") => ("✕", "failed", "refused"),
        Some("depends") => ("?", "skipped", "depends on what it sends"),
        _ => ("–", "skipped", "not reached"),
    };
    Check { glyph, class, outcome, name: text("words"), said: text("said") }
}

impl Device {
    fn undo(&self) -> Option<&Undo> {
        self.done.as_ref().and_then(|done| done.undo.as_ref())
    }
}
