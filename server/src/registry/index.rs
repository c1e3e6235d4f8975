//! Finds a certificate's entry by its SHA-256, in 24 octets of memory for each.
//!
//! # What is where
//!
//! The digest's octets are evenly spread already. Its first 12 bits choose one of 4096 shards, which says
//! them; the next 116 stand in the slot. So 128 bits find the entry, in memory. The other 128 stand in a file
//! ([`Tails`]), by the entry's number, and [`Index::exact`] compares them, too: a certificate is accepted by
//! all 32 octets of its digest. The file is the index's own: it has no name, holds nothing the registry does
//! not hold, and is written anew at every start. What is asked for every message of a session that was
//! accepted so needs the memory alone.
//!
//! ```text
//! slot   issuer 12 | digest bits 12..64 | digest bits 64..128 | ends 32 | status 2 | number 30
//! ```
//!
//! A shard is an array in the order of the digests with gaps, 7/8 full at most: an entry is at the place its
//! digest computes to or a few slots behind it, and a search that meets a larger digest is over. It grows by
//! an eighth. Nothing is ever removed: a tombstone must be found too.
//!
//! The first certificate of a device has the device's own number, so that nothing else has to say whose it
//! is; those after it have numbers of their own.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use muster_shared::CertificateId;
use parking_lot::{Mutex, RwLock};

use super::{members::IssuerKey, tails::Tails, verdict::DeviceKey};

const SHARD_BITS: u32 = 12;
const SHARDS: usize = 1 << SHARD_BITS;
/// Bits of the digest's first word that a slot holds: the shard says the others.
const HEAD_BITS: u32 = 64 - SHARD_BITS;
const HEAD: u64 = (1 << HEAD_BITS) - 1;
/// Numbers of 30 bits; from here on they are of second certificates.
const SECOND: u32 = 1 << 29;
const NUMBER: u64 = (1 << 30) - 1;
/// 9999-12-31T23:59:59Z: no end (RFC 5280 §4.1.2.5).
const NO_END_S: i64 = 253_402_300_799;
const NO_END: u32 = u32::MAX;
/// What does not fit the slot stands beside the index: a certificate like that is rare.
const ENDS_BESIDE: u32 = u32::MAX - 1;
const ISSUER_BESIDE: u64 = (1 << SHARD_BITS) - 1;

/// What the registry holds against a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CertificateStatus {
    /// Issued, and not used yet.
    Pending = 0,
    /// In use.
    Active = 1,
    /// A newer one has taken its place.
    Superseded = 2,
    /// Refused for ever.
    Revoked = 3,
}

impl CertificateStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Active, Self::Superseded, Self::Revoked];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
        }
    }

    /// The status with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// One certificate of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) device: DeviceKey,
    pub(super) issuer: IssuerKey,
    pub(super) status: CertificateStatus,
    /// Unix seconds; the certificate is good up to and including this second (RFC 5280 §4.1.2.5).
    pub(super) not_after_s: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot([u64; 3]);

#[derive(Default)]
struct Shard {
    /// The places a digest computes to, and a few more for those that are pushed beyond the last.
    slots: Vec<Slot>,
    places: usize,
    len: usize,
    /// Two entries share all 128 bits: the tails tell them apart.
    twins: bool,
}

/// Certificates by id.
pub(super) struct Index {
    shards: Box<[RwLock<Shard>]>,
    tails: Tails,
    numbers: Mutex<Numbers>,
    second: RwLock<Vec<DeviceKey>>,
    /// There is something in `beside`.
    some_beside: AtomicBool,
    beside: RwLock<HashMap<u32, (IssuerKey, i64)>>,
}

/// Which devices' own numbers are given away.
#[derive(Default)]
struct Numbers {
    taken: Vec<u64>,
}

/// A digest as the index takes it apart.
#[derive(Clone, Copy)]
struct Key {
    shard: usize,
    /// What a slot is ordered by.
    head: [u64; 2],
    tail: [u8; 16],
}

impl From<&CertificateId> for Key {
    fn from(id: &CertificateId) -> Self {
        let word = |from: usize| {
            u64::from_be_bytes(id.0[from..from + 8].try_into().expect("eight octets of thirty-two"))
        };
        let tail = id.0[16..].try_into().expect("sixteen octets of thirty-two");
        Self { shard: (word(0) >> HEAD_BITS) as usize, head: [word(0) & HEAD, word(8)], tail }
    }
}

impl Slot {
    const FREE: Self = Self([0, 0, u64::MAX]);

    fn is_free(self) -> bool {
        self.0[2] == u64::MAX
    }

    fn head(self) -> [u64; 2] {
        [self.0[0] & HEAD, self.0[1]]
    }

    fn number(self) -> u32 {
        (self.0[2] & NUMBER) as u32
    }

    fn status(self) -> CertificateStatus {
        CertificateStatus::ALL[(self.0[2] >> 30) as usize & 3]
    }

    fn ends(self) -> u32 {
        (self.0[2] >> 32) as u32
    }

    fn issuer(self) -> u64 {
        self.0[0] >> HEAD_BITS
    }
}

/// Slots beyond the last place a digest computes to.
fn spill(places: usize) -> usize {
    16 + places / 64
}

impl Shard {
    fn with_places(places: usize) -> Vec<Slot> {
        let mut slots = Vec::new();
        slots.reserve_exact(places + spill(places));
        slots.resize(places + spill(places), Slot::FREE);
        slots
    }

    fn place(head: u64, places: usize) -> usize {
        ((u128::from(head) * places as u128) >> HEAD_BITS) as usize
    }

    /// Where the first slot with this head is, if there is one.
    fn find(&self, head: [u64; 2]) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let start = Self::place(head[0], self.places);
        for (at, slot) in self.slots.iter().enumerate().skip(start) {
            if slot.is_free() || slot.head() > head {
                return None;
            }
            if slot.head() == head {
                return Some(at);
            }
        }
        None
    }

    fn insert(&mut self, slot: Slot) {
        if (self.len + 1) * 8 > self.places * 7 {
            self.grow(self.places + self.places / 8 + 8);
        }
        while !self.try_insert(slot) {
            self.grow(self.places + self.places / 8 + 8);
        }
        self.len += 1;
    }

    fn try_insert(&mut self, slot: Slot) -> bool {
        let mut at = Self::place(slot.head()[0], self.places);
        while at < self.slots.len() && !self.slots[at].is_free() && self.slots[at].head() <= slot.head() {
            at += 1;
        }
        let Some(free) = self.slots[at..].iter().position(|slot| slot.is_free()) else { return false };
        self.slots.copy_within(at..at + free, at + 1);
        self.slots[at] = slot;
        true
    }

    fn grow(&mut self, mut places: usize) {
        let slots = loop {
            match self.spread(places) {
                Some(slots) => break slots,
                None => places += places / 8 + 8,
            }
        };
        (self.slots, self.places) = (slots, places);
    }

    /// The entries over so many places; `None`: they crowd beyond the end.
    fn spread(&self, places: usize) -> Option<Vec<Slot>> {
        let (mut slots, mut next) = (Self::with_places(places), 0);
        // They are in order: each goes to its place, or right behind the one before.
        for slot in self.slots.iter().filter(|slot| !slot.is_free()) {
            next = Self::place(slot.head()[0], places).max(next);
            *slots.get_mut(next)? = *slot;
            next += 1;
        }
        Some(slots)
    }
}

impl Numbers {
    fn take(&mut self, device: DeviceKey) -> bool {
        let (word, bit) = (device.0 as usize / 64, device.0 % 64);
        if self.taken.len() <= word {
            self.taken.resize(word + 1, 0);
        }
        let free = self.taken[word] >> bit & 1 == 0;
        self.taken[word] |= 1 << bit;
        free
    }
}

impl Index {
    /// With room for so many entries, and their tails there.
    pub(super) fn new(entries: usize, tails: Tails) -> Self {
        // Digests spread by chance: one shard in a thousand is further above the mean, and grows.
        let mean = entries / SHARDS;
        let places = (mean + 3 * mean.isqrt()) * 8 / 7;
        let shard = || {
            let slots = if places == 0 { Vec::new() } else { Shard::with_places(places) };
            RwLock::new(Shard { slots, places, len: 0, twins: false })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            tails,
            numbers: Mutex::default(),
            second: RwLock::default(),
            some_beside: AtomicBool::new(false),
            beside: RwLock::default(),
        }
    }

    /// The entry with the first 128 bits of this id.
    pub(super) fn find(&self, id: &CertificateId) -> Option<Entry> {
        let key = Key::from(id);
        let shard = self.shards[key.shard].read();
        let at = if shard.twins { self.exactly(&shard, &key)? } else { shard.find(key.head)? };
        Some(self.entry(shard.slots[at]))
    }

    /// The entry of exactly this certificate: all 32 octets are compared.
    pub(super) fn exact(&self, id: &CertificateId) -> Option<Entry> {
        let key = Key::from(id);
        let shard = self.shards[key.shard].read();
        let at = self.exactly(&shard, &key)?;
        Some(self.entry(shard.slots[at]))
    }

    fn exactly(&self, shard: &Shard, key: &Key) -> Option<usize> {
        let first = shard.find(key.head)?;
        let same = shard.slots[first..].iter().take_while(|slot| !slot.is_free() && slot.head() == key.head);
        let at = same.into_iter().position(|slot| self.tails.get(slot.number()) == Some(key.tail))?;
        Some(first + at)
    }

    /// Puts a certificate in, or replaces what is held against it.
    pub(super) fn put(&self, id: &CertificateId, entry: Entry) {
        let key = Key::from(id);
        let mut shard = self.shards[key.shard].write();
        if let Some(at) = self.exactly(&shard, &key) {
            let number = shard.slots[at].number();
            shard.slots[at] = self.slot(&key, number, &entry);
            return;
        }
        let number = self.number(entry.device);
        // Before the slot: whoever finds the slot finds the tail.
        self.tails.put(number, key.tail);
        shard.twins |= shard.find(key.head).is_some();
        let slot = self.slot(&key, number, &entry);
        shard.insert(slot);
    }

    fn number(&self, device: DeviceKey) -> u32 {
        assert!(device.0 < SECOND, "fewer than 2^29 devices");
        if self.numbers.lock().take(device) {
            return device.0;
        }
        let mut second = self.second.write();
        let number = SECOND + u32::try_from(second.len()).expect("fewer than 2^29 second certificates");
        assert!(u64::from(number) < NUMBER, "fewer than 2^29 second certificates");
        second.push(device);
        number
    }

    fn slot(&self, key: &Key, number: u32, entry: &Entry) -> Slot {
        let issuer = u64::from(entry.issuer.0).min(ISSUER_BESIDE);
        let ends = match u32::try_from(entry.not_after_s) {
            Ok(ends) if ends < ENDS_BESIDE => ends,
            _ if entry.not_after_s == NO_END_S => NO_END,
            _ => ENDS_BESIDE,
        };
        if issuer == ISSUER_BESIDE || ends == ENDS_BESIDE {
            self.beside.write().insert(number, (entry.issuer, entry.not_after_s));
            self.some_beside.store(true, Ordering::SeqCst);
        }
        let [head, more] = key.head;
        let held = u64::from(ends) << 32 | (entry.status as u64) << 30 | u64::from(number);
        Slot([issuer << HEAD_BITS | head, more, held])
    }

    fn entry(&self, slot: Slot) -> Entry {
        let number = slot.number();
        let device = match number.checked_sub(SECOND) {
            None => DeviceKey(number),
            Some(at) => self.second.read()[at as usize],
        };
        let (mut issuer, mut not_after_s) = (IssuerKey(slot.issuer() as u32), i64::from(slot.ends()));
        if slot.ends() == NO_END {
            not_after_s = NO_END_S;
        }
        if (slot.issuer() == ISSUER_BESIDE || slot.ends() == ENDS_BESIDE)
            && self.some_beside.load(Ordering::SeqCst)
            && let Some(beside) = self.beside.read().get(&number)
        {
            (issuer, not_after_s) = *beside;
        }
        Entry { device, issuer, status: slot.status(), not_after_s }
    }

    /// What was put is on its way to the file no more, but in it.
    pub(super) fn settle(&self) {
        self.tails.settle();
    }

    /// Certificates held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn id(n: u32) -> CertificateId {
        CertificateId(Sha256::digest(n.to_be_bytes()).into())
    }

    fn entry(n: u32) -> Entry {
        let (device, issuer) = (DeviceKey(n), IssuerKey(n % 5000));
        let not_after_s = match n % 4 {
            0 => NO_END_S,
            1 => i64::from(n),
            2 => i64::from(u32::MAX) + i64::from(n),
            _ => -1,
        };
        let status = CertificateStatus::ALL[n as usize % 4];
        Entry { device, issuer, status, not_after_s }
    }

    fn indexes() -> [Index; 3] {
        let dir = tempfile::tempdir().unwrap();
        let filed = |entries| Index::new(entries, Tails::open(dir.path()).unwrap());
        [Index::new(0, Tails::in_memory()), filed(0), filed(100_000)]
    }

    #[test]
    fn finds_what_was_put_and_nothing_else() {
        for index in indexes() {
            for n in 0..60_000 {
                index.put(&id(n), entry(n));
            }
            index.settle();
            assert_eq!(index.len(), 60_000);
            for n in 0..60_000 {
                assert_eq!(index.find(&id(n)), Some(entry(n)));
                assert_eq!(index.exact(&id(n)), Some(entry(n)));
            }
            for n in 60_000..120_000 {
                assert_eq!((index.find(&id(n)), index.exact(&id(n))), (None, None));
            }
        }
    }

    #[test]
    fn one_bit_anywhere_makes_another_certificate() {
        for index in indexes() {
            let known = id(7);
            index.put(&known, entry(7));
            for bit in 0..256 {
                let mut other = known;
                other.0[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(index.exact(&other), None, "bit {bit}");
                assert_eq!(index.find(&other).is_some(), bit >= 128, "bit {bit}");
            }
        }
    }

    #[test]
    fn same_first_half_and_other_second_half_live_side_by_side() {
        for index in indexes() {
            let (mut a, mut b, mut c) = (id(1), id(1), id(1));
            (a.0[31], b.0[31], c.0[31]) = (0, 1, 2);
            index.put(&a, entry(1));
            index.put(&b, entry(2));
            for find in [Index::find, Index::exact] {
                assert_eq!(find(&index, &a), Some(entry(1)));
                assert_eq!(find(&index, &b), Some(entry(2)));
                assert_eq!(find(&index, &c), None);
            }
        }
    }

    #[test]
    fn a_second_put_replaces() {
        for index in indexes() {
            index.put(&id(1), entry(1));
            let revoked = Entry { status: CertificateStatus::Revoked, ..entry(1) };
            index.put(&id(1), revoked);
            assert_eq!(index.find(&id(1)), Some(revoked));
            assert_eq!(index.len(), 1);
        }
    }

    #[test]
    fn a_device_has_as_many_certificates_as_it_needs() {
        for index in indexes() {
            for n in 0..300 {
                index.put(&id(n), Entry { device: DeviceKey(n % 3), ..entry(n) });
            }
            for n in 0..300 {
                assert_eq!(index.exact(&id(n)).map(|entry| entry.device), Some(DeviceKey(n % 3)));
            }
        }
    }

    #[test]
    fn a_shard_takes_digests_that_crowd_at_one_end() {
        let index = Index::new(0, Tails::in_memory());
        let crowded = |n: u32| {
            let mut id = CertificateId([0xff; 32]);
            id.0[12..16].copy_from_slice(&n.to_be_bytes());
            id
        };
        for n in (0..2000).rev() {
            index.put(&crowded(n), entry(n));
        }
        for n in 0..2000 {
            assert_eq!(index.exact(&crowded(n)), Some(entry(n)));
        }
    }
}
