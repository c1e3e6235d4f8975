//! Where this workspace lies, where it builds to, and how another cargo is started from within one.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde::Deserialize;

/// The workspace on this machine.
#[derive(Debug, Clone, Deserialize)]
pub struct Workspace {
    /// The folder with the root `Cargo.toml`.
    #[serde(rename = "workspace_root")]
    pub root: PathBuf,
    /// Where cargo builds to.
    #[serde(rename = "target_directory")]
    pub target: PathBuf,
}

/// Why the workspace is not known, or its programs are not there.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// No cargo, or it could not be started.
    #[error("cargo cannot be started; install it with rustup")]
    NoCargo(#[source] std::io::Error),
    /// Not inside a workspace, or its manifest is broken.
    #[error("cargo metadata failed: {0}")]
    Metadata(String),
    /// The workspace does not build.
    #[error("{0} did not build; run it by hand to see why")]
    Build(String),
    /// Built, but not where it belongs.
    #[error("{0} was built and is not there")]
    Absent(PathBuf),
}

impl Workspace {
    /// The workspace this process was started in: the package cargo runs, else the current folder.
    ///
    /// # Errors
    /// [`WorkspaceError::NoCargo`] and [`WorkspaceError::Metadata`].
    pub fn find() -> Result<Self, WorkspaceError> {
        let mut ask = cargo();
        ask.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
        if let Some(package) = env::var_os("CARGO_MANIFEST_DIR") {
            ask.current_dir(package);
        }
        let said = ask.stdin(Stdio::null()).output().map_err(WorkspaceError::NoCargo)?;
        if !said.status.success() {
            return Err(WorkspaceError::Metadata(String::from_utf8_lossy(&said.stderr).trim().into()));
        }
        serde_json::from_slice(&said.stdout).map_err(|e| WorkspaceError::Metadata(e.to_string()))
    }

    /// The folder of the host's programs, built now where they are absent or older than their source.
    /// They are built together with this crate, so that their dependencies are compiled once.
    ///
    /// A folder named by `MUSTER_PROGRAMS` is taken as it is: whoever starts many tests builds once.
    ///
    /// # Errors
    /// [`WorkspaceError::Build`] when they do not build.
    pub fn programs(&self) -> Result<Programs, WorkspaceError> {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        let given = env::var_os("MUSTER_PROGRAMS").map(PathBuf::from);
        if let Some(dir) = given.or_else(|| BUILT.get().cloned()) {
            return Programs::within(&dir);
        }
        let mut build = cargo();
        build.current_dir(&self.root).args(["build", "--quiet", "--bins"]);
        for package in ["muster-hil", "muster-server", "muster-provisioning", "muster-sim"] {
            build.args(["-p", package]);
        }
        build.arg("--target-dir").arg(&self.target);
        let done = build.stdin(Stdio::null()).status().map_err(WorkspaceError::NoCargo)?;
        if !done.success() {
            return Err(WorkspaceError::Build("cargo build -p muster-server -p muster-provisioning".into()));
        }
        let dir = self.target.join("debug");
        Programs::within(BUILT.get_or_init(|| dir))
    }
}

/// The host's programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server and the operator's commands.
    pub muster: PathBuf,
    /// The factory tool.
    pub factory: PathBuf,
    /// The simulated fleet.
    pub sim: PathBuf,
}

impl Programs {
    fn within(dir: &Path) -> Result<Self, WorkspaceError> {
        let there = |name: &str| {
            let path = dir.join(name);
            if path.is_file() { Ok(path) } else { Err(WorkspaceError::Absent(path)) }
        };
        Ok(Self { muster: there("muster")?, factory: there("muster-factory")?, sim: there("muster-sim")? })
    }
}

/// A cargo that does not inherit what the outer cargo set for the program it runs: with those
/// variables build scripts would run again, and a rustup toolchain would be forced on another one.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_outer_cargo(&mut cargo);
    cargo
}

/// Removes the outer cargo's variables from a command's environment.
pub fn forget_outer_cargo(command: &mut Command) {
    const SET_BY_CARGO: [&str; 6] = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
        "CARGO_PRIMARY_",
        "CARGO_TARGET_TMPDIR",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if SET_BY_CARGO.iter().any(|prefix| text.starts_with(prefix)) || text.starts_with("NEXTEST") {
            command.env_remove(&name);
        }
    }
    for name in ["CARGO", "LD_LIBRARY_PATH", "OUT_DIR", "RUST_RECURSION_COUNT"] {
        command.env_remove(name);
    }
}
