//! Records on NOR flash, and the specification of what lies there.
//!
//! [`Layout::CREDENTIALS`] holds a `sequential-storage` map, version 8 of its format: a log of
//! (key, value) items, each with its own CRC, in erase units used in turn. The newest whole item of a
//! key counts. A write that was interrupted is not there; the item before it still is.
//!
//! | key | record | value |
//! |---|---|---|
//! | 0x01 | boot | install id (u64 LE) ‖ start counter (u32 LE) |
//! | 0x02 | floor | seconds since 1970 (u64 LE): it is not earlier than this |
//! | 0x03 | continuity | the token for the next CONNECT, text of at most 64 octets, as the server gave it |
//! | 0x10 | subject | `factory::Subject`, postcard: who the device was asked to be |
//! | 0x11 | endpoint | `factory::Endpoint`, postcard |
//! | 0x12 | anchors | `factory::SignedAnchors`, postcard, as the root signed it |
//! | 0x13 | lock | one octet, 1: the factory port is closed for good |
//! | 0x20 + 4s | key of slot s | P-256 scalar, 32 octets. Secret |
//! | 0x21 + 4s | certificate of slot s | DER |
//! | 0x22 + 4s | issuer of slot s | DER |
//! | 0x23 + 4s | seal of slot s | generation (u32 LE) ‖ SHA-256 of certificate ‖ issuer; empty: not sealed |
//!
//! Slot 0 is birth, 1 and 2 are operational A and B. A slot counts only while its seal is there and
//! fits; whoever changes a slot empties its seal first and writes it last. So an interruption at any
//! point leaves a slot blank or complete, never half.
//!
//! The continuity token is what is written most: once a session. An item of it takes 64 octets, a unit 63 of
//! them, and a round of the 8 units that carries the other records along some 380: flash that bears 10,000
//! erasures bears 3.8 million sessions, seven years of one a minute.
//!
//! Every write is read back before it is believed. A secret passes through the store's own room, which
//! is wiped afterwards.

use embedded_storage_async::nor_flash::{MultiwriteNorFlash, NorFlash};
use muster_shared::limits::ANCHOR_SET_MAX;
use sequential_storage::{
    cache::{Cache, Uncached},
    map::{MapConfig, MapStorage},
};
use zeroize::Zeroize;

use crate::platform::Layout;

/// Octets of working room: the largest record with its key, in whole words of any flash.
pub const ROOM: usize = (ANCHOR_SET_MAX + 1).next_multiple_of(64);

/// A credential slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Written once at the factory.
    Birth,
    /// Operational A.
    A,
    /// Operational B.
    B,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Install id and start counter.
    Boot,
    /// The earliest it can be now.
    Floor,
    /// The continuity token to show next.
    Continuity,
    /// Who the device was asked to be.
    Subject,
    /// Where to connect.
    Endpoint,
    /// Whom to trust.
    Anchors,
    /// The factory port is closed.
    Lock,
    /// A slot's private key.
    Key(Slot),
    /// A slot's certificate.
    Certificate(Slot),
    /// The certificate of who issued it.
    Issuer(Slot),
    /// What makes a slot count.
    Seal(Slot),
}

impl Record {
    fn key(self) -> u8 {
        let of = |slot: Slot, part: u8| {
            0x20 + part
                + 4 * match slot {
                    Slot::Birth => 0,
                    Slot::A => 1,
                    Slot::B => 2,
                }
        };
        match self {
            Record::Boot => 0x01,
            Record::Floor => 0x02,
            Record::Continuity => 0x03,
            Record::Subject => 0x10,
            Record::Endpoint => 0x11,
            Record::Anchors => 0x12,
            Record::Lock => 0x13,
            Record::Key(slot) => of(slot, 0),
            Record::Certificate(slot) => of(slot, 1),
            Record::Issuer(slot) => of(slot, 2),
            Record::Seal(slot) => of(slot, 3),
        }
    }
}

/// Why the store did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The flash failed, or there is no room.
    #[error("flash failed")]
    Flash,
    /// What was read back is not what was written.
    #[error("read-back differs")]
    ReadBack,
    /// What lies there is none of our records.
    #[error("records do not fit together")]
    Damaged,
}

/// The map, its flash and its room.
pub struct Store<'r, F> {
    flash: F,
    room: &'r mut [u8; ROOM],
}

impl<'r, F: MultiwriteNorFlash> Store<'r, F> {
    /// A store on `flash`, laid out by [`Layout`]. Nothing is read yet.
    pub fn new(flash: F, room: &'r mut [u8; ROOM]) -> Self {
        const {
            assert!(
                F::ERASE_SIZE <= Layout::ERASE as usize
                    && (Layout::ERASE as usize).is_multiple_of(F::ERASE_SIZE)
            );
            assert!(F::WRITE_SIZE <= 32 && F::READ_SIZE <= 32);
        }
        Self { flash, room }
    }

    /// The flash, for what lies outside the map.
    pub fn flash(&mut self) -> &mut F {
        &mut self.flash
    }

    /// Reads a record; `None` when it was never written.
    ///
    /// # Errors
    /// [`StoreError::Flash`].
    pub async fn get(&mut self, record: Record) -> Result<Option<&[u8]>, StoreError> {
        let mut map = map(&mut self.flash);
        map.fetch_item::<&[u8]>(&mut self.room[..], &record.key()).await.map_err(|_| StoreError::Flash)
    }

    /// Writes a record and reads it back.
    ///
    /// # Errors
    /// [`StoreError`]; the record is then the old one or the new one.
    pub async fn put(&mut self, record: Record, value: &[u8]) -> Result<(), StoreError> {
        let mut map = map(&mut self.flash);
        let stored = map.store_item(&mut self.room[..], &record.key(), &value).await;
        let result = match stored {
            Ok(()) => match map.fetch_item::<&[u8]>(&mut self.room[..], &record.key()).await {
                Ok(Some(read)) if read == value => Ok(()),
                Ok(_) => Err(StoreError::ReadBack),
                Err(_) => Err(StoreError::Flash),
            },
            Err(_) => Err(StoreError::Flash),
        };
        self.wipe();
        result
    }

    /// Wipes the room: whoever read a secret calls this when done with it.
    pub fn wipe(&mut self) {
        self.room.zeroize();
    }
}

fn map<F: NorFlash>(flash: &mut F) -> MapStorage<u8, &mut F, Cache<Uncached, Uncached, Uncached, u8>> {
    MapStorage::new(flash, const { MapConfig::new(Layout::CREDENTIALS) }, Cache::new_uncached())
}
