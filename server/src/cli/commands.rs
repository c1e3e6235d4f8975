//! `muster device command` and `muster device commands`: what is sent to a device, and what it answered.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use muster_shared::Code;
use serde_json::{Value, json};

use super::{
    Done,
    args::{Command, Commands},
    client::{Client, read},
    device::{encode, pages},
    input,
    screen::{Screen, Text},
    table::{self, About, Column},
    words,
};
use crate::{
    api::{
        error::Problem,
        view::{self, CommandResult, CommandShown, Page},
    },
    registry::commands::ANSWER_MAX,
};

/// Largest payload of a command, octets: what a device's packet carries with room for its topic.
const PAYLOAD_MAX: u64 = 60 * 1024;
/// How often an answer is asked after.
const LOOK: Duration = Duration::from_millis(300);

const COLUMNS: &[Column<view::Command>] = &[
    Column { head: "COMMAND", wide: false, cell: |of, _| Text::plain(&of.command_id) },
    Column { head: "SENT", wide: false, cell: |of, _| Text::plain(words::instant(&of.at)) },
    Column { head: "BY", wide: false, cell: |of, _| Text::plain(&of.by) },
    Column { head: "STATE", wide: false, cell: |of, _| Text::plain(&of.state) },
    Column {
        head: "DELIVERED",
        wide: true,
        cell: |of, _| Text::plain(of.delivered_at.as_deref().map_or("not known".to_owned(), words::instant)),
    },
    Column { head: "REQUEST", wide: false, cell: |of, _| Text::plain(said(of.request.as_deref())) },
    Column { head: "RESPONSE", wide: false, cell: |of, _| Text::plain(response(of)) },
    Column {
        head: "ANSWERED",
        wide: true,
        cell: |of, _| Text::plain(of.answered_at.as_deref().map_or("never".to_owned(), words::instant)),
    },
    Column {
        head: "CONTENT",
        wide: true,
        cell: |of, _| Text::plain(words::or_unknown(of.response_content_type.as_deref())),
    },
];

/// The first line of a text, for a cell.
fn said(text: Option<&str>) -> String {
    text.map_or("octets".to_owned(), |text| text.lines().next().unwrap_or_default().to_owned())
}

fn response(of: &view::Command) -> String {
    match (&of.answered_at, &of.why) {
        (Some(_), _) => said(of.response.as_deref()),
        (None, Some(why)) => format!("none: {why}"),
        (None, None) => "none yet".to_owned(),
    }
}

pub(super) fn list(asked: &Commands, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let path = format!("/v1/devices/{}/commands", encode(&asked.serial));
    let document = pages(client, &path, "", asked.after.clone(), asked.limit)?;
    let page: Page<view::Command> = read(&document)?;
    let about = About {
        noun: "command",
        total: page.total,
        filter: None,
        next: page.next.as_deref(),
        empty: "no commands yet. One is sent by: muster device command SERIAL PAYLOAD",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

pub(super) fn send(command: &Command, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let payload = match command.payload.as_str() {
        "-" => String::from_utf8(input::octets(PAYLOAD_MAX, screen)?).map_err(|error| {
            Problem::new(Code::UsageWrong)
                .what("the payload is no text")
                .at("standard input")
                .because(error.to_string())
        })?,
        payload => payload.to_owned(),
    };
    let path = format!("/v1/devices/{}/command", encode(&command.serial));
    let document = client.post(&path, &json!({ "payload": payload }))?;
    let result: CommandResult = read(&document)?;
    let taken = result.delivered || result.outcome == "queued";
    let Some(wait) = command.wait.filter(|_| taken) else {
        if screen.output.is_json() {
            screen.raw(&document.to_string());
        } else {
            let why = result.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            screen.line(format!("command {} {}{why}", result.command_id, result.outcome));
        }
        return Ok(if taken { Done::Well } else { Done::AnswerIsNo });
    };
    let document = answer(&command.serial, &result.command_id, Duration::from_secs(wait), client)?;
    let shown: CommandShown = read(&document)?;
    let answered = shown.command.answered_at.is_some();
    if screen.output.is_json() {
        screen.raw(&document.to_string());
    } else if answered {
        screen.line(whole(&shown.command));
    } else {
        screen.line(format!(
            "command {} {}: no answer within {wait} s",
            result.command_id, shown.command.state
        ));
    }
    Ok(if answered { Done::Well } else { Done::AnswerIsNo })
}

/// Asks until the device has answered, or the time is over; what is known then.
fn answer(serial: &str, id: &str, wait: Duration, client: &Client) -> Result<Value, Problem> {
    let path = format!("/v1/devices/{}/commands/{}", encode(serial), encode(id));
    let end = Instant::now() + wait;
    loop {
        let document = client.get(&path)?;
        if !document["answered_at"].is_null() || Instant::now() >= end {
            return Ok(document);
        }
        sleep(LOOK);
    }
}

/// An answer as it is shown: text, or base64 of what is none; and whether more of it came than is kept.
fn whole(of: &view::Command) -> String {
    let shown = of.response.clone().or_else(|| of.response_base64.clone()).unwrap_or_default();
    match of.response_octets {
        Some(octets) if octets > ANSWER_MAX as u64 => format!("{shown}\n… the beginning of {octets} octets"),
        _ => shown,
    }
}
