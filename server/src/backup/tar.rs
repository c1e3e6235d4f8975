//! The archive: POSIX ustar (IEEE 1003.1 §pax), plain files alone, with digests at the end.

use std::io::{self, Read, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

use super::BackupError;

/// The unit of the format.
const BLOCK: usize = 512;
/// Names the digests, and ends the archive.
const SUMS: &str = "SHA256SUMS";
/// Largest size that is written as octal digits; larger ones are written as a number (GNU).
const OCTAL_MAX: u64 = 0o77_777_777_777;
/// Octets copied at once.
const PIECE: usize = 1 << 18;

/// Writes members one after the other.
pub(super) struct Writer<'w, W> {
    out: &'w mut W,
    sums: String,
}

impl<'w, W: Write> Writer<'w, W> {
    pub(super) fn new(out: &'w mut W) -> Self {
        Self { out, sums: String::new() }
    }

    /// Adds what is in `from`, from its beginning to its end as they are now.
    pub(super) fn add(&mut self, name: &str, from: &mut (impl Read + Seek)) -> io::Result<()> {
        let size = from.seek(SeekFrom::End(0))?;
        from.rewind()?;
        self.out.write_all(&header(name, size))?;
        let mut digest = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let read = from.read(&mut piece[..PIECE.min(usize::try_from(left).unwrap_or(PIECE))])?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} became shorter")));
            }
            digest.update(&piece[..read]);
            self.out.write_all(&piece[..read])?;
            left -= read as u64;
        }
        self.pad(size)?;
        self.sums.push_str(&format!("{}  {name}\n", hex::encode(digest.finalize())));
        Ok(())
    }

    /// Adds the digests and the end.
    pub(super) fn finish(self) -> io::Result<()> {
        let sums = self.sums.as_bytes();
        self.out.write_all(&header(SUMS, sums.len() as u64))?;
        self.out.write_all(sums)?;
        let padding = padding(sums.len() as u64);
        self.out.write_all(&[0; BLOCK][..padding])?;
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..padding(size)])
    }
}

fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000600");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    if size <= OCTAL_MAX {
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Of the block with its own field as blanks.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let blank = 148..156;
    block
        .iter()
        .enumerate()
        .map(|(at, octet)| u32::from(if blank.contains(&at) { b' ' } else { *octet }))
        .sum()
}

/// Hands every member to `each` and compares its digest with the list at the end. A reader that sees `Ok`
/// has seen every octet of an archive that is whole.
pub(super) fn read(
    from: &mut impl Read,
    mut each: impl FnMut(&str, &mut dyn Read) -> io::Result<()>,
) -> Result<(), BackupError> {
    let mut sums = String::new();
    loop {
        let mut block = [0; BLOCK];
        from.read_exact(&mut block).map_err(cut)?;
        let (name, size) = parse(&block)?;
        let mut member = Summed { from: from.by_ref().take(size), digest: Sha256::new() };
        if name == SUMS {
            let mut told = String::new();
            member.read_to_string(&mut told).map_err(cut)?;
            return if told == sums && !sums.is_empty() && told.len() as u64 == size {
                Ok(())
            } else {
                Err(BackupError::Archive("its digests do not agree with what is in it".to_owned()))
            };
        }
        each(&name, &mut member)?;
        io::copy(&mut member, &mut io::sink())?;
        if member.from.limit() > 0 {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        sums.push_str(&format!("{}  {name}\n", hex::encode(member.digest.finalize())));
        let mut rest = [0; BLOCK];
        from.read_exact(&mut rest[..padding(size)]).map_err(cut)?;
    }
}

fn cut(error: io::Error) -> BackupError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Archive("it was cut short".to_owned()),
        _ => error.into(),
    }
}

fn parse(block: &[u8; BLOCK]) -> Result<(String, u64), BackupError> {
    let bad = |why: &str| BackupError::Archive(why.to_owned());
    let number = |field: &[u8]| {
        let text: String = field.iter().map(|octet| char::from(*octet)).collect();
        u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
    };
    if &block[257..262] != b"ustar" || block[156] != b'0' {
        return Err(bad("it is no archive of ours"));
    }
    if number(&block[148..156]) != Some(u64::from(checksum(block))) {
        return Err(bad("a header in it is damaged"));
    }
    let size = match block[124] {
        0x80 => Some(u64::from_be_bytes(block[128..136].try_into().expect("eight octets"))),
        _ => number(&block[124..136]),
    };
    let end = block[..100].iter().position(|octet| *octet == 0).unwrap_or(100);
    let name = std::str::from_utf8(&block[..end]).map_err(|_| bad("a name in it is no text"))?;
    Ok((name.to_owned(), size.ok_or_else(|| bad("a size in it is damaged"))?))
}

/// Digests what is read.
struct Summed<R> {
    from: io::Take<R>,
    digest: Sha256,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.digest.update(&into[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        writer.add("one", &mut io::Cursor::new(vec![7; 1300])).unwrap();
        writer.add("empty", &mut io::Cursor::new(Vec::new())).unwrap();
        writer.finish().unwrap();
        out
    }

    fn members(octets: &[u8]) -> Result<Vec<(String, usize)>, BackupError> {
        let mut all = Vec::new();
        read(&mut &*octets, |name, member| {
            let mut octets = Vec::new();
            member.read_to_end(&mut octets)?;
            all.push((name.to_owned(), octets.len()));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn what_was_added_is_read_back() {
        let expected = vec![("one".to_owned(), 1300), ("empty".to_owned(), 0)];
        assert_eq!(members(&archive()).unwrap(), expected);
        assert_eq!(archive().len() % BLOCK, 0);
        let large = header("large", OCTAL_MAX + 1);
        assert_eq!(parse(&large).unwrap(), ("large".to_owned(), OCTAL_MAX + 1));
    }

    #[test]
    fn an_archive_cut_anywhere_before_its_end_or_changed_in_one_bit_is_refused() {
        let whole = archive();
        // After the digests only padding and two empty blocks follow.
        let sums = whole.len() - 3 * BLOCK - BLOCK;
        for end in (0..sums + BLOCK + 100).step_by(37) {
            assert!(members(&whole[..end]).is_err(), "{end}");
        }
        for at in (0..1300 + BLOCK).step_by(41) {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert!(members(&other).is_err(), "{at}");
        }
    }
}
