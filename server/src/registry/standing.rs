//! What time alone changes of how devices stand: refusals that are a day old, certificates that end soon.
//!
//! Everything else of it is kept by triggers of the database, in the transaction that changed it.

use std::{collections::HashMap, sync::Weak, time::Duration};

use muster_pki::profile::NO_END_S;
use tokio::sync::watch;

use super::{
    Inner, Registry,
    database::{QueryBuilder, int},
    error::RegistryError,
    filter::Version,
    now_ms,
    verdict::DeviceKey,
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// How long before its end a certificate needs somebody.
const SOON_S: i64 = 30 * 24 * 60 * 60;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Devices of one transaction: a decision waits a few milliseconds for it.
const ROWS: i64 = 500;

/// Looks from time to time until the registry closes. Holds the registry only while it works.
pub(super) async fn run(mut closing: watch::Receiver<bool>, inner: Weak<Inner>) {
    let mut swept = Swept::default();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let now = Swept::at(now_ms());
        match sweep(&inner, &swept, &now).await {
            Ok(()) => swept = now,
            Err(RegistryError::Closed) => return,
            Err(error) => tracing::error!(%error, "how devices stand is not up to date; trying again"),
        }
        drop(inner);
        let closed = tokio::time::timeout(LOOK, closing.wait_for(|closing| *closing)).await;
        if closed.is_ok() {
            return;
        }
    }
}

/// How far it has come; at first nowhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Swept {
    /// Refusals of minutes before this were taken away, Unix milliseconds.
    refused_ms: u64,
    /// Ends before this were marked, Unix seconds.
    ends_s: i64,
}

impl Swept {
    /// How far it is to come at this time.
    pub(super) fn at(now_ms: u64) -> Self {
        Self {
            refused_ms: now_ms.saturating_sub(DAY_MS),
            ends_s: int(now_ms / 1000).saturating_add(SOON_S).min(NO_END_S),
        }
    }
}

/// Does what is due from one time to another.
pub(super) async fn sweep(inner: &Inner, from: &Swept, to: &Swept) -> Result<(), RegistryError> {
    refusals(inner, from.refused_ms, to.refused_ms).await?;
    // A second of overlap: what ends at the border is looked at twice and marked once.
    ends_soon(inner, from.ends_s - 1, to.ends_s).await
}

/// Takes away refusals from `from_ms` up to `before_ms`.
async fn refusals(inner: &Inner, from_ms: u64, before_ms: u64) -> Result<(), RegistryError> {
    let mut query = QueryBuilder::new(format!(
        "SELECT device.id FROM device{} WHERE device.refused > 0 AND EXISTS (SELECT 1 FROM refusal
         WHERE refusal.device = device.id AND refusal.minute_ms >= ",
        inner.database.by("device_refused")
    ));
    query.push_bind(int(from_ms)).push(" AND refusal.minute_ms < ").push_bind(int(before_ms)).push(")");
    let found: Vec<(i64,)> = query.build_query_as().fetch_all(inner.database.readers()).await?;
    for found in found.chunks(ROWS as usize) {
        let mut query = QueryBuilder::new(
            "UPDATE device SET refused = (SELECT coalesce(CAST(sum(refusal.count) AS BIGINT), 0) FROM refusal
             WHERE refusal.device = device.id AND refusal.minute_ms >= ",
        );
        query.push_bind(int(before_ms)).push(") WHERE id IN (");
        let mut list = query.separated(", ");
        for (id,) in found {
            list.push_bind(*id);
        }
        query.push(")");
        write(inner, query).await?;
    }
    Ok(())
}

/// Marks the certificates whose end came near since `from_s`: Unix seconds up to where ends were marked.
async fn ends_soon(inner: &Inner, from_s: i64, until_s: i64) -> Result<(), RegistryError> {
    let mut after = (from_s.max(1), 0);
    loop {
        let found: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT expires_s, id FROM device WHERE (expires_s, id) > ($1, $2) AND expires_s < $3
             ORDER BY expires_s, id LIMIT $4",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(until_s)
        .bind(ROWS)
        .fetch_all(inner.database.readers())
        .await?;
        let Some(last) = found.last() else { return Ok(()) };
        after = *last;
        let mut query = QueryBuilder::new("UPDATE device SET ends_soon = 1 WHERE ends_soon = 0 AND id IN (");
        let mut list = query.separated(", ");
        for (_, id) in &found {
            list.push_bind(*id);
        }
        query.push(")");
        write(inner, query).await?;
    }
}

async fn write(inner: &Inner, mut query: QueryBuilder) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    query.build().execute(&mut *tx).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}

impl Registry {
    /// Takes what devices reported to run. Unaudited.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn report_firmware(&self, versions: HashMap<DeviceKey, Version>) -> Result<(), RegistryError> {
        self.run(|inner| async move { report_firmware(&inner, &versions).await }).await
    }
}

/// What devices reported to run. The same again changes nothing.
async fn report_firmware(inner: &Inner, versions: &HashMap<DeviceKey, Version>) -> Result<(), RegistryError> {
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let at_ms = now_ms();
    for (device, version) in versions {
        sqlx::query(
            "INSERT INTO firmware_change (device, at_ms, version, was)
             SELECT id, CAST($1 AS BIGINT), CAST($2 AS TEXT), firmware FROM device
             WHERE id = $3 AND firmware <> $2 AND state <> 'decommissioned'
             ON CONFLICT (device, at_ms) DO NOTHING",
        )
        .bind(int(at_ms))
        .bind(version.as_str())
        .bind(inner.verdicts.row(*device))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "UPDATE device SET firmware = $1, firmware_key = $2
             WHERE id = $3 AND firmware <> $1 AND state <> 'decommissioned'",
        )
        .bind(version.as_str())
        .bind(version.key())
        .bind(inner.verdicts.row(*device))
        .execute(&mut *tx)
        .await?;
    }
    inner.commit(tx).await.inspect_err(|_| writer.fail())
}
