//! The fleet in a dozen figures: what a first look needs, by sums over indexed columns.

use muster_shared::{Code, Tenant};

use super::{
    Inner, Registry,
    database::{Connection, QueryBuilder, int, parse, uint},
    device::DeviceState,
    error::RegistryError,
    filter::Is,
    group::KeyId,
    held, listing, now_ms,
};

/// The figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// The time they are about: a day, Unix milliseconds.
    pub from_ms: u64,
    /// Its end: now.
    pub to_ms: u64,
    /// Devices in each state there is one in: the state in force.
    pub states: Vec<(DeviceState, u64)>,
    /// When the newest of the quarantined came to it.
    pub quarantined_ms: Option<u64>,
    /// Sessions that began and that ended, by the beginning of a bucket of [`BUCKET_MS`].
    pub sessions: Vec<SessionsIn>,
    /// Refusals by code and by hour.
    pub refusals: Vec<RefusalsIn>,
    /// Refusals of devices the registry has, by their state.
    pub refused: Vec<RefusedIn>,
    /// Refusals of those it has not.
    pub strangers: u64,
    /// Certificates in use that end within thirty days.
    pub ending_30d: u64,
    /// Certificates in use that end within thirteen months, by the first second of the day.
    pub ends: Vec<(i64, u64)>,
}

/// Sessions of one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionsIn {
    /// Its beginning, Unix milliseconds.
    pub at_ms: u64,
    /// Sessions that began in it.
    pub began: u64,
    /// Sessions that ended in it.
    pub ended: u64,
}

/// Refusals of one code in one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalsIn {
    /// The hour's beginning, Unix milliseconds.
    pub at_ms: u64,
    /// Why.
    pub code: Code,
    /// How many.
    pub count: u64,
}

/// Refusals of the devices in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedIn {
    /// Their state now.
    pub state: DeviceState,
    /// How many devices.
    pub devices: u64,
    /// How many refusals.
    pub refusals: u64,
    /// The newest, Unix milliseconds.
    pub last_at_ms: u64,
}

/// Length of a bucket: 96 in a day.
pub const BUCKET_MS: u64 = 15 * 60 * 1000;
const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const DAY_S: i64 = 24 * 60 * 60;
const SOON_S: i64 = 30 * DAY_S;
const ENDS_S: i64 = 400 * DAY_S;

/// A condition on the device's tenant; `$1` is always bound to it.
fn of_tenant(tenant: Option<&Tenant>) -> &'static str {
    // The unused form mentions the parameter too: both databases want every one that is bound.
    if tenant.is_some() { "device.tenant = $1" } else { "$1 = ''" }
}

impl Registry {
    /// The fleet in a dozen figures.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn overview(&self, tenant: Option<&Tenant>) -> Result<Overview, RegistryError> {
        read(&self.inner, tenant).await
    }
}

async fn read(inner: &Inner, tenant: Option<&Tenant>) -> Result<Overview, RegistryError> {
    let to_ms = now_ms();
    let from_ms = (to_ms.saturating_sub(DAY_MS) / BUCKET_MS) * BUCKET_MS;
    let mut connection = inner.database.readers().acquire().await?;
    let of = Of { tenant, from_ms: int(from_ms), cas: inner.verdicts.holding().cas };
    let now_s = int(to_ms) / 1000;
    let ends = of.ends(&mut connection, now_s).await?;
    let states = listing::by_state(inner, &mut connection, tenant.cloned().map(Is::Tenant)).await?;
    let quarantined = states.iter().any(|(state, n)| *state == DeviceState::Quarantined && *n > 0);
    let soon = ends.iter().filter(|(day_s, _)| *day_s < now_s + SOON_S);
    Ok(Overview {
        from_ms,
        to_ms,
        quarantined_ms: if quarantined { of.quarantined(&mut connection).await? } else { None },
        states,
        sessions: of.sessions(&mut connection).await?,
        refusals: of.refusals(&mut connection).await?,
        refused: of.refused(&mut connection).await?,
        strangers: of.strangers(&mut connection).await?,
        ending_30d: soon.map(|(_, n)| n).sum(),
        ends,
    })
}

struct Of<'a> {
    tenant: Option<&'a Tenant>,
    from_ms: i64,
    /// The withdrawn CAs.
    cas: Vec<KeyId>,
}

impl Of<'_> {
    fn name(&self) -> String {
        self.tenant.map(Tenant::to_string).unwrap_or_default()
    }

    /// By a decision of its own, or by one about a group that some batch is in.
    async fn quarantined(&self, c: &mut Connection) -> Result<Option<u64>, RegistryError> {
        let of_tenant = of_tenant(self.tenant);
        let own = format!("SELECT max(changed_at_ms) FROM device WHERE state = $2 AND {of_tenant}");
        let station = of_tenant.replace("device.", "device_at.");
        let group = format!(
            "SELECT max(rule.decided_at_ms) FROM rule WHERE rule.lifted IS NULL AND rule.state = $2
             AND EXISTS (SELECT 1 FROM batch JOIN station AS device_at ON device_at.id = batch.station
                WHERE batch.held = $2 AND {station}
                AND ((rule.kind = 'batch' AND rule.value = device_at.name || '/' || batch.name)
                    OR (rule.kind = 'station' AND rule.value = device_at.name)
                    OR (rule.kind = 'tenant' AND rule.value = device_at.tenant)))"
        );
        let mut newest = None;
        for sql in [own, group] {
            let (at_ms,): (Option<i64>,) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
                .bind(self.name())
                .bind(DeviceState::Quarantined.as_str())
                .fetch_one(&mut *c)
                .await?;
            newest = newest.max(at_ms);
        }
        Ok(newest.map(uint))
    }

    async fn sessions(&self, c: &mut Connection) -> Result<Vec<SessionsIn>, RegistryError> {
        let began = self.buckets(&mut *c, "began_at_ms").await?;
        let ended = self.buckets(&mut *c, "ended_at_ms").await?;
        let mut all = std::collections::BTreeMap::<u64, SessionsIn>::new();
        for (at_ms, n) in began {
            all.entry(at_ms).or_default().began = n;
        }
        for (at_ms, n) in ended {
            all.entry(at_ms).or_default().ended = n;
        }
        Ok(all.into_iter().map(|(at_ms, of)| SessionsIn { at_ms, ..of }).collect())
    }

    async fn buckets(&self, c: &mut Connection, column: &str) -> Result<Vec<(u64, u64)>, RegistryError> {
        let bucket = int(BUCKET_MS);
        let sql = format!(
            "SELECT session.{column} / {bucket}, count(*) FROM session JOIN device ON device.id = session.device
             WHERE session.{column} >= $2 AND {} GROUP BY session.{column} / {bucket}",
            of_tenant(self.tenant)
        );
        let rows: Vec<(i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(self.name())
            .bind(self.from_ms)
            .fetch_all(c)
            .await?;
        Ok(rows.into_iter().map(|(at, n)| (uint(at * bucket), uint(n))).collect())
    }

    async fn refusals(&self, c: &mut Connection) -> Result<Vec<RefusalsIn>, RegistryError> {
        // Whom nobody knows belongs to no tenant: shown to who sees all of them.
        let sql = format!(
            "SELECT refusal.code, refusal.minute_ms / {HOUR_MS}, CAST(sum(refusal.count) AS BIGINT)
             FROM refusal LEFT JOIN device ON device.id = refusal.device
             WHERE refusal.minute_ms >= $2 AND {} GROUP BY refusal.code, refusal.minute_ms / {HOUR_MS}",
            of_tenant(self.tenant)
        );
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(self.name())
            .bind(self.from_ms)
            .fetch_all(c)
            .await?;
        rows.into_iter()
            .map(|(code, hour, n)| {
                Ok(RefusalsIn {
                    at_ms: uint(hour * HOUR_MS),
                    code: parse(&code, "a refusal's code")?,
                    count: uint(n),
                })
            })
            .collect()
    }

    async fn refused(&self, c: &mut Connection) -> Result<Vec<RefusedIn>, RegistryError> {
        let mut query = QueryBuilder::new(
            "SELECT told.state, count(DISTINCT told.device), CAST(sum(told.times) AS BIGINT), max(told.last_at_ms)
             FROM (SELECT ",
        );
        held::in_force(&mut query, held::OF_DEVICE, &self.cas);
        query.push(
            " AS state, refusal.device AS device, refusal.count AS times, refusal.last_at_ms AS last_at_ms
             FROM refusal JOIN device ON device.id = refusal.device WHERE refusal.minute_ms >= ",
        );
        query.push_bind(self.from_ms);
        if let Some(tenant) = self.tenant {
            query.push(" AND device.tenant = ").push_bind(tenant.to_string());
        }
        query.push(") AS told GROUP BY told.state");
        let rows: Vec<(String, i64, i64, i64)> = query.build_query_as().fetch_all(c).await?;
        rows.into_iter()
            .map(|(state, devices, refusals, last)| {
                Ok(RefusedIn {
                    state: parse(&state, "a device's state")?,
                    devices: uint(devices),
                    refusals: uint(refusals),
                    last_at_ms: uint(last),
                })
            })
            .collect()
    }

    async fn strangers(&self, c: &mut Connection) -> Result<u64, RegistryError> {
        if self.tenant.is_some() {
            return Ok(0);
        }
        let (n,): (i64,) = sqlx::query_as(
            "SELECT CAST(coalesce(sum(count), 0) AS BIGINT) FROM refusal WHERE device = 0 AND minute_ms >= $1",
        )
        .bind(self.from_ms)
        .fetch_one(c)
        .await?;
        Ok(uint(n))
    }

    async fn ends(&self, c: &mut Connection, now_s: i64) -> Result<Vec<(i64, u64)>, RegistryError> {
        let sql = format!(
            "SELECT certificate.not_after_s / {DAY_S}, count(*)
             FROM certificate JOIN device ON device.id = certificate.device
             WHERE certificate.not_after_s >= $2 AND certificate.not_after_s < $3
               AND certificate.status = 'active' AND {} GROUP BY certificate.not_after_s / {DAY_S}",
            of_tenant(self.tenant)
        );
        let rows: Vec<(i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(self.name())
            .bind(now_s)
            .bind(now_s + ENDS_S)
            .fetch_all(c)
            .await?;
        Ok(rows.into_iter().map(|(day, n)| (day * DAY_S, uint(n))).collect())
    }
}
