//! Events as they are written.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_shared::topic::{Kind, Topic};

use super::{
    super::{audit, devices::value, time, view},
    cursor::{Cursor, Source},
};
use crate::{
    bus::telemetry,
    registry::{
        AuditRow, Verdicts,
        follow::{Counted, Followed},
    },
    uplink::{Position, StoredMessage, StoredPublisher},
};

/// Writes one event: its name, its id, its data on one line.
pub(super) fn write(into: &mut Vec<u8>, event: &view::StreamEvent, id: &Cursor) {
    let data = serde_json::to_string(event).expect("plain fields have a JSON form");
    // JSON text has no line breaks of its own: one data line holds it.
    into.extend_from_slice(format!("event: {}\nid: {id}\ndata: {data}\n\n", event.kind).as_bytes());
}

/// An event about nothing yet.
pub(super) fn blank(kind: &str, at_ms: u64) -> view::StreamEvent {
    view::StreamEvent {
        schema: "muster.event/1".to_owned(),
        kind: kind.to_owned(),
        at: time::from_ms(at_ms),
        tenant: None,
        serial: None,
        device_id: None,
        change: None,
        presence: None,
        refusal: None,
        notice: None,
        message: None,
        gap: None,
        problem: None,
    }
}

/// A row of the audit log.
pub(super) fn change(row: &AuditRow) -> view::StreamEvent {
    let (tenant, serial) = match (row.action.starts_with("device."), row.target.split_once('/')) {
        (true, Some((tenant, serial))) => (Some(tenant.to_owned()), Some(serial.to_owned())),
        _ => (None, None),
    };
    view::StreamEvent { tenant, serial, change: Some(audit::row(row)), ..blank("change", row.at_ms) }
}

/// Refusals or notices of one device, kind and minute.
pub(super) fn counted(row: &Followed) -> view::StreamEvent {
    let mut event = view::StreamEvent {
        tenant: row.tenant.as_ref().map(ToString::to_string),
        serial: row.serial.as_ref().map(ToString::to_string),
        device_id: row.device_id.as_ref().map(ToString::to_string),
        ..blank("refusal", row.last_at_ms)
    };
    let last_at = time::from_ms(row.last_at_ms);
    match row.what {
        Counted::Refused(code) => {
            event.refusal = Some(view::Refusal {
                code: code.id().to_owned(),
                words: code.words().to_owned(),
                count: row.count,
                last_at,
                address: row.remote.clone(),
            });
        }
        Counted::Noticed(notice) => {
            event.kind = "notice".to_owned();
            event.notice = Some(view::NoticeEvent {
                notice: notice.word().to_owned(),
                text: notice.said(row.remote.as_deref()),
                count: row.count,
                last_at,
                address: row.remote.clone(),
            });
        }
    }
    event
}

/// What could not be told.
pub(super) fn gap(
    source: Source,
    from: Option<u64>,
    to: Option<u64>,
    why: &str,
    at_ms: u64,
) -> view::StreamEvent {
    let gap = view::Gap { of: source.as_str().to_owned(), from, to, why: why.to_owned() };
    view::StreamEvent { gap: Some(gap), ..blank("gap", at_ms) }
}

/// A message of the uplink log, or the presence it says.
pub(super) fn message(
    position: Position,
    message: &StoredMessage,
    presence: bool,
    verdicts: &Verdicts,
) -> view::StreamEvent {
    let topic = String::from_utf8_lossy(&message.topic).into_owned();
    let mut event = blank("message", message.received_ms);
    let parsed = Topic::parse(&topic).ok();
    if let Some(Topic::Device { tenant, device, kind }) = &parsed {
        event.tenant = Some((*tenant).to_owned());
        event.device_id = Some((*device).to_owned());
        let named = tenant.parse().ok().zip(device.parse().ok());
        let known = named.and_then(|(tenant, device)| verdicts.by_id(&tenant, &device));
        event.serial = known.map(|device| verdicts.name(device).serial.to_string());
        if presence && matches!(kind, Kind::Presence) {
            let said: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            event.kind = "presence".to_owned();
            event.presence = Some(view::PresenceEvent {
                online: said["online"].as_bool().unwrap_or_default(),
                reason: said["reason"].as_str().map(str::to_owned),
            });
            return event;
        }
    }
    let publisher = match &message.publisher {
        StoredPublisher::Device { .. } => "device".to_owned(),
        StoredPublisher::Server { .. } => "server".to_owned(),
        StoredPublisher::Service { name, .. } => format!("service {name}"),
    };
    let readings = telemetry(message).map(|batch| {
        let readings = batch.readings.iter().map(|reading| view::Reading {
            sensor: reading.sensor.as_str().to_owned(),
            value: value(&reading.value),
            received_at: time::from_ms(message.received_ms),
            uptime_ms: reading.uptime_ms,
        });
        readings.collect()
    });
    event.message = Some(view::MessageEvent {
        position: position.0,
        topic,
        publisher,
        qos: message.qos,
        retain: message.retain,
        payload: std::str::from_utf8(&message.payload).ok().map(str::to_owned),
        payload_base64: STANDARD.encode(&message.payload),
        readings,
    });
    event
}
