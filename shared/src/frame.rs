//! Frames on a serial line: COBS(payload ‖ CRC-32, little endian) and a zero octet.
//!
//! The decoder takes one octet at a time and never loses the line: whatever it is fed, it is in step
//! again after the next zero octet. CRC-32 is the one of ISO-HDLC (IEEE 802.3).

use crc::{CRC_32_ISO_HDLC, Crc};

use crate::limits::FRAME_MAX;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const CRC_LEN: usize = 4;

/// Why a frame was dropped. The decoder goes on with the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More than [`FRAME_MAX`] octets without a delimiter.
    #[error("frame is longer than {FRAME_MAX} octets")]
    Oversized,
    /// Not COBS, or too short for a checksum.
    #[error("frame is malformed or truncated")]
    Malformed,
    /// The checksum differs.
    #[error("frame checksum differs: computed {computed:08x}, received {received:08x}")]
    Checksum {
        /// Over what arrived.
        computed: u32,
        /// What the frame says.
        received: u32,
    },
    /// The encoder's buffer is too small.
    #[error("frame does not fit {0} octets")]
    NoRoom(usize),
}

/// Encodes one frame, delimiter included, into `out`; returns its length. `scratch` holds the payload
/// and its checksum meanwhile.
///
/// A delimiter is written before the frame as well, so that line noise between frames costs nothing.
///
/// # Errors
/// [`FrameError::NoRoom`] when a buffer is too small.
pub fn encode(payload: &[u8], scratch: &mut [u8], out: &mut [u8]) -> Result<usize, FrameError> {
    let body = payload.len() + CRC_LEN;
    let need = cobs::max_encoding_length(body) + 2;
    if scratch.len() < body || out.len() < need || need > FRAME_MAX + 2 {
        return Err(FrameError::NoRoom(scratch.len().min(out.len())));
    }
    scratch[..payload.len()].copy_from_slice(payload);
    scratch[payload.len()..body].copy_from_slice(&CRC.checksum(payload).to_le_bytes());
    out[0] = 0;
    let used = cobs::encode(&scratch[..body], &mut out[1..]);
    out[1 + used] = 0;
    Ok(used + 2)
}

/// Takes octets, gives frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: [u8; FRAME_MAX],
    used: usize,
    /// Discarding up to the next delimiter: the frame was too long.
    skipping: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a frame.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; FRAME_MAX], used: 0, skipping: false }
    }

    /// Takes one octet. `Some` at the end of a frame: its payload, or why it was dropped.
    pub fn push(&mut self, octet: u8) -> Option<Result<&[u8], FrameError>> {
        if octet != 0 {
            match self.buffer.get_mut(self.used) {
                Some(place) => {
                    *place = octet;
                    self.used += 1;
                }
                None => self.skipping = true,
            }
            return None;
        }
        let used = core::mem::take(&mut self.used);
        if core::mem::take(&mut self.skipping) {
            return Some(Err(FrameError::Oversized));
        }
        // An empty frame is only a delimiter: the line was idle.
        (used > 0).then(|| decode(&mut self.buffer[..used]))
    }
}

fn decode(frame: &mut [u8]) -> Result<&[u8], FrameError> {
    let len = cobs::decode_in_place(frame).map_err(|_| FrameError::Malformed)?;
    let (payload, sum) = frame[..len].split_last_chunk::<CRC_LEN>().ok_or(FrameError::Malformed)?;
    let (computed, received) = (CRC.checksum(payload), u32::from_le_bytes(*sum));
    if computed != received {
        return Err(FrameError::Checksum { computed, received });
    }
    Ok(payload)
}
