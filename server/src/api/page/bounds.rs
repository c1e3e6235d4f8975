//! Limits and periods of the configuration as people read them: what each bounds, in words, and how much.

use super::parts::count;
use crate::api::view;

/// What a key bounds.
struct Words {
    key: &'static str,
    what: &'static str,
    /// Of what its number is; nothing for a time, which has its own.
    unit: &'static str,
    /// What 0 means, where it means something of its own.
    zero: &'static str,
}

const fn words(key: &'static str, what: &'static str, unit: &'static str, zero: &'static str) -> Words {
    Words { key, what, unit, zero }
}

const LIMITS: &[Words] = &[
    words("limits.connections_max", "Device connections at once", "", ""),
    words("limits.handshake", "A TLS handshake", "", ""),
    words("limits.connect", "From the handshake to a whole CONNECT", "", ""),
    words("limits.packet_max", "An MQTT packet", "octets", ""),
    words("limits.keep_alive_max_s", "Silence of an MQTT 5 client", "s", "as long as it asks for"),
    words("limits.session_expiry_max_s", "A device's session without a connection", "s", "never"),
    words("limits.subscriptions_max", "Subscriptions of a device", "", ""),
    words("limits.service_subscriptions_max", "Subscriptions of a service's session", "", ""),
    words("limits.receive_max", "Messages a client sends before it waits for an answer", "", ""),
    words("limits.topic_alias_max", "Topic aliases of a connection, each way", "", "none"),
    words("limits.will_max", "A will", "octets", ""),
    words("limits.queue_max", "Messages that wait for a device; QoS 0 goes first, then the new one", "", ""),
    words("limits.queue_bytes_max", "The same, by their size", "octets", ""),
    words("limits.retained_device_max", "Retained messages of a device", "", ""),
    words("limits.retained_device_bytes_max", "The same, by their size", "octets", ""),
    words("limits.retained_bytes_max", "Retained messages in all", "octets", ""),
    words("limits.service_topic_max", "Topic or filter of a service", "octets", ""),
    words("limits.messages_per_s", "Messages of a device", "a second", ""),
    words("limits.handshakes_per_s", "Handshakes begun", "a second", "what the event loops have room for"),
    words("limits.handshakes_per_address_per_s", "Handshakes begun from one address", "a second", ""),
    words("limits.handshakes_per_address", "Handshakes of one address at once", "", ""),
    words("https.connections_max", "HTTPS connections at once", "", ""),
    words("https.request", "A request to this page or the API", "", ""),
    words("https.body_max", "The body of such a request", "octets", ""),
    words("https.json_max", "A JSON document or form in it", "octets", ""),
    words("https.requests_per_s", "Requests of one credential", "a second", ""),
    words("https.requests_burst", "Requests of one credential after a pause", "at once", ""),
    words("https.streams_each", "Event streams of one credential", "", ""),
    words("https.streams_max", "Event streams of everybody", "", ""),
    words("https.sign_in_failures_max", "Failed sign-ins of an address or a name", "in five minutes", ""),
];

const PERIODS: &[Words] = &[
    words("retention.uplink_days", "Messages of devices, and their readings", "days", "without end"),
    words("retention.uplink_mib", "The same, by their size on disk", "MiB", "without a bound"),
    words("retention.sessions_days", "Sessions that ended", "days", "without end"),
    words("retention.refusals_days", "Refusals", "days", "without end"),
];

/// A bound that is in force.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) what: String,
    pub(super) said: String,
    pub(super) key: String,
    /// Its number, where it can be decided about here: nobody's configuration says it.
    pub(super) open: Option<String>,
    /// Who said so; of a file its name alone.
    pub(super) source: String,
    /// The same in full.
    pub(super) whole_source: String,
}

/// How much anybody may take.
pub(super) fn limits(config: &view::Config) -> Vec<Bound> {
    let mut all = found(LIMITS, config);
    all.extend(config.items.iter().filter_map(fixed));
    all
}

/// A bound that nobody sets: its source says what it is.
fn fixed(item: &view::Setting) -> Option<Bound> {
    let what = item.source.strip_prefix("fixed: ").filter(|_| item.key.starts_with("fixed."))?;
    Some(Bound {
        what: what.to_owned(),
        said: item.value.clone()?,
        key: item.key.clone(),
        open: None,
        source: "fixed".to_owned(),
        whole_source: what.to_owned(),
    })
}

/// How long what was seen is kept.
pub(super) fn periods(config: &view::Config) -> Vec<Bound> {
    let mut all = found(PERIODS, config);
    for bound in &mut all {
        let item = config.items.iter().find(|item| item.key == bound.key && !item.pinned);
        bound.open = item.and_then(|item| item.value.clone());
    }
    all
}

fn found(all: &[Words], config: &view::Config) -> Vec<Bound> {
    let bound = |words: &Words| {
        let item = config.items.iter().find(|item| item.key == words.key)?;
        let source = item.source.rsplit('/').next().unwrap_or(&item.source);
        Some(Bound {
            what: words.what.to_owned(),
            said: words.say(item.value.as_deref()?),
            key: words.key.to_owned(),
            open: None,
            source: source.to_owned(),
            whole_source: item.source.clone(),
        })
    };
    all.iter().filter_map(bound).collect()
}

impl Words {
    fn say(&self, value: &str) -> String {
        match value.parse::<u64>() {
            Ok(0) if !self.zero.is_empty() => self.zero.to_owned(),
            Ok(1) if self.unit == "days" => "1 day".to_owned(),
            Ok(number) if self.unit.is_empty() => count(number),
            Ok(number) => format!("{} {}", count(number), self.unit),
            // A time is written with its unit.
            Err(_) => value.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{api::config::told, config::Config};

    fn config(text: &str) -> view::Config {
        told(&Config::from_text(Path::new("/srv/muster/muster.toml"), text).unwrap())
    }

    #[test]
    fn every_limit_and_period_of_the_configuration_has_words() {
        let config = config("");
        let (limits, periods) = (limits(&config), periods(&config));
        let fixed = limits.iter().filter(|bound| bound.source == "fixed").count();
        assert!(fixed > 30, "what nobody sets is shown too");
        let set = limits.len() - fixed;
        assert_eq!((set, periods.len()), (LIMITS.len(), PERIODS.len()), "a key is there no more");
        for key in config.items.iter().map(|item| &item.key) {
            let bounds = if key.starts_with("limits.") {
                &limits
            } else if key.starts_with("retention.") {
                &periods
            } else {
                continue;
            };
            assert!(bounds.iter().any(|bound| bound.key == *key), "{key} has no words");
        }
    }

    #[test]
    fn a_bound_is_said_with_its_unit_and_who_said_it() {
        let config =
            config("[retention]\nuplink_days = 1\nsessions_days = 0\n[limits]\nhandshake = \"5s\"\n");
        let said = |all: Vec<Bound>, key: &str| {
            let bound = all.into_iter().find(|bound| bound.key == key).unwrap();
            (bound.said, bound.source, bound.whole_source)
        };
        let file =
            |line: u32| (format!("muster.toml line {line}"), format!("/srv/muster/muster.toml line {line}"));
        let of = |said: &str, (source, whole): (String, String)| (said.to_owned(), source, whole);
        let default = ("default".to_owned(), "default".to_owned());
        assert_eq!(said(periods(&config), "retention.uplink_days"), of("1 day", file(2)));
        assert_eq!(said(periods(&config), "retention.sessions_days"), of("without end", file(3)));
        assert_eq!(said(limits(&config), "limits.handshake"), of("5s", file(5)));
        let messages = said(limits(&config), "limits.messages_per_s");
        assert_eq!(messages, of("100 a second", default));
    }
}
