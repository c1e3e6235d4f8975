//! Keys at rest: encrypted PKCS #8 in PEM (RFC 7468, RFC 8018 with scrypt and AES-256-CBC), mode 0600. Every
//! file is written whole or not at all: a temporary file, fsync, a name, fsync of the folder.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, pkcs5::pbes2};
use zeroize::Zeroizing;

use crate::key::{self, KeyError, Passphrase, SoftKey};

/// scrypt's cost: N = 2^14, r = 8, p = 1 (RFC 7914 §2). 16 MiB: what `openssl pkcs8` writes and still reads.
const SCRYPT_LOG_N: u8 = 14;
/// The same for a passphrase of 256 random bits, which stretching makes no harder to guess: the least there is.
const SCRYPT_LOG_N_RANDOM: u8 = 1;
/// Longest file read here, octets: a station record is the longest.
const FILE_MAX: u64 = 64 * 1024;
const KEY_LABEL: &str = "ENCRYPTED PRIVATE KEY";

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

impl FileError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// Writes `key` to `path`, encrypted, mode 0600. Never replaces a file.
///
/// # Errors
/// [`FileError`].
pub fn write_key(path: &Path, key: &SoftKey, passphrase: &Passphrase) -> Result<(), FileError> {
    let mut salt_iv = [0; 32];
    key::fill(&mut salt_iv)?;
    let (salt, iv) = salt_iv.split_at(16);
    let iv = iv.try_into().expect("16 of 32 octets");
    let log_n = if passphrase.is_random() { SCRYPT_LOG_N_RANDOM } else { SCRYPT_LOG_N };
    let cost = scrypt::Params::new(log_n, 8, 1, 32).expect("parameters scrypt allows");
    let scheme = pbes2::Parameters::scrypt_aes256cbc(cost, salt, iv).map_err(|_| KeyError::NotPkcs8)?;
    let plain = key.expose_secret()?;
    let document = PrivateKeyInfo::try_from(plain.as_slice())
        .and_then(|info| info.encrypt_with_params(scheme, passphrase.expose_secret()))
        .map_err(|_| KeyError::NotPkcs8)?;
    write(path, pem(KEY_LABEL, document.as_bytes()).as_bytes(), 0o600)
}

/// Writes `key` to `path` as it is, PKCS #8 in PEM (RFC 7468 §10), mode 0600: for a program that reads its
/// key by itself. Never replaces a file.
///
/// # Errors
/// [`FileError`].
pub fn write_open_key(path: &Path, key: &SoftKey) -> Result<(), FileError> {
    let text = Zeroizing::new(pem("PRIVATE KEY", &key.expose_secret()?));
    write(path, text.as_bytes(), 0o600)
}

/// Writes a chain of certificates, leaf first, as anybody may read it. Never replaces a file.
///
/// # Errors
/// [`FileError`].
pub fn write_chain(path: &Path, chain: &[&[u8]]) -> Result<(), FileError> {
    let text: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write(path, text.as_bytes(), 0o644)
}

/// Reads what [`write_key`] wrote. A file that others may read is refused.
///
/// # Errors
/// [`FileError`].
pub fn read_key(path: &Path, passphrase: &Passphrase) -> Result<SoftKey, FileError> {
    private(path)?;
    let document = read_pem(path, KEY_LABEL, "an encrypted PKCS #8 key in PEM")?;
    let malformed = || FileError::Malformed { path: path.to_owned(), what: "an encrypted PKCS #8 key" };
    let encrypted = EncryptedPrivateKeyInfo::try_from(document.as_slice()).map_err(|_| malformed())?;
    let plain = encrypted
        .decrypt(passphrase.expose_secret())
        .map_err(|_| FileError::WrongPassphrase(path.to_owned()))?;
    SoftKey::from_pkcs8(plain.as_bytes()).map_err(|_| malformed())
}

/// Reads a passphrase from a file that only its owner may read.
///
/// # Errors
/// [`FileError`].
pub fn read_passphrase(path: &Path) -> Result<Passphrase, FileError> {
    private(path)?;
    let text = Zeroizing::new(read(path)?);
    let text = std::str::from_utf8(&text).ok().and_then(Passphrase::new);
    text.ok_or_else(|| FileError::Malformed { path: path.to_owned(), what: "a passphrase" })
}

/// Writes a file whole or not at all, and never over another one. When this returns, it is on disk.
///
/// # Errors
/// [`FileError`].
pub fn write(path: &Path, octets: &[u8], mode: u32) -> Result<(), FileError> {
    let folder = folder_of(path);
    let mut temporary = tempfile::Builder::new()
        .prefix(".muster-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(FileError::io(path))?;
    temporary.write_all(octets).map_err(FileError::io(path))?;
    temporary.as_file().sync_all().map_err(FileError::io(path))?;
    temporary.persist_noclobber(path).map_err(|error| FileError::io(path)(error.error))?;
    sync_folder(folder).map_err(FileError::io(path))
}

/// Makes a folder only its owner may enter; it may be there already.
///
/// # Errors
/// [`FileError`].
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::io(path))
}

/// Reads a file of at most 64 KiB.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut octets = Vec::new();
    let file = File::open(path).map_err(FileError::io(path))?;
    file.take(FILE_MAX + 1).read_to_end(&mut octets).map_err(FileError::io(path))?;
    if octets.len() as u64 > FILE_MAX {
        return Err(FileError::Malformed { path: path.to_owned(), what: "of a size this reads (64 KiB)" });
    }
    Ok(octets)
}

/// Reads a certificate in PEM.
pub(crate) fn read_certificate(path: &Path) -> Result<Vec<u8>, FileError> {
    read_pem(path, "CERTIFICATE", "a certificate in PEM")
}

/// PEM with lines of 64 characters (RFC 7468 §2).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// Reads PEM with one block of this label; text around it is ignored (RFC 7468 §2).
pub(crate) fn unpem(label: &str, text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, rest) = rest.split_once(&format!("-----END {label}-----"))?;
    if rest.contains("-----BEGIN") {
        return None;
    }
    let body: String = body.split_ascii_whitespace().collect();
    BASE64.decode(body).ok()
}

/// Takes the certificate out of a PEM text; `None` when there is none, or more than one.
#[must_use]
pub fn certificate_from_pem(text: &[u8]) -> Option<Vec<u8>> {
    unpem("CERTIFICATE", std::str::from_utf8(text).ok()?)
}

fn read_pem(path: &Path, label: &str, what: &'static str) -> Result<Vec<u8>, FileError> {
    let octets = read(path)?;
    let der = std::str::from_utf8(&octets).ok().and_then(|text| unpem(label, text));
    der.ok_or_else(|| FileError::Malformed { path: path.to_owned(), what })
}

fn private(path: &Path) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_err(FileError::io(path))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(FileError::TooOpen { path: path.to_owned(), mode }) }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
