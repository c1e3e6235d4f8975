//! May this device talk now? Answered from memory, on any thread, without waiting.
//!
//! Loaded when the registry opens and changed by every decision after its commit and before its answer.
//! Readers take at most one short shard lock; a device's state is one atomic octet. What was decided about a
//! group ([`super::group`]) is evaluated here too, so it holds for all its members from one moment on.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use muster_shared::{BatchId, CertificateId, Code, DeviceId, Generation, SerialNumber, StationId, Tenant};
use parking_lot::RwLock;
use rustls_pki_types::CertificateDer;

pub use super::index::CertificateStatus;
use super::{
    device::DeviceState,
    error::RegistryError,
    group::{Group, Hold, KeyId},
    held::Held,
    index::{Entry, Index},
    members::{BatchKey, IssuerKey, Members},
    names::Names,
    tails::Tails,
};

/// A device within this process: dense from 0, stable while the process runs, never written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey(pub u32);

/// A certificate the registry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Whose it is.
    pub device: DeviceKey,
    /// Its last good second, Unix seconds.
    pub not_after_s: i64,
}

/// What a device is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceName {
    /// Whose fleet.
    pub tenant: Tenant,
    /// Its name on topics.
    pub device_id: DeviceId,
    /// The number on its label.
    pub serial: SerialNumber,
}

/// A factory CA the registry vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactoryIssuer {
    /// The CA's certificate.
    pub certificate: CertificateDer<'static>,
    /// Its subject key identifier: what a leaf's authority key identifier names.
    pub key_id: Vec<u8>,
    /// The one tenant it makes devices for.
    pub tenant: Tenant,
    /// The station that holds its key.
    pub station: StationId,
    /// Its own last good second, Unix seconds.
    pub not_after_s: i64,
    /// Whether its record was withdrawn: then it vouches for nobody any more ([`Code::IssuerWithdrawn`]).
    pub withdrawn: bool,
}

/// Segments of doubling size: grows without moving, so readers need no lock.
const SEGMENTS: usize = 22;
const SEGMENT_FIRST: usize = 1024;
const NO_STATE: u8 = u8::MAX;

struct States {
    segments: [OnceLock<Box<[AtomicU8]>>; SEGMENTS],
}

impl States {
    fn place(device: DeviceKey) -> (usize, usize) {
        let n = device.0 as usize / SEGMENT_FIRST + 1;
        let segment = n.ilog2() as usize;
        (segment, device.0 as usize - ((1 << segment) - 1) * SEGMENT_FIRST)
    }

    fn cell(&self, device: DeviceKey) -> Option<&AtomicU8> {
        let (segment, at) = Self::place(device);
        self.segments.get(segment)?.get()?.get(at)
    }

    fn set(&self, device: DeviceKey, state: DeviceState) {
        let (segment, at) = Self::place(device);
        let cells = self.segments[segment]
            .get_or_init(|| (0..SEGMENT_FIRST << segment).map(|_| AtomicU8::new(NO_STATE)).collect());
        cells[at].store(state as u8, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Issuers {
    by_key_id: HashMap<Vec<u8>, Arc<FactoryIssuer>>,
    roots: Arc<Vec<CertificateDer<'static>>>,
}

/// Every verdict of this node, in memory.
pub struct Verdicts {
    certificates: Index,
    states: States,
    members: Members,
    names: RwLock<Names>,
    issuers: RwLock<Issuers>,
    generation: AtomicU64,
}

impl Verdicts {
    /// None yet, and all of what is to come in memory.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self::with(Index::new(0, Tails::in_memory()), Names::default())
    }

    /// None yet, with room for so many; what need not be in memory goes to a file in this directory. Until
    /// [`Verdicts::settle`] it is filled.
    pub(crate) fn open(dir: &Path, devices: usize, certificates: usize) -> io::Result<Self> {
        Ok(Self::with(Index::new(certificates, Tails::open(dir)?), Names::gathering(devices)))
    }

    fn with(certificates: Index, names: Names) -> Self {
        Self {
            certificates,
            states: States { segments: [const { OnceLock::new() }; SEGMENTS] },
            members: Members::default(),
            names: RwLock::new(names),
            issuers: RwLock::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// What the registry held is in.
    pub(crate) fn settle(&self) {
        self.certificates.settle();
        self.names.write().settle();
    }

    /// The device of exactly this certificate (all 32 octets of its digest compared), if the registry has it.
    #[must_use]
    pub fn certificate(&self, id: &CertificateId) -> Option<Known> {
        self.certificates
            .exact(id)
            .map(|entry| Known { device: entry.device, not_after_s: entry.not_after_s })
    }

    /// The device that has this name already: by tenant and device id, or by tenant and serial.
    #[must_use]
    pub fn device(&self, tenant: &Tenant, id: &DeviceId, serial: &SerialNumber) -> Option<DeviceKey> {
        let names = self.names.read();
        names.by_id(tenant, id.as_str()).or_else(|| names.by_serial(tenant, serial.as_str()))
    }

    /// The device with this name on topics.
    #[must_use]
    pub fn by_id(&self, tenant: &Tenant, id: &DeviceId) -> Option<DeviceKey> {
        self.names.read().by_id(tenant, id.as_str())
    }

    /// Whether this device may talk now with this certificate, which was found to be the device's by all of its
    /// octets ([`Verdicts::certificate`]) before.
    ///
    /// # Errors
    /// The [`Code`] to refuse it with: its state's or its groups', whichever is graver, its certificate's
    /// status, or its certificate's end.
    pub fn may_talk(&self, device: DeviceKey, id: &CertificateId, now_s: i64) -> Result<DeviceState, Code> {
        let state = self.state(device).ok_or(Code::DeviceUnknown)?;
        let entry = self.certificates.find(id);
        let held = self.members.refusal(device, entry.map(|entry| entry.issuer));
        if let Some(code) = graver(state.refusal(), held) {
            return Err(code);
        }
        let entry = entry.ok_or(Code::DeviceNotRegistered)?;
        if entry.device != device {
            return Err(Code::SerialTaken);
        }
        match entry.status {
            CertificateStatus::Revoked => return Err(Code::CertificateRevoked),
            CertificateStatus::Superseded => return Err(Code::CertificateSuperseded),
            CertificateStatus::Pending | CertificateStatus::Active => {}
        }
        if now_s > entry.not_after_s {
            return Err(Code::CertificateExpired);
        }
        Ok(state)
    }

    /// Why this device may not talk, whatever certificate it shows: its state's reason or its groups',
    /// whichever is graver.
    #[must_use]
    pub fn refusal(&self, device: DeviceKey) -> Option<Code> {
        let Some(state) = self.state(device) else { return Some(Code::DeviceUnknown) };
        graver(state.refusal(), self.members.refusal(device, None))
    }

    /// The state that is in force for a device with this certificate and this state of its own: that, or what a
    /// group holds it in where that is graver; and why it may not talk, if it may not.
    pub(crate) fn in_force(
        &self,
        device: DeviceKey,
        id: &CertificateId,
        own: DeviceState,
    ) -> (DeviceState, Option<Code>) {
        let issuer = self.certificates.find(id).map(|entry| entry.issuer);
        let code = graver(own.refusal(), self.members.refusal(device, issuer));
        let state = match (own, code) {
            (DeviceState::Revoked | DeviceState::Decommissioned, _) => own,
            (_, Some(Code::DeviceSuspended)) => DeviceState::Suspended,
            (_, Some(Code::DeviceQuarantined)) => DeviceState::Quarantined,
            (_, Some(Code::CertificateRevoked | Code::IssuerWithdrawn)) => DeviceState::Revoked,
            _ => own,
        };
        (state, code)
    }

    /// Which groups hold anybody.
    pub(super) fn holding(&self) -> Held {
        self.members.holding()
    }

    /// Why nobody may show this certificate: it, or the CA with this key identifier, was revoked. That is all
    /// there is against a certificate the registry does not hold, such as a service's.
    #[must_use]
    pub fn withdrawn(&self, id: &CertificateId, issuer_key_id: &KeyId) -> Option<Code> {
        self.members.certificate(id, issuer_key_id)
    }

    /// What the rule of a group holds its members in; `None`: there is none.
    #[must_use]
    pub fn held(&self, group: &Group) -> Option<Hold> {
        self.members.rule(group)
    }

    /// The groups this device and this certificate are in, each as the audit log names it.
    pub(crate) fn groups(&self, device: DeviceKey, id: &CertificateId) -> Vec<String> {
        let issuer = self.certificates.find(id).map(|entry| entry.issuer);
        let mut groups = self.members.groups(device, issuer);
        groups.push(Group::Certificate(*id));
        groups.iter().map(ToString::to_string).collect()
    }

    /// Is the device, with this certificate, one whom a rule of the group is about?
    #[must_use]
    pub fn is_member(&self, group: &Group, device: DeviceKey, id: &CertificateId) -> bool {
        match group {
            Group::Certificate(one) => one == id,
            _ => {
                let issuer = self.certificates.find(id).map(|entry| entry.issuer);
                self.members.contains(group, device, issuer)
            }
        }
    }

    /// The state of a device; `None` for a key this process never gave out.
    #[must_use]
    pub fn state(&self, device: DeviceKey) -> Option<DeviceState> {
        DeviceState::from_number(self.states.cell(device)?.load(Ordering::SeqCst))
    }

    /// The registered factory CA with this key identifier. A withdrawn one is still found, and says so.
    #[must_use]
    pub fn issuer(&self, issuer_key_id: &[u8]) -> Option<Arc<FactoryIssuer>> {
        self.issuers.read().by_key_id.get(issuer_key_id).cloned()
    }

    /// The registered factory CA that this station holds.
    #[must_use]
    pub fn issuer_of(&self, station: &str) -> Option<Arc<FactoryIssuer>> {
        let issuers = self.issuers.read();
        issuers.by_key_id.values().find(|issuer| issuer.station.as_str() == station).cloned()
    }

    /// The certificates of every registered factory CA that is not withdrawn.
    #[must_use]
    pub fn factory_roots(&self) -> Arc<Vec<CertificateDer<'static>>> {
        self.issuers.read().roots.clone()
    }

    /// The generation of the newest decision these verdicts hold.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// What a device is called.
    ///
    /// # Panics
    /// For a key that this process never gave out.
    #[must_use]
    pub fn name(&self, device: DeviceKey) -> Arc<DeviceName> {
        self.names.read().name(device)
    }

    /// Devices held.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.names.read().len()
    }

    /// Certificates held.
    #[must_use]
    pub fn certificates(&self) -> usize {
        self.certificates.len()
    }

    /// The registry's row of a device.
    pub(crate) fn row(&self, device: DeviceKey) -> Option<i64> {
        self.names.read().row(device)
    }

    /// The device of a row.
    pub(crate) fn by_row(&self, row: i64) -> Option<DeviceKey> {
        self.names.read().by_row(row)
    }

    /// The same of a row that the database has: without a device here one of the two is damaged.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`].
    pub(crate) fn of_row(&self, row: i64) -> Result<DeviceKey, RegistryError> {
        self.by_row(row).ok_or_else(|| RegistryError::Damaged(format!("device row {row} has no verdict")))
    }

    /// Takes in a batch, or finds the key it has.
    pub(crate) fn put_batch(
        &self,
        row: i64,
        tenant: &Tenant,
        station: &StationId,
        name: &BatchId,
    ) -> BatchKey {
        self.members.batch(row, tenant, station, name)
    }

    /// Takes in the key identifier of a CA, or finds the key it has.
    pub(crate) fn put_issuer_key(&self, key_id: &[u8]) -> IssuerKey {
        self.members.issuer(key_id)
    }

    /// Takes in a device, or finds the key it has.
    pub(crate) fn put_device(
        &self,
        row: i64,
        name: &DeviceName,
        state: DeviceState,
        batch: BatchKey,
    ) -> DeviceKey {
        let mut names = self.names.write();
        let key = names.by_row(row).unwrap_or_else(|| {
            let key = names.put(row, &name.tenant, &name.device_id, &name.serial);
            // Under the lock: batches are joined in the order of the keys.
            self.members.join(key, batch);
            key
        });
        self.states.set(key, state);
        key
    }

    /// Flips a device's state.
    pub(crate) fn set_state(&self, device: DeviceKey, state: DeviceState) {
        self.states.set(device, state);
    }

    /// Takes in a certificate, or changes what is held against it.
    pub(crate) fn put_certificate(
        &self,
        id: &CertificateId,
        device: DeviceKey,
        issuer: IssuerKey,
        status: CertificateStatus,
        not_after_s: i64,
    ) {
        self.certificates.put(id, Entry { device, issuer, status, not_after_s });
    }

    /// Refuses a certificate for ever. One that is not held is nobody's to show.
    pub(crate) fn revoke_certificate(&self, id: &CertificateId) {
        if let Some(entry) = self.certificates.find(id) {
            self.certificates.put(id, Entry { status: CertificateStatus::Revoked, ..entry });
        }
    }

    /// Takes in a factory CA, or changes what is held against it.
    pub(crate) fn put_issuer(&self, mut issuer: FactoryIssuer) {
        let mut issuers = self.issuers.write();
        let group = issuer.key_id[..].try_into().ok().map(Group::Ca);
        issuer.withdrawn |= group.is_some_and(|group| self.members.rule(&group).is_some());
        issuers.by_key_id.insert(issuer.key_id.clone(), Arc::new(issuer));
        let mut live: Vec<_> =
            issuers.by_key_id.values().filter(|issuer| !issuer.withdrawn).cloned().collect();
        live.sort_by(|a, b| a.key_id.cmp(&b.key_id));
        issuers.roots = Arc::new(live.iter().map(|issuer| issuer.certificate.clone()).collect());
    }

    /// A rule is made about a group, or lifted with `None`.
    pub(crate) fn set_rule(&self, group: &Group, held: Option<Hold>) {
        self.members.set(group, held);
        if let Group::Ca(key_id) = group
            && let Some(issuer) = self.issuer(key_id)
        {
            self.put_issuer((*issuer).clone());
        }
    }

    /// The newest decision is in.
    pub(crate) fn set_generation(&self, generation: Generation) {
        self.generation.fetch_max(generation.0, Ordering::SeqCst);
    }
}

/// The graver of two reasons to refuse a device: what is for ever before what can be taken back.
fn graver(one: Option<Code>, other: Option<Code>) -> Option<Code> {
    let gravity = |code: &Code| match code {
        Code::DeviceSuspended => 0,
        Code::DeviceQuarantined => 1,
        Code::IssuerWithdrawn => 2,
        Code::CertificateRevoked => 3,
        _ => 4,
    };
    one.into_iter().chain(other).max_by_key(gravity)
}
