//! What a client wants to hear: words such as `kind:message topic:acme/+/telemetry/# MU-000118`.
//!
//! | word | means |
//! |---|---|
//! | `kind:` | `change`, `presence`, `refusal`, `notice`, `message`; several times for several; without it all but messages |
//! | `topic:` | messages on topics this MQTT filter matches; several times for several; implies `kind:message` |
//! | `serial:`, or a serial alone | about this device |
//! | `tenant:` | about this tenant's devices |

use muster_shared::{
    DeviceId, Tenant,
    topic::{self, Bounds, Kind, Topic},
};

use crate::registry::Target;

/// Longest filter, octets, and most words in it.
const FILTER_MAX: usize = 1024;
const WORDS_MAX: usize = 32;

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?}: {why}")]
pub(super) struct Wrong {
    pub(super) word: String,
    pub(super) why: String,
}

/// What a client wants to hear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) changes: bool,
    pub(super) presence: bool,
    pub(super) refusals: bool,
    pub(super) notices: bool,
    pub(super) messages: bool,
    topics: Vec<String>,
    pub(super) device: Option<Target>,
    pub(super) tenant: Option<Tenant>,
}

impl Asked {
    /// Reads a filter; an empty one asks for everything but messages.
    pub(super) fn read(text: &str) -> Result<Self, Wrong> {
        if text.len() > FILTER_MAX || text.split_whitespace().count() > WORDS_MAX {
            let why = format!("at most {WORDS_MAX} words and {FILTER_MAX} octets");
            return Err(Wrong { word: text.chars().take(20).collect(), why });
        }
        let mut asked = Self::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once(':').unwrap_or(("serial", word));
            asked.take(key, value).map_err(|why| Wrong { word: word.to_owned(), why })?;
        }
        if !(asked.changes || asked.presence || asked.counts() || asked.messages) {
            (asked.changes, asked.presence) = (true, true);
            (asked.refusals, asked.notices) = (true, true);
        }
        Ok(asked)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match (key, value) {
            ("kind", "change") => self.changes = true,
            ("kind", "presence") => self.presence = true,
            ("kind", "refusal") => self.refusals = true,
            ("kind", "notice") => self.notices = true,
            ("kind", "message") => self.messages = true,
            ("kind", _) => return Err("a kind is change, presence, refusal, notice or message".to_owned()),
            ("topic", filter) => {
                topic::check_filter(filter, Bounds::WIDEST).map_err(|error| error.to_string())?;
                self.topics.push(filter.to_owned());
                self.messages = true;
            }
            ("serial", serial) => {
                let target = serial.parse().map_err(|error| format!("{error}"))?;
                if self.device.replace(target).is_some() {
                    return Err("there is a serial already".to_owned());
                }
            }
            ("tenant", tenant) => {
                let tenant = tenant.parse().map_err(|error| format!("{error}"))?;
                if self.tenant.replace(tenant).is_some() {
                    return Err("there is a tenant already".to_owned());
                }
            }
            _ => return Err(format!("{key} is none of kind, topic, serial, tenant")),
        }
        Ok(())
    }

    /// Whether it takes a look at what is counted by the minute.
    pub(super) fn counts(&self) -> bool {
        self.refusals || self.notices
    }

    /// Whether it takes a look at the uplink log at all.
    pub(super) fn reads_log(&self) -> bool {
        self.presence || self.messages
    }

    /// Whether a message on this topic is wanted, as presence or as a message.
    pub(super) fn wants_topic(&self, octets: &[u8], only: Option<&(Tenant, DeviceId)>) -> bool {
        let Ok(text) = std::str::from_utf8(octets) else { return false };
        let (first, device, presence) = match Topic::parse(text) {
            Ok(Topic::Device { tenant, device, kind }) => (tenant, device, matches!(kind, Kind::Presence)),
            // What is meant for all of a tenant's devices begins with its level, too.
            _ => (text.split('/').next().unwrap_or_default(), "", false),
        };
        if self.tenant.as_ref().is_some_and(|wanted| wanted.as_str() != first) {
            return false;
        }
        if only.is_some_and(|(of, id)| (of.as_str(), id.as_str()) != (first, device)) {
            return false;
        }
        if presence && self.presence {
            return true;
        }
        self.messages && (self.topics.is_empty() || self.topics.iter().any(|own| topic::matches(own, text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_what_is_heard() {
        let all = Asked::read("").unwrap();
        assert!(all.changes && all.presence && all.refusals && all.notices && !all.messages);
        let notices = Asked::read("kind:notice").unwrap();
        assert!(notices.counts() && !notices.refusals && !notices.changes);
        let one = Asked::read("kind:change MU-1").unwrap();
        assert!(one.changes && !one.presence && one.device.is_some());
        let heard = Asked::read("topic:acme/+/telemetry/# tenant:acme").unwrap();
        assert!(heard.messages && !heard.changes);
        assert!(heard.wants_topic(b"acme/MU-1/telemetry/t", None));
        assert!(!heard.wants_topic(b"acme/MU-1/app/t", None));
        assert!(!heard.wants_topic(b"acme/MU-1/presence", None));
        let acme = Asked::read("kind:message tenant:acme kind:presence").unwrap();
        assert!(
            acme.wants_topic(b"acme/MU-1/presence", None) && !acme.wants_topic(b"other/MU-1/app/x", None)
        );
        let only = ("acme".parse().unwrap(), "MU-2".parse().unwrap());
        assert!(!acme.wants_topic(b"acme/MU-1/presence", Some(&only)));
        assert!(acme.wants_topic(b"acme/MU-2/app/x", Some(&only)));
        assert!(!acme.wants_topic(b"\xff", None));
        for wrong in [
            "kind:all",
            "colour:red",
            "topic:a/#/b",
            "serial:",
            "MU-1 MU-2",
            "tenant:a/b",
            "tenant:a tenant:b",
        ] {
            assert!(Asked::read(wrong).is_err(), "{wrong}");
        }
        assert!(Asked::read(&"kind:change ".repeat(40)).is_err());
    }
}
