//! Many rows in a few statements: which are known, which may meet something, and the new ones in.
//!
//! A statement is a round trip to the database or to its thread, which costs more than the row it is about.

use std::collections::{HashMap, HashSet};

use muster_shared::CertificateId;

use super::rows::{Candidate, NewDevice, Taken};
use crate::registry::{
    database::{Connection, QueryBuilder, int},
    device::DeviceState,
    error::RegistryError,
    verdict::{CertificateStatus, DeviceName},
};

/// Rows of one statement: of nine values at most, far below the 32 766 SQLite takes.
pub(super) const ROWS: usize = 512;

/// `(value, value, …)`.
fn list<T>(query: &mut QueryBuilder, values: impl IntoIterator<Item = T>)
where
    T: for<'t> sqlx::Encode<'t, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    query.push("(");
    let mut list = query.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    query.push(")");
}

/// Those whose certificate is exactly their device's already: they change nothing, whatever state it is in.
pub(super) async fn known(
    tx: &mut Connection,
    candidates: &[Candidate],
) -> Result<HashSet<usize>, RegistryError> {
    let mut query = QueryBuilder::on(
        tx,
        "SELECT certificate.id, device.tenant, device.device_id, device.serial
         FROM certificate JOIN device ON device.id = certificate.device WHERE certificate.id IN ",
    );
    list(&mut query, candidates.iter().map(|row| row.identity.id.0.to_vec()));
    let full = candidates.len() == ROWS;
    let rows: Vec<(Vec<u8>, String, String, String)> =
        query.build_query_as().persistent(full).fetch_all(tx).await?;
    let found: HashMap<_, _> = rows.into_iter().map(|(id, t, d, s)| (id, (t, d, s))).collect();
    let same = |row: &Candidate| {
        let of = &row.identity;
        found.get(&of.id.0[..]).is_some_and(|(tenant, device_id, serial)| {
            tenant == of.tenant.as_str() && device_id == of.device_id.as_str() && serial == of.serial.as_str()
        })
    };
    Ok(candidates.iter().enumerate().filter(|(_, row)| same(row)).map(|(at, _)| at).collect())
}

/// Those that share a certificate, a key, a serial or a device id with a tombstone or a device.
pub(super) async fn suspects(
    tx: &mut Connection,
    candidates: &[Candidate],
) -> Result<HashSet<usize>, RegistryError> {
    let full = candidates.len() == ROWS;
    let Some(first) = candidates.first() else { return Ok(HashSet::new()) };
    let tenant = first.identity.tenant.as_str();
    let buried = |row: &Candidate| {
        let of = &row.identity;
        [of.id.to_string(), hex::encode(of.key_digest), format!("{tenant}/{}", of.serial)]
    };
    let mut query = QueryBuilder::on(
        tx,
        "SELECT value FROM tombstone WHERE kind IN ('certificate', 'key', 'serial') AND value IN ",
    );
    list(&mut query, candidates.iter().flat_map(buried));
    let stones: Vec<(String,)> = query.build_query_as().persistent(full).fetch_all(&mut *tx).await?;
    let mut stones: HashSet<_> = stones.into_iter().map(|(value,)| value).collect();

    // A certificate that was revoked before it came.
    let mut query = QueryBuilder::on(tx, "SELECT value FROM rule WHERE kind = ");
    query.push_bind("certificate").push(" AND lifted IS NULL AND value IN ");
    list(&mut query, candidates.iter().map(|row| row.identity.id.to_string()));
    let rules: Vec<(String,)> = query.build_query_as().persistent(full).fetch_all(&mut *tx).await?;
    stones.extend(rules.into_iter().map(|(value,)| value));

    let mut query = QueryBuilder::on(tx, "SELECT serial, device_id FROM device WHERE tenant = ");
    query.push_bind(tenant.to_owned()).push(" AND serial IN ");
    list(&mut query, candidates.iter().map(|row| row.identity.serial.to_string()));
    query.push(" UNION ALL SELECT serial, device_id FROM device WHERE tenant = ");
    query.push_bind(tenant.to_owned()).push(" AND device_id IN ");
    list(&mut query, candidates.iter().map(|row| row.identity.device_id.to_string()));
    let named: Vec<(String, String)> = query.build_query_as().persistent(full).fetch_all(&mut *tx).await?;
    let (serials, device_ids): (HashSet<_>, HashSet<_>) = named.into_iter().unzip();

    let mut query = QueryBuilder::on(tx, "SELECT key_digest FROM certificate WHERE key_digest IN ");
    list(&mut query, candidates.iter().map(|row| row.identity.key_digest.to_vec()));
    let keys: Vec<(Vec<u8>,)> = query.build_query_as().persistent(full).fetch_all(tx).await?;
    let keys: HashSet<_> = keys.into_iter().map(|(key,)| key).collect();

    let met = |row: &Candidate| {
        let of = &row.identity;
        buried(row).iter().any(|value| stones.contains(value))
            || serials.contains(of.serial.as_str())
            || device_ids.contains(of.device_id.as_str())
            || keys.contains(&of.key_digest[..])
    };
    Ok(candidates.iter().enumerate().filter(|(_, row)| met(row)).map(|(at, _)| at).collect())
}

/// Puts new devices in, each with its certificate.
pub(super) async fn put(
    tx: &mut Connection,
    taken: &mut Taken,
    batch: i64,
    fresh: Vec<Candidate>,
    at_ms: u64,
) -> Result<(), RegistryError> {
    if fresh.is_empty() {
        return Ok(());
    }
    let full = fresh.len() == ROWS;
    let mut query = QueryBuilder::on(
        tx,
        "INSERT INTO device
         (tenant, device_id, serial, state, batch, registered_at_ms, changed_at_ms, changed_no) ",
    );
    query.push_values(&fresh, |mut values, row| {
        let of = &row.identity;
        values
            .push_bind(of.tenant.to_string())
            .push_bind(of.device_id.to_string())
            .push_bind(of.serial.to_string())
            .push_bind(DeviceState::Registered.as_str())
            .push_bind(batch)
            .push_bind(int(at_ms))
            .push_bind(int(at_ms))
            .push_bind(0_i64);
    });
    query.push(" RETURNING id, serial");
    let made: Vec<(i64, String)> = query.build_query_as().persistent(full).fetch_all(&mut *tx).await?;
    // A database may give the rows back in any order; the serials are one tenant's, each there once.
    let ids: HashMap<String, i64> = made.into_iter().map(|(id, serial)| (serial, id)).collect();
    let id = |row: &Candidate| {
        let found = ids.get(row.identity.serial.as_str()).copied();
        found.ok_or_else(|| RegistryError::Damaged(format!("device {} was not put in", row.identity.serial)))
    };
    let ids: Vec<i64> = fresh.iter().map(id).collect::<Result<_, _>>()?;
    certificates(tx, &fresh, &ids, at_ms).await?;
    taken.devices.extend(fresh.into_iter().zip(ids).map(|(row, id)| NewDevice {
        row: id,
        issuer_key_id: row.identity.issuer_key_id,
        certificate: CertificateId(row.identity.id.0),
        not_after_s: row.identity.not_after_s,
        name: DeviceName {
            tenant: row.identity.tenant,
            device_id: row.identity.device_id,
            serial: row.identity.serial,
        },
    }));
    Ok(())
}

async fn certificates(
    tx: &mut Connection,
    fresh: &[Candidate],
    ids: &[i64],
    at_ms: u64,
) -> Result<(), RegistryError> {
    let mut query = QueryBuilder::on(
        tx,
        "INSERT INTO certificate
         (id, device, der, key_digest, issuer_key_id, not_before_s, not_after_s, status, added_at_ms) ",
    );
    query.push_values(fresh.iter().zip(ids), |mut values, (row, id)| {
        let of = &row.identity;
        values
            .push_bind(of.id.0.to_vec())
            .push_bind(*id)
            .push_bind(row.der.clone())
            .push_bind(of.key_digest.to_vec())
            .push_bind(of.issuer_key_id.to_vec())
            .push_bind(of.not_before_s)
            .push_bind(of.not_after_s)
            .push_bind(CertificateStatus::Active.as_str())
            .push_bind(int(at_ms));
    });
    query.build().persistent(fresh.len() == ROWS).execute(tx).await?;
    Ok(())
}
