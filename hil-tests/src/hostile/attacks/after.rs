//! What a broker gone wrong, or somebody on the path, can say once a connection stands.

use super::{Attack, BAIT, Cast, Flight, Verdict};
use crate::hostile::{
    flight::{
        CERTIFICATE, CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, ENCRYPTED_EXTENSIONS, FINISHED, KEY_UPDATE,
        NEW_SESSION_TICKET, SERVER_HELLO,
    },
    record::{ALERT, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, plain},
};

/// A ticket nobody will use: lifetime, age, nonce, ticket, no extensions.
const TICKET: [u8; 15] = [0, 0, 0, 1, 0, 0, 0, 0, 1, 7, 0, 1, 7, 0, 0];

/// Protected: only who has the broker's key can say it.
pub(super) fn by_the_broker() -> Vec<Attack> {
    let ended = |name: &str, play: fn(&mut Flight, &Cast)| {
        Attack::after(&format!("connected: {name}"), Verdict::Ended, move |flight, cast| {
            play(flight, cast);
            flight.application(&BAIT);
        })
    };
    // Of no use to a device: it may pass over empty records, and over one that begins with a ticket.
    let passed_over = |name: &str, play: fn(&mut Flight, &Cast)| {
        Attack::after(&format!("connected: {name}"), Verdict::Survived, move |flight, cast| {
            play(flight, cast);
            flight.application(&BAIT);
        })
    };
    vec![
        ended("KeyUpdate", |flight, _| flight.message(KEY_UPDATE, &[0])),
        ended("KeyUpdate that asks for another", |flight, _| flight.message(KEY_UPDATE, &[1])),
        ended("CertificateRequest", |flight, _| {
            flight.message(CERTIFICATE_REQUEST, &[1, 7, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
        }),
        ended("CertificateRequest with no extensions", |flight, _| {
            flight.message(CERTIFICATE_REQUEST, &[0, 0, 0]);
        }),
        ended("ServerHello", |flight, _| {
            let random = [0x5a; 32];
            let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]].concat();
            flight.message(SERVER_HELLO, &body);
        }),
        ended("EncryptedExtensions", |flight, _| flight.message(ENCRYPTED_EXTENSIONS, &[0, 0])),
        ended("Certificate", |flight, cast| flight.certificate(&cast.broker.chain)),
        ended("CertificateVerify", |flight, _| flight.message(CERTIFICATE_VERIFY, &[4, 3, 0, 1, 0x30])),
        ended("Finished", |flight, _| flight.message(FINISHED, &[7; 32])),
        ended("a message nobody knows", |flight, _| flight.message(99, &[])),
        ended("nothing inside", |flight, _| flight.inner(&[])),
        ended("nothing but padding", |flight, _| flight.inner(&[0; 9])),
        ended("an unknown inner type", |flight, _| flight.inner(&[1, 99])),
        ended("an inner change_cipher_spec", |flight, _| flight.record(CHANGE_CIPHER_SPEC, &[1])),
        ended("close_notify", |flight, _| flight.record(ALERT, &[1, 0])),
        ended("a fatal alert", |flight, _| flight.record(ALERT, &[2, 48])),
        ended("an alert of no octets", |flight, _| flight.record(ALERT, &[])),
        ended("an unknown alert", |flight, _| flight.record(ALERT, &[9, 9])),
        ended("a record of 16 kB", |flight, _| flight.record(APPLICATION, &[7; 16_384])),
        passed_over("a ticket", |flight, _| flight.message(NEW_SESSION_TICKET, &TICKET)),
        passed_over("1000 tickets", |flight, _| {
            for _ in 0..1000 {
                flight.message(NEW_SESSION_TICKET, &TICKET);
            }
        }),
        passed_over("1000 empty records", |flight, _| {
            for _ in 0..1000 {
                flight.application(&[]);
            }
        }),
        passed_over("a ticket cut short", |flight, _| flight.message(NEW_SESSION_TICKET, &[0; 5])),
        passed_over("a ticket and then Finished", |flight, _| {
            flight.together(|flight| {
                flight.message(NEW_SESSION_TICKET, &TICKET);
                flight.message(FINISHED, &[7; 32]);
            });
        }),
    ]
}

/// Unprotected: whoever carries the octets can say it.
pub(super) fn on_the_path() -> Vec<Attack> {
    let injected = |name: &str, octets: Vec<u8>| {
        Attack::after(&format!("injected: {name}"), Verdict::Ended, move |flight, _| {
            flight.raw(&octets);
            flight.application(&BAIT);
        })
    };
    let message = |kind: u8, body: &[u8]| {
        plain(HANDSHAKE, &[&[kind, 0, 0, u8::try_from(body.len()).unwrap_or(0)], body].concat())
    };
    vec![
        injected("a ticket unprotected", message(NEW_SESSION_TICKET, &TICKET)),
        injected("Finished unprotected", message(FINISHED, &[7; 32])),
        injected("EncryptedExtensions unprotected", message(ENCRYPTED_EXTENSIONS, &[0, 0])),
        injected("CertificateRequest unprotected", message(CERTIFICATE_REQUEST, &[0, 0, 0])),
        injected("Certificate unprotected", message(CERTIFICATE, &[0, 0, 0, 0])),
        injected("KeyUpdate unprotected", message(KEY_UPDATE, &[0])),
        injected("an empty handshake record", plain(HANDSHAKE, &[])),
        injected("close_notify unprotected", plain(ALERT, &[1, 0])),
        injected("an alert unprotected", plain(ALERT, &[2, 40])),
        injected("change_cipher_spec", plain(CHANGE_CIPHER_SPEC, &[1])),
        injected("application data unprotected", plain(APPLICATION, &BAIT)),
        injected("a protected record of no octets", plain(APPLICATION, &[])),
        injected("a protected record of a tag's length", plain(APPLICATION, &[0; 16])),
        injected("a content type of 0", plain(0, &BAIT)),
        injected("a content type of 99", plain(99, &BAIT)),
        injected("HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ]
}
