//! `/v1/stream`: what happens, as server-sent events (HTML Living Standard §9.2).
//!
//! | event | is |
//! |---|---|
//! | `open` | the stream begins, or goes on |
//! | `change` | a row of the audit log |
//! | `presence` | a device has connected, or its session has ended |
//! | `refusal` | refusals of one device, code and minute, counted so far |
//! | `message` | a message of the uplink log on a topic that was asked for |
//! | `gap` | what could not be told: which numbers of which source, and why |
//! | `end` | the caller may not listen any more |
//!
//! Every event has an `id`: where to go on from, as `Last-Event-ID` or `?after=`. A comment each [`BEAT`] keeps
//! the connection, and carries the newest id past what was not asked for.
//!
//! # Invariants
//!
//! - Of each source the numbers come in ascending order; none that was asked for is left out but those a `gap`
//!   has named.
//! - A client holds at most [`FRAMES`] frames of [`FRAME_BYTES`] and a message; one that takes nothing for
//!   [`SLOW`] is let go.
//! - Who is no longer allowed to look hears nothing of what came after that: not what was decided, and from no
//!   source more than what was on its way. What ends by the clock, or at another node, ends with the next beat.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use muster_shared::{Code, DeviceId, Tenant};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    Doors, Query,
    asking::{Place, credential},
    auth::{Caller, Need},
    devices::refused,
    error::Problem,
    routes::{About, Routes},
};

mod asked;
mod cursor;
mod events;
mod follow;
mod news;
mod who;

use asked::Asked;
use cursor::Cursor;
use follow::Follower;
use who::Guest;

/// How often a silent stream says that it is there.
const BEAT: Duration = Duration::from_secs(15);
/// How long a client may take nothing.
const SLOW: Duration = Duration::from_secs(30);
/// Frames that wait for a client.
const FRAMES: usize = 4;
/// What a frame gathers before it is handed over, octets.
const FRAME_BYTES: usize = 32 << 10;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.get(
        "/v1/stream",
        stream,
        About::new("What happens, as server-sent events that can be resumed")
            .query::<Listen>()
            .answers_raw("text/event-stream", "Events: open, change, presence, refusal, message, gap, end")
            .refuses([Code::DeviceUnknown]),
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    /// Such as `kind:change kind:message topic:acme/+/telemetry/# MU-000118`
    filter: Option<String>,
    /// The id of the last event that was heard; a Last-Event-ID header says it too
    after: Option<String>,
}

async fn stream(
    State(doors): State<Doors>,
    Query(listen): Query<Listen>,
    Guest { caller, listener }: Guest,
) -> Result<Response, Problem> {
    let actor = caller.may(Need::Look)?;
    let mut asked = Asked::read(listen.filter.as_deref().unwrap_or_default()).map_err(|wrong| {
        Problem::new(Code::UsageWrong)
            .what(format!("the filter has {:?}", wrong.word))
            .because(wrong.why)
            .next("a filter has words such as kind:change topic:acme/+/telemetry/# MU-000118")
    })?;
    let after = after(&listener.headers, listen.after.as_deref())?;
    let place = doors.asking.stream(&credential(actor))?;
    let only = device(&doors, &caller, &mut asked).await?;
    let (out, waiting) = mpsc::channel::<Bytes>(FRAMES);
    let follower = Follower::begin(doors, listener, asked, only, after, out).await?;
    tokio::spawn(held(follower, place));
    let frames = futures_util::stream::unfold(waiting, |mut waiting| async {
        waiting.recv().await.map(|frame| (Ok::<_, Infallible>(frame), waiting))
    });
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Between us and the client nothing may gather events into larger pieces.
    let unbuffered = (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([kind, unbuffered], Body::from_stream(frames)).into_response())
}

async fn held(follower: Follower, place: Place) {
    follower.run().await;
    drop(place);
}

/// The one device that was asked for, within what the caller may see.
async fn device(
    doors: &Doors,
    caller: &Caller,
    asked: &mut Asked,
) -> Result<Option<(Tenant, DeviceId)>, Problem> {
    if let Some(own) = caller.tenant() {
        if asked.tenant.as_ref().is_some_and(|tenant| tenant != own) {
            return Err(Problem::new(Code::DeviceUnknown).what("no such tenant"));
        }
        asked.tenant = Some(own.clone());
    }
    let Some(mut target) = asked.device.take() else { return Ok(None) };
    if target.tenant.is_none() {
        target.tenant.clone_from(&asked.tenant);
    }
    if asked.tenant.as_ref().is_some_and(|tenant| Some(tenant) != target.tenant.as_ref()) {
        return Err(Problem::new(Code::DeviceUnknown).what(format!("no device {target}")));
    }
    let detail = doors.registry.device(&target).await.map_err(|error| refused(error, &target))?;
    let row = detail.row;
    asked.device = Some(crate::registry::Target { tenant: Some(row.tenant.clone()), serial: row.serial });
    Ok(Some((row.tenant, row.device_id)))
}

/// Where to go on. A browser that reconnects says it in the header, and keeps the address it began with.
fn after(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Cursor>, Problem> {
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    let Some(text) = header.or(query).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|error: cursor::NoCursor| {
        Problem::new(Code::UsageWrong)
            .what("there is nothing to go on from")
            .because(format!("{text:?}: {error}"))
            .next("leave it out to hear what happens from now on")
    })
}
