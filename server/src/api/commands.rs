//! Commands: sent to a device's session, live or away, and remembered with what the device answered.

use std::time::Duration;

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use muster_shared::{
    Code,
    topic::{Kind, Topic},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Document, Doors, Path, Query,
    auth::{Caller, Need},
    devices::{refused, seen},
    error::Problem,
    page_limit,
    routes::{About, Routes},
    time, view,
};
use crate::{
    edge::{DeliverError, Delivered, Downlink},
    registry::{
        Actor, DeviceKey, DeviceName, Target,
        commands::{CommandRow, CommandState},
    },
    uplink::{Message, Outcome},
};

/// How long a command waits for the device's acknowledgement.
const COMMAND_WAIT: Duration = Duration::from_secs(10);

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .post(
            "/v1/devices/{serial}/command",
            send,
            About::new("Send a command to a device's session, live or away")
                .takes::<PostedCommand>()
                .answers::<view::CommandResult>("command")
                .refuses([
                    Code::DeviceUnknown,
                    Code::DeviceSuspended,
                    Code::DeviceQuarantined,
                    Code::CertificateRevoked,
                    Code::DeviceDecommissioned,
                ]),
        )
        .get(
            "/v1/devices/{serial}/commands",
            list,
            About::new("The last hundred commands sent to a device, newest first")
                .query::<Lines>()
                .answers::<view::Page<view::Command>>("device.command.list")
                .refuses([Code::DeviceUnknown]),
        )
        .get(
            "/v1/devices/{serial}/commands/{id}",
            show,
            About::new("A command, and what the device answered")
                .answers::<view::CommandShown>("device.command")
                .refuses([Code::DeviceUnknown]),
        )
}

/// What a command is posted with: one of the two payloads.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PostedCommand {
    reason: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
}

impl PostedCommand {
    fn payload(&self) -> Result<Bytes, Problem> {
        match (&self.payload, &self.payload_base64) {
            (Some(text), None) => Ok(Bytes::from(text.clone().into_bytes())),
            (None, Some(coded)) => STANDARD.decode(coded).map(Bytes::from).map_err(|error| {
                Problem::new(Code::UsageWrong).what("payload_base64 is not base64").because(error.to_string())
            }),
            _ => Err(Problem::new(Code::UsageWrong)
                .what("a command has exactly one of payload and payload_base64")),
        }
    }
}

pub(super) async fn send(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    Document(posted): Document<PostedCommand>,
) -> Result<Json<view::CommandResult>, Problem> {
    let target = seen(&caller, &serial)?;
    let actor = caller.may(Need::Decide)?;
    Ok(Json(command(&doors, actor, &target, &posted).await?))
}

/// Puts the command on the record, sends it on `command/{id}/request`, and says what became of that.
async fn command(
    doors: &Doors,
    actor: &Actor,
    target: &Target,
    posted: &PostedCommand,
) -> Result<view::CommandResult, Problem> {
    let payload = posted.payload()?;
    let command_id = super::request_id();
    let reason = posted.reason.as_deref().unwrap_or_default();
    let recorded = doors.registry.record_command(actor, target, &command_id, &payload, reason).await;
    let recorded = recorded.map_err(|error| refused(error, target))?;
    let topic = topic(&doors.registry.verdicts().name(recorded.device), &command_id)?;
    let (outcome, why) = carry(doors, recorded.device, &topic, payload).await;
    let state = match outcome {
        "acknowledged" | "sent" => CommandState::Delivered,
        "queued" => CommandState::Queued,
        "refused" => CommandState::Refused,
        _ => CommandState::Unknown,
    };
    let settled = doors.registry.settle_command(recorded.no, state, why.as_deref().unwrap_or_default()).await;
    if let Err(error) = settled {
        // It was sent all the same, and whoever sent it is told how.
        tracing::error!(%error, command_id, "what became of a command is not kept");
    }
    Ok(view::CommandResult {
        schema: "muster.command/1".to_owned(),
        command_id,
        topic,
        outcome: outcome.to_owned(),
        delivered: matches!(outcome, "acknowledged" | "sent"),
        why,
    })
}

/// To the live session, which says whether the device has it; else into the session of a device that is away.
async fn carry(
    doors: &Doors,
    device: DeviceKey,
    topic: &str,
    payload: Bytes,
) -> (&'static str, Option<String>) {
    let message = Downlink::direct(topic.into(), payload.clone(), 1);
    let sent = tokio::time::timeout(COMMAND_WAIT, doors.roster.deliver(device, message)).await;
    match sent {
        Ok(Ok(Delivered::Acknowledged)) => ("acknowledged", None),
        Ok(Ok(Delivered::Sent)) => ("sent", None),
        Ok(Err(DeliverError::Offline)) => queue(doors, device, topic, payload).await,
        Ok(Err(error @ DeliverError::Ended)) => ("unknown", Some(error.to_string())),
        Ok(Err(error)) => ("refused", Some(error.to_string())),
        Err(_) => ("unknown", Some("the device has not acknowledged it in time".to_owned())),
    }
}

/// Into the queue of a durable session that asked for it. It is sent in its turn when the device comes.
async fn queue(
    doors: &Doors,
    device: DeviceKey,
    topic: &str,
    payload: Bytes,
) -> (&'static str, Option<String>) {
    if !doors.sessions.queues(device, topic) {
        let why = "device is not connected, and has left no session that takes commands";
        return ("refused", Some(why.to_owned()));
    }
    match doors.uplink.append(Message::by_server(device, topic.to_owned(), payload)).await {
        Outcome::Stored(_) | Outcome::Duplicate(_) => ("queued", None),
        Outcome::Refused(code) => ("refused", Some(code.words().to_owned())),
        Outcome::Failed => ("refused", Some("it could not be stored".to_owned())),
    }
}

fn topic(name: &DeviceName, command_id: &str) -> Result<String, Problem> {
    let topic = Topic::of(&name.tenant, &name.device_id, Kind::CommandRequest { id: command_id });
    topic
        .text()
        .map(|text| text.to_string())
        .map_err(|error| Problem::new(Code::Fault).because(error.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    after: Option<String>,
    limit: Option<u32>,
}

async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Path(serial): Path<String>,
    Query(query): Query<Lines>,
) -> Result<Json<view::Page<view::Command>>, Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let limit = page_limit(query.limit)?;
    let page = doors.registry.commands(&target, query.after.as_deref(), limit).await;
    let page = page.map_err(|error| refused(error, &target))?;
    let items = page.items.into_iter().map(document).collect();
    Ok(Json(view::Page::new("device.command", items, page.next, Some(page.total))))
}

async fn show(
    caller: Caller,
    State(doors): State<Doors>,
    Path((serial, id)): Path<(String, String)>,
) -> Result<Json<view::CommandShown>, Problem> {
    caller.may(Need::Look)?;
    let target = seen(&caller, &serial)?;
    let row = doors.registry.command(&target, &id).await.map_err(|error| refused(error, &target))?;
    Ok(Json(view::CommandShown { schema: "muster.device.command/1".to_owned(), command: document(row) }))
}

fn document(row: CommandRow) -> view::Command {
    let text = |octets: &[u8]| std::str::from_utf8(octets).ok().map(str::to_owned);
    let answer = row.answer.as_ref();
    view::Command {
        command_id: row.id,
        at: time::from_ms(row.at_ms),
        by: row.author,
        state: row.state.as_str().to_owned(),
        why: Some(row.why).filter(|why| !why.is_empty()),
        delivered_at: row.delivered_at_ms.map(time::from_ms),
        request: text(&row.request),
        request_base64: STANDARD.encode(&row.request),
        response: answer.and_then(|answer| text(&answer.payload)),
        response_base64: answer.map(|answer| STANDARD.encode(&answer.payload)),
        response_octets: answer.map(|answer| answer.octets),
        response_content_type: answer.and_then(|answer| answer.content_type.clone()),
        answered_at: answer.map(|answer| time::from_ms(answer.at_ms)),
    }
}
