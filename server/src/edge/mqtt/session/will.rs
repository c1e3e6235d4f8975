//! A will: kept from CONNECT on, due when the session ends by itself (MQTT 5.0 §3.1.2.5, §3.1.3.2).

use bytes::Bytes;
use muster_shared::Code;

use super::command::{Command, Uplink};
use crate::edge::{
    mqtt::{
        packet::{self, Qos},
        property::{WILL_DELAY, without},
    },
    principal::Principal,
};

/// A will that was accepted.
#[derive(Debug)]
pub(super) struct Will {
    topic: Bytes,
    payload: Bytes,
    properties: Bytes,
    delay_s: u32,
    qos: Qos,
    retain: bool,
}

impl Will {
    pub(super) fn of(will: &packet::Will<'_>) -> Self {
        Self {
            topic: Bytes::copy_from_slice(will.topic.as_bytes()),
            payload: Bytes::copy_from_slice(will.payload),
            properties: without(will.properties.raw, WILL_DELAY).into(),
            delay_s: will.properties.will_delay_s.unwrap_or(0),
            qos: will.qos,
            retain: will.retain,
        }
    }

    /// It is due, at once or after its delay: no longer than the session goes on, `expiry_s`
    /// [MQTT-3.1.3-9]. Authorised when it was given, it is authorised again now.
    pub(super) fn due(self, who: &Principal, expiry_s: u32) -> Command {
        let topic = std::str::from_utf8(&self.topic).unwrap_or_default();
        if who.may_publish(topic).is_err() {
            return Command::Refused(Code::TopicNotIts);
        }
        let delay_s = self.delay_s.min(expiry_s);
        let will = Uplink {
            topic: self.topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            properties: self.properties,
            name: None,
            state: None,
        };
        if delay_s == 0 { Command::AppendWill(will) } else { Command::HoldWill { will, delay_s } }
    }
}
