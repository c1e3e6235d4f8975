//! `muster device twin`: the state a device should be in, set from a file, and what it says its state is.

use serde_json::Value;

use super::{
    Done,
    args::Twin,
    batch::slurp,
    client::{Client, read},
    device::encode,
    input,
    screen::{Screen, Style, Text},
    words,
};
use crate::{
    api::{error::Problem, view},
    registry::twin::DOCUMENT_MAX,
};

pub(super) fn run(asked: &Twin, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let path = format!("/v1/devices/{}/twin", encode(&asked.serial));
    let document = match &asked.set {
        Some(file) if file.as_os_str() == "-" => {
            // A little more than the server takes: it says what is wrong with what is too long.
            client.put(&path, asked.if_version, &input::octets(DOCUMENT_MAX as u64, screen)?)?
        }
        Some(file) => client.put(&path, asked.if_version, &slurp(file)?)?,
        None => client.get(&path)?,
    };
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let twin: view::Twin = read(&document)?;
    half(screen, "desired", &desired(&twin), twin.desired.as_ref());
    half(screen, "reported", &reported(&twin), twin.reported.as_ref());
    Ok(Done::Well)
}

fn half(screen: &Screen, name: &str, said: &str, document: Option<&Value>) {
    screen.pieces(&[Text::new(name, Style::Bold), Text::plain(format!(" {said}"))]);
    if let Some(document) = document {
        // A value reads back as it was written.
        screen.line(serde_json::to_string_pretty(document).unwrap_or_default());
    }
}

/// `version 3, set by ana 2m ago`.
fn desired(twin: &view::Twin) -> String {
    let (Some(by), Some(at)) = (&twin.desired_by, &twin.desired_at) else {
        return "never set".to_owned();
    };
    let waits =
        if twin.published { "" } else { " · not on its topic: the device may not talk, or the log waits" };
    format!("version {}, set by {by} {}{waits}", twin.desired_version, words::ago(at))
}

/// `5s ago`, and what it is where it is no JSON.
fn reported(twin: &view::Twin) -> String {
    let Some(at) = &twin.reported_at else { return "never".to_owned() };
    let mut said = words::ago(at);
    if let Some(coded) = &twin.reported_base64 {
        let what = words::or_unknown(twin.reported_content_type.as_deref());
        said.push_str(&format!(" · no JSON, content type {what}, in base64: {coded}"));
    }
    said
}
