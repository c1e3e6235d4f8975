//! rustls' side of a handshake, by itself: the floor of what a connect costs.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use muster_pki::{hierarchy::Hierarchy, testing};
use muster_shared::limits::TLS_FRAGMENT_MAX;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::clock::thread_time;

/// Handshakes in memory in a turn: their clock is fine.
const IN_MEMORY: usize = 512;

/// A server of this hierarchy's broker authority under this name, with no tickets.
pub(super) fn server_config(
    hierarchy: &Hierarchy,
    name: &str,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>> {
    let now_s = i64::try_from(UnixTime::now().as_secs())?;
    let broker = testing::server(&hierarchy.broker, &[name.parse()?], now_s);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![broker.chain[0].clone().into()],
            PrivateKeyDer::Pkcs8(broker.key_pkcs8().into()),
        )?;
    config.max_fragment_size = Some(TLS_FRAGMENT_MAX);
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The chain of each client, as webpki verifies it.
pub(super) fn chain_verifier(hierarchy: &Hierarchy) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(hierarchy.stations[0].factory.certificate().der().to_vec()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

/// Every certificate is one that was looked up: only the proof of its key is checked.
pub(super) fn known_verifier() -> Arc<dyn ClientCertVerifier> {
    Arc::new(Known(aws_lc_rs::default_provider()))
}

/// This thread's time for the server's side of one handshake, µs.
pub(super) fn in_memory(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<f64> {
    let mut spent = Duration::ZERO;
    for _ in 0..IN_MEMORY {
        let mut device = ClientConnection::new(Arc::clone(client), ServerName::try_from("localhost")?)?;
        let mut octets = Vec::new();
        device.write_tls(&mut octets)?;
        let start = thread_time();
        let mut server = ServerConnection::new(Arc::clone(server))?;
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

#[derive(Debug)]
struct Known(CryptoProvider);

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
