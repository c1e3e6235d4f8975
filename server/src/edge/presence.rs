//! `{tenant}/{device_id}/presence`: the server says, to services, whether a device is here. Retained, so that
//! who subscribes later knows, too; nobody waits for it.
//!
//! What is said gathers and is handed to the log together, several times a second ([`SESSIONS_TICK`]): devices
//! come one by one, and a commit for each would cost more than letting it in. So a device's first messages may
//! stand before the word that it is here. All that was said goes, in its order: a device that came and went
//! between two looks is said to have been here, and to be gone. A stop hands over what is left. Of whom a
//! server that was killed left behind as being here, the next one says that they are gone, unless they have
//! come by then.
//!
//! [`SESSIONS_TICK`]: super::limits::SESSIONS_TICK
//!
//! The payload is JSON: `{"online":true,"at_ms":…}`, and `{"online":false,"reason":"…","at_ms":…}` with a
//! disconnect reason. Times are Unix milliseconds.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use muster_shared::topic::{Kind, Topic};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    registry::{DeviceKey, DeviceName, DisconnectReason, Verdicts, now_ms},
    uplink::{Message, Retained, RetainedMessage, StoredPublisher, Writer},
};

/// Retained words of an earlier process looked at each time.
const LEFT_AT_ONCE: usize = 4096;

/// Content Type, `application/json`, as an MQTT 5 property.
const JSON: &[u8] = b"\x03\x00\x10application/json";

#[derive(Serialize)]
struct Presence {
    online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    at_ms: u64,
}

/// The part that says whether it is here.
#[derive(Deserialize)]
struct Here {
    online: bool,
}

/// What there is to say, and where.
pub(super) struct Presences {
    log: Writer,
    retained: Arc<Retained>,
    verdicts: Arc<Verdicts>,
    said: Mutex<Said>,
}

struct Said {
    /// Not handed over yet, oldest first.
    messages: Vec<Message>,
    /// While there may be words of an earlier process.
    left: Option<Left>,
}

/// How far the words of an earlier process were looked through.
#[derive(Default)]
struct Left {
    /// The last topic looked at.
    after: Option<String>,
    /// Of whom this process has said something.
    met: HashSet<DeviceKey>,
}

impl Presences {
    pub(super) fn new(log: Writer, verdicts: Arc<Verdicts>) -> Self {
        let said = Said { messages: Vec::new(), left: Some(Left::default()) };
        Self { retained: log.retained(), log, verdicts, said: Mutex::new(said) }
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
        let mut said = self.said.lock();
        self.look_back(&mut said);
        // The room of a storm is given back with it.
        for message in std::mem::take(&mut said.messages) {
            drop(self.log.append(message));
        }
    }

    /// A device whose retained word is of another process, and says that it is here, is not.
    fn look_back(&self, said: &mut Said) {
        let Some(left) = &mut said.left else { return };
        let after = left.after.as_deref();
        let found = self.retained.matching("+/+/presence", after, LEFT_AT_ONCE, now_ms());
        for RetainedMessage { message, .. } in &found {
            let here = serde_json::from_slice(&message.payload).is_ok_and(|here: Here| here.online);
            let StoredPublisher::Server { tenant, device_id } = &message.publisher else { continue };
            let Some(device) = self.verdicts.by_id(tenant, device_id).filter(|_| here) else { continue };
            if !left.met.contains(&device) {
                let name = self.verdicts.name(device);
                said.messages.push(self::message(&name, device, Some(DisconnectReason::ServerShutdown)));
            }
        }
        match found.last() {
            Some(last) if found.len() == LEFT_AT_ONCE => {
                left.after = Some(String::from_utf8_lossy(&last.message.topic).into_owned());
            }
            _ => said.left = None,
        }
    }

    fn say(&self, name: &DeviceName, device: DeviceKey, ended: Option<DisconnectReason>) {
        let message = message(name, device, ended);
        let mut said = self.said.lock();
        said.messages.push(message);
        if let Some(left) = &mut said.left {
            left.met.insert(device);
        }
    }
}

fn message(name: &DeviceName, device: DeviceKey, ended: Option<DisconnectReason>) -> Message {
    let at_ms = now_ms();
    let presence = Presence { online: ended.is_none(), reason: ended.map(DisconnectReason::as_str), at_ms };
    let topic = Topic::of(&name.tenant, &name.device_id, Kind::Presence).to_string();
    let payload = serde_json::to_vec(&presence).expect("three plain fields have a JSON form").into();
    let properties = Bytes::from_static(JSON);
    Message { retain: true, properties, received_ms: at_ms, ..Message::by_server(device, topic, payload) }
}
