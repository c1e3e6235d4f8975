//! A device of our firmware and a copy of its flash, at the real edge: whichever of the two comes second
//! shows a continuity token that is an old one by then, and both are put off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod born;

use std::{sync::Arc, time::Duration};

use born::provisioned;
use muster_hil::workbench::now_s;
use muster_pki::{
    hierarchy::Hierarchy,
    testing::{self, Credential},
};
use muster_server::{
    app::Messages,
    edge::{BrokerCredential, Doors, Edge, Limits, Trust},
    registry::{Act, Actor, DeviceState, Reason, Registry, now_ms},
    revocation::Revocation,
};
use muster_sim::{Config, Device, Flash, Fleet, Route};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);

/// A server's edge that knows one device.
struct Site {
    _dir: TempDir,
    registry: Registry,
    messages: Messages,
    revocation: Revocation,
    edge: Edge,
    birth: Credential,
}

impl Site {
    async fn with(hierarchy: &Hierarchy, serial: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let registry = Registry::open(dir.path()).await.unwrap();
        let root = CertificateDer::from(hierarchy.root.certificate().der());
        registry.trust_root(&Actor::server(), &root).await.unwrap();
        registry.trust_station(&Actor::server(), &hierarchy.stations[0].record_file).await.unwrap();
        let birth = testing::device(hierarchy, &testing::subject(serial), now_s());
        let manifest = testing::manifest(hierarchy, "B-0001", std::slice::from_ref(&birth), now_ms());
        registry.import_manifest(&Actor::server(), &manifest).await.unwrap();
        let messages = Messages::open(dir.path(), &registry).await.unwrap();
        let (uplink, sessions) = (messages.uplink.clone(), messages.sessions.clone());
        let revocation = Revocation::new(registry.clone(), sessions.clone(), uplink.clone());
        let server = testing::server(&hierarchy.broker, &["localhost".parse().unwrap()], now_s());
        let doors = Doors {
            registry: registry.clone(),
            uplink,
            tail: messages.tail.clone(),
            roster: sessions.roster().clone(),
            sessions,
            revocation: revocation.clone(),
            broker: BrokerCredential {
                chain: vec![CertificateDer::from(server.chain[0].clone())],
                key: PrivatePkcs8KeyDer::from(server.key_pkcs8()).into(),
            },
            trust: Arc::new(Trust::default()),
            zero_touch: None,
            limits: Limits::default(),
        };
        let edge = Edge::start(doors, ([127, 0, 0, 1], 0).into(), 1).unwrap();
        Self { _dir: dir, registry, messages, revocation, edge, birth }
    }

    async fn is(&self, state: DeviceState) {
        let serial = self.birth.identity().serial;
        let look = async {
            while self.registry.device(&serial).await.unwrap().row.state != state {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("the device does not become {state:?}"));
    }

    async fn stop(self) {
        self.edge.stop(Duration::from_secs(5)).await;
        drop(self.revocation);
        self.messages.close().await;
        self.registry.close().await;
    }
}

/// Switches a device with this flash on.
async fn switch_on(fleet: &mut Fleet, site: &Site, flash: &Flash) -> Device {
    let mut config = Config::new(flash.clone());
    config.route = Route::To(site.edge.local_addr());
    fleet.spawn(config).await.unwrap()
}

async fn says(device: &Device, words: &str) {
    let said = timeout(PATIENCE, device.log().wait_for(words)).await;
    assert!(said.is_ok(), "no {words:?} in {:#?}", device.log().lines());
}

async fn connected(fleet: &mut Fleet, site: &Site, flash: &Flash) -> Device {
    let device = switch_on(fleet, site, flash).await;
    says(&device, "muster mqtt connected").await;
    device
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_goes_on_for_ever_and_a_copy_of_its_flash_is_found_out() {
    let hierarchy = testing::hierarchy(now_s());
    let site = Site::with(&hierarchy, "MU-000001").await;
    let flash = provisioned(&hierarchy, "MU-000001", &site.birth).await;
    let mut fleet = Fleet::start(1).unwrap();
    // Alone it may be switched off whenever: the second start confirms what the first was given, and so on.
    for _ in 0..4 {
        connected(&mut fleet, &site, &flash).await.unplug().await.unwrap();
    }
    site.is(DeviceState::Active).await;
    assert_eq!(site.edge.seen().continuity_alerts, 0);

    // Here somebody reads its flash out.
    let stolen = flash.duplicate();
    let device = connected(&mut fleet, &site, &flash).await;
    device.unplug().await.unwrap();
    connected(&mut fleet, &site, &flash).await.unplug().await.unwrap();
    // The device has moved on twice: the copy is behind, and never gets in.
    let copy = switch_on(&mut fleet, &site, &stolen).await;
    says(&copy, "our continuity token is an old one").await;
    assert!(!copy.log().lines().iter().any(|line| line.contains("mqtt connected")));
    site.is(DeviceState::Quarantined).await;
    assert_eq!(site.edge.seen().continuity_alerts, 1);
    copy.unplug().await.unwrap();
    let device = switch_on(&mut fleet, &site, &flash).await;
    says(&device, "quarantined").await;
    device.unplug().await.unwrap();

    // Looked at, and released: the one that is left goes on with the token it has.
    let (ana, serial) = (Actor::server(), site.birth.identity().serial);
    let reason = Reason::new("the copy was found and destroyed");
    site.revocation.decide(&ana, &serial, Act::Release, &reason).await.unwrap();
    for _ in 0..2 {
        connected(&mut fleet, &site, &flash).await.unplug().await.unwrap();
    }
    site.is(DeviceState::Active).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_comes_first_is_found_out_by_the_device_itself() {
    let hierarchy = testing::hierarchy(now_s());
    let site = Site::with(&hierarchy, "MU-000001").await;
    let flash = provisioned(&hierarchy, "MU-000001", &site.birth).await;
    let mut fleet = Fleet::start(1).unwrap();
    for _ in 0..2 {
        connected(&mut fleet, &site, &flash).await.unplug().await.unwrap();
    }
    let stolen = flash.duplicate();
    let device = connected(&mut fleet, &site, &flash).await;
    // The copy shows what the device has just confirmed: one of the two, as far as anybody can tell.
    let copy = connected(&mut fleet, &site, &stolen).await;
    says(&device, "another session with our key took over").await;
    // The device comes back with the token it was given meanwhile, which is behind the copy's.
    says(&device, "our continuity token is an old one").await;
    site.is(DeviceState::Quarantined).await;
    says(&copy, "quarantined").await;
    copy.unplug().await.unwrap();
    device.unplug().await.unwrap();
    site.stop().await;
}
