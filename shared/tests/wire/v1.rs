//! Do not change this test: these octets are wire version 1, as devices in the field speak it.
//!
//! A new version gets a file of its own; this one stays and must keep passing as long as
//! `WIRE_MIN` is 1.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use heapless::Vec;
use muster_shared::{
    CertificateId, DeviceId, SerialNumber, Tenant, WIRE_CURRENT, WIRE_MIN,
    credential::{CertificateAnswer, CertificateRequest},
    factory::{
        Anchors, Answer, Endpoint, Entropy, Envelope, Hello, Install, Refusal, Request, SignedAnchors, Stage,
        Subject, possession,
    },
    frame,
    telemetry::{Boot, Reading, TelemetryBatch, Value},
    vendor::{SeedRecord, VendorPage},
};

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn subject() -> Subject {
    Subject {
        tenant: Tenant::new("acme").unwrap(),
        device_id: DeviceId::new("dev-1").unwrap(),
        serial: SerialNumber::new("MU-000001").unwrap(),
    }
}

fn endpoint() -> Endpoint<'static> {
    Endpoint {
        host: "10.0.2.2",
        port: 8883,
        server_name: "localhost",
        keep_alive_s: 60,
        telemetry_s: 10,
        retry_s_max: 900,
    }
}

const _: () = assert!(WIRE_MIN <= 1 && 1 <= WIRE_CURRENT, "version one is still spoken");

/// Both directions of a request: its octets, and the same request read from them.
#[track_caller]
fn request(request: Request<'_>, golden: &str) {
    let message = Envelope::new(0x1234, request);
    let mut room = [0; 512];
    let octets = message.write(&mut room).unwrap();
    assert_eq!(hex(octets), golden);
    assert_eq!(Envelope::<Request<'_>>::read(octets).unwrap(), message);
}

#[track_caller]
fn answer(answer: Answer<'_>, golden: &str) {
    let message = Envelope::new(7, answer);
    let mut room = [0; 512];
    let octets = message.write(&mut room).unwrap();
    assert_eq!(hex(octets), golden);
    assert_eq!(Envelope::<Answer<'_>>::read(octets).unwrap(), message);
}

const SUBJECT: &str = "0461636d65056465762d31094d552d303030303031";
const ENDPOINT: &str = "0831302e302e322e32b345096c6f63616c686f73743c0a8407";

#[test]
fn requests() {
    request(Request::Hello, "01b42400");
    request(Request::MakeKey, "01b42401");
    request(Request::Csr(subject()), &format!("01b42402{SUBJECT}"));
    let install =
        Install { certificate: &[0x30, 1], issuer: &[0x30, 2, 3], endpoint: endpoint(), anchors: &[4] };
    request(Request::Install(install), &format!("01b424030230010330020 3{ENDPOINT}0104").replace(' ', ""));
    request(Request::Prove { nonce: [0xab; 32] }, &format!("01b42404{}", "ab".repeat(32)));
    request(Request::Lock, "01b42405");
}

#[test]
fn answers() {
    let hello = Hello {
        wire_min: 1,
        wire_max: 1,
        hardware: "mps2-an386".try_into().unwrap(),
        firmware_version: "0.1.0".try_into().unwrap(),
        firmware_digest: [0x11; 32],
        entropy: Entropy::Seed,
        stage: Stage::Blank,
        subject: None,
        key_digest: None,
        certificate_id: None,
    };
    let head = format!("0107000101{}{}{}", "0a6d7073322d616e333836", "05302e312e30", "11".repeat(32));
    answer(Answer::Hello(hello.clone()), &format!("{head}0100000000"));
    let full = Hello {
        entropy: Entropy::Hardware,
        stage: Stage::Locked,
        subject: Some(subject()),
        key_digest: Some([0x22; 32]),
        certificate_id: Some(CertificateId([0x33; 32])),
        ..hello
    };
    let tail = format!("000301{SUBJECT}01{}01{}", "22".repeat(32), "33".repeat(32));
    answer(Answer::Hello(full), &format!("{head}{tail}"));
    answer(Answer::KeyMade { key_digest: [0x22; 32] }, &format!("010701{}", "22".repeat(32)));
    answer(Answer::Csr(&[0x30, 0x00]), "010702023000");
    answer(Answer::Ack { digest: [0x44; 32] }, &format!("010703{}", "44".repeat(32)));
    answer(Answer::Proof(&[0x30, 0x01, 0x02]), "01070403300102");
    answer(Answer::Locked, "010705");
    for (at, refusal) in [
        Refusal::Locked,
        Refusal::Entropy,
        Refusal::Key,
        Refusal::Store,
        Refusal::Order,
        Refusal::Subject,
        Refusal::Certificate,
        Refusal::Root,
        Refusal::Anchors,
        Refusal::Malformed,
        Refusal::Version,
    ]
    .into_iter()
    .enumerate()
    {
        answer(Answer::Refused(refusal), &format!("010706{at:02x}"));
    }
}

#[test]
fn entropies_and_stages() {
    for (at, entropy) in [Entropy::Hardware, Entropy::Seed, Entropy::Failed].into_iter().enumerate() {
        assert_eq!(postcard::to_slice(&entropy, &mut [0; 2]).unwrap(), [u8::try_from(at).unwrap()]);
    }
    let stages = [Stage::Blank, Stage::KeyMade, Stage::Installed, Stage::Locked];
    for (at, stage) in stages.into_iter().enumerate() {
        assert_eq!(postcard::to_slice(&stage, &mut [0; 2]).unwrap(), [u8::try_from(at).unwrap()]);
    }
}

#[test]
fn install_and_anchors() {
    let install = Install { certificate: &[1], issuer: &[2], endpoint: endpoint(), anchors: &[3] };
    let mut room = [0; 128];
    let octets = install.write(&mut room).unwrap();
    assert_eq!(hex(octets), format!("01010102{ENDPOINT}0103"));
    assert_eq!(Install::read(octets).unwrap(), install);

    let mut room = [0; 64];
    let one = Anchors::new(3, &[0x30, 0x00], None);
    assert_eq!(hex(one.write(&mut room).unwrap()), "010302300000");
    let two = Anchors::new(300, &[0x30, 0x00], Some(&[0x31]));
    let octets = two.write(&mut room).unwrap();
    assert_eq!(hex(octets), "01ac0202300001 0131".replace(' ', ""));
    assert_eq!(Anchors::read(octets).unwrap(), two);

    let mut room = [0; 64];
    let signed = SignedAnchors { anchors: &[1, 2], root: &[3], signature: &[4, 5, 6] };
    let octets = signed.write(&mut room).unwrap();
    assert_eq!(hex(octets), "020102010303040506");
    assert_eq!(SignedAnchors::read(octets).unwrap(), signed);
}

#[test]
fn proof_of_possession() {
    let subject = subject();
    let id = CertificateId([0x33; 32]);
    let message = possession(&subject.serial, &id, &[0xab; 32]).concat();
    let expected = format!(
        "{}{}{}{}",
        hex(b"muster possession v1\0"),
        hex(b"MU-000001"),
        "33".repeat(32),
        "ab".repeat(32)
    );
    assert_eq!(hex(&message), expected);
    assert_eq!(muster_shared::factory::ANCHORS_CONTEXT, b"muster anchors v1\0");
}

#[test]
fn frames() {
    let (mut scratch, mut out) = ([0; 64], [0; 64]);
    for (payload, golden) in [
        (&b""[..], "00010101010100"),
        (&[1, 0, 2], "000201060209d28d1000"),
        (b"123456789", "000e3132333435363738392639f4cb00"),
    ] {
        let used = frame::encode(payload, &mut scratch, &mut out).unwrap();
        assert_eq!(hex(&out[..used]), golden, "{payload:?}");
    }
}

#[test]
fn telemetry() {
    let mut batch = TelemetryBatch::new(Boot { install: 300, count: 2 }, 5, 1000);
    let empty = {
        let mut room = [0; 32];
        hex(batch.write(&mut room).unwrap())
    };
    assert_eq!(empty, "01ac020205e80700");
    for value in [Value::Bool(true), Value::Int(-3), Value::Float(21.5)] {
        let reading = Reading { sensor: "t_c".try_into().unwrap(), uptime_ms: 999, value };
        batch.readings.push(reading).unwrap();
    }
    let mut room = [0; 64];
    let octets = batch.write(&mut room).unwrap();
    assert_eq!(hex(octets), "01ac020205e8070303745f63e707000103745f63e707010503745f63e707020000ac41");
    assert_eq!(TelemetryBatch::read(octets).unwrap(), batch);
    assert_eq!(TelemetryBatch::name(octets).unwrap(), (batch.boot, 5));
}

#[test]
fn credentials() {
    let mut room = [0; 32];
    let request = CertificateRequest::new(300, &[0x30, 0x00]);
    let octets = request.write(&mut room).unwrap();
    assert_eq!(hex(octets), "01ac02023000");
    assert_eq!(CertificateRequest::read(octets).unwrap(), request);
    let mut room = [0; 32];
    let answer = CertificateAnswer::new(300, &[0x30, 0x01, 0x02]);
    let octets = answer.write(&mut room).unwrap();
    assert_eq!(hex(octets), "01ac0203300102");
    assert_eq!(CertificateAnswer::read(octets).unwrap(), answer);
}

#[test]
fn vendor_page_and_seed() {
    let page = VendorPage { root_digest: [0x55; 32], hardware: "mps2-an386".try_into().unwrap() };
    let octets = page.to_bytes();
    let name = format!("{}{}", hex(b"mps2-an386"), "00".repeat(14));
    assert_eq!(hex(&octets[..64]), format!("{}{}{name}", hex(b"MUSTERV1"), "55".repeat(32)));
    assert_eq!(hex(&octets[64..]), hex(&crc(&octets[..64])));
    assert_eq!(VendorPage::from_bytes(&octets), Some(page));
    let seed = SeedRecord { counter: 0x0102, seed: [0x66; 32] };
    let octets = seed.to_bytes();
    assert_eq!(hex(&octets[..48]), format!("{}0201000000000000{}", hex(b"MUSTERS1"), "66".repeat(32)));
    assert_eq!(hex(&octets[48..]), hex(&crc(&octets[..48])));
    assert!(SeedRecord::from_bytes(&octets) == Some(seed));
}

/// CRC-32 of ISO-HDLC, bit by bit, little endian.
fn crc(octets: &[u8]) -> [u8; 4] {
    let mut sum = u32::MAX;
    for octet in octets {
        sum ^= u32::from(*octet);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    (!sum).to_le_bytes()
}

#[test]
fn a_version_this_reader_does_not_know_is_refused_by_name() {
    use muster_shared::{credential::CredentialError, factory::MessageError, telemetry::TelemetryError};
    for version in [0, WIRE_CURRENT + 1, 0xff] {
        let octets = [version, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Envelope::<Request<'_>>::read(&octets), Err(MessageError::Version(version)));
        assert_eq!(Envelope::<Answer<'_>>::read(&octets), Err(MessageError::Version(version)));
        assert_eq!(Anchors::read(&octets), Err(MessageError::Version(version)));
        assert_eq!(TelemetryBatch::read(&octets), Err(TelemetryError::Version(version)));
        assert_eq!(TelemetryBatch::name(&octets), Err(TelemetryError::Version(version)));
        assert_eq!(CertificateRequest::read(&octets), Err(CredentialError::Version(version)));
        assert_eq!(CertificateAnswer::read(&octets), Err(CredentialError::Version(version)));
    }
}

#[test]
fn readings_are_bounded() {
    let full: Vec<Reading, 16> = (0..16)
        .map(|_| Reading {
            sensor: "x".repeat(24).as_str().try_into().unwrap(),
            uptime_ms: u64::MAX,
            value: Value::Int(i64::MIN),
        })
        .collect();
    let mut batch = TelemetryBatch::new(Boot { install: u64::MAX, count: u32::MAX }, u64::MAX, u64::MAX);
    batch.readings = full;
    let mut room = [0; muster_shared::limits::TELEMETRY_MAX];
    assert!(batch.write(&mut room).is_ok(), "the largest batch fits");
}
