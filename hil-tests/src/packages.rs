//! What a machine must have beside Rust, and how it comes to have it.
//!
//! What is missing is installed by apt where that is allowed (root, `apt-get` present), after one
//! `apt-get update`. Anywhere else nothing is changed: the exact command is named and the caller stops.

use std::{
    env,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

/// A program and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Its name on `PATH`, or an absolute path.
    pub program: &'static str,
    /// Debian's package.
    pub package: &'static str,
}

/// The database the server's suite runs on beside SQLite: each test starts a server of its own. The package
/// alone would make a cluster and run it for ever.
pub const POSTGRES: Need = Need { program: "/usr/lib/postgresql/15/bin/postgres", package: "postgresql-15" };

/// The machine emulator that runs the board.
pub const QEMU: Need = Need { program: "qemu-system-arm", package: "qemu-system-arm" };

/// The browser the web page is tested in, what drives it, and the client of the registry that axe-core is in.
pub const BROWSER: [Need; 3] = [
    Need { program: "chromium", package: "chromium" },
    Need { program: "chromedriver", package: "chromium-driver" },
    Need { program: "npm", package: "npm" },
];

/// Something is missing and may not, or could not, be installed.
#[derive(Debug, thiserror::Error)]
#[error("missing on this machine: {missing}{why}\n  next   {command}")]
pub struct Missing {
    missing: String,
    why: String,
    /// The line to run.
    pub command: String,
}

/// Sees to it that every program is there; tells `say` before it changes anything.
///
/// # Errors
/// [`Missing`] names what is absent and the command that installs it.
pub fn ensure(needs: &[Need], say: &mut dyn FnMut(&str)) -> Result<(), Missing> {
    let absent: Vec<&Need> = needs.iter().filter(|need| find(need.program).is_none()).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = absent.iter().map(|need| need.package).collect();
    let packages = packages.join(" ");
    let missing = absent.iter().map(|need| need.program).collect::<Vec<_>>().join(", ");
    let by_hand = |why: &str| Missing {
        missing: missing.clone(),
        why: why.into(),
        command: format!("sudo apt-get update && sudo apt-get install -y {packages}"),
    };
    if find("apt-get").is_none() {
        return Err(Missing {
            missing,
            why: " (no apt-get here to install it)".into(),
            command: format!("install what Debian calls {packages}, then repeat"),
        });
    }
    if !is_root() {
        return Err(by_hand(""));
    }
    say(&format!("installing {packages} with apt-get"));
    static UPDATED: AtomicBool = AtomicBool::new(false);
    if !UPDATED.swap(true, Ordering::Relaxed) && !apt(&["update", "-qq"]) {
        say("apt-get update failed; trying with the lists that are there");
    }
    let install = |packages: &str| {
        let mut install = vec!["install", "-qq", "-y", "--no-install-recommends"];
        install.extend(packages.split(' '));
        apt(&install)
    };
    let server = absent.iter().any(|need| need.package == POSTGRES.package);
    if server && !(install("postgresql-common") && no_cluster().is_ok()) {
        return Err(by_hand(" (apt-get could not install postgresql-common)"));
    }
    if !install(&packages) {
        return Err(by_hand(" (apt-get could not install it)"));
    }
    match absent.iter().find(|need| find(need.program).is_none()) {
        Some(still) => Err(by_hand(&format!(" ({} did not bring {})", still.package, still.program))),
        None => Ok(()),
    }
}

/// Tells Debian's PostgreSQL to make no cluster when a server is installed, and so to start none. Whoever has
/// one keeps it.
fn no_cluster() -> std::io::Result<()> {
    const FILE: &str = "/etc/postgresql-common/createcluster.conf";
    const LINE: &str = "create_main_cluster = false";
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    if text.lines().any(|line| line.trim() == LINE) {
        return Ok(());
    }
    // The last line of a kind counts.
    std::fs::write(FILE, format!("{text}\n{LINE}\n"))
}

/// Where a program is: on `PATH`, or at the absolute path it is named by.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    if Path::new(program).is_absolute() {
        return Path::new(program).exists().then(|| program.into());
    }
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn is_root() -> bool {
    // The owner of one's own entry is the effective user (proc(5)).
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn apt(args: &[&str]) -> bool {
    Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
