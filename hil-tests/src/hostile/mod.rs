//! A TLS 1.3 server that breaks the rules on purpose.
//!
//! A device trusts whatever its TLS stack lets through, so the stack is tested against a peer that no honest
//! library can be made to play: this one sends any message, at any place, under any key. It speaks just enough
//! TLS 1.3 (RFC 8446) for one cipher suite (`TLS_AES_128_GCM_SHA256`), one group (P-256) and one signature
//! scheme of its own choosing.
//!
//! - [`record`]: the record layer and the key schedule.
//! - [`flight`]: what a server says, message by message, in whatever order it is told.
//! - [`chains`]: the certificates it shows, good and odd.
//! - [`attacks`]: the table: a name, a flight, and what the device must make of it.
//! - [`server`]: plays an attack on a connection and notes what the client gave away.
//!
//! Nothing here may be used to serve anybody.

pub mod attacks;
pub mod chains;
pub mod flight;
pub mod record;
pub mod server;

pub use attacks::{Attack, Verdict};
pub use chains::{Cast, Identity};
pub use server::{Seen, play};
