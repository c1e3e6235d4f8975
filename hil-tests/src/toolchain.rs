//! The toolchain that builds for boards, and the image it builds.
//!
//! Two ways, in this order, and the one taken is said:
//!
//! 1. Rust's own target library, when it is there or `rustup target add` brings it.
//! 2. Debian's whole toolchain with the library's source (`rustc-web`), which compiles `core` and
//!    `alloc` itself. It serves where rustup reaches no server.
//!
//! Each builds to a folder of its own below the workspace's target folder, so that changing the way
//! never throws a build away.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    packages::{self, Missing, Need},
    workspace::{Workspace, WorkspaceError, cargo, forget_outer_cargo},
};

/// The Cortex-M4 without its FPU, which is what the board is built for.
pub const THUMBV7EM: &str = "thumbv7em-none-eabi";
/// The second architecture the portable crates must compile for.
pub const RISCV32IMAC: &str = "riscv32imac-unknown-none-elf";
/// The package of the board image.
pub const BOARD: &str = "muster-board-mps2-an386";

/// Debian installs them at fixed places, where they stay findable behind rustup's proxies on `PATH`.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_NEEDS: [Need; 4] = [
    Need { program: DEBIAN_RUSTC, package: "rustc-web" },
    Need { program: DEBIAN_CARGO, package: "cargo-web" },
    Need { program: "/usr/lib/rustlib/src/rust/library/core", package: "rust-web-src" },
    Need { program: "ld.lld", package: "lld" },
];
const DEBIAN_CLIPPY: Need = Need { program: "/usr/bin/cargo-clippy", package: "rust-web-clippy" };

/// What compiles for a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// Rust's own, with its prebuilt target libraries.
    Rust,
    /// Debian's, which builds the library from source.
    Debian,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// Neither way is open.
    #[error(
        "no toolchain for boards: `rustup target add {targets}` does not work here, and Debian's is incomplete\n{missing}"
    )]
    None {
        /// What rustup was asked for.
        targets: String,
        /// What the second way lacks.
        missing: Missing,
    },
    /// Debian's toolchain is older than the workspace allows.
    #[error(
        "Debian's rustc is {found}, this workspace needs {needed}\n  next   add Debian's security archive, then: apt-get update && apt-get install rustc-web cargo-web rust-web-src"
    )]
    Old {
        /// Its version.
        found: String,
        /// What `rust-version` asks.
        needed: &'static str,
    },
    /// The workspace.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The image does not build.
    #[error("the board image did not build\n  next   {0}")]
    Build(String),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Toolchain::Rust => "Rust's own target library",
            Toolchain::Debian => "Debian's toolchain, core built from source",
        })
    }
}

impl Toolchain {
    /// Finds, or installs, what compiles for all `targets`. `MUSTER_TOOLCHAIN=debian` skips the first way.
    ///
    /// # Errors
    /// [`ToolchainError::None`] and [`ToolchainError::Old`] say what to do.
    pub fn find(targets: &[&str], say: &mut dyn FnMut(&str)) -> Result<Self, ToolchainError> {
        if env::var_os("MUSTER_TOOLCHAIN").is_none_or(|way| way != "debian")
            && (has_libraries(targets) || (add_targets(targets, say) && has_libraries(targets)))
        {
            return Ok(Toolchain::Rust);
        }
        packages::ensure(&DEBIAN_NEEDS, say)
            .map_err(|missing| ToolchainError::None { targets: targets.join(" "), missing })?;
        check_debian_version()?;
        Ok(Toolchain::Debian)
    }

    /// Sees to it that this toolchain has clippy.
    ///
    /// # Errors
    /// [`Missing`] when it cannot be installed.
    pub fn ensure_clippy(self, say: &mut dyn FnMut(&str)) -> Result<(), Missing> {
        match self {
            Toolchain::Rust => Ok(()),
            Toolchain::Debian => packages::ensure(&[DEBIAN_CLIPPY], say),
        }
    }

    /// Cargo for a target: `command` is `build`, `clippy`…, and the caller adds the rest.
    #[must_use]
    pub fn cargo(self, workspace: &Workspace, command: &str, target: &str) -> Command {
        let mut run = match self {
            Toolchain::Rust => cargo(),
            Toolchain::Debian => {
                let mut run = Command::new(DEBIAN_CARGO);
                forget_outer_cargo(&mut run);
                // Build scripts and proc macros are compiled by the same rustc; the linker of the
                // workspace's configuration is in rustup's sysroot only.
                run.env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_THUMBV7EM_NONE_EABI_LINKER", "ld.lld")
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env("PATH", debian_first());
                run
            }
        };
        run.current_dir(&workspace.root).arg(command).args(["--target", target]);
        run.arg("--target-dir").arg(self.target_dir(workspace));
        if self == Toolchain::Debian {
            run.arg("-Zbuild-std=core,alloc");
        }
        run.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").stdin(Stdio::null());
        run
    }

    fn target_dir(self, workspace: &Workspace) -> PathBuf {
        workspace.target.join("firmware").join(match self {
            Toolchain::Rust => "rust",
            Toolchain::Debian => "debian",
        })
    }
}

/// The board's image, built now where it is older than its source. An image named by `MUSTER_IMAGE` is
/// taken as it is: whoever starts many tests builds once.
///
/// # Errors
/// [`ToolchainError`] says what is missing, or how to see why it does not build.
pub fn image(workspace: &Workspace, say: &mut dyn FnMut(&str)) -> Result<PathBuf, ToolchainError> {
    if let Some(image) = env::var_os("MUSTER_IMAGE") {
        let image = PathBuf::from(image);
        return if image.is_file() { Ok(image) } else { Err(WorkspaceError::Absent(image).into()) };
    }
    let toolchain = Toolchain::find(&[THUMBV7EM], say)?;
    let mut build = toolchain.cargo(workspace, "build", THUMBV7EM);
    build.args(["--profile", "firmware", "-p", BOARD, "--quiet"]);
    let image = toolchain.target_dir(workspace).join(THUMBV7EM).join("firmware").join(BOARD);
    if !image.is_file() {
        say(&format!("building the board image with {toolchain}, about two minutes the first time"));
    }
    let done = build.status().map_err(WorkspaceError::NoCargo)?;
    if !done.success() {
        return Err(ToolchainError::Build(spell(&build)));
    }
    if image.is_file() { Ok(image) } else { Err(WorkspaceError::Absent(image).into()) }
}

/// A command as one would type it, with the variables it sets.
#[must_use]
pub fn spell(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_str()?;
        // A whole search path is noise; the program is named by its place.
        (name != "PATH").then(|| format!("{}={} ", name.to_string_lossy(), quote(value)))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| quote(&word.to_string_lossy())).collect();
    set.collect::<String>() + &words.join(" ").replacen(&words[0], program_name(&words[0]), 1)
}

/// Cargo is called by name, not by the place rustup keeps it.
fn program_name(word: &str) -> &str {
    match Path::new(word).file_name().and_then(|name| name.to_str()) {
        Some("cargo") if word != DEBIAN_CARGO => "cargo",
        _ => word,
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{word}'") }
}

fn has_libraries(targets: &[&str]) -> bool {
    targets.iter().all(|target| {
        let mut ask = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        forget_outer_cargo(&mut ask);
        let said = ask.args(["--print", "target-libdir", "--target", target]).stdin(Stdio::null()).output();
        said.is_ok_and(|said| {
            let dir = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            let mut entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            said.status.success() && entries.any(|e| e.file_name().to_string_lossy().starts_with("libcore-"))
        })
    })
}

fn add_targets(targets: &[&str], say: &mut dyn FnMut(&str)) -> bool {
    if packages::find("rustup").is_none() {
        return false;
    }
    say(&format!("rustup target add {}", targets.join(" ")));
    // Where no server answers, rustup tries for minutes; `timeout` is coreutils'.
    let mut add = Command::new("timeout");
    add.args(["180", "rustup", "target", "add"]).args(targets);
    forget_outer_cargo(&mut add);
    let quiet = add.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn check_debian_version() -> Result<(), ToolchainError> {
    let needed = env!("CARGO_PKG_RUST_VERSION");
    let said = Command::new(DEBIAN_RUSTC).arg("--version").stdin(Stdio::null()).output();
    let said = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    let found = said.split(' ').nth(1).unwrap_or("unknown").to_owned();
    if numbers(&found) < numbers(needed) {
        return Err(ToolchainError::Old { found, needed });
    }
    Ok(())
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

fn debian_first() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(PathBuf::from("/usr/bin")).chain(env::split_paths(&path));
    env::join_paths(dirs).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.96.0") > numbers("1.95"));
        assert!(numbers("1.100.0") > numbers("1.95"));
        assert!(numbers("1.85.0") < numbers("1.95"));
        assert!(numbers("unknown") < numbers("1.95"));
    }

    #[test]
    fn a_command_is_spelled_so_that_it_can_be_typed() {
        let mut command = Command::new("cargo");
        command.env("RUSTDOCFLAGS", "-D warnings").env("PATH", "/a:/b").args(["doc", "-E", "not test(/x/)"]);
        assert_eq!(spell(&command), "RUSTDOCFLAGS='-D warnings' cargo doc -E 'not test(/x/)'");
    }
}
