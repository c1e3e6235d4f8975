//! A board is swapped: one device is revoked as superseded, another takes its place.

use axum::{Json, extract::State, http::HeaderMap};
use muster_shared::Code;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path,
    acts::{changed, reason_of, seen_through},
    auth::{Caller, Need},
    devices::{if_match, refused, seen},
    error::Problem,
    routes::{About, Routes},
    view,
};
use crate::registry::{Aim, RegistryError, Target, replace::Swap};

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.post(
        "/v1/devices/{serial}/replace",
        replace,
        About::new("Put another device in a device's place, or find out what that would come to")
            .takes::<Posted>()
            .answers::<view::Replacement>("replacement")
            .versioned()
            .refuses([
                Code::DeviceUnknown,
                Code::TransitionNotAllowed,
                Code::ReasonMissing,
                Code::ConfirmationMissing,
                Code::SuccessorUnfit,
            ]),
    )
}

/// What a replacement is posted with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Posted {
    /// Why; of a dry run, nothing is needed.
    reason: Option<String>,
    /// The device that takes its place: `SERIAL`, or `TENANT/SERIAL`.
    successor: String,
    /// The serial of the device that is replaced, again; of a dry run, nothing is needed.
    confirm: Option<String>,
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
}

async fn replace(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    headers: HeaderMap,
    Document(posted): Document<Posted>,
) -> Result<Json<view::Replacement>, Problem> {
    let (target, expected) = (seen(&caller, &serial)?, if_match(&headers)?);
    let new: Target = posted.successor.trim().parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong)
            .what(format!("{:?} is no serial", posted.successor))
            .because(error.to_string())
            .next("say which device takes its place: muster device replace SERIAL --by SERIAL")
    })?;
    let actor = caller.may(Need::Decide)?;
    let text = posted.reason.as_deref().filter(|_| !posted.dry_run).or(posted.dry_run.then_some("dry run"));
    let reason = reason_of(text, None, "replace")?;
    let same = |given: &str| given == target.serial.as_str() || given == target.to_string();
    if !posted.dry_run && !posted.confirm.as_deref().is_some_and(same) {
        return Err(Problem::new(Code::ConfirmationMissing).serial(target.serial.as_str()));
    }
    let (old, dry_run) = (Aim::seen(&target, expected), posted.dry_run);
    match doors.revocation.replace(actor, Swap { old, new: new.clone(), reason, dry_run }).await {
        Ok((replaced, answer)) => {
            let name = doors.registry.verdicts().name(replaced.successor);
            let mut decision = seen_through(&doors, answer).await;
            if dry_run {
                (decision.generation, decision.audit_no) = (None, None);
            }
            Ok(Json(view::Replacement {
                schema: "muster.replacement/1".to_owned(),
                dry_run,
                decision,
                successor: name.serial.to_string(),
                successor_audit_no: (!dry_run).then_some(replaced.successor_no),
                tags: replaced.taken.tags,
                groups: replaced.taken.groups,
                note: replaced.taken.note.map(|note| note.text),
                desired_version: replaced.desired.map(|desired| desired.version),
            }))
        }
        Err(RegistryError::Changed { .. }) => Err(changed(&doors, &target).await),
        // Which of the two is not there is said by its name.
        Err(RegistryError::DeviceUnknown(of)) => Err(Problem::new(Code::DeviceUnknown)
            .what(format!("no device {of}"))
            .serial(target.serial.as_str())),
        Err(error) => Err(refused(error, &target)),
    }
}
