//! What is decided about many at once: a batch, a station, a tenant, a CA, a certificate. One rule each.

use axum::{Json, extract::State, http::HeaderMap};
use muster_shared::{CertificateId, Code, id::IdError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path,
    acts::{ended, reason_of},
    auth::{Caller, Need},
    devices::if_match,
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    registry::{
        Act, DeviceState, Group, GroupTarget, KeyId, Reason, RegistryError, Scope,
        rules::{GroupAim, GroupSeen},
    },
    revocation::GroupAnswer,
};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let held = || Act::ALL.into_iter().filter(|act| held(*act)).map(Act::as_str);
    let about = |summary| {
        About::new(summary)
            .takes::<Posted>()
            .answers::<view::GroupDecision>("group.decision")
            .refuses([
                Code::RouteUnknown,
                Code::TransitionNotAllowed,
                Code::ReasonMissing,
                Code::ConfirmationMissing,
            ])
            .versioned()
    };
    routes
        .post(
            "/v1/batches/{batch}/{act}",
            batch,
            about("Decide about a batch, and whatever is imported into it later")
                .words("act", held())
                .refuses([Code::BatchUnknown]),
        )
        .post(
            "/v1/stations/{station}/{act}",
            station,
            about("Decide about all that a station has made, and will make").words("act", held()),
        )
        .post(
            "/v1/tenants/{tenant}/{act}",
            tenant,
            about("Decide about all devices of a tenant, now and later").words("act", held()),
        )
        .post(
            "/v1/cas/{ca}/{act}",
            ca,
            about("Refuse every certificate of an authority for ever").words("act", ["withdraw"]),
        )
        .post(
            "/v1/certificates/{id}/{act}",
            certificate,
            about("Refuse one certificate for ever, of a device or of a service").words("act", ["revoke"]),
        )
}

/// What is done to groups by name.
fn held(act: Act) -> bool {
    !matches!(act, Act::FirstConnection | Act::Decommission)
}

/// What a decision about a group is posted with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Posted {
    reason: Option<String>,
    reason_code: Option<String>,
    confirm: Option<String>,
    /// Say what it would be about, and decide nothing.
    #[serde(default)]
    dry_run: bool,
}

type Answer = Result<Json<view::GroupDecision>, Problem>;

pub(super) async fn batch(
    caller: Caller,
    State(doors): State<Doors>,
    Path((batch, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Answer {
    let target = match batch.split_once('/') {
        Some((station, name)) => {
            GroupTarget::Group(Group::Batch(id(station, "station")?, id(name, "batch")?))
        }
        None => GroupTarget::Batch(id(&batch, "batch")?),
    };
    decide(&caller, &doors, (target, if_match(&headers)?), &batch, &verb, &posted).await
}

pub(super) async fn station(
    caller: Caller,
    State(doors): State<Doors>,
    Path((station, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Answer {
    let target = Group::Station(id(&station, "station")?).into();
    decide(&caller, &doors, (target, if_match(&headers)?), &station, &verb, &posted).await
}

pub(super) async fn tenant(
    caller: Caller,
    State(doors): State<Doors>,
    Path((tenant, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Answer {
    let target = Group::Tenant(id(&tenant, "tenant")?).into();
    decide(&caller, &doors, (target, if_match(&headers)?), &tenant, &verb, &posted).await
}

pub(super) async fn ca(
    caller: Caller,
    State(doors): State<Doors>,
    Path((ca, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Answer {
    if verb != "withdraw" {
        return Err(Problem::new(Code::RouteUnknown).what(format!("an authority has no {verb}")));
    }
    caller.may(Need::Trust)?;
    let target = Group::Ca(key_id(&doors, caller.scope(), &ca).await?).into();
    decide(&caller, &doors, (target, if_match(&headers)?), &ca, "revoke", &posted).await
}

pub(super) async fn certificate(
    caller: Caller,
    State(doors): State<Doors>,
    Path((certificate, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Answer {
    if verb != "revoke" {
        return Err(Problem::new(Code::RouteUnknown).what(format!("a certificate has no {verb}")));
    }
    let id: CertificateId = id(&certificate, "certificate")?;
    decide(
        &caller,
        &doors,
        (Group::Certificate(id).into(), if_match(&headers)?),
        &certificate,
        &verb,
        &posted,
    )
    .await
}

fn id<T: std::str::FromStr<Err = IdError>>(text: &str, what: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: IdError| {
        Problem::new(Code::UsageWrong).what(format!("{text:?} names no {what}")).because(error.to_string())
    })
}

/// An authority by its key identifier, by the station that holds it, or by its name here.
async fn key_id(doors: &Doors, scope: &Scope, name: &str) -> Result<KeyId, Problem> {
    // The server's own authorities are every tenant's.
    let whole = *scope == Scope::Every;
    if let Some(ca) = doors.held.of_a_door(name).filter(|_| whole) {
        return Ok(ca.certificate().key_id());
    }
    let unknown = |why: &str| {
        Problem::new(Code::RouteUnknown)
            .what(format!("no authority {name}"))
            .because(why)
            .next("muster ca list names the stations; service and operational are the server's own")
    };
    let verdicts = doors.registry.verdicts();
    if let Some(key_id) = hex::decode(name).ok().and_then(|octets| KeyId::try_from(octets).ok()) {
        let issuer = verdicts.issuer(&key_id);
        let known = issuer.is_some_and(|issuer| scope.covers(&issuer.tenant))
            || (whole && doors.held.signs_for_a_door(&key_id));
        return if known { Ok(key_id) } else { Err(unknown("nobody here has this key identifier")) };
    }
    let station = verdicts
        .issuer_of(name)
        .filter(|issuer| scope.covers(&issuer.tenant))
        .ok_or_else(|| unknown("nor is it a station"))?;
    station.key_id[..].try_into().map_err(|_| unknown("its key identifier is of another kind"))
}

async fn decide(
    caller: &Caller,
    doors: &Doors,
    (target, seen): (GroupTarget, Option<u64>),
    name: &str,
    verb: &str,
    posted: &Posted,
) -> Answer {
    let Some(act) = verb.parse::<Act>().ok().filter(|act| held(*act)) else {
        return Err(Problem::new(Code::RouteUnknown).what(format!("{name} has no {verb}")));
    };
    let actor = caller.may(need(caller, doors, &target))?;
    if posted.dry_run {
        let found = doors.registry.group(caller.scope(), target).await?;
        return Ok(Json(planned(&found, act)?));
    }
    let reason = reason_of(posted.reason.as_deref(), posted.reason_code.as_deref(), verb)?;
    if act == Act::Revoke {
        confirmed(posted.confirm.as_deref(), name, &reason)?;
    }
    let aim = GroupAim { target, seen };
    let answer = doors.revocation.decide_group(actor, aim, act, &reason).await.map_err(|error| {
        let overtaken = matches!(error, RegistryError::Overtaken { .. });
        let problem = Problem::from(error);
        if overtaken { problem.next("look at it again, by a dry run of what is to be done") } else { problem }
    })?;
    Ok(Json(seen_through(answer).await))
}

/// One device's certificate is an operator's to revoke, as the device is. Everything else is about many, or
/// about whom the server trusts.
fn need(caller: &Caller, doors: &Doors, target: &GroupTarget) -> Need {
    let verdicts = doors.registry.verdicts();
    let seen = |id| {
        let known = verdicts.certificate(id);
        known.is_some_and(|known| caller.scope().covers(&verdicts.name(known.device).tenant))
    };
    match target {
        GroupTarget::Group(Group::Certificate(id)) if seen(id) => Need::Decide,
        _ => Need::Trust,
    }
}

/// What cannot be undone is said twice, and with the word the revocation list will carry.
fn confirmed(confirm: Option<&str>, name: &str, reason: &Reason) -> Result<(), Problem> {
    if reason.code.is_none() {
        return Err(Problem::new(Code::ReasonMissing)
            .what("a revocation needs a reason code")
            .next("repeat it with --reason-code keyCompromise or another word of RFC 5280"));
    }
    if confirm != Some(name) {
        return Err(Problem::new(Code::ConfirmationMissing).serial(name));
    }
    Ok(())
}

fn planned(found: &GroupSeen, act: Act) -> Result<view::GroupDecision, Problem> {
    let GroupSeen { group, state: from, devices, version } = found;
    let to = from
        .step(act, true)
        .map_err(|error| Problem::new(Code::TransitionNotAllowed).what(format!("{group}: {error}")))?;
    Ok(view::GroupDecision { version: *version, ..document(group, act, *from, to, *devices) })
}

fn document(
    group: &Group,
    act: Act,
    from: DeviceState,
    to: DeviceState,
    devices: u64,
) -> view::GroupDecision {
    view::GroupDecision {
        schema: "muster.group.decision/1".to_owned(),
        kind: group.kind().to_owned(),
        group: group.value(),
        act: act.as_str().to_owned(),
        from: from.as_str().to_owned(),
        to: to.as_str().to_owned(),
        devices,
        dry_run: true,
        version: 0,
        generation: None,
        audit_no: None,
        decided_at: None,
        ended: view::Ended::default(),
    }
}

/// A decision that is true already: waits a little for the sessions to close, and says what it saw.
async fn seen_through(answer: GroupAnswer) -> view::GroupDecision {
    let decided = answer.decided.clone();
    view::GroupDecision {
        dry_run: false,
        version: decided.generation.0,
        generation: Some(decided.generation.0),
        audit_no: Some(decided.audit_no),
        decided_at: Some(time::from_ms(decided.decided_at_ms)),
        ended: ended(decided.act, answer.enforced()).await,
        ..document(&decided.group, decided.act, decided.from, decided.to, decided.devices)
    }
}
