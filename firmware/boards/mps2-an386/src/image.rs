//! What the running image knows of itself: its digest, its stack, why it started; and how it ends.

use core::{mem::MaybeUninit, panic::PanicInfo, ptr, slice};

use cortex_m::peripheral::SCB;
use cortex_m_rt::{ExceptionFrame, exception};
use muster_firmware::platform::Reset;
use sha2::{Digest, Sha256};

use crate::{chip::SYSCLK_HZ, uart::Log};

unsafe extern "C" {
    static __vector_table: u32;
    static __sidata: u32;
    static mut __sdata: u32;
    static mut __edata: u32;
    static _stack_end: u32;
    static _stack_start: u32;
}

/// In [`LAST_WORDS`] while the firmware itself resets the board.
const ON_PURPOSE: u32 = 0x5245_5354;

/// Survives a reset, not a loss of power.
// SAFETY: ARM DUI 0553 §2.1.4 leaves RAM as it is at reset; the linker script neither loads nor clears `.uninit`.
#[unsafe(link_section = ".uninit.LAST_WORDS")]
static mut LAST_WORDS: MaybeUninit<u32> = MaybeUninit::uninit();

/// SHA-256 of the image as it lies in flash: from the vector table to the end of the initial data.
pub(crate) fn digest() -> [u8; 32] {
    let start = &raw const __vector_table as usize;
    let data = (&raw const __edata as usize) - (&raw const __sdata as usize);
    let len = &raw const __sidata as usize + data - start;
    // SAFETY: link.x (cortex-m-rt) places these symbols; flash starts at the address 0 of DAI 0386 table 3-1,
    // which is why the slice starts after the first word, and nothing writes to it while the image runs.
    let rest = unsafe { slice::from_raw_parts((start + 4) as *const u8, len - 4) };
    // SAFETY: as above, the first word: the initial stack pointer (DUI 0553 §2.3.4).
    let first = (&raw const _stack_start as u32 & !7).to_le_bytes();
    Sha256::new().chain_update(first).chain_update(rest).finalize().into()
}

/// Why the board started. The FPGA keeps no record (DAI 0386 has no reset information register).
pub(crate) fn reset_reason() -> Reset {
    let words = &raw mut LAST_WORDS;
    // SAFETY: DUI 0553 §2.2: an aligned word of RAM; any value is a valid `u32`, and one core runs `main` once.
    let last = unsafe { ptr::replace(words.cast::<u32>(), 0) };
    if last == ON_PURPOSE { Reset::Software } else { Reset::PowerOn }
}

/// Octets of stack that were never used (cortex-m-rt paints the stack before `main`).
pub(crate) fn stack_free() -> usize {
    let (mut at, end) = (&raw const _stack_end, &raw const _stack_start);
    let start = at as usize;
    // SAFETY: both symbols bound the stack region of memory.x, all of it readable RAM (DAI 0386 table 3-1).
    while at < end && unsafe { at.read_volatile() } == cortex_m_rt::STACK_PAINT_VALUE {
        at = at.wrapping_add(1);
    }
    at as usize - start
}

/// Says the last words and starts again: a second later, so that a board that always fails does not race.
fn restart(why: core::fmt::Arguments<'_>) -> ! {
    cortex_m::interrupt::disable();
    let _ = core::fmt::Write::write_fmt(&mut Log::start(), why);
    let words = &raw mut LAST_WORDS;
    // SAFETY: DUI 0553 §2.2: as in `reset_reason`; interrupts are off, so nothing else runs.
    unsafe { ptr::write_volatile(words.cast::<u32>(), ON_PURPOSE) };
    cortex_m::asm::delay(SYSCLK_HZ);
    SCB::sys_reset()
}

#[panic_handler]
fn on_panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => {
            restart(format_args!("\nmuster panic {}:{} {} | restart\n", at.file(), at.line(), info.message()))
        }
        None => restart(format_args!("\nmuster panic {} | restart\n", info.message())),
    }
}

// SAFETY: DUI 0553 §2.3.2: the handler of faults; it touches nothing that a fault may have left half-written.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    restart(format_args!("\nmuster fault at {:#010x} from {:#010x} | restart\n", frame.pc(), frame.lr()))
}

// SAFETY: DUI 0553 §2.3.2: an exception nobody asked for.
#[exception]
unsafe fn DefaultHandler(number: i16) {
    restart(format_args!("\nmuster fault interrupt {number} | restart\n"))
}
