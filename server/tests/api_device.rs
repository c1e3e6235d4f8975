//! One device's life as the operator sees it, with an MQTT client that is not ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use muster_pki::testing::Credential;
use rig::{Server, http::Http};
use rumqttc::{Event, MqttOptions, Packet, QoS, Transport, mqttbytes::v4};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// A device's end: what the client was told, in order.
struct Device {
    client: rumqttc::Client,
    events: std::sync::mpsc::Receiver<Result<Event, String>>,
}

impl Device {
    fn connect(server: &Server, credential: &Credential) -> Self {
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
        let id = credential.identity().device_id.to_string();
        let mut options = MqttOptions::new(id, "localhost", server.mqtt_port);
        options.set_keep_alive(Duration::from_secs(30));
        options
            .set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(Arc::new(config))));
        let (client, mut connection) = rumqttc::Client::new(options, 16);
        let (tell, events) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for event in connection.iter() {
                let failed = event.is_err();
                // The first failure ends it: a client that reconnects by itself would hide what happened.
                if tell.send(event.map_err(|error| format!("{error:?}"))).is_err() || failed {
                    return;
                }
            }
        });
        Self { client, events }
    }

    /// The next event that `pick` takes; what comes before is passed over.
    #[track_caller]
    fn until<T>(&self, pick: impl Fn(&Result<Event, String>) -> Option<T>) -> T {
        let end = Instant::now() + rig::LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("an event within the limit");
            if let Some(picked) = pick(&event) {
                return picked;
            }
            assert!(event.is_ok(), "the connection ended: {event:?}");
        }
    }

    #[track_caller]
    fn connected(self) -> Self {
        self.until(|event| matches!(event, Ok(Event::Incoming(Packet::ConnAck(ack))) if ack.code == v4::ConnectReturnCode::Success).then_some(()));
        self
    }

    #[track_caller]
    fn refused(self) {
        let error = self.until(|event| event.as_ref().err().cloned());
        assert!(error.contains("NotAuthorized"), "{error}");
    }

    #[track_caller]
    fn ended(self) {
        self.until(|event| event.is_err().then_some(()));
    }
}

/// Asks until `done`: what devices do shows after a moment.
#[track_caller]
fn eventually(what: &str, ask: impl Fn() -> Value, done: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + rig::LIMIT;
    loop {
        let value = ask();
        if done(&value) {
            return value;
        }
        assert!(Instant::now() < end, "{what}: {value}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_device_is_seen_commanded_suspended_resumed_and_revoked() {
    let server = &Server::start();
    let devices = server.place().devices(&["MU-000001"]);
    let device = &devices[0];
    // Too early: the factory vouches for it, the registry does not know it.
    Device::connect(server, device).refused();
    let manifest = server.place().manifest("B-0001", &devices);
    server.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
    let show = || server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();

    let live = Device::connect(server, device).connected();
    let seen = eventually("first connection", show, |device| device["state"] == "active");
    assert_eq!((&seen["presence"]["word"], &seen["presence"]["mqtt"]), (&json!("online"), &json!("3.1.1")));
    let sessions = server.muster(&["session", "list", "--json"]).exits(0).json();
    assert_eq!((&sessions["total"], &sessions["items"][0]["serial"]), (&json!(1), &json!("MU-000001")));
    let session = &sessions["items"][0];
    assert!(session["cipher"].as_str().unwrap().starts_with("TLS13_"), "{session}");
    assert_eq!((&session["queued"], &session["dropped"]), (&json!(0), &json!(0)));
    let listed = |filter: &str| server.muster(&["session", "list", "--filter", filter]);
    let wide = server.muster(&["session", "list", "-o", "wide"]).exits(0).out;
    for head in ["IN/s", "OUT/s", "QUEUE", "DROPPED", "CIPHER"] {
        assert!(wide.contains(head), "{wide}");
    }
    assert!(listed("tenant:acme kind:device MU-").exits(0).out.contains("MU-000001"));
    let none = listed("kind:service").exits(0);
    assert!(none.out.is_empty() && none.err.contains("no session matches kind:service"), "{none:?}");
    listed("colour:red").exits(2).refused("M504");
    let shown = server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();
    let chain: Vec<_> = shown["chain"].as_array().unwrap().iter().map(|of| of["role"].clone()).collect();
    assert_eq!(chain, ["device", "issuer", "root"]);
    assert!(shown["chain"].as_array().unwrap().iter().all(|of| of["fault"].is_null()), "{shown}");
    let html = String::from_utf8(Http::new(server).get("/devices/MU-000001").body).unwrap();
    let drawn = html.split("<ol class=\"chain\">").nth(1).unwrap().split("</ol>").next().unwrap();
    assert!(drawn.matches('✓').count() == 3 && !drawn.contains('✕'), "{drawn}");
    assert!(html.contains(session["cipher"].as_str().unwrap()), "{html}");
    let batch = server.muster(&["batch", "list", "--json"]).exits(0).json();
    assert_eq!(batch["items"][0]["active"], 1);

    telemetry(server, &live);
    command(server, &live);

    let suspend = ["device", "suspend", "MU-000001", "--reason", "case 881", "--json"];
    let decision = server.muster(&suspend).exits(0).json();
    assert_eq!((&decision["enforced"], &decision["sessions_closed"]), (&json!(true), &json!(1)));
    assert_eq!((&decision["mqtt_reason"], decision["commit_to_closed_ms"].is_u64()), (&json!(0x98), true));
    live.ended();
    Device::connect(server, device).refused();
    let refused = eventually("refusal", show, |device| device["refused_24h"].as_u64() > Some(0));
    assert_eq!(refused["last_refusal"]["code"], "M201");
    assert_eq!(refused["presence"]["last_reason"], "device_suspended");
    let note = server.muster(&["device", "list"]).exits(0).out;
    assert!(note.contains("[M201 device is suspended]") && note.contains("offline"), "{note}");

    server.muster(&["device", "resume", "MU-000001", "--reason", "repaired"]).exits(0);
    let live = Device::connect(server, device).connected();
    let kicked = server.muster(&["device", "disconnect", "MU-000001", "--reason", "look"]).exits(0);
    assert!(
        kicked.out.contains("session closed in") && kicked.out.contains("it may come back"),
        "{}",
        kicked.out
    );
    live.ended();

    let live = Device::connect(server, device).connected();
    let revoke = [
        &["device", "revoke", "MU-000001", "--confirm", "MU-000001"][..],
        &["--reason-code", "keyCompromise", "--reason", "stolen"],
    ];
    let revoked = server.muster(&revoke.concat()).exits(0);
    assert!(revoked.out.contains("active → revoked · session closed in"), "{}", revoked.out);
    assert!(revoked.out.contains("(0x98)"), "{}", revoked.out);
    live.ended();
    Device::connect(server, device).refused();
    eventually("refusal", show, |device| device["last_refusal"]["code"] == "M302");
    server.muster(&["audit", "verify"]).exits(0);
}

/// A reading that was acknowledged is shown.
fn telemetry(server: &Server, live: &Device) {
    use muster_shared::telemetry::{Boot, Reading, TelemetryBatch, Value as Measured};
    let boot = Boot { install: 7, count: 1 };
    let mut batch = TelemetryBatch::new(boot, 1, 5_000);
    let reading = Reading {
        sensor: "temperature_c".try_into().unwrap(),
        uptime_ms: 5_000,
        value: Measured::Float(21.5),
    };
    batch.readings.push(reading).unwrap();
    let mut buffer = [0; 1024];
    let octets = batch.write(&mut buffer).unwrap().to_vec();
    let topic = "acme/MU-000001/telemetry/main";
    live.client.publish(topic, QoS::AtLeastOnce, false, octets).unwrap();
    live.until(|event| matches!(event, Ok(Event::Incoming(Packet::PubAck(_)))).then_some(()));
    let show = || server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();
    let seen = eventually("reading", show, |device| device["readings"] != json!([]));
    assert_eq!(seen["readings"][0]["sensor"], "temperature_c");
    assert_eq!(
        (&seen["readings"][0]["value"], &seen["readings"][0]["uptime_ms"]),
        (&json!(21.5), &json!(5_000))
    );
}

/// A command reaches the live session that asked for commands, and only then is said to have.
fn command(server: &Server, live: &Device) {
    let unheard = server.muster(&["device", "command", "MU-000001", "reboot", "--json"]).exits(10).json();
    assert_eq!((&unheard["delivered"], &unheard["outcome"]), (&json!(false), &json!("refused")));
    live.client.subscribe("acme/MU-000001/command/+/request", QoS::AtLeastOnce).unwrap();
    live.until(|event| matches!(event, Ok(Event::Incoming(Packet::SubAck(_)))).then_some(()));
    let sent = server.muster(&["device", "command", "MU-000001", "reboot", "--json"]).exits(0).json();
    assert_eq!((&sent["delivered"], &sent["outcome"]), (&json!(true), &json!("acknowledged")));
    let (topic, payload) = live.until(|event| match event {
        Ok(Event::Incoming(Packet::Publish(publish))) => {
            Some((publish.topic.clone(), publish.payload.clone()))
        }
        _ => None,
    });
    assert_eq!((json!(topic), &payload[..]), (sent["topic"].clone(), &b"reboot"[..]));
}

#[test]
fn what_a_device_does_is_told_as_it_happens() {
    let server = Server::start();
    let http = Http::new(&server);
    let devices = server.place().devices(&["MU-000001"]);
    let filter = "kind%3Achange%20kind%3Apresence%20kind%3Arefusal%20topic%3Aacme%2F%2B%2Fapp%2F%23";
    let mut events = http.events(&format!("/v1/stream?filter={filter}"), "");
    events.next_of("open");
    Device::connect(&server, &devices[0]).refused();
    let refused = events.next_of("refusal").json();
    assert_eq!((&refused["serial"], &refused["refusal"]["code"]), (&json!("MU-000001"), &json!("M202")));
    assert_eq!((&refused["device_id"], &refused["tenant"]), (&json!(null), &json!("acme")));
    let manifest = server.place().manifest("B-0001", &devices);
    server.muster(&["batch", "import", manifest.to_str().unwrap()]).exits(0);
    let live = Device::connect(&server, &devices[0]).connected();
    let online = events.next_of("presence").json();
    assert_eq!((&online["serial"], &online["presence"]["online"]), (&json!("MU-000001"), &json!(true)));
    let topic = format!("acme/{}/app/x", online["device_id"].as_str().unwrap());
    let say = |text: &str| live.client.publish(&topic, QoS::AtLeastOnce, false, text).unwrap();
    say("one");
    let told = events.next_of("message");
    let message = told.json();
    assert_eq!(
        (&message["message"]["topic"], &message["message"]["payload"]),
        (&json!(topic), &json!("one"))
    );
    assert_eq!(message["message"]["publisher"], "device");
    // A cut. What was said meanwhile is told by the next stream, here the command's, in order and once.
    let last = told.id.unwrap();
    drop(events);
    ["two", "three", "four"].into_iter().for_each(say);
    let words = "topic:acme/+/app/#";
    let follow = ["events", "--follow", "--filter", words, "--after", &last, "--limit", "3", "--json"];
    let ran = server.muster(&follow).exits(0);
    let said: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> = said.iter().map(|event| event["message"]["payload"].as_str().unwrap()).collect();
    assert_eq!(said, ["two", "three", "four"]);
    // The same as a person reads it.
    let ran =
        server.muster(&["events", "--follow", "--filter", words, "--after", &last, "--limit", "1"]).exits(0);
    assert!(ran.out.contains("MU-000001") && ran.out.contains("two"), "{ran:?}");
    server.muster(&["events", "--follow", "--after", "x"]).exits(2).refused("M504");
    server.muster(&["events"]).exits(2).refused("M504");
    let explained = server.muster(&["device", "explain", "MU-000001", "--json"]).exits(0).json();
    assert_eq!((&explained["online"], &explained["may_connect"]), (&json!(true), &json!(true)));
    assert_eq!(explained["last_refusal"], json!(null), "that was before it was known");
}
