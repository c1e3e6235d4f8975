//! A board in QEMU: an image, a flash file, a log and a factory port.
//!
//! Power is the emulator process. Cutting it is killing the process: what the flash file holds then is
//! what the next start finds.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    flash::Flash,
    packages::QEMU,
    process::{Line, ProcessError, Running},
};

/// How long a board may take to say something it says by itself. QEMU shares the machine with compilers.
pub const BOARD_PATIENCE: Duration = Duration::from_secs(60);

/// A board, on or off.
#[derive(Debug)]
pub struct Board {
    image: PathBuf,
    flash: Flash,
    port: PathBuf,
    kept: PathBuf,
    extra: Vec<OsString>,
    power: Option<Running>,
}

impl Board {
    /// A board that is off. `dir` holds its log and its factory port; paths must be short, because a
    /// Unix socket's name holds 107 octets (unix(7)).
    #[must_use]
    pub fn new(image: &Path, flash: Flash, dir: &Path, name: &str) -> Self {
        Self {
            image: image.to_owned(),
            flash,
            port: dir.join(format!("{name}.port")),
            kept: dir.join(format!("{name}.log")),
            extra: Vec::new(),
            power: None,
        }
    }

    /// Adds arguments for QEMU, from the next start on: `-icount shift=0,sleep=on`.
    pub fn extra_arguments(&mut self, arguments: &[&str]) {
        self.extra = arguments.iter().map(OsString::from).collect();
    }

    /// Its flash.
    #[must_use]
    pub fn flash(&self) -> &Flash {
        &self.flash
    }

    /// Its factory port, as `muster-factory` takes it.
    #[must_use]
    pub fn port(&self) -> String {
        format!("unix:{}", self.port.display())
    }

    /// The factory port's socket.
    #[must_use]
    pub fn port_path(&self) -> &Path {
        &self.port
    }

    /// The file that keeps its log over all its starts.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.kept
    }

    /// Puts power on; returns when it was put on.
    ///
    /// # Errors
    /// When QEMU cannot be started, or ends at once.
    pub fn power_on(&mut self) -> Result<Instant, ProcessError> {
        self.power_cut();
        let _ = std::fs::remove_file(&self.port);
        let mut qemu = Command::new(QEMU.program);
        let memory = format!(
            "memory-backend-file,id=flash,size=16M,mem-path={},share=on",
            self.flash.path().display()
        );
        qemu.args(["-M", "mps2-an386,memory-backend=flash", "-object", &memory, "-kernel"])
            .arg(&self.image)
            .args(["-nic", "user,model=lan9118", "-display", "none", "-monitor", "none"])
            .args(["-serial", "stdio", "-serial"])
            .arg(format!("unix:{},server=on,wait=off", self.port.display()))
            .args(&self.extra);
        let at = Instant::now();
        let mut running = Running::start("the board", &qemu, Some(&self.kept))?;
        // Its first words are its boot line, or why it cannot even do that.
        running.wait_for(0, "muster ", BOARD_PATIENCE)?;
        self.power = Some(running);
        Ok(at)
    }

    /// Cuts the power.
    pub fn power_cut(&mut self) {
        self.power = None;
    }

    /// Is it on?
    pub fn is_on(&mut self) -> bool {
        self.power.as_mut().is_some_and(|running| !running.ended())
    }

    /// How many lines it has written since it was switched on: a place to wait from.
    #[must_use]
    pub fn said(&self) -> usize {
        self.power.as_ref().map_or(0, |running| running.log.len())
    }

    /// What it has written since it was switched on, from a place on.
    #[must_use]
    pub fn lines_since(&self, from: usize) -> Vec<String> {
        self.power.as_ref().map(|running| running.log.since(from)).unwrap_or_default()
    }

    /// Waits for a log line that holds `wanted`, from a place on; returns the line and the place after it.
    ///
    /// # Errors
    /// [`ProcessError`] with the end of its log.
    pub fn wait_for(
        &mut self,
        from: usize,
        wanted: &str,
        within: Duration,
    ) -> Result<(Line, usize), ProcessError> {
        self.running(wanted)?.wait_for(from, wanted, within)
    }

    /// Waits for a log line that `found` accepts.
    ///
    /// # Errors
    /// [`ProcessError`] with the end of its log.
    pub fn wait_until(
        &mut self,
        from: usize,
        wanted: &str,
        found: &dyn Fn(&str) -> bool,
        within: Duration,
    ) -> Result<(Line, usize), ProcessError> {
        self.running(wanted)?.wait_until(from, wanted, found, within)
    }

    fn running(&mut self, wanted: &str) -> Result<&mut Running, ProcessError> {
        self.power.as_mut().ok_or_else(|| ProcessError::Ended {
            name: "the board",
            status: "its power is off".into(),
            wanted: wanted.into(),
            tail: String::new(),
        })
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.power_cut();
        let _ = std::fs::remove_file(&self.port);
    }
}
