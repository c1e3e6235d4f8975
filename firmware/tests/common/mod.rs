//! What the tests share: a TLS server and a small MQTT broker in memory, a station, a provisioned board.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{sync::Arc, time::SystemTime};

use embassy_futures::join::join;
use embedded_io_async::{Read, Write};
use muster_firmware::testing::{Flash, Pipe, TestNetwork, TestPlatform};
use muster_pki::{
    hierarchy::Hierarchy,
    profile::ServerName,
    testing::{self, Credential},
};
use muster_shared::{
    factory::{Answer, Endpoint, Envelope, Install, Request, Subject},
    frame::{self, Decoder},
    limits::{FRAME_MAX, FRAME_PAYLOAD_MAX, TLS_FRAGMENT_MAX},
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

pub const NAME: &str = "localhost";

pub fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

pub fn name() -> ServerName {
    ServerName::Dns(NAME.to_owned())
}

pub fn broker(hierarchy: &Hierarchy) -> Credential {
    testing::server(&hierarchy.broker, &[name()], now_s())
}

pub fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

/// As the edge's: TLS 1.3, records a device can hold, no tickets, client certificates of these CAs.
pub fn server_config(chain: &[Vec<u8>], key: Vec<u8>, clients: Option<&[u8]>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match clients {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(ca.to_vec())).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    // A chain that no library would make: rustls is told nothing about it.
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(key.into())).unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(ders(chain), key));
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.max_fragment_size = Some(TLS_FRAGMENT_MAX);
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// A TLS server on one end of a pipe.
pub struct Server {
    pub tls: ServerConnection,
    pub pipe: Pipe,
}

impl Server {
    pub fn new(config: Arc<ServerConfig>, pipe: Pipe) -> Self {
        Self { tls: ServerConnection::new(config).unwrap(), pipe }
    }

    pub async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        // The device may have gone; the server finds that out by itself.
        let _ = self.pipe.write_all(&out).await;
    }

    /// Reads application data until there is some. `Err` says why there will be none.
    pub async fn read(&mut self) -> Result<Vec<u8>, String> {
        loop {
            self.flush().await;
            let mut out = vec![0; 16_384];
            match std::io::Read::read(&mut self.tls.reader(), &mut out) {
                Ok(0) => return Err("closed".to_owned()),
                Ok(n) => {
                    out.truncate(n);
                    return Ok(out);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.to_string()),
            }
            let mut octets = [0; 4096];
            match self.pipe.read(&mut octets).await {
                Ok(0) | Err(_) => return Err("gone".to_owned()),
                Ok(n) => {
                    let mut rest = &octets[..n];
                    while !rest.is_empty() {
                        self.tls.read_tls(&mut rest).unwrap();
                        if let Err(e) = self.tls.process_new_packets() {
                            self.flush().await;
                            return Err(e.to_string());
                        }
                    }
                }
            }
        }
    }

    pub async fn write(&mut self, octets: &[u8]) {
        std::io::Write::write_all(&mut self.tls.writer(), octets).unwrap();
        self.flush().await;
    }

    pub async fn close(&mut self) {
        self.tls.send_close_notify();
        self.flush().await;
    }
}

/// The station's end of the factory port.
pub struct Station {
    pub pipe: Pipe,
    decoder: Box<Decoder>,
    number: u16,
}

impl Station {
    pub fn new(pipe: Pipe) -> Self {
        Self { pipe, decoder: Box::default(), number: 0 }
    }

    /// Asks, and gives the answer's octets.
    pub async fn raw(&mut self, payload: &[u8]) -> Vec<u8> {
        let (mut scratch, mut out) = (vec![0; FRAME_PAYLOAD_MAX + 4], vec![0; FRAME_MAX + 2]);
        let len = frame::encode(payload, &mut scratch, &mut out).unwrap();
        self.pipe.write_all(&out[..len]).await.unwrap();
        self.answer().await
    }

    pub async fn answer(&mut self) -> Vec<u8> {
        loop {
            let mut octet = [0];
            assert_eq!(self.pipe.read(&mut octet).await, Ok(1), "the device hung up");
            if let Some(frame) = self.decoder.push(octet[0]) {
                return frame.unwrap().to_vec();
            }
        }
    }

    /// Asks, and checks that the answer is to this request.
    pub async fn ask(&mut self, request: Request<'_>) -> Vec<u8> {
        self.number += 1;
        let mut payload = vec![0; FRAME_PAYLOAD_MAX];
        let payload = Envelope::new(self.number, request).write(&mut payload).unwrap();
        let answer = self.raw(payload).await;
        assert_eq!(Envelope::<Answer<'_>>::read(&answer).unwrap().request, self.number);
        answer
    }
}

pub fn body(answer: &[u8]) -> Answer<'_> {
    Envelope::<Answer<'_>>::read(answer).unwrap().body
}

pub const ENDPOINT: Endpoint<'static> = Endpoint {
    host: "10.0.2.2",
    port: 8883,
    server_name: NAME,
    keep_alive_s: 30,
    telemetry_s: 5,
    retry_s_max: 60,
};

/// A certificate for the key behind this request, as a station's factory CA issues it.
pub fn certify(hierarchy: &Hierarchy, subject: &Subject, csr: &[u8]) -> Vec<u8> {
    use muster_pki::{
        authority::{Authority, Request},
        csr::VerifiedCsr,
        ledger::MemoryLedger,
    };
    let csr = VerifiedCsr::verify(csr, subject).expect("the device's request holds");
    let fresh = muster_pki::profile::CertificateSerial::draw().unwrap();
    let authority = Authority::new(&hierarchy.stations[0].factory);
    let issued = authority.issue(&Request::Device(&csr), &mut MemoryLedger::default(), fresh, now_s());
    issued.expect("the factory CA issues").certificate
}

/// Everything up to and including the lock.
pub async fn provision(station: &mut Station, hierarchy: &Hierarchy, subject: &Subject) -> Vec<u8> {
    station.ask(Request::MakeKey).await;
    let answer = station.ask(Request::Csr(subject.clone())).await;
    let Answer::Csr(csr) = body(&answer) else { panic!("{:?}", body(&answer)) };
    let certificate = certify(hierarchy, subject, csr);
    let install = Install {
        certificate: &certificate,
        issuer: hierarchy.stations[0].factory.certificate().der(),
        endpoint: ENDPOINT,
        anchors: &hierarchy.anchors,
    };
    let answer = station.ask(Request::Install(install)).await;
    assert!(matches!(body(&answer), Answer::Ack { .. }), "{:?}", body(&answer));
    assert_eq!(body(&station.ask(Request::Lock).await), Answer::Locked);
    certificate
}

/// The flash of a board that has been through the factory.
pub fn provisioned(hierarchy: &Hierarchy, subject: &Subject) -> Flash {
    use embassy_futures::select::{Either, select};
    let flash = Flash::flashed_for(hierarchy.root_digest(), [0x33; 32]);
    let (platform, pipe) = TestPlatform::on(flash.clone(), TestNetwork::default());
    let mut station = Station::new(pipe);
    let mut resources = Box::new(muster_firmware::Resources::new());
    let device = muster_firmware::run(platform, &mut resources);
    let factory = provision(&mut station, hierarchy, subject);
    match muster_firmware::testing::block_on(select(Box::pin(device), Box::pin(factory))) {
        Either::First(never) => never,
        Either::Second(_) => flash,
    }
}

/// Both to their ends.
pub fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    muster_firmware::testing::block_on(join(Box::pin(a), Box::pin(b)))
}
