//! The format: what is written is read, what is not is refused, and golden bytes for each version.

use muster_shared::CertificateId;
use proptest::prelude::*;

use super::*;

fn name() -> Arc<DeviceName> {
    Arc::new(DeviceName {
        tenant: "acme".parse().unwrap(),
        device_id: "MU-1".parse().unwrap(),
        serial: "MU-1".parse().unwrap(),
    })
}

fn device() -> Publisher {
    Publisher::Device { device: DeviceKey(0), certificate: CertificateId([0; 32]) }
}

fn service(tenant: Option<&str>, name: &str, client_id: &str) -> Publisher {
    let tenant = tenant.map(|tenant| tenant.parse().unwrap());
    Publisher::Service { tenant, name: name.into(), client_id: client_id.into(), shown: None }
}

fn stored(publisher: &Publisher) -> StoredPublisher {
    let (tenant, device_id) = ("acme".parse().unwrap(), "MU-1".parse().unwrap());
    match publisher {
        Publisher::Device { .. } => StoredPublisher::Device { tenant, device_id },
        Publisher::Server { .. } => StoredPublisher::Server { tenant, device_id },
        Publisher::Service { tenant, name, client_id, .. } => StoredPublisher::Service {
            tenant: tenant.clone(),
            name: (&**name).into(),
            client_id: (&**client_id).into(),
        },
    }
}

fn message(topic: &[u8], payload: &[u8], named: Option<(Boot, u64)>, qos: u8, at: u64) -> Message {
    Message {
        publisher: device(),
        topic: Bytes::copy_from_slice(topic),
        payload: Bytes::copy_from_slice(payload),
        qos,
        retain: false,
        name: named,
        properties: Bytes::from_static(b"\x03\x00\x01a"),
        received_ms: at,
        state: None,
    }
}

fn write(messages: &[Message]) -> Bytes {
    let mut body = begin();
    for message in messages {
        push(&mut body, message, |_| name());
    }
    body.into()
}

fn publisher() -> impl Strategy<Value = Publisher> {
    prop_oneof![
        Just(device()),
        Just(Publisher::Server { device: DeviceKey(0) }),
        (any::<bool>(), "[a-z]{1,9}", ".{0,20}").prop_map(|(tenant, name, id)| service(
            tenant.then_some("acme"),
            &name,
            &id
        )),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let octets = |max| prop::collection::vec(any::<u8>(), 0..max);
    let marks = (any::<Option<(u64, u32, u64)>>(), 0_u8..3, any::<u64>(), any::<bool>(), any::<bool>());
    (publisher(), octets(80), octets(300), marks).prop_map(|(publisher, topic, payload, marks)| {
        let (named, qos, at, own, retain) = marks;
        let topic = if own { [b"acme/MU-1/".as_slice(), &topic].concat() } else { topic };
        let named = named.map(|(install, count, seq)| (Boot { install, count }, seq));
        Message { publisher, retain, ..message(&topic, &payload, named, qos, at) }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        messages in prop::collection::vec(any_message(), 0..20),
        first in 1_u64..u64::MAX / 2,
    ) {
        let body = write(&messages);
        let read = read(Position(first), messages.len() as u32, &body).unwrap();
        prop_assert_eq!(read.len(), messages.len());
        for (n, ((position, got), sent)) in read.iter().zip(&messages).enumerate() {
            prop_assert_eq!(position.0, first + n as u64);
            prop_assert_eq!(&got.publisher, &stored(&sent.publisher));
            prop_assert_eq!(&got.topic, &sent.topic);
            prop_assert_eq!(&got.payload, &sent.payload);
            prop_assert_eq!(&got.properties, &sent.properties);
            prop_assert_eq!((got.name, got.qos, got.retain), (sent.name, sent.qos, sent.retain));
            prop_assert_eq!(got.received_ms, sent.received_ms);
        }
    }

    #[test]
    fn any_octets_are_read_or_refused(
        version in DEVICES_ONLY..=VERSION,
        octets in prop::collection::vec(any::<u8>(), 0..200),
        count in 0_u32..9,
    ) {
        let mut body = vec![version];
        body.extend(octets);
        let _ = read(Position(1), count, &body.into());
    }
}

#[test]
fn a_message_cut_short_or_grown_is_malformed() {
    let body = write(&[message(b"acme/MU-1/telemetry/env", b"payload", None, 1, 7)]);
    for len in 0..body.len() {
        assert!(read(Position(1), 1, &body.slice(..len)).is_err(), "{len}");
    }
    let grown = Bytes::from([&body[..], b"x"].concat());
    assert_eq!(read(Position(1), 1, &grown), Err(SegmentError::Malformed { first: 1, at: body.len() }));
    assert!(read(Position(1), 2, &body).is_err(), "one message is not two");
}

#[test]
fn flags_that_nobody_writes_are_malformed() {
    let good = write(&[message(b"t", b"p", None, 0, 1)]);
    for flags in [0x80, BY, BY_SERVICE | BELOW] {
        let mut other = good.to_vec();
        other[1] = flags;
        assert!(read(Position(1), 1, &other.into()).is_err(), "{flags:#x}");
    }
}

#[test]
fn the_checksum_covers_every_octet_and_the_place() {
    let body = write(&[message(b"t", b"p", None, 0, 1)]);
    let sum = checksum(Position(5), 1, &body);
    assert!(read_checked(Position(5), 1, &sum, &body).is_ok());
    let moved = read_checked(Position(6), 1, &sum, &body);
    assert_eq!(moved, Err(SegmentError::Checksum { first: 6 }), "moved");
    for at in 0..body.len() {
        let mut other = body.to_vec();
        other[at] ^= 1;
        assert!(read_checked(Position(5), 1, &sum, &other.into()).is_err(), "octet {at}");
    }
}

const BOOT: Boot = Boot { install: 0x0102_0304_0506_0708, count: 300 };

/// Do not change this test: logs in the field are of this version.
#[test]
fn version_1_is_read_for_ever() {
    let body = [
        b"\x01\x04acme\x04MU-1\x0d\xe8\x07".as_slice(),
        b"\x08\x07\x06\x05\x04\x03\x02\x01\xac\x02\x09",
        b"\x0dtelemetry/env\x04\x03\x00\x01a\x02hi",
        b"\x04acme\x04MU-1\x02\x07\x05other\x00\x00",
    ]
    .concat();
    let read = read(Position(8), 2, &body.into()).unwrap();
    let publisher = stored(&device());
    let first = StoredMessage {
        publisher: publisher.clone(),
        topic: Bytes::from_static(b"acme/MU-1/telemetry/env"),
        payload: Bytes::from_static(b"hi"),
        qos: 1,
        retain: false,
        name: Some((BOOT, 9)),
        properties: Bytes::from_static(b"\x03\x00\x01a"),
        received_ms: 1000,
    };
    let second = StoredMessage {
        publisher,
        topic: Bytes::from_static(b"other"),
        payload: Bytes::new(),
        qos: 2,
        retain: false,
        name: None,
        properties: Bytes::new(),
        received_ms: 7,
    };
    assert_eq!(read, [(Position(8), first), (Position(9), second)]);
}

#[test]
fn version_1_does_not_know_the_later_flags() {
    let body = |flags: u8| {
        Bytes::from([b"\x01\x04acme\x04MU-1".as_slice(), &[flags], b"\x07\x01t\x00\x00"].concat())
    };
    assert!(read(Position(1), 1, &body(1)).is_ok());
    assert!(read(Position(1), 1, &body(1 | RETAIN)).is_err());
    assert!(read(Position(1), 1, &body(1 | BY_SERVER)).is_err());
}

/// Do not change this test: logs in the field are of this version.
#[test]
fn the_format_of_version_2_does_not_change() {
    let telemetry = message(b"acme/MU-1/telemetry/env", b"hi", Some((BOOT, 9)), 1, 1000);
    let bare = Message { properties: Bytes::new(), ..message(b"acme/MU-1/presence", b"on", None, 0, 7) };
    let presence =
        Message { publisher: Publisher::Server { device: DeviceKey(0) }, retain: true, ..bare.clone() };
    let command = |publisher| Message {
        publisher,
        qos: 2,
        topic: Bytes::from_static(b"acme/MU-1/app/x"),
        ..bare.clone()
    };
    let body = write(&[
        telemetry,
        presence,
        command(service(Some("acme"), "ops", "c-1")),
        command(service(None, "all", "")),
    ]);
    let expected = [
        b"\x02\x0d\x04acme\x04MU-1\xe8\x07".as_slice(),
        b"\x08\x07\x06\x05\x04\x03\x02\x01\xac\x02\x09",
        b"\x0dtelemetry/env\x04\x03\x00\x01a\x02hi",
        b"\x58\x04acme\x04MU-1\x07\x08presence\x00\x02on",
        b"\x22\x04acme\x03ops\x03c-1\x07\x0facme/MU-1/app/x\x00\x02on",
        b"\x22\x00\x03all\x00\x07\x0facme/MU-1/app/x\x00\x02on",
    ]
    .concat();
    assert_eq!(body, expected);
}

#[test]
fn the_overhead_is_bounded() {
    let long = "x".repeat(48);
    let name = Arc::new(DeviceName {
        tenant: long.parse().unwrap(),
        device_id: long.parse().unwrap(),
        serial: long.parse().unwrap(),
    });
    let boot = Boot { install: u64::MAX, count: u32::MAX };
    for publisher in [device(), Publisher::Server { device: DeviceKey(0) }, service(Some(&long), "", "")] {
        let mut message = message(b"", b"", Some((boot, u64::MAX)), 2, u64::MAX);
        (message.properties, message.publisher) = (Bytes::new(), publisher);
        let mut out = Vec::new();
        push(&mut out, &message, |_| name.clone());
        // Lengths of up to 64 KiB take two octets more each than the empty ones here.
        assert!(out.len() + 5 * 2 <= OVERHEAD, "{}", out.len());
    }
}
