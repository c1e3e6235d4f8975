//! A device's end with an MQTT 5 client that is not ours.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use muster_pki::testing::Credential;
use rumqttc::{Transport, v5};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use v5::mqttbytes::{
    QoS,
    v5::{ConnectProperties, ConnectReturnCode, Packet, Publish, PublishProperties},
};

use super::{LIMIT, Server};

/// A device that is connected.
pub struct Device {
    client: v5::Client,
    packets: mpsc::Receiver<Packet>,
}

impl Device {
    /// Connects and starts anew; nothing of its session stays when it goes.
    pub fn connect(server: &Server, credential: &Credential) -> Self {
        Self::with_session(server, credential, None)
    }

    /// Connects, going on with its session, which stays for so many seconds when it goes.
    pub fn with_session(server: &Server, credential: &Credential, stays_s: Option<u32>) -> Self {
        let id = credential.identity().device_id.to_string();
        let mut options = v5::MqttOptions::new(id, "localhost", server.mqtt_port);
        options.set_keep_alive(Duration::from_secs(30));
        if stays_s.is_some() {
            options.set_clean_start(false);
            options.set_session_expiry_interval(stays_s);
        }
        let tls = rumqttc::TlsConfiguration::Rustls(Arc::new(tls(server, credential)));
        options.set_transport(Transport::tls_with_config(tls));
        let (client, mut connection) = v5::Client::new(options, 16);
        let (tell, packets) = mpsc::channel();
        thread::spawn(move || {
            for event in connection.iter() {
                // The first failure ends it: a client that reconnects by itself would hide what happened.
                let Ok(event) = event else { return };
                if let v5::Event::Incoming(packet) = event
                    && tell.send(packet).is_err()
                {
                    return;
                }
            }
        });
        let device = Self { client, packets };
        device.until(|packet| {
            matches!(packet, Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success).then_some(())
        });
        device
    }

    /// Asks to be let in with this continuity token, and is not.
    #[allow(dead_code, reason = "not of every test binary with a rig")]
    #[track_caller]
    pub fn turned_away_with(server: &Server, credential: &Credential, token: &str) {
        let id = credential.identity().device_id.to_string();
        let mut options = v5::MqttOptions::new(id, "localhost", server.mqtt_port);
        let properties = ConnectProperties {
            user_properties: vec![("muster-continuity".to_owned(), token.to_owned())],
            ..ConnectProperties::new()
        };
        options.set_connect_properties(properties);
        let tls = rumqttc::TlsConfiguration::Rustls(Arc::new(tls(server, credential)));
        options.set_transport(Transport::tls_with_config(tls));
        let (_client, mut connection) = v5::Client::new(options, 16);
        let refused = connection.iter().find_map(|event| event.err()).expect("an end");
        assert!(matches!(refused, v5::ConnectionError::ConnectionRefused(_)), "{refused}");
    }

    /// The next packet that `pick` takes; what comes before is passed over.
    #[track_caller]
    fn until<T>(&self, pick: impl Fn(&Packet) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let packet = self.packets.recv_timeout(left).expect("a packet within the limit");
            if let Some(picked) = pick(&packet) {
                return picked;
            }
        }
    }

    /// With this subscription at QoS 1.
    #[track_caller]
    pub fn subscribed(self, filter: &str) -> Self {
        self.client.subscribe(filter, QoS::AtLeastOnce).unwrap();
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()));
        self
    }

    /// The next message.
    #[track_caller]
    pub fn message(&self) -> Publish {
        self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
    }

    /// Publishes at QoS 1, and has it acknowledged.
    #[track_caller]
    pub fn publish(&self, topic: &str, retain: bool, payload: &[u8], content: Option<&str>) {
        let properties =
            PublishProperties { content_type: content.map(str::to_owned), ..PublishProperties::default() };
        let payload = payload.to_vec();
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties).unwrap();
        self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()));
    }

    /// Goes, and says so.
    pub fn leave(self) {
        self.client.disconnect().unwrap();
        // Until the connection is closed: the server has heard it.
        while self.packets.recv_timeout(LIMIT).is_ok() {}
    }
}

fn tls(server: &Server, credential: &Credential) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(server.place().hierarchy.broker.certificate().der().to_vec().into()).unwrap();
    let chain: Vec<CertificateDer<'static>> = credential.chain.iter().map(|der| der.clone().into()).collect();
    let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(credential.key_pkcs8()).into();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap()
}
