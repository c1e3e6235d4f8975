//! NOR flash in memory: erasing sets bits, programming clears them, and power may go at any operation.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use muster_shared::vendor::{SeedRecord, VendorPage};

use super::lock;
use crate::platform::Layout;

const WORD: usize = 4;
const ERASE: usize = Layout::ERASE as usize;
/// An erase is interruptible in so many places.
const ERASE_STEPS: usize = 4;

/// The power went, the range cannot be written, or the place is not erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut;

impl NorFlashError for Cut {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

/// What the operation in progress leaves behind when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torn {
    /// Nothing of the word.
    Nothing,
    /// The word's first half.
    Half,
    /// Every other bit of what should have been cleared.
    Bits,
    /// The word; only the answer is lost.
    Whole,
}

/// A flash of [`Layout::SIZE`] octets. Clones are handles on the same flash.
#[derive(Clone)]
pub struct Flash(Arc<Mutex<State>>);

struct State {
    octets: Vec<u8>,
    cut: Option<(u64, Torn)>,
    off: bool,
    protected: Option<Range<u32>>,
    ignored: Option<Range<u32>>,
    operations: u64,
    erases: u64,
}

impl Flash {
    /// Every way a cut can leave a word.
    pub const TORN: [Torn; 4] = [Torn::Nothing, Torn::Half, Torn::Bits, Torn::Whole];

    /// Erased all over.
    #[must_use]
    pub fn blank() -> Self {
        Self(Arc::new(Mutex::new(State {
            octets: vec![0xff; Layout::SIZE as usize],
            cut: None,
            off: false,
            protected: None,
            ignored: None,
            operations: 0,
            erases: 0,
        })))
    }

    /// As it comes from the flasher, with a root nobody has the key of.
    #[must_use]
    pub fn flashed() -> Self {
        Self::flashed_for([0x11; 32], [0x22; 32])
    }

    /// As it comes from the flasher: the digest of the root's SubjectPublicKeyInfo, and the first seed.
    #[must_use]
    pub fn flashed_for(root_digest: [u8; 32], seed: [u8; 32]) -> Self {
        let flash = Self::blank();
        let hardware = "test".try_into().expect("it fits");
        flash.program(Layout::VENDOR.start, &VendorPage { root_digest, hardware }.to_bytes());
        flash.program(Layout::ENTROPY.start, &SeedRecord { counter: 0, seed }.to_bytes());
        flash
    }

    /// A flash of its own with the same contents and power on.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::blank();
        lock(&copy.0).octets.clone_from(&lock(&self.0).octets);
        copy
    }

    /// Programs octets, as a flasher does: no alignment, no power cut.
    pub fn program(&self, at: u32, octets: &[u8]) {
        let state = &mut *lock(&self.0);
        state.octets[at as usize..][..octets.len()].copy_from_slice(octets);
    }

    /// Flips every bit of one octet.
    pub fn damage(&self, at: u32) {
        lock(&self.0).octets[at as usize] ^= 0xff;
    }

    /// What lies there.
    #[must_use]
    pub fn contents(&self, range: Range<u32>) -> Vec<u8> {
        lock(&self.0).octets[range.start as usize..range.end as usize].to_vec()
    }

    /// Operations so far: a word programmed is one, an erase is four.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.0).operations
    }

    /// Units erased so far.
    #[must_use]
    pub fn erases(&self) -> u64 {
        lock(&self.0).erases
    }

    /// The power goes in the operation that follows so many more.
    pub fn cut_after(&self, operations: u64, torn: Torn) {
        lock(&self.0).cut = Some((operations, torn));
    }

    /// The power comes back. Whether it had gone.
    pub fn power_on(&self) -> bool {
        let state = &mut *lock(&self.0);
        state.cut = None;
        std::mem::take(&mut state.off)
    }

    /// Writing and erasing in this range fails from now on.
    pub fn write_protect(&self, range: Range<u32>) {
        lock(&self.0).protected = Some(range);
    }

    /// Writing and erasing in this range does nothing from now on, and says it did.
    pub fn ignore_writes(&self, range: Range<u32>) {
        lock(&self.0).ignored = Some(range);
    }
}

/// What becomes of the next operation.
enum Step {
    Done,
    Ignored,
    Torn(Torn),
}

impl State {
    fn step(&mut self, at: u32) -> Result<Step, Cut> {
        if self.off || self.protected.as_ref().is_some_and(|range| range.contains(&at)) {
            return Err(Cut);
        }
        self.operations += 1;
        if self.ignored.as_ref().is_some_and(|range| range.contains(&at)) {
            return Ok(Step::Ignored);
        }
        match &mut self.cut {
            Some((0, torn)) => {
                self.off = true;
                Ok(Step::Torn(*torn))
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(Step::Done)
            }
            None => Ok(Step::Done),
        }
    }
}

impl ErrorType for Flash {
    type Error = Cut;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, at: u32, out: &mut [u8]) -> Result<(), Cut> {
        let state = lock(&self.0);
        if state.off {
            return Err(Cut);
        }
        let from = state.octets.get(at as usize..).and_then(|rest| rest.get(..out.len())).ok_or(Cut)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn capacity(&self) -> usize {
        Layout::SIZE as usize
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = ERASE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Cut> {
        assert!(
            from.is_multiple_of(Layout::ERASE) && to.is_multiple_of(Layout::ERASE) && to <= Layout::SIZE,
            "erase out of step"
        );
        let state = &mut *lock(&self.0);
        let step = ERASE / ERASE_STEPS;
        state.erases += u64::from((to - from) / Layout::ERASE);
        for at in (from..to).step_by(step) {
            let place = at as usize..at as usize + step;
            match state.step(at)? {
                Step::Done | Step::Torn(Torn::Whole) => state.octets[place].fill(0xff),
                Step::Torn(Torn::Half) => state.octets[place.start..place.start + step / 2].fill(0xff),
                // Cells on their way up read as anything.
                Step::Torn(Torn::Bits) => state.octets[place].iter_mut().for_each(|octet| *octet |= 0x55),
                Step::Torn(Torn::Nothing) | Step::Ignored => {}
            }
            if state.off {
                return Err(Cut);
            }
        }
        Ok(())
    }

    async fn write(&mut self, at: u32, octets: &[u8]) -> Result<(), Cut> {
        assert!((at as usize).is_multiple_of(WORD) && octets.len().is_multiple_of(WORD), "write out of step");
        let state = &mut *lock(&self.0);
        for (n, word) in octets.chunks_exact(WORD).enumerate() {
            let place = at as usize + n * WORD;
            let step = state.step(place as u32)?;
            let cells = &state.octets[place..place + WORD];
            if matches!(step, Step::Done) && cells.iter().zip(word).any(|(cell, new)| cell & new != *new) {
                // As a controller tells it: a bit would have to become 1.
                return Err(Cut);
            }
            for (i, (cell, new)) in state.octets[place..place + WORD].iter_mut().zip(word).enumerate() {
                *cell &= match step {
                    Step::Done | Step::Torn(Torn::Whole) => *new,
                    Step::Torn(Torn::Half) if i < WORD / 2 => *new,
                    Step::Torn(Torn::Bits) => *new | 0x55,
                    Step::Torn(_) | Step::Ignored => 0xff,
                };
            }
            if state.off {
                return Err(Cut);
            }
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for Flash {}
