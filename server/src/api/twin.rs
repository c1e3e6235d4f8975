//! A device's twin: the state it should be in, and what it says its state is.
//!
//! The desired half is the registry's, with its version as ETag; the reported half is what stands retained on
//! the device's topic. Setting the desired half is a decision; carrying it to the device is [`crate::twin`]'s.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, header},
};
use base64::Engine as _;
use muster_shared::Code;
use serde_json::{Map, Value};

use super::{
    Doors, Path,
    auth::{Caller, Need},
    body,
    devices::{if_match, refused, seen},
    error::Problem,
    routes::{About, Routes},
    time, view,
};
use crate::{
    registry::{
        Aim, DeviceName, RegistryError, Target,
        twin::{DOCUMENT_MAX, Twin},
    },
    twin::{published, reported},
    uplink::StoredMessage,
};

/// How long an answer waits for the message to stand on its topic. The decision stands either way.
const PUBLISH_WAIT: Duration = Duration::from_secs(3);

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    const PATH: &str = "/v1/devices/{serial}/twin";
    let about = |summary| About::new(summary).answers::<view::Twin>("device.twin");
    routes
        .get(
            PATH,
            show,
            about("The state a device should be in, and what it says its state is")
                .refuses([Code::DeviceUnknown]),
        )
        .put(
            PATH,
            set,
            about("Set the state a device should be in: a JSON object of at most 16 KiB")
                .takes::<Map<String, Value>>()
                .versioned()
                .refuses([Code::DeviceUnknown, Code::CertificateRevoked, Code::DeviceDecommissioned]),
        )
}

/// With the desired state's version as ETag.
type Answer = Result<([(HeaderName, String); 1], Json<view::Twin>), Problem>;

async fn show(caller: Caller, State(doors): State<Doors>, Path(serial): Path<String>) -> Answer {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let twin = doors.registry.twin(&target).await.map_err(|error| refused(error, &target))?;
    answer(&doors, &twin)
}

async fn set(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    headers: HeaderMap,
    octets: Body,
) -> Answer {
    let target = seen(&caller, &serial)?;
    let actor = caller.may(Need::Decide)?;
    let aim = Aim::seen(&target, if_match(&headers)?);
    let document = body(octets, DOCUMENT_MAX).await.map_err(|problem| match problem.code {
        Code::RequestTooLarge => {
            problem.next("a desired state is a small document: say less, or refer to more")
        }
        _ => problem,
    })?;
    match doors.registry.set_desired(actor, aim, &document).await {
        Ok(twin) => {
            carried(&doors, &twin).await;
            answer(&doors, &twin)
        }
        Err(RegistryError::Changed { now, .. }) => Err(changed(&doors, &target, now).await),
        Err(error @ RegistryError::Value { .. }) => {
            Err(refused(error, &target).next("send a JSON object, such as {\"period_s\": 30}"))
        }
        Err(error) => Err(refused(error, &target)),
    }
}

/// Waits a little until this version, or one after it, stands where the device reads it.
async fn carried(doors: &Doors, twin: &Twin) {
    let verdicts = doors.registry.verdicts();
    if verdicts.refusal(twin.device).is_some() {
        // It does not before the device may talk again.
        return;
    }
    let (retained, name) = (doors.uplink.retained(), verdicts.name(twin.device));
    let mut committed = doors.uplink.committed();
    let there = async {
        while published(&retained, &name) < Some(twin.version()) {
            if committed.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(PUBLISH_WAIT, there).await;
}

/// Nothing was set, and what has changed is said.
async fn changed(doors: &Doors, target: &Target, now: u64) -> Problem {
    let problem = Problem::new(Code::DeviceChanged)
        .what(format!("the desired state of {target} has changed since it was looked at"))
        .next(format!("look at it again: muster device twin {target}"));
    let desired = doors.registry.twin(target).await.ok().and_then(|twin| twin.desired);
    match desired {
        Some(desired) => problem.because(format!(
            "it is at version {} now, set by {} at {}",
            desired.version,
            desired.author,
            time::from_ms(desired.at_ms)
        )),
        None => problem.because(format!("it is at version {now} now")),
    }
}

fn answer(doors: &Doors, twin: &Twin) -> Answer {
    let name = doors.registry.verdicts().name(twin.device);
    let retained = doors.uplink.retained();
    let published = published(&retained, &name) == Some(twin.version());
    let version = [(header::ETAG, format!("\"{}\"", twin.version()))];
    Ok((version, Json(document(twin, &name, published, reported(&retained, &name).as_ref())?)))
}

fn document(
    twin: &Twin,
    name: &DeviceName,
    published: bool,
    reported: Option<&StoredMessage>,
) -> Result<view::Twin, Problem> {
    let desired = twin.desired.as_ref();
    let said = reported.and_then(|message| serde_json::from_slice::<Value>(&message.payload).ok());
    let coded = |message: &StoredMessage| base64::engine::general_purpose::STANDARD.encode(&message.payload);
    Ok(view::Twin {
        schema: "muster.device.twin/1".to_owned(),
        serial: name.serial.to_string(),
        tenant: name.tenant.to_string(),
        device_id: name.device_id.to_string(),
        desired: desired.map(|of| serde_json::from_str(&of.document)).transpose().map_err(|error| {
            RegistryError::Damaged(format!("the desired state of {} is no JSON: {error}", name.serial))
        })?,
        desired_version: twin.version(),
        desired_by: desired.map(|of| of.author.clone()),
        desired_at: desired.map(|of| time::from_ms(of.at_ms)),
        published,
        reported_base64: reported.filter(|_| said.is_none()).map(coded),
        reported: said,
        reported_content_type: reported.and_then(|message| message.content_type()).map(str::to_owned),
        reported_at: reported.map(|message| time::from_ms(message.received_ms)),
    })
}
