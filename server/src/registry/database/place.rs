//! Which database holds a registry.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf, absolute},
};

use sqlx::any::AnyConnectOptions;

use super::super::error::RegistryError;

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file in the data directory.
    Sqlite,
    /// A server.
    Postgres,
}

/// Where a registry is.
#[derive(Clone, PartialEq, Eq)]
pub struct Place(Where);

#[derive(Clone, PartialEq, Eq)]
enum Where {
    File(PathBuf),
    /// `postgres://user@host:port/database?…`, and the password when there is one.
    Url {
        url: String,
        password: Option<String>,
    },
}

/// Why a URL does not name a place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is no URL of PostgreSQL's.
    #[error("a URL such as postgres://muster@db.example:5432/muster is wanted")]
    NotPostgres,
    /// A password in a URL is read by whoever sees the configuration.
    #[error("a password does not belong in a URL: name its file with registry.password_file")]
    Password,
    /// The password's file.
    #[error("the password cannot be read from {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the password.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Where::File(file) => file.display().fmt(f),
            Where::Url { url, .. } => f.write_str(url),
        }
    }
}

impl Place {
    /// The file in this data directory.
    #[must_use]
    pub fn in_dir(data_dir: &Path) -> Self {
        Self(Where::File(data_dir.join(super::super::FILE)))
    }

    /// This file.
    pub(crate) fn file_at(path: PathBuf) -> Self {
        Self(Where::File(path))
    }

    /// A database on a PostgreSQL server. Without a password file the password, if one is needed, comes
    /// from `PGPASSWORD` or `~/.pgpass`.
    ///
    /// # Errors
    /// [`PlaceError`] for another URL, a password in it, or a password file that cannot be read.
    pub fn at(url: &str, password_file: Option<&Path>) -> Result<Self, PlaceError> {
        Self::check(url)?;
        let password = password_file.map(|path| match fs::read_to_string(path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(source) => Err(PlaceError::File { path: path.to_owned(), source }),
        });
        Ok(Self(Where::Url { url: url.to_owned(), password: password.transpose()? }))
    }

    /// Whether a URL names a place, without reading anything.
    ///
    /// # Errors
    /// [`PlaceError::NotPostgres`], [`PlaceError::Password`].
    pub fn check(url: &str) -> Result<(), PlaceError> {
        let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options: AnyConnectOptions = url.parse().map_err(|_| PlaceError::NotPostgres)?;
        if !postgres {
            return Err(PlaceError::NotPostgres);
        }
        let asked = |(key, _): (std::borrow::Cow<'_, str>, _)| key == "password";
        if options.database_url.password().is_some() || options.database_url.query_pairs().any(asked) {
            return Err(PlaceError::Password);
        }
        Ok(())
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.0 {
            Where::File(_) => Kind::Sqlite,
            Where::Url { .. } => Kind::Postgres,
        }
    }

    /// The file, when it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.0 {
            Where::File(file) => Some(file),
            Where::Url { .. } => None,
        }
    }

    /// How it is connected to. Only who writes makes a file where there is none.
    pub(super) fn options(&self, writes: bool) -> Result<AnyConnectOptions, RegistryError> {
        sqlx::any::install_default_drivers();
        let parse = |url: &str| url.parse::<AnyConnectOptions>().map_err(RegistryError::from);
        match &self.0 {
            Where::File(file) => {
                let file = absolute(file).map_err(|error| RegistryError::Database(Box::new(error)))?;
                let mode = if writes { "rwc" } else { "rw" };
                parse(&format!("sqlite://{}?mode={mode}", encoded(&file)?))
            }
            Where::Url { url, password } => {
                let mut options = parse(url)?;
                let mut pairs = options.database_url.query_pairs_mut();
                if let Some(password) = password {
                    pairs.append_pair("password", password);
                }
                pairs.append_pair("application_name", "muster");
                drop(pairs);
                Ok(options)
            }
        }
    }
}

/// A path as a URL has it.
fn encoded(path: &Path) -> Result<String, RegistryError> {
    let text = path
        .to_str()
        .ok_or_else(|| RegistryError::Database(format!("the path {} is not UTF-8", path.display()).into()))?;
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"/-_.~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_postgres_database_and_no_password() {
        for good in ["postgres://muster@db/muster", "postgresql:///muster?host=/run/postgresql"] {
            assert!(Place::check(good).is_ok(), "{good}");
        }
        for bad in ["mysql://db/muster", "registry.sqlite", "", "sqlite:///x"] {
            assert!(matches!(Place::check(bad), Err(PlaceError::NotPostgres)), "{bad}");
        }
        for open in ["postgres://muster:secret@db/muster", "postgres://db/muster?password=secret"] {
            assert!(matches!(Place::check(open), Err(PlaceError::Password)), "{open}");
        }
    }

    #[test]
    fn what_is_printed_of_a_place_has_no_password() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "s3cret\n").unwrap();
        let place = Place::at("postgres://muster@db/muster", Some(&file)).unwrap();
        assert_eq!(format!("{place} {place:?}"), "postgres://muster@db/muster postgres://muster@db/muster");
        assert!(place.options(true).unwrap().database_url.as_str().contains("password=s3cret&"));
        assert!(matches!(
            Place::at("postgres://muster@db/muster", Some(&dir.path().join("absent"))),
            Err(PlaceError::File { .. })
        ));
    }

    #[tokio::test]
    async fn a_path_may_have_any_character_a_url_gives_a_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("50% #1? &ü");
        fs::create_dir(&odd).unwrap();
        let registry = crate::registry::Registry::open(&odd).await.unwrap();
        registry.close().await;
        assert!(odd.join(crate::registry::FILE).exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "and nothing beside it");
    }
}
