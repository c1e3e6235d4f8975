//! Keys at rest: encrypted PKCS #8 in PEM, mode 0600, written whole or not at all.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::key::{KeyError, Passphrase, SoftKey};

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// It is there already, and is not replaced.
    #[error("{0}: is there already and is not replaced")]
    Exists(PathBuf),
    /// Not what its name says.
    #[error("{path}: is not {what}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// The passphrase does not open it, or it is damaged.
    #[error("{0}: cannot be opened with this passphrase")]
    WrongPassphrase(PathBuf),
    /// Others may read it.
    #[error("{path}: mode {mode:o} lets others read it; 600 is expected")]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system gave no salt, or the key cannot be encoded.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Writes `key` to `path`, encrypted. Never replaces a file.
///
/// # Errors
/// [`FileError`].
pub fn write_key(path: &Path, key: &SoftKey, passphrase: &Passphrase) -> Result<(), FileError> {
    let _ = (path, key, passphrase);
    unimplemented!()
}

/// Reads what [`write_key`] wrote.
///
/// # Errors
/// [`FileError`].
pub fn read_key(path: &Path, passphrase: &Passphrase) -> Result<SoftKey, FileError> {
    let _ = (path, passphrase);
    unimplemented!()
}
