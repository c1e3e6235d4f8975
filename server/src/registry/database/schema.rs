//! The migrations. Each is a pair: one file for SQLite and one for PostgreSQL, of the same number and name,
//! which leave the same tables with the same columns.

use super::{Connection, Kind};
use crate::registry::{error::RegistryError, sqlite};

/// One step on both: number, name, SQLite's text, PostgreSQL's.
pub(crate) type Pair = (i64, &'static str, &'static str, &'static str);

macro_rules! pair {
    ($number:literal, $file:literal) => {
        (
            $number,
            $file,
            include_str!(concat!("../../../migrations/sqlite/registry/", $file, ".sql")),
            include_str!(concat!("../../../migrations/postgres/registry/", $file, ".sql")),
        )
    };
}

/// In the order of their numbers. Ranges of numbers are given out so that two who add one do not meet.
pub(crate) const PAIRS: &[Pair] = &[
    pair!(1, "0001_registry"),
    pair!(2, "0002_continuity"),
    pair!(3, "0003_newest"),
    pair!(4, "0004_groups"),
    pair!(40, "0040_holder"),
    pair!(50, "0050_overview"),
];

/// Brings the schema up to date. Refuses one that a newer program has upgraded.
pub(super) async fn migrate(connection: &mut Connection, kind: Kind) -> Result<(), RegistryError> {
    migrate_to(connection, kind, PAIRS.len()).await
}

/// Takes the first of the steps.
pub(crate) async fn migrate_to(
    connection: &mut Connection,
    kind: Kind,
    steps: usize,
) -> Result<(), RegistryError> {
    let steps = PAIRS[..steps].iter().map(|&(number, file, sqlite, postgres)| {
        let name = file.split_once('_').map_or(file, |(_, name)| name);
        (number, name, if kind == Kind::Sqlite { sqlite } else { postgres })
    });
    let done = sqlite::migrate(connection, &steps.collect::<Vec<_>>()).await;
    done.map_err(|error| RegistryError::Database(Box::new(error)))
}
