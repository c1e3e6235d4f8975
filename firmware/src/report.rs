//! What the device says of itself on `twin/reported`: which image it runs, once a session.
//!
//! ```text
//! {"firmware":"1.4.2"}
//! ```
//!
//! Retained by the server, and said again with each connection all the same. A session starts clean, so nobody
//! knows what the server has kept: a device that was away while it was suspended, and is let in again, has met no
//! refusal, and nothing is retained of it any more. A message of some sixty octets is nothing beside the handshake
//! before it. Within a session it is tried once: what the server refuses now it will refuse in a minute, and
//! telemetry has the better use of the line.

use heapless::String;

/// Longest document, octets: a version of 32 within it.
pub const DOCUMENT_MAX: usize = 48;

/// The machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// The image's version.
    version: &'static str,
    step: Step,
}

/// How far it is in this session.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Due,
    /// Published under this packet id.
    Sent(u16),
    /// Settled, or not to be tried again.
    Over,
}

impl Report {
    /// An image of this version has started.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        Self { version, step: Step::Due }
    }

    /// A session begins.
    pub fn begin(&mut self) {
        self.step = Step::Due;
    }

    /// What is to be published now, retained, if anything. It is tried: [`Report::sent`] says under which packet
    /// id, if it went out.
    pub fn take(&mut self) -> Option<String<DOCUMENT_MAX>> {
        if self.step != Step::Due {
            return None;
        }
        self.step = Step::Over;
        let mut document = String::new();
        // A version is of letters, digits and `.-+_`, which JSON takes as they are.
        let parts = ["{\"firmware\":\"", self.version, "\"}"];
        parts.iter().try_for_each(|part| document.push_str(part)).ok()?;
        Some(document)
    }

    /// It went out under this packet id.
    pub fn sent(&mut self, packet: u16) {
        self.step = Step::Sent(packet);
    }

    /// The publish of this packet id is settled. Tells whether it was the report's.
    pub fn settled(&mut self, packet: u16) -> bool {
        let ours = self.step == Step::Sent(packet);
        if ours {
            self.step = Step::Over;
        }
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_session_whatever_becomes_of_it() {
        let mut report = Report::new("1.4.2-rc1");
        for _ in 0..3 {
            report.begin();
            assert_eq!(report.take().as_deref(), Some("{\"firmware\":\"1.4.2-rc1\"}"));
            assert_eq!(report.take(), None, "under way");
            report.sent(7);
            assert!(!report.settled(8), "another's");
            assert!(report.settled(7));
            assert_eq!((report.take(), report.settled(7)), (None, false), "settled");
        }
        report.begin();
        assert!(report.take().is_some());
        report.sent(9);
        // The connection ended first.
        report.begin();
        assert!(!report.settled(9), "another session's");
        assert!(report.take().is_some());
    }

    #[test]
    fn a_version_that_does_not_fit_is_not_said() {
        let mut report = Report::new("0.0.0-0123456789012345678901234567890123456789");
        assert_eq!(report.take(), None);
    }
}
