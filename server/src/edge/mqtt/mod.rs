//! MQTT 3.1.1 and 5.0 as the server speaks them, without a socket, a clock or an `.await`.
//!
//! [`codec`] finds packets in octets, [`property`] and [`mod@packet`] read them, [`session`] is what a client
//! may do and what becomes of it, `v3` and `v5` are what the server says in each version. Octets and the
//! time go in; octets and [`session::Command`]s come out.
//!
//! The packets of a device are its own affair until they were checked: nothing here believes a length, a
//! topic or an identifier before that, and no input panics (property tests hold it to that).

pub mod codec;
pub mod packet;
pub mod property;
pub mod session;
mod v3;
mod v5;

use codec::{Write, varint_len};
use muster_shared::Code;
use packet::Qos;

/// The reason string of a refusal, as MQTT 5 carries it: its code and its words. Our firmware reads the code back
/// ([`Code::from_reason`]).
#[must_use]
pub fn reason(code: Code) -> String {
    format!("{} {}", code.id(), code.words())
}

/// A PUBLISH of the server.
struct Outgoing<'a> {
    topic: &'a str,
    payload: &'a [u8],
    qos: Qos,
    /// 0 at QoS 0.
    id: u16,
    dup: bool,
    retain: bool,
    /// The publisher's, as they came; MQTT 5 only, as is what follows.
    properties: &'a [u8],
    waited_s: u32,
    /// A topic alias, and whether the client knows already what it stands for.
    alias: Option<(u16, bool)>,
}

impl Outgoing<'_> {
    fn first(&self) -> u8 {
        0x30 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain)
    }
}

/// Writes a packet: its first octet, its remaining length, what `body` writes.
fn packet(out: &mut Vec<u8>, first: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(first);
    counted(out, body);
}

/// Writes what `body` writes, after its length as a variable byte integer. Nearly all lengths take one
/// octet; a longer one moves what was written.
fn counted(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    body(out);
    let len = (out.len() - at - 1) as u32;
    if varint_len(len) == 1 {
        out[at] = len as u8;
    } else {
        let mut head = Vec::with_capacity(4);
        head.put_varint(len);
        out.splice(at..=at, head);
    }
}
