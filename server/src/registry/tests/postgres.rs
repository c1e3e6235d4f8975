//! The suite on PostgreSQL, on a server of each test's own.

#![allow(clippy::duplicate_mod, reason = "the same files run on the other database")]

use crate::registry::testing::{FleetOn, Postgres};

type Fleet = FleetOn<Postgres>;

#[path = "asked.rs"]
mod asked;
#[path = "audit.rs"]
mod audit;
#[path = "commands.rs"]
mod commands;
#[path = "copies.rs"]
mod copies;
#[path = "decisions.rs"]
mod decisions;
#[path = "facts.rs"]
mod facts;
#[path = "held.rs"]
mod held;
#[path = "import.rs"]
mod import;
#[path = "newest.rs"]
mod newest;
#[path = "operators.rs"]
mod operators;
#[path = "replace.rs"]
mod replace;
#[path = "started.rs"]
mod started;
#[path = "twin.rs"]
mod twin;
