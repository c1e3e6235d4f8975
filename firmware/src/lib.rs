//! Muster's device: the portable firmware.
//!
//! `no_std`, no allocation, no unsafe code, no HAL and no executor. A board implements
//! [`platform::Platform`], puts [`Resources`] into a `StaticCell` and awaits [`run`]; nothing else of it
//! is known here. The same code runs on a host against `testing` (feature `testing`) and in the simulator.
//!
//! | module | is |
//! |---|---|
//! | [`platform`] | the one trait a board writes, and the layout of its flash |
//! | [`drive`] | the shell: the only folder that waits; factory port, sessions |
//! | [`agent`] | what the device does next, sans-IO; [`log`] says it |
//! | [`enrol`] | the factory responder; [`x509`] its signing request and its view of certificates |
//! | [`credentials`], [`store`] | birth and two operational slots; records on flash, with their specification |
//! | [`entropy`] | a seed and a counter committed before use |
//! | [`tls`], [`verify`] | the checked connection, and whom it believes |
//! | [`mqtt`], [`outbox`] | MQTT 5, telemetry until its PUBACK |
//! | [`command`], [`report`] | commands from the fleet; what the device says of itself |
//! | [`nor`] | NOR flash made of memory, for emulated boards and hosts |
//!
//! # Invariants
//!
//! - The private key is made here and never leaves: no message carries one.
//! - No key is made and no TLS is run in a start whose entropy counter was not committed and read back.
//! - Whoever holds a [`tls::Checked`] talks to a broker the root-signed anchors vouch for. Nothing but
//!   [`tls::connect`] makes one, and it does so only after certificate and proof, once each, in order.
//! - No octet from the network or the factory port makes the device panic or wait for ever.
//! - A slot, a stage of provisioning and a telemetry message are in flash before anybody is told of them;
//!   after a power cut at any operation each is there or not, never half.
//! - A continuity token is in flash before anything else of the session that gave it; until then, and
//!   after a power cut, the one before is shown again.
//! - Telemetry keeps its name (boot, seq) from the moment it is stored until its PUBACK.
//! - The factory port closes for good; after the lock it answers hello.
//!
//! # Memory
//!
//! | what | octets |
//! |---|---|
//! | [`Resources`]: TLS records 4352 + 2048, factory frames 5.2 k + 2.6 k, store 2.3 k, anchors 2.2 k, MQTT 2.0 k + 1.3 k, outbox 1.0 k, the rest | 24 k |
//! | the future of [`run`] | below 14 k |
//! | stack: one P-256 operation or one path validation at a time, no buffers | 8 k |
//!
//! A test holds the first two to it. With a board's network stack that is within 64 k.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

pub mod agent;
pub mod command;
pub mod credentials;
pub mod drive;
pub mod enrol;
pub mod entropy;
pub mod log;
pub mod mqtt;
pub mod nor;
pub mod outbox;
pub mod platform;
pub mod report;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod verify;
pub mod x509;

pub use drive::{Resources, run};
