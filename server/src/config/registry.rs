//! `[registry]`: a file in the data directory, or a PostgreSQL database.

use std::path::{Path, PathBuf};

use super::{
    layers::{Layers, Raw},
    values::words,
};
use crate::registry::{Place, PlaceError};

/// Where the registry is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// A PostgreSQL database; `None`: a file in the data directory.
    pub url: Option<String>,
    /// File with that database's password.
    pub password_file: Option<PathBuf>,
}

impl Registry {
    pub(super) fn take(layers: &mut Layers<'_>, base: &Path) -> Self {
        let url = layers.take(
            "registry.url",
            None,
            |raw| {
                let url = words(raw)?;
                Place::check(&url).map_err(|error| error.to_string())?;
                Ok(Some(url))
            },
            |url: &Option<String>| url.clone().unwrap_or_else(|| "registry.sqlite in data_dir".to_owned()),
        );
        let password_file = layers.take(
            "registry.password_file",
            None,
            |raw| match raw {
                Raw::Text(text) if !text.is_empty() => Ok(Some(base.join(text))),
                Raw::Words(text) => Ok(Some(PathBuf::from(text))),
                _ => Err("a path is wanted".to_owned()),
            },
            |path: &Option<PathBuf>| {
                path.as_ref().map_or("none".to_owned(), |path| path.display().to_string())
            },
        );
        if url.is_none() && password_file.is_some() {
            layers.reject("registry.password_file", "registry.url is missing beside it");
        }
        Self { url, password_file }
    }

    /// Which database that is, for the server of a data directory.
    ///
    /// # Errors
    /// [`PlaceError`] when the password cannot be read.
    pub fn place(&self, data_dir: &Path) -> Result<Place, PlaceError> {
        match &self.url {
            None => Ok(Place::in_dir(data_dir)),
            Some(url) => Place::at(url, self.password_file.as_deref()),
        }
    }
}
