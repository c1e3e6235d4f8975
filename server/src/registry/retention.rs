//! How long facts are kept: sessions, refusals and notices that are old go, a few at a time, so that a decision waits
//! milliseconds for it. The newest session of a device stays whatever its age: it says how it was last seen.
//! Decisions are kept for ever.
//!
//! How long is a decision too: made by an operator, on the record, in force on every node at its next look. What a
//! node's own configuration says counts more there, which is the configuration's to know.

use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{
    Actor, Inner, Reason, Registry, RegistryError,
    audit::{self, Entry},
    changes::What,
    database::{int, parse, uint},
    now_ms,
    session::words,
};

words!(
    /// A period that can be decided about, by its key in a configuration.
    Period, "period", {
        /// Messages of devices, and the readings in them, days.
        UplinkDays = "retention.uplink_days",
        /// The same by their size on disk, MiB.
        UplinkMib = "retention.uplink_mib",
        /// Sessions that ended, days.
        SessionsDays = "retention.sessions_days",
        /// Refusals, notices and changes of firmware, days.
        RefusalsDays = "retention.refusals_days",
    }
);

impl Period {
    /// The most it may be: a hundred years, or a pebibyte.
    #[must_use]
    pub const fn most(self) -> u64 {
        match self {
            Self::UplinkMib => 1 << 30,
            Self::UplinkDays | Self::SessionsDays | Self::RefusalsDays => 36_500,
        }
    }
}

/// Every period; 0 is without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// Messages of devices, and the readings in them, days.
    pub uplink_days: u64,
    /// The same by their size on disk, MiB.
    pub uplink_mib: u64,
    /// Sessions that ended, days.
    pub sessions_days: u64,
    /// Refusals and notices, days.
    pub refusals_days: u64,
}

impl Periods {
    /// With another value for one of them.
    #[must_use]
    pub fn with(mut self, period: Period, value: u64) -> Self {
        match period {
            Period::UplinkDays => self.uplink_days = value,
            Period::UplinkMib => self.uplink_mib = value,
            Period::SessionsDays => self.sessions_days = value,
            Period::RefusalsDays => self.refusals_days = value,
        }
        self
    }
}

/// What somebody has decided about a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Which.
    pub period: Period,
    /// How long, in its own unit; 0 is without end.
    pub value: u64,
    /// Who.
    pub by: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// Rows of one transaction.
const ROWS: i64 = 500;

/// Before when facts go, Unix milliseconds; 0 keeps all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before {
    /// Sessions that ended before.
    pub sessions_ms: u64,
    /// Refusals and notices of minutes before, and changes of firmware.
    pub refusals_ms: u64,
}

/// How many went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Sessions.
    pub sessions: u64,
    /// Refusals and notices, a kind and minute each; changes of firmware.
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
                refusals: older(&inner, "refusal", "minute_ms", before.refusals_ms).await?
                    + older(&inner, "notice", "minute_ms", before.refusals_ms).await?
                    + older(&inner, "firmware_change", "at_ms", before.refusals_ms).await?,
            })
        })
        .await
    }
}

impl Registry {
    /// What was decided about how long is kept.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn periods(&self) -> Result<Vec<Decided>, RegistryError> {
        let rows: Vec<(String, i64, String, i64)> =
            sqlx::query_as("SELECT period, value, author, at_ms FROM keep_for ORDER BY period")
                .fetch_all(self.inner.database.readers())
                .await?;
        rows.into_iter()
            .map(|(period, value, by, at_ms)| {
                let period = parse(&period, "a period")?;
                Ok(Decided { period, value: uint(value), by, at_ms: uint(at_ms) })
            })
            .collect()
    }

    /// Decides how long something is kept from now on. Returns the number of the audit row.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Value`] for more than [`Period::most`].
    pub async fn keep_for(
        &self,
        actor: &Actor,
        period: Period,
        value: u64,
        reason: &str,
    ) -> Result<u64, RegistryError> {
        if value > period.most() {
            let why = format!("{value} is more than {}", period.most());
            return Err(RegistryError::Value { what: period.as_str(), why });
        }
        let (actor, reason) = (actor.clone(), Reason::new(reason));
        reason.check_text()?;
        self.run(|inner| async move { keep_for(&inner, &actor, period, value, reason.text.trim()).await })
            .await
    }
}

async fn keep_for(
    inner: &Inner,
    actor: &Actor,
    period: Period,
    value: u64,
    reason: &str,
) -> Result<u64, RegistryError> {
    let at_ms = now_ms();
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let before: Option<(i64,)> = sqlx::query_as("SELECT value FROM keep_for WHERE period = $1")
        .bind(period.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO keep_for (period, value, author, at_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (period) DO UPDATE
         SET value = excluded.value, author = excluded.author, at_ms = excluded.at_ms",
    )
    .bind(period.as_str())
    .bind(int(value))
    .bind(&actor.name)
    .bind(int(at_ms))
    .execute(&mut *tx)
    .await?;
    let entry = Entry {
        actor,
        tenant: None,
        action: "retention.set",
        target: period.as_str(),
        reason,
        detail: json!({ "value": value, "before": before.map(|(before,)| uint(before)) }),
    };
    let stamp = audit::append(&mut tx, entry, at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Retention);
    Ok(stamp.no)
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

/// Rows of a table by the column that says when.
async fn older(
    inner: &Inner,
    table: &'static str,
    at: &'static str,
    before_ms: u64,
) -> Result<u64, RegistryError> {
    let mut gone = 0;
    loop {
        let mut writer = inner.writer().await?;
        let mut tx = writer.begin().await?;
        // Whole instants, or minutes, as many as hold about so many rows.
        let upto: Option<(Option<i64>,)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT max({at}) FROM (SELECT {at} FROM {table} WHERE {at} < $1 ORDER BY {at} LIMIT $2) AS oldest"
        )))
        .bind(int(before_ms))
        .bind(ROWS)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((Some(upto),)) = upto else { return Ok(gone) };
        let delete = AssertSqlSafe(format!("DELETE FROM {table} WHERE {at} <= $1"));
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
