//! The registry's database: SQLite in the data directory by default, PostgreSQL by URL.
//!
//! One statement runs on both: placeholders are `$1`, integers are 64 bits, upserts are `ON CONFLICT`. What
//! differs is here and in the migrations: how a connection is opened, what a decision's transaction begins
//! with, and who may write.
//!
//! # Invariants
//!
//! - One connection writes; a small pool reads and cannot write.
//! - A commit that has returned is on disk, on either: `synchronous=FULL`, `synchronous_commit=on`.
//! - A connection whose commit failed is not used again: nobody knows what became of it. It is closed, the
//!   next writer opens a new one and is told to look. So is one that a failed statement left in its transaction:
//!   a full disk ends that inside SQLite, and the driver waits for its end for ever.
//! - On PostgreSQL the writing connection holds a lock on the registry for as long as it lives, and a
//!   registry that another server has held meanwhile is not written again.
//!
//! | module | is |
//! |---|---|
//! | `place` | which database |
//! | `build` | statements that are put together |
//! | `schema` | the migrations, paired |
//! | `postgres` | what only PostgreSQL has: versions, sessions, the lock |

use sqlx::{
    Any, AnyConnection, AnyPool, Connection as _, Transaction,
    any::{AnyConnectOptions, AnyPoolOptions, AnyRow},
};
use tokio::sync::{Mutex, MutexGuard};

use super::error::RegistryError;

mod build;
mod place;
mod postgres;
pub(super) mod schema;
pub(super) use build::QueryBuilder;
pub(crate) use place::Kind;
pub use place::{Place, PlaceError};

/// What portable SQL runs on.
pub(crate) type Connection = AnyConnection;
/// The pool of connections that only read.
pub(crate) type Pool = AnyPool;
/// A transaction of the writer.
pub(super) type Tx<'c> = Transaction<'c, Any>;
/// A row of a result.
pub(super) type Row = AnyRow;

/// Connections that read: one for each core and a few for slow pages.
const READERS: u32 = 4;

/// What a SQLite connection is told first. `FULL` is said because nobody says it for us; an unfinished
/// write of another process is waited for five seconds.
const SQLITE: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON";
/// And one that only reads.
const SQLITE_READS: &str = "PRAGMA query_only = ON";

impl From<std::io::Error> for RegistryError {
    fn from(error: std::io::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// The registry's database, open.
pub(super) struct Database {
    place: Place,
    writer: Mutex<Slot>,
    readers: Pool,
    /// The name this process writes under, on PostgreSQL.
    holder: Option<postgres::Holder>,
}

enum Slot {
    Open(Box<Connection>),
    /// Its state is not known: open a new one.
    Failed,
    Closed,
}

/// The one writer, held.
pub(super) struct Writer<'d> {
    slot: MutexGuard<'d, Slot>,
    kind: Kind,
    /// The one before failed: nobody has looked yet what became of its last commit.
    pub(super) unsettled: bool,
}

/// One connection, as it is to write.
pub(super) async fn connect(place: &Place) -> Result<Connection, RegistryError> {
    let mut connection = Connection::connect_with(&place.options(true)?).await?;
    match place.kind() {
        Kind::Sqlite => {
            sqlx::raw_sql(SQLITE).execute(&mut connection).await?;
        }
        Kind::Postgres => postgres::prepare_writer(&mut connection).await?,
    }
    Ok(connection)
}

/// One connection that writes, with the registry's lock where there is one, and the schema as it is.
pub(super) async fn begin_writing(place: &Place) -> Result<Connection, RegistryError> {
    let mut connection = connect(place).await?;
    if place.kind() == Kind::Postgres {
        postgres::lock(&mut connection).await?;
    }
    Ok(connection)
}

/// Waits until a connection has done what it was told before, the end of a transaction that was given up among it,
/// and finds it alive and in none.
async fn idle(connection: &mut Connection) -> Result<(), RegistryError> {
    connection.ping().await?;
    if connection.is_in_transaction() {
        return Err(RegistryError::Database("a transaction that failed cannot be ended".into()));
    }
    Ok(())
}

/// Connections that only read a registry that is there, and that nobody has asked yet.
pub(super) async fn idle_readers(place: &Place) -> Result<Pool, RegistryError> {
    // The pool tries again for half a minute what cannot be set up; the first connection says at once why.
    let mut first = Connection::connect_with(&place.options(false)?).await?;
    for sql in reading(place) {
        sqlx::raw_sql(*sql).execute(&mut first).await?;
    }
    first.close().await?;
    readers(place).await
}

/// What a connection that only reads is told first.
fn reading(place: &Place) -> &'static [&'static str] {
    match place.kind() {
        Kind::Sqlite => &[SQLITE, SQLITE_READS],
        Kind::Postgres => &[postgres::READS],
    }
}

async fn readers(place: &Place) -> Result<Pool, RegistryError> {
    let setup = reading(place);
    let options: AnyConnectOptions = place.options(false)?;
    let pool = AnyPoolOptions::new().max_connections(READERS).after_connect(move |connection, _| {
        Box::pin(async move {
            for sql in setup {
                sqlx::raw_sql(*sql).execute(&mut *connection).await?;
            }
            Ok(())
        })
    });
    Ok(pool.connect_with(options).await?)
}

impl Database {
    /// Opens it, makes it where there is none, and brings its schema up to date.
    pub(super) async fn open(place: &Place) -> Result<Self, RegistryError> {
        let mut writer = begin_writing(place).await?;
        schema::migrate(&mut writer, place.kind()).await?;
        let holder = match place.kind() {
            Kind::Sqlite => None,
            Kind::Postgres => Some(postgres::Holder::new()?),
        };
        let readers = readers(place).await?;
        Ok(Self { place: place.clone(), writer: Mutex::new(Slot::Open(Box::new(writer))), readers, holder })
    }

    /// Says in the registry who writes it from now on. After its one row was made.
    pub(super) async fn take(&self, connection: &mut Connection) -> Result<(), RegistryError> {
        match &self.holder {
            Some(holder) => holder.take(connection).await,
            None => Ok(()),
        }
    }

    /// Whether another server may take it from this one.
    pub(super) fn is_shared(&self) -> bool {
        self.holder.is_some()
    }

    /// Waits for the writer.
    pub(super) async fn writer(&self) -> Result<Writer<'_>, RegistryError> {
        let mut slot = self.writer.lock().await;
        if let Slot::Open(connection) = &mut *slot
            && let Err(error) = idle(connection).await
        {
            tracing::warn!(%error, "the connection to the registry's database broke");
            *slot = Slot::Failed;
        }
        let unsettled = matches!(*slot, Slot::Failed);
        match *slot {
            Slot::Open(_) => {}
            Slot::Closed => return Err(RegistryError::Closed),
            Slot::Failed => {
                let mut connection = begin_writing(&self.place).await?;
                if let Some(holder) = &self.holder {
                    holder.check(&mut connection).await?;
                }
                *slot = Slot::Open(Box::new(connection));
            }
        }
        Ok(Writer { slot, kind: self.place.kind(), unsettled })
    }

    /// Which database this is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn readers(&self) -> &Pool {
        &self.readers
    }

    /// What follows a table's name to have it read by this index. SQLite knows how many rows there are, not
    /// how many hold a value, so it is told; PostgreSQL counts for itself.
    pub(super) fn by(&self, index: &str) -> String {
        if self.is_shared() { String::new() } else { format!(" INDEXED BY {index}") }
    }

    /// Closes it; what waits for the writer then fails with [`RegistryError::Closed`].
    pub(super) async fn close(&self) {
        let mut slot = self.writer.lock().await;
        self.readers.close().await;
        if let Slot::Open(connection) = std::mem::replace(&mut *slot, Slot::Closed)
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing the registry's database failed");
        }
    }
}

impl Writer<'_> {
    /// The connection.
    pub(super) fn connection(&mut self) -> Result<&mut Connection, RegistryError> {
        match &mut *self.slot {
            Slot::Open(connection) => Ok(connection),
            Slot::Failed | Slot::Closed => Err(RegistryError::Closed),
        }
    }

    /// Begins a transaction of which what it reads is what it changes: on SQLite it holds the write lock
    /// from its start; on PostgreSQL a row that anybody else changed meanwhile fails it.
    pub(super) async fn begin(&mut self) -> Result<Tx<'_>, RegistryError> {
        let begin = match self.kind {
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        };
        Ok(self.connection()?.begin_with(begin).await?)
    }

    /// Gives the connection up: its last commit failed and its state is not known.
    pub(super) fn fail(&mut self) {
        if !matches!(*self.slot, Slot::Closed) {
            *self.slot = Slot::Failed;
        }
    }
}

pub(crate) use super::sqlite::{int, uint};

/// Which of the two a connection is to.
pub(super) fn kind_of(connection: &Connection) -> Kind {
    match connection.backend_name() {
        "PostgreSQL" => Kind::Postgres,
        _ => Kind::Sqlite,
    }
}

/// 32 octets that were written as 32 octets.
pub(super) fn digest(bytes: &[u8], what: &str) -> Result<[u8; 32], RegistryError> {
    bytes.try_into().map_err(|_| RegistryError::Damaged(format!("{what} has {} octets, not 32", bytes.len())))
}

/// A word or id that was checked before it was written.
pub(super) fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, RegistryError> {
    text.parse().map_err(|_| RegistryError::Damaged(format!("{what} is {text:?}")))
}
