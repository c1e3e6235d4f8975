//! Which group is meant, whose its devices are, and which devices those are.

use muster_shared::{StationId, Tenant};

use super::GroupTarget;
use crate::registry::{
    Group,
    actor::Scope,
    database::{Connection, QueryBuilder, parse, uint},
    error::RegistryError,
};

/// Which group it is, of those there are and the scope has. A CA or a certificate need not be known here, for
/// those who see every tenant.
pub(super) async fn resolve(
    connection: &mut Connection,
    target: &GroupTarget,
    scope: &Scope,
) -> Result<Group, RegistryError> {
    let group = named(connection, target, scope).await?;
    if *scope == Scope::Every || owner(connection, &group).await?.is_some_and(|tenant| scope.covers(&tenant))
    {
        return Ok(group);
    }
    Err(match &group {
        Group::Batch(station, batch) => RegistryError::BatchUnknown(format!("{station}/{batch}")),
        _ => RegistryError::GroupUnknown(Box::new(group)),
    })
}

/// Whose devices a group has; `None` for an authority or a certificate that is no one tenant's.
pub(super) async fn owner(
    connection: &mut Connection,
    group: &Group,
) -> Result<Option<Tenant>, RegistryError> {
    let (sql, value) = match group {
        Group::Tenant(tenant) => return Ok(Some(tenant.clone())),
        Group::Station(station) | Group::Batch(station, _) => {
            let found: Option<(String,)> = sqlx::query_as("SELECT tenant FROM station WHERE name = $1")
                .bind(station.as_str())
                .fetch_optional(connection)
                .await?;
            return found.map(|(tenant,)| parse(&tenant, "a station's tenant")).transpose();
        }
        Group::Ca(key_id) => ("SELECT tenant FROM station WHERE factory_key_id = $1", key_id.to_vec()),
        Group::Certificate(id) => (
            "SELECT device.tenant FROM certificate JOIN device ON device.id = certificate.device
             WHERE certificate.id = $1",
            id.0.to_vec(),
        ),
    };
    let found: Option<(String,)> = sqlx::query_as(sql).bind(value).fetch_optional(connection).await?;
    found.map(|(tenant,)| parse(&tenant, "a tenant")).transpose()
}

async fn named(
    connection: &mut Connection,
    target: &GroupTarget,
    scope: &Scope,
) -> Result<Group, RegistryError> {
    let unknown = |what: &Group| Err(RegistryError::GroupUnknown(Box::new(what.clone())));
    let group = match target {
        GroupTarget::Batch(batch) => {
            let rows: Vec<(String,)> = sqlx::query_as(
                "SELECT station.name FROM batch JOIN station ON station.id = batch.station
                 WHERE batch.name = $1 AND ($2 = '' OR station.tenant = $2) ORDER BY station.name",
            )
            .bind(batch.as_str())
            .bind(scope.to_sql())
            .fetch_all(connection)
            .await?;
            return match rows.as_slice() {
                [] => Err(RegistryError::BatchUnknown(batch.to_string())),
                [(station,)] => Ok(Group::Batch(parse(station, "a station's name")?, batch.clone())),
                several => {
                    let stations = several.iter().map(|(station,)| parse(station, "a station's name"));
                    let stations = stations.collect::<Result<Vec<StationId>, _>>()?;
                    Err(RegistryError::BatchAmbiguous { batch: batch.clone(), stations })
                }
            };
        }
        GroupTarget::Group(group) => group,
    };
    let mut query = match group {
        Group::Ca(_) | Group::Certificate(_) => return Ok(group.clone()),
        Group::Tenant(tenant) => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM station WHERE tenant = ");
            query.push_bind(tenant.to_string());
            query
        }
        Group::Station(station) => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM station WHERE name = ");
            query.push_bind(station.to_string());
            query
        }
        Group::Batch(..) => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM batch WHERE id IN ");
            push_batches(&mut query, group);
            query
        }
    };
    let (count,): (i64,) = query.build_query_as().fetch_one(connection).await?;
    match (count, group) {
        (0, Group::Batch(station, batch)) => Err(RegistryError::BatchUnknown(format!("{station}/{batch}"))),
        (0, _) => unknown(group),
        _ => Ok(group.clone()),
    }
}

/// `(SELECT ids of the group's batches)`.
pub(in crate::registry) fn push_batches(query: &mut QueryBuilder, group: &Group) {
    query.push("(SELECT b.id FROM batch b JOIN station s ON s.id = b.station WHERE ");
    match group {
        Group::Tenant(tenant) => query.push("s.tenant = ").push_bind(tenant.to_string()),
        Group::Station(station) => query.push("s.name = ").push_bind(station.to_string()),
        Group::Batch(station, batch) => {
            query.push("s.name = ").push_bind(station.to_string());
            query.push(" AND b.name = ").push_bind(batch.to_string())
        }
        Group::Ca(_) | Group::Certificate(_) => query.push("1 = 0"),
    };
    query.push(")");
}

/// The condition that a row of `device` is about a member.
pub(super) fn push_devices(query: &mut QueryBuilder, group: &Group) {
    match group {
        Group::Ca(key_id) => {
            query.push("device.id IN (SELECT c.device FROM certificate c WHERE c.issuer_key_id = ");
            query.push_bind(key_id.to_vec()).push(")");
        }
        Group::Certificate(id) => {
            query.push("device.id IN (SELECT c.device FROM certificate c WHERE c.id = ");
            query.push_bind(id.0.to_vec()).push(")");
        }
        _ => {
            query.push("device.batch IN ");
            push_batches(query, group);
        }
    }
}

pub(super) async fn count(connection: &mut Connection, group: &Group) -> Result<u64, RegistryError> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM device WHERE ");
    push_devices(&mut query, group);
    let (count,): (i64,) = query.build_query_as().fetch_one(connection).await?;
    Ok(uint(count))
}
