//! `muster events --follow`: what happens, as it happens, gone on with after a cut.

use std::{
    io::{BufRead as _, BufReader, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use muster_shared::Code;

use super::{
    Done,
    args::Events,
    client::Client,
    device::encode,
    screen::{Screen, Style, Text},
    words,
};
use crate::{
    api::{
        error::Problem,
        view::{self, StreamEvent},
    },
    registry::Act,
};

/// Longest line of a stream, octets: an event with the largest payload, in base64 and as text.
const LINE_MAX: u64 = 1 << 20;
/// How long to wait before it is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A stream that lasted so long was well: the next wait is short again.
const WELL: Duration = Duration::from_secs(30);

/// Where the stream stands.
struct Following<'a> {
    screen: &'a Screen,
    last: Option<String>,
    left: Option<u64>,
}

pub(super) fn run(events: &Events, client: &Client, screen: &Screen) -> Result<Done, Problem> {
    if !events.follow {
        return Err(Problem::new(Code::UsageWrong)
            .what("events are followed as they happen")
            .at("muster events")
            .because("--follow is not there; what was decided before is in: muster audit list")
            .next("muster events --follow"));
    }
    let mut following = Following { screen, last: events.after.clone(), left: events.limit };
    let (mut wait, mut connected) = (AGAIN.0, false);
    loop {
        let filter = events.filter.as_deref().unwrap_or_default();
        let mut path = format!("/v1/stream?filter={}", encode(filter));
        if let Some(last) = &following.last {
            path.push_str(&format!("&after={}", encode(last)));
        }
        let began = Instant::now();
        match client.open(&path) {
            Ok(body) => {
                connected = true;
                if following.read(body)? {
                    return Ok(Done::Well);
                }
            }
            Err(problem) if !connected || !may_pass(problem.code) => return Err(problem),
            Err(_) => {}
        }
        if began.elapsed() >= WELL {
            wait = AGAIN.0;
        }
        sleep(wait);
        wait = (wait * 2).min(AGAIN.1);
    }
}

/// What a server that starts again gets over.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::ServerUnreachable
            | Code::NameUnknown
            | Code::ServerStopping
            | Code::RateLimited
            | Code::NotStored
    )
}

impl Following<'_> {
    /// Reads one connection to its end; `true`: as many events as were asked for were shown.
    fn read(&mut self, body: impl Read) -> Result<bool, Problem> {
        let mut lines = BufReader::new(body);
        let (mut id, mut data) = (None, String::new());
        loop {
            let mut line = String::new();
            match (&mut lines).take(LINE_MAX).read_line(&mut line) {
                // A cut: what was not whole comes again.
                Ok(0) | Err(_) => return Ok(false),
                Ok(_) => {}
            }
            match line.trim_end().split_once(": ") {
                Some(("id", of)) => id = Some(of.to_owned()),
                Some(("data", of)) => data.push_str(of),
                _ if line.trim_end().is_empty() => {
                    if !data.is_empty() && self.event(&data)? {
                        return Ok(true);
                    }
                    data.clear();
                    // Only now is it told: a cut before would lose it.
                    self.last = id.take().or(self.last.take());
                }
                _ => {}
            }
        }
    }

    fn event(&mut self, data: &str) -> Result<bool, Problem> {
        let Ok(event) = serde_json::from_str::<StreamEvent>(data) else { return Ok(false) };
        if event.kind == "end" {
            let problem = event.problem.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(Problem::from_document(problem.as_bytes())
                .unwrap_or_else(|| Problem::new(Code::NotSignedIn).at("event stream")));
        }
        if let Some(gap) = &event.gap {
            eprintln!("{}", gap_line(gap));
        }
        if event.kind == "open" {
            return Ok(false);
        }
        if self.screen.output.is_json() {
            self.screen.raw(data);
        } else if event.gap.is_none() {
            show(&event, self.screen);
        }
        // A reader of ours that went away ends the command at its next write.
        self.screen.finish().map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left == Some(0))
    }
}

/// `gap: events 881–884 missed (messages: they are not kept any more)`
fn gap_line(gap: &view::Gap) -> String {
    let which = match (gap.from, gap.to) {
        (Some(from), Some(to)) => format!(" {from}–{to}"),
        _ => String::new(),
    };
    format!("gap: events{which} missed ({}: {})", gap.of, gap.why)
}

fn show(event: &StreamEvent, screen: &Screen) {
    let who = match (&event.serial, &event.device_id) {
        (Some(serial), _) => serial.clone(),
        (None, Some(device)) => device.clone(),
        (None, None) => String::new(),
    };
    let (glyph, said) = line(event, screen);
    let mut pieces = vec![Text::new(words::instant(&event.at), Style::Quiet), Text::plain("  "), glyph];
    if !who.is_empty() {
        pieces.push(Text::plain(" "));
        pieces.push(Text::new(who, Style::Bold));
    }
    pieces.push(Text::plain(format!("  {said}")));
    screen.pieces(&pieces);
}

fn line(event: &StreamEvent, screen: &Screen) -> (Text, String) {
    let quiet = |glyph, ascii| Text::new(screen.glyph(glyph, ascii), Style::Quiet);
    if let Some(row) = &event.change {
        let to = row.detail["to"].as_str().unwrap_or_default();
        let glyph = if to.is_empty() { quiet("·", ".") } else { words::glyph(to, screen) };
        return (glyph, change(row));
    }
    if let Some(presence) = &event.presence {
        let why =
            presence.reason.as_ref().map(|why| format!(": {}", why.replace('_', " "))).unwrap_or_default();
        return if presence.online {
            (Text::new(screen.glyph("●", "*"), Style::Green), "connected".to_owned())
        } else {
            (quiet("○", "o"), format!("offline{why}"))
        };
    }
    if let Some(refusal) = &event.refusal {
        let from = refusal.address.as_ref().map(|from| format!(", from {from}")).unwrap_or_default();
        let times = if refusal.count > 1 { format!(" ×{}", refusal.count) } else { String::new() };
        let text = format!("refused [{}] {}{from}{times}", refusal.code, refusal.words);
        return (Text::new(screen.glyph("✕", "x"), Style::Red), text);
    }
    if let Some(notice) = &event.notice {
        return (Text::new(screen.glyph("▲", "!"), Style::Yellow), notice.text.clone());
    }
    if let Some(message) = &event.message {
        let readings = message.readings.iter().flatten().map(|of| format!("{} = {}", of.sensor, of.value));
        let readings: Vec<_> = readings.collect();
        let said = match (&message.payload, readings.is_empty()) {
            (_, false) => readings.join(" · "),
            (Some(text), true) => text.clone(),
            (None, true) => format!("{} octets in base64", message.payload_base64.len()),
        };
        return (quiet("→", ">"), format!("{} {said}", message.topic));
    }
    (quiet("·", "."), event.kind.clone())
}

fn change(row: &view::AuditRow) -> String {
    let verb = row.action.strip_prefix("device.").unwrap_or(&row.action);
    let what = match verb.parse::<Act>() {
        Ok(Act::FirstConnection) => return "first connection → active".to_owned(),
        Ok(act) => act.participle().to_owned(),
        Err(_) => verb.to_owned(),
    };
    let about = if row.action.starts_with("device.") { String::new() } else { format!(" {}", row.target) };
    let reason = row.reason.as_ref().map(|reason| format!(" {reason:?}")).unwrap_or_default();
    format!("{what}{about} by {}{reason} (no. {})", row.actor, row.no)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_names_what_was_missed() {
        let mut gap = view::Gap {
            of: "messages".to_owned(),
            from: Some(881),
            to: Some(884),
            why: "they are not kept any more".to_owned(),
        };
        assert_eq!(gap_line(&gap), "gap: events 881–884 missed (messages: they are not kept any more)");
        gap.from = None;
        assert!(gap_line(&gap).starts_with("gap: events missed (messages"));
    }
}
