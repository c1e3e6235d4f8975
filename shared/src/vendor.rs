//! What the flasher writes beside the image: the vendor page and the first entropy.
//!
//! The image is the same for every board and every fleet; these two records are not part of it. Both
//! have a fixed layout, little endian, and end in a CRC-32 (ISO-HDLC) over all before it.
//!
//! ```text
//! vendor  "MUSTERV1" ‖ SHA-256 of the root's SubjectPublicKeyInfo (32) ‖ hardware id (24, zero padded) ‖ CRC-32
//! seed    "MUSTERS1" ‖ counter (8) ‖ seed (32) ‖ CRC-32
//! ```

use crc::{CRC_32_ISO_HDLC, Crc};
use heapless::String;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const VENDOR_MAGIC: &[u8; 8] = b"MUSTERV1";
const SEED_MAGIC: &[u8; 8] = b"MUSTERS1";

/// Octets of a vendor page.
pub const VENDOR_LEN: usize = 8 + 32 + HARDWARE_MAX + 4;
/// Octets of a seed record.
pub const SEED_LEN: usize = 8 + 8 + 32 + 4;
/// Longest hardware id, octets.
pub const HARDWARE_MAX: usize = 24;

/// What a board is, and which root it obeys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorPage {
    /// SHA-256 of the root's SubjectPublicKeyInfo in DER.
    pub root_digest: [u8; 32],
    /// The board's kind: `mps2-an386`.
    pub hardware: String<HARDWARE_MAX>,
}

/// A seed and how often it has been replaced. Of two records the one with the higher counter counts.
#[derive(Clone, PartialEq, Eq)]
pub struct SeedRecord {
    /// One more with every start; committed before the seed is used.
    pub counter: u64,
    /// Secret.
    pub seed: [u8; 32],
}

impl VendorPage {
    /// The page's octets.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; VENDOR_LEN] {
        let mut out = [0; VENDOR_LEN];
        out[..8].copy_from_slice(VENDOR_MAGIC);
        out[8..40].copy_from_slice(&self.root_digest);
        out[40..40 + self.hardware.len()].copy_from_slice(self.hardware.as_bytes());
        seal(&mut out);
        out
    }

    /// Reads a page; `None` when there is none or it is damaged.
    #[must_use]
    pub fn from_bytes(page: &[u8; VENDOR_LEN]) -> Option<Self> {
        let body = unseal(page, VENDOR_MAGIC)?;
        let name = body[32..].split(|&b| b == 0).next()?;
        Some(Self {
            root_digest: *body.first_chunk()?,
            hardware: String::try_from(core::str::from_utf8(name).ok()?).ok()?,
        })
    }
}

impl SeedRecord {
    /// The record's octets.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SEED_LEN] {
        let mut out = [0; SEED_LEN];
        out[..8].copy_from_slice(SEED_MAGIC);
        out[8..16].copy_from_slice(&self.counter.to_le_bytes());
        out[16..48].copy_from_slice(&self.seed);
        seal(&mut out);
        out
    }

    /// Reads a record; `None` when there is none or it is damaged.
    #[must_use]
    pub fn from_bytes(record: &[u8; SEED_LEN]) -> Option<Self> {
        let body = unseal(record, SEED_MAGIC)?;
        let (counter, seed) = body.split_first_chunk()?;
        Some(Self { counter: u64::from_le_bytes(*counter), seed: *seed.first_chunk()? })
    }
}

fn seal(record: &mut [u8]) {
    if let Some((body, sum)) = record.split_last_chunk_mut::<4>() {
        *sum = CRC.checksum(body).to_le_bytes();
    }
}

fn unseal<'a>(record: &'a [u8], magic: &[u8; 8]) -> Option<&'a [u8]> {
    let (body, sum) = record.split_last_chunk::<4>()?;
    let body_after = body.strip_prefix(magic)?;
    (CRC.checksum(body) == u32::from_le_bytes(*sum)).then_some(body_after)
}
