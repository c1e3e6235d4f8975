//! `/v1/explain/{device}`: why it can, or cannot, connect now; whether it may use a topic. The answers are the
//! edge's own ([`replay`]): nothing here knows a rule.

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
    edge::replay::{self, Verb},
    registry::{now_ms, query::CertificateRow},
};

/// The checks of a connection, in the order the edge makes them.
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
    let answer = replay::connect(&verdicts, &doors.trust, &certificate.der, now_s).map(drop);
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
    let serial = detail.row.serial.to_string();
    Ok(Json(view::Explanation {
        schema: "muster.explain/1".to_owned(),
        serial: serial.clone(),
        tenant: detail.row.tenant.to_string(),
        device_id: detail.row.device_id.to_string(),
        state: detail.row.state.as_str().to_owned(),
        certificate_id: certificate.id.to_string(),
        certificate_ends_at: time::from_s(certificate.not_after_s),
        may_connect: code.is_none(),
        code: code.map(|code| code.id().to_owned()),
        words: code.map(|code| code.words().to_owned()),
        next: code.map(|code| code.entry().next.replace("{}", &serial)),
        checks: checks(code, &detail.row.state.to_string()),
        online: doors.roster.is_online(detail.row.key).is_some(),
        why: detail.why.as_ref().filter(|_| code.is_some()).map(audit::row),
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
