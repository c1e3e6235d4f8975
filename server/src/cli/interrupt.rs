//! Ctrl-C in the middle of many: the first finishes the one at hand and reports, the second stops at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The exit status of a command that Ctrl-C ended: 128 and the signal's number, as shells say it.
pub(super) const STATUS: u8 = 130;

/// Whether Ctrl-C was pressed since this was made.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes the signal from now on. Where it cannot be taken, Ctrl-C ends the command as it always does.
    pub(super) fn take() -> Self {
        let pressed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&pressed);
        std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                if tokio::signal::ctrl_c().await.is_err() {
                    return;
                }
                seen.store(true, Ordering::Relaxed);
                if tokio::signal::ctrl_c().await.is_ok() {
                    std::process::exit(STATUS.into());
                }
            });
        });
        Self(pressed)
    }

    /// It was pressed.
    pub(super) fn pressed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
