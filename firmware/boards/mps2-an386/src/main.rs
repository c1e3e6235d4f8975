//! Muster's device on the MPS2 with the AN386 image (Cortex-M4), as QEMU emulates it.
//!
//! | file | knows |
//! |---|---|
//! | `chip.rs` | memory map, registers, vector table |
//! | `time.rs` | the dual timer: embassy's clock and alarms |
//! | `uart.rs` | UART0 = log, UART1 = factory port |
//! | `lan9118.rs`, `net.rs` | the Ethernet controller; the TCP socket on top of it |
//! | `flash.rs` | NOR flash in the first octets of the PSRAM |
//! | `image.rs` | digest, stack, reset, panic |
//! | `platform.rs` | all of it as the agent's `Platform` |
//!
//! # Running it
//! ```text
//! qemu-system-arm -M mps2-an386,memory-backend=flash
//!   -object memory-backend-file,id=flash,size=16M,mem-path=FLASH,share=on
//!   -kernel IMAGE -nic user,model=lan9118 -display none -monitor none
//!   -serial stdio -serial unix:PORT,server=on,wait=off
//! ```
//! `FLASH` is 16 MiB; its first `Layout::SIZE` octets are the flash, 0xff where erased, with vendor page and
//! seed record written by whoever makes the board. The host is 10.0.2.2. With `-no-reboot` the emulator ends
//! instead of starting again after a panic or fault.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "registers, vectors and linker symbols; each use names the manual")]

mod chip;
mod flash;
mod image;
mod lan9118;
mod net;
mod platform;
mod time;
mod uart;

use core::sync::atomic::{AtomicBool, Ordering};

use embassy_executor::{Spawner, raw::Executor};
use embedded_storage_async::nor_flash::ReadNorFlash as _;
use muster_firmware::{
    Resources,
    platform::{About, Layout},
};
use sha2::{Digest as _, Sha256};
use static_cell::{ConstStaticCell, StaticCell};

use crate::platform::Board;

/// Something was woken since the executor last looked.
static WOKEN: AtomicBool = AtomicBool::new(false);

/// Proof of being called once: only `main` can make it.
pub(crate) struct Once(());

#[cortex_m_rt::entry]
fn main() -> ! {
    static EXECUTOR: StaticCell<Executor> = StaticCell::new();
    time::start();
    let executor = EXECUTOR.init(Executor::new(core::ptr::null_mut()));
    let spawner = executor.spawner();
    spawner.spawn(agent(spawner, Once(())).expect("spawned once"));
    loop {
        // SAFETY: embassy-executor `raw::Executor::poll`: never called from within itself, only here.
        unsafe { executor.poll() };
        // With PRIMASK set an interrupt ends WFI but waits for its handler (ARM DUI 0553 §2.5.2), so nothing
        // is lost between the question and the sleep. WFE would be a mere pause to an emulator.
        cortex_m::interrupt::disable();
        if !WOKEN.swap(false, Ordering::Relaxed) {
            time::sleep();
        }
        // SAFETY: ARM DUI 0553 §3.12.2: no critical section is open here.
        unsafe { cortex_m::interrupt::enable() };
    }
}

/// embassy's call when a task is woken.
// SAFETY: embassy-executor's `__pender`: this signature, and any context is accepted.
#[unsafe(export_name = "__pender")]
fn pend(_: *mut ()) {
    WOKEN.store(true, Ordering::Relaxed);
}

#[embassy_executor::task]
async fn agent(spawner: Spawner, once: Once) -> ! {
    static RESOURCES: ConstStaticCell<Resources> = ConstStaticCell::new(Resources::new());
    let log = uart::Log::start();
    let serial = uart::FactoryPort::start();
    let mut flash = flash::take(once);
    let seed = network_seed(&mut flash).await;
    let network = match net::start(spawner, seed) {
        Ok(network) => network,
        Err(absent) => panic!("no ethernet controller: {absent:?}"),
    };
    let about =
        About { version: env!("CARGO_PKG_VERSION"), digest: image::digest(), reset: image::reset_reason() };
    muster_firmware::run(Board { flash, network, serial, log, about }, RESOURCES.take()).await
}

/// Makes ports and sequence numbers differ from start to start: from the entropy records, which the agent
/// replaces at each start and which this tells nothing about.
async fn network_seed(flash: &mut flash::Flash) -> u64 {
    let mut hash = Sha256::new_with_prefix(b"muster network seed v1\0");
    let mut record = [0; muster_shared::vendor::SEED_LEN];
    for at in Layout::ENTROPY.step_by(Layout::ERASE as usize) {
        if flash.read(at, &mut record).await.is_ok() {
            hash.update(record);
        }
    }
    hash.finalize().first_chunk().map_or(0, |octets| u64::from_le_bytes(*octets))
}
