//! The flash: the first octets of the PSRAM, with NOR semantics put in front.
//!
//! The board has no flash of its own. QEMU backs the PSRAM with a file, so what is written here outlives
//! the emulator, as on a real part.

use core::slice;

use muster_firmware::{nor::Nor, platform::Layout};

use crate::chip::PSRAM;

/// The board's non-volatile memory.
pub(crate) type Flash = Nor<&'static mut [u8]>;

/// Takes the flash. Called once, by `main`.
pub(crate) fn take(_once: crate::Once) -> Flash {
    // SAFETY: DAI 0386 table 3-1: 16 MiB of PSRAM at 0x21000000, outside of every region the linker script
    // knows, so nothing else refers to it; the token is made once, so there is one such slice.
    Nor::new(unsafe { slice::from_raw_parts_mut(PSRAM as *mut u8, Layout::SIZE as usize) })
}
