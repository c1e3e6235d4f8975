//! Messages that are missing, doubled, in the wrong place, or wrong.

use rcgen::SigningKey;

use super::{Attack, BAIT, Cast, Flight};
use crate::hostile::{
    flight::{
        CERTIFICATE, CERTIFICATE_VERIFY, CLIENT_CONTEXT, ECDSA_P256, ENCRYPTED_EXTENSIONS, FINISHED,
        SERVER_CONTEXT, SERVER_HELLO, counted, extension,
    },
    record::{HANDSHAKE, hash, plain},
};

/// Finished, and application data at once.
fn finish(flight: &mut Flight) {
    flight.finished();
    flight.application(&BAIT);
}

/// Certificate and CertificateVerify missing or out of place.
pub(super) fn order() -> Vec<Attack> {
    vec![
        Attack::refused("no Certificate, no CertificateVerify", |flight, _| {
            flight.opening();
            finish(flight);
        }),
        Attack::refused("no Certificate, no CertificateVerify, no CertificateRequest", |flight, _| {
            flight.hello();
            flight.encrypted_extensions();
            finish(flight);
        }),
        Attack::refused("nothing but Finished", |flight, _| {
            flight.hello();
            finish(flight);
        }),
        Attack::refused("no CertificateVerify", |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            finish(flight);
        }),
        Attack::refused("no Certificate", |flight, cast| {
            flight.opening();
            flight.certificate_verify(&cast.stranger.key);
            finish(flight);
        }),
        Attack::refused("no Certificate, the broker's CertificateVerify", |flight, cast| {
            flight.opening();
            flight.certificate_verify(&cast.broker.key);
            finish(flight);
        }),
        Attack::refused("CertificateVerify first", |flight, cast| {
            flight.opening();
            flight.certificate_verify(&cast.stranger.key);
            flight.certificate(&cast.broker.chain);
            finish(flight);
        }),
        Attack::refused("CertificateVerify first, by the broker", |flight, cast| {
            flight.opening();
            flight.certificate_verify(&cast.broker.key);
            flight.certificate(&cast.broker.chain);
            finish(flight);
        }),
        Attack::refused("the broker's Certificate, then a stranger's", |flight, cast| {
            let stranger = &cast.stranger;
            flight.opening();
            flight.certificate(&cast.broker.chain);
            flight.certificate(&stranger.chain);
            flight.certificate_verify(&stranger.key);
            finish(flight);
        }),
        Attack::refused("a stranger's Certificate, then the broker's", |flight, cast| {
            let stranger = &cast.stranger;
            flight.opening();
            flight.certificate(&stranger.chain);
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&stranger.key);
            finish(flight);
        }),
        Attack::refused("two CertificateVerify, both a stranger's", |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.stranger.key);
            flight.certificate_verify(&cast.stranger.key);
            finish(flight);
        }),
        Attack::refused("Finished before Certificate, in one record", |flight, cast| {
            flight.opening();
            flight.together(|flight| {
                flight.message(FINISHED, &flight.finished_mac());
                flight.certificate(&cast.broker.chain);
                flight.certificate_verify(&cast.stranger.key);
            });
        }),
        Attack::refused("Finished before Certificate, by the broker", |flight, cast| {
            flight.opening();
            flight.together(|flight| {
                flight.message(FINISHED, &flight.finished_mac());
                flight.certificate(&cast.broker.chain);
                flight.certificate_verify(&cast.broker.key);
            });
        }),
        Attack::refused("Finished before CertificateVerify, in one record", |flight, cast| {
            flight.opening();
            flight.together(|flight| {
                flight.certificate(&cast.broker.chain);
                flight.message(FINISHED, &flight.finished_mac());
                flight.certificate_verify(&cast.stranger.key);
            });
        }),
        Attack::refused("no Finished", |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.application(&BAIT);
        }),
        Attack::refused("no Finished, and silence", |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
        })
        .held(),
        Attack::refused("the whole flight unprotected", |flight, cast| {
            flight.hello();
            flight.plain_message(ENCRYPTED_EXTENSIONS, &[0, 0]);
            let entries = [counted(3, &cast.broker.chain[0]), vec![0, 0]].concat();
            flight.plain_message(CERTIFICATE, &[vec![0], counted(3, &entries)].concat());
            let signed = [&[0x20; 64][..], SERVER_CONTEXT.as_bytes(), &[0], &flight.transcript()].concat();
            let signature = cast.broker.key.sign(&signed).expect("a key in memory signs");
            let verify = [&ECDSA_P256.to_be_bytes()[..], &counted(2, &signature)].concat();
            flight.plain_message(CERTIFICATE_VERIFY, &verify);
            flight.plain_message(FINISHED, &flight.finished_mac());
        }),
        Attack::refused("EncryptedExtensions unprotected", |flight, cast| {
            flight.hello();
            flight.plain_message(ENCRYPTED_EXTENSIONS, &[0, 0]);
            flight.certificate_request();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            finish(flight);
        }),
        Attack::survived("no EncryptedExtensions", |flight, cast| {
            flight.hello();
            flight.certificate_request();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.finished();
        }),
        Attack::survived("no CertificateRequest", |flight, cast| {
            flight.hello();
            flight.encrypted_extensions();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.finished();
        }),
        Attack::survived("CertificateRequest with the longest context", |flight, cast| {
            flight.hello();
            flight.encrypted_extensions();
            let schemes = extension(13, &counted(2, &ECDSA_P256.to_be_bytes()));
            flight.message(13, &[counted(1, &[7; 255]), counted(2, &schemes)].concat());
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.finished();
        }),
    ]
}

/// A genuine chain with proof of nothing.
pub(super) fn signatures() -> Vec<Attack> {
    let proof = |name: &str, verify: fn(&mut Flight, &Cast)| {
        Attack::refused(name, move |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            verify(flight, cast);
            finish(flight);
        })
    };
    let octets = |name: &str, scheme: u16, signature: &'static [u8]| {
        Attack::refused(name, move |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            let body = [&scheme.to_be_bytes()[..], &counted(2, signature)].concat();
            flight.message(CERTIFICATE_VERIFY, &body);
            finish(flight);
        })
    };
    vec![
        proof("signed by another key", |flight, cast| flight.certificate_verify(&cast.stranger.key)),
        proof("signed over another transcript", |flight, cast| {
            flight.certificate_verify_as(ECDSA_P256, SERVER_CONTEXT, &hash(b"another"), &cast.broker.key);
        }),
        proof("signed with the client's context", |flight, cast| {
            let transcript = flight.transcript();
            flight.certificate_verify_as(ECDSA_P256, CLIENT_CONTEXT, &transcript, &cast.broker.key);
        }),
        proof("signed under the name of P-384", |flight, cast| {
            let transcript = flight.transcript();
            flight.certificate_verify_as(0x0503, SERVER_CONTEXT, &transcript, &cast.broker.key);
        }),
        proof("signed under the name of RSA", |flight, cast| {
            let transcript = flight.transcript();
            flight.certificate_verify_as(0x0401, SERVER_CONTEXT, &transcript, &cast.broker.key);
        }),
        proof("signed under the name of ECDSA with SHA-1", |flight, cast| {
            let transcript = flight.transcript();
            flight.certificate_verify_as(0x0203, SERVER_CONTEXT, &transcript, &cast.broker.key);
        }),
        proof("signed under an unknown name", |flight, cast| {
            let transcript = flight.transcript();
            flight.certificate_verify_as(0xfefe, SERVER_CONTEXT, &transcript, &cast.broker.key);
        }),
        octets("signature empty", ECDSA_P256, &[]),
        octets("signature of zeros", ECDSA_P256, &[0; 70]),
        octets("signature r = s = 0", ECDSA_P256, &[0x30, 6, 2, 1, 0, 2, 1, 0]),
        octets("signature not DER", ECDSA_P256, &[0x5a; 64]),
        octets("signature with a length of 2^32", ECDSA_P256, &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 1]),
        octets("signature of 3 kB", ECDSA_P256, &[0x30; 3000]),
        Attack::refused("Finished wrong", |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.finished_with(&[0; 32]);
            flight.application(&BAIT);
        }),
        Attack::refused("Finished short", |flight, cast| {
            flight.opening();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            let mac = flight.finished_mac();
            flight.finished_with(&mac[..31]);
            flight.application(&BAIT);
        }),
    ]
}

/// Chains with one thing wrong, each with a proof of its own key.
pub(super) fn chains(cast: &Cast) -> Vec<Attack> {
    let mut rows: Vec<Attack> = cast
        .impostors
        .iter()
        .map(|(name, _)| {
            let row = format!("chain: {name}");
            let name = name.clone();
            Attack::refused(&row, move |flight, cast| {
                let impostor = cast.impostor(&name);
                flight.opening();
                flight.certificate(&impostor.chain);
                let transcript = flight.transcript();
                let scheme = impostor.scheme();
                flight.certificate_verify_as(scheme, SERVER_CONTEXT, &transcript, &impostor.key);
                finish(flight);
            })
        })
        .collect();
    let shown = |name: &str, entries: fn(&Cast) -> Vec<u8>| {
        Attack::refused(name, move |flight, cast| {
            flight.opening();
            flight.message(CERTIFICATE, &entries(cast));
            flight.certificate_verify(&cast.stranger.key);
            finish(flight);
        })
    };
    rows.extend([
        shown("chain: none", |_| vec![0, 0, 0, 0]),
        shown("chain: no message body", |_| Vec::new()),
        shown("chain: list longer than the message", |_| vec![0, 0xff, 0xff, 0xff, 0, 0, 9]),
        shown("chain: entry longer than the list", |_| vec![0, 0, 0, 5, 0xff, 0xff, 0xff, 0, 0]),
        shown("chain: a certificate of 4000 octets", |_| {
            let entry = [counted(3, &[0x30; 4000]), vec![0, 0]].concat();
            [vec![0], counted(3, &entry)].concat()
        }),
        shown("chain: a certificate of 60000 octets", |_| {
            let entry = [counted(3, &[0x30; 60_000]), vec![0, 0]].concat();
            [vec![0], counted(3, &entry)].concat()
        }),
        shown("chain: 200 empty certificates", |_| [vec![0], counted(3, &[0; 1000])].concat()),
        shown("chain: the broker's, twenty times", |cast| {
            let entry = [&[0, 0, 1, 0x30][..], &[0, 0]].concat();
            let own = [counted(3, &cast.broker.chain[0]), vec![0, 0]].concat();
            [vec![0], counted(3, &[own, entry.repeat(20)].concat())].concat()
        }),
    ]);
    rows
}

/// ServerHellos that lie. Where a flight can go on, the broker's own key is behind it.
pub(super) fn hellos() -> Vec<Attack> {
    let lie = |name: &str, change: fn(&mut crate::hostile::flight::Hello)| {
        Attack::refused(name, move |flight, cast| {
            flight.hello_with(change);
            flight.encrypted_extensions();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            finish(flight);
        })
    };
    let odd = |name: &str, change: fn(&mut crate::hostile::flight::Hello)| {
        Attack::survived(name, move |flight, cast| {
            flight.hello_with(change);
            flight.encrypted_extensions();
            flight.certificate_request();
            flight.certificate(&cast.broker.chain);
            flight.certificate_verify(&cast.broker.key);
            flight.finished();
        })
    };
    vec![
        lie("HelloRetryRequest", |hello| {
            hello.random = hash(b"HelloRetryRequest");
            hello.share = None;
            hello.extensions = extension(51, &[0, 23]);
        }),
        lie("HelloRetryRequest with a cookie", |hello| {
            hello.random = hash(b"HelloRetryRequest");
            hello.share = None;
            hello.extensions = [extension(51, &[0, 23]), extension(44, &counted(2, &[1; 100]))].concat();
        }),
        lie("key share missing", |hello| hello.share = None),
        lie("key share empty", |hello| hello.share = Some(Vec::new())),
        lie("key share is the point at infinity", |hello| hello.share = Some(vec![0])),
        lie("key share not on the curve", |hello| {
            hello.share = Some([&[4][..], &[1; 64]].concat());
        }),
        lie("key share of X25519", |hello| {
            hello.group = 0x001d;
            hello.share = Some(vec![9; 32]);
        }),
        lie("key share of an unknown group", |hello| hello.group = 0x7777),
        lie("many extensions", |hello| {
            hello.extensions = extension(44, &[0, 1, 7]).repeat(9);
        }),
        lie("an extension a ServerHello must not have", |hello| hello.extensions = extension(0, &[])),
        Attack::refused("pre-shared key nobody offered, no Certificate", |flight, _| {
            flight.hello_with(|hello| hello.extensions = extension(41, &[0, 0]));
            flight.encrypted_extensions();
            finish(flight);
        }),
        Attack::refused("two ServerHellos", |flight, cast| {
            flight.hello();
            flight.plain_message(SERVER_HELLO, &[3; 80]);
            flight.certificate(&cast.broker.chain);
            finish(flight);
        }),
        Attack::refused("ClientHello sent back", |flight, _| {
            let message = flight.client.message.clone();
            flight.raw(&plain(HANDSHAKE, &message));
        }),
        Attack::refused("ServerHello cut short", |flight, _| {
            flight.raw(&plain(HANDSHAKE, &[SERVER_HELLO, 0, 0, 80, 3, 3, 1, 2]));
        }),
        Attack::refused("ServerHello of no octets", |flight, _| {
            flight.raw(&plain(HANDSHAKE, &[SERVER_HELLO, 0, 0, 0]));
        }),
        odd("another cipher suite than offered", |hello| hello.suite = 0x1302),
        odd("no supported_versions", |hello| hello.version = None),
        odd("supported_versions says TLS 1.2", |hello| hello.version = Some(0x0303)),
    ]
}
