//! The server that is measured: the release build, on a data directory that knows a fleet.

use std::{fs::File, io::Write as _, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use muster_pki::{
    Passphrase,
    hierarchy::Hierarchy,
    manifest,
    station::SerialRange,
    testing::{self, Credential},
};
use muster_server::{
    app::Addresses,
    config,
    init::{self, KeySource, Plan},
    registry::{Actor, Registry, now_ms},
};
use muster_shared::SerialNumber;
use tokio::runtime::Runtime;

use super::Bench;
use crate::process::{Running, pause};

/// Devices of one manifest.
pub(super) const BATCH_MAX: usize = 10_000;
/// Devices the one station may make: as many as serials of six digits.
const STATION_MAX: u64 = 999_999;
/// How long the server may take to open both doors: it derives the keys of its key files.
const START: Duration = Duration::from_secs(120);

/// Devices of one hierarchy, as a factory would have made them.
pub(super) struct Fleet {
    pub(super) hierarchy: Hierarchy,
    pub(super) devices: Vec<Credential>,
}

impl Fleet {
    pub(super) fn new(count: usize) -> Self {
        let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
        // The first station makes them all, whatever the plan of the tests allows it.
        let mut plan = testing::plan();
        plan.stations.truncate(1);
        plan.stations[0].quota = STATION_MAX;
        plan.stations[0].serials = SerialRange::new(&serial(1), &serial(STATION_MAX)).expect("a range");
        let hierarchy = Hierarchy::create(&plan, now_s).expect("the plan is sound");
        let devices = (1..=count)
            .map(|n| testing::device(&hierarchy, &testing::subject(&format!("MU-{n:06}")), now_s))
            .collect();
        Self { hierarchy, devices }
    }

    /// What the batch with this number is called, from 1.
    pub(super) fn batch(number: usize) -> String {
        format!("B-{number:04}")
    }

    /// The station's manifests of all devices, each chained to the one before.
    fn manifests(&self) -> Result<Vec<Vec<u8>>> {
        let station = &self.hierarchy.stations[0];
        let (mut all, mut last) = (Vec::new(), None);
        for (number, devices) in (1..).zip(self.devices.chunks(BATCH_MAX)) {
            let batch = Self::batch(number);
            let manifest = testing::manifest_of(station, &batch, last, devices, now_ms());
            let verified = manifest::read(&manifest)?.verify(&station.record)?;
            last = Some((verified.header.sequence, verified.digest));
            all.push(manifest);
        }
        Ok(all)
    }

    /// Makes a data directory whose registry knows all devices.
    pub(super) fn register(&self, dir: &Path, runtime: &Runtime) -> Result<()> {
        let (bundle, passphrase_file) = (dir.join("ceremony"), dir.join("passphrase"));
        let passphrase = Passphrase::generate()?;
        std::fs::write(&passphrase_file, passphrase.expose_secret())?;
        self.hierarchy.server_bundle().write(&bundle, &passphrase)?;
        let (data_dir, operator) = (dir.join("data"), "bench".to_owned());
        let keys = KeySource::Ceremony { bundle, passphrase_file };
        let plan = Plan { data_dir, keys, operator, registry: muster_server::config::Registry::default() };
        init::make(&plan).map_err(|problem| anyhow::anyhow!("{problem:?}"))?;
        let service =
            format!("\n[[service]]\nname = \"{SERVICE}\"\nfleet = true\npublish = []\nsubscribe = [\"#\"]\n");
        let mut config = File::options().append(true).open(plan.data_dir.join(config::FILE_NAME))?;
        config.write_all(service.as_bytes())?;
        let manifests = self.manifests()?;
        runtime.block_on(async {
            let registry = Registry::open(&plan.data_dir).await?;
            let mut registered = 0;
            for manifest in &manifests {
                registered += registry.import_manifest(&Actor::server(), manifest).await?.registered;
            }
            ensure!(registered == self.devices.len() as u64, "not every device was registered");
            registry.close().await;
            Ok(())
        })
    }
}

fn serial(number: u64) -> SerialNumber {
    format!("MU-{number:06}").parse().expect("a serial")
}

/// The pace at the door and each device's own, out of the way.
const UNPACED: [(&str, &str); 4] = [
    ("MUSTER_LIMITS_HANDSHAKES_PER_S", "1000000"),
    ("MUSTER_LIMITS_HANDSHAKES_PER_ADDRESS_PER_S", "1000000"),
    ("MUSTER_LIMITS_HANDSHAKES_PER_ADDRESS", "1000000"),
    ("MUSTER_LIMITS_MESSAGES_PER_S", "1000000"),
];
/// The first batch; the only one of a fleet of at most [`BATCH_MAX`].
pub(super) const BATCH: &str = "B-0001";
/// The one service, which sees everything.
pub(super) const SERVICE: &str = "bench";

/// A running server.
pub(super) struct Server {
    pub(super) mqtt: SocketAddr,
    pub(super) https: SocketAddr,
    process: Running,
}

impl Server {
    /// What starts `muster serve` on `dir`, which [`Fleet::register`] has made.
    pub(super) fn command(bench: &Bench, dir: &Path) -> Command {
        let mut serve = Command::new(bench.programs.join("muster"));
        serve.arg("serve").arg("--data-dir").arg(dir.join("data"));
        serve.env("MUSTER_MQTT_LISTEN", "127.0.0.1:0").env("MUSTER_HTTPS_LISTEN", "127.0.0.1:0");
        serve.env("MUSTER_LOG_LEVEL", "warn").envs(UNPACED);
        serve
    }

    /// Starts it with settings of its own, as the environment gives them, and waits for its doors.
    pub(super) fn start(bench: &Bench, dir: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let data = dir.join("data");
        let mut serve = Self::command(bench, dir);
        serve.envs(settings.iter().copied());
        let mut process = Running::start("the server", &serve, Some(&dir.join("server.log")))?;
        let until = std::time::Instant::now() + START;
        loop {
            if let Some(addresses) = Addresses::read(&data) {
                let Addresses { mqtt_address: mqtt, https_address: https, .. } = addresses;
                return Ok(Self { mqtt, https, process });
            }
            ensure!(!process.ended(), "the server ended: {}", process.log.tail(5));
            ensure!(std::time::Instant::now() < until, "the server does not open its doors");
            pause(Duration::from_millis(20))?;
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}
