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
//! | `load` | the file's word, into the verdicts |
//! | [`backup`], [`export`] | the whole registry in a file of lines, and back; what another program reads of it |
//! | `health`, `recovery` | whether it can be written, and what is tried until it can |
//! | `database`, `sqlite` | SQLite or PostgreSQL: how it is opened, written and upgraded |

use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use muster_pki::{PublicKey, Signer as _, SoftKey, StationRecord};
use muster_shared::{BatchId, CertificateId, Code, Generation, Tenant};
use rustls_pki_types::CertificateDer;
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
    task::JoinHandle,
};

pub mod activity;
pub mod actor;
pub mod audit;
pub mod backup;
pub mod batches;
pub mod certificates;
pub mod changes;
pub mod commands;
pub mod continuity;
pub mod database;
pub mod decide;
pub mod device;
pub mod enforce;
mod error;
pub mod export;
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
/// Changes a reader may be behind before it must read the audit log instead.
const CHANGES_MAX: usize = 4096;

impl Inner {
    /// Waits for the writer. After a commit that failed nobody knows what is in the file until it was asked:
    /// so the verdicts are read back before anything else is written.
    async fn writer(&self) -> Result<database::Writer<'_>, RegistryError> {
        let mut writer = match self.database.writer().await {
            Err(held @ RegistryError::Held(_)) => {
                self.lost.send_replace(true);
                return Err(held);
            }
            writer => writer?,
        };
        if writer.unsettled {
            let read = self.load(writer.connection()?).await;
            if let Err(error) = read {
                writer.fail();
                return Err(error);
            }
            tracing::warn!("a commit failed; the verdicts were read back from the file");
        }
        Ok(writer)
    }

    /// Reads every verdict from the file.
    async fn load(&self, connection: &mut database::Connection) -> Result<(), RegistryError> {
        rules::load(self, connection).await?;
        load::issuers(self, connection).await?;
        load::devices(self, connection).await?;
        continuity::load(self, connection).await?;
        let (generation,): (i64,) =
            sqlx::query_as("SELECT generation FROM registry WHERE one = 1").fetch_one(connection).await?;
        self.verdicts.set_generation(Generation(database::uint(generation)));
        Ok(())
    }

    /// Commits. From the moment this returns `Ok` the decision is made.
    async fn commit(&self, tx: database::Tx<'_>) -> Result<(), RegistryError> {
        tx.commit().await?;
        self.health.works();
        Ok(())
    }

    /// Tells the readers. Under the writer's lock, after the flip: they hear of decisions in order.
    fn announce(&self, stamp: audit::Stamp, what: changes::What) {
        self.verdicts.set_generation(stamp.generation);
        let change = Change { generation: stamp.generation, audit_no: stamp.no, at_ms: stamp.at_ms, what };
        // Nobody listening is not an error.
        let _ = self.changes.send(change);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.facts.close();
        self.newest.close();
    }
}

/// Makes the one row of a new registry, or reads where an old one stands.
async fn begin(connection: &mut database::Connection) -> Result<(), RegistryError> {
    let mut node = [0_u8; 8];
    SystemRandom::new()
        .fill(&mut node)
        .map_err(|_| RegistryError::Database("the system's random source failed".into()))?;
    sqlx::query(
        "INSERT INTO registry (one, node, generation, audit_no, audit_digest) VALUES (1, $1, 0, 0, $2)
         ON CONFLICT (one) DO NOTHING",
    )
    .bind(hex::encode(node))
    .bind(AuditHead::EMPTY.digest.as_slice())
    .execute(&mut *connection)
    .await?;
    // A session that was open when the process ended was ended by that.
    sqlx::query("UPDATE session SET ended_at_ms = $1, reason = $2 WHERE ended_at_ms IS NULL")
        .bind(database::int(now_ms()))
        .bind(DisconnectReason::ServerShutdown.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

impl Registry {
    /// Opens, or makes, `registry.sqlite` in `data_dir`, upgrades its schema and loads every verdict.
    /// Decisions run on the tokio runtime this is called on, whoever asks for them.
    ///
    /// # Errors
    /// [`RegistryError`] when the file, or the key beside it, cannot be opened, upgraded or read.
    pub async fn open(data_dir: &Path) -> Result<Self, RegistryError> {
        Self::open_at(data_dir, &Place::in_dir(data_dir)).await
    }

    /// The same at another place; the key of continuity tokens stays in `data_dir`.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Held`] when another server writes that registry.
    pub async fn open_at(data_dir: &Path, place: &Place) -> Result<Self, RegistryError> {
        let database = database::Database::open(place).await?;
        let continuity = continuity::Continuity::open(data_dir)?;
        let audit_key = audit::checkpoint::open_key(data_dir)?;
        let mut writer = database.writer().await?;
        begin(writer.connection()?).await?;
        database.take(writer.connection()?).await?;
        continuity::begin(writer.connection()?, &continuity.key).await?;
        let (last_session,): (i64,) = sqlx::query_as("SELECT coalesce(max(id), 0) FROM session")
            .fetch_one(writer.connection()?)
            .await?;
        let devices = load::size(writer.connection()?).await?;
        drop(writer);
        let verdicts = Verdicts::open(data_dir, devices, devices)
            .map_err(|source| RegistryError::Key { path: data_dir.to_owned(), source })?;
        let verdicts = Arc::new(verdicts);
        let newest = Arc::new(Newest::new(verdicts.clone()));
        let inner = Arc::new(Inner {
            database,
            continuity,
            audit_key,
            standing: audit::standing::Standing::default(),
            verdicts,
            changes: broadcast::channel(CHANGES_MAX).0,
            facts: Facts::new(database::uint(last_session) + 1, newest.clone()),
            health: health::Health::default(),
            newest: newest.clone(),
            closing: watch::channel(false).0,
            lost: watch::Sender::new(false),
            writers: parking_lot::Mutex::default(),
            runtime: Handle::current(),
        });
        {
            let mut connection = inner.database.readers().acquire().await?;
            inner.load(&mut connection).await?;
            inner.verdicts.settle();
        }
        let facts = tokio::spawn(facts::run(inner.facts.clone(), Arc::downgrade(&inner)));
        let newest = tokio::spawn(newest::run(newest, Arc::downgrade(&inner)));
        let standing = tokio::spawn(standing::run(inner.closing.subscribe(), Arc::downgrade(&inner)));
        *inner.writers.lock() = vec![facts, newest, standing];
        drop(tokio::spawn(recovery::run(Arc::downgrade(&inner))));
        Ok(Self { inner })
    }

    /// Resolves when another server has taken the registry: what this one says from then on may be old, and
    /// it must stop. Only a database on a server can be taken.
    pub async fn lost(&self) {
        let mut lost = self.inner.lost.subscribe();
        // The sender lives as long as this call.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Writes what is pending and closes the files. Later calls fail with [`RegistryError::Closed`].
    pub async fn close(&self) {
        self.inner.facts.close();
        self.inner.newest.close();
        self.inner.closing.send_replace(true);
        let writers = std::mem::take(&mut *self.inner.writers.lock());
        for writer in writers {
            // It ends by itself after the last write; a panic in it has been reported by the runtime.
            let _ = writer.await;
        }
        self.inner.database.close().await;
    }

    /// Runs a decision to its end, even if the one who asked stops waiting for it.
    async fn run<T, F>(&self, decision: impl FnOnce(Arc<Inner>) -> F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        let task = self.inner.runtime.spawn(decision(self.inner.clone()));
        let done = task.await.map_err(|_| RegistryError::Closed)?;
        done.inspect_err(|error| self.inner.health.failed(error))
    }

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

    /// Records the root that station records must be signed by. The same root again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; another root than the recorded one is refused.
    pub async fn trust_root(&self, actor: &Actor, root: &CertificateDer<'_>) -> Result<(), RegistryError> {
        let (actor, root) = (actor.clone(), root.clone().into_owned());
        self.run(|inner| async move { station::trust_root(&inner, &actor, &root).await }).await
    }

    /// Registers a station by its root-signed record; of two that differ, the one signed later counts. The same
    /// record again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; M408 for a record the root did not sign, M409 for one that does not go together with
    /// those of other stations.
    pub async fn trust_station(&self, actor: &Actor, record: &[u8]) -> Result<Trusted, RegistryError> {
        let taking = Taking { differing: Differing::Newest, ..Taking::default() };
        self.take_station(actor, record, &taking).await
    }

    /// The same with a say in what becomes of a record that differs from the registered one.
    ///
    /// # Errors
    /// As [`Registry::trust_station`].
    pub async fn take_station(
        &self,
        actor: &Actor,
        record: &[u8],
        taking: &Taking,
    ) -> Result<Trusted, RegistryError> {
        let (actor, record, taking) = (actor.clone(), record.to_vec(), taking.clone());
        self.run(|inner| async move { station::trust_station(&inner, &actor, &record, &taking).await }).await
    }

    /// Imports a manifest, row by row, in chain order.
    ///
    /// # Errors
    /// [`RegistryError`]; M401 to M406 when nothing was imported. Rows that were refused alone are in the report.
    pub async fn import_manifest(&self, actor: &Actor, bytes: &[u8]) -> Result<ImportReport, RegistryError> {
        let (actor, bytes) = (actor.clone(), Arc::from(bytes));
        self.run(|inner| async move { import::import_manifest(&inner, &actor, bytes).await }).await
    }

    /// Takes devices in from a list of their certificates: a report for each row, in the order of the lines.
    ///
    /// # Errors
    /// [`RegistryError`] when nothing was taken in for a reason that is no row's.
    pub async fn import_listed(
        &self,
        actor: &Actor,
        list: import::Listed,
    ) -> Result<Vec<import::RowReport>, RegistryError> {
        let actor = actor.clone();
        self.run(|inner| async move { import::import_listed(&inner, &actor, list).await }).await
    }

    /// Some lines of an export, and what comes next; `None` after the last.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn export(
        &self,
        at: export::Exporting,
    ) -> Result<Option<(String, export::Exporting)>, RegistryError> {
        export::next(&self.inner, at).await
    }

    /// Decides about one device: commits, then flips the verdict, then answers. Closing its sessions is
    /// [`crate::revocation`]'s.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 for a step the table does not have, M208 for no such device, M214 without a reason.
    pub async fn decide(
        &self,
        actor: &Actor,
        target: impl Into<decide::Aim>,
        act: Act,
        reason: &Reason,
    ) -> Result<Decided, RegistryError> {
        let (actor, whom, reason) = (actor.clone(), decide::Whom::Aim(target.into()), reason.clone());
        self.run(|inner| async move { decide::decide(&inner, &actor, whom, act, &reason, None).await }).await
    }

    /// Decides about a group: commits, then flips the verdicts of all its members, then answers. Closing their
    /// sessions is [`crate::revocation`]'s.
    ///
    /// # Errors
    /// [`RegistryError`]; M203 for a step there is not, M407 for no such batch, M214 without a reason, M532 when the
    /// group has changed since it was seen.
    pub async fn decide_group(
        &self,
        actor: &Actor,
        aim: impl Into<rules::GroupAim>,
        act: Act,
        reason: &Reason,
    ) -> Result<GroupDecided, RegistryError> {
        let (actor, aim, reason) = (actor.clone(), aim.into(), reason.clone());
        self.run(|inner| async move { rules::decide(&inner, &actor, &aim, act, &reason).await }).await
    }

    /// What a decision about a group would be about: the group as it is.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn group(
        &self,
        scope: &Scope,
        target: impl Into<GroupTarget>,
    ) -> Result<rules::GroupSeen, RegistryError> {
        rules::look(&self.inner, &target.into(), scope).await
    }

    /// Rules whose sessions have not been reported ended, or whose members' rows do not all follow yet,
    /// oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn open_rules(&self) -> Result<Vec<OpenRule>, RegistryError> {
        rules::open(&self.inner).await
    }

    /// Records that a rule's live sessions have ended, and when. The first report stands.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn mark_rule_enforced(
        &self,
        generation: Generation,
        enforced_at_ms: u64,
        sessions_ended: u64,
    ) -> Result<(), RegistryError> {
        self.run(|inner| async move {
            enforce::mark(&inner, enforce::OF_A_GROUP, generation, enforced_at_ms, sessions_ended).await
        })
        .await
    }

    /// Writes a revocation to the rows of the group's members, chunk by chunk. Can be repeated.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn follow_rule(&self, rule: OpenRule) -> Result<(), RegistryError> {
        self.run(|inner| async move { rules::follow(&inner, &rule).await }).await
    }

    /// Devices of a group that may not talk with any certificate they have: nothing that is kept of them may
    /// stay.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn silenced(&self, group: &Group) -> Result<Vec<DeviceKey>, RegistryError> {
        rules::to_purge(&self.inner, group).await
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
        let active = || self.inner.verdicts.state(device) == Some(DeviceState::Active);
        if active() {
            return Ok(None);
        }
        let row = self.inner.verdicts.row(device);
        let whom = decide::Whom::Row(row.ok_or_else(|| RegistryError::DeviceUnknown(format!("{device:?}")))?);
        let reason = Reason::new("");
        let decision = self.run(|inner| async move {
            let actor = Actor::server();
            decide::decide(&inner, &actor, whom, Act::FirstConnection, &reason, Some(at_ms)).await
        });
        match decision.await {
            // Another of its connections was first.
            Err(RegistryError::Transition { error, .. }) if error.from == DeviceState::Active => Ok(None),
            decided => decided.map(Some),
        }
    }

    /// Records that a decision's live sessions have ended, and when. The first report stands.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn mark_enforced(
        &self,
        generation: Generation,
        enforced_at_ms: u64,
        sessions_ended: u64,
    ) -> Result<(), RegistryError> {
        self.run(|inner| async move {
            enforce::mark(&inner, enforce::OF_A_DEVICE, generation, enforced_at_ms, sessions_ended).await
        })
        .await
    }

    /// Decisions whose live sessions have not been reported ended, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn unenforced(&self) -> Result<Vec<Unenforced>, RegistryError> {
        enforce::open(&self.inner).await
    }

    /// A page of devices.
    ///
    /// # Errors
    /// [`RegistryError`]; M504 for a cursor that is none of this order's.
    pub async fn list(&self, listing: &Listing) -> Result<Page<DeviceRow>, RegistryError> {
        listing::list(&self.inner, listing).await
    }

    /// Devices that match, in the order of their serials, after the cursor.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn devices(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeviceRow>, RegistryError> {
        let order = listing::Order { sort: listing::Sort::Serial, reverse: false };
        let after = after.map(str::to_owned);
        self.list(&Listing { tenant: None, filter: filter.clone(), order, after, limit }).await
    }

    /// How many devices match, of one tenant or of all; and whether those are all, or so many at least.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn count(
        &self,
        tenant: Option<&Tenant>,
        filter: &Filter,
    ) -> Result<(u64, bool), RegistryError> {
        listing::count(&self.inner, tenant, filter).await
    }

    /// The fleet at a glance: how many are in each state, and what needs somebody.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn summary(&self, tenant: Option<&Tenant>) -> Result<listing::Summary, RegistryError> {
        listing::summary(&self.inner, tenant).await
    }

    /// Everything about one device.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn device(&self, target: impl Into<Target>) -> Result<DeviceDetail, RegistryError> {
        query::device(&self.inner, &target.into()).await
    }

    /// What happened to a device and what it did, newest first; `after` is the `next` of the page before.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn timeline(
        &self,
        target: impl Into<Target>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<timeline::Event>, RegistryError> {
        timeline::timeline(&self.inner, &target.into(), None, after, limit).await
    }

    /// The same, of one kind of line only.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn timeline_of(
        &self,
        target: impl Into<Target>,
        only: Option<timeline::Only>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<timeline::Event>, RegistryError> {
        timeline::timeline(&self.inner, &target.into(), only, after, limit).await
    }

    /// Changes what is written on a device: tags, groups, a note. The aim's `seen` is the version of what was written
    /// on it, 0 for nothing yet.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device, M532 when something else was written since it was seen.
    pub async fn label(
        &self,
        actor: &Actor,
        aim: impl Into<decide::Aim>,
        edit: label::Edit,
    ) -> Result<label::Labels, RegistryError> {
        let (actor, aim) = (actor.clone(), aim.into());
        let edited =
            self.run(|inner| async move { label::edit(&inner, &actor, &aim, edit, "", false).await });
        edited.await.map(|(labels, _)| labels)
    }

    /// The same for a reason, as one of many: the number of the audit row, `None` when all of it was so already.
    ///
    /// # Errors
    /// As [`Registry::label`].
    pub async fn label_as_of(
        &self,
        actor: &Actor,
        target: &Target,
        edit: label::Edit,
        reason: &str,
    ) -> Result<Option<u64>, RegistryError> {
        let (actor, aim, reason) = (actor.clone(), decide::Aim::from(target), reason.to_owned());
        let edited =
            self.run(|inner| async move { label::edit(&inner, &actor, &aim, edit, &reason, true).await });
        edited.await.map(|(_, audit_no)| audit_no)
    }

    /// Records what an operator orders of a device without changing its state; call it before doing it.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn order(
        &self,
        actor: &Actor,
        target: impl Into<Target>,
        order: Order,
        reason: &str,
        detail: serde_json::Value,
    ) -> Result<Ordered, RegistryError> {
        let (actor, target, reason) = (actor.clone(), target.into(), reason.to_owned());
        self.run(|inner| async move { orders::record(&inner, &actor, &target, order, &reason, detail).await })
            .await
    }

    /// The fleet in a dozen figures.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn overview(
        &self,
        tenant: Option<&muster_shared::Tenant>,
    ) -> Result<overview::Overview, RegistryError> {
        overview::read(&self.inner, tenant).await
    }

    /// Imported batches, in the order of their first import, after the cursor.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn batches(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<BatchRow>, RegistryError> {
        batches::list(&self.inner, scope, after, limit).await
    }

    /// How many devices a scope has.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn device_count(&self, scope: &Scope) -> Result<u64, RegistryError> {
        let Some(tenant) = scope.tenant() else { return Ok(self.inner.verdicts.devices() as u64) };
        let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM device WHERE tenant = $1")
            .bind(tenant.as_str())
            .fetch_one(self.inner.database.readers())
            .await?;
        Ok(sqlite::uint(count))
    }

    /// A batch against what its station has made and handed over.
    ///
    /// # Errors
    /// [`RegistryError`]; M407 for no such batch.
    pub async fn batch(
        &self,
        tenant: Option<&Tenant>,
        batch: &BatchId,
    ) -> Result<batches::reconcile::Reconciled, RegistryError> {
        batches::reconcile::reconcile(&self.inner, tenant, batch).await
    }

    /// A manifest of a batch as it came: the newest, or the one of this place in its station's chain.
    ///
    /// # Errors
    /// [`RegistryError`]; M407 for no such batch, or manifest.
    pub async fn batch_manifest(
        &self,
        tenant: Option<&Tenant>,
        batch: &BatchId,
        sequence: Option<u64>,
    ) -> Result<Vec<u8>, RegistryError> {
        batches::reconcile::export(&self.inner, tenant, batch, sequence).await
    }

    /// Checks a batch's manifests again, and their rows against what is here.
    ///
    /// # Errors
    /// [`RegistryError`]; M407 for no such batch. What does not hold is in the answer.
    pub async fn verify_batch(
        &self,
        tenant: Option<&Tenant>,
        batch: &BatchId,
    ) -> Result<batches::reconcile::Verified, RegistryError> {
        batches::reconcile::verify(&self.inner, tenant, batch).await
    }

    /// Certificates that match, what ends first first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn certificates(
        &self,
        filter: &certificates::CertificateFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<certificates::Listed>, RegistryError> {
        certificates::list(&self.inner, filter, after, limit).await
    }

    /// The certificate with this digest.
    ///
    /// # Errors
    /// [`RegistryError`]; M314 for no such certificate.
    pub async fn certificate(
        &self,
        tenant: Option<&Tenant>,
        id: &CertificateId,
    ) -> Result<certificates::Listed, RegistryError> {
        certificates::find(&self.inner, tenant, id).await
    }

    /// The newest revoked certificates of a CA, by its key identifier.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn revoked_of(
        &self,
        issuer: &[u8],
        most: usize,
    ) -> Result<Vec<muster_pki::crl::Revoked>, RegistryError> {
        certificates::revoked(&self.inner, issuer, most).await
    }

    /// The certificates that were revoked one by one, whoever's they are, with why and when (Unix milliseconds);
    /// the registry need not know them.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn revoked_singly(
        &self,
    ) -> Result<Vec<(CertificateId, muster_pki::crl::RevocationReason, u64)>, RegistryError> {
        certificates::revoked_singly(&self.inner).await
    }

    /// Devices that may not talk: their place in the status list, and why.
    #[must_use]
    pub fn refused_devices(&self, tenant: Option<&Tenant>) -> Vec<(u64, Code)> {
        certificates::refused(&self.inner, tenant)
    }

    /// The stations' records, with how many devices each has made.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn factory_authorities(&self) -> Result<Vec<(StationRecord, u64)>, RegistryError> {
        station::made(self.inner.database.readers()).await
    }

    /// Registered stations, by name.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn stations(&self, scope: &Scope) -> Result<Vec<StationRow>, RegistryError> {
        station::stations(self.inner.database.readers(), scope).await
    }

    /// What is newest of every device: what a projection of the uplink log fills.
    #[must_use]
    pub fn newest(&self) -> Arc<Newest> {
        self.inner.newest.clone()
    }

    /// Stores what is newest of every device, and the cursor it ends at, now. It is stored without this too,
    /// from time to time and when the registry closes. Unaudited.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn store_newest(&self) -> Result<(), RegistryError> {
        self.run(|inner| async move { newest::store(&inner).await }).await
    }

    /// How far a projection has come; `None` when it never ran.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn projected(&self, projection: &str) -> Result<Option<String>, RegistryError> {
        match self.inner.newest.cursor(projection) {
            Some(cursor) => Ok(Some(cursor)),
            None => newest::stored_cursor(&self.inner, projection).await,
        }
    }

    /// Takes what devices reported to run. Unaudited.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn report_firmware(
        &self,
        versions: HashMap<DeviceKey, filter::Version>,
    ) -> Result<(), RegistryError> {
        self.run(|inner| async move { standing::report_firmware(&inner, &versions).await }).await
    }

    /// Rows of the audit log after number `after`, oldest first, whosever they are.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        Ok(audit::list(&mut connection, after, i64::from(limit)).await?)
    }

    /// What a scope sees of the audit log, filtered, after the row of this number.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_page(
        &self,
        scope: &Scope,
        filter: &AuditFilter,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Page<AuditRow>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        audit::page(&mut connection, scope, filter, after, limit).await
    }

    /// Reads the whole audit log and checks its chain and its signed checkpoints; `outside` is a head that
    /// was kept elsewhere, against a log that was cut and written anew.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot be read. A broken chain is an [`AuditReport`], not an error.
    pub async fn audit_verify(&self, outside: Option<&AuditHead>) -> Result<AuditReport, RegistryError> {
        let key = *self.inner.audit_key.public_key();
        let at_ms = now_ms();
        let report = audit::verify(self.inner.database.readers(), Some(&key), outside, None).await?;
        if outside.is_none() {
            self.inner.standing.keep(&report, at_ms);
        }
        Ok(report)
    }

    /// Signs where the audit log stands now.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_checkpoint(&self) -> Result<Checkpoint, RegistryError> {
        self.run(|inner| async move { audit::checkpoint::make(&inner).await }).await
    }

    /// The signed checkpoints of row `from` and later, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_checkpoints(&self, from: u64) -> Result<Vec<Checkpoint>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        audit::checkpoint::list(&mut connection, from).await
    }

    /// The public half of the key that signs checkpoints.
    #[must_use]
    pub fn audit_key(&self) -> PublicKey {
        *self.inner.audit_key.public_key()
    }

    /// The newest row's number and digest: what an outside checkpoint keeps.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_head(&self) -> Result<AuditHead, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        audit::head(&mut connection).await
    }

    /// Adds an operator; one who was removed comes back without what they had. Answers the name in full.
    ///
    /// # Errors
    /// [`RegistryError`]; M503 for more than the actor has, M524 for a name that is taken.
    pub async fn add_operator(&self, actor: &Actor, name: &str, role: Role) -> Result<String, RegistryError> {
        let (actor, name) = (actor.clone(), name.to_owned());
        self.run(|inner| async move { operator::add(&inner, &actor, &name, role).await }).await
    }

    /// Changes the most an operator may do; what they came with is limited by it at once. `seen` is the version of
    /// them that was seen, where one was.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 for nobody, M503 for more than the actor has, M524 for the last admin, M532 when they
    /// have changed since they were seen.
    pub async fn set_operator_role(
        &self,
        actor: &Actor,
        name: &str,
        (role, seen): (Role, Option<u64>),
        reason: &str,
    ) -> Result<String, RegistryError> {
        let (actor, name, reason) = (actor.clone(), name.to_owned(), reason.to_owned());
        self.run(
            |inner| async move { operator::set_role(&inner, &actor, &name, (role, seen), &reason).await },
        )
        .await
    }

    /// Removes an operator with their tokens, sessions and links.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 for nobody, M503 for one above the actor, M524 for the last admin.
    pub async fn remove_operator(
        &self,
        actor: &Actor,
        (name, seen): (&str, Option<u64>),
        reason: &str,
    ) -> Result<String, RegistryError> {
        let (actor, name, reason) = (actor.clone(), name.to_owned(), reason.to_owned());
        self.run(|inner| async move { operator::remove(&inner, &actor, (&name, seen), &reason).await }).await
    }

    /// Every operator of a scope, removed ones too.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn operators(&self, scope: &Scope) -> Result<Vec<OperatorRow>, RegistryError> {
        operator::list(self.inner.database.readers(), scope).await
    }

    /// Makes a link that lets an operator in once, within [`login::LINK_MS`]; `role` makes an operator who
    /// is not there yet.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 for nobody, M503 for one above the actor, M524 for another role than theirs.
    pub async fn invite(
        &self,
        actor: &Actor,
        name: &str,
        role: Option<Role>,
    ) -> Result<login::Link, RegistryError> {
        let (actor, name) = (actor.clone(), name.to_owned());
        self.run(|inner| async move { login::invite(&inner, &actor, &name, role).await }).await
    }

    /// The operator whom the first link is for; `None` once anybody has signed in.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn first_operator(&self) -> Result<Option<String>, RegistryError> {
        login::first(&self.inner).await
    }

    /// Whom a link is for; it still works afterwards.
    ///
    /// # Errors
    /// [`RegistryError`]; M521 for one that does not work.
    pub async fn look_at_link(&self, secret: &str) -> Result<String, RegistryError> {
        login::look(&self.inner, secret).await
    }

    /// Uses a link up for a session of the web page.
    ///
    /// # Errors
    /// [`RegistryError`]; M521 for one that does not work.
    pub async fn redeem_link(&self, secret: &str, at: &Arrival) -> Result<login::Session, RegistryError> {
        let (secret, at) = (secret.to_owned(), at.clone());
        let redeemed =
            self.run(|inner| async move { login::redeem(&inner, &secret, &at, false).await }).await?;
        match redeemed {
            login::Redeemed::Session(session) => Ok(session),
            login::Redeemed::Token(..) => Err(RegistryError::Damaged("a link became a token".to_owned())),
        }
    }

    /// Uses a link up for a token: itself, its role, and its end in Unix milliseconds.
    ///
    /// # Errors
    /// [`RegistryError`]; M521 for one that does not work.
    pub async fn redeem_link_for_token(
        &self,
        secret: &str,
        at: &Arrival,
    ) -> Result<(token::Token, Role, u64), RegistryError> {
        let (secret, at) = (secret.to_owned(), at.clone());
        let redeemed =
            self.run(|inner| async move { login::redeem(&inner, &secret, &at, true).await }).await?;
        match redeemed {
            login::Redeemed::Token(token, role, ends_at_ms) => Ok((token, role, ends_at_ms)),
            login::Redeemed::Session(_) => Err(RegistryError::Damaged("a link became a session".to_owned())),
        }
    }

    /// Opens a session of the web page with a token.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for a token nobody has, M502 for one that has ended.
    pub async fn sign_in(&self, token: &str, at: &Arrival) -> Result<login::Session, RegistryError> {
        let (token, at) = (token.to_owned(), at.clone());
        self.run(|inner| async move { login::sign_in(&inner, &token, &at).await }).await
    }

    /// Ends the session the actor speaks with; nothing for one who speaks with something else.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn sign_out(&self, actor: &Actor) -> Result<(), RegistryError> {
        let actor = actor.clone();
        self.run(|inner| async move { login::sign_out(&inner, &actor).await }).await
    }

    /// Who speaks with this session's secret.
    ///
    /// # Errors
    /// [`RegistryError`]; M525 for one that has ended.
    pub async fn check_session(&self, secret: &str) -> Result<Actor, RegistryError> {
        login::check(&self.inner, secret, now_ms()).await
    }

    /// Who speaks with a certificate of the operator CA, which TLS has verified.
    ///
    /// # Errors
    /// [`RegistryError`]; M520 when it names nobody.
    pub async fn check_operator_certificate(
        &self,
        name: &str,
        certificate: &CertificateId,
    ) -> Result<Actor, RegistryError> {
        login::check_certificate(&self.inner, name, certificate).await
    }

    /// Records failed sign-ins.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn record_failed_login(&self, at: &Arrival, failed: &FailedLogin) -> Result<(), RegistryError> {
        let (at, failed) = (at.clone(), failed.clone());
        self.run(|inner| async move { login::failed(&inner, &at, &failed).await }).await
    }

    /// Makes a token for an operator (who is made with it), shown once: only its digest is kept.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn create_token(&self, actor: &Actor, new: &NewToken) -> Result<token::Token, RegistryError> {
        let (actor, new) = (actor.clone(), new.clone());
        self.run(|inner| async move { token::create(&inner, &actor, &new).await }).await
    }

    /// Who speaks with this token.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for a token nobody has, M502 for one that has ended.
    pub async fn check_token(&self, token: &str) -> Result<Actor, RegistryError> {
        token::check(&self.inner, token, now_ms()).await
    }

    /// Ends a token now. One that has ended already stays ended.
    ///
    /// # Errors
    /// [`RegistryError`]; M501 for one there is not, M503 for one above the actor.
    pub async fn revoke_token(
        &self,
        actor: &Actor,
        token_id: &str,
        reason: &str,
    ) -> Result<(), RegistryError> {
        let (actor, token_id, reason) = (actor.clone(), token_id.to_owned(), reason.to_owned());
        self.run(|inner| async move { token::revoke(&inner, &actor, &token_id, &reason).await }).await
    }

    /// Every token of the operators of a scope, without what would let one use it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn tokens(&self, scope: &Scope) -> Result<Vec<token::TokenRow>, RegistryError> {
        token::list(self.inner.database.readers(), scope).await
    }
}
