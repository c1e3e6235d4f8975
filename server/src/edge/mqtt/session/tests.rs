use std::sync::Arc;

use bytes::Bytes;
use muster_shared::{
    DeviceId, SerialNumber, Tenant,
    telemetry::{Boot, TelemetryBatch},
};
use proptest::prelude::*;

use super::*;
use crate::edge::limits::TOPIC_ALIAS_MAX;
use crate::edge::limits::{DOWNLINK_INFLIGHT_MAX, SUBSCRIPTIONS_MAX, UPLINK_INFLIGHT_MAX};
use crate::{edge::mqtt::packet::Qos, registry::DeviceName};

const V3: Protocol = Protocol::V3;
const V5: Protocol = Protocol::V5;
const NOTHING: [u8; 0] = [];
const TELEMETRY: &str = "acme/MU-1/telemetry/climate";
const FOREIGN: &str = "acme/MU-2/telemetry/climate";

fn admission() -> Admission<'static> {
    Admission { client_id: "MU-1", ..Admission::default() }
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
fn puback_leaves_only_when_the_message_is_stored() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&publish(protocol, 1, 7, TELEMETRY, b"x"));
        assert_eq!(client.appended().len(), 1);
        assert_eq!(client.said(), NOTHING, "not before");
        client.settle(Fate::Stored);
        assert_eq!(client.said(), [0x40, 2, 0, 7]);
    }
}

#[test]
fn pubacks_leave_in_the_order_of_their_messages() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 7, TELEMETRY, b"x"));
    client.send(&publish(V5, 1, 5, FOREIGN, b"y"));
    client.send(&publish(V5, 0, 0, TELEMETRY, b"z"));
    client.send(&publish(V5, 1, 6, TELEMETRY, b"z"));
    assert_eq!(client.said(), NOTHING, "the refusal waits for what came before it");
    assert_eq!(client.session.outstanding(), 3);
    client.settle(Fate::Stored);
    let said = client.said();
    assert_eq!(said[..6], [0x40, 2, 0, 7, 0x40, said[5]]);
    assert_eq!(said[6..9], [0, 5, 0x87]);
    client.settle(Fate::Stored);
    assert_eq!(client.said(), NOTHING, "QoS 0 has no answer");
    client.settle(Fate::Stored);
    assert_eq!(client.said(), [0x40, 2, 0, 6]);
}

#[test]
fn a_message_that_cannot_be_stored_ends_the_session_without_any_puback() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&publish(protocol, 1, 7, TELEMETRY, b"x"));
        client.send(&publish(protocol, 1, 8, TELEMETRY, b"x"));
        client.commands();
        client.settle(Fate::Failed);
        client.settle(Fate::Stored);
        let said = client.said();
        assert!(!said.contains(&0x40), "{said:02x?}");
        client.out.bytes = said;
        let (farewell, reason) = client.ending();
        assert_eq!(farewell.code, Code::NotStored);
        assert_eq!(reason, (protocol == V5).then_some(0x83));
    }
}

#[test]
fn a_message_refused_at_the_commit_is_refused_with_the_reason() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 7, TELEMETRY, b"x"));
    client.settle(Fate::Refused(Code::DeviceSuspended));
    let said = client.said();
    assert_eq!((said[0], said[4]), (0x40, 0x87));
    assert!(String::from_utf8_lossy(&said).contains("M201 device is suspended"));

    let mut client = Client::connected(V3);
    client.send(&publish(V3, 1, 7, TELEMETRY, b"x"));
    client.commands();
    client.settle(Fate::Refused(Code::DeviceSuspended));
    assert_eq!(client.ending().0.code, Code::DeviceSuspended);
}

#[test]
fn what_is_handed_over_is_what_was_published() {
    let mut client = Client::connected(V5);
    let properties = [&[0x03][..], &text("text/plain"), &[0x26], &text("k"), &text("v")].concat();
    let body = [&text("acme/MU-1/app/a/b")[..], &[0, 3], &[properties.len() as u8], &properties, b"hello"];
    client.send(&packet(0x32, &body));
    let [uplink] = &client.appended()[..] else { panic!("one message") };
    assert_eq!(uplink.topic, "acme/MU-1/app/a/b");
    assert_eq!(uplink.payload, "hello");
    assert_eq!(uplink.properties, properties);
    assert_eq!((uplink.qos, uplink.name), (Qos::AtLeastOnce, None));
}

#[test]
fn a_telemetry_batch_says_its_name_unless_it_is_json() {
    let boot = Boot { install: 9, count: 2 };
    let mut buffer = [0; 64];
    let batch = TelemetryBatch::new(boot, 41, 0).write(&mut buffer).unwrap().to_vec();
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 1, TELEMETRY, &batch));
    let json = [&[0x03][..], &text("application/json")].concat();
    client.send(&packet(0x32, &[&text(TELEMETRY), &[0, 2], &[json.len() as u8], &json, &batch]));
    client.send(&publish(V5, 1, 3, "acme/MU-1/app/x", &batch));
    client.send(&publish(V5, 1, 4, TELEMETRY, b"\xff"));
    let names: Vec<_> = client.appended().into_iter().map(|uplink| uplink.name).collect();
    assert_eq!(names, [Some((boot, 41)), None, None, None]);
}

#[test]
fn a_topic_that_is_not_the_devices_is_refused_and_never_handed_over() {
    let foreign =
        [FOREIGN, "other/MU-1/telemetry/x", "acme/MU-1/twin/desired", "acme/~all/x", "$SYS/x", "x", "/"];
    for topic in foreign {
        let mut client = Client::connected(V5);
        client.send(&publish(V5, 1, 7, topic, b"x"));
        assert_eq!(client.commands(), [Command::Refused(Code::TopicNotIts)], "{topic}");
        let said = client.said();
        assert_eq!((said[0], said[4]), (0x40, 0x87), "{topic}");
        assert!(String::from_utf8_lossy(&said).contains("M210 topic is not the device's"));
        assert!(!client.session.ended());

        let ended = Client::connected(V5).ends(&publish(V5, 0, 0, topic, b"x"));
        assert_eq!(ended, (DisconnectReason::TopicRefused, Code::TopicNotIts, Some(0x87)), "{topic}");
        for qos in [0, 1] {
            let ended = Client::connected(V3).ends(&publish(V3, qos, 7, topic, b"x"));
            assert_eq!(ended, (DisconnectReason::TopicRefused, Code::TopicNotIts, None), "{topic}");
        }
    }
}

#[test]
fn a_response_topic_that_is_not_the_devices_is_refused_like_the_topic() {
    for (response, fine) in
        [("acme/MU-1/app/answer", true), ("acme/MU-2/app/answer", false), (TELEMETRY, false)]
    {
        let mut client = Client::connected(V5);
        let property = [&[0x08][..], &text(response)].concat();
        let body = [&text("acme/MU-1/app/q")[..], &[0, 7], &[property.len() as u8], &property, b"?"];
        client.send(&packet(0x32, &body));
        assert_eq!(matches!(client.commands()[..], [Command::Append(_)]), fine, "{response}");
    }
}

#[test]
fn the_client_id_is_the_devices_own_or_assigned() {
    let objection = |bytes: &[u8]| {
        let mut client = Client::fresh();
        client.send(bytes);
        match &client.commands()[..] {
            [Command::Connect(request)] => request.objection,
            other => panic!("{other:?}"),
        }
    };
    for protocol in [V3, V5] {
        assert_eq!(objection(&connect(protocol)), None);
        assert_eq!(objection(&connect_with(protocol, 0b10, &[], &[&text("")])), None);
        for foreign in ["MU-2", "mu-1", "MU-1 ", "MU-1/", "+", "acme/MU-1"] {
            let bytes = connect_with(protocol, 0b10, &[], &[&text(foreign)]);
            assert_eq!(objection(&bytes), Some(Code::ClientIdForeign), "{foreign}");
        }
    }
    let unclean = connect_with(V3, 0, &[], &[&text("")]);
    assert_eq!(objection(&unclean), Some(Code::ClientIdForeign), "[MQTT-3.1.3-8]");
    assert_eq!(objection(&connect_with(V5, 0, &[], &[&text("")])), None);
}

#[test]
fn an_assigned_client_id_and_our_limits_are_in_connack() {
    let mut client = Client::fresh();
    client.send(&connect_with(V5, 0b10, &[0x11, 0, 0, 0, 9], &[&text("")]));
    client.session.admit(0, admission(), &mut client.out);
    let said = client.said();
    let has = |needle: &[u8]| said.windows(needle.len()).any(|w| w == needle);
    assert!(has(&[&[0x12][..], &text("MU-1")].concat()), "assigned client id");
    assert!(has(&[0x11, 0, 0, 0, 0]), "no session outlives its connection");
    assert!(has(&[&[0x21][..], &UPLINK_INFLIGHT_MAX.to_be_bytes()].concat()), "receive maximum");
    assert!(has(&[0x2a, 0]), "no shared subscriptions for a device");
    assert!(has(&[&[0x22][..], &TOPIC_ALIAS_MAX.to_be_bytes()].concat()), "topic aliases");
    assert!(has(&[&[0x27][..], &(PACKET_MAX as u32).to_be_bytes()].concat()), "maximum packet size");
}

#[test]
fn a_refused_client_is_told_why_as_far_as_its_version_can() {
    let refusal = |protocol, code| {
        let mut client = Client::fresh();
        client.send(&connect(protocol));
        client.commands();
        client.session.refuse(code, &mut client.out);
        assert!(matches!(client.commands()[..], [Command::Close(farewell)] if farewell.code == code));
        assert!(client.session.ended());
        client.said()
    };
    assert_eq!(refusal(V3, Code::DeviceSuspended), [0x20, 2, 0, 5]);
    assert_eq!(refusal(V3, Code::ClientIdForeign), [0x20, 2, 0, 2]);
    assert_eq!(refusal(V3, Code::ServerStopping), [0x20, 2, 0, 3]);
    for (code, reason) in
        [(Code::DeviceSuspended, 0x87), (Code::ClientIdForeign, 0x85), (Code::CertificateRevoked, 0x8a)]
    {
        let said = refusal(V5, code);
        assert_eq!(said[..4], [0x20, said[1], 0, reason]);
        let text = String::from_utf8_lossy(&said).into_owned();
        let start = text.find('M').unwrap();
        assert_eq!(Code::from_reason(&text[start..]), Some(code));
    }
}

#[test]
fn nothing_is_read_while_the_gate_decides() {
    let mut client = Client::fresh();
    let connect = connect(V5);
    let both = [connect.clone(), publish(V5, 1, 7, TELEMETRY, b"x")].concat();
    let used = client.send(&both);
    assert_eq!(used, connect.len());
    client.commands();
    assert_eq!(client.send(&both[used..]), 0);
    client.session.admit(0, admission(), &mut client.out);
    assert_eq!(client.send(&both[used..]), both.len() - used);
    assert_eq!(client.appended().len(), 1);
}

#[test]
fn anything_but_connect_first_is_closed_without_a_word() {
    let first: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n",
        &[0xc0, 0],
        &publish(V5, 1, 7, TELEMETRY, b"x"),
        &subscribe(V3, &[("acme/MU-1/#", 1)]),
        &[0xe0, 0],
        &[0x20, 2, 0, 0],
        &[0xd0, 0],
        &[0x00, 0x00],
    ];
    for bytes in first {
        let mut client = Client::fresh();
        client.send(bytes);
        assert!(client.session.ended(), "{bytes:02x?}");
        assert_eq!(client.said(), NOTHING, "{bytes:02x?}");
        assert!(
            matches!(client.commands()[..], [Command::Close(f)] if f.why == PROTOCOL_ERROR),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn protocols_we_do_not_speak_are_told_so() {
    let connack = |name: &str, level: u8| {
        let mut client = Client::fresh();
        client.send(&packet(0x10, &[&text(name), &[level, 2, 0, 60, 0], &text("MU-1")]));
        assert_eq!(client.commands().len(), 1);
        assert!(client.session.ended());
        client.said()
    };
    assert_eq!(connack("MQIsdp", 3), [0x20, 2, 0, 1]);
    assert_eq!(connack("MQTT", 3), [0x20, 2, 0, 1]);
    assert_eq!(connack("MQTT", 6)[3], 0x84);
    assert_eq!(connack("mqtt", 5), NOTHING);
    assert_eq!(connack("", 5), NOTHING);
}

#[test]
fn a_malformed_connect_is_answered_in_mqtt_5_and_only_closed_in_3() {
    let mut bad = vec![
        (0b11, vec![text("MU-1")], 0x81),        // reserved flag
        (0b0000_1010, vec![text("MU-1")], 0x81), // will QoS without a will
        (0b0010_0010, vec![text("MU-1")], 0x81), // will retain without a will
        (0b0001_1110, vec![text("MU-1"), vec![0], text("t"), text("")], 0x81), // will QoS 3
        (0b10, vec![text("MU-1"), vec![1]], 0x81), // octets behind the end
        (0b10, vec![vec![0, 9, b'M']], 0x81),    // cut short
        (0b10, vec![vec![0, 1, 0]], 0x81),       // NUL
        (0b10, vec![vec![0, 1, 0xff]], 0x81),    // not UTF-8
        (0b1000_0010, vec![text("MU-1")], 0x81), // user name missing
        (0b10, vec![text(&"x".repeat(300))], 0x85),
        (0b0000_0110, vec![text("MU-1"), vec![0], text("acme/MU-1/app/#"), text("")], 0x90),
    ];
    for (flags, rest, reason) in bad.drain(..) {
        let rest: Vec<&[u8]> = rest.iter().map(Vec::as_slice).collect();
        let mut client = Client::fresh();
        client.send(&connect_with(V5, flags, &[], &rest));
        assert!(client.session.ended());
        assert_eq!(client.said()[3], reason, "{flags:08b}");
        let mut client = Client::fresh();
        client.send(&connect_with(V3, flags, &[], &rest));
        assert!(client.session.ended());
        assert_eq!(client.said(), NOTHING);
    }
    let mut client = Client::fresh();
    client.send(&connect_with(V3, 0b0100_0010, &[], &[&text("MU-1"), &text("pw")]));
    assert!(client.session.ended(), "3.1.1 has no password without a user name [MQTT-3.1.2-22]");
    let mut client = Client::fresh();
    client.send(&connect_with(V5, 0b0100_0010, &[], &[&text("MU-1"), &text("pw")]));
    assert!(matches!(client.commands()[..], [Command::Connect(_)]), "MQTT 5 has");
}

#[test]
fn an_authentication_method_is_refused() {
    let mut client = Client::fresh();
    let auth = [&[0x15][..], &text("SCRAM")].concat();
    client.send(&connect_with(V5, 0b10, &auth, &[&text("MU-1")]));
    assert!(client.session.ended());
    assert_eq!(client.said()[3], 0x8c);
}

#[test]
fn malformed_and_misplaced_packets_end_the_session_with_their_reason() {
    let alias = packet(0x32, &[&text(TELEMETRY), &[0, 7, 3, 0x23, 0, 33]]);
    let alias_0 = packet(0x32, &[&text(TELEMETRY), &[0, 7, 3, 0x23, 0, 0]]);
    let alias_of_nothing = packet(0x32, &[&text(""), &[0, 7, 3, 0x23, 0, 32]]);
    let subscription_id = packet(0x32, &[&text(TELEMETRY), &[0, 7, 2, 0x0b, 1]]);
    let not_utf8 = packet(0x32, &[&text("acme/MU-1/app/x"), &[0, 7, 2, 0x01, 1], &[0xff]]);
    let wild_response = packet(0x32, &[&text(TELEMETRY), &[0, 7, 6, 0x08], &text("a/+")]);
    let cases: &[(&[u8], u8)] = &[
        (&[0x36, 2, 0, 0], 0x81),             // QoS 3
        (&[0x38, 3, 0, 1, b'x'], 0x81),       // DUP at QoS 0
        (&[0x32, 5, 0, 1, b'x', 0, 0], 0x82), // packet identifier 0
        (&[0x32, 4, 0, 1, b'x', 7], 0x81),    // cut short
        (&[0x30, 3, 0, 9, b'x'], 0x81),       // topic longer than the packet
        (&[0x30, 4, 0, 1, 0, 0], 0x81),       // NUL in a topic
        (&[0x30, 4, 0, 1, b'#', 0], 0x90),    // wildcard in a topic
        (&[0x30, 3, 0, 0, 0], 0x82),          // no topic, no alias
        (&alias, 0x94),
        (&alias_0, 0x94),
        (&alias_of_nothing, 0x82),
        (&subscription_id, 0x82),
        (&not_utf8, 0x99),
        (&wild_response, 0x90),
        (&connect(V5), 0x82),                          // second CONNECT
        (&[0x20, 3, 0, 0, 0], 0x82),                   // CONNACK
        (&[0x90, 4, 0, 1, 0, 0], 0x82),                // SUBACK
        (&[0xb0, 4, 0, 1, 0, 0], 0x82),                // UNSUBACK
        (&[0xd0, 0], 0x82),                            // PINGRESP
        (&[0xf0, 0], 0x82),                            // AUTH
        (&[0x00, 0], 0x81),                            // type 0
        (&[0x82, 3, 0, 1, 0], 0x82),                   // SUBSCRIBE without a filter
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 3], 0x81),    // QoS 3
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 0x40], 0x81), // reserved option
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 0x30], 0x82), // retain handling 3
        (&[0x82, 6, 0, 1, 0, 0, 1, b'x'], 0x81),       // options missing
        (&[0x82, 7, 0, 0, 0, 0, 1, b'x', 0], 0x82),    // packet identifier 0
        (&[0x80, 7, 0, 1, 0, 0, 1, b'x', 0], 0x81),    // flags of SUBSCRIBE
        (&[0xa2, 3, 0, 1, 0], 0x82),                   // UNSUBSCRIBE without a filter
        (&[0x40, 2, 0, 0], 0x82),                      // PUBACK of packet identifier 0
        (&[0x40, 3, 0, 1, 0x01], 0x82),                // a reason PUBACK has not
        (&[0x40, 1, 0], 0x81),
        (&[0x62, 3, 0, 1, 0x80], 0x82),             // a reason PUBREL has not
        (&[0xc0, 1, 0], 0x81),                      // PINGREQ with a body
        (&[0xe0, 1, 0x8e], 0x82),                   // a server's reason
        (&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 1], 0x82), // session expiry raised
        (&[0xc0, 0x80, 0x00], 0x81),                // a length longer than need be
        (&[0x30, 0x80, 0x80, 0x80, 0x80], 0x81),    // and one of five octets
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], 0x95),    // 256 MiB
    ];
    for (bytes, reason) in cases {
        let (why, code, said) = Client::connected(V5).ends(bytes);
        assert_eq!((why, said), (PROTOCOL_ERROR, Some(*reason)), "{bytes:02x?}");
        let expected = match reason {
            0x81 => Code::PacketMalformed,
            0x95 => Code::PacketTooLarge,
            _ => Code::PacketOutOfPlace,
        };
        assert_eq!(code, expected, "{bytes:02x?}");
    }
}

#[test]
fn mqtt_3_closes_without_a_word() {
    let cases: &[&[u8]] = &[
        &[0x36, 2, 0, 0],
        &[0x38, 3, 0, 1, b'x'],
        &[0x32, 5, 0, 1, b'x', 0, 0],
        &[0x30, 3, 0, 1, b'#'],
        &[0x30, 2, 0, 0],
        &connect(V3),
        &[0x20, 2, 0, 0],
        &[0xf0, 0],
        &[0x82, 2, 0, 1],
        &[0x82, 6, 0, 1, 0, 1, b'x', 4],
        &[0x40, 3, 0, 1, 0],
        &[0xe0, 1, 0],
        &[0x30, 0xff, 0xff, 0xff, 0x7f],
    ];
    for bytes in cases {
        let (why, _, said) = Client::connected(V3).ends(bytes);
        assert_eq!((why, said), (PROTOCOL_ERROR, None), "{bytes:02x?}");
    }
}

#[test]
fn each_filter_is_granted_or_refused_by_itself() {
    let filters = [
        ("acme/MU-1/#", 2),
        ("acme/MU-2/#", 1),
        ("acme/~all/#", 0),
        ("acme/+/command/+/request", 1),
        ("#", 0),
        ("$SYS/#", 0),
        ("$share/g/acme/MU-1/#", 1),
        ("acme/MU-1/#/x", 1),
        ("", 1),
    ];
    let mut client = Client::connected(V5);
    client.send(&subscribe(V5, &filters));
    let said = client.said();
    assert_eq!(said[said.len() - 9..], [2, 0x87, 0, 0x87, 0x87, 0x87, 0x9e, 0x8f, 0x8f]);
    assert!(String::from_utf8_lossy(&said).contains("M210"));
    let mut commands = client.commands();
    commands.retain(|command| !matches!(command, Command::Replay(_)));
    assert_eq!(commands.pop(), Some(Command::Subscriptions(2)));
    assert_eq!(commands, vec![Command::Refused(Code::TopicNotIts); 4]);

    let mut client = Client::connected(V3);
    client.send(&subscribe(V3, &filters));
    let said = client.said();
    assert_eq!(said, [0x90, 11, 0, 9, 2, 0x80, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
}

#[test]
fn a_client_that_wants_no_problem_information_gets_none() {
    let mut client = Client::with(&connect_with(V5, 0b10, &[0x17, 0], &[&text("MU-1")]));
    client.send(&publish(V5, 1, 7, FOREIGN, b"x"));
    assert_eq!(client.said(), [0x40, 3, 0, 7, 0x87]);
    client.send(&subscribe(V5, &[("acme/MU-2/#", 1)]));
    assert_eq!(client.said(), [0x90, 4, 0, 9, 0, 0x87]);
}

#[test]
fn reason_strings_give_way_to_the_clients_packet_size() {
    let mut client = Client::with(&connect_with(V5, 0b10, &[0x27, 0, 0, 0, 30], &[&text("MU-1")]));
    client.send(&publish(V5, 1, 7, FOREIGN, b"x"));
    assert_eq!(client.said(), [0x40, 4, 0, 7, 0x87, 0]);
    client.session.end(DisconnectReason::DeviceSuspended.into(), &mut client.out);
    assert_eq!(client.said(), [0xe0, 2, 0x98, 0]);
    let mut client = Client::fresh();
    client.send(&connect_with(V5, 0b10, &[0x27, 0, 0, 0, 8], &[&text("MU-1")]));
    client.session.admit(0, admission(), &mut client.out);
    assert!(client.session.ended() && client.said().is_empty(), "not even CONNACK fits");
}

#[test]
fn subscriptions_are_bounded_replaced_and_taken_back() {
    let mut client = Client::connected(V5);
    for n in 0..SUBSCRIPTIONS_MAX {
        client.send(&subscribe(V5, &[(&format!("acme/MU-1/app/{n}"), 1)]));
    }
    client.said();
    client.send(&subscribe(V5, &[("acme/MU-1/app/one-more", 1), ("acme/MU-1/app/0", 0)]));
    assert_eq!(client.said(), [0x90, 5, 0, 9, 0, 0x97, 0]);
    let unsubscribe = packet(0xa2, &[&[0, 4, 0], &text("acme/MU-1/app/0"), &text("acme/MU-1/app/none")]);
    client.commands();
    client.send(&unsubscribe);
    assert_eq!(client.said(), [0xb0, 5, 0, 4, 0, 0, 0x11]);
    assert_eq!(client.commands(), [Command::Subscriptions(SUBSCRIPTIONS_MAX - 1)]);
    let mut client = Client::connected(V3);
    client.send(&packet(0xa2, &[&[0, 4], &text("acme/MU-1/app/0")]));
    assert_eq!(client.said(), [0xb0, 2, 0, 4]);
}

#[test]
fn a_message_is_delivered_once_at_the_qos_granted_and_acknowledged() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&subscribe(protocol, &[("acme/MU-1/#", 0), ("acme/MU-1/command/+/request", 1)]));
        client.said();
        client.commands();
        assert_eq!(client.session.deliver(5, &downlink(REQUEST, 1), &mut client.out), Ok(None));
        assert_eq!(client.said(), publish(protocol, 1, 1, REQUEST, b"do"));
        client.send(&[0x40, 2, 0, 1, 0x40, 2, 0, 1]);
        assert_eq!(client.commands(), [Command::Delivered(5, Ok(Delivered::Acknowledged))], "once");
        let sent = client.session.deliver(6, &downlink("acme/MU-1/twin/desired", 1), &mut client.out);
        assert_eq!(sent, Ok(Some(Delivered::Sent)), "the wide filter was granted QoS 0");
        assert_eq!(client.said(), publish(protocol, 0, 0, "acme/MU-1/twin/desired", b"do"));
    }
}

#[test]
fn delivery_is_narrowed_to_what_the_device_may_read() {
    let mut client = Client::connected(V5);
    client.send(&subscribe(V5, &[("acme/MU-1/#", 1), ("acme/~all/#", 1)]));
    client.said();
    for (topic, fine) in [
        (REQUEST, true),
        ("acme/MU-1/app/x", true),
        ("acme/~all/news", true),
        (TELEMETRY, false),
        ("acme/MU-1/presence", false),
        ("acme/MU-2/app/x", false),
        ("acme/MU-1/credential/csr", false),
    ] {
        let sent = client.session.deliver(1, &downlink(topic, 0), &mut client.out);
        assert_eq!(sent.is_ok(), fine, "{topic}");
        assert_eq!(!client.said().is_empty(), fine, "{topic}");
    }
}

#[test]
fn the_devices_limits_on_what_it_is_sent_are_kept() {
    let properties = [0x21, 0, 2, 0x27, 0, 0, 0, 64];
    let mut client = Client::with(&connect_with(V5, 0b10, &properties, &[&text("MU-1")]));
    client.send(&subscribe(V5, &[("acme/MU-1/#", 1)]));
    client.said();
    client.commands();
    for token in [1, 2] {
        assert!(client.session.has_room());
        assert_eq!(client.session.deliver(token, &downlink(REQUEST, 1), &mut client.out), Ok(None));
    }
    assert!(!client.session.has_room(), "receive maximum 2");
    client.send(&[0x40, 3, 0, 1, 0x83]);
    assert_eq!(client.commands(), [Command::Delivered(1, Err(DeliverError::Refused(0x83)))]);
    assert!(client.session.has_room());
    client.said();
    let payload = vec![0; 64].into();
    let big = Delivery { payload: &payload, ..downlink(REQUEST, 1) };
    assert_eq!(client.session.deliver(3, &big, &mut client.out), Err(DeliverError::TooLarge));
    assert_eq!(client.said(), NOTHING);
    let mut client = Client::connected(V3);
    client.send(&subscribe(V3, &[("acme/MU-1/#", 1)]));
    for token in 0..u64::from(DOWNLINK_INFLIGHT_MAX) {
        assert!(client.session.has_room());
        assert_eq!(client.session.deliver(token, &downlink(REQUEST, 1), &mut client.out), Ok(None));
    }
    assert!(!client.session.has_room());
}

#[test]
fn a_subscription_identifier_comes_with_what_it_found() {
    let mut client = Client::connected(V5);
    client.send(&packet(0x82, &[&[0, 9, 3, 0x0b, 0x80, 0x01], &text("acme/MU-1/#"), &[1]]));
    client.said();
    assert_eq!(client.session.deliver(1, &downlink(REQUEST, 0), &mut client.out), Ok(Some(Delivered::Sent)));
    let expected = packet(0x30, &[&text(REQUEST), &[3, 0x0b, 0x80, 0x01], b"do"]);
    assert_eq!(client.said(), expected);
}

#[test]
fn packet_identifiers_wrap_and_skip_what_is_in_flight() {
    let mut client = Client::connected(V3);
    client.send(&subscribe(V3, &[("acme/MU-1/#", 1)]));
    client.said();
    assert_eq!(client.session.deliver(0, &downlink(REQUEST, 1), &mut client.out), Ok(None));
    for round in 0..70_000u64 {
        client.said();
        assert_eq!(client.session.deliver(round, &downlink(REQUEST, 1), &mut client.out), Ok(None));
        let said = client.said();
        let at = 4 + REQUEST.len();
        let id = &said[at..at + 2];
        assert!(id != [0, 0] && id != [0, 1], "0 is no identifier and 1 is in flight");
        client.send(&[0x40, 2, id[0], id[1]]);
    }
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alive_intervals() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.now_ms = 10_000;
        client.send(&[0xc0, 0]);
        assert_eq!(client.said(), [0xd0, 0]);
        client.send(&[0xc0]); // half a packet is no sign of life
        assert_eq!(client.session.deadline_ms(), Some(100_000));
        client.session.tick(99_999, &mut client.out);
        assert!(!client.session.ended());
        client.session.tick(100_000, &mut client.out);
        let (farewell, reason) = client.ending();
        assert_eq!(farewell.why, DisconnectReason::KeepAliveTimeout);
        assert_eq!(reason, (protocol == V5).then_some(0x8d));
    }
}

#[test]
fn keep_alive_0_never_ends() {
    let mut bytes = connect(V5);
    bytes[11] = 0;
    assert_eq!(Client::with(&bytes).session.deadline_ms(), None);
}

#[test]
fn a_client_that_never_sends_connect_is_closed() {
    let mut client = Client::fresh();
    client.send(&connect(V5)[..5]);
    let deadline = client.session.deadline_ms().unwrap();
    client.session.tick(deadline, &mut client.out);
    assert_eq!(client.ending(), ((PROTOCOL_ERROR, Code::ConnectTimeout).into(), None));
}

#[test]
fn more_in_flight_than_the_receive_maximum_is_an_error_in_mqtt_5() {
    let mut client = Client::connected(V5);
    for id in 1..=UPLINK_INFLIGHT_MAX {
        client.send(&publish(V5, 1, id, TELEMETRY, b"x"));
    }
    assert!(!client.session.ended());
    assert_eq!(client.ends(&publish(V5, 1, 999, TELEMETRY, b"x")).2, Some(0x93));
}

#[test]
fn what_waits_for_the_log_is_bounded_and_holds_the_client_back() {
    let mut client = Client::connected(V3);
    let one = publish(V3, 1, 7, TELEMETRY, b"x");
    let many = one.repeat(1000);
    let used = client.send(&many);
    assert_eq!(used, one.len() * 2 * usize::from(UPLINK_INFLIGHT_MAX));
    assert!(!client.session.listens());
    assert_eq!(client.session.deadline_ms(), None, "it cannot make itself heard");
    client.now_ms = 500_000;
    client.settle(Fate::Stored);
    assert!(client.session.listens());
    assert_eq!(client.session.deadline_ms(), Some(590_000));
    assert_eq!(client.send(&many[used..]), one.len());
}

const WILL: &str = "acme/MU-1/app/will";

fn willing(protocol: Protocol) -> Client {
    let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
    let rest: [&[u8]; 4] = [&text("MU-1"), properties, &text(WILL), &text("gone")];
    Client::with(&connect_with(protocol, 0b0000_1110, &[], &rest))
}

fn fired(client: &mut Client) -> bool {
    client
        .commands()
        .iter()
        .any(|c| matches!(c, Command::AppendWill(w) if w.topic == WILL && w.payload == "gone"))
}

#[test]
fn a_will_fires_when_the_session_ends_by_itself_and_only_then() {
    use DisconnectReason as Why;
    for protocol in [V3, V5] {
        let mut client = willing(protocol);
        client.session.lost(&mut client.out);
        assert!(fired(&mut client) && client.said().is_empty());

        let mut client = willing(protocol);
        client.send(&[0x00, 0x00]);
        assert!(fired(&mut client), "protocol error");

        let mut client = willing(protocol);
        client.session.tick(90_000, &mut client.out);
        assert!(fired(&mut client), "keep-alive");

        let mut client = willing(protocol);
        client.send(&[0xe0, 0]);
        assert!(!fired(&mut client), "DISCONNECT");

        for (why, fires) in [
            (Why::SessionTakenOver, true),
            (Why::CertificateRevoked, false),
            (Why::DeviceSuspended, false),
            (Why::DeviceQuarantined, false),
            (Why::CertificateExpired, false),
            (Why::Administrative, false),
            (Why::ServerShutdown, false),
        ] {
            let mut client = willing(protocol);
            client.session.end(why.into(), &mut client.out);
            assert_eq!(fired(&mut client), fires, "{why}");
        }
    }
    let mut client = willing(V5);
    client.send(&[0xe0, 1, 0x04]);
    assert!(fired(&mut client), "DISCONNECT with will");
}

#[test]
fn a_foreign_will_keeps_the_client_out() {
    for protocol in [V3, V5] {
        for topic in [FOREIGN, "acme/~all/x", "acme/MU-1/twin/desired"] {
            let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
            let mut client = Client::fresh();
            let rest: [&[u8]; 4] = [&text("MU-1"), properties, &text(topic), &text("")];
            client.send(&connect_with(protocol, 0b110, &[], &rest));
            let commands = client.commands();
            assert!(
                matches!(&commands[..], [Command::Connect(r)] if r.objection == Some(Code::TopicNotIts)),
                "{topic}"
            );
        }
    }
}

#[test]
fn a_farewell_says_its_reason_and_nothing_is_said_after_it() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 7, TELEMETRY, b"x"));
    client.commands();
    client.session.end(DisconnectReason::CertificateRevoked.into(), &mut client.out);
    let said = client.said();
    assert_eq!(said[2], 0x98);
    assert!(String::from_utf8_lossy(&said).contains("M302 certificate is revoked"));
    client.settle(Fate::Stored);
    client.send(&[0xc0, 0]);
    client.session.end(DisconnectReason::Administrative.into(), &mut client.out);
    client.session.tick(u64::MAX, &mut client.out);
    assert_eq!(client.session.deliver(1, &downlink(REQUEST, 0), &mut client.out), Err(DeliverError::Ended));
    assert_eq!(client.said(), NOTHING);
    assert_eq!(client.commands().len(), 1, "one Close");
}

#[test]
fn qos_2_acknowledgements_answer_nothing_and_grow_nothing() {
    let mut client = Client::connected(V5);
    client.send(&[0x62, 2, 0, 5, 0x50, 2, 0, 5, 0x70, 2, 0, 5, 0x40, 2, 0, 5]);
    assert_eq!(client.said(), [0x70, 3, 0, 5, 0x92, 0x62, 3, 0, 5, 0x92]);
    assert_eq!(client.commands(), []);
    let mut client = Client::connected(V3);
    client.send(&[0x62, 2, 0, 5]);
    assert_eq!(client.said(), [0x70, 2, 0, 5]);
}

/// A conversation of well-formed packets, some of them refused.
fn conversation(protocol: Protocol) -> Vec<u8> {
    let unsubscribe: &[&[u8]] = &[&[0, 4], if protocol == V5 { &[0] } else { &[] }, &text("acme/MU-1/#")];
    [
        connect(protocol),
        subscribe(protocol, &[("acme/MU-1/#", 1), ("acme/~all/+", 0)]),
        publish(protocol, 1, 7, TELEMETRY, &[b'x'; 300]),
        publish(protocol, 0, 0, TELEMETRY, b"y"),
        vec![0xc0, 0],
        publish(protocol, 1, 8, "acme/MU-1/twin/reported", b"{}"),
        vec![0x40, 2, 0, 1],
        packet(0xa2, unsubscribe),
        vec![0xe0, 0],
    ]
    .concat()
}

/// Everything a session does with these octets, given in pieces of these sizes. `settle`: every message
/// is stored at once; else the log never answers.
fn run(bytes: &[u8], pieces: &[usize], settle: bool) -> (Vec<u8>, Vec<Command>) {
    let mut client = Client::fresh();
    let (mut said, mut done) = (Vec::new(), Vec::new());
    let mut held: Vec<u8> = Vec::new();
    let mut pieces = pieces.iter().copied().cycle();
    let mut left = bytes;
    loop {
        let used = client.send(&held);
        assert!(used <= held.len());
        held.drain(..used);
        let commands = client.commands();
        let idle = used == 0 && commands.is_empty();
        for command in commands {
            match command {
                Command::Connect(ref request) => match request.objection {
                    None => client.session.admit(0, admission(), &mut client.out),
                    Some(code) => client.session.refuse(code, &mut client.out),
                },
                Command::Append(_) if settle => client.settle(Fate::Stored),
                _ => {}
            }
            done.push(command);
        }
        done.append(&mut client.out.commands);
        said.append(&mut client.out.bytes);
        if idle {
            if left.is_empty() {
                return (said, done);
            }
            let piece = pieces.next().unwrap_or(1).clamp(1, left.len());
            held.extend_from_slice(&left[..piece]);
            left = &left[piece..];
        }
    }
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(V3), Just(V5)]
}

proptest! {
    #[test]
    fn how_octets_are_cut_changes_nothing(protocol in protocol(), pieces in prop::collection::vec(1usize..40, 1..20)) {
        let bytes = conversation(protocol);
        let (said, done) = run(&bytes, &[usize::MAX], false);
        prop_assert!(done.iter().filter(|c| matches!(c, Command::Append(_))).count() == 3, "{done:?}");
        prop_assert_eq!(run(&bytes, &pieces, false), (said, done));
    }

    #[test]
    fn no_octets_make_a_session_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), protocol in protocol()) {
        run(&bytes, &[7], true);
        run(&[connect(protocol), bytes].concat(), &[64], true);
    }

    #[test]
    fn no_mutation_makes_a_session_panic_or_speak_for_another(
        protocol in protocol(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = conversation(protocol);
        for (at, octet) in flips {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        let (_, done) = run(&bytes, &[usize::MAX], true);
        for command in done {
            if let Command::Append(uplink) | Command::AppendWill(uplink) = command {
                prop_assert!(uplink.topic.starts_with(b"acme/MU-1/"), "{:?}", uplink.topic);
            }
        }
    }

    #[test]
    fn packets_of_any_kind_and_body_are_survived(
        protocol in protocol(),
        packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let mut bytes = connect(protocol);
        for (first, body) in packets {
            bytes.extend(packet(first, &[&body]));
        }
        let (_, done) = run(&bytes, &[usize::MAX], true);
        prop_assert!(done.iter().filter(|c| matches!(c, Command::Close(_))).count() <= 1);
    }
}
