//! `connect_cpu_us`: what a full connect costs the server.
//!
//! Floor: rustls' side of the same handshake in memory, with a verifier that knows the certificate already,
//! as the registry does: no socket, no MQTT, no chain. `rustls_webpki` is the same with chain validation.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use muster_pki::testing;
use rustls::{
    ClientConnection, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::task::JoinSet;

use super::{
    Bench, Row, TURNS,
    client::{self, Client},
    cpu_us, folder, median,
    peer::Mosquitto,
    server::{Fleet, Server},
    thread_time,
};

/// Devices that connect, each again and again.
const DEVICES: usize = 64;
/// Connects in a turn: with 10 ms a tick of the kernel's clock, an error below 2 %.
const CONNECTS: usize = 4096;
/// Handshakes in memory in a turn: their clock is finer.
const IN_MEMORY: usize = 512;

pub(super) fn measure(bench: &Bench) -> Result<Row> {
    let dir = folder(&bench.workspace.target)?;
    let fleet = Fleet::new(DEVICES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    fleet.register(dir.path(), &runtime)?;
    let server = Server::start(bench, dir.path())?;
    let peer = Mosquitto::start(dir.path(), &fleet)?;
    let clients: Vec<Client> =
        fleet.devices.iter().map(|device| Client::new(&fleet, device)).collect::<Result<_>>()?;
    let known = config(&fleet, Arc::new(Known(aws_lc_rs::default_provider())))?;
    let chain = config(&fleet, webpki(&fleet)?)?;

    let mut turns: [Vec<f64>; 4] = Default::default();
    for _ in 0..TURNS {
        turns[0].push(runtime.block_on(turn(&clients, server.mqtt, server.id()))?);
        if let Some(peer) = &peer {
            turns[1].push(runtime.block_on(turn(&clients, peer.mqtt, peer.id()))?);
        }
        turns[2].push(in_memory(&fleet, &known)?);
        turns[3].push(in_memory(&fleet, &chain)?);
    }
    let [value, mosquitto, floor, webpki] = turns;
    let row = Row::new("connect_cpu_us", "us", median(value)?, Some(median(floor)?));
    let row = row.peer("rustls_webpki", median(webpki)?);
    Ok(if peer.is_some() { row.peer("mosquitto", median(mosquitto)?) } else { row })
}

/// The process's time for one connect.
async fn turn(clients: &[Client], to: SocketAddr, process: u32) -> Result<f64> {
    let before = cpu_us(process)?;
    let mut devices = JoinSet::new();
    for client in clients {
        let client = client.clone();
        devices.spawn(async move {
            for _ in 0..CONNECTS / DEVICES {
                client::leave(client.connect(to).await?).await;
            }
            anyhow::Ok(())
        });
    }
    while let Some(device) = devices.join_next().await {
        device??;
    }
    Ok((cpu_us(process)? - before) / CONNECTS as f64)
}

/// This thread's time for the server's side of one handshake.
fn in_memory(fleet: &Fleet, config: &Arc<ServerConfig>) -> Result<f64> {
    let client = client::config(fleet, &fleet.devices[0])?;
    let mut spent = Duration::ZERO;
    for _ in 0..IN_MEMORY {
        let mut device = ClientConnection::new(Arc::clone(&client), ServerName::try_from("localhost")?)?;
        let mut octets = Vec::new();
        device.write_tls(&mut octets)?;
        let start = thread_time();
        let mut server = ServerConnection::new(Arc::clone(config))?;
        let mut answer = step(&mut server, &octets)?;
        spent += thread_time() - start;
        octets.clear();
        device.read_tls(&mut answer.as_slice())?;
        device.process_new_packets()?;
        device.write_tls(&mut octets)?;
        let start = thread_time();
        answer = step(&mut server, &octets)?;
        spent += thread_time() - start;
        anyhow::ensure!(answer.is_empty() && !server.is_handshaking(), "the handshake has not ended");
    }
    Ok(spent.as_secs_f64() * 1e6 / IN_MEMORY as f64)
}

fn step(server: &mut ServerConnection, mut octets: &[u8]) -> Result<Vec<u8>> {
    while !octets.is_empty() {
        server.read_tls(&mut octets)?;
        server.process_new_packets()?;
    }
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer)?;
    }
    Ok(answer)
}

fn config(fleet: &Fleet, verifier: Arc<dyn ClientCertVerifier>) -> Result<Arc<ServerConfig>> {
    let now_s = i64::try_from(UnixTime::now().as_secs())?;
    let broker = testing::server(&fleet.hierarchy.broker, &["localhost".parse()?], now_s);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![broker.chain[0].clone().into()],
            PrivateKeyDer::Pkcs8(broker.key_pkcs8().into()),
        )?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn webpki(fleet: &Fleet) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(fleet.hierarchy.stations[0].factory.certificate().der().to_vec()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

/// A verifier for whom every certificate is one it has looked up: only the proof is checked.
#[derive(Debug)]
struct Known(rustls::crypto::CryptoProvider);

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        proof: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, proof, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
