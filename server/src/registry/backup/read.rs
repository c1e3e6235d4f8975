//! From lines into the database.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Lines},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _};

use super::{Header, SCHEMA};
use crate::registry::{
    Place, RegistryError,
    database::{
        Connection, Kind, QueryBuilder, begin_writing,
        schema::{self, Holds, Table},
    },
};

/// Values of one statement: below the 32 766 SQLite takes.
const VALUES: usize = 16_000;

fn bad(why: impl Into<String>) -> RegistryError {
    RegistryError::Backup(why.into())
}

/// Fills the registry. Returns what the file begins with and how many rows it brought.
pub(super) async fn read(place: &Place, from: &Path, over: bool) -> Result<(Header, u64), RegistryError> {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(from)?).lines();
    let first = next(&mut lines)?.ok_or_else(|| bad("it is empty"))?;
    let header: Header = serde_json::from_value(first).map_err(|error| bad(error.to_string()))?;
    if header.schema != SCHEMA {
        return Err(bad(format!("it is {}, not {SCHEMA}", header.schema)));
    }
    let steps = schema::steps_to(header.version).ok_or_else(|| {
        bad(format!("its schema is version {}, which a newer program made", header.version))
    })?;
    let rows = match place.file() {
        Some(file) => into_file(file, steps, &mut lines, over).await?,
        None => into_place(place, steps, &mut lines, over).await?,
    };
    Ok((header, rows))
}

/// Whether there is a registry.
pub(super) async fn exists(place: &Place) -> Result<bool, RegistryError> {
    if let Some(file) = place.file() {
        return Ok(file.exists());
    }
    let mut connection = begin_writing(place).await?;
    let there = is_there(&mut connection, place.kind()).await?;
    connection.close().await?;
    Ok(there)
}

type Input = Lines<BufReader<File>>;

/// A file is made beside its place and moved there when it is whole: what is there may be damaged.
async fn into_file(file: &Path, steps: usize, lines: &mut Input, over: bool) -> Result<u64, RegistryError> {
    let occupied = file.exists();
    if occupied && !over {
        return Err(RegistryError::Occupied(file.display().to_string()));
    }
    let before = if occupied { epoch_of(file).await } else { 0 };
    let new = Place::file_at(file.with_extension("restoring"));
    let beside = |path: &Path, end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let staged = file.with_extension("restoring");
    for end in ["", "-wal", "-shm"] {
        remove(&beside(&staged, end))?;
    }
    let rows = into_place(&new, steps, lines, false).await.inspect_err(|_| {
        for end in ["", "-wal", "-shm"] {
            let _ = remove(&beside(&staged, end));
        }
    })?;
    let mut connection = begin_writing(&new).await?;
    raise(&mut connection, before).await?;
    connection.close().await?;
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o600))?;
    // The old one's log must not be read into the new one.
    for end in ["-wal", "-shm"] {
        remove(&beside(file, end))?;
    }
    fs::rename(&staged, file)?;
    if let Some(dir) = file.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(rows)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The epoch of a registry that is to be replaced; of one that cannot be read, none.
async fn epoch_of(file: &Path) -> i64 {
    let read = async {
        let mut connection = begin_writing(&Place::file_at(file.to_owned())).await?;
        let epoch = epoch(&mut connection).await?;
        connection.close().await?;
        Ok::<_, RegistryError>(epoch)
    };
    read.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the registry that is replaced cannot be read");
        0
    })
}

/// One transaction: what was there goes, what is in the file comes.
async fn into_place(
    place: &Place,
    steps: usize,
    lines: &mut Input,
    over: bool,
) -> Result<u64, RegistryError> {
    let kind = place.kind();
    let mut connection = begin_writing(place).await?;
    let occupied = is_there(&mut connection, kind).await?;
    if occupied && !over {
        return Err(RegistryError::Occupied(place.to_string()));
    }
    let before = if occupied { epoch(&mut connection).await? } else { 0 };
    let mut tx = connection.begin().await?;
    if occupied {
        clear(&mut tx, kind).await?;
    }
    schema::migrate_to(&mut tx, kind, steps).await?;
    let tables = schema::tables(&mut tx, kind).await?;
    for table in tables.iter().rev() {
        sqlx::raw_sql(AssertSqlSafe(format!("DELETE FROM \"{}\"", table.name))).execute(&mut *tx).await?;
    }
    let resting = rest(&mut tx, kind, &tables).await?;
    let rows = fill(&mut tx, &tables, lines).await?;
    for trigger in resting {
        sqlx::raw_sql(AssertSqlSafe(trigger)).execute(&mut *tx).await?;
    }
    raise(&mut tx, before).await?;
    if kind == Kind::Postgres {
        count_on(&mut tx).await?;
    }
    tx.commit().await?;
    connection.close().await?;
    Ok(rows)
}

/// Has triggers rest: what they keep up to date is in the file as it was. Returns the statements that have
/// them work again.
async fn rest(tx: &mut Connection, kind: Kind, tables: &[Table]) -> Result<Vec<String>, RegistryError> {
    if kind == Kind::Postgres {
        for table in tables {
            let sql = format!("ALTER TABLE \"{}\" DISABLE TRIGGER USER", table.name);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
        }
        let enable = |table: &Table| format!("ALTER TABLE \"{}\" ENABLE TRIGGER USER", table.name);
        return Ok(tables.iter().map(enable).collect());
    }
    let triggers: Vec<(String, String)> =
        sqlx::query_as("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
            .fetch_all(&mut *tx)
            .await?;
    for (name, _) in &triggers {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP TRIGGER \"{name}\""))).execute(&mut *tx).await?;
    }
    Ok(triggers.into_iter().map(|(_, sql)| sql).collect())
}

/// Tokens of the registry that is replaced are of an earlier epoch too.
async fn raise(connection: &mut Connection, epoch: i64) -> Result<(), RegistryError> {
    sqlx::query("UPDATE registry SET continuity_epoch = $1 WHERE one = 1 AND continuity_epoch < $1")
        .bind(epoch)
        .execute(connection)
        .await?;
    Ok(())
}

fn next(lines: &mut Input) -> Result<Option<Value>, RegistryError> {
    let Some(line) = lines.next() else { return Ok(None) };
    serde_json::from_str(&line?).map(Some).map_err(|error| bad(error.to_string()))
}

/// Whether there is a registry already.
async fn is_there(connection: &mut Connection, kind: Kind) -> Result<bool, RegistryError> {
    let tables = schema::tables(connection, kind).await?;
    Ok(tables.iter().any(|table| table.name == "registry"))
}

async fn epoch(connection: &mut Connection) -> Result<i64, RegistryError> {
    let found: Option<(i64,)> = sqlx::query_as("SELECT continuity_epoch FROM registry WHERE one = 1")
        .fetch_optional(connection)
        .await?;
    Ok(found.map_or(0, |(epoch,)| epoch))
}

/// Takes away every table of ours, and the list of migrations.
async fn clear(tx: &mut Connection, kind: Kind) -> Result<(), RegistryError> {
    let tables = schema::tables(tx, kind).await?;
    for name in tables.iter().rev().map(|table| table.name.as_str()).chain(["_sqlx_migrations"]) {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE \"{name}\""))).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Reads tables and rows up to the last line, which must count them.
async fn fill(tx: &mut Connection, tables: &[Table], lines: &mut Input) -> Result<u64, RegistryError> {
    let mut into: Option<(String, Vec<Holds>)> = None;
    let mut waiting: Vec<Vec<Value>> = Vec::new();
    let mut rows = 0;
    while let Some(line) = next(lines)? {
        match line {
            Value::Array(row) => {
                let (insert, holds) = into.as_ref().ok_or_else(|| bad("a row comes before its table"))?;
                if row.len() != holds.len() {
                    return Err(bad(format!(
                        "row {} has {} values, not {}",
                        rows + 1,
                        row.len(),
                        holds.len()
                    )));
                }
                rows += 1;
                waiting.push(row);
                if (waiting.len() + 1) * holds.len() > VALUES {
                    put(tx, insert, holds, &mut waiting).await?;
                }
            }
            Value::Object(object) => {
                if let Some((insert, holds)) = &into {
                    put(tx, insert, holds, &mut waiting).await?;
                }
                if let Some(counted) = object.get("rows") {
                    return match counted.as_u64() {
                        Some(counted) if counted == rows => Ok(rows),
                        _ => Err(bad(format!("it counts {counted} rows and has {rows}"))),
                    };
                }
                into = Some(table(tables, &Value::Object(object))?);
            }
            other => return Err(bad(format!("{other} is neither a table nor a row"))),
        }
    }
    Err(bad(format!("it was cut short after {rows} rows")))
}

/// How rows of a table are put in: the statement's beginning, and what each value is.
fn table(tables: &[Table], line: &Value) -> Result<(String, Vec<Holds>), RegistryError> {
    let name = line["table"].as_str().unwrap_or_default();
    let table = tables.iter().find(|table| table.name == name);
    let table = table.ok_or_else(|| bad(format!("there is no table {name:?}")))?;
    let columns = line["columns"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut names = Vec::with_capacity(columns.len());
    let mut holds = Vec::with_capacity(columns.len());
    for column in columns {
        let found = table.columns.iter().find(|(name, _)| Some(name.as_str()) == column.as_str());
        let (name, kind) = found.ok_or_else(|| bad(format!("table {name} has no column {column}")))?;
        names.push(format!("\"{name}\""));
        holds.push(*kind);
    }
    if names.is_empty() {
        return Err(bad(format!("table {name} has no columns")));
    }
    Ok((format!("INSERT INTO \"{}\" ({}) ", table.name, names.join(", ")), holds))
}

async fn put(
    tx: &mut Connection,
    insert: &str,
    holds: &[Holds],
    waiting: &mut Vec<Vec<Value>>,
) -> Result<(), RegistryError> {
    if waiting.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::new(insert);
    let mut wrong = None;
    query.push_values(waiting.drain(..), |mut values, row| {
        for (value, holds) in row.into_iter().zip(holds) {
            match (holds, &value) {
                (Holds::Integer, Value::Null) => drop(values.push_bind(None::<i64>)),
                (Holds::Real, Value::Null) => drop(values.push_bind(None::<f64>)),
                (Holds::Text, Value::Null) => drop(values.push_bind(None::<String>)),
                (Holds::Octets, Value::Null) => drop(values.push_bind(None::<Vec<u8>>)),
                (Holds::Integer, Value::Number(number)) if number.is_i64() => {
                    values.push_bind(number.as_i64());
                }
                (Holds::Real, Value::Number(number)) => drop(values.push_bind(number.as_f64())),
                (Holds::Text, Value::String(text)) => drop(values.push_bind(text.clone())),
                (Holds::Octets, Value::Object(object)) => {
                    let text = object.get("octets").and_then(Value::as_str).unwrap_or("?");
                    let octets = STANDARD.decode(text);
                    wrong = wrong.take().or(octets.is_err().then(|| text.to_owned()));
                    values.push_bind(octets.unwrap_or_default());
                }
                (holds, value) => {
                    wrong = wrong.take().or(Some(format!("{value} is not {holds:?}")));
                    values.push_bind(None::<i64>);
                }
            }
        }
    });
    if let Some(wrong) = wrong {
        return Err(bad(wrong));
    }
    query.build().persistent(false).execute(tx).await?;
    Ok(())
}

/// Rows were given their numbers: the next ones follow them.
async fn count_on(tx: &mut Connection) -> Result<(), RegistryError> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns
         WHERE table_schema = current_schema() AND is_identity = 'YES'",
    )
    .fetch_all(&mut *tx)
    .await?;
    for (table, column) in columns {
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', '{column}'),
                    coalesce((SELECT max({column}) FROM {table}), 0) + 1, false)"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
    }
    Ok(())
}
