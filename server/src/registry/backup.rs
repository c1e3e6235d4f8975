//! The whole registry in one file of lines, and back: the same from either database, into either.
//!
//! ```text
//! {"schema":"muster.registry/1","version":40,"at_ms":…,"audit_no":…,"audit_digest":"…"}
//! {"table":"batch","columns":["id","station",…]}
//! [1,1,"B-0001",…]
//! …
//! {"rows":1204}
//! ```
//!
//! A row is an array in the order of the columns: a number, a text, `null`, or octets as `{"octets":"BASE64"}`.
//! Tables come after those they refer to. The last line counts the rows: a file without it was cut short.
//! What is written is one moment's: everything committed before, nothing after.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Actor, Place, Registry, RegistryError,
    audit::{self, Entry},
};

mod read;
mod write;

/// The first line's `schema`.
const SCHEMA: &str = "muster.registry/1";

/// What a file of lines begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    schema: String,
    /// The newest migration of the registry it was written from.
    pub version: i64,
    /// When it was written, Unix milliseconds.
    pub at_ms: u64,
    /// Number of the newest audit row in it.
    pub audit_no: u64,
    /// That row's digest, lower-case hexadecimal.
    pub audit_digest: String,
}

/// What a restore brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Rows of all tables.
    pub rows: u64,
    /// The newest audit row that was in the backup.
    pub audit_no: u64,
    /// The epoch of continuity tokens from now on.
    pub epoch: u32,
}

impl Registry {
    /// Writes the registry of this moment to a new file, and on the record that it was written. Decisions go
    /// on meanwhile. Returns what it begins with, and how many rows it has.
    ///
    /// # Errors
    /// [`RegistryError`]; a file that is not complete lacks its last line.
    pub async fn back_up(&self, actor: &Actor, to: &Path) -> Result<(Header, u64), RegistryError> {
        let (actor, to) = (actor.clone(), to.to_owned());
        self.run(|inner| async move {
            audit::record(&inner, entry(&actor, "registry.backup", json!({}))).await?;
            write::write(inner.database.place(), inner.database.readers(), &to).await
        })
        .await
    }

    /// Whether there is a registry at a place.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Held`] when a server runs on it.
    pub async fn exists(place: &Place) -> Result<bool, RegistryError> {
        read::exists(place).await
    }

    /// Fills the registry at `place` from such a file, raises the epoch of continuity tokens above all that
    /// were given out, and puts on the record that it was restored. No server may run on it. What the
    /// registry held before is gone when `over` allows that, and refused otherwise. All or nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Backup`] for a file that is damaged or of a newer program.
    pub async fn restore(
        actor: &Actor,
        data_dir: &Path,
        place: &Place,
        from: &Path,
        over: bool,
    ) -> Result<Restored, RegistryError> {
        let (header, rows) = read::read(place, from, over).await?;
        let registry = Self::open_at(data_dir, place).await?;
        let epoch = registry.raise_continuity_epoch().await?;
        let detail = json!({ "audit_no": header.audit_no, "at_ms": header.at_ms, "epoch": epoch });
        let actor = actor.clone();
        let said = registry.run(|inner| async move {
            audit::record(&inner, entry(&actor, "registry.restore", detail)).await
        });
        said.await?;
        registry.close().await;
        Ok(Restored { rows, audit_no: header.audit_no, epoch })
    }
}

fn entry<'a>(actor: &'a Actor, action: &'a str, detail: Value) -> Entry<'a> {
    Entry { actor, tenant: None, action, target: "registry", reason: "", detail }
}
