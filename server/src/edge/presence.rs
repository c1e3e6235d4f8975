//! `{tenant}/{device_id}/presence`: the server says, to services, whether a device is here. Retained, so that
//! who subscribes later knows, too; nobody waits for it.
//!
//! What is said gathers and is handed to the log together, several times a second ([`SESSIONS_TICK`]): devices
//! come one by one, and a commit for each would cost more than letting it in. So a device's first messages may
//! stand before the word that it is here. All that was said goes, in its order: a device that came and went
//! between two looks is said to have been here, and to be gone. A stop hands over what is left; a server that
//! is killed says no more of the last moment than of those it leaves behind.
//!
//! [`SESSIONS_TICK`]: super::limits::SESSIONS_TICK
//!
//! The payload is JSON: `{"online":true,"at_ms":…}`, and `{"online":false,"reason":"…","at_ms":…}` with a
//! disconnect reason. Times are Unix milliseconds.

use bytes::Bytes;
use muster_shared::topic::{Kind, Topic};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    registry::{DeviceKey, DeviceName, DisconnectReason, now_ms},
    uplink::{Message, Publisher, Writer},
};

/// Content Type, `application/json`, as an MQTT 5 property.
const JSON: &[u8] = b"\x03\x00\x10application/json";

#[derive(Serialize)]
struct Presence {
    online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    at_ms: u64,
}

/// What there is to say, and where.
pub(super) struct Presences {
    log: Writer,
    /// Said, and not handed over yet, oldest first.
    said: Mutex<Vec<Message>>,
}

impl Presences {
    pub(super) fn new(log: Writer) -> Self {
        Self { log, said: Mutex::default() }
    }

    /// It has connected.
    pub(super) fn online(&self, name: &DeviceName, device: DeviceKey) {
        self.say(name, device, None);
    }

    /// Its session has ended.
    pub(super) fn offline(&self, name: &DeviceName, device: DeviceKey, why: DisconnectReason) {
        self.say(name, device, Some(why));
    }

    /// Hands over what was said. Call it a few times a second, and when nobody says any more.
    pub(super) fn hand_over(&self) {
        // Under the lock, so that two who hand over keep the order. The log takes without waiting.
        for message in self.said.lock().drain(..) {
            drop(self.log.append(message));
        }
    }

    fn say(&self, name: &DeviceName, device: DeviceKey, ended: Option<DisconnectReason>) {
        let message = message(name, device, ended);
        self.said.lock().push(message);
    }
}

fn message(name: &DeviceName, device: DeviceKey, ended: Option<DisconnectReason>) -> Message {
    let at_ms = now_ms();
    let presence = Presence { online: ended.is_none(), reason: ended.map(DisconnectReason::as_str), at_ms };
    let topic = Topic::of(&name.tenant, &name.device_id, Kind::Presence).to_string();
    Message {
        publisher: Publisher::Server { device },
        topic: topic.into(),
        payload: Bytes::from(serde_json::to_vec(&presence).expect("three plain fields have a JSON form")),
        qos: 1,
        retain: true,
        name: None,
        properties: Bytes::from_static(JSON),
        received_ms: at_ms,
        state: None,
    }
}
