//! What the fuzzers are started from, and what they found: each octet string through its target again.

use std::path::Path;

#[path = "../../fuzz/src/codec.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod codec;
#[path = "../../fuzz/src/identity.rs"]
#[allow(unreachable_pub, reason = "public where it is a crate's")]
mod identity;
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
fn the_identity_parsers_corpus_holds() {
    replay("identity", identity::run);
}

#[test]
fn the_proxy_parsers_corpus_holds() {
    replay("proxy", proxy::run);
}
