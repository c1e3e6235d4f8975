//! The registry on SQLite, in the data directory.

#![allow(clippy::duplicate_mod, reason = "the same files run on the other database")]

use crate::rig::Place;

#[path = "approval.rs"]
mod approval;
#[path = "connecting.rs"]
mod connecting;

/// Nothing beside the data directory.
struct Home;

impl Home {
    fn new() -> Self {
        Self
    }

    fn place(&self) -> Place {
        Place::new()
    }
}
