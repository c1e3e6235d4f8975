//! Telemetry that waits for its acknowledgement: a bounded queue on flash.
//!
//! A message is stored before it is sent and removed when its PUBACK has come, so after a reset it is
//! sent again, the same octets with the same (boot, seq): never lost, never renumbered. The server finds
//! the repeated ones by that name.
//!
//! The queue holds what fits [`Layout::OUTBOX`], in order. When it is full the oldest messages go, and
//! their number is given to the caller, who logs it: a fleet wants to know how its devices are now.
//! Room comes back one erase unit at a time, so several may go at once.

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use muster_shared::limits::TELEMETRY_MAX;
use sequential_storage::{
    Error,
    cache::{Cache, Uncached},
    queue::{QueueConfig, QueueStorage},
};

use crate::{platform::Layout, store::StoreError};

/// Octets of room to read a message into.
pub const ROOM: usize = TELEMETRY_MAX.next_multiple_of(64);

type Queue<'f, F> = QueueStorage<&'f mut F, Cache<Uncached, Uncached, Uncached>>;

fn queue<F: MultiwriteNorFlash>(flash: &mut F) -> Queue<'_, F> {
    QueueStorage::new(flash, const { QueueConfig::new(Layout::OUTBOX) }, Cache::new_uncached())
}

/// Appends a message. Returns how many of the oldest had to go for it.
///
/// # Errors
/// [`StoreError::Flash`]; the message is then not stored.
pub async fn push<F: MultiwriteNorFlash>(
    flash: &mut F,
    message: &[u8],
    room: &mut [u8; ROOM],
) -> Result<u32, StoreError> {
    let mut queue = queue(flash);
    let mut dropped = 0;
    loop {
        match queue.push(message, false).await {
            Ok(()) => return Ok(dropped),
            Err(Error::FullStorage) => {
                queue.pop(&mut room[..]).await.map_err(|_| StoreError::Flash)?.ok_or(StoreError::Flash)?;
                dropped += 1;
            }
            Err(_) => return Err(StoreError::Flash),
        }
    }
}

/// The oldest message; `None` when nothing waits.
///
/// # Errors
/// [`StoreError::Flash`].
pub async fn oldest<'r, F: MultiwriteNorFlash>(
    flash: &mut F,
    room: &'r mut [u8; ROOM],
) -> Result<Option<&'r [u8]>, StoreError> {
    let message = queue(flash).peek(&mut room[..]).await.map_err(|_| StoreError::Flash)?;
    Ok(message.map(|message| &*message))
}

/// Removes the oldest message: it has been acknowledged, or will never be.
///
/// # Errors
/// [`StoreError::Flash`]; the message may then come again.
pub async fn remove<F: MultiwriteNorFlash>(flash: &mut F, room: &mut [u8; ROOM]) -> Result<(), StoreError> {
    queue(flash).pop(&mut room[..]).await.map(|_| ()).map_err(|_| StoreError::Flash)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::testing::{Flash, Torn, block_on};

    fn message(n: u32, len: usize) -> Vec<u8> {
        let mut message = n.to_le_bytes().to_vec();
        message.resize(len.max(4), n as u8);
        message
    }

    fn contents(flash: &mut Flash) -> Vec<Vec<u8>> {
        let (mut room, mut out) = ([0; ROOM], Vec::new());
        while let Some(message) = block_on(oldest(flash, &mut room)).unwrap() {
            out.push(message.to_vec());
            block_on(remove(flash, &mut room)).unwrap();
        }
        out
    }

    #[test]
    fn messages_come_out_in_order_and_survive_a_reset() {
        let (mut flash, mut room) = (Flash::blank(), [0; ROOM]);
        let sent: Vec<_> = (0..100).map(|n| message(n, 4 + n as usize * 7)).collect();
        for one in &sent {
            assert_eq!(block_on(push(&mut flash, one, &mut room)), Ok(0));
        }
        assert_eq!(contents(&mut flash.copy()), sent);
        assert_eq!(contents(&mut flash), sent);
        assert_eq!(contents(&mut flash), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_full_box_drops_the_oldest_and_says_how_many() {
        let (mut flash, mut room) = (Flash::blank(), [0; ROOM]);
        let mut dropped = 0;
        let total = 600;
        for n in 0..total {
            dropped += block_on(push(&mut flash, &message(n, 300), &mut room)).unwrap();
        }
        let left = contents(&mut flash);
        assert!(dropped > 0);
        assert_eq!(left.len() as u32 + dropped, total);
        let expected: Vec<_> = (dropped..total).map(|n| message(n, 300)).collect();
        assert_eq!(left, expected);
    }

    /// After a cut, what was stored is there, in order; the operation in progress happened or did not.
    #[test]
    fn a_power_cut_loses_nothing_that_was_stored() {
        let (mut full, mut room) = (Flash::blank(), [0; ROOM]);
        for n in 0..11 {
            block_on(push(&mut full, &message(n, 700), &mut room)).unwrap();
        }
        for torn in Flash::TORN {
            for cut in 0..400 {
                let mut flash = full.copy();
                let mut model: VecDeque<u32> = (0..11).collect();
                let mut unsure: Option<(VecDeque<u32>, VecDeque<u32>)> = None;
                flash.cut_after(cut, torn);
                for n in 11..15 {
                    let mut after = model.clone();
                    after.push_back(n);
                    if block_on(push(&mut flash, &message(n, 700), &mut room)) != Ok(0) {
                        unsure = Some((model.clone(), after));
                        break;
                    }
                    model = after.clone();
                    after.pop_front();
                    if block_on(remove(&mut flash, &mut room)).is_err() {
                        unsure = Some((model.clone(), after));
                        break;
                    }
                    model = after;
                }
                let happened = flash.power_on();
                let left: VecDeque<u32> = contents(&mut flash)
                    .iter()
                    .map(|m| u32::from_le_bytes(m[..4].try_into().unwrap()))
                    .collect();
                match unsure {
                    Some((before, after)) => assert!(
                        left == before || left == after,
                        "{torn:?} cut {cut}: {left:?}, neither {before:?} nor {after:?}"
                    ),
                    None => assert_eq!(left, model),
                }
                if !happened {
                    assert!(cut > 100 || torn == Torn::Nothing);
                    break;
                }
            }
        }
    }
}
