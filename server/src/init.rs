//! What `muster init` writes: a data directory that `muster serve` can run on.
//!
//! ```text
//! DATA_DIR/               0700, appears whole or not at all
//!   muster.toml           every key, its default as a comment
//!   pki/                  the server's bundle: authorities with encrypted keys
//!   pki.passphrase        development only; a ceremony's passphrase stays where it is
//!   https.pem             the HTTPS authority: what commands trust
//!   token                 the first admin's token
//!   registry.sqlite       the root, the stations and that operator are on its record
//!   continuity.key        what continuity tokens are made with; without it every device begins anew
//!   station/, station.passphrase   development only: a bundle for muster-factory
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use muster_pki::{
    Passphrase, SerialRange,
    bundle::ServerBundle,
    hierarchy::{self, Hierarchy, StationPlan},
};
use muster_shared::{Code, Tenant};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    api::error::Problem,
    config,
    registry::{Actor, NewToken, Registry, Role, now_ms},
};

/// Where the authorities' keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Made here, for one tenant, together with a station. The root's key is forgotten at once.
    Development {
        /// Whose fleet.
        tenant: Tenant,
    },
    /// The server's bundle of a key ceremony.
    Ceremony {
        /// The bundle's folder.
        bundle: PathBuf,
        /// File with its passphrase.
        passphrase_file: PathBuf,
    },
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where.
    pub data_dir: PathBuf,
    /// With whose keys.
    pub keys: KeySource,
    /// The operator the first token speaks for.
    pub operator: String,
    /// Where the registry is to be.
    pub registry: config::Registry,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Where.
    pub data_dir: PathBuf,
    /// Whether its keys are development keys.
    pub development: bool,
    /// The operator the token speaks for.
    pub operator: String,
    /// SHA-256 of the root's public key: what a flasher writes into a device's vendor page.
    pub root_digest: [u8; 32],
    /// Stations registered.
    pub stations: Vec<String>,
}

/// The development station and the serials it may give.
const STATION: &str = "S-01";
const SERIALS: (&str, &str) = ("MU-000001", "MU-999999");

impl Made {
    /// What a person needs to find, in the order they need it.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let at = |name: &str| self.data_dir.join(name);
        let mut files = vec![
            ("configuration", at(config::FILE_NAME)),
            ("authorities", at("pki")),
            ("HTTPS trust", at("https.pem")),
            ("admin token", at("token")),
        ];
        if self.development {
            files.push(("station bundle", at("station")));
            files.push(("its passphrase", at("station.passphrase")));
        }
        files
    }

    /// The same as one JSON document: `muster.init/1`.
    #[must_use]
    pub fn to_document(&self) -> Value {
        let at = |name: &str| self.data_dir.join(name);
        let development = |name: &str| self.development.then(|| at(name));
        json!({
            "schema": "muster.init/1",
            "data_dir": self.data_dir,
            "development": self.development,
            "config": at(config::FILE_NAME),
            "ca": at("https.pem"),
            "token_file": at("token"),
            "operator": self.operator,
            "root_digest": hex::encode(self.root_digest),
            "stations": self.stations,
            "station_bundle": development("station"),
            "station_passphrase_file": development("station.passphrase"),
        })
    }
}

/// Makes the data directory. Refuses to touch one that holds anything.
///
/// # Errors
/// M511 when the directory is not empty or not writable; M311 when the bundle does not open; M408 when a
/// station record in it is not the root's.
pub fn make(plan: &Plan) -> Result<Made, Problem> {
    let unusable = |why: String| {
        Problem::new(Code::DataDirectory)
            .at(plan.data_dir.display().to_string())
            .because(why)
            .next("give a directory that is empty or not there: muster init --data-dir DIR")
    };
    check_empty(&plan.data_dir).map_err(&unusable)?;
    // Everything is made beside its place and moved there in one step: an init that is cut short leaves
    // no directory that looks finished.
    let staging = Staging::beside(&plan.data_dir).map_err(|error| unusable(error.to_string()))?;
    let made = fill(&staging.0, plan)?;
    sync(&staging.0).map_err(|error| unusable(error.to_string()))?;
    staging.move_to(&plan.data_dir).map_err(|error| unusable(error.to_string()))?;
    Ok(made)
}

fn check_empty(dir: &Path) -> Result<(), String> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(Ok(entry)) => {
                Err(format!("it holds {}, and nothing is overwritten", entry.file_name().display()))
            }
            Some(Err(error)) => Err(error.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// A directory beside the one that is to be; removed with all in it unless it was moved there.
struct Staging(PathBuf);

impl Staging {
    fn beside(target: &Path) -> io::Result<Self> {
        let target = std::path::absolute(target)?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no parent directory"));
        };
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let staging = parent.join(format!(".{}.init-{}", name.display(), std::process::id()));
        DirBuilder::new().mode(0o700).create(&staging)?;
        Ok(Self(staging))
    }

    fn move_to(self, target: &Path) -> io::Result<()> {
        // An empty directory is replaced (rename(2)); one that was filled meanwhile is not.
        fs::rename(&self.0, target)?;
        let parent = std::path::absolute(target)?;
        if let Some(parent) = parent.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After the move there is nothing here to remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fill(dir: &Path, plan: &Plan) -> Result<Made, Problem> {
    let fault = |why: &dyn std::fmt::Display| {
        Problem::new(Code::DataDirectory).at(dir.display().to_string()).because(why.to_string())
    };
    let (bundle, passphrase_file) = match &plan.keys {
        KeySource::Development { tenant } => (develop(dir, tenant).map_err(|error| fault(&error))?, None),
        KeySource::Ceremony { bundle, passphrase_file } => {
            let (bundle, passphrase) = open_bundle(bundle, passphrase_file)?;
            bundle.write(&dir.join("pki"), &passphrase).map_err(|error| fault(&error))?;
            let file = std::path::absolute(passphrase_file).map_err(|error| fault(&error))?;
            (bundle, Some(file))
        }
    };
    let io = |error: io::Error| fault(&error);
    write(&dir.join("https.pem"), bundle.https.certificate().pem().as_bytes()).map_err(io)?;
    write(&dir.join(config::FILE_NAME), settings(passphrase_file.as_deref(), &plan.registry).as_bytes())
        .map_err(io)?;
    let (token, stations) = register(dir, &bundle, plan)?;
    write(&dir.join("token"), token.as_bytes()).map_err(io)?;
    Ok(Made {
        data_dir: plan.data_dir.clone(),
        development: matches!(plan.keys, KeySource::Development { .. }),
        operator: plan.operator.clone(),
        root_digest: bundle.root.key().digest(),
        stations,
    })
}

/// Development keys: a hierarchy with one station, each bundle under a passphrase that lies beside it.
fn develop(dir: &Path, tenant: &Tenant) -> Result<ServerBundle, Box<dyn std::error::Error>> {
    let plan = hierarchy::Plan {
        owner: format!("{tenant} development"),
        stations: vec![StationPlan {
            station: STATION.parse()?,
            tenant: tenant.clone(),
            quota: 999_999,
            serials: SerialRange::new(&SERIALS.0.parse()?, &SERIALS.1.parse()?)?,
        }],
    };
    // The root's key lives in this value alone and is gone when it is dropped.
    let hierarchy = Hierarchy::create(&plan, (now_ms() / 1000) as i64)?;
    let server = hierarchy.server_bundle();
    server.write(&dir.join("pki"), &new_passphrase(&dir.join("pki.passphrase"))?)?;
    let station = hierarchy.station_bundle(&plan.stations[0].station)?;
    station.write(&dir.join("station"), &new_passphrase(&dir.join("station.passphrase"))?)?;
    Ok(server)
}

fn new_passphrase(file: &Path) -> Result<Passphrase, Box<dyn std::error::Error>> {
    let passphrase = Passphrase::generate()?;
    let line = Zeroizing::new(format!("{}\n", passphrase.expose_secret()));
    write(file, line.as_bytes())?;
    Ok(passphrase)
}

/// Opens a server's bundle with the passphrase in a file.
///
/// # Errors
/// M509 when the passphrase file cannot be read, M311 when the bundle does not open with it.
pub fn open_bundle(bundle: &Path, passphrase_file: &Path) -> Result<(ServerBundle, Passphrase), Problem> {
    let passphrase = read_passphrase(passphrase_file)?;
    match ServerBundle::read(bundle, &passphrase) {
        Ok(read) => Ok((read, passphrase)),
        Err(error) => Err(Problem::new(Code::KeyFileUnreadable)
            .what("the server's key bundle cannot be opened")
            .at(format!("{} with {}", bundle.display(), passphrase_file.display()))
            .because(error.to_string())),
    }
}

/// Reads the passphrase of the server's bundle.
///
/// # Errors
/// M509 when its file cannot be read, or is empty.
pub fn read_passphrase(file: &Path) -> Result<Passphrase, Problem> {
    let unreadable = |why: String| {
        Problem::new(Code::FileUnreadable)
            .what("the passphrase file cannot be read")
            .at(file.display().to_string())
            .because(why)
    };
    let text = fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    Passphrase::new(&text).ok_or_else(|| unreadable("it is empty".to_owned()))
}

/// Writes the registry: the root, the stations of the bundle, the first operator with their token.
fn register(dir: &Path, bundle: &ServerBundle, plan: &Plan) -> Result<(String, Vec<String>), Problem> {
    let place = plan.registry.place(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new(Code::Fault).because(error.to_string()))?;
    let done = runtime.block_on(async {
        let registry = Registry::open_at(dir, &place).await?;
        let actor = Actor::server();
        registry.trust_root(&actor, &bundle.root.der().to_vec().into()).await?;
        let mut stations = Vec::new();
        for record in &bundle.stations {
            stations.push(registry.trust_station(&actor, record).await?.record.station.to_string());
        }
        let new = NewToken::of(&plan.operator, Role::Admin, None);
        let token = registry.create_token(&actor, &new).await?;
        registry.close().await;
        Ok((format!("{}\n", token.expose_secret()), stations))
    });
    if let Some(file) = place.file().filter(|file| file.exists()) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).map_err(|error| {
            Problem::new(Code::DataDirectory).at(dir.display().to_string()).because(error.to_string())
        })?;
    }
    done.map_err(|error: crate::registry::RegistryError| Problem::from(error))
}

/// The sample with its defaults commented out, so that a later version's better default takes effect.
fn settings(passphrase_file: Option<&Path>, registry: &config::Registry) -> String {
    let said = |value: &str| toml::Value::from(value);
    let mut out = String::new();
    for line in config::SAMPLE.lines() {
        let key = line.split(" = ").next().unwrap_or_default();
        match (key, passphrase_file) {
            ("passphrase_file", Some(file)) => {
                out.push_str(&format!("passphrase_file = {}", toml::Value::from(file.display().to_string())));
            }
            ("# url", _) if registry.url.is_some() => {
                out.push_str(&format!("url = {}", said(registry.url.as_deref().unwrap_or_default())));
            }
            ("# password_file", _) if registry.password_file.is_some() => {
                let file = registry.password_file.as_deref().unwrap_or(Path::new(""));
                out.push_str(&format!("password_file = {}", said(&absolute(file))));
            }
            ("data_dir", _) => out.push_str(line),
            _ if line.contains(" = ") && !line.starts_with('#') => out.push_str(&format!("# {line}")),
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// A path that means the same from another directory.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Writes a file nobody else may read, which must not be there yet, and waits until it is on disk.
fn write(path: &Path, octets: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

/// Waits until the directory's names are on disk.
fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_configuration_is_valid_and_says_only_what_differs() {
        let text = settings(Some(Path::new("/etc/muster/pass \"phrase\"")), &config::Registry::default());
        let config = config::Config::from_text(Path::new("/data/muster.toml"), &text).unwrap();
        assert_eq!(config.keys.passphrase_file, Path::new("/etc/muster/pass \"phrase\""));
        assert_eq!(config.data_dir, Path::new("/data"));
        let said: Vec<_> = config
            .settings
            .iter()
            .filter(|of| matches!(of.source, config::Source::File(..)))
            .map(|of| &*of.key)
            .collect();
        assert_eq!(said, ["data_dir", "keys.passphrase_file"]);
    }

    #[test]
    fn a_directory_with_anything_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        let keys = KeySource::Development { tenant: "acme".parse().unwrap() };
        let plan = Plan {
            data_dir: dir.path().to_owned(),
            keys,
            operator: "admin".to_owned(),
            registry: config::Registry::default(),
        };
        let problem = make(&plan).unwrap_err();
        assert_eq!(problem.code, Code::DataDirectory);
        assert!(problem.why.as_ref().unwrap().contains("mine"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
