//! `run/addresses.json`: where the server that runs on a data directory listens. Commands and test rigs
//! find it there; it is removed when the server stops.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where a server listens: `muster.addresses/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The schema's name.
    pub schema: String,
    /// For people and programs: `https://127.0.0.1:8443`.
    pub https: String,
    /// For devices: `mqtts://127.0.0.1:8883`.
    pub mqtt: String,
    /// The socket behind `https`.
    pub https_address: SocketAddr,
    /// The socket behind `mqtt`.
    pub mqtt_address: SocketAddr,
    /// The server's process.
    pub pid: u32,
}

impl Addresses {
    /// The addresses of this process.
    #[must_use]
    pub fn new(https: SocketAddr, mqtt: SocketAddr) -> Self {
        Self {
            schema: "muster.addresses/1".to_owned(),
            https: format!("https://{}", reachable(https)),
            mqtt: format!("mqtts://{}", reachable(mqtt)),
            https_address: https,
            mqtt_address: mqtt,
            pid: std::process::id(),
        }
    }

    /// The server that runs on this data directory now. `None` when none does: a file that a killed server
    /// left behind is not believed.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        let octets = fs::read(file(data_dir)).ok()?;
        let addresses = serde_json::from_slice(&octets).ok()?;
        let held = File::open(lock_file(data_dir)).ok()?.try_lock_shared();
        matches!(held, Err(TryLockError::WouldBlock)).then_some(addresses)
    }
}

/// What a client on this machine connects to when the server listens on every address.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("run/addresses.json")
}

fn lock_file(data_dir: &Path) -> PathBuf {
    data_dir.join("run/lock")
}

fn host_file(data_dir: &Path) -> PathBuf {
    data_dir.join("run/host")
}

/// The secret of the server that runs on this data directory now, for commands on its host.
#[must_use]
pub fn host_secret(data_dir: &Path) -> Option<String> {
    Addresses::read(data_dir)?;
    fs::read_to_string(host_file(data_dir)).ok().map(|text| text.trim().to_owned())
}

/// Writes a file nobody else may read, whole or not at all.
pub(crate) fn private(path: &Path, octets: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    // One that another's hand left there could be readable.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(octets)?;
    drop(file);
    fs::rename(new, path)
}

/// The data directory, held by this process alone. Dropping it gives it back and removes the addresses.
#[derive(Debug)]
pub(crate) struct Claim {
    data_dir: PathBuf,
    host_secret: Secret,
    _lock: File,
}

/// 256 random bits, new with each start. It is not printed, wherever the claim is.
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Claim {
    /// Takes the data directory; `None` when another server holds it.
    pub(crate) fn take(data_dir: &Path) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir.join("run"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock_file(data_dir))?;
        match lock.try_lock() {
            Ok(()) => {
                let mut octets = [0; 32];
                aws_lc_rs::rand::fill(&mut octets)
                    .map_err(|_| io::Error::other("the system's random source failed"))?;
                let host_secret = Secret(format!("host_{}", hex::encode(octets)));
                private(&host_file(data_dir), format!("{}\n", host_secret.0).as_bytes())?;
                Ok(Some(Self { data_dir: data_dir.to_owned(), host_secret, _lock: lock }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Writes the addresses, whole or not at all.
    pub(super) fn publish(&self, addresses: &Addresses) -> io::Result<()> {
        let mut text = serde_json::to_vec(addresses)?;
        text.push(b'\n');
        private(&file(&self.data_dir), &text)
    }

    /// What commands on this host show to be let in without a token: who can read it can read the registry.
    pub(super) fn host_secret(&self) -> &str {
        &self.host_secret.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock says whether a server runs; a file that stays behind is not believed.
        let _ = fs::remove_file(file(&self.data_dir));
        let _ = fs::remove_file(host_file(&self.data_dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new("0.0.0.0:8443".parse().unwrap(), "127.0.0.1:8883".parse().unwrap())
    }

    #[test]
    fn addresses_are_believed_only_while_their_server_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Addresses::read(dir.path()), None);
        let claim = Claim::take(dir.path()).unwrap().unwrap();
        claim.publish(&addresses()).unwrap();
        assert_eq!(Addresses::read(dir.path()), Some(addresses()));
        assert!(Claim::take(dir.path()).unwrap().is_none(), "one server a directory");
        let left = fs::read(file(dir.path())).unwrap();
        drop(claim);
        assert_eq!(Addresses::read(dir.path()), None);
        fs::write(file(dir.path()), left).unwrap();
        assert_eq!(Addresses::read(dir.path()), None, "left behind by a server that was killed");
        assert!(Claim::take(dir.path()).unwrap().is_some());
    }

    #[test]
    fn an_address_that_means_every_interface_is_reached_by_name() {
        assert_eq!(addresses().https, "https://localhost:8443");
        assert_eq!(addresses().mqtt, "mqtts://127.0.0.1:8883");
    }
}
