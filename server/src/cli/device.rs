//! `muster device …`

use muster_shared::Code;
use serde_json::{Value, json};

use super::{
    Done,
    args::{Device, DeviceList, Label, Revoke},
    bulk,
    client::{Client, read},
    commands,
    job::On,
    readings,
    screen::{Screen, Style, Text},
    swap,
    table::{self, About, Column},
    twin,
    watch::{self, Watched},
    words,
};
use crate::{
    api::{
        error::Problem,
        view::{self, DeviceDetail, Page},
    },
    registry::{Act, Filter, query::Proven, timeline::Mark},
};

/// Lines of a timeline asked for at a time.
const TIMELINE: u32 = 100;
/// Lines asked for at a time.
const PAGE: u32 = 500;

pub(super) fn run(verb: Device, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    match verb {
        Device::List(list) => self::list(&list, client, screen),
        Device::Import(import) => super::exchange::import(&import, client, screen),
        Device::Show { serial, history } => show(&serial, history, client, screen),
        Device::Explain(explain) => super::explain::run(&explain, client, screen),
        Device::Suspend(decide) => bulk::decide("suspend", &decide, &json!({}), client, screen),
        Device::Resume(decide) => bulk::decide("resume", &decide, &json!({}), client, screen),
        Device::Quarantine(decide) => bulk::decide("quarantine", &decide, &json!({}), client, screen),
        Device::Release(decide) => bulk::decide("release", &decide, &json!({}), client, screen),
        Device::Disconnect(decide) => bulk::decide("disconnect", &decide, &json!({}), client, screen),
        Device::Revoke(revoke) => self::revoke("revoke", &revoke, client, screen),
        Device::Decommission(revoke) => self::revoke("decommission", &revoke, client, screen),
        Device::Replace(replace) => swap::run(&replace, client, screen),
        Device::Command(command) => commands::send(&command, client, screen),
        Device::Commands(asked) => commands::list(&asked, client, screen),
        Device::Label(label) => self::label(&label, client, screen),
        Device::Readings(asked) => readings::run(&asked, client, screen),
        Device::Twin(asked) => twin::run(&asked, client, screen),
    }
}

pub(super) const COLUMNS: &[Column<view::Device>] = &[
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
    Column { head: "ISSUER", wide: true, cell: |of, _| Text::plain(words::short(&of.issuer)) },
    Column { head: "REGISTERED", wide: true, cell: |of, _| Text::plain(words::instant(&of.registered_at)) },
    Column { head: "REFUSED-24H", wide: true, cell: |of, _| Text::plain(of.refused_24h.to_string()) },
    Column { head: "NOTE", wide: false, cell: |of, _| note(of) },
];

fn presence(of: &view::Device) -> Text {
    let style = if of.presence.word == "online" { Style::Plain } else { Style::Quiet };
    Text::new(words::presence(&of.presence), style)
}

/// What needs somebody, else what somebody wrote.
fn note(of: &view::Device) -> Text {
    match (&of.last_refusal, &of.note) {
        (Some(refusal), _) if of.refused_24h > 0 => Text::new(
            format!("{} refused in 24 h [{} {}]", of.refused_24h, refusal.code, refusal.words),
            Style::Red,
        ),
        _ if of.state != of.own_state => Text::new(
            format!("refused as its group is [{}]", words::or_unknown(of.refused_as.as_deref())),
            Style::Red,
        ),
        (_, Some(note)) => Text::plain(note),
        (_, None) if of.attention == 1 => Text::new("its certificate ends soon", Style::Yellow),
        (_, None) => Text::new("nothing", Style::Quiet),
    }
}

fn list(list: &DeviceList, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    if let Some(filter) = &list.filter {
        // Wrong ones are told here, without a server: the grammar is the same.
        filter.parse::<Filter>().map_err(|error| {
            Problem::new(Code::UsageWrong)
                .what(format!("the filter has {:?}", error.token))
                .at("--filter")
                .because(error.why)
                .next(format!("possible: {}", error.possible))
        })?;
    }
    if list.watch {
        let watched = Watched {
            path: "/v1/devices",
            query: &query(list),
            after: list.after.as_deref(),
            limit: list.limit,
            narrow: None,
            columns: COLUMNS,
            name: |of| format!("{}/{}", of.tenant, of.serial),
        };
        return watch::run(&watched, client, screen);
    }
    let query = query(list);
    let document = pages(client, "/v1/devices", &query, list.after.clone(), list.limit)?;
    let page: Page<view::Device> = read(&document)?;
    let about = About {
        noun: "device",
        total: page.total.or(page.total_at_least.map(|least| least.max(page.items.len() as u64 + 1))),
        filter: list.filter.as_deref(),
        next: page.next.as_deref(),
        empty: "no devices yet. Devices appear when a batch manifest is imported: muster batch import FILE",
    };
    table::print(screen, &document, &page.items, COLUMNS, &about);
    Ok(Done::Well)
}

/// What a listing asks for.
pub(super) fn query(list: &DeviceList) -> String {
    let mut query = String::new();
    if let Some(filter) = &list.filter {
        query.push_str(&format!("&filter={}", encode(filter)));
    }
    if let Some(sort) = &list.sort {
        query.push_str(&format!("&sort={}", encode(sort)));
    }
    query
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
        Text::plain(format!(" · {}{}{}", device.state, why(&detail), itself(device))),
    ]);
    for (label, said) in facts(&detail, screen) {
        screen.line(format!("  {label:<11} {said}"));
    }
    if history {
        timeline(serial, client, screen)?;
    }
    let shown = if history { 0 } else { 3 };
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

/// Every line of its timeline, page after page.
fn timeline(serial: &str, client: &Client, screen: &Screen) -> Result<(), Problem> {
    let path = format!("/v1/devices/{}/timeline", encode(serial));
    let mut after = String::new();
    let mut label = "history";
    loop {
        let page: Page<view::Event> = read(&client.get(&format!("{path}?limit={TIMELINE}{after}"))?)?;
        for event in &page.items {
            let mark: Mark = event.mark.parse().unwrap_or(Mark::Plain);
            let glyph = screen.glyph(mark.glyph(), mark.ascii());
            screen.line(format!("  {label:<11} {} {glyph} {}", words::instant(&event.at), event.text));
            label = "";
        }
        match page.next {
            Some(next) if !page.items.is_empty() => after = format!("&after={}", encode(&next)),
            _ => return Ok(()),
        }
    }
}

fn label(label: &Label, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    let mut asked = json!({
        "add_tags": label.tag,
        "remove_tags": label.untag,
        "add_groups": label.group,
        "remove_groups": label.ungroup,
    });
    if let Some(filter) = &label.filter {
        let on = On {
            filter,
            reason: label.reason.as_deref(),
            dry_run: label.dry_run,
            confirm: label.confirm.as_deref(),
        };
        return super::job::filtered("label", &on, &json!({ "label": asked }), client, screen);
    }
    asked["note"] = json!(label.note);
    let mut failed = false;
    for serial in bulk::serials(&label.serials, screen)? {
        match client.post(&format!("/v1/devices/{}/labels", encode(&serial)), &asked) {
            Ok(document) if screen.output.is_json() => screen.raw(&document.to_string()),
            Ok(document) => {
                let labels: view::Labels = read(&document)?;
                screen.line(format!("{serial} {}", labelled(&labels)));
            }
            // One of many: the rest is still done.
            Err(problem) if label.serials.len() > 1 || label.serials[0] == "-" => {
                screen.error(&problem);
                failed = true;
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(if failed { Done::SomeFailed } else { Done::Well })
}

/// `tags x, y · groups north · note "…" by ana`.
fn labelled(labels: &view::Labels) -> String {
    let words = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let mut said = format!("tags {} · groups {}", words(&labels.tags), words(&labels.groups));
    if let Some(note) = &labels.note {
        said.push_str(&format!(" · note {note:?} by {}", words::or_unknown(labels.note_by.as_deref())));
    }
    said
}

fn facts(detail: &DeviceDetail, screen: &Screen) -> Vec<(&'static str, String)> {
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
    let places = [("replaced by", &detail.replaced_by), ("replaces", &detail.replaces)];
    facts.extend(places.into_iter().filter_map(|(label, serial)| Some((label, serial.clone()?))));
    for certificate in &detail.certificates {
        let ends = match words::day(&certificate.not_after) {
            day if day == "no end" => day,
            day => format!("ends {day}"),
        };
        let why = certificate.revocation_reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let issuer = certificate.chain.iter().find(|link| link.role == "issuer");
        facts.push((
            "certificate",
            format!(
                "{} · {}{why} · P-256 · issuer {} · since {} · {ends} {} {}",
                words::short(&certificate.certificate_id),
                certificate.status,
                words::or_unknown(issuer.map(|link| link.name.as_str())),
                words::day(&certificate.not_before),
                chain(certificate, screen),
                proven(certificate, screen),
            ),
        ));
        // What to compare by eye with what the factory says.
        for link in certificate.chain.iter().filter(|link| link.role != "device") {
            let fingerprint = words::or_unknown(link.fingerprint.as_deref());
            facts.push((
                if link.role == "root" { "root" } else { "issuer" },
                format!("{} · SHA-256 {fingerprint}", link.name),
            ));
        }
    }
    facts.push(("firmware", words::or_unknown(device.firmware.as_deref()).to_owned()));
    facts.push(("session", session(detail)));
    let labels = &detail.labels;
    if !labels.tags.is_empty() || !labels.groups.is_empty() || labels.note.is_some() {
        facts.push(("labels", labelled(labels)));
    }
    for reading in &detail.readings {
        facts.push((
            "reading",
            format!("{} = {} · {}", reading.sensor, reading.value, words::ago(&reading.received_at)),
        ));
    }
    facts
}

/// `✓ chain`, or what is wrong with which certificate of it.
fn chain(of: &view::Certificate, screen: &Screen) -> String {
    match of.chain.iter().find_map(|link| link.fault.as_ref().map(|fault| (link, fault))) {
        None => format!("{} chain", screen.glyph("✓", "ok")),
        Some((link, fault)) => {
            format!("{} chain: {} {}: {fault}", screen.glyph("✕", "x"), link.role, link.name)
        }
    }
}

/// `✓ key proven to its station`.
fn proven(of: &view::Certificate, screen: &Screen) -> String {
    let good = screen.glyph("✓", "ok");
    match of.key_proven.as_deref().and_then(|word| word.parse().ok()) {
        Some(Proven::Station) => format!("{good} key proven to its station"),
        Some(Proven::Handshake) => format!("{good} key proven in a handshake"),
        None => "· key not proven to anybody known here".to_owned(),
    }
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

/// What the device is by itself, where a group it is in holds it in another state.
fn itself(device: &view::Device) -> String {
    if device.own_state == device.state { String::new() } else { format!(" · itself {}", device.own_state) }
}

/// A row of the device's history in one line: `suspended by ana "case 881", session closed in 9 ms (0x98)`.
fn happened(row: &view::AuditRow, detail: &DeviceDetail) -> String {
    let verb = row.action.strip_prefix("device.").unwrap_or(&row.action);
    let mut text = match (verb, verb.parse::<Act>()) {
        ("first-connection", _) => return "first connection → active".to_owned(),
        ("command", _) => "command sent".to_owned(),
        ("disconnect", _) => "disconnected".to_owned(),
        ("replace", _) => format!("replaced by {}", other(row, "successor")),
        ("succeed", _) => format!("took the place of {}", other(row, "predecessor")),
        ("twin", _) => format!("desired state {} set", row.detail["version"]),
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

/// The serial of the other device of a swap.
fn other<'a>(row: &'a view::AuditRow, key: &str) -> &'a str {
    let name = row.detail[key].as_str().unwrap_or("another");
    name.split_once('/').map_or(name, |(_, serial)| serial)
}

/// What cannot be undone is asked for twice: the serial again, or the number of serials.
fn revoke(verb: &str, revoke: &Revoke, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    if revoke.decide.filter.is_some() {
        let more = revoke.reason_code.as_ref().map_or(json!({}), |word| json!({ "reason_code": word }));
        return super::job::filtered(verb, &On::of(&revoke.decide), &more, client, screen);
    }
    let serials = bulk::serials(&revoke.decide.serials, screen)?;
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
    match revoke.decide.confirm.as_deref() {
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
