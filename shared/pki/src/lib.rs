//! Muster's certificates: who holds which key, who signs what, and what each certificate looks like.
//!
//! ```text
//!                         root CA            offline; signs CAs, station records, anchor sets
//!       ┌──────────┬─────────┼─────────┬─────────┬─────────┬─────────┐
//!    factory   operational broker    https    service  operator   station       each pathLen 0
//!  one a station   server  server    server    server    server    the root's keeper
//!       │          │         │         │         │         │         │
//!     birth   operational  broker    https    service  operator  station-manifest
//!    device      device    ≤ 30 d    API      MQTT     person    signs manifests
//! ```
//!
//! # Invariants
//!
//! - **The issuing CA alone decides what a certificate is.** A [`Purpose`] is written into a CA's name and
//!   checked against the root; a [`Profile`] follows from it. Callers name a profile, never parameters.
//! - What will be signed is recorded before it is signed ([`ledger`]), and the signature is deterministic
//!   (RFC 6979): one intent gives one certificate, whenever and however often it is signed.
//! - A certificate that does not fit its profile to the last octet is not one of ours ([`identity`]).
//! - A key leaves its file, its buffer and this crate only through `expose_secret`.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | [`profile`], [`name`], [`identity`] | what each certificate looks like: the writer, names, the strict reader |
//! | [`key`], [`keyfile`] | P-256 keys, what signs, keys at rest |
//! | [`ca`], [`hierarchy`], [`bundle`] | an issuing CA, all of them, and the folders they are handed over in |
//! | [`csr`], [`authority`], [`ledger`] | a checked request becomes a certificate |
//! | [`station`], [`manifest`], [`anchors`] | what the root signs for a station, what a station signs for a server, what a device pins |
//! | [`crl`], [`lint`] | revocation lists; what is wrong with a certificate, said field by field |
//! | `testing` | every odd chain by name, in memory (feature `testing`) |

#![forbid(unsafe_code)]

pub mod anchors;
pub mod authority;
pub mod bundle;
pub mod ca;
pub mod crl;
pub mod csr;
mod der;
pub mod hierarchy;
pub mod identity;
pub mod key;
pub mod keyfile;
pub mod ledger;
pub mod lint;
pub mod manifest;
pub mod name;
pub mod parallel;
pub mod profile;
mod sealed;
pub mod station;
#[cfg(feature = "testing")]
pub mod testing;
mod x509;

pub use authority::{Authority, Issued, Request};
pub use ca::{Ca, CaCertificate};
pub use csr::{VerifiedCaRequest, VerifiedCsr};
pub use identity::{DeviceIdentity, ServiceIdentity};
pub use key::{Passphrase, PublicKey, Signer, SoftKey};
pub use ledger::{Intent, Ledger, MemoryLedger};
pub use profile::{CertificateSerial, Profile, Purpose};
pub use station::{SerialRange, StationRecord};
