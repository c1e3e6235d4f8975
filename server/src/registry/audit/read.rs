//! The log's rows, as they are asked for: from a number on, about some targets, or filtered and page by page. A
//! scope sees its own rows only.

use super::{AuditHead, AuditRow, NOTHING, Origin, head};
use crate::registry::{
    Page, Registry,
    actor::Scope,
    database::{Connection, QueryBuilder, int, uint},
    error::RegistryError,
};

/// What rows are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of this actor, by their name in full.
    pub actor: Option<String>,
    /// This action, such as `device.suspend`, or all that begin with it, such as `device.`.
    pub action: Option<String>,
    /// About this: `acme/MU-000118`, a batch, a station, an operator.
    pub target: Option<String>,
    /// From then on, Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Before then.
    pub until_ms: Option<u64>,
    /// The newest first; `after` is then a number that the rows are below.
    pub newest_first: bool,
}

impl AuditFilter {
    /// Conditions over indexed columns.
    fn push(&self, scope: &Scope, query: &mut QueryBuilder) {
        query.push("1 = 1");
        if let Some(tenant) = scope.tenant() {
            query.push(" AND tenant = ").push_bind(tenant.as_str().to_owned());
        }
        if let Some(actor) = &self.actor {
            query.push(" AND actor = ").push_bind(actor.clone());
        }
        if let Some(action) = &self.action {
            match action.strip_suffix('.') {
                // '/' is the character after '.': the range is what begins so.
                Some(family) => {
                    query.push(" AND action >= ").push_bind(action.clone());
                    query.push(" AND action < ").push_bind(format!("{family}/"));
                }
                None => {
                    query.push(" AND action = ").push_bind(action.clone());
                }
            }
        }
        if let Some(target) = &self.target {
            query.push(" AND (target = ").push_bind(target.clone());
            if let Some(tenant) = scope.tenant().filter(|_| !target.contains('/')) {
                query.push(" OR target = ").push_bind(format!("{tenant}/{target}"));
            }
            query.push(")");
        }
        if let Some(since) = self.since_ms {
            query.push(" AND at_ms >= ").push_bind(int(since));
        }
        if let Some(until) = self.until_ms {
            query.push(" AND at_ms < ").push_bind(int(until));
        }
    }

    fn is_all(&self) -> bool {
        *self == Self { newest_first: self.newest_first, ..Self::default() }
    }
}

impl Registry {
    /// Rows of the audit log after number `after`, oldest first, whosever they are.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        Ok(list(&mut connection, after, i64::from(limit)).await?)
    }

    /// What a scope sees of the audit log, filtered, after the row of this number.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_page(
        &self,
        scope: &Scope,
        filter: &AuditFilter,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Page<AuditRow>, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        page(&mut connection, scope, filter, after, limit).await
    }

    /// The newest row's number and digest: what an outside checkpoint keeps.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn audit_head(&self) -> Result<AuditHead, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        head(&mut connection).await
    }
}

/// A reader of rows, with what follows its columns.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest, ",
            "tenant, request, address FROM audit ",
            $rest
        )
    };
}

/// A row as it stands in the database, in the order of the columns.
type Stored = (
    i64,
    String,
    i64,
    String,
    String,
    String,
    String,
    String,
    String,
    String,
    Vec<u8>,
    Vec<u8>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// A row, even when its digests are not 32 octets: then they are zeros, which no chain continues.
fn row(stored: Stored) -> AuditRow {
    let (no, node, at_ms, actor, role, token, action, target, reason, detail, previous, digest, ..) = stored;
    let (.., tenant, request, address) = stored;
    AuditRow {
        no: uint(no),
        node,
        at_ms: uint(at_ms),
        actor,
        role,
        token,
        action,
        target,
        reason,
        detail,
        origin: tenant.map(|tenant| Origin {
            tenant,
            request: request.unwrap_or_default(),
            address: address.unwrap_or_default(),
        }),
        previous: previous.try_into().unwrap_or(NOTHING),
        digest: digest.try_into().unwrap_or(NOTHING),
    }
}

/// Rows after number `after`, oldest first.
pub(in crate::registry) async fn list(
    connection: &mut Connection,
    after: u64,
    limit: i64,
) -> Result<Vec<AuditRow>, sqlx::Error> {
    let rows: Vec<Stored> = sqlx::query_as(select!("WHERE no > $1 ORDER BY no LIMIT $2"))
        .bind(int(after))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(row).collect())
}

/// Rows about any of these targets, newest first.
pub(in crate::registry) async fn about(
    connection: &mut Connection,
    targets: &[String],
    limit: i64,
) -> Result<Vec<AuditRow>, RegistryError> {
    let mut query = QueryBuilder::new(select!("WHERE target IN ("));
    let mut list = query.separated(", ");
    for target in targets {
        list.push_bind(target.as_str());
    }
    query.push(") ORDER BY no DESC LIMIT ").push_bind(limit);
    let rows: Vec<Stored> = query.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(row).collect())
}

/// One page of what a scope sees of the log.
async fn page(
    connection: &mut Connection,
    scope: &Scope,
    filter: &AuditFilter,
    after: Option<u64>,
    limit: u32,
) -> Result<Page<AuditRow>, RegistryError> {
    let total = if *scope == Scope::Every && filter.is_all() {
        head(connection).await?.no
    } else {
        let mut count = QueryBuilder::new("SELECT count(*) FROM audit WHERE ");
        filter.push(scope, &mut count);
        let (count,): (i64,) = count.build_query_as().fetch_one(&mut *connection).await?;
        uint(count)
    };
    let mut query = QueryBuilder::new(select!("WHERE "));
    filter.push(scope, &mut query);
    if let Some(after) = after {
        query.push(if filter.newest_first { " AND no < " } else { " AND no > " }).push_bind(int(after));
    }
    query.push(if filter.newest_first { " ORDER BY no DESC LIMIT " } else { " ORDER BY no LIMIT " });
    query.push_bind(i64::from(limit.max(1)) + 1);
    let rows: Vec<Stored> = query.build_query_as().fetch_all(connection).await?;
    let more = rows.len() > limit.max(1) as usize;
    let items: Vec<_> = rows.into_iter().take(limit.max(1) as usize).map(row).collect();
    let next = items.last().filter(|_| more).map(|last| last.no.to_string());
    Ok(Page { items, next, total, exact: true })
}
