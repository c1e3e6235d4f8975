//! Records that are empty, too long, of the wrong kind, or no records at all, before anybody is known.

use super::{Attack, BAIT, Cast, Flight};
use crate::hostile::{
    flight::{CERTIFICATE, CERTIFICATE_REQUEST, FINISHED, KEY_UPDATE, NEW_SESSION_TICKET},
    record::{ALERT, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, plain},
};

/// What arrives instead of a flight, or in its middle.
pub(super) fn before() -> Vec<Attack> {
    let first = |name: &str, octets: Vec<u8>| {
        Attack::refused(&format!("at once: {name}"), move |flight, _| flight.raw(&octets))
    };
    let mut rows = vec![
        first("nothing", Vec::new()),
        first("nothing, and silence", Vec::new()).held(),
        first("one octet", vec![22]),
        first("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        first("an MQTT CONNACK", BAIT.to_vec()),
        first("noise", (0..900_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        first("application data unprotected", plain(APPLICATION, &BAIT)),
        first("a protected record of no octets", plain(APPLICATION, &[])),
        first("a handshake record of no octets", plain(HANDSHAKE, &[])),
        first("a content type of 0", plain(0, &[1, 2, 3])),
        first("a content type of 24", plain(24, &[1, 2, 3])),
        first("an alert of no octets", plain(ALERT, &[])),
        first("an alert of one octet", plain(ALERT, &[2])),
        first("an unknown alert", plain(ALERT, &[2, 251])),
        first("close_notify", plain(ALERT, &[1, 0])),
        first("handshake_failure", plain(ALERT, &[2, 40])),
        first("bad_certificate", plain(ALERT, &[2, 42])),
        first("certificate_revoked", plain(ALERT, &[2, 44])),
        first("certificate_expired", plain(ALERT, &[2, 45])),
        first("unknown_ca", plain(ALERT, &[2, 48])),
        first("change_cipher_spec", plain(CHANGE_CIPHER_SPEC, &[1])),
        first("a record said to be 65535 octets", [&[22, 3, 3, 0xff, 0xff][..], &[2; 5000]].concat()),
        first("a message said to be 2^24-1 octets", plain(HANDSHAKE, &[2, 0xff, 0xff, 0xff, 3, 3])),
    ];
    let middle = |name: &str, play: fn(&mut Flight, &Cast)| {
        Attack::refused(&format!("after ServerHello: {name}"), move |flight, cast| {
            flight.hello();
            play(flight, cast);
            flight.application(&BAIT);
        })
    };
    rows.extend([
        middle("application data", |flight, _| flight.application(&BAIT)),
        middle("nothing inside", |flight, _| flight.inner(&[])),
        middle("nothing but padding", |flight, _| flight.inner(&[0; 40])),
        middle("an unknown inner type", |flight, _| flight.inner(&[1, 2, 3, 99])),
        middle("an inner change_cipher_spec", |flight, _| flight.record(CHANGE_CIPHER_SPEC, &[1])),
        middle("an inner handshake record of no octets", |flight, _| flight.record(HANDSHAKE, &[])),
        middle("an inner alert of no octets", |flight, _| flight.record(ALERT, &[])),
        middle("close_notify", |flight, _| flight.record(ALERT, &[1, 0])),
        middle("close_notify unprotected", |flight, _| flight.raw(&plain(ALERT, &[1, 0]))),
        middle("a protected record of no octets", |flight, _| flight.raw(&plain(APPLICATION, &[]))),
        middle("a protected record of one octet", |flight, _| flight.raw(&plain(APPLICATION, &[1]))),
        middle("a protected record of half a tag", |flight, _| flight.raw(&plain(APPLICATION, &[1; 8]))),
        middle("a protected record of a wrong tag", |flight, _| flight.raw(&plain(APPLICATION, &[1; 16]))),
        middle("a protected record nobody sealed", |flight, _| flight.raw(&plain(APPLICATION, &[1; 80]))),
        middle("a record of 16 kB", |flight, _| flight.record(HANDSHAKE, &[8; 16_384])),
        middle("a record one octet too long", |flight, _| flight.record(HANDSHAKE, &[8; 4352])),
        middle("a record that fills the buffer", |flight, _| flight.record(HANDSHAKE, &[8; 4335])),
        middle("KeyUpdate", |flight, _| flight.message(KEY_UPDATE, &[1])),
        middle("NewSessionTicket", |flight, _| flight.message(NEW_SESSION_TICKET, &[0; 13])),
        middle("a message nobody knows", |flight, _| flight.message(99, &[1, 2, 3])),
        middle("a message without a body", |flight, _| flight.raw_message(&[CERTIFICATE, 0, 0])),
        middle("a message cut short", |flight, _| flight.raw_message(&[CERTIFICATE, 0, 9, 0, 0, 0, 1])),
        middle("a second ServerHello", |flight, _| flight.message(2, &[3; 80])),
        middle("CertificateRequest cut short", |flight, _| flight.message(CERTIFICATE_REQUEST, &[9])),
        middle("a Finished of no octets", |flight, _| flight.message(FINISHED, &[])),
        middle("20000 change_cipher_spec", |flight, _| {
            flight.raw(&plain(CHANGE_CIPHER_SPEC, &[1]).repeat(20_000));
        }),
        middle("change_cipher_spec with something in it", |flight, _| {
            flight.raw(&plain(CHANGE_CIPHER_SPEC, &[9; 300]));
        }),
    ]);
    rows.push(Attack::refused("after ServerHello: silence", |flight, _| flight.hello()).held());
    for length in [1, 7, 100] {
        let name = format!("messages cut into records of {length}");
        rows.push(Attack::survived(&name, move |flight, cast| {
            flight.hello();
            flight.cut(length, |flight| {
                flight.encrypted_extensions();
                flight.certificate_request();
                flight.certificate(&cast.broker.chain);
                flight.certificate_verify(&cast.broker.key);
                flight.finished();
            });
        }));
    }
    rows
}
