//! The checked connection against a real TLS server in memory, with good and bad chains.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, both, broker, name, now_s, server_config};
use muster_firmware::{
    testing::Pipe,
    tls::{self, Buffers, Distrust, Identity, Time, TlsError, Trust, Wire},
};
use muster_pki::{
    hierarchy::Hierarchy,
    testing::{self, OddServer},
};
use p256::{ecdsa::SigningKey, pkcs8::DecodePrivateKey};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustls::ServerConfig;
use std::sync::Arc;

struct Case<'c> {
    hierarchy: &'c Hierarchy,
    config: Arc<ServerConfig>,
    server_name: &'c str,
    time: Time,
}

/// What the device made of the server: what it read after sending `ping`, and what the server read.
fn run(case: Case<'_>, reply: &[u8]) -> (Result<Vec<u8>, TlsError>, Result<Vec<u8>, String>) {
    let device = testing::device(case.hierarchy, &testing::subject("MU-000001"), now_s());
    let key = SigningKey::from_pkcs8_der(&device.key_pkcs8()).unwrap();
    let (here, there) = Pipe::pair();
    let anchor = case.hierarchy.broker.certificate().der();
    let trust = Trust { anchors: &[anchor], server_name: case.server_name, time: case.time };
    let client = async {
        let wire = Wire::new(here);
        let mut buffers = Buffers::new();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let identity = Identity { certificate: &device.chain[0], key: &key };
        let mut checked = tls::connect(&wire, &mut rng, &identity, &trust, &mut buffers).await?;
        let (mut reader, mut writer) = checked.split();
        writer.write(b"ping").await?;
        let mut came = Vec::new();
        let mut chunk = [0; 100];
        while came.len() < reply.len() {
            let n = reader.read(&mut chunk).await?;
            came.extend_from_slice(&chunk[..n]);
        }
        Ok(came)
    };
    let server = async {
        let mut server = Server::new(case.config, there);
        let came = server.read().await;
        if came.is_ok() {
            server.write(reply).await;
        }
        came
    };
    both(client, server)
}

fn factory_ca(hierarchy: &Hierarchy) -> &[u8] {
    hierarchy.stations[0].factory.certificate().der()
}

fn known() -> Time {
    Time::Known(now_s() as u64)
}

#[test]
fn a_good_server_is_believed_and_both_ways_carry_data() {
    let hierarchy = testing::hierarchy(now_s());
    let broker = broker(&hierarchy);
    for time in [known(), Time::Floor(0), Time::Floor(now_s() as u64)] {
        let config = server_config(&broker.chain, broker.key_pkcs8(), Some(factory_ca(&hierarchy)));
        let reply: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let (came, got) =
            run(Case { hierarchy: &hierarchy, config, server_name: common::NAME, time }, &reply);
        assert_eq!(came.as_deref(), Ok(&reply[..]));
        assert_eq!(got.as_deref(), Ok(&b"ping"[..]));
    }
}

#[test]
fn every_odd_server_is_refused_and_hears_no_word() {
    let hierarchy = testing::hierarchy(now_s());
    for &odd in OddServer::ALL {
        let made = odd.make(&hierarchy, &name(), now_s());
        let config = server_config(&made.chain, made.key_pkcs8.clone(), Some(factory_ca(&hierarchy)));
        let (came, got) =
            run(Case { hierarchy: &hierarchy, config, server_name: common::NAME, time: known() }, b"pong");
        let expected = match odd {
            OddServer::WrongRoot
            | OddServer::FactoryIssued
            | OddServer::HttpsIssued
            | OddServer::OperationalIssued
            | OddServer::DeviceAsCa
            | OddServer::BrokerLeafAsCa
            | OddServer::TooDeep
            | OddServer::WrongIssuerName
            | OddServer::ForgedSignature
            | OddServer::SelfSigned => Some(Distrust::Issuer),
            OddServer::Expired => Some(Distrust::Ended),
            OddServer::NotYetValid => Some(Distrust::NotYetValid),
            OddServer::ClientAuthOnly | OddServer::CertSignOnly | OddServer::LeafIsCa => {
                Some(Distrust::Usage)
            }
            OddServer::NameInCnOnly | OddServer::NameInCnOtherSan | OddServer::WrongName => {
                Some(Distrust::Name)
            }
            OddServer::UnknownCritical => Some(Distrust::Form),
            // Refused by its key or by its signature, whichever is looked at first.
            _ => None,
        };
        match expected {
            Some(why) => assert_eq!(came, Err(TlsError::Distrusted(why)), "{odd:?}"),
            None => assert!(came.is_err(), "{odd:?}"),
        }
        assert!(got.is_err(), "{odd:?} heard {got:?}");
    }
}

#[test]
fn a_name_is_matched_against_the_san() {
    let hierarchy = testing::hierarchy(now_s());
    let broker = broker(&hierarchy);
    for (server_name, good) in [
        ("localhost", true),
        ("LOCALHOST", true),
        ("localhost.", true),
        ("127.0.0.1", false),
        ("other", false),
    ] {
        let config = server_config(&broker.chain, broker.key_pkcs8(), Some(factory_ca(&hierarchy)));
        let (came, _) = run(Case { hierarchy: &hierarchy, config, server_name, time: known() }, b"pong");
        match good {
            true => assert_eq!(came.as_deref(), Ok(&b"pong"[..]), "{server_name}"),
            false => assert_eq!(came, Err(TlsError::Distrusted(Distrust::Name)), "{server_name}"),
        }
    }
}

#[test]
fn without_a_clock_only_the_floor_is_checked() {
    let hierarchy = testing::hierarchy(now_s());
    let case = |odd: OddServer, time| {
        let made = odd.make(&hierarchy, &name(), now_s());
        let config = server_config(&made.chain, made.key_pkcs8.clone(), Some(factory_ca(&hierarchy)));
        run(Case { hierarchy: &hierarchy, config, server_name: common::NAME, time }, b"pong").0
    };
    let floor = Time::Floor(now_s() as u64);
    assert_eq!(case(OddServer::Expired, floor), Err(TlsError::Distrusted(Distrust::Ended)));
    assert!(case(OddServer::NotYetValid, floor).is_ok(), "it may be later than the floor");
}

#[test]
fn a_server_that_does_not_ask_who_we_are_is_not_ours() {
    let hierarchy = testing::hierarchy(now_s());
    let broker = broker(&hierarchy);
    let config = server_config(&broker.chain, broker.key_pkcs8(), None);
    let (came, got) =
        run(Case { hierarchy: &hierarchy, config, server_name: common::NAME, time: known() }, b"pong");
    assert!(matches!(came, Err(TlsError::Failed | TlsError::Distrusted(_))), "{came:?}");
    assert!(got.is_err());
}

#[test]
fn a_refusal_after_the_handshake_keeps_its_alert() {
    let hierarchy = testing::hierarchy(now_s());
    let broker = broker(&hierarchy);
    // A server that knows another station's factory only.
    let other = hierarchy.stations[1].factory.certificate().der();
    let config = server_config(&broker.chain, broker.key_pkcs8(), Some(other));
    let (came, got) =
        run(Case { hierarchy: &hierarchy, config, server_name: common::NAME, time: known() }, b"pong");
    assert_eq!(came, Err(TlsError::Alert(48)));
    assert_eq!(came.unwrap_err().code().id(), "M301");
    assert!(got.is_err());
}

#[test]
fn a_successor_among_the_anchors_is_believed() {
    let now = testing::hierarchy(now_s());
    let next = testing::hierarchy(now_s());
    let broker = broker(&next);
    let device = testing::device(&now, &testing::subject("MU-000001"), now_s());
    let key = SigningKey::from_pkcs8_der(&device.key_pkcs8()).unwrap();
    let anchors = [now.broker.certificate().der(), next.broker.certificate().der()];
    for (anchors, good) in [(&anchors[..], true), (&anchors[..1], false)] {
        let (here, there) = Pipe::pair();
        let trust = Trust { anchors, server_name: common::NAME, time: known() };
        let client = async {
            let (wire, mut buffers) = (Wire::new(here), Buffers::new());
            let identity = Identity { certificate: &device.chain[0], key: &key };
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            tls::connect(&wire, &mut rng, &identity, &trust, &mut buffers).await.map(|_| ())
        };
        let config = server_config(&broker.chain, broker.key_pkcs8(), Some(factory_ca(&now)));
        let (opened, _) = both(client, async { Server::new(config, there).read().await });
        assert_eq!(opened.is_ok(), good);
    }
}
