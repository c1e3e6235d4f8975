//! What the fuzzers are started from, and what they found: each octet string through its target again.

use std::path::Path;

use muster_pki::{DeviceIdentity, ServiceIdentity, testing};

use crate::site::{HIERARCHY, now_s};

#[path = "../../fuzz/src/codec.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod codec;
#[path = "../../fuzz/src/identity.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod identity;
#[path = "../../fuzz/src/namespace.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod namespace;
#[path = "../../fuzz/src/proxy.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod proxy;
#[path = "../../fuzz/src/session.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod session;

/// Runs every file of a target's corpus.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "a corpus of {}", files.len());
    for file in files {
        // Named before it runs: a panic inside says where, not with what.
        println!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn the_codecs_corpus_holds() {
    replay("codec", codec::run);
}

#[test]
fn the_sessions_corpus_holds() {
    replay("session", session::run);
}

#[test]
fn the_namespaces_corpus_holds() {
    replay("namespace", namespace::run);
}

/// The corpora are short: what a device may do is tried with as many octets again, the same in each run.
#[test]
fn a_device_keeps_to_its_namespace_whatever_it_does() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..5000 {
        let octets: Vec<u8> = (0..62)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed as u8
            })
            .collect();
        namespace::run(&octets);
    }
}

#[test]
fn the_identity_parsers_corpus_holds() {
    replay("identity", identity::run);
}

/// No corpus holds certificates that end: they are made here, and each octet of them is damaged once.
#[test]
fn a_service_s_certificate_is_read_as_nothing_else_however_it_is_damaged() {
    let whole = testing::named(&HIERARCHY.service, "historian", now_s()).chain.remove(0);
    assert!(
        ServiceIdentity::from_certificate(&whole).is_ok()
            && DeviceIdentity::from_certificate(&whole).is_err()
    );
    for at in 0..whole.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= bit;
            identity::run(&damaged);
        }
    }
    let device = testing::device(&HIERARCHY, &testing::subject("MU-000001"), now_s()).chain.remove(0);
    assert!(ServiceIdentity::from_certificate(&device).is_err());
    identity::run(&device);
}

#[test]
fn the_proxy_parsers_corpus_holds() {
    replay("proxy", proxy::run);
}
