//! A backup: the registry and the uplink log of a running server in one file, and back.
//!
//! The file is a tar archive (POSIX ustar), so that anybody can look into it:
//!
//! | member | is |
//! |---|---|
//! | `registry.ndjson` | every table, as of one moment ([`crate::registry::backup`]) |
//! | `uplink.sqlite` | the uplink log, as of a moment after that |
//! | `continuity.key` | the key continuity tokens are made with |
//! | `audit.key` | the key the audit log's checkpoints are signed with |
//! | `SHA256SUMS` | digests of the others; the archive was cut short where it is not |
//!
//! The keys of the authorities, their passphrase and the configuration are not in it: they do not change
//! with the fleet, and are kept where few can read them.
//!
//! # Invariants
//!
//! - Whatever was committed before a backup began is in it.
//! - A restore changes nothing before the whole archive was read and its digests agree.
//! - After a restore every continuity token of before is of an earlier epoch, and every cursor of another log.
//! - A restore that was cut short is ended by a repeat before any server starts: until then what is there does not
//!   belong together.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    registry::{Actor, Place, Registry, RegistryError, audit::checkpoint, backup::Restored, continuity},
    uplink,
};

mod tar;

const REGISTRY: &str = "registry.ndjson";
/// Keys that were made with the registry, and say nothing beside another.
const KEYS: [&str; 2] = [continuity::KEY_FILE, checkpoint::KEY_FILE];
const MEMBERS: [&str; 4] = [REGISTRY, uplink::FILE, KEYS[0], KEYS[1]];

/// Stands in the data directory from the first change of a restore to its last.
const UNFINISHED: &str = "restore.unfinished";
/// Folders an archive is unpacked to begin so.
const UNPACKED: &str = ".restore";

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The uplink log.
    #[error("the uplink log cannot be copied")]
    Uplink(#[from] uplink::snapshot::SnapshotError),
    /// There is an uplink log already.
    #[error("{} holds an uplink log", .0.display())]
    Occupied(PathBuf),
    /// The archive.
    #[error("the backup is not whole: {0}")]
    Archive(String),
    /// A file.
    #[error("a file of the backup cannot be read or written")]
    Io(#[from] io::Error),
}

/// A folder that is removed with all in it.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path, name: &str) -> io::Result<Self> {
        let mut octets = [0; 6];
        aws_lc_rs::rand::fill(&mut octets).map_err(io::Error::other)?;
        let path = parent.join(format!("{name}-{}", hex::encode(octets)));
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is in a folder of the server's own and named as what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a backup of what is committed now. The file has no name any more: it is gone when it is closed.
///
/// # Errors
/// [`BackupError`]; nothing is left behind.
pub async fn make(registry: &Registry, data_dir: &Path, actor: &Actor) -> Result<File, BackupError> {
    let folder = Folder::new(&data_dir.join("run"), "backup")?;
    registry.back_up(actor, &folder.0.join(REGISTRY)).await?;
    // After the registry: what the log's messages are about is known to it, or came later.
    uplink::snapshot::write(data_dir, &folder.0.join(uplink::FILE)).await?;
    let keys = KEYS.map(|name| data_dir.join(name));
    let packed = tokio::task::spawn_blocking(move || {
        for (name, key) in KEYS.iter().zip(keys) {
            fs::copy(key, folder.0.join(name))?;
        }
        let path = folder.0.join("backup.tar");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let mut archive = tar::Writer::new(&mut file);
        for member in MEMBERS {
            let path = folder.0.join(member);
            archive.add(member, &mut File::open(&path)?)?;
            // What is in the archive need not be on the disk twice.
            fs::remove_file(path)?;
        }
        archive.finish()?;
        file.rewind()?;
        Ok::<_, io::Error>(file)
    });
    Ok(packed.await.map_err(io::Error::other)??)
}

/// Copies an archive to a new file that its owner alone may read, checking it on the way: what was cut short
/// leaves nothing.
///
/// # Errors
/// [`BackupError::Archive`] when it is not whole, [`BackupError::Io`].
pub fn keep(from: &mut dyn io::Read, to: &Path) -> Result<u64, BackupError> {
    if to.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there already").into());
    }
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let copied = (|| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        let octets = io::copy(from, &mut file)?;
        file.sync_all()?;
        file.rewind()?;
        tar::read(&mut file, |_, member| io::copy(member, &mut io::sink()).map(drop))?;
        fs::rename(&partial, to)?;
        if let Some(dir) = to.canonicalize()?.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(octets)
    })();
    if copied.is_err() {
        let _ = fs::remove_file(&partial);
    }
    copied
}

/// Brings a backup back. No server may run on the data directory or the registry; the caller holds the
/// directory. What is there is replaced only when `over` says so.
///
/// # Errors
/// [`BackupError`]. Until the archive was found whole nothing has changed; a restore that ends between its
/// parts can be repeated with `over`.
pub async fn restore(
    archive: &Path,
    data_dir: &Path,
    place: &Place,
    actor: &Actor,
    over: bool,
) -> Result<Restored, BackupError> {
    let log = data_dir.join(uplink::FILE);
    if log.exists() && !over {
        return Err(BackupError::Occupied(log));
    }
    if Registry::exists(place).await? && !over {
        return Err(RegistryError::Occupied(place.to_string()).into());
    }
    // Of those that were killed.
    for entry in fs::read_dir(data_dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&format!("{UNPACKED}-"))) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let folder = Folder::new(data_dir, UNPACKED)?;
    unpack(&mut File::open(archive)?, &folder.0)?;
    uplink::snapshot::adopt(&folder.0.join(uplink::FILE)).await?;
    let unfinished = data_dir.join(UNFINISHED);
    // On disk before anything is changed.
    File::create(&unfinished)?.sync_all()?;
    File::open(data_dir)?.sync_all()?;
    // The public half is made again from the key that comes.
    match fs::remove_file(data_dir.join(checkpoint::PUBLIC_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    for file in [KEYS[0], KEYS[1], uplink::FILE] {
        for end in ["-wal", "-shm"] {
            let old = data_dir.join(format!("{file}{end}"));
            if old.exists() {
                fs::remove_file(old)?;
            }
        }
        fs::rename(folder.0.join(file), data_dir.join(file))?;
    }
    File::open(data_dir)?.sync_all()?;
    let restored = Registry::restore(actor, data_dir, place, &folder.0.join(REGISTRY), over).await?;
    fs::remove_file(unfinished)?;
    File::open(data_dir)?.sync_all()?;
    Ok(restored)
}

/// Whether a restore of this data directory was begun and has not ended.
#[must_use]
pub fn is_unfinished(data_dir: &Path) -> bool {
    data_dir.join(UNFINISHED).exists()
}

fn unpack(archive: &mut File, to: &Path) -> Result<(), BackupError> {
    let mut found = Vec::new();
    tar::read(archive, |name, member| {
        if !MEMBERS.contains(&name) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has a member {name:?}")));
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to.join(name))?;
        io::copy(member, &mut file)?;
        file.flush()?;
        file.sync_all()?;
        found.push(name.to_owned());
        Ok(())
    })?;
    match MEMBERS.iter().find(|member| !found.iter().any(|found| found == *member)) {
        Some(missing) => Err(BackupError::Archive(format!("{missing} is not in it"))),
        None => Ok(()),
    }
}
