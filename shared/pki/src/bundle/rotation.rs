//! A new authority in the place of one of the server's bundle: asked for here, signed by the root elsewhere,
//! installed here.
//!
//! ```text
//! server/rotated/operational-ca.next/   request.pem operational-ca.key.pem    asked for, not answered;
//!                                       without a request: prepared
//! server/rotated/operational-ca.2/      the same with operational-ca.pem      in force; the first lies in server/
//! ```
//!
//! # Invariants
//!
//! - No file is ever replaced: an answer is added to what was asked, and one rename makes both the newest
//!   authority. A rotation that is cut short anywhere is either still asked for or in force.
//! - The newest issues; those before it stay whole with their keys, for what they issued and for its revocation
//!   lists.
//! - Only an authority whose certificates nobody but this server checks is rotated: what devices pin (broker) and
//!   what commands and programs hold a copy of (HTTPS) would leave them at the door.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{BundleError, certificate_path, key_path, read_ca, write_ca, write_certificate};
use crate::{
    ca::{Ca, CaCertificate, CaError},
    csr::VerifiedCaRequest,
    key::{Passphrase, SoftKey},
    keyfile::{self, FileError, make_folder, write_key},
    profile::Purpose,
};

const ROTATED: &str = "rotated";
const REQUEST: &str = "request.pem";
/// The purposes that can be rotated.
pub const ROTATING: [Purpose; 3] = [Purpose::Operational, Purpose::Service, Purpose::Operator];

/// The authorities of one purpose.
pub(super) struct Line {
    /// Oldest first.
    pub(super) former: Vec<Ca>,
    /// The one that issues.
    pub(super) current: Ca,
}

/// What a root is asked to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The request, checked.
    pub request: VerifiedCaRequest,
    /// The same, PEM: what is carried to the root.
    pub pem: String,
    /// Whether it was asked for before; its key is the one of then.
    pub already: bool,
}

/// Prepares to ask for an authority in the place of `current`, with a new key that is on disk when this returns;
/// or finds what was asked and not answered. Nothing is asked before [`ask`]: what is to be written elsewhere
/// about this key is written in between.
///
/// # Errors
/// [`BundleError`].
pub fn prepare(dir: &Path, current: &CaCertificate, passphrase: &Passphrase) -> Result<Asked, BundleError> {
    let purpose = current.purpose();
    if let Some(asked) = asked(dir, purpose)? {
        return Ok(asked);
    }
    let number = numbers(dir, purpose)?.last().map_or(2, |last| last + 1);
    let name = format!("{purpose} CA {number}");
    let failed = |source| BundleError::Ca { path: next(dir, purpose), source };
    let folder = next(dir, purpose);
    make_folder(&folder)?;
    let at = key_path(&folder, &ca_name(purpose));
    let key = match keyfile::read_key(&at, passphrase) {
        // An earlier try ended before it asked; its key may be known elsewhere.
        Ok(key) => key,
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = SoftKey::generate().map_err(|error| failed(error.into()))?;
            // The key is on disk before anybody is asked to sign for it.
            write_key(&at, &key, passphrase)?;
            key
        }
        Err(error) => return Err(error.into()),
    };
    let pem = VerifiedCaRequest::write(current.owner(), purpose, &name, &key).map_err(failed)?;
    let request = VerifiedCaRequest::verify(pem.as_bytes());
    let request = request.map_err(|source| BundleError::Request { path: folder.join(REQUEST), source })?;
    Ok(Asked { request, pem, already: false })
}

/// Asks for what was prepared: from now on it is [`asked`] for. What is asked for already stays.
///
/// # Errors
/// [`BundleError`].
pub fn ask(dir: &Path, prepared: &Asked) -> Result<(), BundleError> {
    if prepared.already {
        return Ok(());
    }
    let path = next(dir, prepared.request.purpose()).join(REQUEST);
    Ok(keyfile::write(&path, prepared.pem.as_bytes(), 0o644)?)
}

/// What was asked for and is not answered yet.
///
/// # Errors
/// [`BundleError`].
pub fn asked(dir: &Path, purpose: Purpose) -> Result<Option<Asked>, BundleError> {
    let path = next(dir, purpose).join(REQUEST);
    let octets = match keyfile::read(&path) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let request = VerifiedCaRequest::verify(&octets)
        .map_err(|source| BundleError::Request { path: path.clone(), source })?;
    let pem = String::from_utf8(octets);
    let pem = pem.map_err(|_| FileError::Malformed { path, what: "a signing request in PEM" })?;
    Ok(Some(Asked { request, pem, already: true }))
}

/// Is this certificate the root's answer to what was asked?
///
/// # Errors
/// [`CaError`] says how it is not.
pub fn check(asked: &Asked, der: &[u8], root: &CaCertificate) -> Result<CaCertificate, CaError> {
    let answer = CaCertificate::issuing(der, asked.request.purpose(), root)?;
    if answer.key() != asked.request.key() {
        return Err(CaError::OtherKey);
    }
    Ok(answer)
}

/// Puts the root's answer into force: [`check`] has found it to be one. Whoever reads the bundle from now on has
/// it as the current authority.
///
/// # Errors
/// [`BundleError`].
pub fn install(dir: &Path, answer: &CaCertificate) -> Result<(), BundleError> {
    let purpose = answer.purpose();
    let folder = next(dir, purpose);
    let path = certificate_path(&folder, &ca_name(purpose));
    match write_certificate(&folder, &ca_name(purpose), answer.der()) {
        // An earlier try ended before the rename.
        Err(FileError::Exists(_)) if keyfile::read_certificate(&path)? == answer.der() => {}
        wrote => wrote?,
    }
    let number = numbers(dir, purpose)?.last().map_or(2, |last| last + 1);
    let to = numbered(dir, purpose, number);
    let io = |source| FileError::Io { path: to.clone(), source };
    fs::rename(&folder, &to).map_err(io)?;
    fs::File::open(dir.join(ROTATED)).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(())
}

/// The newest authority that was installed here, without its key; `None` while there is only the first.
///
/// # Errors
/// [`BundleError`].
pub fn newest(
    dir: &Path,
    purpose: Purpose,
    root: &CaCertificate,
) -> Result<Option<CaCertificate>, BundleError> {
    let Some(number) = numbers(dir, purpose)?.pop() else { return Ok(None) };
    let path = certificate_path(&numbered(dir, purpose, number), &ca_name(purpose));
    let der = keyfile::read_certificate(&path)?;
    let newest = CaCertificate::issuing(&der, purpose, root);
    newest.map(Some).map_err(|source| BundleError::Ca { path, source })
}

/// Reads what came after `first`.
pub(super) fn read(
    dir: &Path,
    first: Ca,
    root: &CaCertificate,
    passphrase: &Passphrase,
) -> Result<Line, BundleError> {
    let purpose = first.certificate().purpose();
    let mut line = Line { former: Vec::new(), current: first };
    for number in numbers(dir, purpose)? {
        let later = read_ca(&numbered(dir, purpose, number), purpose, root, passphrase)?;
        line.former.push(std::mem::replace(&mut line.current, later));
    }
    Ok(line)
}

/// Writes an authority that came after others.
pub(super) fn write(dir: &Path, ca: &Ca, number: u32, passphrase: &Passphrase) -> Result<(), BundleError> {
    let purpose = ca.certificate().purpose();
    let folder = numbered(dir, purpose, number);
    make_folder(&folder)?;
    write_ca(&folder, ca, passphrase)
}

fn ca_name(purpose: Purpose) -> String {
    format!("{purpose}-ca")
}

fn next(dir: &Path, purpose: Purpose) -> PathBuf {
    dir.join(ROTATED).join(format!("{purpose}-ca.next"))
}

fn numbered(dir: &Path, purpose: Purpose, number: u32) -> PathBuf {
    dir.join(ROTATED).join(format!("{purpose}-ca.{number}"))
}

/// The numbers of the authorities after the first, ascending.
fn numbers(dir: &Path, purpose: Purpose) -> Result<Vec<u32>, BundleError> {
    let folder = dir.join(ROTATED);
    let io = |source| FileError::Io { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let prefix = format!("{purpose}-ca.");
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
