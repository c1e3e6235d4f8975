//! What an image takes of a board, read from its ELF program headers.

use std::{fmt, fs, path::Path};

use sha2::{Digest, Sha256};

/// Flash that an image may take, octets: half of a 1 MiB part, so that two images fit for updates.
pub const FLASH_MAX: u64 = 512 * 1024;
/// Static RAM that an image may take, octets; the rest of a 192 KiB part is its stack.
pub const RAM_MAX: u64 = 128 * 1024;

/// Where the Cortex-M memory map has its RAM (ARMv7-M ARM, B3.1).
const RAM: std::ops::Range<u64> = 0x2000_0000..0x2100_0000;
const PT_LOAD: u32 = 1;

/// An image's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Code, constants and the initial values of data, octets.
    pub flash: u64,
    /// Data and zeroed data, octets; the stack is not in it.
    pub ram: u64,
}

/// Why an image has no size, or one too many.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not readable.
    #[error("the image cannot be read")]
    Read(#[from] std::io::Error),
    /// Not a little-endian 32-bit ELF file.
    #[error("not a little-endian 32-bit ELF file")]
    NotElf,
    /// Too large.
    #[error("the image takes {size}; allowed are {FLASH_MAX} octets of flash and {RAM_MAX} of RAM")]
    TooLarge {
        /// What it takes.
        size: Size,
    },
}

impl Size {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// [`ImageError::Read`] and [`ImageError::NotElf`].
    pub fn of(path: &Path) -> Result<Self, ImageError> {
        Self::of_elf(&fs::read(path)?).ok_or(ImageError::NotElf)
    }

    /// Is there room for it?
    ///
    /// # Errors
    /// [`ImageError::TooLarge`].
    pub fn check(self) -> Result<(), ImageError> {
        if self.flash > FLASH_MAX || self.ram > RAM_MAX {
            return Err(ImageError::TooLarge { size: self });
        }
        Ok(())
    }

    fn of_elf(elf: &[u8]) -> Option<Self> {
        let mut size = Self { flash: 0, ram: 0 };
        for segment in segments(elf)? {
            size.flash += segment.stored.len() as u64;
            size.ram += if RAM.contains(&segment.runs_at) { segment.taken } else { 0 };
        }
        Some(size)
    }
}

/// The digest by which the image knows itself, lower-case hexadecimal: SHA-256 over its segments as they
/// lie in flash from address 0, gaps filled with zeroes.
///
/// # Errors
/// [`ImageError::Read`] and [`ImageError::NotElf`].
pub fn digest(path: &Path) -> Result<String, ImageError> {
    let elf = fs::read(path)?;
    let laid = laid_out(&elf).ok_or(ImageError::NotElf)?;
    Ok(Sha256::digest(&laid).iter().map(|octet| format!("{octet:02x}")).collect())
}

/// Reads a digest in hexadecimal.
#[must_use]
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let pairs = text.as_bytes().chunks_exact(2);
    if text.len() != 64 || !text.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return None;
    }
    for (octet, pair) in digest.iter_mut().zip(pairs) {
        *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

fn laid_out(elf: &[u8]) -> Option<Vec<u8>> {
    let mut flash = Vec::new();
    for segment in segments(elf)?.into_iter().filter(|segment| !segment.stored.is_empty()) {
        let end = segment.lies_at.checked_add(segment.stored.len())?;
        if end as u64 > FLASH_MAX {
            return None;
        }
        flash.resize(flash.len().max(end), 0);
        flash[segment.lies_at..end].copy_from_slice(segment.stored);
    }
    Some(flash)
}

struct Segment<'a> {
    stored: &'a [u8],
    /// Where it lies in flash.
    lies_at: usize,
    /// Where it is when the image runs.
    runs_at: u64,
    /// How much it takes there.
    taken: u64,
}

fn segments(elf: &[u8]) -> Option<Vec<Segment<'_>>> {
    // ELF magic, 32-bit, little endian (System V ABI, chapters 4 and 5).
    elf.starts_with(b"\x7fELF\x01\x01").then_some(())?;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(*elf.get(at..)?.first_chunk()?)));
    let word = |at: usize| Some(u32::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let (table, entry, count) = (word(28)? as usize, half(42)?, half(44)?);
    let mut found = Vec::new();
    for header in (0..count).map(|n| table + n * entry) {
        let (offset, len) = (word(header + 4)? as usize, word(header + 16)? as usize);
        let (runs_at, lies_at) = (u64::from(word(header + 8)?), word(header + 12)? as usize);
        let taken = u64::from(word(header + 20)?);
        if word(header)? == PT_LOAD {
            let stored = elf.get(offset..offset.checked_add(len)?)?;
            found.push(Segment { stored, lies_at, runs_at, taken });
        }
    }
    Some(found)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |octets: u64| octets as f64 / 1024.0;
        write!(f, "flash {:.1} KiB, static RAM {:.1} KiB", kib(self.flash), kib(self.ram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(headers: &[[u32; 8]]) -> Vec<u8> {
        let mut elf = vec![0; 52];
        elf[..6].copy_from_slice(b"\x7fELF\x01\x01");
        elf[28..32].copy_from_slice(&52u32.to_le_bytes());
        elf[42..44].copy_from_slice(&32u16.to_le_bytes());
        elf[44..46].copy_from_slice(&(headers.len() as u16).to_le_bytes());
        elf.extend(headers.iter().flatten().flat_map(|word| word.to_le_bytes()));
        elf.resize(elf.len() + 2000, 0xab);
        elf
    }

    #[test]
    fn data_counts_in_flash_and_in_ram_and_zeroes_in_ram_only() {
        let code = [PT_LOAD, 0, 0, 0, 1000, 1000, 5, 4];
        let data = [PT_LOAD, 0, 0x2000_0000, 1000, 64, 64, 6, 4];
        let zeroes = [PT_LOAD, 0, 0x2000_0040, 0x2000_0040, 0, 512, 6, 4];
        let note = [4, 0, 0x2000_0000, 0, 99, 99, 4, 4];
        let size = Size::of_elf(&elf(&[code, data, zeroes, note]));
        assert_eq!(size, Some(Size { flash: 1064, ram: 576 }));
    }

    #[test]
    fn what_is_no_elf_or_cut_short_is_refused() {
        let whole = elf(&[[PT_LOAD, 84, 0, 0, 2000, 2000, 5, 4]]);
        assert!(Size::of_elf(&whole).is_some());
        for cut in [whole.len() - 1, 84, 60, 40] {
            assert_eq!(Size::of_elf(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(Size::of_elf(b"\x7fELF\x02\x01"), None);
        assert_eq!(Size::of_elf(b""), None);
    }

    #[test]
    fn segments_lie_where_they_are_stored_with_zeroes_between() {
        let first = [PT_LOAD, 148, 0, 0, 2, 2, 5, 4];
        let second = [PT_LOAD, 148, 0x2000_0000, 4, 1, 1, 6, 4];
        let zeroes = [PT_LOAD, 0, 0x2000_0001, 9, 0, 512, 6, 4];
        assert_eq!(laid_out(&elf(&[second, first, zeroes])), Some(vec![0xab, 0xab, 0, 0, 0xab]));
        let beyond = [PT_LOAD, 148, 0, FLASH_MAX as u32, 1, 1, 5, 4];
        assert_eq!(laid_out(&elf(&[beyond])), None);
    }

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        assert_eq!(unhex(&"0a".repeat(32)), Some([10; 32]));
        for wrong in ["", "0a", &"0g".repeat(32), &"é".repeat(32), &"+1".repeat(32)] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn too_large_is_an_error_that_says_how_large() {
        let size = Size { flash: FLASH_MAX + 1, ram: 0 };
        assert!(size.check().is_err_and(|e| e.to_string().contains("flash 512.0 KiB")));
        assert!(Size { flash: FLASH_MAX, ram: RAM_MAX }.check().is_ok());
    }
}
