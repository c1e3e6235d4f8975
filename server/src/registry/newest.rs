//! What is newest of every device: when it was last heard of, and the last value of each of its sensors.
//!
//! ```text
//! log ─projection─► memory ◄─ merged with the row ─ queries
//! edge ─connect, disconnect─┘ └─ every 10 s, when much has gathered, at the stop ─► one row a device, the cursor
//! ```
//!
//! A message changes memory only; many of them share one row. Rows and the cursor they end at are stored
//! together, the cursor last, so that a crash repeats a little of the log and skips nothing. When a device was
//! last heard of without saying anything (a connect, a disconnect) is not in the log: a crash forgets at most
//! what was not stored yet.
//!
//! # Invariants
//!
//! - What a row says and what memory says are merged in every query; nobody sees the row's age.
//! - What is stored of a device is at least as new as the cursor beside it.
//! - Of a device that is decommissioned nothing is taken, stored or shown.

use std::{collections::HashMap, sync::Arc};

use muster_shared::telemetry;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    Registry,
    device::DeviceState,
    error::RegistryError,
    readings::Readings,
    verdict::{DeviceKey, Verdicts},
};

mod store;

pub(super) use store::run;
use store::{store, stored_cursor};

/// Devices changed from which on is stored early, and rows of one transaction: at some 3 µs a row a decision
/// waits 25 ms for it at most.
const CHANGED_MAX: usize = 8192;
/// Sensors in memory from which on is stored early and let go of: 15 MB when a device has four, 45 MB when
/// each has one.
const SENSORS_HELD: usize = 1 << 17;

/// What is newest, in memory.
pub struct Newest {
    verdicts: Arc<Verdicts>,
    held: Mutex<Held>,
    /// There is something to store.
    some: Notify,
    /// It is not to wait.
    urgent: Notify,
    /// Held by who stores: one at a time.
    storing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    /// By device: keys are dense. It stays until the process ends, eight octets each.
    seen: Vec<Seen>,
    /// What was changed lately, and what was not let go of.
    devices: HashMap<DeviceKey, Entry>,
    /// How many of them there are in `devices`.
    sensors: usize,
    /// Whose row is behind, each once.
    changed: Vec<DeviceKey>,
    cursor: Option<Cursor>,
    closing: bool,
}

/// When a device was last heard of, Unix milliseconds, 0 for not in this process; and in the lowest bit
/// whether its row is behind.
#[derive(Debug, Clone, Copy, Default)]
struct Seen(u64);

impl Seen {
    fn at_ms(self) -> u64 {
        self.0 >> 1
    }

    fn is_changed(self) -> bool {
        self.0 & 1 == 1
    }

    fn raise(&mut self, at_ms: u64) {
        self.0 = (at_ms.max(self.at_ms()) << 1) | (self.0 & 1);
    }

    fn set_changed(&mut self, changed: bool) {
        self.0 = (self.0 & !1) | u64::from(changed);
    }
}

#[derive(Default)]
struct Entry {
    readings: Readings,
    /// The row has no sensor that is not here. Until then a device that names too many new ones leaves no
    /// room for one of the row.
    whole: bool,
    /// The row is behind.
    changed: bool,
}

/// How far a projection of the log has come.
struct Cursor {
    projection: &'static str,
    text: String,
    changed: bool,
}

impl Registry {
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
        self.run(|inner| async move { store(&inner).await }).await
    }

    /// How far a projection has come; `None` when it never ran.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn projected(&self, projection: &str) -> Result<Option<String>, RegistryError> {
        match self.inner.newest.cursor(projection) {
            Some(cursor) => Ok(Some(cursor)),
            None => stored_cursor(&self.inner, projection).await,
        }
    }
}

impl Newest {
    pub(super) fn new(verdicts: Arc<Verdicts>) -> Self {
        Self {
            verdicts,
            held: Mutex::default(),
            some: Notify::new(),
            urgent: Notify::new(),
            storing: tokio::sync::Mutex::default(),
        }
    }

    /// Something was heard of the device.
    pub(super) fn see(&self, device: DeviceKey, at_ms: u64) {
        let mut held = self.held.lock();
        held.see(&self.verdicts, device, at_ms);
        self.tell(&held);
    }

    /// Takes what a projection of the log has read. Nothing else gets in meanwhile: make it short.
    pub fn gather(&self) -> Gathering<'_> {
        Gathering { newest: self, held: self.held.lock() }
    }

    /// Whether so much has gathered that it is to be stored before more is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held.lock().is_full()
    }

    /// When the device was last heard of, as far as this process knows, Unix milliseconds.
    pub(super) fn seen_ms(&self, device: DeviceKey) -> Option<u64> {
        let held = self.held.lock();
        held.seen.get(device.0 as usize).map(|seen| seen.at_ms()).filter(|at_ms| *at_ms > 0)
    }

    /// What memory has of the device's sensors. Ask before the row is read: what was stored and let go of in
    /// between is in the row then.
    pub(super) fn readings(&self, device: DeviceKey) -> Readings {
        self.held.lock().devices.get(&device).map(|entry| entry.readings.clone()).unwrap_or_default()
    }

    /// How far a projection has come in this process.
    pub(super) fn cursor(&self, projection: &str) -> Option<String> {
        let held = self.held.lock();
        held.cursor
            .as_ref()
            .filter(|cursor| cursor.projection == projection)
            .map(|cursor| cursor.text.clone())
    }

    /// The device was decommissioned, and its verdict says so already.
    pub(super) fn forget(&self, device: DeviceKey) {
        let mut held = self.held.lock();
        if let Some(entry) = held.devices.remove(&device) {
            held.sensors -= entry.readings.len();
        }
        if let Some(seen) = held.seen.get_mut(device.0 as usize) {
            // What stands in the list of changes finds nothing to store.
            *seen = Seen(u64::from(seen.is_changed()));
        }
    }

    /// Lets the task store what is there and end.
    pub(super) fn close(&self) {
        self.held.lock().closing = true;
        self.some.notify_one();
        self.urgent.notify_one();
    }

    fn tell(&self, held: &Held) {
        self.some.notify_one();
        if held.is_full() {
            self.urgent.notify_one();
        }
    }
}

impl Held {
    fn see(&mut self, verdicts: &Verdicts, device: DeviceKey, at_ms: u64) -> bool {
        // The verdict flips before the device is forgotten: what comes after that stops here.
        if verdicts.state(device).is_none_or(|state| state == DeviceState::Decommissioned) {
            return false;
        }
        let n = device.0 as usize;
        if n >= self.seen.len() {
            self.seen.resize(n + 1, Seen::default());
        }
        self.seen[n].raise(at_ms);
        self.mark(device);
        true
    }

    fn mark(&mut self, device: DeviceKey) {
        let Some(seen) = self.seen.get_mut(device.0 as usize) else { return };
        if !seen.is_changed() {
            seen.set_changed(true);
            self.changed.push(device);
        }
    }

    fn is_full(&self) -> bool {
        self.changed.len() >= CHANGED_MAX || self.sensors >= SENSORS_HELD
    }

    /// The row has these, and memory has them now too.
    fn complete(&mut self, device: DeviceKey, older: Readings) {
        let Some(entry) = self.devices.get_mut(&device) else { return };
        self.sensors -= entry.readings.len();
        entry.readings = std::mem::take(&mut entry.readings).onto(older);
        entry.whole = true;
        self.sensors += entry.readings.len();
    }
}

/// Takes what a projection reads, message by message.
pub struct Gathering<'n> {
    newest: &'n Newest,
    held: MutexGuard<'n, Held>,
}

impl Gathering<'_> {
    /// A message of the device, received at Unix milliseconds, with these values: none unless it is
    /// telemetry.
    pub fn message(&mut self, device: DeviceKey, received_ms: u64, readings: &[telemetry::Reading]) {
        let held = &mut *self.held;
        if !held.see(&self.newest.verdicts, device, received_ms) || readings.is_empty() {
            return;
        }
        let entry = held.devices.entry(device).or_default();
        let before = entry.readings.len();
        entry.readings.take(readings, received_ms);
        entry.changed = true;
        held.sensors += entry.readings.len() - before;
    }

    /// That was all up to this cursor of the projection.
    pub fn end(mut self, projection: &'static str, cursor: String) {
        self.held.cursor = Some(Cursor { projection, text: cursor, changed: true });
        self.newest.tell(&self.held);
    }
}
