//! What a device's certificate stands on: itself, the CA that issued it, the root. Each is good, or what is
//! wrong with it is said. The gate decides by the same: the registry's verdicts and the dates.

use muster_shared::CertificateId;
use sha2::{Digest as _, Sha256};

use super::{Doors, certificates::fingerprint, time, view};
use crate::registry::{Group, KeyId, now_ms, query::CertificateRow, verdict::CertificateStatus};

/// The chain of a device's certificate.
pub(super) fn of(certificate: &CertificateRow, doors: &Doors) -> Vec<view::ChainLink> {
    vec![own(certificate, doors), issuer(certificate, doors), root(doors)]
}

/// A certificate that this server has.
struct Had {
    fingerprint: CertificateId,
    not_after_s: i64,
}

fn link(role: &str, name: String, had: Option<Had>, fault: Option<String>) -> view::ChainLink {
    let now_s = (now_ms() / 1000).cast_signed();
    let ended = had.as_ref().filter(|of| of.not_after_s < now_s).map(|_| "it has ended".to_owned());
    view::ChainLink {
        role: role.to_owned(),
        name,
        fingerprint: had.as_ref().map(|of| of.fingerprint.to_string()),
        not_after: had.map(|of| time::from_s(of.not_after_s)),
        fault: fault.or(ended),
    }
}

fn own(of: &CertificateRow, doors: &Doors) -> view::ChainLink {
    let name = of.id.to_string();
    let name = name.get(..8).unwrap_or(&name).to_owned();
    let fault = match (of.status, of.revoked) {
        (CertificateStatus::Revoked, Some((why, _))) => Some(format!("it is revoked: {why}")),
        (CertificateStatus::Revoked, None) => Some("it is revoked".to_owned()),
        (CertificateStatus::Superseded, _) => Some("another took its place".to_owned()),
        (CertificateStatus::Pending | CertificateStatus::Active, _) => None,
    };
    let had = Had { fingerprint: of.id, not_after_s: of.not_after_s };
    link("device", name, Some(had), fault.or_else(|| held(&Group::Certificate(of.id), doors)))
}

/// What a rule says against it.
fn held(group: &Group, doors: &Doors) -> Option<String> {
    doors.registry.verdicts().held(group).map(|hold| format!("it is {}", hold.state()))
}

fn issuer(of: &CertificateRow, doors: &Doors) -> view::ChainLink {
    let held = KeyId::try_from(&of.issuer[..]).ok().and_then(|key| held(&Group::Ca(key), doors));
    if let Some(factory) = doors.registry.verdicts().issuer(&of.issuer) {
        let fault = factory.withdrawn.then(|| "it is withdrawn".to_owned()).or(held);
        let name = format!("factory CA of {}", factory.station);
        let fingerprint = CertificateId(Sha256::digest(&factory.certificate).into());
        return link("issuer", name, Some(Had { fingerprint, not_after_s: factory.not_after_s }), fault);
    }
    match doors.held.by_key_id(&of.issuer) {
        Some((name, ca)) => {
            let had = Had { fingerprint: fingerprint(ca), not_after_s: ca.not_after_s() };
            link("issuer", format!("{name} CA"), Some(had), held)
        }
        None => {
            link("issuer", hex::encode(&of.issuer), None, Some("this server does not know it".to_owned()))
        }
    }
}

fn root(doors: &Doors) -> view::ChainLink {
    let root = doors.held.root();
    let had = Had { fingerprint: fingerprint(root), not_after_s: root.not_after_s() };
    link("root", root.name().to_owned(), Some(had), None)
}
