//! How long facts are kept: sessions, refusals and notices that are old go, a few at a time, so that a decision waits
//! milliseconds for it. The newest session of a device stays whatever its age: it says how it was last seen.
//! Decisions are kept for ever.

use sqlx::AssertSqlSafe;

use super::{Inner, Registry, RegistryError, database::int};

/// Rows of one transaction.
const ROWS: i64 = 500;

/// Before when facts go, Unix milliseconds; 0 keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before {
    /// Sessions that ended before.
    pub sessions_ms: u64,
    /// Refusals and notices of minutes before.
    pub refusals_ms: u64,
}

/// How many went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Sessions.
    pub sessions: u64,
    /// Refusals and notices, a kind and minute each.
    pub refusals: u64,
}

impl Registry {
    /// Removes the facts of before.
    ///
    /// # Errors
    /// [`RegistryError`]; what has gone by then has gone.
    pub async fn forget_facts(&self, before: Before) -> Result<Forgotten, RegistryError> {
        self.run(|inner| async move {
            Ok(Forgotten {
                sessions: sessions(&inner, before.sessions_ms).await?,
                refusals: minutes(&inner, "refusal", before.refusals_ms).await?
                    + minutes(&inner, "notice", before.refusals_ms).await?,
            })
        })
        .await
    }
}

async fn sessions(inner: &Inner, before_ms: u64) -> Result<u64, RegistryError> {
    let (mut gone, mut after) = (0, 0);
    loop {
        // In the order they began, so that those that stay are not looked at again.
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT s.id, CASE WHEN s.ended_at_ms < $1
                AND s.id <> (SELECT max(n.id) FROM session n WHERE n.device = s.device) THEN 1 ELSE 0 END
             FROM session s WHERE s.id > $2 AND s.began_at_ms < $1 ORDER BY s.id LIMIT $3",
        )
        .bind(int(before_ms))
        .bind(after)
        .bind(ROWS)
        .fetch_all(inner.database.readers())
        .await?;
        let Some((last, _)) = rows.last() else { return Ok(gone) };
        after = *last;
        let old: Vec<i64> = rows.iter().filter(|(_, old)| *old == 1).map(|(id, _)| *id).collect();
        if old.is_empty() {
            continue;
        }
        let mut query = super::database::QueryBuilder::new("DELETE FROM session WHERE id IN (");
        let mut list = query.separated(", ");
        for id in old {
            list.push_bind(id);
        }
        query.push(")");
        let mut writer = inner.writer().await?;
        let mut tx = writer.begin().await?;
        gone += query.build().persistent(false).execute(&mut *tx).await?.rows_affected();
        inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    }
}

/// Rows of a table that counts by the minute.
async fn minutes(inner: &Inner, table: &'static str, before_ms: u64) -> Result<u64, RegistryError> {
    let mut gone = 0;
    loop {
        let mut writer = inner.writer().await?;
        let mut tx = writer.begin().await?;
        // Whole minutes, as many as hold about so many rows.
        let upto: Option<(Option<i64>,)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT max(minute_ms) FROM (SELECT minute_ms FROM {table} WHERE minute_ms < $1
                 ORDER BY minute_ms LIMIT $2) AS oldest"
        )))
        .bind(int(before_ms))
        .bind(ROWS)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((Some(upto),)) = upto else { return Ok(gone) };
        let delete = AssertSqlSafe(format!("DELETE FROM {table} WHERE minute_ms <= $1"));
        let done = sqlx::query(delete).bind(upto).execute(&mut *tx).await?;
        gone += done.rows_affected();
        inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    }
}

/// When this was, so many days before now; 0 days keep all.
#[must_use]
pub fn before_ms(now_ms: u64, days: u64) -> u64 {
    if days == 0 { 0 } else { now_ms.saturating_sub(days * 24 * 60 * 60 * 1000) }
}

impl Forgotten {
    /// Whether anything went.
    #[must_use]
    pub fn any(self) -> bool {
        self.sessions + self.refusals > 0
    }
}
