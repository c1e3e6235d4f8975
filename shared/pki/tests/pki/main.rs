//! What muster-pki promises, checked from outside with other people's parsers.

mod authority;
mod bundle;
mod csr;
mod lists;
mod manifest;
mod odd;
mod profile;
mod station;

/// 2026-11-22T14:02:11Z, the moment of every test.
pub const NOW_S: i64 = 1_795_356_131;
