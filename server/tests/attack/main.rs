//! What somebody who means harm may send, by name. Each attack is made on the real edge over real sockets
//! while another device goes on publishing: it is served throughout, and when the attack is over the
//! process has its memory back. [`corpora`] replays what the fuzzers found.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

#[path = "../edge/client.rs"]
#[allow(dead_code, reason = "shared with the tests of the edge")]
mod client;
mod corpora;
mod floods;
mod packets;
mod revoked;
mod siege;
#[path = "../edge/site.rs"]
#[allow(dead_code, reason = "shared with the tests of the edge")]
mod site;
mod topics;
