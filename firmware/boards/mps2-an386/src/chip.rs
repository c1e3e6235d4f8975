//! The memory map and the vector table: addresses, interrupt numbers, register access.
//!
//! Manuals: ARM DAI 0386 (AN386: memory map §3, interrupts §3.7), ARM DDI 0479 (CMSDK: timers, UART),
//! ARM DUI 0553 (Cortex-M4 devices).

use core::ptr::{read_volatile, write_volatile};

use cortex_m::{interrupt::InterruptNumber, peripheral::NVIC};

/// What the clock tree gives every peripheral of the FPGA (DAI 0386 §2.1), hertz.
pub(crate) const SYSCLK_HZ: u32 = 25_000_000;

pub(crate) const DUAL_TIMER: Block = Block(0x4000_2000);
pub(crate) const UART0: Block = Block(0x4000_4000);
pub(crate) const UART1: Block = Block(0x4000_5000);
pub(crate) const LAN9118: Block = Block(0x4020_0000);
/// Start of the PSRAM (DAI 0386 table 3-1), which stands for the flash.
pub(crate) const PSRAM: usize = 0x2100_0000;

/// A peripheral's registers.
#[derive(Clone, Copy)]
pub(crate) struct Block(usize);

impl Block {
    /// Reads the 32-bit register at `offset`.
    pub(crate) fn read(self, offset: usize) -> u32 {
        debug_assert!(offset < 0x1000 && offset.is_multiple_of(4));
        // SAFETY: DAI 0386 table 3-1: the only blocks that exist (above) are 4 KiB of 32-bit device registers.
        unsafe { read_volatile((self.0 + offset) as *const u32) }
    }

    /// Writes the 32-bit register at `offset`.
    pub(crate) fn write(self, offset: usize, value: u32) {
        debug_assert!(offset < 0x1000 && offset.is_multiple_of(4));
        // SAFETY: as in `read`; none of these devices writes memory of its own accord (no DMA, DAI 0386 §2).
        unsafe { write_volatile((self.0 + offset) as *mut u32, value) }
    }
}

/// The interrupts in use (DAI 0386 table 3-8).
#[derive(Clone, Copy)]
#[repr(u16)]
pub(crate) enum Interrupt {
    Uart1Receive = 2,
    Uart1Transmit = 3,
    DualTimer = 10,
    Ethernet = 13,
}

// SAFETY: the numbers are those of DAI 0386 table 3-8, each below the 32 lines of the image's NVIC.
unsafe impl InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self as u16
    }
}

impl Interrupt {
    /// Lets the interrupt through to the core.
    pub(crate) fn unmask(self) {
        // SAFETY: DUI 0553 §4.2.2: setting an enable bit. No code relies on a masked interrupt for exclusion;
        // what handlers share with tasks is behind a critical section or atomic.
        unsafe { NVIC::unmask(self) }
    }

    /// Keeps the interrupt from the core; it stays pending at its source.
    pub(crate) fn mask(self) {
        NVIC::mask(self);
    }
}

unsafe extern "C" {
    /// cortex-m-rt's handler of what nothing else handles.
    fn DefaultHandler();
}

/// Handlers by interrupt number.
// SAFETY: DUI 0553 §2.3.4: the vectors follow the sixteen of the core, which the linker script places just before.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(export_name = "__INTERRUPTS")]
static INTERRUPTS: [unsafe extern "C" fn(); 32] = {
    let mut table = [DefaultHandler as unsafe extern "C" fn(); 32];
    table[Interrupt::Uart1Receive as usize] = crate::uart::on_receive;
    table[Interrupt::Uart1Transmit as usize] = crate::uart::on_transmit;
    table[Interrupt::DualTimer as usize] = crate::time::on_alarm;
    table[Interrupt::Ethernet as usize] = crate::lan9118::on_interrupt;
    table
};
