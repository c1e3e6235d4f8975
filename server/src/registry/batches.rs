//! Batches: what stations made, or what a list or a first connection brought.

use muster_shared::{BatchId, StationId, Tenant};
use sqlx::Row as _;

use super::{
    Inner, Page, RegistryError, Scope,
    database::{QueryBuilder, Row, digest, int, parse, uint},
    group::KeyId,
    held,
};

pub mod reconcile;

/// A batch in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRow {
    /// Its name.
    pub batch: BatchId,
    /// Whose devices they are.
    pub tenant: Tenant,
    /// Where they were made.
    pub station: StationId,
    /// What was made.
    pub product: String,
    /// Devices its manifests name; `None` where there is none.
    pub made: Option<u64>,
    /// Devices of it in the registry.
    pub devices: u64,
    /// Of those, active, and held by nothing that was decided about their batch, station, tenant or CA.
    pub active: u64,
    /// When it was begun, Unix milliseconds.
    pub opened_at_ms: u64,
    /// When the station closed it, Unix milliseconds; of one without a manifest, when it was begun here.
    pub closed_at_ms: u64,
    /// Its newest manifest; none where only lists or first connections have brought devices.
    pub manifest: Option<NewestManifest>,
}

/// The newest manifest of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewestManifest {
    /// Its place in its station's chain.
    pub sequence: u64,
    /// Its SHA-256.
    pub digest: [u8; 32],
    /// When it was imported, Unix milliseconds.
    pub imported_at_ms: u64,
    /// By whom.
    pub imported_by: String,
}

/// The statement of a page of batches.
fn page_query(scope: &Scope, after: u64, limit: usize, cas: &[KeyId]) -> QueryBuilder {
    let mut query = QueryBuilder::new(
        "SELECT batch.id, batch.name, station.tenant, station.name AS station, batch.product,
        batch.opened_at_ms, batch.closed_at_ms, manifest.sequence, manifest.digest, manifest.imported_at_ms, manifest.imported_by,
        (SELECT CAST(sum(m.devices) AS BIGINT) FROM manifest m WHERE m.batch = batch.id) AS made,
        (SELECT coalesce(CAST(sum(tally.devices) AS BIGINT), 0) FROM tally WHERE tally.batch = batch.id) AS devices, ",
    );
    if cas.is_empty() {
        query.push(
            "(SELECT coalesce(CAST(sum(tally.devices) AS BIGINT), 0) FROM tally WHERE tally.batch = batch.id
             AND tally.state = 'active' AND batch.held = '')",
        );
    } else {
        // The tally does not know whose certificate a withdrawn CA has issued.
        query.push(
            "(SELECT count(*) FROM device WHERE device.batch = batch.id AND device.state = 'active' AND ",
        );
        held::in_force(&mut query, "batch.held", cas);
        query.push(" = 'active')");
    }
    query.push(
        " AS active FROM batch
        JOIN station ON station.id = batch.station
        LEFT JOIN manifest ON manifest.id = (SELECT max(m.id) FROM manifest m WHERE m.batch = batch.id)
        WHERE batch.id > ",
    );
    query.push_bind(int(after));
    if let Some(tenant) = scope.tenant() {
        query.push(" AND station.tenant = ").push_bind(tenant.as_str().to_owned());
    }
    query.push(" ORDER BY batch.id LIMIT ").push_bind(int(limit as u64));
    query
}

/// Batches in the order they came, after the cursor.
pub(super) async fn list(
    inner: &Inner,
    scope: &Scope,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<BatchRow>, RegistryError> {
    let after = after
        .map_or(Ok(0), str::parse::<u64>)
        .map_err(|error| RegistryError::Value { what: "after", why: error.to_string() })?;
    let limit = limit.max(1) as usize;
    let mut connection = inner.database.readers().acquire().await?;
    let (total,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM batch JOIN station ON station.id = batch.station WHERE ($1 = '' OR station.tenant = $1)",
    )
    .bind(scope.to_sql())
    .fetch_one(&mut *connection)
    .await?;
    let cas = inner.verdicts.holding().cas;
    let mut query = page_query(scope, after, limit + 1, &cas);
    let rows = query.build().fetch_all(&mut *connection).await?;
    let mut items = Vec::with_capacity(rows.len().min(limit));
    let mut last = 0;
    for row in rows.iter().take(limit) {
        let number = |column: &str| row.try_get::<i64, _>(column).map(uint);
        last = number("id")?;
        items.push(BatchRow {
            batch: parse(row.try_get("name")?, "a batch's name")?,
            tenant: parse(row.try_get("tenant")?, "a station's tenant")?,
            station: parse(row.try_get("station")?, "a station's name")?,
            product: row.try_get("product")?,
            made: row.try_get::<Option<i64>, _>("made")?.map(uint),
            devices: number("devices")?,
            active: number("active")?,
            opened_at_ms: number("opened_at_ms")?,
            closed_at_ms: number("closed_at_ms")?,
            manifest: manifest(row)?,
        });
    }
    let next = (rows.len() > limit).then(|| last.to_string());
    Ok(Page { items, next, total: uint(total), exact: true })
}

fn manifest(row: &Row) -> Result<Option<NewestManifest>, RegistryError> {
    let Some(of) = row.try_get::<Option<&[u8]>, _>("digest")? else { return Ok(None) };
    Ok(Some(NewestManifest {
        sequence: uint(row.try_get("sequence")?),
        digest: digest(of, "a manifest's digest")?,
        imported_at_ms: uint(row.try_get("imported_at_ms")?),
        imported_by: row.try_get("imported_by")?,
    }))
}
