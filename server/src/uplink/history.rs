//! What sensors said over the last days, out of the uplink log; and, for the registry, what devices say they run
//! and what they answer to commands.
//!
//! ```text
//! log ─read every second─► memory, a point a second and sensor ─every 10 s, or when much has gathered─► one
//!                                                                row a device and day, the cursor
//! query = rows of the days asked for, and memory, into buckets
//! ```
//!
//! It follows the log and stands in nobody's way: a commit does not know of it, and when it is behind only
//! charts are. Its file can be thrown away: it is read from the log again, as far as that reaches.
//!
//! # Invariants
//!
//! - Rows and the cursor they end at are one commit: nothing of the log is taken twice or left out.
//! - At most [`DAYS`] days are kept and at most [`FILE_MAX`] octets, the newest; of a sensor a point a second,
//!   of a device [`SENSORS_MAX`] sensors a row.
//! - Of a device that is decommissioned nothing stays.
//!
//! A sample's time is when its message was received, less how much older than the message it was. How long a
//! message waited in the device is not known: what was measured off line is shown when it arrived.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use muster_shared::{
    DeviceId, Tenant,
    telemetry::TelemetryBatch,
    topic::{Kind, Topic},
};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{Cursor, Position, ReadError, Reader, StoredMessage};
use crate::registry::{
    DeviceKey, DeviceState, Registry, RegistryError, changes::What, commands::Answer, filter::Version,
    readings::SENSORS_MAX,
};

pub mod chart;
mod points;
mod store;
#[cfg(test)]
mod tests;

pub use chart::{Bucket, Chart, Range, RangeError};
use points::Points;
use store::Store;

/// Its file in the data directory.
pub const FILE: &str = "history.sqlite";
/// Days kept: the longest range a chart has.
pub const DAYS: u64 = 31;
/// Largest file, octets; the oldest day goes first.
pub const FILE_MAX: u64 = 8 << 30;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long points gather before they are stored.
const GATHER: Duration = Duration::from_secs(10);
/// Points from which on they are stored early: some 20 MB.
const HELD_MAX: usize = 250_000;
/// Messages read at a time.
const MESSAGES: usize = 4096;
/// How often old days are looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// Longest document a device reports its version in, octets.
const REPORTED_MAX: usize = 16 * 1024;

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its own file.
    #[error("the history of readings cannot be read or written")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row is not what was written.
    #[error("a row of the history of readings is malformed")]
    Malformed,
}

impl From<sqlx::Error> for HistoryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// Whose points: a name on topics, which no other device ever gets.
type Whose = (Tenant, DeviceId);

/// What has gathered, by device.
#[derive(Default)]
struct Held {
    devices: HashMap<Whose, Points>,
    /// Points in `devices`.
    points: usize,
    /// On their way to the file; still shown.
    storing: Arc<HashMap<Whose, Points>>,
}

/// The history, to ask. Cheap to clone.
#[derive(Clone)]
pub struct History {
    store: Store,
    held: Arc<Mutex<Held>>,
}

/// The projection, running.
pub struct Projection {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl History {
    /// Opens, or makes, the file in `data_dir`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn open(data_dir: &Path) -> Result<Self, HistoryError> {
        Ok(Self { store: Store::open(&data_dir.join(FILE)).await?, held: Arc::default() })
    }

    /// Follows the log from where it was left, on this runtime.
    #[must_use]
    pub fn follow(&self, registry: Registry, reader: Reader) -> Projection {
        let (stop, stopped) = watch::channel(false);
        let changes = registry.changes();
        let work = Work {
            history: self.clone(),
            registry,
            reader,
            cursor: Cursor::default(),
            stored: Cursor::default(),
            versions: HashMap::new(),
            answers: Vec::new(),
        };
        Projection { stop, task: tokio::spawn(work.run(changes, stopped)) }
    }

    /// What a device's sensors said, in buckets. Empty for a device that said nothing.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn chart(
        &self,
        tenant: &Tenant,
        device_id: &DeviceId,
        range: &Range,
        sensors: &[String],
    ) -> Result<Vec<Chart>, HistoryError> {
        let whose = (tenant.clone(), device_id.clone());
        let mut charts = chart::Charts::new(range, sensors);
        // Memory first: what is stored in between is then counted twice, which changes no minimum, maximum or
        // last value; the other way round it could be missed.
        let (now, storing) = {
            let held = self.held.lock();
            (held.devices.get(&whose).cloned(), held.storing.clone())
        };
        for points in now.iter().chain(storing.get(&whose)) {
            charts.add(points);
        }
        self.store.read(&whose, range, |points| charts.add(points)).await?;
        Ok(charts.finish())
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.store.close().await;
    }
}

impl Projection {
    /// Reads to the log's end once more, stores what it has, and ends.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the projection of the history of readings panicked");
        }
    }
}

struct Work {
    history: History,
    registry: Registry,
    reader: Reader,
    /// Up to where memory has come, and the file.
    cursor: Cursor,
    stored: Cursor,
    /// What devices said they run, since the last store.
    versions: HashMap<DeviceKey, Version>,
    /// What they answered to commands, since the last look.
    answers: Vec<Answer>,
}

impl Work {
    async fn run(
        mut self,
        mut changes: broadcast::Receiver<crate::registry::Change>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut begun = false;
        let mut swept: Option<Instant> = None;
        let mut stored = Instant::now();
        loop {
            let stopping = *stop.borrow();
            let due = stopping || stored.elapsed() >= GATHER;
            match self.turn(&mut begun, &mut changes, due, &mut swept).await {
                Ok(true) => stored = Instant::now(),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the history of readings is behind; trying again");
                    begun = false;
                }
            }
            if stopping {
                return;
            }
            let _ = tokio::time::timeout(LOOK, stop.wait_for(|stop| *stop)).await;
        }
    }

    /// Reads to the log's end; stores when it is due. Tells whether it has.
    async fn turn(
        &mut self,
        begun: &mut bool,
        changes: &mut broadcast::Receiver<crate::registry::Change>,
        due: bool,
        swept: &mut Option<Instant>,
    ) -> Result<bool, HistoryError> {
        if !*begun {
            // What is in memory is behind the file's cursor, or is read again.
            *self.history.held.lock() = Held::default();
            self.cursor = self.history.store.cursor().await?;
            self.stored = self.cursor.clone();
            self.forget_all().await?;
            *begun = true;
        }
        self.forget(changes).await?;
        self.read().await?;
        if due {
            self.store().await?;
        }
        if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            self.history.store.sweep(crate::registry::now_ms(), DAYS, FILE_MAX).await?;
            *swept = Some(Instant::now());
        }
        Ok(due)
    }

    async fn read(&mut self) -> Result<(), HistoryError> {
        loop {
            if self.history.held.lock().points >= HELD_MAX {
                self.store().await?;
            }
            let read = match self.reader.read(&self.cursor, MESSAGES).await {
                Ok(read) => read,
                // Charts show what there is: they go on where the log does.
                Err(ReadError::Gone { oldest, .. }) => {
                    self.cursor = self.cursor.clone().after(self.reader.node(), Position(oldest - 1));
                    continue;
                }
                Err(ReadError::Ahead { .. }) => {
                    self.cursor = self.reader.end().await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if read.messages.is_empty() {
                return Ok(());
            }
            for (_, message) in &read.messages {
                self.take(message);
            }
            // At once, for who waits for it; and before the cursor, as the versions: a repeat says the same.
            self.registry.take_answers(std::mem::take(&mut self.answers)).await?;
            self.cursor = read.next;
        }
    }

    fn take(&mut self, message: &StoredMessage) {
        let Some((tenant, device_id)) = message.device() else { return };
        let verdicts = self.registry.verdicts();
        let Some(device) = verdicts.by_id(tenant, device_id) else { return };
        if verdicts.state(device).is_none_or(|state| state == DeviceState::Decommissioned) {
            return;
        }
        let topic = std::str::from_utf8(&message.topic).ok().and_then(|topic| Topic::parse(topic).ok());
        let Some(Topic::Device { kind, .. }) = topic else { return };
        match kind {
            Kind::Telemetry { .. } => {
                let Ok(batch) = TelemetryBatch::read(&message.payload) else { return };
                let mut held = self.history.held.lock();
                let points = held.devices.entry((tenant.clone(), device_id.clone())).or_default();
                let before = points.len();
                for reading in &batch.readings {
                    let age_ms = batch.uptime_ms.saturating_sub(reading.uptime_ms);
                    points.take(&reading.sensor, message.received_ms.saturating_sub(age_ms), reading.value);
                }
                let more = points.len() - before;
                held.points += more;
            }
            Kind::TwinReported => {
                if let Some(version) = reported(&message.payload) {
                    self.versions.insert(device, version);
                }
            }
            Kind::CommandResponse { id } => self.answers.push(Answer {
                device,
                id: id.to_owned(),
                payload: message.payload.clone(),
                content_type: message.content_type().map(str::to_owned),
                at_ms: message.received_ms,
            }),
            _ => {}
        }
    }

    /// Stores what has gathered, with the cursor.
    async fn store(&mut self) -> Result<(), HistoryError> {
        if !self.versions.is_empty() {
            // Before the cursor: what is repeated after a crash says the same again.
            self.registry.report_firmware(std::mem::take(&mut self.versions)).await?;
        }
        if self.cursor == self.stored {
            return Ok(());
        }
        let devices = {
            let mut held = self.history.held.lock();
            held.points = 0;
            held.storing = Arc::new(std::mem::take(&mut held.devices));
            held.storing.clone()
        };
        let number = self.cursor.position(self.reader.node());
        self.history.store.write(&devices, &self.cursor, number.0).await?;
        self.history.held.lock().storing = Arc::default();
        self.stored = self.cursor.clone();
        Ok(())
    }

    /// Removes what is kept of devices that were decommissioned lately.
    async fn forget(
        &self,
        changes: &mut broadcast::Receiver<crate::registry::Change>,
    ) -> Result<(), HistoryError> {
        loop {
            match changes.try_recv() {
                Ok(change) => {
                    if let What::Device { device, to: DeviceState::Decommissioned, .. } = change.what {
                        let name = self.registry.verdicts().name(device);
                        self.forget_one(&(name.tenant.clone(), name.device_id.clone())).await?;
                    }
                }
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.forget_all().await?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// The same, of all that are.
    async fn forget_all(&self) -> Result<(), HistoryError> {
        let verdicts = self.registry.verdicts();
        let known: HashSet<Whose> = self.history.store.devices().await?;
        for whose in known {
            let state = verdicts.by_id(&whose.0, &whose.1).and_then(|device| verdicts.state(device));
            if state.is_none_or(|state| state == DeviceState::Decommissioned) {
                self.forget_one(&whose).await?;
            }
        }
        Ok(())
    }

    async fn forget_one(&self, whose: &Whose) -> Result<(), HistoryError> {
        {
            let mut held = self.history.held.lock();
            if let Some(points) = held.devices.remove(whose) {
                held.points -= points.len();
            }
        }
        self.history.store.forget(whose).await
    }
}

/// The version in what a device reports of itself: `{"firmware": "1.4.2", …}`.
fn reported(payload: &[u8]) -> Option<Version> {
    #[derive(serde::Deserialize)]
    struct Reported<'a> {
        #[serde(borrow)]
        firmware: std::borrow::Cow<'a, str>,
    }
    if payload.len() > REPORTED_MAX {
        return None;
    }
    let reported: Reported<'_> = serde_json::from_slice(payload).ok()?;
    reported.firmware.parse().ok()
}

/// Most sensors of a device in memory at a time: as many as the registry keeps.
const SENSORS: usize = SENSORS_MAX;
