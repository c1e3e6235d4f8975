//! The device's log: one line an attempt, repeats folded, never longer than [`LOG_LINE_MAX`].
//!
//! Refusals, in the words of `errors.toml`:
//!
//! ```text
//! muster <phase> <code> <words>[: <particulars>] [(alert N)] [(xN)] | <what the device does now>
//! ```
//!
//! Everything else the device says:
//!
//! ```text
//! muster boot <version> no identity | waiting for a station
//! muster boot <version> <tenant>/<device> | connecting to <host>:<port>
//! muster factory key made | waiting for the certificate
//! muster factory certificate stored | waiting for the lock
//! muster factory locked | the port answers hello only
//! muster factory frame dropped | <why>
//! muster mqtt connected <host>:<port> as <tenant>/<device>
//! muster telemetry <seq> acked
//! muster twin reported
//! muster outbox full | <n> oldest dropped
//! muster store failed | continuity token not kept
//! muster command <id> publish <topic>
//! muster command <id> unknown | refused
//! muster command <id> busy | dropped
//! ```
//!
//! A refusal that repeats is printed the first, second, fourth, eighth time and so on, with its count, and
//! once more with the whole count when another line follows.

use core::fmt::{self, Write};

use heapless::{String, Vec};
use muster_shared::{Code, limits::LOG_LINE_MAX};

/// One line, without its end.
pub type Line = String<LOG_LINE_MAX>;

/// Writes into a line; what does not fit is cut off, what is not printable ASCII becomes `?`.
struct Clipped<'l, const N: usize>(&'l mut String<N>);

impl<const N: usize> Write for Clipped<'_, N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let c = if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn clip<const N: usize>(text: fmt::Arguments<'_>) -> String<N> {
    let mut out = String::new();
    Clipped(&mut out).write_fmt(text).expect("what does not fit is cut off");
    out
}

/// A line of this text.
#[must_use]
pub fn line(text: fmt::Arguments<'_>) -> Line {
    clip(text)
}

/// What went wrong, as far as the log and the wait depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Which refusal.
    pub code: Code,
    /// Where the device met it: `net`, `tls`, `mqtt`, `acl`.
    pub phase: &'static str,
    /// The TLS alert that said so.
    pub alert: Option<u8>,
    /// The particulars, if any.
    pub detail: String<48>,
}

impl Cause {
    /// A refusal met in the phase its entry names.
    #[must_use]
    pub fn of(code: Code) -> Self {
        let phase = code.entry().device.map_or("mqtt", |device| device.phase);
        Self { code, phase, alert: None, detail: String::new() }
    }

    /// The same, met in another phase.
    #[must_use]
    pub fn during(mut self, phase: &'static str) -> Self {
        self.phase = phase;
        self
    }

    /// The same, said by this TLS alert.
    #[must_use]
    pub fn alert(mut self, number: u8) -> Self {
        self.alert = Some(number);
        self
    }

    /// The same, with particulars.
    #[must_use]
    pub fn detail(mut self, text: fmt::Arguments<'_>) -> Self {
        self.detail = clip(text);
        self
    }

    /// Everything before the bar.
    fn head(&self) -> Line {
        let words = self.code.entry().device.map_or(self.code.words(), |device| device.words);
        // The table's words name the alert they usually come with; here stands the one that came.
        let words = words.split(" (alert ").next().unwrap_or(words);
        let colon = if self.detail.is_empty() { "" } else { ": " };
        let head: Line =
            clip(format_args!("muster {} {} {words}{colon}{}", self.phase, self.code, self.detail));
        match self.alert {
            Some(number) => clip(format_args!("{head} (alert {number})")),
            None => head,
        }
    }

    /// The line, with what the device does now.
    #[must_use]
    pub fn line(&self, act: &str) -> Line {
        join(&self.head(), 1, act)
    }
}

/// The head gives way where the line is too long: what the device does now is never cut.
fn join(head: &str, count: u32, act: &str) -> Line {
    let tail: Line = match count {
        1 => clip(format_args!(" | {act}")),
        n => clip(format_args!(" (x{n}) | {act}")),
    };
    let head = &head[..head.len().min(LOG_LINE_MAX - tail.len())];
    clip(format_args!("{head}{tail}"))
}

/// Folds repeats of a refusal.
#[derive(Debug, Default)]
pub struct Fold {
    head: Line,
    act: String<32>,
    count: u32,
    printed: u32,
}

impl Fold {
    /// The lines to print for this refusal: none, itself, or the last one's count and itself.
    pub fn say(&mut self, cause: &Cause, act: &str) -> Vec<Line, 2> {
        let (head, act) = (cause.head(), clip::<32>(format_args!("{act}")));
        let mut lines = Vec::new();
        if self.count > 0 && self.head == head {
            self.act = act;
            self.count = self.count.saturating_add(1);
        } else {
            lines = self.end().into_iter().collect();
            *self = Self { head, act, count: 1, printed: 0 };
        }
        if self.count.is_power_of_two() {
            self.printed = self.count;
            let _ = lines.push(join(&self.head, self.count, &self.act));
        }
        lines
    }

    /// Something else happened: the last one's count, where it was not printed yet.
    pub fn end(&mut self) -> Option<Line> {
        let last = core::mem::take(self);
        (last.count > last.printed).then(|| join(&last.head, last.count, &last.act))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_manual() {
        let say = |cause: Cause| {
            let act = cause.code.entry().device.unwrap().act;
            cause.line(act).to_string()
        };
        assert_eq!(
            say(Cause::of(Code::TlsServerUntrusted).detail(format_args!("issuer not pinned"))),
            "muster tls T01 server not trusted: issuer not pinned | retry 1h"
        );
        assert_eq!(
            say(Cause::of(Code::IssuerUnknown).alert(48)),
            "muster tls M301 server does not know our issuer (alert 48) | retry 1h"
        );
        assert_eq!(
            say(Cause::of(Code::CertificateRevoked).during("tls").alert(44)),
            "muster tls M302 our certificate is revoked (alert 44) | stop until power-on"
        );
        assert_eq!(
            say(Cause::of(Code::CertificateExpired).during("mqtt")),
            "muster mqtt M303 our certificate ended | renew, else stop"
        );
        assert_eq!(
            say(Cause::of(Code::TopicNotIts).detail(format_args!("acme/MU-000007/app/x"))),
            "muster acl M210 topic not ours: acme/MU-000007/app/x | dropped"
        );
    }

    #[test]
    fn no_line_is_too_long_or_not_ascii() {
        for &code in Code::ALL {
            let Some(device) = code.entry().device else { continue };
            let long = "\u{e9}\n".repeat(40);
            for cause in [Cause::of(code), Cause::of(code).alert(48).detail(format_args!("{long}"))] {
                let line = cause.line(device.act);
                assert!(
                    line.len() <= LOG_LINE_MAX && line.bytes().all(|b| (0x20..0x7f).contains(&b)),
                    "{line}"
                );
                assert!(line.ends_with(device.act), "{line}");
            }
        }
    }

    #[test]
    fn repeats_fold_and_their_count_is_not_lost() {
        let mut fold = Fold::default();
        let net = Cause::of(Code::NetUnreachable);
        let said: std::vec::Vec<_> =
            (0..14).flat_map(|_| fold.say(&net, "retry 1s..5m")).map(|line| line.to_string()).collect();
        let count = |n: &str| format!("muster net N02 no answer from the server{n} | retry 1s..5m");
        assert_eq!(said, [count(""), count(" (x2)"), count(" (x4)"), count(" (x8)")]);
        let next = fold.say(&Cause::of(Code::NetLink), "retry 1s..5m");
        assert_eq!(next[0].as_str(), count(" (x14)"));
        assert_eq!(next[1], "muster net N03 no link or no address | retry 1s..5m");
        assert_eq!(fold.end(), None);
    }
}
