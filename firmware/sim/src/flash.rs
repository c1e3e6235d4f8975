//! NOR flash in memory, erase unit by erase unit: what is erased takes no room.
//!
//! A file, where there is one, follows every write at once, so that a process that is killed leaves what a
//! board without power leaves. The file is the flash's octets from its start, as on the emulated boards.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use muster_firmware::{
    nor::{Nor, NorError, UNIT, WORD},
    platform::Layout,
};
use muster_shared::vendor::{SeedRecord, VendorPage};

/// A device's flash. Clones are the same flash.
#[derive(Clone)]
pub struct Flash(Arc<Mutex<Units>>);

/// What a flash refuses.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// NOR flash does not do that.
    #[error(transparent)]
    Nor(#[from] NorError),
    /// The file behind it.
    #[error("the flash's file cannot be written")]
    File(#[from] io::Error),
}

struct Units {
    /// `None`: erased.
    units: Vec<Option<Box<[u8]>>>,
    file: Option<File>,
}

impl Flash {
    /// Erased all over, in memory only.
    #[must_use]
    pub fn blank() -> Self {
        let units = vec![None; Layout::SIZE as usize / UNIT];
        Self(Arc::new(Mutex::new(Units { units, file: None })))
    }

    /// As the flasher leaves it, in memory only.
    #[must_use]
    pub fn flashed(page: &VendorPage, seed: [u8; 32]) -> Self {
        let flash = Self::blank();
        flash.write_factory_image(page, seed).expect("a blank flash without a file takes any octets");
        flash
    }

    /// The flash in this file. A file that is not there yet is made, and `page` and `seed` written to it.
    ///
    /// # Errors
    /// The file cannot be read, or is not [`Layout::SIZE`] octets long, or cannot be written.
    pub fn open(path: &Path, page: &VendorPage, seed: [u8; 32]) -> io::Result<Self> {
        let flash = Self::blank();
        let found = path.try_exists()?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if found {
            flash.lock().load(&file)?;
            flash.lock().file = Some(file);
        } else {
            file.write_all_at(&vec![0xff; Layout::SIZE as usize], 0)?;
            flash.lock().file = Some(file);
            flash.write_factory_image(page, seed).map_err(io::Error::other)?;
        }
        Ok(flash)
    }

    /// Its octets.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut out = vec![0; Layout::SIZE as usize];
        self.lock().read(0, &mut out).expect("the flash has this size");
        out
    }

    /// Another flash with the same octets, in memory only: what a cloner gets.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let units = self.lock().units.clone();
        Self(Arc::new(Mutex::new(Units { units, file: None })))
    }

    fn write_factory_image(&self, page: &VendorPage, seed: [u8; 32]) -> Result<(), FlashError> {
        let mut flash = self.lock();
        flash.program(Layout::VENDOR.start, &padded(&page.to_bytes()))?;
        flash.program(Layout::ENTROPY.start, &padded(&SeedRecord { counter: 0, seed }.to_bytes()))
    }

    fn lock(&self) -> MutexGuard<'_, Units> {
        // A device that panicked leaves its flash as it is, as a board does.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole words, the rest left erased.
fn padded(record: &[u8]) -> Vec<u8> {
    let mut out = record.to_vec();
    out.resize(record.len().next_multiple_of(WORD), 0xff);
    out
}

impl Units {
    /// Runs `step` for each unit of a range: the unit's number, the offset in it, the range's part in it.
    fn each(
        offset: u32,
        len: usize,
        mut step: impl FnMut(usize, usize, std::ops::Range<usize>) -> Result<(), FlashError>,
    ) -> Result<(), FlashError> {
        let start = offset as usize;
        if start.checked_add(len).is_none_or(|end| end > Layout::SIZE as usize) {
            return Err(NorError::OutOfBounds.into());
        }
        let mut done = 0;
        while done < len {
            let (unit, within) = ((start + done) / UNIT, (start + done) % UNIT);
            let part = done..len.min(done + UNIT - within);
            done = part.end;
            step(unit, within, part)?;
        }
        Ok(())
    }

    fn read(&self, offset: u32, out: &mut [u8]) -> Result<(), FlashError> {
        Self::each(offset, out.len(), |unit, within, part| {
            match &self.units[unit] {
                Some(octets) => out[part.clone()].copy_from_slice(&octets[within..][..part.len()]),
                None => out[part].fill(0xff),
            }
            Ok(())
        })
    }

    fn program(&mut self, offset: u32, octets: &[u8]) -> Result<(), FlashError> {
        if !(offset as usize).is_multiple_of(WORD) || !octets.len().is_multiple_of(WORD) {
            return Err(NorError::NotAligned.into());
        }
        let Self { units, file } = self;
        Self::each(offset, octets.len(), |unit, within, part| {
            let cells = units[unit].get_or_insert_with(|| vec![0xff; UNIT].into());
            let mut nor = Nor::new(cells);
            let programmed = nor.program(within as u32, &octets[part.clone()]);
            if let Some(file) = file {
                let place = &nor.into_inner()[within..][..part.len()];
                file.write_all_at(place, (unit * UNIT + within) as u64)?;
            }
            Ok(programmed?)
        })
    }

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        if !(from as usize).is_multiple_of(UNIT) || !(to as usize).is_multiple_of(UNIT) {
            return Err(NorError::NotAligned.into());
        }
        let Some(len) = to.checked_sub(from) else { return Err(NorError::OutOfBounds.into()) };
        let Self { units, file } = self;
        Self::each(from, len as usize, |unit, _, _| {
            units[unit] = None;
            if let Some(file) = file {
                file.write_all_at(&[0xff; UNIT], (unit * UNIT) as u64)?;
            }
            Ok(())
        })
    }

    fn load(&mut self, file: &File) -> io::Result<()> {
        if file.metadata()?.len() < u64::from(Layout::SIZE) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is shorter than a flash"));
        }
        for (number, unit) in self.units.iter_mut().enumerate() {
            let mut octets = vec![0; UNIT];
            file.read_exact_at(&mut octets, (number * UNIT) as u64)?;
            *unit = octets.iter().any(|&octet| octet != 0xff).then(|| octets.into());
        }
        Ok(())
    }
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Nor(error) => error.kind(),
            Self::File(_) => NorFlashErrorKind::Other,
        }
    }
}

impl ErrorType for Flash {
    type Error = FlashError;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.lock().read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        Layout::SIZE as usize
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = UNIT;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.lock().erase(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.lock().program(offset, bytes)
    }
}

impl MultiwriteNorFlash for Flash {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page() -> VendorPage {
        VendorPage { root_digest: [7; 32], hardware: "sim".try_into().unwrap() }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Program(u32, Vec<u8>),
        Erase(u32, u32),
        Read(u32, usize),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let at = 0..Layout::SIZE + 8192;
        let near = prop_oneof![
            at.clone(),
            (0..44_u32).prop_map(|unit| unit * 4096),
            (0..44_u32).prop_map(|unit| (unit * 4096).saturating_sub(8))
        ];
        prop_oneof![
            (near.clone(), proptest::collection::vec(any::<u8>(), 0..64))
                .prop_map(|(at, o)| Step::Program(at, o)),
            (near.clone(), near.clone()).prop_map(|(from, to)| Step::Erase(from, to)),
            (near, 0..9000_usize).prop_map(|(at, len)| Step::Read(at, len)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Kept unit by unit, it is the same flash as one piece of memory, refusals included.
        #[test]
        fn units_are_one_flash(steps in proptest::collection::vec(steps(), 1..40)) {
            let flash = Flash::blank();
            let mut model = Nor::new(vec![0xff; Layout::SIZE as usize]);
            let nor = |result: Result<(), FlashError>| result.map_err(|error| match error {
                FlashError::Nor(error) => error,
                FlashError::File(error) => panic!("{error}"),
            });
            for step in steps {
                match step {
                    Step::Program(at, octets) => {
                        let (ours, theirs) = (nor(flash.lock().program(at, &octets)), model.program(at, &octets));
                        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
                    }
                    Step::Erase(from, to) => {
                        let (ours, theirs) = (nor(flash.lock().erase(from, to)), model.clear(from, to));
                        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
                    }
                    Step::Read(at, len) => {
                        let (mut ours, mut theirs) = (vec![0; len], vec![0; len]);
                        prop_assert_eq!(nor(flash.lock().read(at, &mut ours)), model.copy(at, &mut theirs));
                        prop_assert_eq!(ours, theirs);
                    }
                }
            }
        }
    }

    #[test]
    fn a_file_keeps_what_was_written_and_is_not_flashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flash.bin");
        let flash = Flash::open(&path, &page(), [1; 32]).unwrap();
        flash.lock().program(Layout::OUTBOX.start, b"kept").unwrap();
        flash.lock().program(Layout::CREDENTIALS.start, b"gone").unwrap();
        flash.lock().erase(Layout::CREDENTIALS.start, Layout::CREDENTIALS.end).unwrap();
        let again = Flash::open(&path, &page(), [2; 32]).unwrap();
        assert_eq!(again.contents(), flash.contents());
        let seed = again.contents()[Layout::ENTROPY.start as usize..][..52].try_into().unwrap();
        assert!(SeedRecord::from_bytes(&seed).is_some_and(|record| record.seed == [1; 32]));
        assert_eq!(&again.contents()[Layout::OUTBOX.start as usize..][..4], b"kept");
    }

    #[test]
    fn a_short_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flash.bin");
        std::fs::write(&path, [0xff; 100]).unwrap();
        let error = Flash::open(&path, &page(), [1; 32]).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_duplicate_goes_its_own_way() {
        let flash = Flash::flashed(&page(), [1; 32]);
        let copy = flash.duplicate();
        assert_eq!(copy.contents(), flash.contents());
        copy.lock().program(Layout::OUTBOX.start, b"copy").unwrap();
        assert_ne!(copy.contents(), flash.contents());
    }
}
