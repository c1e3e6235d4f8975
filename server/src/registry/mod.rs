//! The registry: what every device is, may do and did; and who decided it.
//!
//! **Decisions** (lifecycle, import, operators) are one transaction each, with one audit row, one more
//! generation and one [`Change`]; the in-memory [`Verdicts`] flip before the decision is answered.
//! **Facts** (sessions, refusals) go through [`Facts`], and what is newest of each device through [`Newest`]:
//! coalesced, bounded, unaudited, and never in the way of a device.
//!
//! # Invariants
//!
//! - What is committed and what the verdicts say differ only between a commit and the flip right after it,
//!   under the one writer's lock; a decision that was answered is in both.
//! - A decision runs to its end once begun, even when the one who asked goes away.
//! - An import never raises a state. A device that was revoked or decommissioned is known for ever by its
//!   certificate, its public key and its serial.
//! - Every row of the audit log holds the digest of the one before it.
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | [`device`] | states, acts, the transition table |
//! | [`verdict`], `index`, `tails`, `names` | may this device talk now, from memory |
//! | [`decide`] | one device's decision |
//! | [`replace`] | a board is swapped: one device's end, another's place |
//! | [`group`], [`rules`], `members` | a group's decision, which holds for its members now and later |
//! | [`station`], [`import`] | the root and the stations it vouches for; manifests |
//! | [`audit`], [`changes`] | the hash chain; what a reader of decisions is told |
//! | [`facts`], [`session`], [`retention`] | what was seen, and how long it is kept |
//! | [`continuity`] | which continuity tokens a device was given, and has shown |
//! | [`enforce`] | which decisions still have to end live sessions |
//! | [`orders`], [`commands`] | what is ordered of a device without changing its state; commands and answers |
//! | [`actor`] | who acts: roles, and the tenants they are for |
//! | [`operator`], [`token`], [`login`] | operators; what they come with: tokens, links, sessions of the web page |
//! | [`newest`], [`readings`] | when a device was last heard of and what its sensors said, in memory and in its row |
//! | [`filter`] | which devices are asked for: the grammar of every search |
//! | [`overview`] | the fleet in a dozen figures |
//! | [`sizing`] | made-up fleets, to measure verdicts with |
//! | [`listing`], `standing` | which devices there are, by what is kept in their rows for it |
//! | [`query`], [`timeline`] | one device's page; what happened to it, a line each |
//! | [`label`], [`twin`] | tags, groups and notes; the state a device should be in |
//! | [`follow`] | what followers of facts are told |
//! | [`idempotency`], [`jobs`] | requests that are asked twice; one act on many devices |
//! | `decisions`, `factory` | what is decided about devices and groups; what comes from the factory |
//! | `asked`, `access` | what is asked about devices; who is let in |
//! | `open`, `load` | how the registry opens and closes; the file's word, into the verdicts |
//! | `commit` | how anything is written: to its end, by one at a time, told in order |
//! | [`backup`], [`export`] | the whole registry in a file of lines, and back; what another program reads of it |
//! | `health`, `recovery` | whether it can be written, and what is tried until it can |
//! | `database`, `sqlite` | SQLite or PostgreSQL: how it is opened, written and upgraded |

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use muster_pki::SoftKey;
use muster_shared::Generation;
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
    task::JoinHandle,
};

mod access;
pub mod activity;
pub mod actor;
mod asked;
pub mod audit;
pub mod backup;
pub mod batches;
pub mod certificates;
pub mod changes;
pub mod commands;
mod commit;
pub mod continuity;
pub mod database;
pub mod decide;
mod decisions;
pub mod device;
pub mod enforce;
mod error;
pub mod export;
mod factory;
pub mod facts;
pub mod filter;
pub mod follow;
pub mod group;
mod health;
mod held;
pub mod idempotency;
pub mod import;
mod index;
pub mod jobs;
pub mod label;
pub mod listing;
mod load;
pub mod login;
mod members;
mod names;
pub mod newest;
mod open;
pub mod operator;
pub mod orders;
pub mod overview;
pub mod query;
pub mod readings;
mod recovery;
pub mod replace;
pub mod retention;
pub mod rules;
pub mod session;
pub mod sizing;
pub(crate) mod sqlite;
mod standing;
pub mod station;
mod tails;
pub mod timeline;
pub mod token;
pub mod twin;
pub mod verdict;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use actor::{Actor, Need, Role, Scope};
pub use audit::{AuditFilter, AuditHead, AuditReport, AuditRow, checkpoint::Checkpoint};
pub use batches::{BatchRow, NewestManifest};
pub use changes::Change;
pub use database::{Place, PlaceError};
pub use decide::{Aim, Decided, Reason, RevocationReason, Target};
pub use device::{Act, DeviceState};
pub use enforce::Unenforced;
pub use error::RegistryError;
pub use facts::{Claimed, Connected, Facts, Notice};
pub use filter::{Filter, FilterError};
pub use group::{Group, Hold, KeyId};
pub(crate) use health::is_full;
pub use import::{ImportReport, RowRefused};
pub use listing::Listing;
pub use login::{Arrival, FailedLogin};
pub use newest::Newest;
pub use operator::OperatorRow;
pub use orders::{Order, Ordered};
pub use query::{DeviceDetail, DeviceRow, Page};
pub use rules::{GroupDecided, GroupTarget, OpenRule};
pub use session::{DisconnectReason, SessionId};
pub use station::{Differing, StationRow, Taking, Trusted};
pub use token::NewToken;
pub use verdict::{CertificateStatus, DeviceKey, DeviceName, Verdicts};

/// Now, in Unix milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The registry, open. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    database: database::Database,
    verdicts: Arc<Verdicts>,
    continuity: continuity::Continuity,
    audit_key: SoftKey,
    standing: audit::standing::Standing,
    changes: broadcast::Sender<Change>,
    facts: Facts,
    health: health::Health,
    newest: Arc<Newest>,
    /// Another server has taken the registry from this one.
    lost: watch::Sender<bool>,
    closing: watch::Sender<bool>,
    /// What writes the facts, the newest, and how devices stand.
    writers: parking_lot::Mutex<Vec<JoinHandle<()>>>,
    runtime: Handle,
}

/// The registry's file in the data directory.
pub const FILE: &str = "registry.sqlite";

impl Registry {
    /// What stands in the way of writing, as the last write found it. Asks nobody.
    #[must_use]
    pub fn trouble(&self) -> Option<&'static str> {
        self.inner.health.words()
    }

    /// May this device talk now, for every thread.
    #[must_use]
    pub fn verdicts(&self) -> Arc<Verdicts> {
        self.inner.verdicts.clone()
    }

    /// Every decision from now on, in order. A receiver that lags is told so and reads the audit log.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.changes.subscribe()
    }

    /// The generation of the newest decision.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.verdicts.generation()
    }

    /// A handle for what the edge sees: cheap to clone, never waits.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.inner.facts.clone()
    }
}
