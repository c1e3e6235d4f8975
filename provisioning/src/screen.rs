//! What the operator sees. On a terminal: the five steps as they are done, then a frame whose shape alone says
//! how it ended (double: PASS, hatched: FAIL). Without one: a line for each result. With `--json`: a line for
//! each step and each result.

use std::io::{self, IsTerminal, Write};

use muster_shared::{CertificateId, Code, factory::Subject};
use serde_json::json;

use crate::station::{Outcome, Step};

/// Columns between the sides of a frame.
const INSIDE: usize = 38;

const PASS: [&str; 5] = [
    "████   ██   ████  ████",
    "█  █  █  █  █     █",
    "████  ████  ████  ████",
    "█     █  █     █     █",
    "█     █  █  ████  ████",
];
const FAIL: [&str; 5] = [
    "████   ██   ███  █",
    "█     █  █   █   █",
    "███   ████   █   █",
    "█     █  █   █   █",
    "█     █  █  ███  ████",
];

/// How to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Steps and frames, in colour or not.
    Terminal {
        /// White on green, white on red.
        colour: bool,
    },
    /// A line for each result.
    Lines,
    /// A line of JSON for each step and result.
    Json,
}

impl Manner {
    /// JSON where asked for; frames on a terminal; colour unless `NO_COLOR` is set and not empty.
    #[must_use]
    pub fn choose(json: bool) -> Self {
        let plain = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match (json, io::stdout().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Terminal { colour: !plain("NO_COLOR") && !dumb },
            (false, false) => Self::Lines,
        }
    }
}

/// Where and about which unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    manner: Manner,
    port: String,
}

/// A result, with everything a line or frame says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Result {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, milliseconds.
    pub ms: u64,
}

impl Screen {
    /// A screen for one port.
    #[must_use]
    pub fn new(manner: Manner, port: impl Into<String>) -> Self {
        Self { manner, port: port.into() }
    }

    /// A step is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn step(&self, out: &mut impl Write, step: Step, ok: bool, ms: u64) -> io::Result<()> {
        match self.manner {
            Manner::Terminal { .. } => {
                let sign = if ok { '✓' } else { '✗' };
                writeln!(out, "  {sign} {:<22} {:>6}", step.words(), seconds(ms))
            }
            Manner::Lines => Ok(()),
            Manner::Json => {
                let line = json!({
                    "schema": "muster.factory.step/1", "port": self.port, "step": step.word(), "ok": ok, "ms": ms,
                });
                writeln!(out, "{line}")
            }
        }
    }

    /// The unit is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn result(&self, out: &mut impl Write, result: &Result) -> io::Result<()> {
        match self.manner {
            Manner::Terminal { colour } => self.frame(out, result, colour),
            Manner::Lines => writeln!(out, "{}", self.line(result)),
            Manner::Json => writeln!(out, "{}", self.json(result)),
        }
    }

    /// `2026-11-22T14:02:11Z P3 FAIL E13 MU-000119 step=readback 4.1s`
    fn line(&self, result: &Result) -> String {
        let Result { at, outcome, ms } = result;
        let (port, time) = (&self.port, seconds(*ms));
        match outcome {
            Outcome::Pass { subject, already: false, .. } => {
                format!("{at} {port} PASS {} {time}", subject.serial)
            }
            Outcome::Pass { subject, already: true, .. } => {
                format!("{at} {port} PASS {} ALREADY DONE {time}", subject.serial)
            }
            Outcome::Fail(failure) => format!(
                "{at} {port} FAIL {} {} step={} {time}",
                failure.code,
                serial(failure.subject.as_ref()),
                failure.step.word(),
            ),
        }
    }

    fn json(&self, result: &Result) -> String {
        let (word, code, step, subject, id): (_, Option<Code>, _, _, Option<&CertificateId>) =
            match &result.outcome {
                Outcome::Pass { subject, certificate_id, already } => {
                    let word = if *already { "already_done" } else { "pass" };
                    (word, None, None, Some(subject), Some(certificate_id))
                }
                Outcome::Fail(failure) => {
                    ("fail", Some(failure.code), Some(failure.step.word()), failure.subject.as_ref(), None)
                }
            };
        let detail = match &result.outcome {
            Outcome::Fail(failure) => Some(failure.detail.as_str()),
            Outcome::Pass { .. } => None,
        };
        json!({
            "schema": "muster.factory.unit/1",
            "at": result.at,
            "port": self.port,
            "result": word,
            "code": code.map(Code::id),
            "step": step,
            "detail": detail,
            "tenant": subject.map(|subject| subject.tenant.as_str()),
            "device_id": subject.map(|subject| subject.device_id.as_str()),
            "serial": subject.map(|subject| subject.serial.as_str()),
            "certificate_id": id.map(ToString::to_string),
            "ms": result.ms,
        })
        .to_string()
    }

    fn frame(&self, out: &mut impl Write, result: &Result, colour: bool) -> io::Result<()> {
        let port = &self.port;
        let (title, word, note, rows, next, double) = match &result.outcome {
            Outcome::Pass { subject, already, .. } => (
                format!("{port} ✓ PASS  {}", subject.serial),
                PASS,
                seconds(result.ms),
                if *already { vec!["ALREADY DONE: same unit, same key".to_owned()] } else { Vec::new() },
                "take unit off",
                true,
            ),
            Outcome::Fail(failure) => (
                format!("{port} ✗ FAIL  {}  {}", serial(failure.subject.as_ref()), failure.code),
                FAIL,
                failure.code.id().to_owned(),
                vec![failure.code.words().to_owned()],
                failure.code.entry().next,
                false,
            ),
        };
        let (paint, plain) = match (colour, double) {
            (false, _) => ("", ""),
            (true, true) => ("\x1b[97;42m", "\x1b[0m"),
            (true, false) => ("\x1b[97;41m", "\x1b[0m"),
        };
        let mut lines: Vec<String> = word.iter().map(|row| format!("  {row}")).collect();
        lines[0] = format!("{:<26}  {note:>8}", lines[0]);
        lines.extend(rows.iter().map(|row| format!("  {row}")));
        lines.push(format!("  NEXT: {next}"));
        let side = if double { '║' } else { '▓' };
        writeln!(out, "{paint}{}{plain}", edge(&title, double, true))?;
        for line in wrapped(&lines) {
            writeln!(out, "{paint}{side}{line:<INSIDE$}{side}{plain}")?;
        }
        writeln!(out, "{paint}{}{plain}", edge("", double, false))
    }
}

/// The top of a frame, with its title, or its bottom.
fn edge(title: &str, double: bool, top: bool) -> String {
    let (left, fill, right) = match (double, top) {
        (true, true) => ('╔', "═", '╗'),
        (true, false) => ('╚', "═", '╝'),
        (false, _) => ('▓', "▓", '▓'),
    };
    let title = if title.is_empty() { String::new() } else { format!("{fill} {title} ") };
    let rest = INSIDE.saturating_sub(title.chars().count());
    format!("{left}{title}{}{right}", fill.repeat(rest))
}

/// Lines no longer than the frame is wide, broken between words.
fn wrapped(lines: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for line in lines {
        if line.chars().count() <= INSIDE {
            out.push(line.clone());
            continue;
        }
        let mut row = " ".to_owned();
        for word in line.split_whitespace() {
            if row.chars().count() + 1 + word.chars().count() > INSIDE && row.trim() != "" {
                out.push(std::mem::replace(&mut row, " ".to_owned()));
            }
            row.push(' ');
            row.extend(word.chars().take(INSIDE - 2));
        }
        out.push(row);
    }
    out
}

fn serial(subject: Option<&Subject>) -> &str {
    subject.map_or("unknown", |subject| subject.serial.as_str())
}

fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::Failure;

    fn subject() -> Subject {
        Subject {
            tenant: "acme".parse().unwrap(),
            device_id: "MU-000119".parse().unwrap(),
            serial: "MU-000119".parse().unwrap(),
        }
    }

    fn fail() -> Result {
        let outcome = Outcome::Fail(Failure {
            code: Code::StationReadback,
            step: Step::Prove,
            subject: Some(subject()),
            detail: "sent a, unit reads back b".into(),
        });
        Result { at: "2026-11-22T14:02:11Z".into(), outcome, ms: 4100 }
    }

    fn pass(already: bool) -> Result {
        let outcome = Outcome::Pass { subject: subject(), certificate_id: CertificateId([7; 32]), already };
        Result { at: "2026-11-22T14:02:11Z".into(), outcome, ms: 3900 }
    }

    fn shown(manner: Manner, result: &Result) -> String {
        let mut out = Vec::new();
        Screen::new(manner, "P3").result(&mut out, result).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_line_a_result() {
        assert_eq!(
            shown(Manner::Lines, &fail()),
            "2026-11-22T14:02:11Z P3 FAIL E13 MU-000119 step=prove 4.1s\n"
        );
        assert_eq!(shown(Manner::Lines, &pass(false)), "2026-11-22T14:02:11Z P3 PASS MU-000119 3.9s\n");
        let again = shown(Manner::Lines, &pass(true));
        assert_eq!(again, "2026-11-22T14:02:11Z P3 PASS MU-000119 ALREADY DONE 3.9s\n");
    }

    #[test]
    fn frames_differ_in_shape_and_are_even() {
        let (pass, fail) = (
            shown(Manner::Terminal { colour: false }, &pass(false)),
            shown(Manner::Terminal { colour: false }, &fail()),
        );
        assert!(
            pass.starts_with("╔═ P3 ✓ PASS  MU-000119 ═") && pass.contains("NEXT: take unit off"),
            "{pass}"
        );
        assert!(
            fail.starts_with("▓▓ P3 ✗ FAIL  MU-000119  E13 ▓") && fail.contains("read-back differs"),
            "{fail}"
        );
        for frame in [pass, fail] {
            assert!(frame.lines().all(|line| line.chars().count() == INSIDE + 2), "{frame}");
            assert!(!frame.contains('\x1b'));
        }
    }

    #[test]
    fn json_has_every_field() {
        for result in [pass(false), pass(true), fail()] {
            let read: serde_json::Value = serde_json::from_str(&shown(Manner::Json, &result)).unwrap();
            for field in ["schema", "at", "port", "result", "code", "step", "serial", "certificate_id", "ms"]
            {
                assert!(read.get(field).is_some(), "{field}");
            }
        }
    }
}
