//! What a row of an import costs: how many a second are on disk, their signatures checked.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use muster_pki::testing;
use muster_server::registry::{
    Actor, Registry,
    import::{Listed, ListedRow, Offered},
};

use super::{Bench, Row, folder, median, server::Fleet};

/// Devices of one manifest: a large batch of a factory.
const DEVICES: usize = 20_000;
/// Devices of one list: what the command line sends at once.
const LIST: usize = 4000;
/// Each turn makes a registry of its own.
const TURNS: usize = 3;

/// Rows a second of a manifest into a new registry; beside it those of lists of certificates.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let fleet = Fleet::new(DEVICES);
    let now_ms = muster_server::registry::now_ms();
    let manifest = testing::manifest(&fleet.hierarchy, "B-0001", &fleet.devices, now_ms);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut manifests, mut lists) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let dir = folder(&bench.workspace.target)?;
        let (one, two) = (dir.path().join("manifest"), dir.path().join("list"));
        manifests.push(runtime.block_on(async {
            let registry = open(&one, &fleet).await?;
            let began = Instant::now();
            let report = registry.import_manifest(&Actor::server(), &manifest).await?;
            let took = began.elapsed();
            ensure!(report.registered == DEVICES as u64, "not every device was registered");
            registry.close().await;
            Ok(DEVICES as f64 / took.as_secs_f64())
        })?);
        lists.push(runtime.block_on(async {
            let registry = open(&two, &fleet).await?;
            let began = Instant::now();
            for devices in fleet.devices.chunks(LIST) {
                let rows = (1..).zip(devices).map(|(line, device)| ListedRow {
                    line,
                    certificate: Ok(device.chain[0].clone()),
                    serial: None,
                });
                let list = Listed {
                    batch: "B-0001".parse()?,
                    product: "bench".to_owned(),
                    rows: rows.collect(),
                    offered: Offered::ByList,
                };
                registry.import_listed(&Actor::server(), list).await?;
            }
            let took = began.elapsed();
            ensure!(registry.verdicts().devices() == DEVICES, "not every device was registered");
            registry.close().await;
            Ok(DEVICES as f64 / took.as_secs_f64())
        })?);
    }
    let row = Row::new("import_rows_per_s", "rows/s", median(manifests)?, None);
    Ok(vec![row.peer("list", median(lists)?)])
}

/// A registry that trusts the fleet's stations.
async fn open(dir: &Path, fleet: &Fleet) -> Result<Registry> {
    std::fs::create_dir(dir)?;
    let registry = Registry::open(dir).await?;
    let root = fleet.hierarchy.root.certificate().der().to_vec();
    registry.trust_root(&Actor::server(), &root.into()).await?;
    for station in &fleet.hierarchy.stations {
        registry.trust_station(&Actor::server(), &station.record_file).await?;
    }
    Ok(registry)
}
