//! The shell around the machines: the only file that waits.

use crate::platform::Platform;

/// Everything the device needs in memory besides its stack: put one in a `StaticCell` (or a `Box`).
pub struct Resources {
    tls: crate::tls::Buffers,
}

impl Resources {
    /// Empty buffers, in a constant: a board's linker places them without copying.
    #[must_use]
    pub const fn new() -> Self {
        Self { tls: crate::tls::Buffers::new() }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs the device for ever. Dropping the future is what pulling the plug is to a board.
pub async fn run<P: Platform>(platform: P, resources: &mut Resources) -> ! {
    let _ = (platform.split(), &mut resources.tls);
    core::future::pending().await
}
