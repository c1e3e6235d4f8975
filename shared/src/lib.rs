//! The words of Muster, and the wire between its rooms.
//!
//! Every other crate imports this one; it imports none of them. It is `no_std`, allocates nothing
//! and holds no key. What a word means is decided here once:
//!
//! | module | decides |
//! |---|---|
//! | [`id`] | what a tenant, a device id, a serial, a certificate id looks like |
//! | [`topic`] | how a topic is spelled, and what a device may do with it |
//! | [`telemetry`], [`credential`] | the messages on those topics |
//! | [`continuity`] | where a continuity token stands in CONNECT and CONNACK |
//! | [`factory`], [`frame`] | what a station and a blank device say to each other, and how it is framed |
//! | [`vendor`] | the page a board carries from its flasher: the root it trusts, its first entropy |
//! | [`code`](mod@code) | every refusal: its code, its words, what to do next |
//! | [`limits`] | every bound, with its source |
//!
//! # Invariants
//!
//! - A value of an id type is valid: the constructor is the check.
//! - A topic is spelled in [`topic`] and nowhere else.
//! - A wire format is frozen by the golden bytes in `tests/wire/`. A message may gain a field only at
//!   its end and only under a new version; a reader refuses a version it does not know by name
//!   ([`WIRE_MIN`] to [`WIRE_CURRENT`]).

#![no_std]
#![forbid(unsafe_code)]

pub mod code;
pub mod continuity;
pub mod credential;
pub mod factory;
pub mod frame;
pub mod id;
pub mod limits;
pub mod telemetry;
pub mod topic;
pub mod vendor;

pub use code::Code;
pub use id::{BatchId, CertificateId, DeviceId, Generation, SerialNumber, ServiceName, StationId, Tenant};

/// Oldest wire version this crate reads.
pub const WIRE_MIN: u8 = 1;
/// Wire version this crate writes.
pub const WIRE_CURRENT: u8 = 1;
