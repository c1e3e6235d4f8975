//! The one trait a board writes.
//!
//! A board gives its parts once, at start; the agent owns them from then on. Nothing here names a chip,
//! an executor or a network stack. The test platform (`testing::TestPlatform`) implements the same trait.

use core::{fmt, future::Future, ops::Range};

use embedded_io_async::{Read, Write};
use embedded_storage_async::nor_flash::MultiwriteNorFlash;

/// What a board is made of.
pub trait Platform {
    /// Time since start.
    type Clock: Clock;
    /// Non-volatile memory with real NOR semantics, laid out by [`Layout`]: erasing sets every bit of a
    /// unit, programming clears bits, and a word may be programmed again to clear more of them.
    type Flash: MultiwriteNorFlash;
    /// TCP.
    type Network: Network;
    /// The factory port: octets in both directions, apart from the log.
    type Serial: Read + Write;
    /// Where log lines go. A call of `write_str` is not a line; `\n` ends one.
    type Log: fmt::Write;
    /// A hardware random generator, where the board has one.
    type Trng: Trng;
    /// What the board measures.
    type Sensors: Sensors;

    /// Gives the parts.
    fn split(self) -> Parts<Self>
    where
        Self: Sized;
}

/// The parts, each owned by whoever needs it.
pub struct Parts<P: Platform> {
    /// Time since start.
    pub clock: P::Clock,
    /// Non-volatile memory.
    pub flash: P::Flash,
    /// TCP.
    pub network: P::Network,
    /// The factory port.
    pub serial: P::Serial,
    /// The log.
    pub log: P::Log,
    /// The hardware generator; `None` where there is none and only the seed counts.
    pub trng: Option<P::Trng>,
    /// What the board measures.
    pub sensors: P::Sensors,
    /// What the image and this start are.
    pub about: About,
}

/// What the image and this start are.
#[derive(Debug, Clone)]
pub struct About {
    /// The image's version, `CARGO_PKG_VERSION` of the board.
    pub version: &'static str,
    /// SHA-256 of the image as it lies in flash.
    pub digest: [u8; 32],
    /// Why the board started.
    pub reset: Reset,
}

/// Why a board started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Power was applied.
    PowerOn,
    /// The watchdog bit.
    Watchdog,
    /// The firmware asked for it.
    Software,
    /// The board cannot tell.
    Unknown,
}

/// Milliseconds since start, never going back.
pub trait Clock: Clone {
    /// Now.
    fn now_ms(&self) -> u64;
    /// Ready at `at_ms`, or at once when that has passed. Cancel-safe.
    fn wait_until(&self, at_ms: u64) -> impl Future<Output = ()>;
}

/// TCP to a host by name or IPv4 address.
pub trait Network {
    /// An open connection; dropping it closes the connection. Its `read` and `write` are cancel-safe: one
    /// dropped while it waits has moved no octet (true of `embassy-net` and of tokio).
    type Socket<'a>: Read + Write
    where
        Self: 'a;

    /// Connects, waiting for link and address first where that is needed. The caller sets the deadline.
    fn connect<'a>(
        &'a mut self,
        host: &'a str,
        port: u16,
    ) -> impl Future<Output = Result<Self::Socket<'a>, NetError>>;
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// No link, or no address.
    #[error("no link or no address")]
    Link,
    /// The name has no address.
    #[error("name cannot be resolved")]
    Name,
    /// Refused, unreachable or silent.
    #[error("no answer")]
    Unreachable,
}

/// A hardware random generator with its own health test.
pub trait Trng {
    /// Fresh octets; `Err` when the health test fails.
    ///
    /// # Errors
    /// [`TrngFailed`] when the generator's own test fails.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), TrngFailed>;
}

/// The generator's health test failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("random generator failed its health test")]
pub struct TrngFailed;

/// What a board measures.
pub trait Sensors {
    /// One round of measurements: calls `each` with a sensor's name (unit last) and its value.
    fn measure(&mut self, each: &mut dyn FnMut(&str, muster_shared::telemetry::Value));
}

/// Where things lie in [`Platform::Flash`], octets from its start. Erase units are 4096 octets.
pub struct Layout;

impl Layout {
    /// The vendor page (`muster_shared::vendor`), written by the flasher, never by the firmware.
    pub const VENDOR: Range<u32> = 0x0000..0x1000;
    /// Two seed records, one in each erase unit, replaced in turn.
    pub const ENTROPY: Range<u32> = 0x1000..0x3000;
    /// Credential slots, endpoint, anchors, the install id, the start counter.
    pub const CREDENTIALS: Range<u32> = 0x3000..0xb000;
    /// Telemetry that waits for its acknowledgement.
    pub const OUTBOX: Range<u32> = 0xb000..0x2b000;
    /// Octets in all.
    pub const SIZE: u32 = Self::OUTBOX.end;
    /// Octets of an erase unit.
    pub const ERASE: u32 = 4096;
}
