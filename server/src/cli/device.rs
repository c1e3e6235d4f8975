//! `muster device …`

use std::io::Read as _;

use muster_shared::Code;
use serde_json::{Value, json};

use super::{
    Done,
    args::{Command, Device, DeviceList, Revoke},
    bulk,
    client::{Client, read},
    screen::{Screen, Style, Text},
    table::{self, About, Column},
    words,
};
use crate::{
    api::{
        error::Problem,
        view::{self, CommandResult, DeviceDetail, Page},
    },
    registry::Act,
};

/// Lines asked for at a time.
const PAGE: u32 = 500;
/// Largest payload of a command, octets: what a device's packet carries with room for its topic.
const PAYLOAD_MAX: u64 = 60 * 1024;

pub(super) fn run(verb: Device, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Device::List(list) => self::list(&list, client, screen),
        Device::Import(import) => super::exchange::import(&import, client, screen),
        Device::Show { serial, history } => show(&serial, history, client, screen),
        Device::Suspend(decide) => bulk::decide("suspend", &decide, &json!({}), client, screen),
        Device::Resume(decide) => bulk::decide("resume", &decide, &json!({}), client, screen),
        Device::Quarantine(decide) => bulk::decide("quarantine", &decide, &json!({}), client, screen),
        Device::Release(decide) => bulk::decide("release", &decide, &json!({}), client, screen),
        Device::Disconnect(decide) => bulk::decide("disconnect", &decide, &json!({}), client, screen),
        Device::Revoke(revoke) => self::revoke("revoke", &revoke, client, screen),
        Device::Decommission(revoke) => self::revoke("decommission", &revoke, client, screen),
        Device::Command(command) => self::command(&command, client, screen),
    }
}

const COLUMNS: &[Column<view::Device>] = &[
    Column { head: "SERIAL", wide: false, cell: |of, _| Text::plain(&of.serial) },
    Column { head: "STATE", wide: false, cell: |of, screen| words::state(&of.state, screen) },
    Column { head: "PRESENCE", wide: false, cell: |of, _| presence(of) },
    Column { head: "BATCH", wide: false, cell: |of, _| Text::plain(&of.batch) },
    Column {
        head: "FIRMWARE",
        wide: false,
        cell: |of, _| Text::plain(words::or_unknown(of.firmware.as_deref())),
    },
    Column { head: "CERT-ENDS", wide: false, cell: |of, _| Text::plain(words::day(&of.certificate_ends_at)) },
    Column { head: "DEVICE-ID", wide: true, cell: |of, _| Text::plain(&of.device_id) },
    Column { head: "TENANT", wide: true, cell: |of, _| Text::plain(&of.tenant) },
    Column { head: "MODEL", wide: true, cell: |of, _| Text::plain(&of.product) },
    Column {
        head: "ADDRESS",
        wide: true,
        cell: |of, _| Text::plain(words::or_unknown(of.presence.address.as_deref())),
    },
    Column { head: "STATION", wide: true, cell: |of, _| Text::plain(&of.station) },
    Column { head: "REGISTERED", wide: true, cell: |of, _| Text::plain(words::instant(&of.registered_at)) },
    Column { head: "REFUSED-24H", wide: true, cell: |of, _| Text::plain(of.refused_24h.to_string()) },
    Column { head: "NOTE", wide: false, cell: |of, _| note(of) },
];

fn presence(of: &view::Device) -> Text {
    let style = if of.presence.word == "online" { Style::Plain } else { Style::Quiet };
    Text::new(words::presence(&of.presence), style)
}

fn note(of: &view::Device) -> Text {
    match &of.last_refusal {
        Some(refusal) if of.refused_24h > 0 => Text::new(
            format!("{} refused in 24 h [{} {}]", of.refused_24h, refusal.code, refusal.words),
            Style::Red,
        ),
        _ => Text::new("nothing", Style::Quiet),
    }
}

fn list(list: &DeviceList, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut query = String::new();
    if let Some(filter) = &list.filter {
        query.push_str(&format!("&filter={}", encode(filter)));
    }
    let document = pages(client, "/v1/devices", &query, list.after.clone(), list.limit)?;
    let page: Page<view::Device> = read(&document)?;
    let about = About {
        noun: "device",
        total: page.total,
        filter: list.filter.as_deref(),
        next: page.next.as_deref(),
        empty: "no devices yet. Devices appear when a batch manifest is imported: muster batch import FILE",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

/// Reads page after page until `limit` lines are there, into one document.
pub(super) fn pages(
    client: &Client,
    path: &str,
    query: &str,
    mut after: Option<String>,
    limit: u32,
) -> Result<Value, Problem> {
    let mut whole: Option<Value> = None;
    let mut left = limit;
    loop {
        let cursor = after.as_ref().map(|after| format!("&after={}", encode(after))).unwrap_or_default();
        let mut page = client.get(&format!("{path}?limit={}{query}{cursor}", left.min(PAGE)))?;
        let items = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        left = left.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
        let next = page["next"].as_str().map(str::to_owned);
        let empty = items.is_empty();
        let document = whole.get_or_insert_with(|| page.clone());
        document["next"] = json!(next);
        match document["items"].as_array_mut() {
            Some(all) => all.extend(items),
            None => document["items"] = Value::Array(items),
        }
        if left == 0 || next.is_none() || empty {
            return Ok(whole.unwrap_or(page));
        }
        after = next;
    }
}

fn show(serial: &str, history: bool, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let document = client.get(&format!("/v1/devices/{}", encode(serial)))?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(Done::Well);
    }
    let detail: DeviceDetail = read(&document)?;
    let device = &detail.device;
    screen.pieces(&[
        words::glyph(&device.state, screen),
        Text::plain(" "),
        Text::new(&device.serial, Style::Bold),
        Text::plain(format!(" · {}{}", device.state, why(&detail))),
    ]);
    for (label, said) in facts(&detail) {
        screen.line(format!("  {label:<11} {said}"));
    }
    let shown = if history { detail.history.len() } else { 3 };
    for (at, row) in detail.history.iter().take(shown).enumerate() {
        let label = if at == 0 { "history" } else { "" };
        let more = at + 1 == shown && detail.history.len() > shown;
        let all = if more { "   (all: --history)" } else { "" };
        screen.line(format!("  {label:<11} {} {}{all}", words::instant(&row.at), happened(row, &detail)));
    }
    let acts = if detail.can_do.is_empty() { "nothing".to_owned() } else { detail.can_do.join(" · ") };
    screen.line(format!("  {:<11} {acts}", "can do"));
    Ok(Done::Well)
}

fn facts(detail: &DeviceDetail) -> Vec<(&'static str, String)> {
    let device = &detail.device;
    let mut facts = Vec::new();
    let mut seen = words::presence(&device.presence);
    if let (Some(reason), "offline") = (&device.presence.last_reason, &*device.presence.word) {
        seen.push_str(&format!(" · last reason: {}", reason.replace('_', " ")));
    }
    facts.push(("presence", seen));
    facts.push((
        "identity",
        format!(
            "{}/{} · product {} · batch {} · station {}",
            device.tenant, device.device_id, device.product, device.batch, device.station
        ),
    ));
    for certificate in &detail.certificates {
        let ends = match words::day(&certificate.not_after) {
            day if day == "no end" => day,
            day => format!("ends {day}"),
        };
        let why = certificate.revocation_reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        facts.push((
            "certificate",
            format!(
                "{} · {}{why} · P-256 · since {} · {ends}",
                words::short(&certificate.certificate_id),
                certificate.status,
                words::day(&certificate.not_before),
            ),
        ));
    }
    facts.push(("firmware", words::or_unknown(device.firmware.as_deref()).to_owned()));
    facts.push(("session", session(detail)));
    for reading in &detail.readings {
        facts.push((
            "reading",
            format!("{} = {} · {}", reading.sensor, reading.value, words::ago(&reading.received_at)),
        ));
    }
    facts
}

fn session(detail: &DeviceDetail) -> String {
    let presence = &detail.device.presence;
    let mut text = match (&*presence.word, &presence.address) {
        ("online", Some(address)) => {
            format!("from {address} · MQTT {}", words::or_unknown(presence.mqtt.as_deref()))
        }
        _ => "none".to_owned(),
    };
    match &detail.device.last_refusal {
        Some(refusal) => text.push_str(&format!(
            " · {} refusals in 24 h, last {} [{} {}]",
            detail.device.refused_24h,
            words::ago(&refusal.last_at),
            refusal.code,
            refusal.words
        )),
        None => text.push_str(" · never refused"),
    }
    text
}

/// Who put the device where it may not talk, when, and in which words.
fn why(detail: &DeviceDetail) -> String {
    let Some(row) = detail.why.as_ref().filter(|_| !matches!(&*detail.device.state, "registered" | "active"))
    else {
        return String::new();
    };
    let mut text = format!(" by {} {}", row.actor, words::ago(&row.at));
    if let Some(reason) = &row.reason {
        text.push_str(&format!(": {reason:?}"));
    }
    text
}

/// A row of the device's history in one line: `suspended by ana "case 881", session closed in 9 ms (0x98)`.
fn happened(row: &view::AuditRow, detail: &DeviceDetail) -> String {
    let verb = row.action.strip_prefix("device.").unwrap_or(&row.action);
    let mut text = match (verb, verb.parse::<Act>()) {
        ("first-connection", _) => return "first connection → active".to_owned(),
        ("command", _) => "command sent".to_owned(),
        ("disconnect", _) => "disconnected".to_owned(),
        (_, Ok(act)) => act.participle().to_owned(),
        (other, Err(_)) => other.to_owned(),
    };
    text.push_str(&format!(" by {}", row.actor));
    if let Some(code) = row.detail["code"].as_str() {
        text.push_str(&format!(", {code}"));
    }
    if let Some(reason) = &row.reason {
        text.push_str(&format!(" {reason:?}"));
    }
    match &detail.enforcement {
        Some(of) if of.decided_at == row.at && of.sessions_closed > 0 => match of.commit_to_closed_ms {
            Some(ms) => text.push_str(&format!(", session closed in {ms} ms (0x98)")),
            None => text.push_str(", session being closed"),
        },
        _ => {}
    }
    text
}

/// What cannot be undone is asked for twice: the serial again, or the number of serials.
fn revoke(verb: &str, revoke: &Revoke, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let serials = bulk::serials(&revoke.decide.serials)?;
    let wanted = match &serials[..] {
        [one] => one.clone(),
        many => many.len().to_string(),
    };
    let place = format!("muster device {verb} {}", revoke.decide.serials.join(" "));
    if revoke.reason_code.is_none() {
        return Err(Problem::new(Code::ReasonMissing)
            .what("a revocation needs a reason code")
            .at(place)
            .next(
                "repeat it with --reason-code keyCompromise, superseded, cessationOfOperation, \
                   privilegeWithdrawn, affiliationChanged, cACompromise or unspecified",
            ));
    }
    match revoke.confirm.as_deref() {
        Some(given) if given == wanted => {}
        given => {
            let why = given.map_or("--confirm is not there".to_owned(), |given| {
                format!("--confirm {given:?} is not {wanted:?}")
            });
            return Err(Problem::new(Code::ConfirmationMissing).at(place).because(why).serial(&wanted));
        }
    }
    let more = json!({ "reason_code": revoke.reason_code });
    bulk::decide_each(verb, &serials, revoke.decide.reason.as_deref(), &more, client, screen)
}

fn command(command: &Command, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let payload = if command.payload == "-" {
        let mut text = String::new();
        std::io::stdin().lock().take(PAYLOAD_MAX + 1).read_to_string(&mut text).map_err(|error| {
            Problem::new(Code::FileUnreadable).at("standard input").because(error.to_string())
        })?;
        text
    } else {
        command.payload.clone()
    };
    let path = format!("/v1/devices/{}/command", encode(&command.serial));
    let document = client.post(&path, &json!({ "payload": payload }))?;
    if screen.output.is_json() {
        screen.raw(&document.to_string());
    }
    let result: CommandResult = read(&document)?;
    if !screen.output.is_json() {
        let why = result.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        screen.line(format!("command {} {}{why}", result.command_id, result.outcome));
    }
    Ok(if result.delivered { Done::Well } else { Done::AnswerIsNo })
}

/// A path segment or query value: everything but the unreserved characters is percent-encoded
/// (RFC 3986 §2.3).
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(octet))
            }
            _ => out.push_str(&format!("%{octet:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_cannot_leave_its_path_segment() {
        assert_eq!(encode("MU-000118"), "MU-000118");
        assert_eq!(encode("acme/MU-1"), "acme%2FMU-1");
        assert_eq!(encode("../x?a=b#c"), "..%2Fx%3Fa%3Db%23c");
        assert_eq!(encode("é"), "%C3%A9");
    }
}
