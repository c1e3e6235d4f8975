//! What the device says of itself on `twin/reported`: which image it runs, once a start.
//!
//! ```text
//! {"firmware":"1.4.2"}
//! ```
//!
//! Retained by the server, so it is said again only after a power-on, and after the server has ended a session:
//! of a device that was suspended it has kept nothing. Until the server has acknowledged it, it is said again with
//! each connection. Within a session it is tried once: what the server refuses now it will refuse in a minute,
//! and telemetry has the better use of the line.

use heapless::String;

/// Longest document, octets: a version of 32 within it.
pub const DOCUMENT_MAX: usize = 48;

/// The machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// The image's version.
    version: &'static str,
    /// The server has it.
    known: bool,
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
        Self { version, known: false, step: Step::Due }
    }

    /// A session begins.
    pub fn begin(&mut self) {
        self.step = Step::Due;
    }

    /// The server has ended the session, or taken none: nobody knows what it has kept.
    pub fn again(&mut self) {
        self.known = false;
    }

    /// What is to be published now, retained, if anything. It is tried: [`Report::sent`] says under which packet
    /// id, if it went out.
    pub fn take(&mut self) -> Option<String<DOCUMENT_MAX>> {
        if self.known || self.step != Step::Due {
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
    pub fn settled(&mut self, packet: u16, taken: bool) -> bool {
        let ours = self.step == Step::Sent(packet);
        if ours {
            self.step = Step::Over;
            self.known = taken;
        }
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_session_until_the_server_has_it() {
        let mut report = Report::new("1.4.2-rc1");
        for _ in 0..3 {
            report.begin();
            assert_eq!(report.take().as_deref(), Some("{\"firmware\":\"1.4.2-rc1\"}"));
            assert_eq!(report.take(), None, "under way");
            report.sent(7);
            assert!(!report.settled(8, true), "another's");
            assert!(report.settled(7, false));
            assert_eq!(
                (report.take(), report.settled(7, true)),
                (None, false),
                "refused: not in this session"
            );
        }
        report.begin();
        assert!(report.take().is_some());
        report.sent(9);
        // The connection ended first: nobody knows whether it came.
        report.begin();
        assert!(!report.settled(9, true), "another session's");
        assert!(report.take().is_some());
        report.sent(1);
        assert!(report.settled(1, true));
        report.begin();
        assert_eq!(report.take(), None, "once a start");
        report.again();
        assert_eq!(report.take().as_deref(), Some("{\"firmware\":\"1.4.2-rc1\"}"));
    }

    #[test]
    fn a_version_that_does_not_fit_is_not_said() {
        let mut report = Report::new("0.0.0-0123456789012345678901234567890123456789");
        assert_eq!(report.take(), None);
    }
}
