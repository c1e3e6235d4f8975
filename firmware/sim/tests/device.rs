//! A simulated device through the factory and out of it: real station messages over the port, a real
//! socket on the network side.
#![allow(clippy::unwrap_used, reason = "a test's helpers")]

use std::time::Duration;

use muster_pki::{
    authority::{Authority, Request as Issue},
    csr::VerifiedCsr,
    hierarchy::Hierarchy,
    ledger::MemoryLedger,
    profile::CertificateSerial,
    testing,
};
use muster_shared::{
    factory::{Answer, Endpoint, Envelope, Install, Request, Stage},
    frame::{self, Decoder},
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX},
    vendor::VendorPage,
};
use muster_sim::{Config, Entropy, Flash, Fleet, Route, Tally};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(120);

fn now_s() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

struct Station {
    cable: DuplexStream,
    decoder: Box<Decoder>,
    number: u16,
}

impl Station {
    fn new(cable: DuplexStream) -> Self {
        Self { cable, decoder: Box::default(), number: 0 }
    }

    async fn ask(&mut self, request: Request<'_>) -> Vec<u8> {
        self.number += 1;
        let (mut payload, mut scratch) = (vec![0; FRAME_PAYLOAD_MAX], vec![0; FRAME_PAYLOAD_MAX + 4]);
        let mut out = vec![0; FRAME_MAX + 2];
        let payload = Envelope::new(self.number, request).write(&mut payload).unwrap();
        let len = frame::encode(payload, &mut scratch, &mut out).unwrap();
        self.cable.write_all(&out[..len]).await.unwrap();
        loop {
            let octet = timeout(PATIENCE, self.cable.read_u8()).await.unwrap().unwrap();
            if let Some(frame) = self.decoder.push(octet) {
                return frame.unwrap().to_vec();
            }
        }
    }
}

fn body(answer: &[u8]) -> Answer<'_> {
    Envelope::<Answer<'_>>::read(answer).unwrap().body
}

fn flash(hierarchy: &Hierarchy) -> Flash {
    let page = VendorPage { root_digest: hierarchy.root_digest(), hardware: "sim".try_into().unwrap() };
    Flash::flashed(&page, [7; 32])
}

async fn provision(station: &mut Station, hierarchy: &Hierarchy, serial: &str) {
    let subject = testing::subject(serial);
    assert!(matches!(body(&station.ask(Request::MakeKey).await), Answer::KeyMade { .. }));
    let answer = station.ask(Request::Csr(subject.clone())).await;
    let Answer::Csr(csr) = body(&answer) else { panic!("{:?}", body(&answer)) };
    let csr = VerifiedCsr::verify(csr, &subject).unwrap();
    let authority = Authority::new(&hierarchy.stations[0].factory);
    let fresh = CertificateSerial::draw().unwrap();
    let issued = authority.issue(&Issue::Device(&csr), &mut MemoryLedger::default(), fresh, now_s()).unwrap();
    let install = Install {
        certificate: &issued.certificate,
        issuer: hierarchy.stations[0].factory.certificate().der(),
        endpoint: Endpoint {
            host: "10.0.2.2",
            port: 8883,
            server_name: "localhost",
            keep_alive_s: 30,
            telemetry_s: 5,
            retry_s_max: 60,
        },
        anchors: &hierarchy.anchors,
    };
    let answer = station.ask(Request::Install(install)).await;
    assert!(matches!(body(&answer), Answer::Ack { .. }), "{:?}", body(&answer));
    assert_eq!(body(&station.ask(Request::Lock).await), Answer::Locked);
}

/// Provisioned over the port; after the plug was pulled it is the same device, and speaks TLS to where its
/// connections are sent.
#[tokio::test]
async fn a_device_keeps_its_identity_and_connects() {
    let hierarchy = testing::hierarchy(now_s());
    let mut fleet = Fleet::start(1).unwrap();
    let device = fleet.spawn(Config::new(flash(&hierarchy))).await.unwrap();
    let mut station = Station::new(device.factory_port());
    provision(&mut station, &hierarchy, "MU-000001").await;
    let flash = device.unplug().await.unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::new(flash);
    config.route = Route::To(listener.local_addr().unwrap());
    let device = fleet.spawn(config).await.unwrap();
    let (mut socket, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut record = [0; 6];
    timeout(PATIENCE, socket.read_exact(&mut record)).await.unwrap().unwrap();
    assert_eq!((record[0], record[5]), (22, 1), "a handshake record with a ClientHello (RFC 8446 §5.1, §4)");
    timeout(PATIENCE, device.log().wait_for("/MU-000001 | connecting to 10.0.2.2:8883")).await.unwrap();

    let mut station = Station::new(device.factory_port());
    let answer = station.ask(Request::Hello).await;
    let Answer::Hello(hello) = body(&answer) else { panic!("{:?}", body(&answer)) };
    assert_eq!(hello.stage, Stage::Locked);
    assert!(device.is_running());
}

/// No cable on the network side: the device says so and goes on trying.
#[tokio::test]
async fn without_a_network_it_says_so() {
    let hierarchy = testing::hierarchy(now_s());
    let mut fleet = Fleet::start(1).unwrap();
    let mut config = Config::new(flash(&hierarchy));
    config.route = Route::Down;
    config.entropy = Entropy::Seeded(1);
    let device = fleet.spawn(config.clone()).await.unwrap();
    provision(&mut Station::new(device.factory_port()), &hierarchy, "MU-000002").await;
    timeout(PATIENCE, device.log().wait_for("muster net ")).await.unwrap();
    assert!(device.is_running());
}

/// Many devices, few threads: each has its own key, and the tally knows them.
#[tokio::test]
async fn a_fleet_makes_as_many_keys() {
    const DEVICES: u8 = 12;
    let page = VendorPage { root_digest: [1; 32], hardware: "sim".try_into().unwrap() };
    let mut fleet = Fleet::start(2).unwrap();
    let mut tally = Tally::default();
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let device = fleet.spawn(Config::new(Flash::flashed(&page, [number; 32]))).await.unwrap();
        timeout(PATIENCE, device.log().wait_for("waiting for a station")).await.unwrap();
        tally.follow(&device);
        devices.push(device);
    }
    let count = tally.count();
    assert_eq!((count.devices, count.blank, count.online), (DEVICES.into(), DEVICES.into(), 0));
    let mut keys = std::collections::BTreeSet::new();
    for device in &devices {
        let answer = Station::new(device.factory_port()).ask(Request::MakeKey).await;
        let Answer::KeyMade { key_digest } = body(&answer) else { panic!("{:?}", body(&answer)) };
        keys.insert(key_digest);
    }
    assert_eq!(keys.len(), usize::from(DEVICES));
    drop(fleet);
    assert!(devices.iter().all(|device| !device.is_running()), "without threads no device runs");
}
