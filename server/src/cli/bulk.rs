//! One decision about many devices: one after the other, all tried, the failed ones named at the end.

use std::{
    io::{BufRead as _, IsTerminal as _},
    time::{Duration, Instant},
};

use muster_shared::Code;
use serde_json::{Value, json};

use super::{
    Done,
    args::Decide,
    client::{Client, read},
    device::encode,
    input,
    interrupt::Interrupt,
    job::On,
    screen::{Screen, Style, Text},
    table::thousands,
    words,
};
use crate::{
    api::{error::Problem, view::Decision},
    config::Output,
    span::span,
};

/// Failed serials named in the line that repeats them.
const NAMED_MAX: usize = 20;

/// Reads the serials and decides about each.
pub(super) fn decide(
    verb: &str,
    decide: &Decide,
    more: &Value,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    if decide.filter.is_some() {
        return super::job::filtered(verb, &On::of(decide), &json!({}), client, screen);
    }
    decide_each(verb, &serials(&decide.serials, screen)?, decide.reason.as_deref(), more, client, screen)
}

/// The serials of the command line; `-` stands for those on standard input, one a line.
pub(super) fn serials(given: &[String], screen: &Screen) -> Result<Vec<String>, Problem> {
    let mut serials: Vec<String> = Vec::new();
    for word in given {
        if word != "-" {
            serials.push(word.clone());
            continue;
        }
        input::unattended(screen)?;
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| input::unreadable(&error))?;
            serials.extend(line.split_whitespace().next().map(str::to_owned));
        }
    }
    let mut seen = std::collections::HashSet::new();
    serials.retain(|serial| seen.insert(serial.clone()));
    if serials.is_empty() {
        return Err(Problem::new(Code::UsageWrong)
            .what("there is no serial on standard input")
            .at("standard input")
            .next("muster device list -o serial | muster device suspend - --reason \"…\""));
    }
    Ok(serials)
}

/// Decides about each of `serials`.
pub(super) fn decide_each(
    verb: &str,
    serials: &[String],
    reason: Option<&str>,
    more: &Value,
    client: &Client,
    screen: &Screen,
) -> Result<Done, Problem> {
    let Some(reason) = reason.filter(|reason| !reason.trim().is_empty()) else {
        return Err(Problem::new(Code::ReasonMissing)
            .what(format!("device {verb} needs a reason"))
            .at(format!("muster device {verb}")));
    };
    let mut body = json!({ "reason": reason });
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    let path = |serial: &str| format!("/v1/devices/{}/{verb}", encode(serial));
    if let [one] = serials {
        // The confirmation was checked against what was typed; the server checks it against the device.
        body["confirm"] = json!(one);
        let document = client.post(&path(one), &body)?;
        say(&document, screen)?;
        return Ok(Done::Well);
    }
    let mut failed = Vec::new();
    let mut progress = Progress::new(verb, serials.len(), 0);
    let interrupt = Interrupt::take();
    let mut tried = 0;
    for (at, serial) in serials.iter().enumerate() {
        if interrupt.pressed() {
            break;
        }
        tried = at + 1;
        body["confirm"] = json!(serial);
        match client.post(&path(serial), &body) {
            Ok(document) => say(&document, screen)?,
            // What would stop every other one too stops here.
            Err(problem) if stops_all(problem.code) => return Err(problem),
            Err(problem) => {
                screen.error(&problem);
                failed.push(serial.as_str());
            }
        }
        progress.step(at + 1, failed.len());
    }
    progress.end();
    let done = thousands((tried - failed.len()) as u64);
    screen.footer(format!("done {done} · skipped 0 · failed {}", failed.len()));
    let left = serials.len() - tried;
    if left > 0 {
        screen.footer(format!("not tried {}, from {} on", thousands(left as u64), serials[tried]));
    }
    if failed.is_empty() {
        return Ok(if left == 0 { Done::Well } else { Done::Interrupted });
    }
    if !failed.is_empty() && failed.len() <= NAMED_MAX {
        screen.footer(again(verb, &failed));
    }
    Ok(Done::SomeFailed)
}

/// The line that tries the failed ones again.
pub(super) fn again(verb: &str, failed: &[&str]) -> String {
    format!("again: muster device {verb} {} --reason …", failed.join(" "))
}

fn stops_all(code: Code) -> bool {
    matches!(
        code,
        Code::ServerUnreachable
            | Code::NameUnknown
            | Code::ServerNotTrusted
            | Code::ServerStopping
            | Code::NotSignedIn
            | Code::TokenEnded
            | Code::RoleMissing
    )
}

/// A count in place, where a terminal reads it and the work takes longer than a glance.
pub(super) struct Progress {
    verb: String,
    of: usize,
    /// Done before it was watched.
    before: usize,
    began: Instant,
    /// When a line was said, where no terminal reads.
    said: Instant,
    shown: bool,
}

/// How often a line says how far it is, where no terminal reads.
const SAY: Duration = Duration::from_secs(10);

impl Progress {
    pub(super) fn new(verb: &str, of: usize, before: usize) -> Self {
        let began = Instant::now();
        Self { verb: verb.to_owned(), of, before, began, said: began, shown: false }
    }

    pub(super) fn step(&mut self, done: usize, failed: usize) {
        let now = Instant::now();
        let elapsed = now - self.began;
        if !std::io::stderr().is_terminal() {
            if let Some(line) = self.line(done, failed, now) {
                eprintln!("{line}");
            }
            return;
        }
        if elapsed < Duration::from_millis(300) {
            return;
        }
        let rate = done.saturating_sub(self.before) as f64 / elapsed.as_secs_f64();
        let left = (self.of.saturating_sub(done) as f64 / rate.max(0.001)) as i64;
        let left = span(left * 1000);
        eprint!("\r\x1b[K{}  {done}/{}  {rate:.0}/s  {left} left · {failed} failed", self.verb, self.of);
        self.shown = true;
    }

    /// The line that is due now, if one is.
    fn line(&mut self, done: usize, failed: usize, now: Instant) -> Option<String> {
        if now.duration_since(self.said) < SAY {
            return None;
        }
        self.said = now;
        Some(format!("{} {done}/{} · {failed} failed", self.verb, self.of))
    }

    pub(super) fn end(self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

fn say(document: &Value, screen: &Screen) -> Result<(), Problem> {
    if screen.output.is_json() {
        screen.raw(&document.to_string());
        return Ok(());
    }
    said(&read(document)?, screen);
    Ok(())
}

/// A decision that was made, in a line.
pub(super) fn said(decision: &Decision, screen: &Screen) {
    if screen.output == Output::Serial {
        screen.line(&decision.serial);
        return;
    }
    screen.pieces(&[
        words::glyph(&decision.to, screen),
        Text::plain(" "),
        Text::new(&decision.serial, Style::Bold),
        Text::plain(outcome(decision)),
    ]);
}

fn outcome(decision: &Decision) -> String {
    let change = match &decision.from {
        Some(from) => format!(" {from} → {}", decision.to),
        None => format!(" {}", decision.to),
    };
    let ends = matches!(&*decision.act, "suspend" | "quarantine" | "revoke" | "decommission" | "disconnect");
    let ended = &decision.ended;
    let session = match (ended.enforced, ended.commit_to_closed_ms, ended.mqtt_reason) {
        _ if !ends => String::new(),
        (true, Some(ms), Some(reason)) => format!(" · session closed in {ms} ms (0x{reason:02x})"),
        (true, ..) => " · no live session".to_owned(),
        (false, ..) => " · its session is being closed; nothing it sends is accepted".to_owned(),
    };
    let again = match &*decision.act {
        "disconnect" => " · it may come back; to keep it out, suspend it",
        _ => "",
    };
    format!("{change}{session}{again}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_a_line_is_due_every_ten_seconds() {
        let mut progress = Progress::new("suspend", 1204, 0);
        let at = |s| progress.began + Duration::from_secs(s);
        let times = [at(1), at(9), at(10), at(19), at(20)];
        let said = times.map(|now| progress.line(412, 3, now).is_some());
        assert_eq!(said, [false, false, true, false, true]);
        let line = progress.line(413, 3, times[4] + SAY).unwrap();
        assert_eq!(line, "suspend 413/1204 · 3 failed");
    }
}
