//! The words, whatever the bytes: ids, topics, messages, frames.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use muster_shared::{
    CertificateId, DeviceId, SerialNumber, Tenant,
    factory::{Answer, Endpoint, Envelope, Install, Request, Subject},
    frame::{self, Decoder, FrameError},
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX, ID_MAX, NONCE, SERIAL_MAX, TOPIC_LEVELS_MAX, TOPIC_MAX},
    telemetry::{Boot, Reading, TelemetryBatch, Value},
    topic::{self, Bounds, Direction, Forbidden, Kind, Topic, TopicError},
    vendor::{SeedRecord, VendorPage},
};
use proptest::prelude::*;

const ID: &str = "[A-Za-z0-9][A-Za-z0-9_-]{0,47}";
const SERIAL: &str = "[A-Za-z0-9][A-Za-z0-9.-]{0,47}";

fn is_id(text: &[u8], also: &[u8], max: usize) -> bool {
    let fits = |(at, octet): (usize, &u8)| octet.is_ascii_alphanumeric() || at > 0 && also.contains(octet);
    !text.is_empty() && text.len() <= max && text.iter().enumerate().all(fits)
}

fn kind() -> impl Strategy<Value = (String, Direction)> {
    prop_oneof![
        ID.prop_map(|stream| (format!("telemetry/{stream}"), Direction::Uplink)),
        Just(("twin/reported".to_owned(), Direction::Uplink)),
        Just(("twin/desired".to_owned(), Direction::Downlink)),
        ID.prop_map(|id| (format!("command/{id}/request"), Direction::Downlink)),
        ID.prop_map(|id| (format!("command/{id}/response"), Direction::Uplink)),
        Just(("credential/csr".to_owned(), Direction::Uplink)),
        Just(("credential/certificate".to_owned(), Direction::Downlink)),
        "[a-z]{1,9}(/[a-z]{0,9}){0,9}".prop_map(|path| (format!("app/{path}"), Direction::Both)),
        Just(("presence".to_owned(), Direction::Server)),
    ]
}

/// Texts that are nearly topics: pieces of right ones, and what an attacker would put between.
fn topicish() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("acme".to_owned()),
        Just("dev-1".to_owned()),
        Just("dev-2".to_owned()),
        Just("~all".to_owned()),
        Just("+".to_owned()),
        Just("#".to_owned()),
        Just(String::new()),
        Just("$share".to_owned()),
        Just("$SYS".to_owned()),
        Just("telemetry".to_owned()),
        Just("app".to_owned()),
        Just("command".to_owned()),
        Just("request".to_owned()),
        Just("acme\0".to_owned()),
        Just("ACME".to_owned()),
        ID,
        ".{0,6}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.join("/"))
}

proptest! {
    #[test]
    fn an_id_is_what_its_grammar_says(octets in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        ID.prop_map(String::into_bytes),
        SERIAL.prop_map(String::into_bytes),
        "[ -~]{0,52}".prop_map(String::into_bytes),
    ]) {
        let Ok(text) = std::str::from_utf8(&octets) else { return Ok(()) };
        prop_assert_eq!(Tenant::new(text).is_ok(), is_id(&octets, b"_-", ID_MAX));
        prop_assert_eq!(DeviceId::new(text).is_ok(), is_id(&octets, b"_-", ID_MAX));
        prop_assert_eq!(SerialNumber::new(text).is_ok(), is_id(&octets, b".-", SERIAL_MAX));
        if let Ok(id) = DeviceId::new(text) {
            prop_assert_eq!(id.to_string(), text);
            prop_assert_eq!(text.parse::<DeviceId>().unwrap(), id);
        }
    }

    #[test]
    fn an_id_of_a_message_has_been_checked(text in "[ -~]{0,60}") {
        let mut room = [0; 80];
        let octets = postcard::to_slice(text.as_str(), &mut room).unwrap();
        let read = postcard::from_bytes::<DeviceId>(octets);
        prop_assert_eq!(read.is_ok(), is_id(text.as_bytes(), b"_-", ID_MAX));
    }

    #[test]
    fn certificate_ids_round_trip(octets in any::<[u8; 32]>()) {
        let id = CertificateId(octets);
        let text = id.to_string();
        prop_assert_eq!(text.parse::<CertificateId>().unwrap(), id);
        prop_assert!(text.starts_with(id.short().as_str()));
        if text != text.to_uppercase() {
            prop_assert!(text.to_uppercase().parse::<CertificateId>().is_err());
        }
        prop_assert!(text[1..].parse::<CertificateId>().is_err());
    }

    #[test]
    fn serials_split_into_prefix_and_number(prefix in "[A-Za-z][A-Za-z.-]{0,20}", number in any::<u32>(), width in 1..12_usize) {
        let text = format!("{prefix}{number:0width$}");
        let serial = SerialNumber::new(&text).unwrap();
        prop_assert_eq!(serial.split(), Some((prefix.as_str(), u64::from(number))));
    }

    #[test]
    fn topics_round_trip_and_go_one_way(tenant in ID, device in ID, (rest, direction) in kind()) {
        let text = format!("{tenant}/{device}/{rest}");
        let (tenant, device) = (Tenant::new(&tenant).unwrap(), DeviceId::new(&device).unwrap());
        let topic = Topic::parse(&text).unwrap();
        let Topic::Device { kind, .. } = topic else { panic!("a device's topic") };
        prop_assert_eq!(kind.direction(), direction);
        let written = Topic::of(&tenant, &device, kind).text().unwrap();
        prop_assert_eq!(written.as_str(), text.as_str());
        let up = matches!(direction, Direction::Uplink | Direction::Both);
        let down = matches!(direction, Direction::Downlink | Direction::Both);
        prop_assert_eq!(topic::may_publish(&tenant, &device, &text).is_ok(), up);
        prop_assert_eq!(topic::may_receive(&tenant, &device, &text), down);
        prop_assert!(topic::may_subscribe(&tenant, &device, &text).is_ok());
    }

    /// Whatever the bytes: what a device may publish is spelled with its own tenant and id, octet for octet,
    /// and is never `~all`.
    #[test]
    fn no_device_publishes_on_anothers_topic(text in topicish()) {
        let (tenant, device) = (Tenant::new("acme").unwrap(), DeviceId::new("dev-1").unwrap());
        if topic::may_publish(&tenant, &device, &text).is_ok() {
            prop_assert!(text.starts_with("acme/dev-1/"), "{}", text);
            prop_assert!(!text.contains(['+', '#', '\0']), "{}", text);
        }
        if topic::may_receive(&tenant, &device, &text) {
            prop_assert!(text.starts_with("acme/dev-1/") || text.starts_with("acme/~all/"), "{}", text);
        }
    }

    /// The same for every pair of names: one device's right topic is never another device's.
    #[test]
    fn one_devices_topic_is_nobody_elses(
        mine in (ID, ID), theirs in (ID, ID), (rest, _) in kind(),
    ) {
        prop_assume!(mine != theirs);
        let (tenant, device) = (Tenant::new(&mine.0).unwrap(), DeviceId::new(&mine.1).unwrap());
        let text = format!("{}/{}/{rest}", theirs.0, theirs.1);
        prop_assert_eq!(topic::may_publish(&tenant, &device, &text), Err(Forbidden::NotItsTopic));
        prop_assert!(!topic::may_receive(&tenant, &device, &text));
        prop_assert!(topic::may_subscribe(&tenant, &device, &text).is_err());
    }

    /// A granted filter reaches only the device's own prefix and `~all` of its tenant.
    #[test]
    fn a_granted_filter_matches_nothing_foreign(filter in topicish(), (rest, _) in kind(), other in (ID, ID)) {
        let (tenant, device) = (Tenant::new("acme").unwrap(), DeviceId::new("dev-1").unwrap());
        prop_assume!(other != ("acme".to_owned(), "dev-1".to_owned()));
        if topic::may_subscribe(&tenant, &device, &filter).is_ok() {
            let foreign = format!("{}/{}/{rest}", other.0, other.1);
            prop_assert!(!topic::matches(&filter, &foreign), "{} matches {}", filter, foreign);
            prop_assert!(!filter.starts_with('$'));
        }
    }

    #[test]
    fn topics_never_panic(text in any::<String>(), filter in any::<String>()) {
        let _ = Topic::parse(&text);
        let _ = topic::check_filter(&filter, Bounds::DEVICE);
        let _ = topic::matches(&filter, &text);
    }

    #[test]
    fn a_right_topic_matches_its_filters(tenant in ID, device in ID, (rest, _) in kind()) {
        let text = format!("{tenant}/{device}/{rest}");
        for filter in [text.clone(), format!("{tenant}/{device}/#"), format!("+/{device}/#"), "#".to_owned()] {
            prop_assert!(topic::check_filter(&filter, Bounds::DEVICE).is_ok());
            prop_assert!(topic::matches(&filter, &text), "{}", filter);
        }
        let above = format!("{tenant}/{device}");
        prop_assert!(!topic::matches(&above, &text));
    }

    #[test]
    fn messages_round_trip(
        number in any::<u16>(), tenant in ID, device in ID, serial in SERIAL,
        der in prop::collection::vec(any::<u8>(), 0..1024), port in any::<u16>(), host in "[a-z.]{1,40}",
    ) {
        let subject = Subject {
            tenant: Tenant::new(&tenant).unwrap(),
            device_id: DeviceId::new(&device).unwrap(),
            serial: SerialNumber::new(&serial).unwrap(),
        };
        let endpoint = Endpoint {
            host: &host, port, server_name: &host, keep_alive_s: port, telemetry_s: 1, retry_s_max: number,
        };
        let install = Install { certificate: &der, issuer: &der, endpoint, anchors: &der };
        let mut room = [0; FRAME_PAYLOAD_MAX];
        for request in [Request::Csr(subject), Request::Install(install), Request::Prove { nonce: [port as u8; NONCE] }] {
            let message = Envelope::new(number, request);
            let octets = message.write(&mut room).unwrap();
            prop_assert_eq!(Envelope::<Request<'_>>::read(octets).unwrap(), message);
            let longer = [octets, &[0]].concat();
            prop_assert!(Envelope::<Request<'_>>::read(&longer).is_err(), "octets after the message");
        }
        let message = Envelope::new(number, Answer::Csr(&der));
        let octets = message.write(&mut room).unwrap();
        prop_assert_eq!(Envelope::<Answer<'_>>::read(octets).unwrap(), message);
    }

    #[test]
    fn no_octets_panic_a_reader(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::<Request<'_>>::read(&octets);
        let _ = Envelope::<Answer<'_>>::read(&octets);
        let _ = Install::read(&octets);
        let _ = TelemetryBatch::read(&octets);
        let _ = TelemetryBatch::name(&octets);
        let _ = muster_shared::factory::SignedAnchors::read(&octets);
        let _ = muster_shared::credential::CertificateRequest::read(&octets);
    }

    #[test]
    fn telemetry_round_trips(
        install in any::<u64>(), count in any::<u32>(), seq in any::<u64>(), uptime_ms in any::<u64>(),
        readings in prop::collection::vec(("[a-z_]{1,24}", any::<u64>(), any::<i64>(), any::<bool>()), 0..=16),
    ) {
        let mut batch = TelemetryBatch::new(Boot { install, count }, seq, uptime_ms);
        for (sensor, uptime_ms, value, whole) in readings {
            let value = if whole { Value::Int(value) } else { Value::Float(value as f32) };
            let reading = Reading { sensor: sensor.as_str().try_into().unwrap(), uptime_ms, value };
            batch.readings.push(reading).unwrap();
        }
        let mut room = [0; muster_shared::limits::TELEMETRY_MAX];
        let octets = batch.write(&mut room).unwrap();
        prop_assert_eq!(&TelemetryBatch::read(octets).unwrap(), &batch);
        prop_assert_eq!(TelemetryBatch::name(octets).unwrap(), (batch.boot, seq));
        prop_assert!(TelemetryBatch::read(&octets[..octets.len() - 1]).is_err());
    }

    #[test]
    fn frames_round_trip_and_the_decoder_is_in_step_after_any_noise(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        payload in prop::collection::vec(any::<u8>(), 1..700),
    ) {
        let octets = framed(&payload);
        let mut decoder = Decoder::new();
        for &octet in &noise {
            let _ = decoder.push(octet);
        }
        let mut frames = Vec::new();
        for &octet in &octets {
            if let Some(Ok(frame)) = decoder.push(octet) {
                frames.push(frame.to_vec());
            }
        }
        prop_assert_eq!(frames.last(), Some(&payload));
    }

    #[test]
    fn a_changed_frame_is_never_taken_for_the_frame_that_was_sent(
        payload in prop::collection::vec(any::<u8>(), 1..300), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let mut octets = framed(&payload);
        let at = at.index(octets.len() - 2) + 1;
        octets[at] ^= 1 << bit;
        let mut decoder = Decoder::new();
        for &octet in &octets {
            if let Some(Ok(frame)) = decoder.push(octet) {
                prop_assert!(false, "accepted {} octets", frame.len());
            }
        }
    }

    #[test]
    fn vendor_records_round_trip_and_every_octet_counts(
        root_digest in any::<[u8; 32]>(), hardware in "[a-z0-9-]{0,24}", counter in any::<u64>(),
        seed in any::<[u8; 32]>(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let page = VendorPage { root_digest, hardware: hardware.as_str().try_into().unwrap() };
        let mut octets = page.to_bytes();
        prop_assert_eq!(VendorPage::from_bytes(&octets), Some(page));
        let place = at.index(octets.len());
        octets[place] ^= 1 << bit;
        prop_assert_eq!(VendorPage::from_bytes(&octets), None);
        let record = SeedRecord { counter, seed };
        let mut octets = record.to_bytes();
        prop_assert!(SeedRecord::from_bytes(&octets) == Some(record));
        let place = at.index(octets.len());
        octets[place] ^= 1 << bit;
        prop_assert!(SeedRecord::from_bytes(&octets).is_none());
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let (mut scratch, mut out) = (vec![0; payload.len() + 4], vec![0; FRAME_MAX + 2]);
    let used = frame::encode(payload, &mut scratch, &mut out).unwrap();
    out.truncate(used);
    out
}

#[test]
fn every_device_is_not_a_name_a_device_can_have() {
    assert!(DeviceId::new(topic::EVERY_DEVICE).is_err());
    let (tenant, device) = (Tenant::new("acme").unwrap(), DeviceId::new("dev-1").unwrap());
    assert_eq!(topic::may_publish(&tenant, &device, "acme/~all/app/x"), Err(Forbidden::NotItsDirection));
    assert!(topic::may_receive(&tenant, &device, "acme/~all/app/x"));
    assert!(!topic::may_receive(&tenant, &device, "other/~all/app/x"));
    assert!(topic::may_subscribe(&tenant, &device, "acme/~all/#").is_ok());
    for filter in [
        "other/~all/#",
        "+/~all/#",
        "acme/+/#",
        "#",
        "acme/#",
        "$share/g/acme/dev-1/#",
        "acme/dev-1",
        "acme/dev-1/",
    ] {
        assert!(topic::may_subscribe(&tenant, &device, filter).is_err(), "{filter}");
    }
}

#[test]
fn names_are_compared_octet_by_octet() {
    let (tenant, device) = (Tenant::new("acme").unwrap(), DeviceId::new("dev-1").unwrap());
    for text in [
        "ACME/dev-1/app/x",
        "acme/DEV-1/app/x",
        "acme/dev-1 /app/x",
        "acme/dev-10/app/x",
        "acme/dev-/app/x",
        "/acme/dev-1/app/x",
        "acme//dev-1/app/x",
        "acme/dev\u{2010}1/app/x",
    ] {
        let refused = topic::may_publish(&tenant, &device, text);
        assert_eq!(refused, Err(Forbidden::NotItsTopic), "{text}");
    }
}

#[test]
fn topics_have_limits() {
    let long = format!("acme/dev-1/app/{}", "x".repeat(TOPIC_MAX));
    assert!(Topic::parse(&long).is_err());
    let deep = format!("acme/dev-1/app{}", "/x".repeat(TOPIC_LEVELS_MAX - 3));
    assert!(Topic::parse(&deep).is_ok());
    assert!(Topic::parse(&format!("{deep}/x")).is_err());
    for odd in [
        "",
        "acme",
        "acme/dev-1",
        "acme/dev-1/",
        "acme/dev-1/app",
        "acme/dev-1/app/",
        "acme/~all/",
        "acme/dev-1/telemetry/",
        "acme/dev-1/telemetry/a/b",
        "acme/dev-1/command/1",
        "acme/dev-1/command/1/request/x",
        "acme/dev-1/presence/x",
        "acme/dev-1/app/\u{7f}",
        "acme/dev-1/app/\u{fffe}",
        "acme/dev-1/app/\u{1fffe}",
        "acme/dev-1/app/+",
        "acme/dev-1/app/#",
    ] {
        assert!(Topic::parse(odd).is_err(), "{odd:?}");
    }
    let wide = Bounds { octets: 300, levels: 20 };
    let path = |levels: usize| vec!["x"; levels].join("/");
    for check in [topic::check_name, topic::check_filter] {
        assert_eq!(check(&"x".repeat(300), wide), Ok(()));
        assert_eq!(check(&"x".repeat(301), wide), Err(TopicError::TooLong { octets: 301, max: 300 }));
        assert_eq!(
            check(&"x".repeat(300), Bounds::DEVICE),
            Err(TopicError::TooLong { octets: 300, max: 256 })
        );
        assert_eq!(check(&path(20), wide), Ok(()));
        assert_eq!(check(&path(21), wide), Err(TopicError::TooDeep { max: 20 }));
        assert_eq!(check(&path(1024), Bounds::WIDEST), Ok(()));
        assert_eq!(check(&"x".repeat(65_535), Bounds::WIDEST), Ok(()));
    }
    let kind = Kind::App { path: &"y".repeat(TOPIC_MAX) };
    let (tenant, device) = (Tenant::new("acme").unwrap(), DeviceId::new("dev-1").unwrap());
    assert!(Topic::of(&tenant, &device, kind).text().is_err());
}

#[test]
fn frames_have_limits() {
    let largest = vec![0x5a; FRAME_PAYLOAD_MAX];
    let mut decoder = Decoder::new();
    let mut taken = None;
    for octet in framed(&largest) {
        if let Some(frame) = decoder.push(octet) {
            taken = Some(frame.map(<[u8]>::len));
        }
    }
    assert_eq!(taken, Some(Ok(FRAME_PAYLOAD_MAX)));
    let (mut scratch, mut out) = (vec![0; 2 * FRAME_MAX], vec![0; 2 * FRAME_MAX]);
    let over = vec![1; FRAME_PAYLOAD_MAX + 64];
    assert!(matches!(frame::encode(&over, &mut scratch, &mut out), Err(FrameError::NoRoom(_))));
    assert!(matches!(frame::encode(&[1; 8], &mut [0; 4], &mut out), Err(FrameError::NoRoom(4))));

    for octet in vec![0x41; FRAME_MAX + 1] {
        assert_eq!(decoder.push(octet), None);
    }
    assert_eq!(decoder.push(0), Some(Err(FrameError::Oversized)));
    for octet in &framed(b"next")[1..] {
        if let Some(frame) = decoder.push(*octet) {
            assert_eq!(frame, Ok(&b"next"[..]));
        }
    }
    assert_eq!(decoder.push(0), None, "an empty frame is an idle line");
}
