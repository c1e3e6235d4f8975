//! The server under test: the real edge, log and registry, two devices, and a fleet-wide service that may do
//! anything a service may.

use std::sync::Arc;

use muster_pki::testing::{self, Credential};
use muster_server::edge::{Limits, Service, Trust, Verify};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::{
    client::Client,
    packets::Connect,
    reading::Packet,
    site::{HIERARCHY, Site, now_s},
};

/// The name of the service the tests act for.
const SERVICE: &str = "suite";

pub(crate) struct Broker {
    site: Option<Site>,
    trust: Trust,
    service: Arc<ClientConfig>,
}

/// What a client shows.
fn tls(credential: &Credential) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(HIERARCHY.broker.certificate().der())).unwrap();
    let provider = aws_lc_rs::default_provider();
    let key = PrivatePkcs8KeyDer::from(credential.key_pkcs8()).into();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let leaf = CertificateDer::from(credential.chain[0].clone());
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![leaf], key))));
    Arc::new(config)
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let all = ["#"];
        let service = Service::new(SERVICE.parse().unwrap(), None, all, all).unwrap();
        let ca = HIERARCHY.service.certificate();
        let trust = Trust::new(Verify::Pinned).services(ca, [Arc::new(service)], []);
        let credential = testing::named(&HIERARCHY.service, SERVICE, now_s());
        let site = Site::trusting(2, trust.clone()).await;
        Self { site: Some(site), trust, service: tls(&credential) }
    }

    /// Stops the server in order and starts it again on what it kept. Every connection is gone.
    pub(crate) async fn restart(&mut self) {
        let site = self.site.take().expect("it runs");
        let (dir, devices) = site.shut().await;
        let mut site = Site::on(dir, 0, Limits::default(), self.trust.clone()).await;
        site.devices = devices;
        self.site = Some(site);
    }

    pub(crate) async fn stop(self) {
        self.site.expect("it runs").stop().await;
    }

    /// What it runs on.
    pub(crate) fn site(&self) -> &Site {
        self.site.as_ref().expect("it runs")
    }

    /// A TLS connection of the service; nothing said yet.
    pub(crate) async fn open(&self, version: u8) -> Client {
        Client::open(self.site().addr.port(), Arc::clone(&self.service), version).await.unwrap()
    }

    /// The same of a device, from 0.
    pub(crate) async fn open_device(&self, device: usize, version: u8) -> Client {
        let config = tls(&self.site().devices[device]);
        Client::open(self.site().addr.port(), config, version).await.unwrap()
    }

    /// A client of the service that was let in, and what CONNACK said.
    pub(crate) async fn connecting(&self, connect: Connect) -> (Client, Packet) {
        let mut client = self.open(connect.version).await;
        let connack = client.connect(&connect).await;
        assert_eq!((connack.kind(), connack.reason()), (0x20, 0), "{connack:02x?}");
        (client, connack)
    }

    /// A client of the service that was let in.
    pub(crate) async fn connect(&self, connect: Connect) -> Client {
        self.connecting(connect).await.0
    }

    /// A client of the service with a clean session.
    pub(crate) async fn client(&self, version: u8, id: &str) -> Client {
        self.connect(Connect::new(version, id)).await
    }

    /// A device with a clean session.
    pub(crate) async fn device(&self, device: usize, version: u8) -> Client {
        let mut client = self.open_device(device, version).await;
        let id = self.site().devices[device].identity().device_id;
        let connack = client.connect(&Connect::new(version, id.as_str())).await;
        assert_eq!(connack.reason(), 0, "{connack:02x?}");
        client.marks_at(&format!("acme/{}/app/mark", id.as_str()));
        client
    }
}
