//! What muster-pki promises, checked from outside with other people's parsers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authority;
mod bundle;
mod csr;
mod lists;
mod manifest;
mod odd;
mod profile;
mod station;

/// 2026-11-22T14:02:11Z, the moment of every test.
pub(crate) const NOW_S: i64 = 1_795_356_131;
