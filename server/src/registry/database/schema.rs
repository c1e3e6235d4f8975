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
    pair!(10, "0010_audit_origin"),
    pair!(11, "0011_access"),
    pair!(12, "0012_audit_checkpoint"),
    pair!(20, "0020_standing"),
    pair!(21, "0021_label"),
    pair!(30, "0030_follow"),
    pair!(31, "0031_idempotency"),
    pair!(32, "0032_jobs"),
    pair!(40, "0040_holder"),
    pair!(50, "0050_overview"),
    pair!(51, "0051_start"),
    pair!(60, "0060_twin"),
    pair!(61, "0061_command"),
    pair!(70, "0070_held"),
    pair!(80, "0080_notice"),
    pair!(81, "0081_replacement"),
    pair!(90, "0090_command_delivered"),
    pair!(100, "0100_keep_for"),
    pair!(101, "0101_firmware"),
    pair!(102, "0102_notice_turn"),
    pair!(103, "0103_command_open"),
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

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Integer,
    Real,
    Text,
    Octets,
}

/// A table as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<(String, Holds)>,
}

/// Every table of ours, each after those it refers to.
pub(crate) async fn tables(connection: &mut Connection, kind: Kind) -> Result<Vec<Table>, RegistryError> {
    let (columns, references) = match kind {
        Kind::Sqlite => (
            "SELECT m.name, c.name, c.type FROM sqlite_master m JOIN pragma_table_info(m.name) c
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> '_sqlx_migrations'
             ORDER BY m.name, c.cid",
            "SELECT m.name, f.\"table\" FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f
             WHERE m.type = 'table'",
        ),
        Kind::Postgres => (
            "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(data_type AS TEXT)
             FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name <> '_sqlx_migrations'
             AND is_generated = 'NEVER' ORDER BY table_name, ordinal_position",
            "SELECT CAST(c.relname AS TEXT), CAST(r.relname AS TEXT) FROM pg_constraint k
             JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class r ON r.oid = k.confrelid
             JOIN pg_namespace n ON n.oid = k.connamespace
             WHERE k.contype = 'f' AND n.nspname = current_schema()",
        ),
    };
    let columns: Vec<(String, String, String)> = sqlx::query_as(columns).fetch_all(&mut *connection).await?;
    let references: Vec<(String, String)> = sqlx::query_as(references).fetch_all(connection).await?;
    let mut tables: Vec<Table> = Vec::new();
    for (table, column, kind) in columns {
        let holds = match kind.to_ascii_uppercase().as_str() {
            "INTEGER" | "BIGINT" => Holds::Integer,
            "REAL" | "DOUBLE PRECISION" => Holds::Real,
            "TEXT" => Holds::Text,
            "BLOB" | "BYTEA" => Holds::Octets,
            other => return Err(RegistryError::Damaged(format!("column {table}.{column} is {other}"))),
        };
        match tables.last_mut() {
            Some(last) if last.name == table => last.columns.push((column, holds)),
            _ => tables.push(Table { name: table, columns: vec![(column, holds)] }),
        }
    }
    Ok(ordered(tables, &references))
}

/// Each after those it refers to; in a ring, which there is none of, in the order they came.
fn ordered(mut waiting: Vec<Table>, references: &[(String, String)]) -> Vec<Table> {
    let mut done: Vec<Table> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = waiting.iter().position(|table| {
            references
                .iter()
                .filter(|(from, to)| *from == table.name && *to != table.name)
                .all(|(_, to)| done.iter().any(|done| done.name == *to))
        });
        done.push(waiting.remove(free.unwrap_or(0)));
    }
    done
}

/// Number of the newest migration that was taken.
pub(crate) async fn version(connection: &mut Connection) -> Result<i64, RegistryError> {
    let (version,): (i64,) = sqlx::query_as("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await?;
    Ok(version)
}

/// How many steps lead to this version; `None` when this program does not know it.
pub(crate) fn steps_to(version: i64) -> Option<usize> {
    PAIRS.iter().position(|pair| pair.0 == version).map(|at| at + 1)
}
