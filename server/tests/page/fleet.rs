//! A small fleet on a real server: two batches, one device connected, some refused, one with a hostile tongue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_pki::testing::Credential;
use muster_shared::telemetry::{Boot, Reading, TelemetryBatch, Value as Measured};
use rumqttc::{Event, MqttOptions, Packet, QoS, Transport};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::rig::{LIMIT, Server, http::Http};

/// A reason as somebody who means harm writes one.
pub const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

/// The same where a name may not be as long, and where it may hold no quotes.
pub const HOSTILE_SHORT: &str = "<b>owned</b>";
pub const HOSTILE_TAG: &str = "<script>document.title='owned'</script>";

/// A device's end of a live session.
pub struct Live {
    client: rumqttc::Client,
    events: std::sync::mpsc::Receiver<Result<Event, String>>,
    seq: u32,
    topic: String,
}

impl Live {
    /// Connects, and waits until it is let in or refused.
    pub fn connect(server: &Server, credential: &Credential) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add(server.place().hierarchy.broker.certificate().der().to_vec().into()).unwrap();
        let chain: Vec<CertificateDer<'static>> =
            credential.chain.iter().map(|der| der.clone().into()).collect();
        let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(credential.key_pkcs8()).into();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let identity = credential.identity();
        let mut options = MqttOptions::new(identity.device_id.to_string(), "localhost", server.mqtt_port);
        options.set_keep_alive(Duration::from_secs(30));
        options
            .set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(Arc::new(config))));
        let (client, mut connection) = rumqttc::Client::new(options, 16);
        let (tell, events) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for event in connection.iter() {
                let failed = event.is_err();
                if tell.send(event.map_err(|error| format!("{error:?}"))).is_err() || failed {
                    return;
                }
            }
        });
        let topic = format!("{}/{}/telemetry/main", identity.tenant, identity.device_id);
        let live = Self { client, events, seq: 0, topic };
        live.until(|event| matches!(event, Event::Incoming(Packet::ConnAck(_))))?;
        Ok(live)
    }

    fn until(&self, done: impl Fn(&Event) -> bool) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if done(&self.events.recv_timeout(left).expect("an event within the limit")?) {
                return Ok(());
            }
        }
    }

    /// Sends one reading, and waits until it is acknowledged.
    pub fn send(&mut self, sensor: &str, value: f32) {
        self.seq += 1;
        let boot = Boot { install: 7, count: 1 };
        let uptime_ms = 5_000 * u64::from(self.seq);
        let mut batch = TelemetryBatch::new(boot, self.seq.into(), uptime_ms);
        let reading =
            Reading { sensor: sensor.try_into().unwrap(), uptime_ms, value: Measured::Float(value) };
        batch.readings.push(reading).unwrap();
        let mut buffer = [0; 1024];
        let octets = batch.write(&mut buffer).unwrap().to_vec();
        self.client.publish(&self.topic, QoS::AtLeastOnce, false, octets).unwrap();
        self.until(|event| matches!(event, Event::Incoming(Packet::PubAck(_)))).unwrap();
    }

    /// Says this of itself, retained.
    pub fn report(&self, document: &str) {
        let topic = self.topic.replace("/telemetry/main", "/twin/reported");
        self.client.publish(topic, QoS::AtLeastOnce, true, document).unwrap();
        self.until(|event| matches!(event, Event::Incoming(Packet::PubAck(_)))).unwrap();
    }

    /// Waits until the server has ended it.
    pub fn ended(self) {
        assert!(self.until(|_| false).is_err());
    }
}

/// The server and who is connected to it.
pub struct Fleet {
    pub server: Server,
    pub live: Live,
    pub credentials: Vec<Credential>,
}

/// Serials `MU-000001` and on.
pub fn serials(of: std::ops::Range<u32>) -> Vec<String> {
    of.map(|n| format!("MU-{n:06}")).collect()
}

impl Fleet {
    /// Starts it.
    pub fn start() -> Self {
        let server = Server::start();
        let names = serials(1..61);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let credentials = server.with_devices("B-0001", &names);
        let mut live = Live::connect(&server, &credentials[0]).unwrap();
        live.send("temperature_c", 21.5);
        live.send("humidity_pct", 40.0);
        let act = |verb: &str, serial: &str, reason: &str| {
            server.muster(&["device", verb, serial, "--reason", reason]).exits(0);
        };
        act("suspend", "MU-000002", "returned for repair, case 881");
        act("quarantine", "MU-000003", HOSTILE);
        let refused = Live::connect(&server, &credentials[1]);
        assert!(refused.is_err(), "a suspended device is refused");
        let revoke = [
            &["device", "revoke", "MU-000004", "--confirm", "MU-000004"][..],
            &["--reason-code", "keyCompromise", "--reason", "stolen from the van"],
        ];
        server.muster(&revoke.concat()).exits(0);
        Self { server, live, credentials }
    }

    /// All that a device and an operator can write, written by those who mean harm, about the device that is here.
    pub fn speak_ill(&mut self) {
        self.live.send(HOSTILE_SHORT, 1.0);
        self.live.report(&serde_json::json!({ "firmware": HOSTILE_SHORT, HOSTILE: HOSTILE }).to_string());
        let http = Http::new(&self.server);
        let labels =
            serde_json::json!({ "note": HOSTILE, "add_tags": [HOSTILE_TAG], "add_groups": [HOSTILE_TAG] });
        http.post("/v1/devices/MU-000001/labels", &labels).is(200);
        http.ask(
            "PUT",
            "/v1/devices/MU-000001/twin",
            "",
            serde_json::json!({ HOSTILE: HOSTILE }).to_string().as_bytes(),
        )
        .is(200);
        http.post(
            "/v1/devices/MU-000001/command",
            &serde_json::json!({ "payload": HOSTILE, "reason": HOSTILE }),
        )
        .is(200);
    }
}
