//! A board's non-volatile memory: the file behind its emulated flash, and what a flasher writes there.
//!
//! The image is the same for every board. What makes a board one of a fleet is its vendor page (the
//! digest of the root it obeys) and its first seed, which no other board may share.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use muster_firmware::platform::Layout;
use muster_shared::vendor::{HARDWARE_MAX, SeedRecord, VendorPage};

/// The kind of board, as its vendor page says it.
pub const HARDWARE: &str = "mps2-an386";
/// The PSRAM behind the flash: QEMU wants the file exactly this long.
const FILE_LEN: u64 = 16 * 1024 * 1024;

const _: () = assert!(HARDWARE.len() <= HARDWARE_MAX && Layout::SIZE as u64 <= FILE_LEN);

/// A flash file.
#[derive(Debug, Clone)]
pub struct Flash {
    path: PathBuf,
}

impl Flash {
    /// Erases a flash and writes what a board has before it first sees a station: the digest of the
    /// root's SubjectPublicKeyInfo, and a seed drawn now.
    ///
    /// # Errors
    /// When the file cannot be written, or this machine gives no randomness.
    pub fn blank(path: &Path, root_digest: [u8; 32]) -> io::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| io::Error::other(e.to_string()))?;
        let hardware = heapless_name();
        let file = File::create(path)?;
        file.set_len(FILE_LEN)?;
        file.write_all_at(&vec![0xff; Layout::SIZE as usize], 0)?;
        let flash = Self { path: path.to_owned() };
        flash.write(Layout::VENDOR.start, &VendorPage { root_digest, hardware }.to_bytes())?;
        flash.write(Layout::ENTROPY.start, &SeedRecord { counter: 0, seed }.to_bytes())?;
        Ok(flash)
    }

    /// A flash file from an earlier run.
    #[must_use]
    pub fn existing(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A board with the same memory: what an attacker has who copies one.
    ///
    /// # Errors
    /// When the file cannot be copied.
    pub fn copy(&self, path: &Path) -> io::Result<Self> {
        std::fs::copy(&self.path, path)?;
        Ok(Self::existing(path))
    }

    /// Reads octets. The board may be running.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, range: Range<u32>) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; range.len()];
        File::open(&self.path)?.read_exact_at(&mut octets, range.start.into())?;
        Ok(octets)
    }

    /// Overwrites octets, as wear or a soldering iron would. The board must be off.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, at: u32, octets: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(octets, at.into())
    }
}

fn heapless_name() -> heapless::String<HARDWARE_MAX> {
    HARDWARE.try_into().expect("its length is asserted above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_shared::vendor::{SEED_LEN, VENDOR_LEN};

    fn records(flash: &Flash) -> (VendorPage, SeedRecord) {
        let read = |at: u32, len: usize| flash.read(at..at + len as u32).unwrap();
        let vendor: [u8; VENDOR_LEN] = read(Layout::VENDOR.start, VENDOR_LEN).try_into().unwrap();
        let seed: [u8; SEED_LEN] = read(Layout::ENTROPY.start, SEED_LEN).try_into().unwrap();
        (VendorPage::from_bytes(&vendor).unwrap(), SeedRecord::from_bytes(&seed).unwrap())
    }

    #[test]
    fn a_blank_flash_is_erased_but_for_its_two_records() {
        let dir = tempfile::tempdir().unwrap();
        let flash = Flash::blank(&dir.path().join("flash"), [7; 32]).unwrap();
        let (vendor, seed) = records(&flash);
        assert_eq!((vendor.root_digest, vendor.hardware.as_str(), seed.counter), ([7; 32], HARDWARE, 0));
        let rest = flash.read(Layout::CREDENTIALS.start..Layout::SIZE).unwrap();
        assert!(rest.iter().all(|&octet| octet == 0xff));
        assert_eq!(std::fs::metadata(flash.path()).unwrap().len(), FILE_LEN);
    }

    #[test]
    fn no_two_boards_share_a_seed() {
        let dir = tempfile::tempdir().unwrap();
        let one = Flash::blank(&dir.path().join("1"), [0; 32]).unwrap();
        let two = Flash::blank(&dir.path().join("2"), [0; 32]).unwrap();
        assert_ne!(records(&one).1.seed, records(&two).1.seed);
        assert_eq!(records(&one).1.seed, records(&one.copy(&dir.path().join("3")).unwrap()).1.seed);
    }
}
