//! What is decided about many at once: `muster batch revoke`, `ca withdraw`, `cert revoke` and their like.

use std::path::Path;

use muster_shared::{CertificateId, Code};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Done,
    args::{Hold, RevokeGroup},
    batch::slurp,
    certs,
    client::{Client, read},
    device::encode,
    screen::{Screen, Style, Text},
    table::thousands,
    words,
};
use crate::api::{error::Problem, view::GroupDecision};

/// Where a kind of group is decided about: its route, and what it is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    route: &'static str,
    /// The command before the name, without its verb.
    noun: &'static str,
}

/// Batches.
pub(super) const BATCH: Kind = Kind { route: "batches", noun: "batch" };
/// Stations, which are among those the server trusts.
pub(super) const STATION: Kind = Kind { route: "stations", noun: "station" };
/// Authorities.
pub(super) const CA: Kind = Kind { route: "cas", noun: "ca" };
/// Certificates.
const CERTIFICATE: Kind = Kind { route: "certificates", noun: "cert" };

/// What can be taken back.
pub(super) fn hold(
    kind: Kind,
    verb: &str,
    hold: &Hold,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let reason = reason(kind, verb, hold.reason.as_deref(), hold.dry_run)?;
    let body = json!({ "reason": reason, "dry_run": hold.dry_run });
    post(kind, verb, &hold.name, &body, client, screen)
}

/// What cannot be undone is asked for twice: the name again.
pub(super) fn revoke(
    kind: Kind,
    verb: &str,
    revoke: &RevokeGroup,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let Hold { name, reason: given, dry_run } = &revoke.hold;
    let place = format!("muster {} {verb} {name}", kind.noun);
    let text = reason(kind, verb, given.as_deref(), *dry_run)?;
    if revoke.reason_code.is_none() && !dry_run {
        return Err(Problem::new(Code::ReasonMissing)
            .what("a revocation needs a reason code")
            .at(place)
            .next(
                "repeat it with --reason-code keyCompromise, superseded, cessationOfOperation, \
                   privilegeWithdrawn, affiliationChanged, cACompromise or unspecified",
            ));
    }
    match revoke.confirm.as_deref() {
        Some(again) if again == name => {}
        _ if *dry_run => {}
        other => {
            let why = other.map_or("--confirm is not there".to_owned(), |other| {
                format!("--confirm {other:?} is not {name:?}")
            });
            return Err(Problem::new(Code::ConfirmationMissing).at(place).because(why).serial(name));
        }
    }
    let body = json!({
        "reason": text, "reason_code": revoke.reason_code, "confirm": name, "dry_run": dry_run,
    });
    post(kind, verb, name, &body, client, screen)
}

/// A certificate by its SHA-256, or by the file it is in; the confirmation is its first eight digits or more.
pub(super) fn revoke_certificate(
    revoke: &RevokeGroup,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let id = match revoke.hold.name.parse::<CertificateId>() {
        Ok(id) => id,
        Err(_) => in_file(Path::new(&revoke.hold.name))?,
    };
    let (id, mut revoke_this) = (id.to_string(), revoke.clone());
    let again = revoke.confirm.as_deref();
    if again.is_some_and(|again| again == revoke.hold.name || (again.len() >= 8 && id.starts_with(again))) {
        revoke_this.confirm = Some(id.clone());
    }
    revoke_this.hold.name = id;
    self::revoke(CERTIFICATE, "revoke", &revoke_this, client, screen)
}

fn in_file(path: &Path) -> Result<CertificateId, Problem> {
    let der = certs::own(slurp(path)?);
    if X509Certificate::from_der(&der).is_err() {
        return Err(Problem::new(Code::UsageWrong)
            .what(format!("{} is neither a certificate's SHA-256 nor a file with one", path.display()))
            .at("muster cert revoke")
            .next("muster device show SERIAL --json has the SHA-256 of each certificate"));
    }
    Ok(CertificateId(Sha256::digest(&der).into()))
}

fn reason<'a>(kind: Kind, verb: &str, given: Option<&'a str>, dry_run: bool) -> Result<&'a str, Problem> {
    match given.filter(|reason| !reason.trim().is_empty()) {
        Some(reason) => Ok(reason),
        None if dry_run => Ok(""),
        None => Err(Problem::new(Code::ReasonMissing)
            .what(format!("{} {verb} needs a reason", kind.noun))
            .at(format!("muster {} {verb}", kind.noun))),
    }
}

fn post(
    kind: Kind,
    verb: &str,
    name: &str,
    body: &serde_json::Value,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let document = client.post(&format!("/v1/{}/{}/{verb}", kind.route, encode(name)), body)?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let decision: GroupDecision = read(&document)?;
    screen.pieces(&[
        words::glyph(&decision.to, screen),
        Text::plain(format!(" {} ", decision.kind)),
        Text::new(&decision.group, Style::Bold),
        Text::plain(outcome(&decision)),
    ]);
    Ok(Done::Well)
}

fn outcome(decision: &GroupDecision) -> String {
    let devices = match decision.devices {
        1 => "1 device".to_owned(),
        devices => format!("{} devices", thousands(devices)),
    };
    let change = format!(" {} → {} · {devices}", decision.from, decision.to);
    let ends = matches!(&*decision.act, "suspend" | "quarantine" | "revoke");
    if decision.dry_run {
        return format!("{change} · dry run: nothing was decided");
    }
    if !ends {
        return change;
    }
    let ended = &decision.ended;
    match (ended.enforced, ended.commit_to_closed_ms, ended.mqtt_reason) {
        (true, Some(ms), Some(mqtt)) => {
            let sessions = match ended.sessions_closed {
                1 => "1 session".to_owned(),
                sessions => format!("{} sessions", thousands(sessions)),
            };
            format!("{change} · {sessions} closed in {ms} ms (0x{mqtt:02x})")
        }
        (true, ..) => format!("{change} · no live session"),
        (false, ..) => format!("{change} · sessions are being closed; nothing they send is accepted"),
    }
}
