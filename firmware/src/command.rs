//! Commands from the fleet: for now the built-in diagnostic.
//!
//! On `command/{id}/request` a device understands one payload, in ASCII:
//!
//! ```text
//! publish <topic>     publish a short message on this topic at QoS 1, and say what the server made of it
//! ```
//!
//! It answers on `command/{id}/response`, in ASCII: `published`, `refused <code>` (`refused M210` for a
//! topic that is not the device's), or `unknown command`. One command at a time.
//!
//! The diagnostic lets an operator see, from the device's own side, that the server's topic rules hold.

use heapless::String;
use muster_shared::{
    Code, DeviceId, Tenant,
    limits::{ID_MAX, TOPIC_MAX},
    topic::{Kind, Topic},
};

use crate::mqtt::Refusal;

/// What the diagnostic publishes.
pub const DIAGNOSTIC: &[u8] = b"diagnostic";

/// A command under way.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Its id.
    pub id: String<ID_MAX>,
    step: Step,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// To be published.
    Ready(String<TOPIC_MAX>),
    /// Published under this packet id; the answer waits for the server's.
    Waiting(u16, String<TOPIC_MAX>),
    /// To be answered.
    Answer(String<16>),
}

/// What a command has to publish now.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<'c> {
    /// The topic.
    pub topic: String<TOPIC_MAX>,
    /// The payload.
    pub payload: &'c [u8],
    /// Whether this is the answer, with which the command ends.
    pub last: bool,
}

impl Command {
    /// Reads a message on a command topic of this device; `None` when it is something else.
    #[must_use]
    pub fn read(tenant: &Tenant, device: &DeviceId, topic: &str, payload: &[u8]) -> Option<Self> {
        let id = match Topic::parse(topic) {
            Ok(Topic::Device { tenant: t, device: d, kind: Kind::CommandRequest { id } })
                if t == tenant.as_str() && d == device.as_str() =>
            {
                String::try_from(id).ok()?
            }
            _ => return None,
        };
        let topic = core::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.strip_prefix("publish "))
            .map(str::trim)
            // A name the server can refuse; what is no topic name at all is not worth a session.
            .filter(|topic| {
                !topic.is_empty() && !topic.contains(['+', '#']) && !topic.contains(char::is_control)
            })
            .and_then(|topic| String::try_from(topic).ok());
        let step = match topic {
            Some(topic) => Step::Ready(topic),
            None => Step::Answer(String::try_from("unknown command").unwrap_or_default()),
        };
        Some(Self { id, step })
    }

    /// The topic the diagnostic is about, while it is.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match &self.step {
            Step::Ready(topic) | Step::Waiting(_, topic) => Some(topic),
            Step::Answer(_) => None,
        }
    }

    /// What is to be published now, if anything.
    #[must_use]
    pub fn due(&self, tenant: &Tenant, device: &DeviceId) -> Option<Due<'_>> {
        match &self.step {
            Step::Ready(topic) => Some(Due { topic: topic.clone(), payload: DIAGNOSTIC, last: false }),
            Step::Waiting(..) => None,
            Step::Answer(text) => {
                let topic = Topic::of(tenant, device, Kind::CommandResponse { id: &self.id }).text().ok()?;
                Some(Due { topic, payload: text.as_bytes(), last: true })
            }
        }
    }

    /// The diagnostic went out under this packet id.
    pub fn sent(&mut self, packet: u16) {
        if let Step::Ready(topic) = &mut self.step {
            self.step = Step::Waiting(packet, core::mem::take(topic));
        }
    }

    /// A packet was settled. The topic, when it was the diagnostic's and was refused.
    pub fn settled(
        &mut self,
        packet: u16,
        outcome: Result<(), Refusal>,
    ) -> Option<(String<TOPIC_MAX>, Code)> {
        let Step::Waiting(ours, topic) = &mut self.step else { return None };
        if *ours != packet {
            return None;
        }
        let topic = core::mem::take(topic);
        let mut text = String::new();
        let (_, refused) = match outcome {
            Ok(()) => (text.push_str("published"), None),
            Err(refusal) => (
                text.push_str("refused ").and_then(|()| text.push_str(refusal.code.id())),
                Some(refusal.code),
            ),
        };
        self.step = Step::Answer(text);
        refused.map(|code| (topic, code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> (Tenant, DeviceId) {
        (Tenant::new("acme").unwrap(), DeviceId::new("MU-1").unwrap())
    }

    fn read(topic: &str, payload: &[u8]) -> Option<Command> {
        let (tenant, device) = me();
        Command::read(&tenant, &device, topic, payload)
    }

    #[test]
    fn a_diagnostic_publishes_and_reports() {
        let (tenant, device) = me();
        let mut command = read("acme/MU-1/command/c1/request", b"publish acme/MU-2/app/x").unwrap();
        let due = command.due(&tenant, &device).unwrap();
        assert_eq!((due.topic.as_str(), due.payload, due.last), ("acme/MU-2/app/x", DIAGNOSTIC, false));
        command.sent(7);
        assert_eq!(command.due(&tenant, &device), None);
        let refusal = Refusal { code: Code::TopicNotIts, reason: 0x87 };
        assert_eq!(command.settled(6, Err(refusal)), None);
        assert_eq!(command.settled(7, Err(refusal)).unwrap().1, Code::TopicNotIts);
        let due = command.due(&tenant, &device).unwrap();
        assert_eq!(
            (due.topic.as_str(), due.payload, due.last),
            ("acme/MU-1/command/c1/response", &b"refused M210"[..], true)
        );
    }

    #[test]
    fn what_it_does_not_know_it_says_so() {
        let (tenant, device) = me();
        for payload in
            [&b"reboot"[..], b"", b"publish", b"publish ", b"publish a/+/b", b"publish a\0b", b"\xff\xfe"]
        {
            let command = read("acme/MU-1/command/c1/request", payload).unwrap();
            assert_eq!(command.due(&tenant, &device).unwrap().payload, b"unknown command", "{payload:?}");
        }
    }

    #[test]
    fn other_topics_are_no_commands() {
        for topic in [
            "acme/MU-2/command/c1/request",
            "acme/MU-1/command/c1/response",
            "acme/~all/command/c1/request",
            "x",
            "",
        ] {
            assert_eq!(read(topic, b"publish a/b/app/c"), None, "{topic}");
        }
    }
}
