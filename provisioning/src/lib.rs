//! The factory: from a blank board and a reviewed plan to a certified device and a signed manifest.
//!
//! ```text
//! ceremony   one reviewed TOML ──► root/  server/  stations/NAME/  flasher/  transcript.txt
//! run        station/ + board  ──► a certified, locked unit, and its records in the journal
//! close      journal           ──► BATCH.muster, signed and hash-chained, for the server
//! ```
//!
//! # Invariants
//!
//! - A private key of a device is never here: what comes out of a unit is a public key and signatures.
//! - A step leaves the station only after its record is on disk ([`journal`]).
//! - The controller of a unit ([`station`]) opens nothing, reads no clock and draws no number: octets, time
//!   and randomness go in, commands come out. Any frame may be lost, repeated or damaged, and either side may
//!   restart at any step; a rerun resumes where both sides agree.
//! - A known serial with another key is a hard stop.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | [`ceremony`], [`stations`], [`sign`] | one reviewed file → keys, certificates, records, a transcript; stations and authorities the root signs later |
//! | [`station`] | the sans-IO controller of one unit |
//! | [`journal`] | what a station remembers: append, checksum, fsync, replay |
//! | [`run`] | the controller, the journal, the authority and a port, brought together |
//! | [`port`] | the only file that opens a port |
//! | [`batch`] | closing a batch, verifying a manifest |
//! | [`order`] | what a unit is to become, from a file and flags |
//! | [`screen`] | what the operator sees |
//! | [`fault`], [`secret`] | the one error anatomy; where a passphrase comes from |

#![forbid(unsafe_code)]

pub mod batch;
pub mod ceremony;
pub mod fault;
pub mod journal;
pub mod order;
pub mod port;
pub mod run;
pub mod screen;
pub mod secret;
pub mod sign;
pub mod station;
pub mod stations;
