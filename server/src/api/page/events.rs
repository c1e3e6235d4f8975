//! One line for what happened: a decision, a session, a refusal. The same words wherever it is shown.

use serde_json::Value;

use super::{
    data::encoded,
    parts::{When, look, span},
};
use crate::api::view;

/// One line.
pub(super) struct Event {
    pub(super) at: When,
    pub(super) glyph: &'static str,
    /// The class that colours the glyph.
    pub(super) class: &'static str,
    /// `decision`, `session` or `refusal`.
    pub(super) kind: &'static str,
    pub(super) text: String,
    /// In somebody's own words.
    pub(super) quote: Option<String>,
    /// The device it is about, where that is not the page's own: serial and address.
    pub(super) device: Option<(String, String)>,
    /// The audit row: its number.
    pub(super) no: Option<u64>,
}

impl Event {
    /// The address of its audit row.
    pub(super) fn href(&self) -> String {
        self.no.map_or_else(String::new, audit_href)
    }
}

/// Where an audit row is shown.
pub(super) fn audit_href(no: u64) -> String {
    format!("/audit?after={}#no-{no}", no.saturating_sub(1))
}

/// A decision.
pub(super) fn decision(row: &view::AuditRow) -> Event {
    let (noun, verb) = row.action.split_once('.').unwrap_or((&row.action, ""));
    let by = &row.actor;
    let of = |key: &str| row.detail.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| row.detail.get(key).and_then(Value::as_u64).unwrap_or_default();
    let target = &row.target;
    let (state, text) = match (noun, verb) {
        ("device", "first-connection") => ("active", "first connection → active".to_owned()),
        ("device", "suspend") => ("suspended", format!("suspended by {by}")),
        ("device", "resume") => ("active", format!("resumed by {by}")),
        ("device", "quarantine") => ("quarantined", format!("quarantined by {by}")),
        ("device", "release") => ("active", format!("released by {by}")),
        ("device", "revoke") => ("revoked", format!("revoked by {by}, {}", of("code"))),
        ("device", "decommission") => ("decommissioned", format!("decommissioned by {by}")),
        ("device", "disconnect") => ("manufactured", format!("disconnected by {by}")),
        ("device", "command") => ("manufactured", format!("command sent by {by}")),
        ("batch", "import") => {
            let registered = number("registered");
            ("registered", format!("manifest {target} imported by {by}: {registered} registered"))
        }
        ("station", "trust") => ("registered", format!("station {target} trusted by {by}")),
        ("station", "stop") => ("revoked", format!("station {target} stopped: its manifests fork")),
        ("root", "trust") => ("registered", format!("root certificate recorded by {by}")),
        ("token", "create") => ("registered", format!("token for {target} made by {by}")),
        ("token", "revoke") => ("revoked", format!("token {target} ended by {by}")),
        _ => ("manufactured", format!("{} {target} by {by}", row.action)),
    };
    let serial = target.split_once('/').map(|(_, serial)| serial.to_owned());
    let device = serial.filter(|_| noun == "device").map(|serial| {
        let href = device_href(&serial);
        (serial, href)
    });
    Event {
        at: When::clock(&row.at),
        glyph: look(state).0,
        class: class(state),
        kind: "decision",
        text,
        quote: row.reason.clone(),
        device,
        no: Some(row.no),
    }
}

/// Where a device is shown.
pub(super) fn device_href(serial: &str) -> String {
    format!("/devices/{}", encoded(serial))
}

fn class(state: &str) -> &'static str {
    match state {
        "registered" => "t-registered",
        "active" => "t-active",
        "suspended" => "t-suspended",
        "quarantined" => "t-quarantined",
        "revoked" => "t-revoked",
        "decommissioned" => "t-decommissioned",
        _ => "t-manufactured",
    }
}

fn plain(at: &str, state: &'static str, glyph: &'static str, kind: &'static str, text: String) -> Event {
    Event { at: When::clock(at), glyph, class: class(state), kind, text, quote: None, device: None, no: None }
}

/// Everything that happened to a device, newest first.
pub(super) fn of_device(detail: &view::DeviceDetail) -> Vec<Event> {
    let mut events: Vec<Event> = detail.history.iter().map(decision).collect();
    for event in &mut events {
        event.device = None;
    }
    for session in &detail.sessions {
        let text = format!("connected from {}, TLS 1.3, MQTT {}", session.address, session.mqtt);
        events.push(plain(&session.began_at, "active", "●", "session", text));
        if let (Some(ended), Some(reason)) = (&session.ended_at, &session.reason) {
            let lasted = When::exact(ended).ms().saturating_sub(When::exact(&session.began_at).ms());
            let text = format!("offline: {} (was online {})", left(reason), span(lasted));
            events.push(plain(ended, "manufactured", "○", "session", text));
        }
    }
    for (refusal, count) in folded(&detail.refusals) {
        let from = refusal.address.as_ref().map(|from| format!(", from {from}")).unwrap_or_default();
        let times = if count > 1 { format!(" ×{count}") } else { String::new() };
        let text = format!("refused [{}] {}{from}{times}", refusal.code, refusal.words);
        events.push(plain(&refusal.last_at, "revoked", "✕", "refusal", text));
    }
    let device = &detail.device;
    let text = format!("registered from manifest {}, made at {}", device.batch, device.station);
    events.push(plain(&device.registered_at, "registered", "◇", "decision", text));
    events.sort_by_key(|event| std::cmp::Reverse(event.at.ms()));
    events
}

/// Refusals of one code on one day are one line: the newest, and how many.
fn folded(refusals: &[view::Refusal]) -> Vec<(&view::Refusal, u64)> {
    let mut out: Vec<(&view::Refusal, u64)> = Vec::new();
    for refusal in refusals {
        let same = |other: &view::Refusal| {
            other.code == refusal.code && other.last_at.get(..10) == refusal.last_at.get(..10)
        };
        match out.iter_mut().find(|(other, _)| same(other)) {
            Some((newest, count)) => {
                *count += refusal.count;
                if newest.last_at < refusal.last_at {
                    *newest = refusal;
                }
            }
            None => out.push((refusal, refusal.count)),
        }
    }
    out
}

/// Why a session ended, in a person's words.
pub(super) fn left(reason: &str) -> String {
    match reason {
        "client_initiated" => "left normally",
        "keep_alive_timeout" => "no sign within its keep-alive",
        "connection_lost" => "connection lost",
        "session_taken_over" => "replaced by a newer session",
        "server_shutdown" => "server stopping",
        "administrative" => "disconnected by an operator",
        "device_suspended" => "suspended by an operator",
        "device_quarantined" => "quarantined",
        "certificate_revoked" => "revoked",
        other => return other.replace('_', " "),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str, at: &str, count: u64) -> view::Refusal {
        view::Refusal {
            code: code.to_owned(),
            words: "device is suspended".to_owned(),
            count,
            last_at: at.to_owned(),
            address: None,
        }
    }

    #[test]
    fn the_same_refusal_of_a_day_is_one_line_with_its_count() {
        let all = [
            refusal("M201", "2026-11-20T09:00:00.000Z", 2),
            refusal("M201", "2026-11-20T10:00:00.000Z", 3),
            refusal("M301", "2026-11-20T10:00:00.000Z", 1),
            refusal("M201", "2026-11-19T10:00:00.000Z", 4),
        ];
        let folded: Vec<_> = folded(&all)
            .into_iter()
            .map(|(of, count)| (of.code.as_str(), &of.last_at[..13], count))
            .collect();
        assert_eq!(
            folded,
            [("M201", "2026-11-20T10", 5), ("M301", "2026-11-20T10", 1), ("M201", "2026-11-19T10", 4)]
        );
    }

    #[test]
    fn every_reason_for_leaving_is_said_in_words() {
        for reason in crate::registry::DisconnectReason::ALL {
            assert!(!left(reason.as_str()).contains('_'), "{reason}");
        }
    }
}
