//! Devices: which there are, and everything about one.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, header},
};
use base64::Engine as _;
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path, Query, audit,
    auth::{Caller, Need},
    chain,
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::{
    edge::Protocol,
    registry::{
        Act, Aim, DeviceKey, DeviceState, Filter, FilterError, Listing, RegistryError, Target,
        label::{Edit, Labels},
        listing::{Order, Sort},
        query::{CertificateRow, DeviceDetail, DeviceRow, ReadingRow, RefusalRow, SessionRow},
        timeline::{Event, Only},
    },
};

/// The protocol level of MQTT 3.1.1 (§3.1.2.2).
const MQTT_3_1_1: u8 = 4;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/v1/devices",
            list,
            About::new("Devices that match")
                .query::<List>()
                .answers::<view::Page<view::Device>>("device.list"),
        )
        .get(
            "/v1/devices/{serial}",
            show,
            About::new("Everything about one device")
                .answers::<view::DeviceDetail>("device")
                .refuses([Code::DeviceUnknown]),
        )
        .get(
            "/v1/devices/{serial}/timeline",
            timeline,
            About::new("What happened to a device and what it did, newest first")
                .query::<Lines>()
                .answers::<view::Page<view::Event>>("event.list")
                .refuses([Code::DeviceUnknown]),
        )
        .post(
            "/v1/devices/{serial}/labels",
            label,
            About::new("Change a device's tags, groups and note")
                .takes::<Labelled>()
                .answers::<view::Labels>("labels")
                .versioned()
                .refuses([Code::DeviceUnknown]),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    filter: Option<String>,
    sort: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::Device>>, Problem> {
    caller.may(Need::Look)?;
    let listing = Listing {
        tenant: caller.scope().tenant().cloned(),
        filter: filter(query.filter.as_deref().unwrap_or_default())?,
        order: query.sort.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        after: query.after,
        limit: page_limit(query.limit)?,
    };
    let page = doors.registry.list(&listing).await?;
    let items = page.items.iter().map(|row| device(row, &doors)).collect();
    Ok(Json(view::Page::counted("device", items, page.next, (page.total, page.exact))))
}

/// Reads a filter; what is wrong with it is said with what could stand there.
pub(super) fn filter(text: &str) -> Result<Filter, Problem> {
    text.parse().map_err(|error: FilterError| {
        Problem::new(Code::UsageWrong)
            .what(format!("the filter has {:?}", error.token))
            .at(format!("--filter, from character {}", text[..error.at].chars().count() + 1))
            .because(error.why)
            .next(format!("possible: {}", error.possible))
    })
}

/// Every device a filter selects within what the caller sees, in order, and the filter as it was read.
pub(super) async fn selected(
    doors: &Doors,
    caller: &Caller,
    text: &str,
    max: usize,
) -> Result<(String, Vec<(DeviceKey, DeviceState)>), Problem> {
    let mut listing = Listing {
        tenant: caller.scope().tenant().cloned(),
        filter: filter(text)?,
        order: Order { sort: Sort::Serial, reverse: false },
        after: None,
        limit: super::PAGE_MAX,
    };
    let mut devices = Vec::new();
    loop {
        let page = doors.registry.list(&listing).await?;
        devices.extend(page.items.iter().map(|row| (row.key, row.state)));
        if devices.len() > max {
            return Err(Problem::new(Code::UsageWrong)
                .what(format!("the filter selects more than {max} devices"))
                .next("narrow it, or decide about a batch, a station or a CA"));
        }
        match page.next {
            Some(next) => listing.after = Some(next),
            None => return Ok((listing.filter.to_string(), devices)),
        }
    }
}

pub(super) async fn show(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
) -> Result<([(HeaderName, String); 1], Json<view::DeviceDetail>), Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let detail = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?;
    let version = [(header::ETAG, format!("\"{}\"", version(&detail)))];
    Ok((version, Json(self::detail(&detail, &doors))))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    /// `decision`, `session` or `refusal`: only such lines.
    kind: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
}

async fn timeline(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    Query(query): Query<Lines>,
) -> Result<Json<view::Page<view::Event>>, Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let limit = page_limit(query.limit)?;
    let only = query.kind.as_deref().map(str::parse::<Only>).transpose().map_err(|error| {
        Problem::new(Code::UsageWrong).what(error.to_string()).next("it is decision, session or refusal")
    })?;
    let page = doors.registry.timeline_of(&target, only, query.after.as_deref(), limit).await;
    let page = page.map_err(|error| refused(error, &target))?;
    let items = page.items.iter().map(event).collect();
    Ok(Json(view::Page::new("event", items, page.next, None)))
}

/// A line of a timeline.
pub(super) fn event(event: &Event) -> view::Event {
    view::Event {
        at: time::from_ms(event.at_ms),
        kind: event.kind.as_str().to_owned(),
        mark: event.mark.as_str().to_owned(),
        text: event.text.clone(),
        actor: event.actor.clone(),
        audit_no: event.audit_no,
        code: event.code.map(|code| code.id().to_owned()),
    }
}

/// What is to be written on a device.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Labelled {
    #[serde(default)]
    add_tags: Vec<String>,
    #[serde(default)]
    remove_tags: Vec<String>,
    #[serde(default)]
    add_groups: Vec<String>,
    #[serde(default)]
    remove_groups: Vec<String>,
    /// Empty removes it.
    note: Option<String>,
}

async fn label(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    headers: HeaderMap,
    Document(asked): Document<Labelled>,
) -> Result<([(HeaderName, String); 1], Json<view::Labels>), Problem> {
    let actor = caller.may(Need::Decide)?;
    let (target, expected) = (seen(&caller, &serial)?, if_match(&headers)?);
    let edit = Edit {
        add_tags: asked.add_tags,
        remove_tags: asked.remove_tags,
        add_groups: asked.add_groups,
        remove_groups: asked.remove_groups,
        note: asked.note,
    };
    let labels = doors.registry.label(actor, Aim::seen(&target, expected), edit).await;
    let labels = labels.map_err(|error| match error {
        RegistryError::Changed { now, .. } => Problem::new(Code::DeviceChanged)
            .what(format!("what is written on {target} has changed since it was looked at"))
            .because(format!("it is at version {now} now"))
            .serial(target.serial.as_str()),
        error => refused(error, &target),
    })?;
    let version = [(header::ETAG, format!("\"{}\"", labels.version))];
    Ok((version, Json(self::labels(&labels))))
}

fn labels(labels: &Labels) -> view::Labels {
    let note = labels.note.as_ref();
    view::Labels {
        schema: "muster.labels/1".to_owned(),
        tags: labels.tags.clone(),
        groups: labels.groups.clone(),
        note: note.map(|note| note.text.clone()),
        note_by: note.map(|note| note.author.clone()),
        note_at: note.map(|note| time::from_ms(note.at_ms)),
        version: labels.version,
    }
}

/// The device a caller means: one of another tenant is as unknown as one that is nowhere.
pub(super) fn seen(caller: &Caller, text: &str) -> Result<Target, Problem> {
    let asked = target(text)?;
    caller.scope().narrow(&asked).map_err(|error| refused(error, &asked))
}

/// Reads `SERIAL` or `TENANT/SERIAL`.
fn target(text: &str) -> Result<Target, Problem> {
    text.parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong)
            .what(format!("{text:?} is no serial"))
            .because(error.to_string())
            .next("muster device list")
    })
}

/// A refusal about one device: its serial goes into what to do next.
pub(super) fn refused(error: RegistryError, target: &Target) -> Problem {
    let what = match &error {
        RegistryError::DeviceUnknown(_) => Some(format!("no device {target}")),
        RegistryError::Transition { error, .. } => {
            Some(format!("a {} device cannot be {}", error.from, error.act.participle()))
        }
        _ => None,
    };
    let place = match &error {
        RegistryError::Transition { error, .. } => {
            Some(format!("{target}: {} → {} is not allowed", error.from, error.to))
        }
        _ => None,
    };
    let mut problem = Problem::from(error).serial(target.serial.as_str());
    if let Some(what) = what {
        problem.what = what;
    }
    problem.place = place;
    problem
}

fn device(row: &DeviceRow, doors: &Doors) -> view::Device {
    view::Device {
        serial: row.serial.to_string(),
        tenant: row.tenant.to_string(),
        device_id: row.device_id.to_string(),
        state: row.in_force.as_str().to_owned(),
        own_state: row.state.as_str().to_owned(),
        changed_at: time::from_ms(row.changed_at_ms),
        presence: presence(row, doors),
        batch: row.batch.to_string(),
        station: row.station.to_string(),
        product: row.product.clone(),
        firmware: row.firmware.clone(),
        issuer: row.issuer.clone(),
        attention: row.attention,
        note: row.note.clone(),
        refused_as: row.refused_as.map(|code| code.id().to_owned()),
        certificate_id: row.certificate.to_string(),
        certificate_ends_at: time::from_s(row.not_after_s),
        registered_at: time::from_ms(row.registered_at_ms),
        first_connected_at: row.first_connected_ms.map(time::from_ms),
        refused_24h: row.refused_24h,
        last_refusal: row.last_refusal.as_ref().map(refusal),
    }
}

/// Presence is seen, never stored: the roster says who is here, the registry who was.
fn presence(row: &DeviceRow, doors: &Doors) -> view::Presence {
    let last_seen_at = row.last_seen_ms.map(time::from_ms);
    if let Some(session) = doors.roster.is_online(row.key) {
        return view::Presence {
            word: "online".to_owned(),
            since: Some(time::from_ms(session.since_ms)),
            address: Some(session.arrival.peer.to_string()),
            mqtt: Some(session.arrival.protocol.as_str().to_owned()),
            last_reason: None,
            last_seen_at,
        };
    }
    let last = row.session.as_ref();
    let ended = last.and_then(|session| session.ended);
    view::Presence {
        word: if last.is_some() { "offline" } else { "never_seen" }.to_owned(),
        since: ended.map(|(at_ms, _)| time::from_ms(at_ms)).or_else(|| last.and(last_seen_at.clone())),
        address: last.map(|session| session.remote.clone()),
        mqtt: last.map(|session| protocol(session.protocol)),
        last_reason: ended.map(|(_, why)| why.as_str().to_owned()),
        last_seen_at,
    }
}

fn protocol(level: u8) -> String {
    let protocol = if level == MQTT_3_1_1 { Protocol::V3 } else { Protocol::V5 };
    protocol.as_str().to_owned()
}

pub(super) fn refusal(row: &RefusalRow) -> view::Refusal {
    view::Refusal {
        code: row.code.id().to_owned(),
        words: row.code.words().to_owned(),
        count: row.count,
        last_at: time::from_ms(row.last_at_ms),
        address: row.remote.clone(),
    }
}

/// What an edit may be bound to: the audit row of its last change.
pub(super) fn version(detail: &DeviceDetail) -> u64 {
    detail.why.as_ref().map_or(0, |row| row.no)
}

/// The version that was seen: `If-Match: "31204"` (RFC 9110 §13.1.1); `*` and none are any.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let mut all = headers.get_all(header::IF_MATCH).iter();
    let (Some(value), another) = (all.next(), all.next()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match (version.and_then(|version| version.parse().ok()), another) {
        (Some(version), None) => Ok(Some(version)),
        (None, None) if text == "*" => Ok(None),
        _ => Err(Problem::new(Code::UsageWrong)
            .what("If-Match is not one version")
            .because(format!("it is {text:?}"))
            .next("send the ETag as it came, quotes and all")),
    }
}

fn detail(detail: &DeviceDetail, doors: &Doors) -> view::DeviceDetail {
    let in_use = detail.certificates.iter().find(|of| of.id == detail.row.certificate);
    view::DeviceDetail {
        schema: "muster.device/1".to_owned(),
        version: version(detail),
        device: device(&detail.row, doors),
        why: detail.held_by.as_ref().or(detail.why.as_ref()).map(audit::row),
        certificates: detail.certificates.iter().map(|of| certificate(of, doors)).collect(),
        sessions: detail.sessions.iter().map(session).collect(),
        refusals: detail.refusals.iter().map(refusal).collect(),
        history: detail.history.iter().map(audit::row).collect(),
        readings: detail.readings.iter().map(reading).collect(),
        enforcement: detail.enforcement.map(|of| view::Enforcement {
            decided_at: time::from_ms(of.decided_at_ms),
            enforced_at: of.enforced_at_ms.map(time::from_ms),
            sessions_closed: of.sessions_ended,
            commit_to_closed_ms: of.enforced_at_ms.map(|at| at.saturating_sub(of.decided_at_ms)),
        }),
        labels: labels(&detail.labels),
        chain: in_use.map(|of| chain::of(of, doors)).unwrap_or_default(),
        replaced_by: detail.places.replaced_by.as_ref().map(ToString::to_string),
        replaces: detail.places.replaces.as_ref().map(ToString::to_string),
        can_do: can_do(detail.row.state),
    }
}

/// Decommissioning revokes first where that is still to do; what can be revoked can be replaced.
fn can_do(state: DeviceState) -> Vec<String> {
    let mut acts: Vec<_> = state.acts().iter().map(|act| act.as_str()).collect();
    if acts.contains(&Act::Revoke.as_str()) {
        acts.extend(["replace", Act::Decommission.as_str()]);
    }
    acts.into_iter().map(str::to_owned).collect()
}

fn certificate(row: &CertificateRow, doors: &Doors) -> view::Certificate {
    view::Certificate {
        certificate_id: row.id.to_string(),
        status: row.status.as_str().to_owned(),
        issuer: hex::encode(&row.issuer),
        chain: chain::of(row, doors),
        key_proven: row.proven.map(|before| before.as_str().to_owned()),
        not_before: time::from_s(row.not_before_s),
        not_after: time::from_s(row.not_after_s),
        revocation_reason: row.revoked.map(|(why, _)| why.as_str().to_owned()),
        revoked_at: row.revoked.map(|(_, at_ms)| time::from_ms(at_ms)),
        pem: pem(&row.der),
    }
}

/// A certificate in PEM (RFC 7468).
pub(super) fn pem(der: &[u8]) -> String {
    let coded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in coded.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn session(row: &SessionRow) -> view::PastSession {
    view::PastSession {
        began_at: time::from_ms(row.began_at_ms),
        ended_at: row.ended.map(|(at_ms, _)| time::from_ms(at_ms)),
        reason: row.ended.map(|(_, why)| why.as_str().to_owned()),
        address: row.remote.clone(),
        mqtt: protocol(row.protocol),
    }
}

/// A sensor's value as a document has it; what is no number is null.
pub(super) fn value(value: &muster_shared::telemetry::Value) -> serde_json::Value {
    use muster_shared::telemetry::Value;
    match *value {
        Value::Bool(value) => value.into(),
        Value::Int(value) => value.into(),
        Value::Float(value) => {
            serde_json::Number::from_f64(value.into()).map_or(serde_json::Value::Null, Into::into)
        }
    }
}

fn reading(row: &ReadingRow) -> view::Reading {
    view::Reading {
        sensor: row.sensor.clone(),
        value: value(&row.value),
        received_at: time::from_ms(row.received_ms),
        uptime_ms: row.uptime_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_what_is_wrong_with_it() {
        assert_eq!(filter("").unwrap(), Filter::default());
        let problem = filter("batch:B-1 state:gone").unwrap_err();
        assert_eq!(problem.code, Code::UsageWrong);
        assert!(problem.what.contains("state:gone"), "{}", problem.what);
        assert!(problem.next.contains("quarantined"), "{}", problem.next);
        assert_eq!(problem.place.as_deref(), Some("--filter, from character 11"));
    }
}
