//! What a device's certificate stands on: itself, the CA that issued it, the root. Each is good, or what is
//! wrong with it is said. The gate decides by the same: the registry's verdicts and the dates.

use super::{Doors, time, view};
use crate::registry::{Group, KeyId, now_ms, query::DeviceDetail, verdict::CertificateStatus};

/// The chain of the certificate a device uses.
pub(super) fn of(detail: &DeviceDetail, doors: &Doors) -> Vec<view::ChainLink> {
    vec![own(detail, doors), issuer(detail, doors), root(doors)]
}

fn link(role: &str, name: String, not_after_s: Option<i64>, fault: Option<String>) -> view::ChainLink {
    let now_s = (now_ms() / 1000).cast_signed();
    let ended = not_after_s.filter(|at| *at < now_s).map(|_| "it has ended".to_owned());
    let not_after = not_after_s.map(time::from_s);
    view::ChainLink { role: role.to_owned(), name, not_after, fault: fault.or(ended) }
}

fn own(detail: &DeviceDetail, doors: &Doors) -> view::ChainLink {
    let row = &detail.row;
    let name = row.certificate.to_string();
    let name = name.get(..8).unwrap_or(&name).to_owned();
    let of = detail.certificates.iter().find(|of| of.id == row.certificate);
    let fault = of.and_then(|of| match (of.status, of.revoked) {
        (CertificateStatus::Revoked, Some((why, _))) => Some(format!("it is revoked: {why}")),
        (CertificateStatus::Revoked, None) => Some("it is revoked".to_owned()),
        (CertificateStatus::Superseded, _) => Some("another took its place".to_owned()),
        (CertificateStatus::Pending | CertificateStatus::Active, _) => None,
    });
    link(
        "device",
        name,
        Some(row.not_after_s),
        fault.or_else(|| held(&Group::Certificate(row.certificate), doors)),
    )
}

/// What a rule says against it.
fn held(group: &Group, doors: &Doors) -> Option<String> {
    doors.registry.verdicts().held(group).map(|hold| format!("it is {}", hold.state()))
}

fn issuer(detail: &DeviceDetail, doors: &Doors) -> view::ChainLink {
    let unknown = "this server does not know it".to_owned();
    let Ok(key) = hex::decode(&detail.row.issuer) else {
        return link("issuer", detail.row.issuer.clone(), None, Some(unknown));
    };
    let held = KeyId::try_from(&key[..]).ok().and_then(|key| held(&Group::Ca(key), doors));
    if let Some(factory) = doors.registry.verdicts().issuer(&key) {
        let fault = factory.withdrawn.then(|| "it is withdrawn".to_owned()).or(held);
        let name = format!("factory CA of {}", factory.station);
        return link("issuer", name, Some(factory.not_after_s), fault);
    }
    match doors.held.by_key_id(&key) {
        Some((name, ca)) => link("issuer", format!("{name} CA"), Some(ca.not_after_s()), held),
        None => link("issuer", detail.row.issuer.clone(), None, Some(unknown)),
    }
}

fn root(doors: &Doors) -> view::ChainLink {
    let root = doors.held.root();
    link("root", root.name().to_owned(), Some(root.not_after_s()), None)
}
