//! Every bound, with its source. Related bounds are asserted against one another.

/// Longest tenant, device id, batch or station name, octets. Two of them, the longest fixed topic
/// words and an application path fit [`TOPIC_MAX`].
pub const ID_MAX: usize = 48;
/// Longest device serial, octets: X.520 `serialNumber` allows 64 (RFC 5280 appendix A, ub-serial-number).
pub const SERIAL_MAX: usize = 48;
/// Longest topic or filter of a device, octets: what its buffer holds.
pub const TOPIC_MAX: usize = 256;
/// Most levels in a topic or filter of a device. The deepest fixed topic has 5.
pub const TOPIC_LEVELS_MAX: usize = 16;
/// Longest topic or filter of a service, octets (MQTT 5.0 §1.5.4).
pub const SERVICE_TOPIC_MAX: usize = 65_535;
/// Most levels in a topic or filter of a service: each is looked at for each filter a message is held
/// against, a few nanoseconds apiece.
pub const SERVICE_TOPIC_LEVELS_MAX: usize = 1024;
/// Longest device certificate, octets of DER. The profile's largest possible leaf is below 700.
pub const CERTIFICATE_MAX: usize = 1024;
/// Longest certificate signing request, octets of DER. Ours are below 400.
pub const CSR_MAX: usize = 768;
/// Longest ECDSA P-256 signature in DER: two 33-octet INTEGERs with headers, in a SEQUENCE (RFC 3279 §2.2.3).
pub const SIGNATURE_MAX: usize = 72;
/// SubjectPublicKeyInfo of an uncompressed P-256 key, octets (RFC 5480 §2).
pub const SPKI_P256: usize = 91;
/// Most broker trust anchors a device holds: the current one and its successor.
pub const ANCHORS_MAX: usize = 2;
/// Longest signed anchor set, octets: the anchors, a key, a signature and their lengths.
pub const ANCHOR_SET_MAX: usize = ANCHORS_MAX * CERTIFICATE_MAX + SPKI_P256 + SIGNATURE_MAX + 32;
/// Longest host name a device is given, octets (RFC 1035 §2.3.4).
pub const HOST_MAX: usize = 253;
/// Longest payload of one factory frame: an install message at its largest.
pub const FRAME_PAYLOAD_MAX: usize = 5120;
/// Longest encoded factory frame without its delimiter: payload, CRC-32 and one COBS octet in 254.
pub const FRAME_MAX: usize = {
    let n = FRAME_PAYLOAD_MAX + 4;
    n + n / 254 + 1
};
/// Most readings in one telemetry batch: what one MQTT packet of a small device carries.
pub const READINGS_MAX: usize = 16;
/// Longest sensor name, octets.
pub const SENSOR_MAX: usize = 24;
/// Largest telemetry message a device makes, octets.
pub const TELEMETRY_MAX: usize = 1024;
/// Longest line on a device's serial log, octets (one folded line of a terminal, with room for a count).
pub const LOG_LINE_MAX: usize = 96;
/// Longest continuity token, octets. Today's is 55 characters of base64url; the rest is for a later version.
pub const CONTINUITY_MAX: usize = 64;
/// Largest MQTT packet accepted from a device, octets.
pub const PACKET_MAX: usize = 64 * 1024;
/// Octets of nonce in a proof of possession; as long as the digest it goes into.
pub const NONCE: usize = 32;
/// TLS record size the server asks for, octets: a handshake message may not span records on the device.
pub const TLS_FRAGMENT_MAX: usize = 4096;

const _: () = assert!(
    2 * CERTIFICATE_MAX + ANCHOR_SET_MAX + HOST_MAX + 2 * ID_MAX + 64 <= FRAME_PAYLOAD_MAX,
    "an install message at its largest fits one frame"
);
const _: () = assert!(2 * (ID_MAX + 1) + "command/".len() + ID_MAX + "/response".len() <= TOPIC_MAX);
const _: () = assert!(TELEMETRY_MAX < PACKET_MAX);
const _: () = assert!(TOPIC_MAX <= SERVICE_TOPIC_MAX && TOPIC_LEVELS_MAX <= SERVICE_TOPIC_LEVELS_MAX);
const _: () = assert!(READINGS_MAX * (SENSOR_MAX + 1 + 10 + 10) + 48 <= TELEMETRY_MAX);
