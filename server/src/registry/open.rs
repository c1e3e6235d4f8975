//! How the registry opens and closes: the database, the keys beside it, every verdict, and then what writes and
//! watches for as long as it is open.

use std::{path::Path, sync::Arc};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::{
    runtime::Handle,
    sync::{broadcast, watch},
};

use super::{
    AuditHead, DisconnectReason, Facts, Inner, Newest, Place, Registry, Verdicts, audit, continuity,
    database, error::RegistryError, facts, health, load, newest, now_ms, recovery, standing,
};

/// Changes a reader may be behind before it must read the audit log instead.
const CHANGES_MAX: usize = 4096;

impl Registry {
    /// Opens, or makes, `registry.sqlite` in `data_dir`, upgrades its schema and loads every verdict.
    /// Decisions run on the tokio runtime this is called on, whoever asks for them.
    ///
    /// # Errors
    /// [`RegistryError`] when the file, or the key beside it, cannot be opened, upgraded or read.
    pub async fn open(data_dir: &Path) -> Result<Self, RegistryError> {
        Self::open_at(data_dir, &Place::in_dir(data_dir)).await
    }

    /// The same at another place; the key of continuity tokens stays in `data_dir`.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Held`] when another server writes that registry.
    pub async fn open_at(data_dir: &Path, place: &Place) -> Result<Self, RegistryError> {
        let database = database::Database::open(place).await?;
        let continuity = continuity::Continuity::open(data_dir)?;
        let audit_key = audit::checkpoint::open_key(data_dir)?;
        let mut writer = database.writer().await?;
        begin(writer.connection()?).await?;
        database.take(writer.connection()?).await?;
        continuity::begin(writer.connection()?, &continuity.key).await?;
        let (last_session,): (i64,) = sqlx::query_as("SELECT coalesce(max(id), 0) FROM session")
            .fetch_one(writer.connection()?)
            .await?;
        let devices = load::size(writer.connection()?).await?;
        drop(writer);
        let verdicts = Verdicts::open(data_dir, devices, devices)
            .map_err(|source| RegistryError::Key { path: data_dir.to_owned(), source })?;
        let verdicts = Arc::new(verdicts);
        let newest = Arc::new(Newest::new(verdicts.clone()));
        let inner = Arc::new(Inner {
            database,
            continuity,
            audit_key,
            standing: audit::standing::Standing::default(),
            verdicts,
            changes: broadcast::channel(CHANGES_MAX).0,
            facts: Facts::new(database::uint(last_session) + 1, newest.clone()),
            health: health::Health::default(),
            newest: newest.clone(),
            closing: watch::channel(false).0,
            lost: watch::Sender::new(false),
            writers: parking_lot::Mutex::default(),
            runtime: Handle::current(),
        });
        {
            let readers = inner.database.readers();
            let mut connection = readers.acquire().await?;
            // Another connection takes longer to open than the rows of a small fleet to read.
            let mut beside = if devices > load::TOGETHER { Some(readers.acquire().await?) } else { None };
            inner.load(&mut connection, beside.as_deref_mut()).await?;
            inner.verdicts.settle();
        }
        let facts = tokio::spawn(facts::run(inner.facts.clone(), Arc::downgrade(&inner)));
        let newest = tokio::spawn(newest::run(newest, Arc::downgrade(&inner)));
        let standing = tokio::spawn(standing::run(inner.closing.subscribe(), Arc::downgrade(&inner)));
        *inner.writers.lock() = vec![facts, newest, standing];
        drop(tokio::spawn(recovery::run(Arc::downgrade(&inner))));
        Ok(Self { inner })
    }

    /// Resolves when another server has taken the registry: what this one says from then on may be old, and
    /// it must stop. Only a database on a server can be taken.
    pub async fn lost(&self) {
        let mut lost = self.inner.lost.subscribe();
        // The sender lives as long as this call.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Writes what is pending and closes the files. Later calls fail with [`RegistryError::Closed`].
    pub async fn close(&self) {
        self.inner.facts.close();
        self.inner.newest.close();
        self.inner.closing.send_replace(true);
        let writers = std::mem::take(&mut *self.inner.writers.lock());
        for writer in writers {
            // It ends by itself after the last write; a panic in it has been reported by the runtime.
            let _ = writer.await;
        }
        self.inner.database.close().await;
    }
}

/// Makes the one row of a new registry, or reads where an old one stands.
async fn begin(connection: &mut database::Connection) -> Result<(), RegistryError> {
    let mut node = [0_u8; 8];
    SystemRandom::new()
        .fill(&mut node)
        .map_err(|_| RegistryError::Database("the system's random source failed".into()))?;
    sqlx::query(
        "INSERT INTO registry (one, node, generation, audit_no, audit_digest) VALUES (1, $1, 0, 0, $2)
         ON CONFLICT (one) DO NOTHING",
    )
    .bind(hex::encode(node))
    .bind(AuditHead::EMPTY.digest.as_slice())
    .execute(&mut *connection)
    .await?;
    // A session that was open when the process ended was ended by that.
    sqlx::query("UPDATE session SET ended_at_ms = $1, reason = $2 WHERE ended_at_ms IS NULL")
        .bind(database::int(now_ms()))
        .bind(DisconnectReason::ServerShutdown.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.facts.close();
        self.newest.close();
    }
}
