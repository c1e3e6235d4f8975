//! What the file says, into the verdicts: when the registry opens, and when a commit failed and only the
//! file knows what became of it.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use muster_shared::CertificateId;

use super::{
    Inner,
    database::{Connection, digest, parse},
    decide,
    error::RegistryError,
    members::BatchKey,
    station,
    verdict::{CertificateStatus, DeviceName},
};

/// Loads every registered factory CA. A record that the root's signature no longer covers vouches for nobody.
pub(super) async fn issuers(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let Some(root) = station::root(connection).await? else { return Ok(()) };
    for record in station::records(connection, &station::read_root(&root)?).await? {
        inner.verdicts.put_issuer(station::issuer(&record));
    }
    Ok(())
}

/// Devices and certificates, into the verdicts.
pub(super) async fn devices(inner: &Inner, connection: &mut Connection) -> Result<(), RegistryError> {
    let verdicts = &inner.verdicts;
    let batches = batches(inner, connection).await?;
    let mut devices = sqlx::query_as::<_, (i64, String, String, String, String, i64)>(
        "SELECT id, tenant, device_id, serial, state, batch FROM device ORDER BY id",
    )
    .fetch(&mut *connection);
    while let Some((row, tenant, device_id, serial, state, batch)) = devices.try_next().await? {
        let (tenant, device_id, serial) = decide::names(&tenant, &device_id, &serial)?;
        let state = parse(&state, "a device's state")?;
        let batch = batches.get(&batch);
        let batch = batch.ok_or_else(|| RegistryError::Damaged(format!("device row {row} has no batch")))?;
        verdicts.put_device(row, DeviceName { tenant, device_id, serial }, state, *batch);
    }
    drop(devices);
    let mut certificates = sqlx::query_as::<_, (Vec<u8>, i64, Vec<u8>, i64, String)>(
        "SELECT id, device, issuer_key_id, not_after_s, status FROM certificate",
    )
    .fetch(connection);
    while let Some((id, row, issuer, not_after_s, status)) = certificates.try_next().await? {
        let id = CertificateId(digest(&id, "a certificate's id")?);
        let damaged = |what: String| RegistryError::Damaged(what);
        let device = verdicts.by_row(row).ok_or_else(|| damaged(format!("certificate {id} is nobody's")))?;
        let status = CertificateStatus::from_word(&status)
            .ok_or_else(|| damaged(format!("certificate {id} is {status:?}")))?;
        verdicts.put_certificate(&id, device, verdicts.put_issuer_key(&issuer), status, not_after_s);
    }
    Ok(())
}

/// Every batch by its row.
async fn batches(
    inner: &Inner,
    connection: &mut Connection,
) -> Result<HashMap<i64, BatchKey>, RegistryError> {
    let rows: Vec<(i64, String, String, String)> = sqlx::query_as(
        "SELECT batch.id, station.tenant, station.name, batch.name
         FROM batch JOIN station ON station.id = batch.station",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|(row, tenant, station, name)| {
            let tenant = parse(tenant, "a station's tenant")?;
            let (station, name) = (parse(station, "a station's name")?, parse(name, "a batch's name")?);
            Ok((*row, inner.verdicts.put_batch(*row, &tenant, &station, &name)))
        })
        .collect()
}
