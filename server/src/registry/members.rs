//! Who is in which group, and what the rules hold the groups in: the verdicts' part about groups.
//!
//! A device is in one batch, a batch is of one station and one tenant; a certificate is of one CA. An import
//! gives its devices numbers in a row, so whose batch a device is in is kept as runs: a few octets a batch,
//! none a device. What the rules of a batch, its station and its tenant come to is folded into the batch when
//! a rule changes. While there is no rule at all, a verdict costs one load more.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use muster_shared::{BatchId, CertificateId, Code, StationId, Tenant};
use parking_lot::RwLock;

use super::{
    group::{Group, Hold},
    held::Held,
    verdict::DeviceKey,
};

/// A batch within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BatchKey(pub(crate) u32);

/// A CA within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct IssuerKey(pub(crate) u32);

#[derive(Default)]
pub(super) struct Members {
    /// Is there any rule?
    some: AtomicBool,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    batches: Vec<Batch>,
    by_row: HashMap<i64, BatchKey>,
    /// From this device on they are of this batch; by device.
    runs: Vec<(DeviceKey, BatchKey)>,
    issuers: Vec<Issuer>,
    by_key_id: HashMap<Box<[u8]>, IssuerKey>,
    rules: HashMap<Group, Hold>,
}

struct Batch {
    tenant: Tenant,
    station: StationId,
    name: BatchId,
    held: Option<Hold>,
}

struct Issuer {
    key_id: Box<[u8]>,
    held: Option<Hold>,
}

impl Members {
    /// Takes in a batch of the registry, or finds the key it has.
    pub(super) fn batch(&self, row: i64, tenant: &Tenant, station: &StationId, name: &BatchId) -> BatchKey {
        let mut inner = self.inner.write();
        if let Some(key) = inner.by_row.get(&row) {
            return *key;
        }
        let key = BatchKey(u32::try_from(inner.batches.len()).expect("fewer than 2^32 batches"));
        let mut batch =
            Batch { tenant: tenant.clone(), station: station.clone(), name: name.clone(), held: None };
        batch.held = batch.folded(&inner.rules);
        inner.batches.push(batch);
        inner.by_row.insert(row, key);
        key
    }

    /// Takes in a CA that certificates name, or finds the key it has.
    pub(super) fn issuer(&self, key_id: &[u8]) -> IssuerKey {
        if let Some(key) = self.inner.read().by_key_id.get(key_id) {
            return *key;
        }
        let mut inner = self.inner.write();
        if let Some(key) = inner.by_key_id.get(key_id) {
            return *key;
        }
        let key = IssuerKey(u32::try_from(inner.issuers.len()).expect("fewer than 2^32 CAs"));
        let held = ca(key_id).and_then(|group| inner.rules.get(&group).copied());
        inner.issuers.push(Issuer { key_id: key_id.into(), held });
        inner.by_key_id.insert(key_id.into(), key);
        key
    }

    /// A new device is in a batch. Its key is larger than those of all devices before.
    pub(super) fn join(&self, device: DeviceKey, batch: BatchKey) {
        let mut inner = self.inner.write();
        if inner.runs.last().is_none_or(|(_, last)| *last != batch) {
            inner.runs.push((device, batch));
        }
    }

    /// A rule is made, or lifted with `None`. From here on every verdict obeys.
    pub(super) fn set(&self, group: &Group, held: Option<Hold>) {
        let mut inner = self.inner.write();
        let inner = &mut *inner;
        match held {
            Some(hold) => inner.rules.insert(group.clone(), hold),
            None => inner.rules.remove(group),
        };
        for batch in &mut inner.batches {
            batch.held = batch.folded(&inner.rules);
        }
        for issuer in &mut inner.issuers {
            issuer.held = ca(&issuer.key_id).and_then(|group| inner.rules.get(&group).copied());
        }
        self.some.store(!inner.rules.is_empty(), Ordering::SeqCst);
    }

    /// What a group itself is held in.
    pub(super) fn rule(&self, group: &Group) -> Option<Hold> {
        if !self.some.load(Ordering::SeqCst) {
            return None;
        }
        self.inner.read().rules.get(group).copied()
    }

    /// Which groups hold anybody.
    pub(super) fn holding(&self) -> Held {
        if !self.some.load(Ordering::SeqCst) {
            return Held::default();
        }
        let inner = self.inner.read();
        let withdrawn = inner.issuers.iter().filter(|issuer| issuer.held.is_some());
        Held {
            batches: inner.batches.iter().any(|batch| batch.held.is_some()),
            cas: withdrawn.filter_map(|issuer| issuer.key_id[..].try_into().ok()).collect(),
        }
    }

    /// Why the groups of a device, and of the certificate it shows, refuse it: the gravest reason.
    pub(super) fn refusal(&self, device: DeviceKey, issuer: Option<IssuerKey>) -> Option<Code> {
        if !self.some.load(Ordering::SeqCst) {
            return None;
        }
        let inner = self.inner.read();
        let batch = inner.batch_of(device).and_then(|batch| batch.held);
        if batch == Some(Hold::Revoked) {
            return Some(Code::CertificateRevoked);
        }
        let issuer = issuer.and_then(|issuer| inner.issuers[issuer.0 as usize].held);
        issuer.map(|_| Code::IssuerWithdrawn).or(batch.map(Hold::code))
    }

    /// Why nobody may show this certificate, whoever it is of.
    pub(super) fn certificate(&self, id: &CertificateId, issuer_key_id: &[u8]) -> Option<Code> {
        if !self.some.load(Ordering::SeqCst) {
            return None;
        }
        let inner = self.inner.read();
        if inner.rules.contains_key(&Group::Certificate(*id)) {
            return Some(Code::CertificateRevoked);
        }
        let held = ca(issuer_key_id).is_some_and(|group| inner.rules.contains_key(&group));
        held.then_some(Code::IssuerWithdrawn)
    }

    /// The groups a device is in, with a certificate of this CA.
    pub(super) fn groups(&self, device: DeviceKey, issuer: Option<IssuerKey>) -> Vec<Group> {
        let inner = self.inner.read();
        let mut groups: Vec<_> = inner.batch_of(device).into_iter().flat_map(Batch::groups).collect();
        groups.extend(issuer.and_then(|issuer| ca(&inner.issuers[issuer.0 as usize].key_id)));
        groups
    }

    /// Is the device, with a certificate of this CA, in the group?
    pub(super) fn contains(&self, group: &Group, device: DeviceKey, issuer: Option<IssuerKey>) -> bool {
        let inner = self.inner.read();
        match group {
            Group::Certificate(_) => false,
            Group::Ca(key_id) => {
                issuer.is_some_and(|issuer| *inner.issuers[issuer.0 as usize].key_id == key_id[..])
            }
            _ => inner.batch_of(device).is_some_and(|batch| batch.groups().contains(group)),
        }
    }
}

fn ca(key_id: &[u8]) -> Option<Group> {
    key_id.try_into().ok().map(Group::Ca)
}

impl Inner {
    fn batch_of(&self, device: DeviceKey) -> Option<&Batch> {
        let run = self.runs.partition_point(|(first, _)| *first <= device).checked_sub(1)?;
        Some(&self.batches[self.runs[run].1.0 as usize])
    }
}

impl Batch {
    fn groups(&self) -> [Group; 3] {
        [
            Group::Batch(self.station.clone(), self.name.clone()),
            Group::Station(self.station.clone()),
            Group::Tenant(self.tenant.clone()),
        ]
    }

    fn folded(&self, rules: &HashMap<Group, Hold>) -> Option<Hold> {
        if rules.is_empty() {
            return None;
        }
        self.groups().iter().filter_map(|group| rules.get(group).copied()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two stations of one tenant; batches A and B of the first and C of the other, three devices each.
    fn members() -> Members {
        let members = Members::default();
        let tenant = "acme".parse().unwrap();
        let mut next = 0;
        for (row, station, name) in [(1, "S-1", "A"), (2, "S-1", "B"), (3, "S-2", "C")] {
            let batch = members.batch(row, &tenant, &station.parse().unwrap(), &name.parse().unwrap());
            for _ in 0..3 {
                members.join(DeviceKey(next), batch);
                next += 1;
            }
        }
        members
    }

    fn group(kind: &str, value: &str) -> Group {
        Group::read(kind, value).unwrap()
    }

    #[test]
    fn a_rule_holds_for_its_group_and_nobody_else() {
        use Code::{CertificateRevoked, DeviceQuarantined, DeviceSuspended};
        let members = members();
        let refused = || (0..9).map(|n| members.refusal(DeviceKey(n), None)).collect::<Vec<_>>();
        assert_eq!(refused(), [None; 9]);
        members.set(&group("batch", "S-1/B"), Some(Hold::Quarantined));
        let (q, s, r) = (Some(DeviceQuarantined), Some(DeviceSuspended), Some(CertificateRevoked));
        assert_eq!(refused(), [None, None, None, q, q, q, None, None, None]);
        members.set(&group("station", "S-1"), Some(Hold::Suspended));
        assert_eq!(refused(), [s, s, s, q, q, q, None, None, None], "the graver rule counts");
        members.set(&group("tenant", "acme"), Some(Hold::Revoked));
        assert_eq!(refused(), [r; 9]);
        members.set(&group("tenant", "acme"), None);
        members.set(&group("batch", "S-1/B"), None);
        assert_eq!(refused(), [s, s, s, s, s, s, None, None, None]);
        members.set(&group("station", "S-1"), None);
        assert_eq!(refused(), [None; 9]);
    }

    #[test]
    fn a_rule_holds_for_who_comes_later() {
        let members = members();
        members.set(&group("station", "S-2"), Some(Hold::Revoked));
        members.set(&Group::Ca([7; 20]), Some(Hold::Revoked));
        let tenant = "acme".parse().unwrap();
        let batch = members.batch(4, &tenant, &"S-2".parse().unwrap(), &"D".parse().unwrap());
        members.join(DeviceKey(9), batch);
        assert_eq!(members.refusal(DeviceKey(9), None), Some(Code::CertificateRevoked));
        let (withdrawn, other) = (members.issuer(&[7; 20]), members.issuer(&[8; 20]));
        assert_eq!(members.refusal(DeviceKey(0), Some(withdrawn)), Some(Code::IssuerWithdrawn));
        assert_eq!(members.refusal(DeviceKey(0), Some(other)), None);
        assert_eq!(members.issuer(&[7; 20]), withdrawn);
    }

    #[test]
    fn a_certificate_is_refused_by_itself_and_by_its_ca() {
        let members = members();
        let (one, other) = (CertificateId([1; 32]), CertificateId([2; 32]));
        assert_eq!(members.certificate(&one, &[7; 20]), None);
        members.set(&Group::Certificate(one), Some(Hold::Revoked));
        assert_eq!(members.certificate(&one, &[7; 20]), Some(Code::CertificateRevoked));
        assert_eq!(members.certificate(&other, &[7; 20]), None);
        members.set(&Group::Ca([7; 20]), Some(Hold::Revoked));
        assert_eq!(members.certificate(&other, &[7; 20]), Some(Code::IssuerWithdrawn));
        assert_eq!(members.certificate(&other, &[8; 20]), None);
    }

    #[test]
    fn who_is_in_a_group_is_known() {
        let members = members();
        let ca = members.issuer(&[7; 20]);
        let of = |group: &Group| (0..9).filter(|n| members.contains(group, DeviceKey(*n), Some(ca))).count();
        assert_eq!(of(&group("batch", "S-1/A")), 3);
        assert_eq!(of(&group("batch", "S-2/A")), 0);
        assert_eq!(of(&group("station", "S-1")), 6);
        assert_eq!(of(&group("tenant", "acme")), 9);
        assert_eq!(of(&Group::Ca([7; 20])), 9);
        assert_eq!(of(&Group::Ca([8; 20])), 0);
    }
}
