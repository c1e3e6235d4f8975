//! Certificates of devices: which there are, one of them, and which are revoked.

use muster_pki::DeviceIdentity;
use muster_shared::{CertificateId, Code, DeviceId, SerialNumber, Tenant};
use sqlx::Row as _;

use super::{
    DeviceState, Inner, Page, Registry,
    database::{QueryBuilder, Row, digest, int, parse, uint},
    decide::RevocationReason,
    error::RegistryError,
    query::PAGE_MAX,
    verdict::CertificateStatus,
};

/// Which certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFilter {
    /// Of this tenant's devices only.
    pub tenant: Option<Tenant>,
    /// Only these.
    pub status: Option<CertificateStatus>,
    /// Of the CA with this key identifier.
    pub issuer: Option<Vec<u8>>,
    /// Whose last good second is before this, Unix seconds.
    pub ends_before_s: Option<i64>,
}

/// A certificate in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// SHA-256 of its DER.
    pub id: CertificateId,
    /// Whose fleet.
    pub tenant: Tenant,
    /// The number on its device's label.
    pub serial: SerialNumber,
    /// Its device's name on topics.
    pub device_id: DeviceId,
    /// Its device's state.
    pub state: DeviceState,
    /// What the registry holds against it.
    pub status: CertificateStatus,
    /// Key identifier of the CA that issued it.
    pub issuer: Vec<u8>,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
    /// First good second, Unix seconds.
    pub not_before_s: i64,
    /// Last good second.
    pub not_after_s: i64,
    /// Why and when it was revoked (Unix milliseconds).
    pub revoked: Option<(RevocationReason, u64)>,
    /// What took its place.
    pub replaced_by: Option<CertificateId>,
    /// Its place in the status list of its tenant.
    pub status_index: u64,
    /// Itself, DER.
    pub der: Vec<u8>,
}

const LISTED: &str = "SELECT certificate.id, certificate.der, certificate.status, certificate.issuer_key_id,
    certificate.key_digest, certificate.not_before_s, certificate.not_after_s, certificate.revoked_at_ms,
    certificate.revoked_reason, device.id AS device, device.tenant, device.serial, device.device_id, device.state,
    device.certificate AS newest
    FROM certificate JOIN device ON device.id = certificate.device WHERE 1 = 1";

fn listed(row: &Row) -> Result<Listed, RegistryError> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let id = CertificateId(digest(row.try_get("id")?, "a certificate's id")?);
    let newest = CertificateId(digest(row.try_get("newest")?, "a certificate's id")?);
    let reason: Option<String> = row.try_get("revoked_reason")?;
    let reason: Option<RevocationReason> =
        reason.map(|reason| parse(&reason, "a revocation reason")).transpose()?;
    let at: Option<i64> = row.try_get("revoked_at_ms")?;
    let status = text("status")?;
    Ok(Listed {
        tenant: parse(&text("tenant")?, "a device's tenant")?,
        serial: parse(&text("serial")?, "a device's serial")?,
        device_id: parse(&text("device_id")?, "a device's id")?,
        state: parse(&text("state")?, "a device's state")?,
        status: CertificateStatus::from_word(&status)
            .ok_or_else(|| RegistryError::Damaged(format!("a certificate's status is {status:?}")))?,
        issuer: row.try_get("issuer_key_id")?,
        key: digest(row.try_get("key_digest")?, "a key's digest")?,
        not_before_s: row.try_get("not_before_s")?,
        not_after_s: row.try_get("not_after_s")?,
        revoked: reason.zip(at.map(uint)),
        replaced_by: (newest != id).then_some(newest),
        status_index: uint(row.try_get("device")?),
        der: row.try_get("der")?,
        id,
    })
}

impl Registry {
    /// Certificates that match, what ends first first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn certificates(
        &self,
        filter: &CertificateFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<Listed>, RegistryError> {
        list(&self.inner, filter, after, limit).await
    }

    /// The certificate with this digest.
    ///
    /// # Errors
    /// [`RegistryError`]; M314 for no such certificate.
    pub async fn certificate(
        &self,
        tenant: Option<&Tenant>,
        id: &CertificateId,
    ) -> Result<Listed, RegistryError> {
        find(&self.inner, tenant, id).await
    }

    /// The newest revoked certificates of a CA, by its key identifier.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn revoked_of(
        &self,
        issuer: &[u8],
        most: usize,
    ) -> Result<Vec<muster_pki::crl::Revoked>, RegistryError> {
        revoked(&self.inner, issuer, most).await
    }

    /// The certificates that were revoked one by one, whoever's they are, with why and when (Unix milliseconds);
    /// the registry need not know them.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn revoked_singly(
        &self,
    ) -> Result<Vec<(CertificateId, muster_pki::crl::RevocationReason, u64)>, RegistryError> {
        revoked_singly(&self.inner).await
    }

    /// Devices that may not talk: their place in the status list, and why.
    #[must_use]
    pub fn refused_devices(&self, tenant: Option<&Tenant>) -> Vec<(u64, Code)> {
        refused(&self.inner, tenant)
    }
}

/// Certificates that match, what ends first first; `after` is the `next` of the page before.
async fn list(
    inner: &Inner,
    filter: &CertificateFilter,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<Listed>, RegistryError> {
    let limit = limit.clamp(1, PAGE_MAX) as usize;
    let mut query = QueryBuilder::new(LISTED);
    if let Some(tenant) = &filter.tenant {
        query.push(" AND device.tenant = ").push_bind(tenant.as_str().to_owned());
    }
    if let Some(status) = filter.status {
        query.push(" AND certificate.status = ").push_bind(status.as_str().to_owned());
    }
    if let Some(issuer) = &filter.issuer {
        query.push(" AND certificate.issuer_key_id = ").push_bind(issuer.clone());
    }
    if let Some(before_s) = filter.ends_before_s {
        query.push(" AND certificate.not_after_s < ").push_bind(before_s);
    }
    if let Some((ends_s, id)) = after.map(cursor).transpose()? {
        query.push(" AND (certificate.not_after_s, certificate.id) > (").push_bind(ends_s);
        query.push(", ").push_bind(id).push(")");
    }
    query.push(" ORDER BY certificate.not_after_s, certificate.id LIMIT ").push_bind(limit as i64 + 1);
    let mut connection = inner.database.readers().acquire().await?;
    let rows = query.build().fetch_all(&mut *connection).await?;
    let mut items = rows.iter().map(listed).collect::<Result<Vec<_>, _>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| format!("{}.{}", last.not_after_s, last.id));
    let total = items.len() as u64 + u64::from(more);
    Ok(Page { exact: !more && after.is_none(), items, next, total })
}

fn cursor(text: &str) -> Result<(i64, Vec<u8>), RegistryError> {
    let read = text.split_once('.').and_then(|(ends, id)| {
        let id: CertificateId = id.parse().ok()?;
        Some((ends.parse().ok()?, id.0.to_vec()))
    });
    let why = || format!("{text:?} is no cursor of certificates");
    read.ok_or_else(|| RegistryError::Value { what: "after", why: why() })
}

/// The certificate with this digest.
async fn find(inner: &Inner, tenant: Option<&Tenant>, id: &CertificateId) -> Result<Listed, RegistryError> {
    let mut query = QueryBuilder::new(LISTED);
    query.push(" AND certificate.id = ").push_bind(id.0.to_vec());
    if let Some(tenant) = tenant {
        query.push(" AND device.tenant = ").push_bind(tenant.as_str().to_owned());
    }
    let mut connection = inner.database.readers().acquire().await?;
    let row = query.build().fetch_optional(&mut *connection).await?;
    row.as_ref().map_or_else(|| Err(RegistryError::CertificateUnknown(id.to_string())), listed)
}

/// Revoked certificates of a CA, as its revocation list names them: at most `most`, the newest.
async fn revoked(
    inner: &Inner,
    issuer: &[u8],
    most: usize,
) -> Result<Vec<muster_pki::crl::Revoked>, RegistryError> {
    let rows: Vec<(Vec<u8>, i64, Option<String>)> = sqlx::query_as(
        "SELECT der, revoked_at_ms, revoked_reason FROM certificate
         WHERE issuer_key_id = $1 AND revoked_at_ms IS NOT NULL ORDER BY revoked_at_ms DESC LIMIT $2",
    )
    .bind(issuer.to_vec())
    .bind(int(most as u64))
    .fetch_all(inner.database.readers())
    .await?;
    rows.into_iter()
        .map(|(der, at_ms, reason)| {
            let damaged = |error| RegistryError::Damaged(format!("a certificate of a device: {error}"));
            let identity = DeviceIdentity::from_certificate(&der).map_err(damaged)?;
            let reason: Option<RevocationReason> =
                reason.map(|reason| parse(&reason, "a revocation reason")).transpose()?;
            Ok(muster_pki::crl::Revoked {
                serial: identity.certificate_serial,
                at_s: at_ms / 1000,
                reason: listed_reason(reason.unwrap_or(RevocationReason::Unspecified)),
            })
        })
        .collect()
}

/// Certificates with a rule of their own, newest first.
async fn revoked_singly(
    inner: &Inner,
) -> Result<Vec<(CertificateId, muster_pki::crl::RevocationReason, u64)>, RegistryError> {
    let rows: Vec<(String, Option<String>, i64)> = sqlx::query_as(
        "SELECT value, reason_code, decided_at_ms FROM rule
         WHERE kind = 'certificate' AND lifted IS NULL ORDER BY decided_at_ms DESC",
    )
    .fetch_all(inner.database.readers())
    .await?;
    rows.into_iter()
        .map(|(id, reason, at_ms)| {
            let reason: Option<RevocationReason> =
                reason.map(|reason| parse(&reason, "a revocation reason")).transpose()?;
            let reason = listed_reason(reason.unwrap_or(RevocationReason::Unspecified));
            Ok((parse(&id, "a certificate's id")?, reason, uint(at_ms)))
        })
        .collect()
}

/// The reason as a list says it: it knows fewer.
fn listed_reason(reason: RevocationReason) -> muster_pki::crl::RevocationReason {
    use muster_pki::crl::RevocationReason as Listed;
    match reason {
        RevocationReason::KeyCompromise | RevocationReason::CaCompromise => Listed::KeyCompromise,
        RevocationReason::Superseded => Listed::Superseded,
        RevocationReason::CessationOfOperation => Listed::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn => Listed::PrivilegeWithdrawn,
        RevocationReason::Unspecified | RevocationReason::AffiliationChanged => Listed::Unspecified,
    }
}

/// Devices that may not talk, of one tenant or of all: place in the status list, and why.
fn refused(inner: &Inner, tenant: Option<&Tenant>) -> Vec<(u64, Code)> {
    let verdicts = &inner.verdicts;
    let devices = (0..verdicts.devices()).filter_map(|n| {
        let key = super::DeviceKey(u32::try_from(n).ok()?);
        let why = verdicts.refusal(key)?;
        let row = verdicts.row(key)?;
        tenant.is_none_or(|tenant| verdicts.name(key).tenant == *tenant).then_some((uint(row), why))
    });
    devices.collect()
}
