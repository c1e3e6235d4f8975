//! The registry on PostgreSQL, a server of each test's own.

#![allow(clippy::duplicate_mod, reason = "the same files run on the other database")]

use crate::{postgres::Postgres, rig::Place};

#[path = "approval.rs"]
mod approval;
#[path = "connecting.rs"]
mod connecting;

/// The database's server; it ends when this is dropped.
struct Home(Postgres);

impl Home {
    fn new() -> Self {
        Self(Postgres::start())
    }

    fn place(&self) -> Place {
        Place::with_registry(Some(&self.0.database()))
    }
}
