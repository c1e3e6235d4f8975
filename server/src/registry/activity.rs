//! What devices did lately, across the fleet: sessions that began or ended, refusals and notices, newest first.
//!
//! What was decided is in the audit log; the two together are the last events of the first page.

use muster_shared::{SerialNumber, Tenant};
use sqlx::FromRow;

use super::{
    Notice, Registry, RegistryError, Scope,
    database::{Connection, Row, int, parse, uint},
    now_ms,
    session::DisconnectReason,
    timeline::{self, Event},
};

/// How far back is looked, milliseconds: a day, as the rest of the first page.
const BACK_MS: u64 = 24 * 60 * 60 * 1000;

/// Something a device did, or that was not let do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Whose device; `None` where the registry does not have it.
    pub device: Option<(Tenant, SerialNumber)>,
    /// What.
    pub event: Event,
}

fn of(tenant: Option<String>, serial: Option<String>, event: Event) -> Result<Activity, RegistryError> {
    let device = match tenant.zip(serial) {
        Some((tenant, serial)) => {
            Some((parse(&tenant, "a device's tenant")?, parse(&serial, "a device's serial")?))
        }
        None => None,
    };
    Ok(Activity { device, event })
}

/// A statement's rows of the last day: `$1` is when it began, Unix milliseconds, `$2` whose devices, `$3` how many
/// rows at most.
async fn lately<R>(
    c: &mut Connection,
    scope: &Scope,
    limit: i64,
    sql: &'static str,
) -> Result<Vec<R>, RegistryError>
where
    R: for<'r> FromRow<'r, Row> + Send + Unpin,
{
    let rows =
        sqlx::query_as(sql).bind(int(now_ms().saturating_sub(BACK_MS))).bind(scope.to_sql()).bind(limit);
    Ok(rows.fetch_all(c).await?)
}

async fn began(c: &mut Connection, scope: &Scope, limit: i64) -> Result<Vec<Activity>, RegistryError> {
    let rows: Vec<(String, String, i64, String, i64)> = lately(
        c,
        scope,
        limit,
        "SELECT device.tenant, device.serial, session.began_at_ms, session.remote, session.protocol
         FROM session JOIN device ON device.id = session.device
         WHERE session.began_at_ms >= $1 AND ($2 = '' OR device.tenant = $2)
         ORDER BY session.began_at_ms DESC LIMIT $3",
    )
    .await?;
    rows.into_iter()
        .map(|(tenant, serial, at, remote, protocol)| {
            of(Some(tenant), Some(serial), timeline::connected(uint(at), &remote, protocol))
        })
        .collect()
}

async fn ended(c: &mut Connection, scope: &Scope, limit: i64) -> Result<Vec<Activity>, RegistryError> {
    let rows: Vec<(String, String, i64, i64, i64, Option<String>)> = lately(
        c,
        scope,
        limit,
        "SELECT device.tenant, device.serial, session.began_at_ms, session.ended_at_ms, session.keep_alive_s,
                session.reason
         FROM session JOIN device ON device.id = session.device
         WHERE session.ended_at_ms >= $1 AND ($2 = '' OR device.tenant = $2)
         ORDER BY session.ended_at_ms DESC LIMIT $3",
    )
    .await?;
    rows.into_iter()
        .map(|(tenant, serial, began, ended, keep_alive_s, reason)| {
            let reason = parse::<DisconnectReason>(&reason.unwrap_or_default(), "a disconnect reason")?;
            of(Some(tenant), Some(serial), timeline::left_at(began, ended, reason, keep_alive_s))
        })
        .collect()
}

async fn refused(c: &mut Connection, scope: &Scope, limit: i64) -> Result<Vec<Activity>, RegistryError> {
    type Columns = (Option<String>, Option<String>, String, i64, i64, Option<String>);
    // Whom nobody knows belongs to no tenant: shown to who sees all of them.
    let rows: Vec<Columns> = lately(
        c,
        scope,
        limit,
        "SELECT device.tenant, device.serial, refusal.code, refusal.count, refusal.last_at_ms, refusal.remote
         FROM refusal LEFT JOIN device ON device.id = refusal.device
         WHERE refusal.minute_ms >= $1 AND ($2 = '' OR device.tenant = $2)
         ORDER BY refusal.minute_ms DESC, refusal.last_at_ms DESC LIMIT $3",
    )
    .await?;
    rows.into_iter()
        .map(|(tenant, serial, code, count, last, remote)| {
            let code = parse(&code, "a refusal's code")?;
            let event = timeline::refused_at(code, uint(last), uint(count), remote.as_deref(), "");
            of(tenant, serial, event)
        })
        .collect()
}

async fn noticed(c: &mut Connection, scope: &Scope, limit: i64) -> Result<Vec<Activity>, RegistryError> {
    type Columns = (String, String, String, i64, i64, i64, Option<String>);
    let rows: Vec<Columns> = lately(
        c,
        scope,
        limit,
        "SELECT device.tenant, device.serial, notice.kind, notice.bound, notice.count, notice.last_at_ms,
                notice.remote
         FROM notice JOIN device ON device.id = notice.device
         WHERE notice.minute_ms >= $1 AND ($2 = '' OR device.tenant = $2)
         ORDER BY notice.minute_ms DESC, notice.last_at_ms DESC LIMIT $3",
    )
    .await?;
    rows.into_iter()
        .map(|(tenant, serial, kind, bound, count, last, remote)| {
            let notice = Notice::read(&kind, bound)?;
            // A minute's row: within it nothing is counted by minutes.
            let count = if matches!(notice, Notice::Slowed { .. }) { 1 } else { uint(count) };
            let event = timeline::noticed_at(notice, uint(last), count, remote.as_deref(), "");
            of(Some(tenant), Some(serial), event)
        })
        .collect()
}

impl Registry {
    /// What the devices of a scope did in the last day, newest first, so many lines at most.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn activity(&self, scope: &Scope, limit: u32) -> Result<Vec<Activity>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        let rows = i64::from(limit);
        let mut all = began(&mut connection, scope, rows).await?;
        all.extend(ended(&mut connection, scope, rows).await?);
        all.extend(refused(&mut connection, scope, rows).await?);
        all.extend(noticed(&mut connection, scope, rows).await?);
        all.sort_by_key(|of| std::cmp::Reverse(of.event.at_ms));
        all.truncate(limit as usize);
        Ok(all)
    }
}
