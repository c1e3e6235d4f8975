//! The second half of every certificate's digest, in a file without a name.
//!
//! Octets at 16 times the certificate's number. The file is made when the registry opens, is unlinked at once
//! and goes with the process; nobody else can open it, and what is in it is what the registry said. It is in
//! the data directory, so that it is on a disk and not in memory; the pages of devices that come and go are
//! in the kernel's cache, and one read is about a microsecond.
//!
//! A tail that cannot be written is kept in memory instead; one that cannot be read fits no certificate, which
//! is then refused: nobody is let in by half a digest.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::{Mutex, RwLock};

/// Its name, for the moment it has one.
const NAME: &str = "verdicts.tails";
/// Octets of a tail.
const LEN: usize = 16;
/// Octets gathered before they are written: a start writes millions of tails in a row.
const GATHER: usize = 1 << 20;

pub(super) struct Tails {
    file: Option<File>,
    gathering: Mutex<Gathered>,
    /// Something is gathered, or kept in memory.
    some: AtomicBool,
    kept: RwLock<HashMap<u32, [u8; LEN]>>,
    /// Gather until [`Tails::settle`].
    bulk: AtomicBool,
}

/// Tails of numbers in a row.
#[derive(Default)]
struct Gathered {
    first: u32,
    octets: Vec<u8>,
}

impl Tails {
    /// In a new file in this directory. They are gathered, and written together, until [`Tails::settle`].
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(Self { file: Some(file), bulk: AtomicBool::new(true), ..Self::in_memory() })
    }

    /// All in memory: for registries of a few devices.
    pub(super) fn in_memory() -> Self {
        Self {
            file: None,
            gathering: Mutex::default(),
            some: AtomicBool::new(false),
            kept: RwLock::default(),
            bulk: AtomicBool::new(false),
        }
    }

    /// Notes the tail of a number.
    pub(super) fn put(&self, number: u32, tail: [u8; LEN]) {
        let Some(file) = &self.file else { return self.keep(number, tail) };
        if !self.bulk.load(Ordering::SeqCst) {
            return self.write(file, number, &tail);
        }
        let mut gathered = self.gathering.lock();
        let next = gathered.first as usize + gathered.octets.len() / LEN;
        if number as usize != next || gathered.octets.len() >= GATHER {
            self.write(file, gathered.first, &gathered.octets);
            *gathered = Gathered { first: number, octets: Vec::with_capacity(GATHER) };
        }
        gathered.octets.extend_from_slice(&tail);
    }

    /// Writes what is gathered. From here on each is written when it is put.
    pub(super) fn settle(&self) {
        self.bulk.store(false, Ordering::SeqCst);
        let gathered = std::mem::take(&mut *self.gathering.lock());
        if let Some(file) = &self.file {
            self.write(file, gathered.first, &gathered.octets);
        }
    }

    fn write(&self, file: &File, first: u32, octets: &[u8]) {
        if let Err(error) = file.write_all_at(octets, u64::from(first) * LEN as u64) {
            tracing::warn!(%error, "digests cannot be kept on disk and are kept in memory");
            for (number, tail) in (first..).zip(octets.chunks_exact(LEN)) {
                self.keep(number, tail.try_into().expect("chunks of that size"));
            }
        }
    }

    fn keep(&self, number: u32, tail: [u8; LEN]) {
        self.kept.write().insert(number, tail);
        self.some.store(true, Ordering::SeqCst);
    }

    /// The tail of a number.
    pub(super) fn get(&self, number: u32) -> Option<[u8; LEN]> {
        if self.some.load(Ordering::SeqCst)
            && let Some(tail) = self.kept.read().get(&number)
        {
            return Some(*tail);
        }
        let file = self.file.as_ref()?;
        if self.bulk.load(Ordering::SeqCst) {
            let gathered = self.gathering.lock();
            let at = number.checked_sub(gathered.first).map(|at| at as usize * LEN);
            if let Some(tail) = at.and_then(|at| gathered.octets.get(at..at + LEN)) {
                return tail.try_into().ok();
            }
        }
        let mut tail = [0; LEN];
        match file.read_exact_at(&mut tail, u64::from(number) * LEN as u64) {
            Ok(()) => Some(tail),
            Err(error) => {
                tracing::error!(%error, "a certificate's digest cannot be read: it is refused");
                None
            }
        }
    }
}
