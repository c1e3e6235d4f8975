//! NOR flash made of plain memory, with the manners of the real part.
//!
//! For boards whose "flash" is emulated, and for hosts. Erasing sets whole units to 0xff; programming
//! only clears bits, in whole words; whoever breaks these rules is told, as a flash controller tells it.

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

use crate::platform::Layout;

/// Octets of a programmed word.
pub const WORD: usize = 4;
/// Octets of an erase unit.
pub const UNIT: usize = Layout::ERASE as usize;

/// Memory that behaves like NOR flash.
pub struct Nor<M>(M);

/// What the flash refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NorError {
    /// Beyond the end.
    #[error("beyond the flash's end")]
    OutOfBounds,
    /// Not on a word or unit.
    #[error("not aligned to the flash's words or units")]
    NotAligned,
    /// A bit would have to become 1: the place is not erased. The bits that could be cleared are.
    #[error("programmed without being erased")]
    NotErased,
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> Nor<M> {
    /// Takes the memory as it is; what it holds is what the flash holds.
    pub fn new(memory: M) -> Self {
        Self(memory)
    }

    /// Gives the memory back.
    pub fn into_inner(self) -> M {
        self.0
    }

    /// Copies octets out; any offset will do.
    ///
    /// # Errors
    /// [`NorError::OutOfBounds`].
    pub fn copy(&mut self, offset: u32, out: &mut [u8]) -> Result<(), NorError> {
        out.copy_from_slice(self.range(offset, out.len(), 1)?);
        Ok(())
    }

    /// Clears the bits that are 0 in `octets`.
    ///
    /// # Errors
    /// [`NorError`]; only with [`NorError::NotErased`] has anything changed.
    pub fn program(&mut self, offset: u32, octets: &[u8]) -> Result<(), NorError> {
        let cells = self.range(offset, octets.len(), WORD)?;
        let mut kept = true;
        for (cell, &wanted) in cells.iter_mut().zip(octets) {
            *cell &= wanted;
            kept &= *cell == wanted;
        }
        if kept { Ok(()) } else { Err(NorError::NotErased) }
    }

    /// Sets every bit from unit to unit.
    ///
    /// # Errors
    /// [`NorError`]; nothing has changed.
    pub fn clear(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        self.place(from, to, UNIT)?.fill(0xff);
        Ok(())
    }

    fn place(&mut self, from: u32, to: u32, unit: usize) -> Result<&mut [u8], NorError> {
        let (from, to) = (from as usize, to as usize);
        let memory = self.0.as_mut();
        if from > to || to > memory.len() {
            return Err(NorError::OutOfBounds);
        }
        if !from.is_multiple_of(unit) || !to.is_multiple_of(unit) {
            return Err(NorError::NotAligned);
        }
        Ok(&mut memory[from..to])
    }

    fn range(&mut self, offset: u32, len: usize, unit: usize) -> Result<&mut [u8], NorError> {
        let end =
            u32::try_from(len).ok().and_then(|len| offset.checked_add(len)).ok_or(NorError::OutOfBounds)?;
        self.place(offset, end, unit)
    }
}

impl NorFlashError for NorError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::OutOfBounds => NorFlashErrorKind::OutOfBounds,
            Self::NotAligned => NorFlashErrorKind::NotAligned,
            Self::NotErased => NorFlashErrorKind::Other,
        }
    }
}

impl<M> ErrorType for Nor<M> {
    type Error = NorError;
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> ReadNorFlash for Nor<M> {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorError> {
        self.copy(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.as_ref().len()
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> NorFlash for Nor<M> {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = UNIT;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        self.clear(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorError> {
        self.program(offset, bytes)
    }
}

impl<M: AsRef<[u8]> + AsMut<[u8]>> MultiwriteNorFlash for Nor<M> {}

#[cfg(test)]
mod tests {
    use embassy_futures::block_on;

    use super::*;

    fn flash() -> Nor<std::vec::Vec<u8>> {
        Nor::new(std::vec![0xa5; 3 * UNIT])
    }

    #[test]
    fn erase_sets_whole_units_and_nothing_else() {
        let mut flash = flash();
        block_on(flash.erase(4096, 8192)).unwrap();
        let memory = flash.into_inner();
        assert!(memory[..UNIT].iter().chain(&memory[2 * UNIT..]).all(|&b| b == 0xa5));
        assert!(memory[UNIT..2 * UNIT].iter().all(|&b| b == 0xff));
    }

    #[test]
    fn erase_refuses_parts_of_units_reversed_and_outside() {
        let mut flash = flash();
        for (from, to, error) in [
            (1, 4096, NorError::NotAligned),
            (0, 4095, NorError::NotAligned),
            (8192, 4096, NorError::OutOfBounds),
            (8192, 16384, NorError::OutOfBounds),
            (u32::MAX, u32::MAX, NorError::OutOfBounds),
        ] {
            assert_eq!(block_on(flash.erase(from, to)), Err(error), "{from}..{to}");
        }
        assert!(flash.into_inner().iter().all(|&b| b == 0xa5));
    }

    #[test]
    fn programming_only_clears_bits() {
        let mut flash = flash();
        block_on(flash.erase(0, 4096)).unwrap();
        block_on(flash.write(8, &[0x0f, 0xff, 0x00, 0x55])).unwrap();
        block_on(flash.write(8, &[0x0e, 0x7f, 0x00, 0x55])).unwrap();
        assert_eq!(block_on(flash.write(8, &[0xf1, 0x7f, 0x00, 0x55])), Err(NorError::NotErased));
        let mut read = [0; 6];
        block_on(flash.read(7, &mut read)).unwrap();
        assert_eq!(read, [0xff, 0x00, 0x7f, 0x00, 0x55, 0xff]);
    }

    #[test]
    fn programming_refuses_parts_of_words_and_outside() {
        let mut flash = flash();
        let end = 3 * 4096;
        for (offset, octets, error) in [
            (2, 4, NorError::NotAligned),
            (4, 3, NorError::NotAligned),
            (end, 4, NorError::OutOfBounds),
            (end - 4, 8, NorError::OutOfBounds),
            (u32::MAX - 3, 8, NorError::OutOfBounds),
        ] {
            assert_eq!(block_on(flash.write(offset, &[0; 8][..octets])), Err(error), "{octets} at {offset}");
        }
        assert!(flash.into_inner().iter().all(|&b| b == 0xa5));
    }

    #[test]
    fn reading_is_by_octet_and_ends_at_the_end() {
        let mut flash = flash();
        assert_eq!(block_on(flash.read(3 * 4096 - 1, &mut [0; 1])), Ok(()));
        assert_eq!(block_on(flash.read(3 * 4096 - 1, &mut [0; 2])), Err(NorError::OutOfBounds));
        assert_eq!(flash.capacity(), 3 * UNIT);
    }
}
