//! One folder with everything of a small fleet: a ceremony's keys, a factory station, a server's data
//! and boards. The programs are the real ones, as processes; nothing here knows how they work inside.
//!
//! ```text
//! DIR/passphrase        opens the encrypted keys of this rig
//! DIR/ceremony/         what the key ceremony made: root, one folder for the server, one a station
//! DIR/data/             the server's data directory
//! DIR/station/          the factory tool's journal and manifests
//! DIR/boards/SERIAL/    flash file and log of a board
//! ```
//!
//! A second run on the same folder goes on with what is there, with the next serial and batch.

mod factory;
mod server;

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

pub use factory::{Factory, Unit, unit_of};
pub use server::{OPERATOR, Ports, Server, Taken};

use crate::{
    flash::Flash,
    packages,
    qemu::Board,
    toolchain,
    workspace::{Programs, Workspace},
};

/// The tenant of everything a rig makes.
pub const TENANT: &str = "acme";
/// The one station of a rig.
pub const STATION: &str = "S-01";

/// The folder, and what runs in it.
#[derive(Debug)]
pub struct Rig {
    dir: PathBuf,
    temporary: Option<TempDir>,
    programs: Programs,
    image: PathBuf,
}

/// What a rig needs of this machine, built or installed before anything is started.
#[derive(Debug, Clone)]
pub struct Parts {
    programs: Programs,
    image: PathBuf,
}

impl Parts {
    /// Builds the programs and the image, and sees to it that QEMU is there.
    ///
    /// # Errors
    /// What is missing, with the command that brings it.
    pub fn make(say: &mut dyn FnMut(&str)) -> Result<Self> {
        let workspace = Workspace::find()?;
        packages::ensure(&[packages::QEMU], say)?;
        let image = toolchain::image(&workspace, say)?;
        let programs = workspace.programs()?;
        Ok(Self { programs, image })
    }
}

impl Rig {
    /// A rig in a folder, which is made if it is not there; without one, in a temporary folder that is
    /// removed with the rig.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(parts: &Parts, dir: Option<&Path>) -> Result<Self> {
        let temporary = match dir {
            Some(_) => None,
            // Short, for the sockets in it: see `Board::new`.
            None => Some(tempfile::Builder::new().prefix("muster-").tempdir()?),
        };
        let dir = match (&temporary, dir) {
            (Some(temporary), _) => temporary.path().to_owned(),
            (None, Some(dir)) => std::path::absolute(dir)?,
            (None, None) => unreachable!("one of the two is there"),
        };
        let make =
            |dir: &Path| fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()));
        make(&dir.join("boards"))?;
        let rig = Self { dir, temporary, programs: parts.programs.clone(), image: parts.image.clone() };
        rig.write_passphrase()?;
        Ok(rig)
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves a temporary folder where it is.
    pub fn keep(&mut self) {
        if let Some(temporary) = &mut self.temporary {
            temporary.disable_cleanup(true);
        }
    }

    /// The server's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The file with the token `muster init` wrote.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.data_dir().join("token")
    }

    /// The programs in use.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The board image in use.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The file that opens this rig's keys.
    #[must_use]
    pub fn passphrase_file(&self) -> PathBuf {
        self.dir.join("passphrase")
    }

    /// A blank board, fresh from the flasher, for this rig's root.
    ///
    /// # Errors
    /// When its folder or flash cannot be written.
    pub fn blank_board(&self, name: &str, root_digest: [u8; 32]) -> Result<Board> {
        let dir = self.board_dir(name);
        fs::create_dir_all(&dir)?;
        let flash = Flash::blank(&dir.join("flash"), root_digest)
            .with_context(|| format!("the flash of {name} cannot be written"))?;
        Ok(Board::new(&self.image, flash, &dir, "board"))
    }

    /// A board on a flash of its own choosing.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn board_on(&self, name: &str, flash: Flash) -> io::Result<Board> {
        let dir = self.board_dir(name);
        fs::create_dir_all(&dir)?;
        Ok(Board::new(&self.image, flash, &dir, "board"))
    }

    /// The first number, from 1, that no board of this rig has had: boards are named by their serial.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn next_number(&self) -> io::Result<u32> {
        let mut highest = 0;
        for entry in fs::read_dir(self.dir.join("boards"))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(SERIAL_PREFIX)?.parse().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        Ok(highest + 1)
    }

    fn board_dir(&self, name: &str) -> PathBuf {
        self.dir.join("boards").join(name)
    }

    fn write_passphrase(&self) -> Result<()> {
        let path = self.passphrase_file();
        if path.exists() {
            return Ok(());
        }
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let text: String = random.iter().map(|octet| format!("{octet:02x}")).collect();
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        io::Write::write_all(&mut file, text.as_bytes()).with_context(|| format!("{}", path.display()))
    }
}

/// What every serial of a rig begins with.
const SERIAL_PREFIX: &str = "MU-";

/// The serial with this number: `MU-000001`.
#[must_use]
pub fn serial(number: u32) -> String {
    format!("{SERIAL_PREFIX}{number:06}")
}

/// The batch with this number: `B-0001`.
#[must_use]
pub fn batch(number: u32) -> String {
    format!("B-{number:04}")
}
