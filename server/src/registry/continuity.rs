//! What is kept of continuity tokens: for each device that has confirmed one, that one and the one it was
//! given last; the epoch; and the key they are made with.
//!
//! What a token means is in [`crate::edge::continuity`]. Here it is a number that grows: in memory, where
//! it is asked for at each CONNECT, and in the file, where it comes with the other facts. A process that
//! ends between the two forgets the newest tokens it gave out; they are then newer than what is known,
//! which is accepted.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use aws_lc_rs::{
    hmac,
    rand::{self, SecureRandom as _},
};
use futures_util::TryStreamExt as _;
use parking_lot::Mutex;

use super::{
    Inner, Registry,
    database::{Connection, uint},
    error::RegistryError,
    verdict::{DeviceKey, Verdicts},
};

/// What tells one token from every other, and which came first. Ordered: epoch, then counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issued {
    /// Of the registry, when it was made.
    pub epoch: u32,
    /// Larger than that of the device's token before it.
    pub counter: u64,
    /// Random: two histories of one registry give out different tokens.
    pub nonce: [u8; 8],
}

/// What is known of a device that has confirmed a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The newest it has shown.
    pub confirmed: Issued,
    /// The newest it was given, when it has not shown that one yet.
    pub pending: Option<Issued>,
}

impl Issued {
    /// Octets of one.
    pub const OCTETS: usize = 20;

    /// Epoch, counter, nonce; numbers most significant octet first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::OCTETS] {
        let mut octets = [0; Self::OCTETS];
        octets[..4].copy_from_slice(&self.epoch.to_be_bytes());
        octets[4..12].copy_from_slice(&self.counter.to_be_bytes());
        octets[12..].copy_from_slice(&self.nonce);
        octets
    }

    /// And back.
    #[must_use]
    pub fn from_bytes(octets: &[u8; Self::OCTETS]) -> Self {
        let [e0, e1, e2, e3, c0, c1, c2, c3, c4, c5, c6, c7, nonce @ ..] = *octets;
        Self {
            epoch: u32::from_be_bytes([e0, e1, e2, e3]),
            counter: u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]),
            nonce,
        }
    }
}

/// The key's file in the data directory.
pub const KEY_FILE: &str = "continuity.key";

/// The key tokens are made with. It never leaves this process but to its file.
pub(crate) struct Key {
    pub(crate) hmac: hmac::Key,
    /// Tells its tokens from those of a key that was lost.
    pub(crate) id: [u8; 4],
}

impl Key {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let digest = hmac::sign(&hmac, b"muster continuity key\0");
        let [a, b, c, d, ..] = *digest.as_ref() else { unreachable!("HMAC-SHA256 has 32 octets") };
        Self { hmac, id: [a, b, c, d] }
    }

    /// Reads the key, or makes one where there is none.
    fn open(data_dir: &Path) -> Result<Self, RegistryError> {
        let path = data_dir.join(KEY_FILE);
        let unusable = |error: io::Error| RegistryError::Key { path: path.clone(), source: error };
        match File::open(&path) {
            Ok(mut file) => {
                let mut secret = Vec::new();
                file.read_to_end(&mut secret).map_err(unusable)?;
                let secret = secret.as_slice().try_into().map_err(|_| {
                    unusable(io::Error::new(io::ErrorKind::InvalidData, "it has not 32 octets"))
                })?;
                Ok(Self::new(secret))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                rand::SystemRandom::new()
                    .fill(&mut secret)
                    .map_err(|_| unusable(io::Error::other("the system's random source failed")))?;
                // Whole or not at all, and on disk before the first token is made with it.
                let new = path.with_extension("new");
                let _ = fs::remove_file(&new);
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&new)
                    .map_err(unusable)?;
                file.write_all(&secret).and_then(|()| file.sync_all()).map_err(unusable)?;
                fs::rename(&new, &path).map_err(unusable)?;
                File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(unusable)?;
                Ok(Self::new(&secret))
            }
            Err(error) => Err(unusable(error)),
        }
    }
}

/// Tokens of every device, in memory.
pub(crate) struct Continuity {
    pub(crate) key: Key,
    epoch: AtomicU32,
    devices: Mutex<HashMap<DeviceKey, Kept>>,
}

impl Continuity {
    /// With the key of this data directory and nothing known yet.
    pub(super) fn open(data_dir: &Path) -> Result<Self, RegistryError> {
        Ok(Self { key: Key::open(data_dir)?, epoch: AtomicU32::new(1), devices: Mutex::default() })
    }

    /// The epoch tokens are made in.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A token of this epoch was made here, whatever the file says: it is this one now.
    pub(crate) fn meet_epoch(&self, epoch: u32) {
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
    }

    /// What is known of a device.
    pub(crate) fn kept(&self, device: DeviceKey) -> Option<Kept> {
        self.devices.lock().get(&device).copied()
    }

    /// Changes what is known of a device, in one step. The caller notes the fact.
    pub(crate) fn change(&self, device: DeviceKey, to: impl FnOnce(Option<Kept>) -> Option<Kept>) {
        let mut devices = self.devices.lock();
        let kept = devices.get(&device).copied();
        match to(kept) {
            Some(kept) => devices.insert(device, kept),
            None => devices.remove(&device),
        };
    }
}

/// Brings the file in line with the key. Tokens of a key that was lost can be told from nobody's: every
/// device begins anew then.
pub(super) async fn begin(connection: &mut Connection, key: &Key) -> Result<(), RegistryError> {
    let (before,): (Option<Vec<u8>>,) = sqlx::query_as("SELECT continuity_key FROM registry WHERE one = 1")
        .fetch_one(&mut *connection)
        .await?;
    if before.as_deref() == Some(&key.id[..]) {
        return Ok(());
    }
    if before.is_some() {
        tracing::warn!("the key of continuity tokens is another one; every device begins anew");
    }
    // The tokens go first: without them a crash in between changes nothing.
    sqlx::query("DELETE FROM continuity").execute(&mut *connection).await?;
    sqlx::query("UPDATE registry SET continuity_key = $1 WHERE one = 1")
        .bind(&key.id[..])
        .execute(connection)
        .await?;
    Ok(())
}

/// Reads what is known of every device.
pub(super) async fn load(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let (epoch,): (i64,) = sqlx::query_as("SELECT continuity_epoch FROM registry WHERE one = 1")
        .fetch_one(&mut *connection)
        .await?;
    inner.continuity.meet_epoch(u32::try_from(uint(epoch)).unwrap_or(u32::MAX));
    let mut rows = sqlx::query_as::<_, (i64, Vec<u8>, Option<Vec<u8>>)>(
        "SELECT device, confirmed, pending FROM continuity",
    )
    .fetch(connection);
    while let Some((row, confirmed, pending)) = rows.try_next().await? {
        let damaged = || RegistryError::Damaged(format!("continuity token of device row {row}"));
        let read = |octets: &[u8]| octets.try_into().map(Issued::from_bytes).map_err(|_| damaged());
        let device = inner.verdicts.by_row(row).ok_or_else(damaged)?;
        let kept = Kept { confirmed: read(&confirmed)?, pending: pending.as_deref().map(read).transpose()? };
        // What memory has is newer than the file, which is also read again after a commit that failed.
        inner.continuity.change(device, |known| Some(known.unwrap_or(kept)));
    }
    Ok(())
}

/// Writes what is known of these devices now, and the epoch.
pub(super) async fn write(
    tx: &mut Connection,
    continuity: &Continuity,
    verdicts: &Verdicts,
    device: DeviceKey,
) -> Result<(), RegistryError> {
    let Some(row) = verdicts.row(device) else { return Ok(()) };
    let Some(Kept { confirmed, pending }) = continuity.kept(device) else {
        return forget(tx, row).await;
    };
    sqlx::query(
        "INSERT INTO continuity (device, confirmed, pending) VALUES ($1, $2, $3)
         ON CONFLICT (device) DO UPDATE SET confirmed = excluded.confirmed, pending = excluded.pending",
    )
    .bind(row)
    .bind(confirmed.to_bytes().to_vec())
    .bind(pending.map(|pending| pending.to_bytes().to_vec()))
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE registry SET continuity_epoch = $1 WHERE one = 1 AND continuity_epoch < $1")
        .bind(i64::from(continuity.epoch()))
        .execute(tx)
        .await?;
    Ok(())
}

/// The device begins anew: what it was given does not count any more. In the transaction that decides so;
/// memory follows after its commit.
pub(super) async fn forget(tx: &mut Connection, row: i64) -> Result<(), RegistryError> {
    sqlx::query("DELETE FROM continuity WHERE device = $1").bind(row).execute(tx).await?;
    Ok(())
}

impl Registry {
    /// The registry was restored from a copy: from here on a token of the time before is accepted once
    /// from each device, since nobody can say any more which was the newest. Returns the new epoch.
    ///
    /// To be called once by whoever restores, before devices are let in.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing has changed then.
    pub async fn raise_continuity_epoch(&self) -> Result<u32, RegistryError> {
        self.run(|inner| async move {
            let mut writer = inner.writer().await?;
            let mut tx = writer.begin().await?;
            let epoch = inner.continuity.epoch().saturating_add(1);
            sqlx::query("UPDATE registry SET continuity_epoch = $1 WHERE one = 1")
                .bind(i64::from(epoch))
                .execute(&mut *tx)
                .await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())?;
            inner.continuity.meet_epoch(epoch);
            Ok(epoch)
        })
        .await
    }

    /// What is kept of continuity tokens, for the edge.
    pub(crate) fn continuity(&self) -> &Continuity {
        &self.inner.continuity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written in the registry and inside tokens: do not change this test.
    #[test]
    fn an_issued_token_is_twenty_octets() {
        let issued = Issued { epoch: 0x0102_0304, counter: 0x1112_1314_1516_1718, nonce: *b"abcdefgh" };
        assert_eq!(hex::encode(issued.to_bytes()), "0102030411121314151617186162636465666768");
        assert_eq!(Issued::from_bytes(&issued.to_bytes()), issued);
    }

    #[test]
    fn tokens_are_ordered_by_epoch_and_then_by_counter() {
        let of = |epoch, counter, nonce| Issued { epoch, counter, nonce: [nonce; 8] };
        assert!(of(1, 9, 0) < of(2, 1, 0) && of(1, 1, 9) < of(1, 2, 0));
    }

    #[test]
    fn the_key_is_made_once_for_the_server_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let made = Key::open(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::open(dir.path()).unwrap().id, made.id);
        fs::write(&path, [7; 31]).unwrap();
        assert!(matches!(Key::open(dir.path()), Err(RegistryError::Key { .. })));
        fs::remove_file(&path).unwrap();
        assert_ne!(Key::open(dir.path()).unwrap().id, made.id);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
    }
}
