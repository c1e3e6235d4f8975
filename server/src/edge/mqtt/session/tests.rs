//! The session, driven by hand: octets in, fates in, octets and commands out.

mod connect;
mod deliver;
mod durable;
mod end;
mod hostile;
mod kept;
mod malformed;
mod model;
mod publish;
mod qos2;
mod service;
mod subscribe;

use std::sync::Arc;

use bytes::Bytes;
use muster_shared::{
    DeviceId, SerialNumber, Tenant,
    telemetry::{Boot, TelemetryBatch},
};

use super::*;
use crate::{
    edge::{
        limits::{
            DOWNLINK_INFLIGHT_MAX, REPLAYS_MAX, SUBSCRIPTIONS_MAX, TOPIC_ALIAS_MAX, UPLINK_INFLIGHT_MAX,
        },
        mqtt::packet::Qos,
    },
    registry::DeviceName,
};

const V3: Protocol = Protocol::V3;
const V5: Protocol = Protocol::V5;
const NOTHING: [u8; 0] = [];
const TELEMETRY: &str = "acme/MU-1/telemetry/climate";
const FOREIGN: &str = "acme/MU-2/telemetry/climate";

/// Of sessions that end with their connection.
fn admission() -> Admission<'static> {
    Admission { client_id: "MU-1", ..Admission::default() }
}

/// Of sessions that go on as long as the client asks.
fn lasting(kept: Option<Kept>) -> Admission<'static> {
    Admission { kept, expiry_max_s: u32::MAX, ..admission() }
}

fn name() -> Arc<DeviceName> {
    Arc::new(DeviceName {
        tenant: Tenant::new("acme").unwrap(),
        device_id: DeviceId::new("MU-1").unwrap(),
        serial: SerialNumber::new("MU-1").unwrap(),
    })
}

/// A packet from its first octet and its body.
fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::edge::mqtt::packet(&mut out, first, |out| out.extend(body.concat()));
    out
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn connect_with(protocol: Protocol, flags: u8, properties: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    let level = if protocol == V5 { 5 } else { 4 };
    let head = [&[0, 4][..], b"MQTT", &[level, flags, 0, 60]].concat();
    let len = [properties.len() as u8];
    let properties = if protocol == V5 { [&len, properties].concat() } else { Vec::new() };
    packet(0x10, &[&head, &properties, &rest.concat()])
}

fn connect(protocol: Protocol) -> Vec<u8> {
    connect_with(protocol, 0b10, &[], &[&text("MU-1")])
}

fn connect_durable(protocol: Protocol) -> Vec<u8> {
    connect_with(protocol, 0, &[0x11, 0, 0, 0x0e, 0x10], &[&text("MU-1")])
}

/// A PUBLISH of MQTT 5 with these properties.
fn publish_with(first: u8, id: u16, topic: &str, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if first & 0b110 == 0 { &[] } else { &id.to_be_bytes() };
    packet(first, &[&text(topic), id, &[properties.len() as u8], properties, payload])
}

fn publish(protocol: Protocol, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if qos == 0 { &[] } else { &id.to_be_bytes() };
    let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
    packet(0x30 | qos << 1, &[&text(topic), id, properties, payload])
}

fn subscribe(protocol: Protocol, filters: &[(&str, u8)]) -> Vec<u8> {
    let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
    let filters: Vec<u8> = filters.iter().flat_map(|(f, qos)| [text(f), vec![*qos]].concat()).collect();
    packet(0x82, &[&[0, 9], properties, &filters])
}

/// A session and what came out of it.
struct Client {
    session: Session,
    out: Output,
    now_ms: u64,
}

impl Client {
    fn fresh() -> Self {
        Self {
            session: Session::new(Principal::Device(name()), &Bounds::default(), 0),
            out: Output::default(),
            now_ms: 0,
        }
    }

    fn connected(protocol: Protocol) -> Self {
        Self::with(&connect(protocol))
    }

    fn with(connect: &[u8]) -> Self {
        let mut client = Self::fresh();
        client.send(connect);
        assert!(matches!(&client.commands()[..], [Command::Connect(request)] if request.objection.is_none()));
        client.session.admit(0, admission(), &mut client.out);
        let connack = client.said();
        assert_eq!((connack[0], connack[3]), (0x20, 0));
        client
    }

    /// Let in, and nothing looked at yet.
    fn admitted(who: Principal, connect: &[u8], admission: Admission<'_>) -> Self {
        let mut client = Self { session: Session::new(who, &Bounds::default(), 0), ..Self::fresh() };
        client.send(connect);
        assert!(matches!(&client.commands()[..], [Command::Connect(request)] if request.objection.is_none()));
        client.session.admit(0, admission, &mut client.out);
        client
    }

    /// Of a session that goes on for an hour, or for ever in 3.1.1.
    fn durable(protocol: Protocol, kept: Option<Kept>) -> Self {
        Self::admitted(Principal::Device(name()), &connect_durable(protocol), lasting(kept))
    }

    /// The state the next command wants committed; it is the only one.
    fn save(&mut self) -> Kept {
        match self.commands().as_slice() {
            [Command::Save(kept)] => (**kept).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn deliver(&mut self, token: u64, message: &Delivery<'_>) -> Result<Option<Delivered>, DeliverError> {
        self.session.deliver(token, message, &mut self.out)
    }

    /// Subscribed, and everything about it told and forgotten.
    fn subscribed(mut self, protocol: Protocol, filters: &[(&str, u8)]) -> Self {
        self.send(&subscribe(protocol, filters));
        while self.session.outstanding() > 0 {
            self.settle(Fate::Stored);
        }
        self.said();
        self.commands();
        self
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.session.input(self.now_ms, bytes, &mut self.out)
    }

    fn settle(&mut self, fate: Fate) {
        self.session.settled(self.now_ms, fate, &mut self.out);
    }

    fn said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.bytes)
    }

    fn commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.out.commands)
    }

    fn appended(&mut self) -> Vec<Uplink> {
        self.commands()
            .into_iter()
            .map(|command| match command {
                Command::Append(uplink) => uplink,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// The farewell it ended with, and the reason of its DISCONNECT if it said one.
    fn ending(&mut self) -> (Farewell, Option<u8>) {
        let said = self.said();
        let reason = match said.as_slice() {
            [.., 0xe0, _, reason] => Some(*reason),
            said => said.windows(3).find(|w| w[0] == 0xe0 && usize::from(w[1]) > 2).map(|w| w[2]),
        };
        let commands = self.commands();
        match commands.last() {
            Some(Command::Close(farewell)) => (*farewell, reason),
            other => panic!("not closed: {other:?}"),
        }
    }

    /// Sends what must end the session; returns why it ended.
    fn ends(&mut self, bytes: &[u8]) -> (DisconnectReason, Code, Option<u8>) {
        assert_eq!(self.send(bytes), bytes.len());
        assert!(self.session.ended());
        let (farewell, reason) = self.ending();
        (farewell.why, farewell.code, reason)
    }
}

static DO: Bytes = Bytes::from_static(b"do");

fn downlink(topic: &str, qos: u8) -> Delivery<'_> {
    Delivery {
        topic,
        payload: &DO,
        qos: Qos::from_bits(qos).unwrap(),
        retain: false,
        via: Via::Filters,
        properties: &[],
        waited_s: 0,
        from_self: false,
        position: 1,
    }
}

const REQUEST: &str = "acme/MU-1/command/7/request";
const PROTOCOL_ERROR: DisconnectReason = DisconnectReason::ProtocolError;

#[test]
fn an_idle_session_is_small() {
    use std::mem::size_of;
    assert!(size_of::<Session>() <= 64, "{}", size_of::<Session>());
    assert!(size_of::<Running>() <= 128, "{}", size_of::<Running>());
    assert!(size_of::<answers::Answer>() <= 12, "{}", size_of::<answers::Answer>());
}
