//! Muster's simulated fleet: the real agent on tokio, many to a process.
//!
//! A simulated device is `muster-firmware` itself on a [`board::Board`] of host parts: TCP by tokio, flash
//! with NOR semantics in memory or in a file, a factory port that is one end of a pipe. Nothing of the agent
//! is imitated; what a device does here it does on a board.
//!
//! A device is born as a board is: [`flash::Flash::flashed`] writes the vendor page and the first seed, a
//! station provisions it over [`Device::factory_port`], and it keeps its flash when the plug is pulled
//! ([`Device::unplug`]) for the next [`Device::spawn`].
//!
//! The agent's futures belong to one thread: spawn devices inside a [`tokio::task::LocalSet`], or give
//! each of a few threads its share ([`fleet`]).
//!
//! | module | one idea |
//! |---|---|
//! | [`device`] | a running device, its log and its port |
//! | [`board`] | the firmware's `Platform`, of host parts |
//! | [`flash`] | NOR flash in memory, saved to a file on demand |
//! | [`serial`] | a factory port whose cable can be pulled |
//! | [`log`] | lines, kept and waited for |
//! | [`fleet`] | devices spread over threads |
//! | [`tally`] | what a fleet has done, counted from its logs |
#![forbid(unsafe_code)]

pub mod board;
pub mod device;
pub mod flash;
pub mod fleet;
pub mod log;
pub mod serial;
pub mod tally;

pub use board::{Entropy, Route};
pub use device::{Config, Device};
pub use flash::Flash;
pub use fleet::Fleet;
pub use log::Log;
pub use tally::Tally;
