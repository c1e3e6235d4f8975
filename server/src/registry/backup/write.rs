//! From the database into lines.

use std::{os::unix::fs::OpenOptionsExt as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::{
    fs::File,
    io::{AsyncWriteExt as _, BufWriter},
};

use super::{Header, SCHEMA};
use crate::registry::{
    Place, RegistryError, audit,
    database::{
        Connection, Pool, Row,
        schema::{self, Holds, Table},
    },
    now_ms,
};

/// Octets written at once.
const BUFFER: usize = 1 << 20;

/// Writes everything to a new file that its owner alone may read, and waits until it is on disk.
pub(super) async fn write(place: &Place, readers: &Pool, to: &Path) -> Result<(Header, u64), RegistryError> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut out = BufWriter::with_capacity(BUFFER, File::from_std(file));
    let mut connection = readers.acquire().await?;
    // One state of the registry, for as long as this takes.
    let mut snapshot = connection.begin().await?;
    let head = audit::head(&mut snapshot).await?;
    let header = Header {
        schema: SCHEMA.to_owned(),
        version: schema::version(&mut snapshot).await?,
        at_ms: now_ms(),
        audit_no: head.no,
        audit_digest: hex::encode(head.digest),
    };
    line(&mut out, &json!(header)).await?;
    let mut rows = 0;
    for table in schema::tables(&mut snapshot, place.kind()).await? {
        rows += write_table(&mut snapshot, &table, &mut out).await?;
    }
    line(&mut out, &json!({ "rows": rows })).await?;
    out.flush().await?;
    out.into_inner().sync_all().await?;
    Ok((header, rows))
}

async fn write_table(
    snapshot: &mut Connection,
    table: &Table,
    out: &mut BufWriter<File>,
) -> Result<u64, RegistryError> {
    let names: Vec<_> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
    line(out, &json!({ "table": table.name, "columns": names })).await?;
    let columns: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    // Names come from the database's own list of them.
    let sql = format!("SELECT {} FROM \"{}\"", columns.join(", "), table.name);
    let mut rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(snapshot);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        let values: Result<Vec<_>, _> =
            table.columns.iter().enumerate().map(|(at, (_, holds))| value(&row, at, *holds)).collect();
        line(out, &Value::Array(values?)).await?;
        count += 1;
    }
    Ok(count)
}

fn value(row: &Row, at: usize, holds: Holds) -> Result<Value, RegistryError> {
    Ok(match holds {
        Holds::Integer => row.try_get::<Option<i64>, _>(at)?.into(),
        Holds::Real => row.try_get::<Option<f64>, _>(at)?.into(),
        Holds::Text => row.try_get::<Option<String>, _>(at)?.into(),
        Holds::Octets => match row.try_get::<Option<&[u8]>, _>(at)? {
            Some(octets) => json!({ "octets": STANDARD.encode(octets) }),
            None => Value::Null,
        },
    })
}

async fn line(out: &mut BufWriter<File>, value: &Value) -> Result<(), RegistryError> {
    let mut text = value.to_string();
    text.push('\n');
    out.write_all(text.as_bytes()).await?;
    Ok(())
}
