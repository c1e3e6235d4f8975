//! `{tenant}/{device_id}/presence`: the server says, to services, whether a device is here. Retained, so that
//! who subscribes later knows, too; nobody waits for it.
//!
//! The payload is JSON: `{"online":true,"at_ms":…}`, and `{"online":false,"reason":"…","at_ms":…}` with a
//! disconnect reason. Times are Unix milliseconds.

use bytes::Bytes;
use muster_shared::topic::{Kind, Topic};
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

/// It has connected.
pub(super) fn online(log: &Writer, name: &DeviceName, device: DeviceKey) {
    say(log, name, device, None);
}

/// Its session has ended.
pub(super) fn offline(log: &Writer, name: &DeviceName, device: DeviceKey, why: DisconnectReason) {
    say(log, name, device, Some(why));
}

fn say(log: &Writer, name: &DeviceName, device: DeviceKey, ended: Option<DisconnectReason>) {
    let at_ms = now_ms();
    let presence = Presence { online: ended.is_none(), reason: ended.map(DisconnectReason::as_str), at_ms };
    let topic = Topic::of(&name.tenant, &name.device_id, Kind::Presence).to_string();
    drop(log.append(Message {
        publisher: Publisher::Server { device },
        topic: topic.into(),
        payload: Bytes::from(serde_json::to_vec(&presence).expect("three plain fields have a JSON form")),
        qos: 1,
        retain: true,
        name: None,
        properties: Bytes::from_static(JSON),
        received_ms: at_ms,
        state: None,
    }));
}
