//! `/v1/explain/{device}`: why it can, or cannot, connect now; whether it may use a topic. The answers are the
//! edge's own ([`replay`], [`Standing`]): nothing here knows a rule.
//!
//! The first checks need nothing but the certificate. The rest of the decision is about what the device sends:
//! its continuity token, its client id, its will. What is known of that beforehand is said, and nothing more
//! is claimed; what it was refused with the last time is then the best there is.

use axum::{Json, extract::State};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Path, Query, audit,
    auth::{Caller, Need},
    devices::{refusal, refused, seen},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    edge::{
        clones::Response,
        guard::Standing,
        replay::{self, Verb},
    },
    registry::{
        now_ms,
        query::{CertificateRow, DeviceDetail},
    },
};

/// The checks of a certificate, in the order the edge makes them.
const CHECKS: [(&str, &str); 7] = [
    ("tcp", "TCP"),
    ("tls", "TLS"),
    ("issuer", "issuer trusted"),
    ("in_date", "in date"),
    ("serial_known", "serial known"),
    ("state", "state"),
    ("not_revoked", "not revoked"),
];

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/v1/explain/{device}",
        explain,
        About::new("Why a device can or cannot connect now, check by check; whether it may use a topic")
            .query::<Ask>()
            .answers::<view::Explanation>("explain")
            .refuses([Code::DeviceUnknown]),
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// A topic name to publish on, or a topic filter to subscribe to
    topic: Option<String>,
    /// `publish` (the default) or `subscribe`
    verb: Option<String>,
    /// One of its certificates, or the beginning of its id; without it the newest
    certificate: Option<String>,
}

pub(super) async fn explain(
    caller: Caller,
    State(doors): State<Doors>,
    Path(device): Path<String>,
    Query(ask): Query<Ask>,
) -> Result<Json<view::Explanation>, Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &device)?;
    let wrong = |what: String| Problem::new(Code::UsageWrong).what(what).next("muster device explain --help");
    let verb = match ask.verb.as_deref() {
        None | Some("publish") => Verb::Publish,
        Some("subscribe") => Verb::Subscribe,
        Some(other) => return Err(wrong(format!("{other:?} is neither publish nor subscribe"))),
    };
    let detail = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?;
    let begins = ask.certificate.as_deref().unwrap_or_default();
    let named = |row: &&CertificateRow| row.id.to_string().starts_with(begins);
    let certificate = detail.certificates.iter().find(named);
    let certificate = certificate.ok_or_else(|| wrong(format!("it has no certificate {begins}")))?;
    let verdicts = doors.registry.verdicts();
    let now_s = (now_ms() / 1000) as i64;
    let gate = replay::connect(&verdicts, &doors.trust, &certificate.der, now_s).map(drop);
    let standing = doors.guard.standing(detail.row.key, now_ms());
    let contested = standing.contested_until_ms.map_or(Ok(()), |_| Err(Code::SessionContested));
    let answer = gate.and(contested);
    let name = verdicts.name(detail.row.key);
    let topic = ask.topic.as_deref().map(|topic| {
        let answer = replay::topic(&name, verb, topic);
        let code = answer.as_ref().err().map(|_| Code::TopicNotIts);
        view::TopicAnswer {
            topic: topic.to_owned(),
            verb: if verb == Verb::Publish { "publish" } else { "subscribe" }.to_owned(),
            allowed: answer.is_ok(),
            code: code.map(|code| code.id().to_owned()),
            why: answer.err().map(|error| error.to_string()),
        }
    });
    let code = answer.err();
    let online = doors.roster.is_online(detail.row.key).is_some();
    let stands = refusal_that_stands(&detail).filter(|_| code.is_none() && !online);
    let mut checks = checks(gate.err(), &detail.row.in_force.to_string());
    checks.extend(of_what_it_sends(gate.is_ok(), &standing, detail.row.device_id.as_str()));
    let serial = detail.row.serial.to_string();
    Ok(Json(view::Explanation {
        schema: "muster.explain/1".to_owned(),
        serial: serial.clone(),
        tenant: detail.row.tenant.to_string(),
        device_id: detail.row.device_id.to_string(),
        state: detail.row.in_force.as_str().to_owned(),
        certificate_id: certificate.id.to_string(),
        certificate_ends_at: time::from_s(certificate.not_after_s),
        may_connect: code.is_none(),
        refused_since: stands.is_some(),
        code: code.map(|code| code.id().to_owned()),
        words: code.map(|code| code.words().to_owned()),
        next: code.or(stands).map(|code| code.entry().next.replace("{}", &serial)),
        checks,
        online,
        why: detail.held_by.as_ref().or(detail.why.as_ref()).filter(|_| code.is_some()).map(audit::row),
        last_refusal: detail.refusals.first().map(refusal),
        topic,
    }))
}

/// Each check: passed, failed, or not come to.
fn checks(code: Option<Code>, state: &str) -> Vec<view::Check> {
    let failed = code.map_or(CHECKS.len(), |code| check_of(code, state));
    let outcome = |at: usize| match at.cmp(&failed) {
        std::cmp::Ordering::Less => "yes",
        std::cmp::Ordering::Equal => "no",
        std::cmp::Ordering::Greater => "not_reached",
    };
    CHECKS
        .iter()
        .enumerate()
        .map(|(at, (name, words))| view::Check {
            check: (*name).to_owned(),
            words: (*words).to_owned(),
            outcome: outcome(at).to_owned(),
            said: code.filter(|_| at == failed).map(|code| code.words().to_owned()),
        })
        .collect()
}

/// The checks that are about what it sends, in the order the edge makes them.
fn of_what_it_sends(reached: bool, standing: &Standing, device_id: &str) -> [view::Check; 3] {
    let id = format!("an empty client id, or {device_id}; a will on a topic of its own");
    let contested = standing.contested_until_ms.map(|until_ms| {
        format!(
            "its session was taken over too often; who sits there stays until {}",
            time::from_ms(until_ms)
        )
    });
    let takeovers = if contested.is_some() { "no" } else { "yes" };
    [
        ("client_id", "client id and will", "depends", Some(id)),
        ("continuity", "continuity token", "depends", Some(continuity(standing))),
        ("takeovers", "session not contested", takeovers, contested),
    ]
    .map(|(check, words, outcome, said)| view::Check {
        check: check.to_owned(),
        words: words.to_owned(),
        outcome: if reached { outcome } else { "not_reached" }.to_owned(),
        said: said.filter(|_| reached),
    })
}

/// What is known of its continuity token before it shows one.
fn continuity(standing: &Standing) -> String {
    let expected = match standing.confirmed_epoch {
        None => "it has confirmed none, so it may come without one".to_owned(),
        Some(epoch) => {
            format!("it has confirmed one, of epoch {epoch}: it must show that one, or the one after it")
        }
    };
    match (standing.response, standing.breaker_open) {
        (Response::Alert, _) => format!("{expected}; any other is only announced (clones.continuity)"),
        (Response::Enforce, true) => {
            format!("{expected}; too many devices show old ones, so none is quarantined for that now")
        }
        (Response::Enforce, false) => expected,
    }
}

/// How long behind a session's end its last refusal may be recorded, milliseconds.
const ENDING_MS: u64 = 1000;

/// What it was refused with for what it sent, if it has not been let in since.
fn refusal_that_stands(detail: &DeviceDetail) -> Option<Code> {
    let last = detail.refusals.first()?;
    let since_ms = match detail.sessions.first().map(|session| (session.began_at_ms, session.ended)) {
        Some((_, None)) => return None,
        Some((began_ms, Some((ended_ms, _)))) => match last.code {
            Code::ClientIdForeign
            | Code::ContinuityOlder
            | Code::ContinuityMissing
            | Code::ContinuityForged
            | Code::SessionContested
            | Code::ConnectTimeout
            | Code::ProtocolUnsupported
            | Code::KeyNotProven => began_ms,
            // Of its CONNECT, or of the session that ended with it.
            Code::TopicNotIts | Code::PacketMalformed | Code::PacketTooLarge | Code::PacketOutOfPlace => {
                ended_ms + ENDING_MS
            }
            _ => return None,
        },
        None => 0,
    };
    (last.last_at_ms > since_ms).then_some(last.code)
}

/// Which check a refusal comes from.
fn check_of(code: Code, state: &str) -> usize {
    let name = match code {
        Code::IssuerUnknown | Code::IssuerWithdrawn | Code::TenantForeign => "issuer",
        Code::CertificateExpired | Code::CertificateNotYetValid => "in_date",
        Code::SerialTaken | Code::DeviceNotRegistered | Code::DeviceUnknown => "serial_known",
        Code::CertificateRevoked if state != "revoked" => "not_revoked",
        Code::CertificateSuperseded => "not_revoked",
        Code::CertificateProfile | Code::CertificateMissing => "tls",
        _ => "state",
    };
    CHECKS.iter().position(|(check, _)| *check == name).unwrap_or(CHECKS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_the_device_is_not_claimed_to_pass() {
        let fresh = Standing {
            response: Response::Enforce,
            confirmed_epoch: None,
            breaker_open: false,
            contested_until_ms: None,
        };
        let of = |reached, standing: &Standing| {
            of_what_it_sends(reached, standing, "MU-1")
                .map(|check| (check.outcome, check.said.unwrap_or_default()))
        };
        let said = of(true, &fresh);
        assert_eq!(said.each_ref().map(|(outcome, _)| outcome.as_str()), ["depends", "depends", "yes"]);
        assert!(said[0].1.contains("MU-1") && said[1].1.contains("has confirmed none"), "{said:?}");
        let said = of(true, &Standing { confirmed_epoch: Some(3), breaker_open: true, ..fresh });
        assert!(said[1].1.contains("epoch 3") && said[1].1.contains("quarantined"), "{said:?}");
        let said = of(true, &Standing { response: Response::Alert, contested_until_ms: Some(0), ..fresh });
        assert!(said[1].1.contains("announced") && said[2].0 == "no", "{said:?}");
        let said = of(false, &fresh);
        assert!(said.iter().all(|(outcome, said)| outcome == "not_reached" && said.is_empty()), "{said:?}");
    }

    #[test]
    fn one_check_fails_and_what_comes_after_is_not_claimed() {
        let of = |code, state| {
            let checks = checks(code, state);
            let failed = checks.iter().find(|check| check.outcome == "no").map(|check| check.check.clone());
            (failed, checks.iter().filter(|check| check.outcome == "yes").count())
        };
        assert_eq!(of(None, "active"), (None, 7));
        for (code, state, check, passed) in [
            (Code::DeviceSuspended, "suspended", "state", 5),
            (Code::DeviceQuarantined, "quarantined", "state", 5),
            (Code::CertificateRevoked, "revoked", "state", 5),
            (Code::CertificateRevoked, "active", "not_revoked", 6),
            (Code::CertificateExpired, "active", "in_date", 3),
            (Code::IssuerWithdrawn, "active", "issuer", 2),
            (Code::SerialTaken, "active", "serial_known", 4),
            (Code::CertificateProfile, "active", "tls", 1),
        ] {
            assert_eq!(of(Some(code), state), (Some(check.to_owned()), passed), "{code}");
        }
    }
}
