//! The factory from outside: a scripted board in virtual time, power cuts at every octet, the whole tool.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod board;
mod ceremony;
mod journal;
mod pair;
mod tool;

use std::path::Path;

use muster_pki::{bundle::StationBundle, hierarchy::Hierarchy, testing};
use muster_provisioning::{
    order::{Order, RawOrder},
    station::Material,
};

/// 2026-11-22T14:02:11Z.
pub(crate) const NOW_S: i64 = 1_795_356_131;

/// What station `S-07` holds.
pub(crate) fn bundle(hierarchy: &Hierarchy) -> StationBundle {
    hierarchy.station_bundle(&"S-07".parse().unwrap()).unwrap()
}

/// A hierarchy, and what station `S-07` gives its units.
pub(crate) fn station() -> (Hierarchy, StationBundle) {
    let hierarchy = testing::hierarchy(NOW_S);
    let bundle = bundle(&hierarchy);
    (hierarchy, bundle)
}

/// An order for an emulated board.
pub(crate) fn order() -> Order {
    RawOrder {
        host: Some("10.0.2.2".into()),
        server_name: Some("localhost".into()),
        hardware: Some("mps2-an386".into()),
        ..RawOrder::default()
    }
    .valid()
    .unwrap()
}

/// What units of [`order`] are given.
pub(crate) fn material(bundle: &StationBundle) -> Material {
    Material {
        order: order(),
        issuer: bundle.factory.certificate().der().to_vec(),
        anchors: bundle.anchors.clone(),
    }
}

/// The journal of station `S-07`.
pub(crate) fn journal(path: &Path) -> muster_provisioning::journal::Journal {
    muster_provisioning::journal::Journal::open(path, &"acme".parse().unwrap(), &"S-07".parse().unwrap())
        .unwrap()
}
