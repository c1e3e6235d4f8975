//! The twin of a device over the API, the command line and MQTT, with a client that is not ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use muster_pki::testing::Credential;
use rig::{
    Server,
    http::{Answer, Http},
    run_with,
};
use rumqttc::{Transport, v5};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use v5::mqttbytes::{
    QoS,
    v5::{ConnectReturnCode, Packet, Publish, PublishProperties},
};

const TWIN: &str = "/v1/devices/MU-000001/twin";
const DESIRED: &str = "acme/MU-000001/twin/desired";
const REPORTED: &str = "acme/MU-000001/twin/reported";

/// A device's end.
struct Device {
    client: v5::Client,
    packets: mpsc::Receiver<Packet>,
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
        let mut options = v5::MqttOptions::new(id, "localhost", server.mqtt_port);
        options.set_keep_alive(Duration::from_secs(30));
        options
            .set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(Arc::new(config))));
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

    /// The next packet that `pick` takes; what comes before is passed over.
    #[track_caller]
    fn until<T>(&self, pick: impl Fn(&Packet) -> Option<T>) -> T {
        let end = Instant::now() + rig::LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let packet = self.packets.recv_timeout(left).expect("a packet within the limit");
            if let Some(picked) = pick(&packet) {
                return picked;
            }
        }
    }

    fn subscribed(self) -> Self {
        self.client.subscribe("acme/MU-000001/#", QoS::AtLeastOnce).unwrap();
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()));
        self
    }

    /// The next desired state: document, and version as its property says.
    #[track_caller]
    fn desired(&self) -> (Value, String, bool) {
        let publish = self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        });
        let Publish { topic, payload, retain, properties, .. } = publish;
        let properties = properties.unwrap();
        assert_eq!(
            (&*topic, properties.content_type.as_deref()),
            (DESIRED.as_bytes(), Some("application/json"))
        );
        let (name, version) = properties.user_properties[0].clone();
        assert_eq!(name, "version");
        (serde_json::from_slice(&payload).unwrap(), version, retain)
    }

    fn report(&self, payload: &str, content: Option<&str>) {
        let properties =
            PublishProperties { content_type: content.map(str::to_owned), ..PublishProperties::default() };
        let payload = payload.as_bytes().to_vec();
        self.client.publish_with_properties(REPORTED, QoS::AtLeastOnce, true, payload, properties).unwrap();
        self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()));
    }
}

fn put(http: &Http, headers: &str, document: &[u8]) -> Answer {
    http.ask("PUT", TWIN, &format!("content-type: application/json\r\n{headers}"), document)
}

#[test]
fn a_twin_is_set_sent_reported_and_kept() {
    let server = Server::start();
    let http = Http::new(&server);
    let devices = server.with_devices("B-0001", &["MU-000001"]);
    let version = what_is_asked_wrongly_sets_nothing(&server, &http);
    assert_eq!(version, 0);
    a_live_device_gets_it_and_one_that_comes_later_too(&server, &http, &devices[0]);
    what_the_device_reports_is_shown(&server, &http, &devices[0]);
    the_command_line_reads_and_writes_it(&server);
    the_page_shows_it_as_text(&http);
    let server = Server::start_on(server.killed());
    let http = Http::new(&server);
    let kept = http.get(TWIN).is(200);
    assert_eq!((&kept["desired"], &kept["published"]), (&json!({ "from": "a file" }), &json!(true)));
    assert_eq!(kept["reported_base64"], json!("bm90IEpTT04="));
    a_device_out_of_use_has_none(&server, &http);
    server.muster(&["audit", "verify"]).exits(0);
}

fn what_is_asked_wrongly_sets_nothing(server: &Server, http: &Http) -> u64 {
    let never = http.get(TWIN);
    assert_eq!(never.header("etag"), Some("\"0\""));
    let never = never.is(200);
    assert_eq!((&never["schema"], &never["desired"]), (&json!("muster.device.twin/1"), &json!(null)));
    assert_eq!((&never["reported"], &never["reported_at"]), (&json!(null), &json!(null)));
    for wrong in [&b""[..], b"null", b"[1]", b"{\"a\":}", b"\xff\xfe", b"{} trailing"] {
        put(http, "", wrong).refused(400, "M504");
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024));
    put(http, "", long.as_bytes()).refused(413, "M513");
    for stale in ["if-match: \"1\"\r\n", "if-match: \"18446744073709551615\"\r\n"] {
        put(http, stale, b"{}").refused(412, "M532");
    }
    for wrong in ["if-match: 0\r\n", "if-match: W/\"0\"\r\n", "if-match: \"0\", \"1\"\r\n"] {
        put(http, wrong, b"{}").refused(400, "M504");
    }
    let viewer = server.muster(&["token", "create", "eve", "--role", "viewer", "--json"]).exits(0).json();
    let viewer = http.with(viewer["token"].as_str().unwrap());
    put(&viewer, "", b"{}").refused(403, "M503");
    viewer.get(TWIN).is(200);
    http.get("/v1/devices/MU-999999/twin").refused(404, "M208");
    http.ask("PUT", "/v1/devices/MU-999999/twin", "", b"{}").refused(404, "M208");
    http.ask("DELETE", TWIN, "", b"").refused(405, "M512");
    http.get(TWIN).is(200)["desired_version"].as_u64().unwrap()
}

fn a_live_device_gets_it_and_one_that_comes_later_too(server: &Server, http: &Http, credential: &Credential) {
    let live = Device::connect(server, credential).subscribed();
    let key = "idempotency-key: \"twin-1\"\r\nif-match: \"0\"\r\n";
    let set = put(http, key, b"{\"period_s\": 30}");
    assert_eq!(set.header("etag"), Some("\"1\""));
    let set = set.is(200);
    assert_eq!((&set["desired_version"], &set["published"]), (&json!(1), &json!(true)));
    assert_eq!(set["desired_by"], "admin");
    assert_eq!(live.desired(), (json!({ "period_s": 30 }), "1".to_owned(), false));
    // The same request again is answered and does nothing; another of an old version says what there is.
    assert_eq!(put(http, key, b"{\"period_s\": 30}").is(200), set);
    let stale = put(http, "if-match: \"0\"\r\n", b"{}").refused(412, "M532");
    assert!(stale["why"].as_str().unwrap().starts_with("it is at version 1 now, set by admin"), "{stale}");
    put(http, "if-match: \"1\"\r\n", b"{\"period_s\": 60}").is(200);
    assert_eq!(live.desired().1, "2");
    live.client.disconnect().unwrap();
    // Suspended, it is set all the same, and on its topic when the device may talk again.
    server.muster(&["device", "suspend", "MU-000001", "--reason", "case 881"]).exits(0);
    let set = put(http, "", b"{\"period_s\": 90}").is(200);
    assert_eq!((&set["desired_version"], &set["published"]), (&json!(3), &json!(false)));
    server.muster(&["device", "resume", "MU-000001", "--reason", "case 881"]).exits(0);
    let back = Device::connect(server, credential).subscribed();
    assert_eq!(back.desired(), (json!({ "period_s": 90 }), "3".to_owned(), true));
}

fn what_the_device_reports_is_shown(server: &Server, http: &Http, credential: &Credential) {
    let device = Device::connect(server, credential);
    device.report("{\"firmware\":\"1.4.2\",\"period_s\":90,\"note\":\"<b>x</b>\"}", Some("application/json"));
    let shown = http.get(TWIN).is(200);
    assert_eq!(shown["reported"], json!({ "firmware": "1.4.2", "period_s": 90, "note": "<b>x</b>" }));
    assert_eq!(
        (&shown["reported_content_type"], &shown["reported_base64"]),
        (&json!("application/json"), &json!(null))
    );
    assert!(shown["reported_at"].is_string());
    the_page_escapes(http);
    device.report("not JSON", Some("text/plain"));
    let shown = http.get(TWIN).is(200);
    assert_eq!((&shown["reported"], &shown["reported_base64"]), (&json!(null), &json!("bm90IEpTT04=")));
    assert_eq!(shown["reported_content_type"], "text/plain");
}

fn the_page_escapes(http: &Http) {
    let page = String::from_utf8(http.get("/devices/MU-000001").body).unwrap();
    assert!(page.contains("&#60;b&#62;x&#60;/b&#62;") && !page.contains("<b>x"), "{page}");
}

fn the_page_shows_it_as_text(http: &Http) {
    let page = String::from_utf8(http.get("/devices/MU-000001").body).unwrap();
    assert!(page.contains("version 4, by admin") && page.contains("no JSON, in base64"), "{page}");
}

fn the_command_line_reads_and_writes_it(server: &Server) {
    let shown = server.muster(&["device", "twin", "MU-000001"]).exits(0).out;
    assert!(
        shown.contains("desired version 3, set by admin") && shown.contains("\"period_s\": 90"),
        "{shown}"
    );
    assert!(shown.contains("text/plain") && shown.contains("bm90IEpTT04="), "{shown}");
    let file = server.place().file("desired.json", "{\"from\": \"a file\"}");
    let set = ["device", "twin", "MU-000001", "--set", file.to_str().unwrap(), "--if-version"];
    server.muster(&[&set[..], &["2"]].concat()).exits(3).refused("M532");
    let set = server.muster(&[&set[..], &["3", "--json"]].concat()).exits(0).json();
    assert_eq!((&set["desired_version"], &set["desired"]["from"]), (&json!(4), &json!("a file")));
    let from_stdin = |input: &str| {
        run_with(&mut server.place().command(&["device", "twin", "MU-000001", "--set", "-"]), Some(input))
    };
    from_stdin("[]").exits(2).refused("M504");
    from_stdin(&format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024))).exits(3).refused("M513");
    server.muster(&["device", "twin", "MU-000001", "--set", "/nowhere.json"]).exits(2).refused("M509");
    server.muster(&["device", "twin", "MU-000001", "--if-version", "3"]).exits(2);
    let history = server.muster(&["device", "show", "MU-000001", "--history"]).exits(0).out;
    assert!(history.contains("desired state 4 set by admin"), "{history}");
}

fn a_device_out_of_use_has_none(server: &Server, http: &Http) {
    let sure = ["--confirm", "MU-000001", "--reason-code", "superseded", "--reason", "case 881, replaced"];
    server.muster(&[&["device", "revoke", "MU-000001"][..], &sure].concat()).exits(0);
    put(http, "", b"{}").refused(403, "M302");
    assert_eq!(http.get(TWIN).is(200)["published"], false);
    server.muster(&[&["device", "decommission", "MU-000001"][..], &sure].concat()).exits(0);
    put(http, "", b"{}").refused(403, "M209");
    let shown = http.get(TWIN).is(200);
    assert_eq!((&shown["desired"], &shown["desired_version"]), (&json!(null), &json!(0)));
    assert_eq!((&shown["reported"], &shown["reported_at"]), (&json!(null), &json!(null)));
}
