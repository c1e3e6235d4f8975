//! One line for what happened: a decision, a session, a refusal. The same words wherever it is shown.

use serde_json::Value;

use super::{
    data::encoded,
    parts::{When, look},
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
    format!("/audit?after={}#no-{no}", no.saturating_add(1))
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
        ("device", "replace") => {
            ("revoked", format!("replaced by {} by {by}, {}", serial(of("successor")), of("code")))
        }
        ("device", "succeed") => {
            ("active", format!("took the place of {} by {by}", serial(of("predecessor"))))
        }
        ("device", "disconnect") => ("manufactured", format!("disconnected by {by}")),
        ("device", "command") => ("manufactured", format!("command sent by {by}")),
        ("device", "twin") => ("manufactured", format!("desired state {} set by {by}", number("version"))),
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
    let of_tenant = target.split_once('/').map(|(_, serial)| serial.to_owned());
    let device = of_tenant.filter(|_| noun == "device").map(|serial| {
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

/// Of `acme/MU-000118`, the serial.
fn serial(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, serial)| serial)
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

/// A line of a device's timeline.
pub(super) fn line(of: &view::Event) -> Event {
    let (glyph, class) = match of.mark.as_str() {
        "made" => ("○", "t-manufactured"),
        "registered" => ("◇", "t-registered"),
        "active" => ("●", "t-active"),
        "suspended" => ("‖", "t-suspended"),
        "quarantined" => ("▲", "t-quarantined"),
        "refused" => ("✕", "t-revoked"),
        "gone" => ("□", "t-decommissioned"),
        _ => ("○", "t-manufactured"),
    };
    let kind = match of.kind.as_str() {
        "connected" | "disconnected" | "slowed" | "clone_suspected" | "firmware" => "session",
        "refused" => "refusal",
        _ => "decision",
    };
    Event {
        at: When::clock(&of.at),
        glyph,
        class,
        kind,
        text: of.text.clone(),
        quote: None,
        device: None,
        no: of.audit_no,
    }
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

    #[test]
    fn every_reason_for_leaving_is_said_in_words() {
        for reason in crate::registry::DisconnectReason::ALL {
            assert!(!left(reason.as_str()).contains('_'), "{reason}");
        }
    }
}
