//! The two CMSDK UARTs (ARM DDI 0479 §4.3): UART0 carries the log, UART1 is the factory port.

use core::{convert::Infallible, fmt, future::poll_fn, task::Poll};

use embassy_sync::{blocking_mutex::raw::CriticalSectionRawMutex, pipe::Pipe, waitqueue::AtomicWaker};
use embedded_io_async::{ErrorType, Read, Write};

use crate::chip::{Block, Interrupt, SYSCLK_HZ, UART0, UART1};

const DATA: usize = 0x00;
const STATE: usize = 0x04;
const CONTROL: usize = 0x08;
const INTERRUPT: usize = 0x0c;
const DIVIDER: usize = 0x10;

const TRANSMIT_FULL: u32 = 1 << 0;
const RECEIVE_FULL: u32 = 1 << 1;
const TRANSMIT_ON: u32 = 1 << 0;
const RECEIVE_ON: u32 = 1 << 1;
const TRANSMIT_INTERRUPT_ON: u32 = 1 << 2;
const RECEIVE_INTERRUPT_ON: u32 = 1 << 3;
const TRANSMIT_INTERRUPT: u32 = 1 << 0;
const RECEIVE_INTERRUPT: u32 = 1 << 1;

const BAUD: u32 = 115_200;
/// How often a full transmitter is asked again before its octet is dropped: several octets' time at
/// [`BAUD`]. Nobody who stops reading the log may stop the device.
const LOG_PATIENCE: u32 = 20_000;
/// Octets received and not yet read. When it is full the interrupt stays masked: an emulated line waits,
/// a real one loses octets and the frame's CRC says so.
const RING: usize = 1024;

static RECEIVED: Pipe<CriticalSectionRawMutex, RING> = Pipe::new();
static TRANSMITTER: AtomicWaker = AtomicWaker::new();

/// The log: lines out of UART0, each octet waited for.
#[derive(Clone)]
pub(crate) struct Log(());

impl Log {
    /// Switches the transmitter on. Doing it twice changes nothing.
    pub(crate) fn start() -> Self {
        UART0.write(DIVIDER, SYSCLK_HZ / BAUD);
        UART0.write(CONTROL, TRANSMIT_ON);
        Self(())
    }
}

impl fmt::Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &octet in text.as_bytes() {
            let free = (0..LOG_PATIENCE).any(|_| UART0.read(STATE) & TRANSMIT_FULL == 0);
            if free {
                UART0.write(DATA, octet.into());
            }
        }
        Ok(())
    }
}

/// The factory port: UART1.
pub(crate) struct FactoryPort(());

impl FactoryPort {
    /// Switches the port on. There is one reader and one writer: whoever holds this.
    pub(crate) fn start() -> Self {
        UART1.write(DIVIDER, SYSCLK_HZ / BAUD);
        UART1.write(CONTROL, TRANSMIT_ON | RECEIVE_ON | RECEIVE_INTERRUPT_ON);
        Interrupt::Uart1Receive.unmask();
        Interrupt::Uart1Transmit.unmask();
        Self(())
    }

    /// Ready when the transmitter takes an octet.
    async fn transmitter(&mut self) {
        poll_fn(|cx| {
            if free(UART1) {
                return Poll::Ready(());
            }
            TRANSMITTER.register(cx.waker());
            UART1.write(CONTROL, UART1.read(CONTROL) | TRANSMIT_INTERRUPT_ON);
            // It may have become free before the interrupt was on.
            if free(UART1) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl ErrorType for FactoryPort {
    type Error = Infallible;
}

impl Read for FactoryPort {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let octets = RECEIVED.read(buffer).await;
        Interrupt::Uart1Receive.unmask();
        Ok(octets)
    }
}

impl Write for FactoryPort {
    async fn write(&mut self, octets: &[u8]) -> Result<usize, Infallible> {
        let Some(&first) = octets.first() else { return Ok(0) };
        self.transmitter().await;
        UART1.write(DATA, first.into());
        let mut sent = 1;
        while let Some(&octet) = octets.get(sent).filter(|_| free(UART1)) {
            UART1.write(DATA, octet.into());
            sent += 1;
        }
        Ok(sent)
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        self.transmitter().await;
        Ok(())
    }
}

/// An octet arrived at UART1.
pub(crate) extern "C" fn on_receive() {
    if RECEIVED.is_full() {
        Interrupt::Uart1Receive.mask();
        return;
    }
    // Cleared first: reading the octet lets the next one in, and that one interrupts anew.
    UART1.write(INTERRUPT, RECEIVE_INTERRUPT);
    if UART1.read(STATE) & RECEIVE_FULL != 0 {
        let octet = UART1.read(DATA).to_le_bytes()[0];
        // There is room: only this handler writes.
        let _ = RECEIVED.try_write(&[octet]);
    }
}

/// UART1 sent its octet.
pub(crate) extern "C" fn on_transmit() {
    UART1.write(CONTROL, UART1.read(CONTROL) & !TRANSMIT_INTERRUPT_ON);
    UART1.write(INTERRUPT, TRANSMIT_INTERRUPT);
    TRANSMITTER.wake();
}

fn free(uart: Block) -> bool {
    uart.read(STATE) & TRANSMIT_FULL == 0
}
