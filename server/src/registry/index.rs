//! Finds a certificate's entry by its SHA-256: open addressing, 64 shards, one short read lock a lookup.
//!
//! A certificate id is a digest, so its octets are already evenly spread: six bits choose the shard, the
//! rest the slot. A slot holds the first 128 bits and where the entry is; the entry holds the other 128,
//! and both halves decide. Nothing is ever removed: a tombstone must be found too.

use muster_shared::CertificateId;
use parking_lot::RwLock;

use super::{members::IssuerKey, verdict::DeviceKey};

const SHARDS: usize = 64;
/// Slots of an empty shard; doubled whenever three quarters are taken.
const SLOTS_MIN: usize = 16;
const FREE: u32 = u32::MAX;

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

#[derive(Clone, Copy)]
struct Slot {
    head: [u64; 2],
    at: u32,
}

struct Stored {
    tail: [u64; 2],
    entry: Entry,
}

#[derive(Default)]
struct Shard {
    /// A power of two of them, or none.
    slots: Vec<Slot>,
    stored: Vec<Stored>,
}

/// Certificates by id.
pub(super) struct Index {
    shards: Vec<RwLock<Shard>>,
}

/// The id as four words, first octet first.
fn words(id: &CertificateId) -> [u64; 4] {
    let mut out = [0; 4];
    for (word, octets) in out.iter_mut().zip(id.0.chunks_exact(8)) {
        *word = u64::from_be_bytes(octets.try_into().expect("chunks of eight octets"));
    }
    out
}

impl Shard {
    /// Where the slot of `head` is, or the free one where it would be.
    fn slot(&self, head: [u64; 2], tail: [u64; 2]) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (head[1] as usize) & mask;
        loop {
            let slot = &self.slots[at];
            if slot.at == FREE || (slot.head == head && self.stored[slot.at as usize].tail == tail) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![Slot { head: [0; 2], at: FREE }; size]);
        for slot in old.into_iter().filter(|slot| slot.at != FREE) {
            let to = self.slot(slot.head, self.stored[slot.at as usize].tail);
            self.slots[to] = slot;
        }
    }
}

impl Index {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    fn shard(&self, head: u64) -> &RwLock<Shard> {
        &self.shards[(head >> 58) as usize]
    }

    /// The entry of exactly this certificate.
    pub(super) fn find(&self, id: &CertificateId) -> Option<Entry> {
        let [a, b, c, d] = words(id);
        let shard = self.shard(a).read();
        if shard.slots.is_empty() {
            return None;
        }
        let slot = shard.slots[shard.slot([a, b], [c, d])];
        (slot.at != FREE).then(|| shard.stored[slot.at as usize].entry)
    }

    /// Puts a certificate in, or replaces what is held against it.
    pub(super) fn put(&self, id: &CertificateId, entry: Entry) {
        let [a, b, c, d] = words(id);
        let mut shard = self.shard(a).write();
        if (shard.stored.len() + 1) * 4 > shard.slots.len() * 3 {
            shard.grow();
        }
        let to = shard.slot([a, b], [c, d]);
        match shard.slots[to].at {
            FREE => {
                let at =
                    u32::try_from(shard.stored.len()).expect("a shard holds fewer than 2^32 certificates");
                shard.stored.push(Stored { tail: [c, d], entry });
                shard.slots[to] = Slot { head: [a, b], at };
            }
            at => shard.stored[at as usize].entry = entry,
        }
    }

    /// Certificates held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().stored.len()).sum()
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
        let (device, issuer) = (DeviceKey(n), IssuerKey(n % 7));
        Entry { device, issuer, status: CertificateStatus::Active, not_after_s: i64::from(n) }
    }

    #[test]
    fn finds_what_was_put_and_nothing_else() {
        let index = Index::new();
        for n in 0..20_000 {
            index.put(&id(n), entry(n));
        }
        assert_eq!(index.len(), 20_000);
        for n in 0..20_000 {
            assert_eq!(index.find(&id(n)), Some(entry(n)));
        }
        for n in 20_000..40_000 {
            assert_eq!(index.find(&id(n)), None);
        }
    }

    #[test]
    fn one_bit_anywhere_makes_another_certificate() {
        let index = Index::new();
        let known = id(7);
        index.put(&known, entry(7));
        for bit in 0..256 {
            let mut other = known;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(index.find(&other), None, "bit {bit}");
        }
    }

    #[test]
    fn same_first_half_and_other_second_half_live_side_by_side() {
        let index = Index::new();
        let (mut a, mut b) = (id(1), id(1));
        a.0[31] = 0;
        b.0[31] = 1;
        index.put(&a, entry(1));
        index.put(&b, entry(2));
        assert_eq!(index.find(&a), Some(entry(1)));
        assert_eq!(index.find(&b), Some(entry(2)));
    }

    #[test]
    fn a_second_put_replaces() {
        let index = Index::new();
        index.put(&id(1), entry(1));
        let revoked = Entry { status: CertificateStatus::Revoked, ..entry(1) };
        index.put(&id(1), revoked);
        assert_eq!(index.find(&id(1)), Some(revoked));
        assert_eq!(index.len(), 1);
    }
}
