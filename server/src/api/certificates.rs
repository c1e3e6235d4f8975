//! Certificates of devices, the authorities behind them, and what is published about both: revocation lists
//! of the CAs whose key this server holds, and the signed status list.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use muster_pki::{
    Ca, CaCertificate, Purpose,
    bundle::ServerBundle,
    crl::{Crl, CrlError, ENTRIES_MAX, RevocationReason, Revoked},
};
use muster_shared::{CertificateId, Code};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Doors, Path, Query,
    auth::{Caller, Need},
    devices::pem,
    error::Problem,
    page_limit,
    routes::{About, Routes},
    status_list, time, view,
};
use crate::{
    issued,
    registry::{
        CertificateStatus, KeyId,
        certificates::{CertificateFilter, Listed},
        now_ms,
    },
};

/// How long a revocation list is good, seconds.
const CRL_LIFE_S: i64 = 24 * 3600;

/// The authorities this server holds.
pub struct Held {
    root: CaCertificate,
    /// Those that issue, by their purpose; then those that were rotated, by purpose and key.
    all: Vec<(String, Ca)>,
    issuing: usize,
    /// Whose turn it is to rotate one.
    turn: tokio::sync::Mutex<()>,
}

impl Held {
    /// Those of the server's bundle.
    #[must_use]
    pub fn of(bundle: &ServerBundle) -> Arc<Self> {
        let issuing = [&bundle.broker, &bundle.operational, &bundle.https, &bundle.service, &bundle.operator];
        let mut all: Vec<_> =
            issuing.map(|ca| (ca.certificate().purpose().word().to_owned(), ca.clone())).into();
        all.extend(bundle.former.iter().map(|ca| {
            let key_id = hex::encode(ca.certificate().key_id());
            (format!("{}-{}", ca.certificate().purpose(), &key_id[..8]), ca.clone())
        }));
        Arc::new(Self { root: bundle.root.clone(), all, issuing: issuing.len(), turn: Default::default() })
    }

    /// The root all of them are signed by.
    pub(super) fn root(&self) -> &CaCertificate {
        &self.root
    }

    /// Waits until nobody else rotates an authority.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The authority of this server with this key identifier, and its name.
    pub(super) fn by_key_id(&self, key_id: &[u8]) -> Option<(&str, &CaCertificate)> {
        let mut own = self.all.iter().map(|(name, ca)| (name.as_str(), ca.certificate()));
        own.find(|(_, ca)| ca.key_id()[..] == *key_id)
    }

    fn named(&self, name: &str) -> Result<&Ca, Problem> {
        Self::find(&self.all, name)
    }

    /// The one that issues for this purpose.
    pub(super) fn current(&self, name: &str) -> Result<&Ca, Problem> {
        Self::find(&self.all[..self.issuing], name)
    }

    fn find<'a>(all: &'a [(String, Ca)], name: &str) -> Result<&'a Ca, Problem> {
        let found = all.iter().find(|(of, _)| of == name);
        found.map(|(_, ca)| ca).ok_or_else(|| {
            let possible: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
            Problem::new(Code::CertificateUnknown)
                .what(format!("this server holds no authority {name:?}"))
                .next(format!("possible: {}", possible.join(", ")))
        })
    }

    /// Those whose certificates the devices' door takes.
    fn of_doors(&self) -> impl Iterator<Item = &(String, Ca)> {
        let takes = |purpose| matches!(purpose, Purpose::Operational | Purpose::Service);
        self.all.iter().filter(move |(_, ca)| takes(ca.certificate().purpose()))
    }

    /// The one of this name whose certificates the devices' door takes.
    pub(super) fn of_a_door(&self, name: &str) -> Option<&Ca> {
        self.of_doors().find(|(of, _)| of == name).map(|(_, ca)| ca)
    }

    /// Does the devices' door take what is signed under this key identifier?
    pub(super) fn signs_for_a_door(&self, key_id: &KeyId) -> bool {
        self.of_doors().any(|(_, ca)| ca.certificate().key_id() == *key_id)
    }
}

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .get(
            "/v1/certificates",
            list,
            About::new("Certificates of devices, what ends first first")
                .query::<List>()
                .answers::<view::Page<view::ListedCertificate>>("certificate.list"),
        )
        .get(
            "/v1/certificates/{id}",
            show,
            About::new("One certificate, by the SHA-256 of its DER")
                .answers::<view::CertificateDetail>("certificate")
                .refuses([Code::CertificateUnknown]),
        )
        .get(
            "/v1/authorities",
            authorities,
            About::new("Authorities: the root, those of this server, those of stations")
                .answers::<view::Page<view::Authority>>("authority.list"),
        )
        .get(
            "/v1/crl/{name}",
            crl,
            About::new("Revocation list of an authority whose key this server holds (RFC 5280)")
                .answers_raw("application/pkix-crl", "The list in DER")
                .refuses([Code::CertificateUnknown]),
        )
        .get(
            "/v1/status-list",
            status_list,
            About::new("Signed status list of the devices' birth certificates (Token Status List)")
                .answers_raw("application/statuslist+jwt", "A JWT, signed ES256"),
        )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// `pending`, `active`, `superseded` or `revoked`.
    status: Option<String>,
    /// Key identifier of the issuer, hexadecimal.
    issuer: Option<String>,
    /// Days within which it ends.
    ends_days: Option<u32>,
    after: Option<String>,
    limit: Option<u32>,
}

async fn list(
    caller: Caller,
    State(doors): State<Doors>,
    Query(query): Query<List>,
) -> Result<Json<view::Page<view::ListedCertificate>>, Problem> {
    caller.may(Need::Look)?;
    let wrong = |what: &str, text: &str| {
        Problem::new(Code::UsageWrong)
            .what(format!("{what} {text:?} is none"))
            .next("status: pending, active, superseded or revoked; issuer: a key identifier in hexadecimal")
    };
    let status = |word: &String| CertificateStatus::from_word(word).ok_or_else(|| wrong("status", word));
    let issuer = |text: &String| hex::decode(text).map_err(|_| wrong("issuer", text));
    let filter = CertificateFilter {
        tenant: caller.scope().tenant().cloned(),
        status: query.status.as_ref().map(status).transpose()?,
        issuer: query.issuer.as_ref().map(issuer).transpose()?,
        ends_before_s: query.ends_days.map(|days| now_s().saturating_add(i64::from(days) * 86_400)),
    };
    let limit = page_limit(query.limit)?;
    let page = doors.registry.certificates(&filter, query.after.as_deref(), limit).await?;
    let items = page.items.iter().map(listed).collect();
    Ok(Json(view::Page::counted("certificate", items, page.next, (page.total, page.exact))))
}

fn now_s() -> i64 {
    (now_ms() / 1000).cast_signed()
}

async fn show(
    caller: Caller,
    State(doors): State<Doors>,
    Path(id): Path<String>,
) -> Result<Json<view::CertificateDetail>, Problem> {
    caller.may(Need::Look)?;
    let id: CertificateId = id.to_lowercase().parse().map_err(|error: muster_shared::id::IdError| {
        Problem::new(Code::UsageWrong)
            .what(format!("{id:?} is no certificate id"))
            .because(error.to_string())
            .next("the SHA-256 of the certificate's DER: muster cert inspect FILE")
    })?;
    let found = doors.registry.certificate(caller.scope().tenant(), &id).await?;
    Ok(Json(view::CertificateDetail {
        schema: "muster.certificate/1".to_owned(),
        pem: pem(&found.der),
        device_state: found.state.as_str().to_owned(),
        key: hex::encode(found.key),
        certificate: listed(&found),
    }))
}

fn listed(row: &Listed) -> view::ListedCertificate {
    view::ListedCertificate {
        certificate_id: row.id.to_string(),
        serial: row.serial.to_string(),
        tenant: row.tenant.to_string(),
        device_id: row.device_id.to_string(),
        status: row.status.as_str().to_owned(),
        issuer: hex::encode(&row.issuer),
        not_before: time::from_s(row.not_before_s),
        not_after: time::from_s(row.not_after_s),
        revocation_reason: row.revoked.map(|(why, _)| why.as_str().to_owned()),
        revoked_at: row.revoked.map(|(_, at_ms)| time::from_ms(at_ms)),
        replaced_by: row.replaced_by.map(|id| id.to_string()),
        status_index: row.status_index,
    }
}

async fn authorities(
    caller: Caller,
    State(doors): State<Doors>,
) -> Result<Json<view::Page<view::Authority>>, Problem> {
    caller.may(Need::Look)?;
    let own = &doors.held;
    let mut items = vec![authority("root", &own.root, "off line", None)];
    items.extend(own.all.iter().enumerate().map(|(at, (name, ca))| {
        let issues = at < own.issuing;
        let place = if issues { "this server" } else { "this server, for what it has issued" };
        view::Authority { issues, ..authority(name, ca.certificate(), place, None) }
    }));
    let stations = doors.registry.factory_authorities().await?;
    for (record, devices) in stations.into_iter().filter(|(of, _)| caller.scope().covers(&of.tenant)) {
        let place = format!("station {}", record.station);
        items.push(authority(record.station.as_str(), &record.factory, &place, Some(devices)));
    }
    let total = items.len() as u64;
    Ok(Json(view::Page::new("authority", items, None, Some(total))))
}

/// SHA-256 of an authority's certificate.
pub(super) fn fingerprint(of: &CaCertificate) -> CertificateId {
    CertificateId(sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(of.der())).into())
}

fn authority(name: &str, of: &CaCertificate, key_at: &str, devices: Option<u64>) -> view::Authority {
    view::Authority {
        name: name.to_owned(),
        subject: of.name().to_owned(),
        purpose: of.purpose().word().to_owned(),
        fingerprint: fingerprint(of).to_string(),
        key_id: hex::encode(of.key_id()),
        key_at: key_at.to_owned(),
        issues: true,
        not_before: time::from_s(of.not_before_s()),
        not_after: time::from_s(of.not_after_s()),
        devices,
        pem: of.pem(),
    }
}

async fn crl(
    caller: Caller,
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    // A list names certificates of every tenant.
    caller.may_everywhere(Need::Look)?;
    let ca = doors.held.named(&name)?;
    // The number before the list: what is revoked meanwhile is on the next one.
    let number = doors.registry.generation().0;
    let mut revoked = doors.registry.revoked_of(&ca.certificate().key_id(), ENTRIES_MAX).await?;
    revoked.extend(issued_and_revoked(&doors, ca.certificate()).await?);
    revoked.sort_by_key(|one| std::cmp::Reverse(one.at_s));
    revoked.truncate(ENTRIES_MAX);
    let this_update_s = now_s();
    let list = Crl { number, this_update_s, next_update_s: this_update_s + CRL_LIFE_S, revoked };
    let signed = list.sign(ca).map_err(|error: CrlError| {
        tracing::error!(%error, "a revocation list cannot be signed");
        Problem::new(Code::Fault).what("the revocation list cannot be signed")
    })?;
    Ok(([(header::CONTENT_TYPE, "application/pkix-crl")], signed).into_response())
}

/// What of a CA was signed here for services and operators, and revoked since: by a decision about it, or by the
/// configuration, which says neither when nor why. A certificate that the ledger does not have was not issued on
/// this data directory; that nobody here may show it is all that can be said of it.
async fn issued_and_revoked(doors: &Doors, ca: &CaCertificate) -> Result<Vec<Revoked>, Problem> {
    let decided = doors.registry.revoked_singly().await?;
    let started_s = now_s().min(i64::try_from(doors.facts.started_at_ms / 1000).unwrap_or(i64::MAX));
    let configured = doors.trust.withdrawn().map(|id| (*id, RevocationReason::Unspecified, started_s));
    let decided = decided
        .into_iter()
        .map(|(id, reason, at_ms)| (id, reason, i64::try_from(at_ms / 1000).unwrap_or(i64::MAX)));
    // What was decided says more than the configuration does, and counts.
    let revoked: BTreeMap<_, _> =
        configured.chain(decided).map(|(id, reason, at_s)| (id, (reason, at_s))).collect();
    if revoked.is_empty() {
        return Ok(Vec::new());
    }
    let (dir, ca) = (doors.facts.data_dir.clone(), ca.clone());
    let listed = tokio::task::spawn_blocking(move || {
        let ledger = issued::read(&dir)?;
        let found = revoked.into_iter().filter_map(|(id, (reason, at_s))| {
            let certificate = ledger.get(&id).filter(|one| ca.vouches_for(&one.der).is_ok())?;
            Some(Revoked { serial: certificate.serial, at_s, reason })
        });
        Ok::<_, std::io::Error>(found.collect())
    });
    let listed = listed.await.map_err(std::io::Error::other).and_then(|listed| listed);
    listed.map_err(|error| {
        tracing::error!(%error, "the ledger of what was issued here cannot be read");
        Problem::new(Code::Fault).what("the revocation list cannot be made")
    })
}

async fn status_list(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    // It is one list of every tenant's devices.
    caller.may_everywhere(Need::Look)?;
    let ca = doors.held.named("operational")?;
    let refused = doors.registry.refused_devices(caller.scope().tenant());
    let signed = status_list::sign(&refused, "/v1/status-list", now_ms() / 1000, ca).map_err(|error| {
        tracing::error!(%error, "the status list cannot be signed");
        Problem::new(Code::Fault).what("the status list cannot be signed")
    })?;
    Ok(([(header::CONTENT_TYPE, "application/statuslist+jwt")], signed).into_response())
}
