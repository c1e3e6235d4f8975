//! The registry: what every device is, may do and did; and who decided it.
//!
//! **Decisions** (lifecycle, import, operators) are one transaction each, with one audit row, one more
//! generation and one [`Change`]; the in-memory [`Verdicts`] flip before the decision is answered.
//! **Facts** (sessions, last seen, refusals, readings) go through [`Facts`]: coalesced, bounded, unaudited,
//! and never in the way of a device.
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
//! | [`verdict`], `index` | may this device talk now, from memory |
//! | [`decide`] | one device's decision |
//! | [`import`] | station records and manifests |
//! | [`audit`], [`changes`] | the hash chain; what a reader of decisions is told |
//! | [`facts`], [`session`] | what was seen |
//! | [`enforce`] | which decisions still have to end live sessions |
//! | [`operator`] | operators and their tokens |
//! | [`query`] | listings and one device's page |
//! | `sqlite` | the backend: how the file is opened, written and upgraded |

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use muster_shared::{Generation, SerialNumber};
use rustls_pki_types::CertificateDer;
use tokio::sync::broadcast;

pub mod audit;
pub mod changes;
pub mod decide;
pub mod device;
pub mod enforce;
mod error;
pub mod facts;
pub mod import;
mod index;
pub mod operator;
pub mod query;
pub mod session;
pub mod verdict;

pub use audit::{AuditHead, AuditReport, AuditRow};
pub use changes::Change;
pub use decide::{Decided, Reason, RevocationReason, Target};
pub use device::{Act, DeviceState};
pub use enforce::Unenforced;
pub use error::RegistryError;
pub use facts::{Claimed, Connected, Facts};
pub use import::{ImportReport, StationRow, Trusted};
pub use operator::{Actor, NewToken, Role};
pub use query::{DeviceDetail, DeviceFilter, DeviceRow, Page};
pub use session::{DisconnectReason, SessionId};
pub use verdict::{DeviceKey, DeviceName, Verdicts};

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
    verdicts: Arc<Verdicts>,
    changes: broadcast::Sender<Change>,
}

impl Registry {
    /// Opens, or makes, `registry.sqlite` in `data_dir`, upgrades its schema and loads every verdict.
    /// Decisions run on the tokio runtime this is called on, whoever asks for them.
    ///
    /// # Errors
    /// [`RegistryError`] when the file cannot be opened, upgraded or read.
    pub async fn open(data_dir: &Path) -> Result<Self, RegistryError> {
        let _ = data_dir;
        Err(RegistryError::Closed)
    }

    /// Writes what is pending and closes the files. Later calls fail with [`RegistryError::Closed`].
    pub async fn close(&self) {}

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
        Facts {}
    }

    /// Records the root that station records must be signed by. The same root again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; another root than the recorded one is refused.
    pub async fn trust_root(&self, actor: &Actor, root: &CertificateDer<'_>) -> Result<(), RegistryError> {
        let _ = (actor, root);
        Err(RegistryError::Closed)
    }

    /// Registers a station by its root-signed record. The same record again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; M408 for a record the root did not sign.
    pub async fn trust_station(&self, actor: &Actor, record: &[u8]) -> Result<Trusted, RegistryError> {
        let _ = (actor, record);
        Err(RegistryError::Closed)
    }

    /// Imports a manifest, row by row, in chain order.
    ///
    /// # Errors
    /// [`RegistryError`]; M401 to M406 when nothing was imported. Rows that were refused alone are in the report.
    pub async fn import_manifest(&self, actor: &Actor, bytes: &[u8]) -> Result<ImportReport, RegistryError> {
        let _ = (actor, bytes);
        Err(RegistryError::Closed)
    }

    /// Decides about one device: commits, then flips the verdict, then answers. Closing its sessions is
    /// [`crate::revocation`]'s.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 for a step the table does not have, M208 for no such device, M214 without a reason.
    pub async fn decide(
        &self,
        actor: &Actor,
        target: impl Into<Target>,
        act: Act,
        reason: &Reason,
    ) -> Result<Decided, RegistryError> {
        let _ = (actor, target.into(), act, reason);
        Err(RegistryError::Closed)
    }

    /// The device connected, perhaps for the first time: `Some` when this made it active, `None` when it
    /// was active before.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 when it may not talk any more.
    pub async fn first_connection(
        &self,
        device: DeviceKey,
        at_ms: u64,
    ) -> Result<Option<Decided>, RegistryError> {
        let _ = (device, at_ms);
        Err(RegistryError::Closed)
    }

    /// Records that a decision's live sessions have ended, and when. Idempotent.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn mark_enforced(
        &self,
        generation: Generation,
        enforced_at_ms: u64,
        sessions_ended: u64,
    ) -> Result<(), RegistryError> {
        let _ = (generation, enforced_at_ms, sessions_ended);
        Err(RegistryError::Closed)
    }

    /// Decisions whose live sessions have not been reported ended, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn unenforced(&self) -> Result<Vec<Unenforced>, RegistryError> {
        Err(RegistryError::Closed)
    }

    /// Devices that match, in the order of their serials, after the one named.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn devices(
        &self,
        filter: &DeviceFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeviceRow>, RegistryError> {
        let _ = (filter, after, limit);
        Err(RegistryError::Closed)
    }

    /// Everything about one device.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn device(&self, target: impl Into<Target>) -> Result<DeviceDetail, RegistryError> {
        let _: (Target, Option<SerialNumber>) = (target.into(), None);
        Err(RegistryError::Closed)
    }

    /// Registered stations, by name.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn stations(&self) -> Result<Vec<StationRow>, RegistryError> {
        Err(RegistryError::Closed)
    }

    /// Rows of the audit log after number `after`, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, RegistryError> {
        let _ = (after, limit);
        Err(RegistryError::Closed)
    }

    /// Reads the whole audit log and checks its chain; `checkpoint` is a head exported earlier, against a
    /// log that was cut and written anew.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot be read. A broken chain is an [`AuditReport`], not an error.
    pub async fn audit_verify(&self, checkpoint: Option<&AuditHead>) -> Result<AuditReport, RegistryError> {
        let _ = checkpoint;
        Err(RegistryError::Closed)
    }

    /// The newest row's number and digest: what an outside checkpoint keeps.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_head(&self) -> Result<AuditHead, RegistryError> {
        Err(RegistryError::Closed)
    }

    /// Makes a token for an operator (who is made with it), shown once: only its digest is kept.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn create_token(
        &self,
        actor: &Actor,
        new: &NewToken,
    ) -> Result<operator::Token, RegistryError> {
        let _ = (actor, new);
        Err(RegistryError::Closed)
    }

    /// Who speaks with this token.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for a token nobody has, M502 for one that has ended.
    pub async fn check_token(&self, token: &str) -> Result<Actor, RegistryError> {
        let _ = token;
        Err(RegistryError::Closed)
    }

    /// Ends a token now. One that has ended already stays ended.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn revoke_token(&self, actor: &Actor, token_id: &str) -> Result<(), RegistryError> {
        let _ = (actor, token_id);
        Err(RegistryError::Closed)
    }

    /// Every token, without what would let one use it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn tokens(&self) -> Result<Vec<operator::TokenRow>, RegistryError> {
        Err(RegistryError::Closed)
    }
}
