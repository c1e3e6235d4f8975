//! The twin of a device: the state it should be in, as an operator has set it, a version each time.
//!
//! What is kept here is the *desired* half. The *reported* half is what the device says, and the uplink log keeps
//! it. [`crate::twin`] carries the desired state to where the device reads it, and does so again after a crash.
//!
//! # Invariants
//!
//! - A version names one document for ever: each setting of a device's state takes the next number, from 1.
//! - Setting it is a decision: one transaction, one audit row with the document's digest and its version, one
//!   change. The document itself is not in the audit log.
//! - Of a device that is out of use for ever nothing is kept, and nothing can be set.

use muster_shared::Code;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Actor, Aim, Inner, Registry, Target,
    changes::What,
    database::{Connection, int, uint},
    decide::find,
    error::RegistryError,
    now_ms,
    orders::{self, Order},
    verdict::DeviceKey,
};

/// Largest document, octets: a packet carries it four times over.
pub const DOCUMENT_MAX: usize = 16 * 1024;

/// The state a device should be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// From 1; one more each time it is set.
    pub version: u64,
    /// A JSON object, as it came.
    pub document: String,
    /// Who set it.
    pub author: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

impl Desired {
    /// What the audit log says of it: by its digest it can be proved which document it was. What is in it is
    /// not everybody's to read.
    pub(super) fn proof(&self) -> Value {
        json!({
            "version": self.version,
            "document_sha256": hex::encode(Sha256::digest(&self.document)),
            "octets": self.document.len(),
        })
    }
}

/// What is kept of a device's twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// Which device.
    pub device: DeviceKey,
    /// `None`: it was never set.
    pub desired: Option<Desired>,
}

impl Twin {
    /// The version of the desired state; 0 when it was never set.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.desired.as_ref().map_or(0, |desired| desired.version)
    }
}

/// A document that can be kept: a JSON object within the bound. As text it is kept as it came, so that nobody's
/// numbers or order of names change on the way to the device.
fn checked(document: &[u8]) -> Result<&str, RegistryError> {
    let wrong = |why: String| RegistryError::Value { what: "desired state", why };
    if document.len() > DOCUMENT_MAX {
        return Err(wrong(format!("{} octets long, at most {DOCUMENT_MAX} are kept", document.len())));
    }
    serde_json::from_slice::<Map<String, Value>>(document)
        .map_err(|error| wrong(format!("it is no JSON object: {error}")))?;
    std::str::from_utf8(document).map_err(|error| wrong(error.to_string()))
}

/// Sets the desired state, if it is still of the version that was seen, and puts that on the record.
async fn set(inner: &Inner, actor: &Actor, aim: &Aim, document: &[u8]) -> Result<Twin, RegistryError> {
    let document = checked(document)?;
    let target = &aim.target;
    let mut writer = inner.writer().await?;
    let mut tx = writer.begin().await?;
    let id = find(&mut tx, &actor.scope.narrow(target)?).await?;
    let device = inner.verdicts.of_row(id)?;
    let refusal = inner.verdicts.refusal(device);
    if let Some(code @ (Code::CertificateRevoked | Code::DeviceDecommissioned)) = refusal {
        return Err(RegistryError::OutOfUse { serial: target.serial.clone(), code });
    }
    let now = read(&mut tx, id).await?.map_or(0, |desired| desired.version);
    if let Some(seen) = aim.seen.filter(|seen| *seen != now) {
        return Err(RegistryError::Changed { serial: target.serial.clone(), seen, now });
    }
    let at_ms = now_ms();
    let desired =
        Desired { version: now + 1, document: document.to_owned(), author: actor.name.clone(), at_ms };
    write(&mut tx, id, &desired).await?;
    let order = (device, Order::Twin);
    let stamp = orders::append(inner, &mut tx, actor, order, "", desired.proof(), at_ms).await?;
    inner.commit(tx).await.inspect_err(|_| writer.fail())?;
    inner.announce(stamp, What::Ordered { device, order: Order::Twin });
    Ok(Twin { device, desired: Some(desired) })
}

async fn write(tx: &mut Connection, id: i64, desired: &Desired) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO twin (device, desired, version, author, at_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (device) DO UPDATE SET desired = excluded.desired, version = excluded.version,
             author = excluded.author, at_ms = excluded.at_ms",
    )
    .bind(id)
    .bind(&desired.document)
    .bind(int(desired.version))
    .bind(&desired.author)
    .bind(int(desired.at_ms))
    .execute(tx)
    .await?;
    Ok(())
}

async fn read(connection: &mut Connection, id: i64) -> Result<Option<Desired>, RegistryError> {
    let row: Option<(i64, String, String, i64)> =
        sqlx::query_as("SELECT version, desired, author, at_ms FROM twin WHERE device = $1")
            .bind(id)
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(version, document, author, at_ms)| Desired {
        version: uint(version),
        document,
        author,
        at_ms: uint(at_ms),
    }))
}

/// Gives one device's desired state to another that never had one, as its first. `None`: there is none to give,
/// or the other has its own.
pub(super) async fn take(tx: &mut Connection, from: i64, to: i64) -> Result<Option<Desired>, RegistryError> {
    let Some(given) = read(tx, from).await? else { return Ok(None) };
    if read(tx, to).await?.is_some() {
        return Ok(None);
    }
    let desired = Desired { version: 1, ..given };
    write(tx, to, &desired).await?;
    Ok(Some(desired))
}

/// Of what is out of use nothing is kept of what it should have been.
pub(super) async fn forget(tx: &mut Connection, id: i64) -> Result<(), RegistryError> {
    sqlx::query("DELETE FROM twin WHERE device = $1").bind(id).execute(tx).await?;
    Ok(())
}

impl Registry {
    /// Sets the state a device should be in: a JSON object of at most [`DOCUMENT_MAX`] octets. The aim's `seen`
    /// is the version of the desired state that was seen, 0 for none yet.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device, M302 or M209 for one that is out of use for ever, M532 when
    /// the desired state has changed since it was seen, M504 for a document that is no JSON object or too long.
    pub async fn set_desired(
        &self,
        actor: &Actor,
        aim: impl Into<Aim>,
        document: &[u8],
    ) -> Result<Twin, RegistryError> {
        let (actor, aim, document) = (actor.clone(), aim.into(), document.to_vec());
        self.run(|inner| async move { set(&inner, &actor, &aim, &document).await }).await
    }

    /// What is kept of a device's twin.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn twin(&self, target: impl Into<Target>) -> Result<Twin, RegistryError> {
        let mut connection = self.inner.database.readers().acquire().await?;
        let id = find(&mut connection, &target.into()).await?;
        let device = self.inner.verdicts.of_row(id)?;
        Ok(Twin { device, desired: read(&mut connection, id).await? })
    }

    /// The desired state of a device; `None` when it was never set.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn desired(&self, device: DeviceKey) -> Result<Option<Desired>, RegistryError> {
        let Some(id) = self.inner.verdicts.row(device) else { return Ok(None) };
        read(&mut *self.inner.database.readers().acquire().await?, id).await
    }

    /// Devices whose desired state was set, with its version: those after this one, in an order of their own.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn twins(
        &self,
        after: Option<DeviceKey>,
        limit: u32,
    ) -> Result<Vec<(DeviceKey, u64)>, RegistryError> {
        let after = after.and_then(|device| self.inner.verdicts.row(device)).unwrap_or(0);
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT device, version FROM twin WHERE device > $1 ORDER BY device LIMIT $2")
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(self.inner.database.readers())
                .await?;
        rows.into_iter().map(|(id, version)| Ok((self.inner.verdicts.of_row(id)?, uint(version)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_within_the_bound_is_a_desired_state() {
        for good in
            ["{}", " { \"a\" : 1.50, \"b\": [null, {\"c\": 18446744073709551616}] }\n", "{\"a\":1,\"a\":2}"]
        {
            assert_eq!(checked(good.as_bytes()).unwrap(), good);
        }
        let filled = |octets: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(octets - 8));
        assert!(checked(filled(DOCUMENT_MAX).as_bytes()).is_ok());
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        for wrong in [
            &b""[..],
            b"null",
            b"[]",
            b"\"x\"",
            b"{",
            b"{} {}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\0\"}",
            b"{\"a\":1}\0",
            nested.as_bytes(),
            filled(DOCUMENT_MAX + 1).as_bytes(),
        ] {
            let error = checked(wrong).unwrap_err();
            assert_eq!(error.code(), Code::UsageWrong, "{error}");
        }
    }
}
