//! Commands and their answers over the API, the command line and MQTT, with a client that is not ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use muster_pki::testing::Credential;
use rig::{Server, device::Device, http::Http};
use serde_json::{Value, json};

const COMMAND: &str = "/v1/devices/MU-000001/command";
const COMMANDS: &str = "/v1/devices/MU-000001/commands";
const REQUESTS: &str = "acme/MU-000001/command/+/request";

fn answer_to(command: &Value) -> String {
    format!("acme/MU-000001/command/{}/response", command["command_id"].as_str().unwrap())
}

fn one(http: &Http, command: &Value) -> Value {
    http.get(&format!("{COMMANDS}/{}", command["command_id"].as_str().unwrap())).is(200)
}

#[test]
fn a_command_is_remembered_with_what_the_device_answered() {
    let server = Server::start();
    let http = Http::new(&server);
    let devices = server.with_devices("B-0001", &["MU-000001"]);
    nobody_is_there(&http);
    a_live_device_answers(&server, &http, &devices[0]);
    one_that_is_away_gets_it_when_it_comes(&server, &http, &devices[0]);
    who_waits_is_told(&server, &devices[0]);
    let server = Server::start_on(server.killed());
    let http = Http::new(&server);
    let page = http.get(&format!("{COMMANDS}?limit=2")).is(200);
    assert_eq!((&page["schema"], &page["total"]), (&json!("muster.device.command.list/1"), &json!(4)));
    assert_eq!(
        (&page["items"][0]["response"], &page["items"][1]["response"]),
        (&json!("done"), &json!("later"))
    );
    let next = page["next"].as_str().unwrap();
    let rest = http.get(&format!("{COMMANDS}?after={next}")).is(200);
    let states: Vec<_> = rest["items"].as_array().unwrap().iter().map(|of| of["state"].clone()).collect();
    assert_eq!((states, &rest["next"]), (vec![json!("answered"), json!("refused")], &json!(null)));
    let table = server.muster(&["device", "commands", "MU-000001"]).exits(0).out;
    assert!(table.contains("restart") && table.contains("none: device is not connected"), "{table}");
    http.get(&format!("{COMMANDS}?after=x")).refused(400, "M504");
    http.get(&format!("{COMMANDS}/nothing")).refused(404, "M510");
    http.get("/v1/devices/MU-000009/commands").refused(404, "M208");
    server.muster(&["audit", "verify"]).exits(0);
}

fn nobody_is_there(http: &Http) {
    for wrong in
        [json!({}), json!({ "payload": "x", "payload_base64": "eA==" }), json!({ "payload_base64": "?" })]
    {
        http.post(COMMAND, &wrong).refused(400, "M504");
    }
    assert_eq!(http.get(COMMANDS).is(200)["items"], json!([]), "nothing was sent");
    let sent = http.post(COMMAND, &json!({ "payload": "restart" })).is(200);
    assert_eq!((&sent["outcome"], &sent["delivered"]), (&json!("refused"), &json!(false)));
    let kept = one(http, &sent);
    assert_eq!(
        (&kept["state"], &kept["why"], &kept["response"]),
        (&json!("refused"), &sent["why"], &json!(null))
    );
}

fn a_live_device_answers(server: &Server, http: &Http, credential: &Credential) {
    let device = Device::connect(server, credential).subscribed(REQUESTS);
    let sent = http.post(COMMAND, &json!({ "payload_base64": "/wA=", "reason": "case 881" })).is(200);
    assert_eq!(sent["outcome"], "acknowledged");
    assert_eq!(&*device.message().payload, b"\xff\0");
    let kept = one(http, &sent);
    assert_eq!((&kept["state"], &kept["by"]), (&json!("delivered"), &json!("admin")));
    assert_eq!((&kept["request"], &kept["request_base64"]), (&json!(null), &json!("/wA=")));
    // Answers to what nobody asked, and of what is too long, harm nobody.
    device.publish("acme/MU-000001/command/nothing/response", false, b"?", None);
    device.publish(&answer_to(&sent), false, &[b'y'; 5000], Some("text/plain"));
    device.publish(&answer_to(&sent), false, b"again", None);
    let kept = rig::eventually("the answer", || one(http, &sent), |kept| !kept["answered_at"].is_null());
    assert_eq!((&kept["schema"], &kept["state"]), (&json!("muster.device.command/1"), &json!("answered")));
    assert_eq!((&kept["response"], &kept["response_octets"]), (&json!("y".repeat(4096)), &json!(5000)));
    assert_eq!(kept["response_content_type"], "text/plain");
    device.leave();
}

fn one_that_is_away_gets_it_when_it_comes(server: &Server, http: &Http, credential: &Credential) {
    let stays = Some(600);
    Device::with_session(server, credential, stays).subscribed(REQUESTS).leave();
    let offline = || server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();
    rig::eventually("it is away", offline, |device| device["presence"]["word"] == "offline");
    let sent = http.post(COMMAND, &json!({ "payload": "when you come" })).is(200);
    assert_eq!((&sent["outcome"], &sent["delivered"]), (&json!("queued"), &json!(false)));
    assert_eq!(one(http, &sent)["state"], "queued");
    let back = Device::with_session(server, credential, stays);
    let message = back.message();
    assert_eq!((&*message.payload, message.retain), (&b"when you come"[..], false));
    assert_eq!(json!(String::from_utf8_lossy(&message.topic)), sent["topic"]);
    back.publish(&answer_to(&sent), false, b"later", None);
    rig::eventually("the answer", || one(http, &sent), |kept| kept["response"] == "later");
    back.leave();
}

#[test]
fn a_command_that_waits_is_delivered_or_expires() {
    let server = Server::start();
    let devices = server.with_devices("B-0001", &["MU-000001"]);
    let away = |server: &Server, expiry_s| {
        Device::with_session(server, &devices[0], Some(expiry_s)).subscribed(REQUESTS).leave();
        let show = || server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();
        rig::eventually("it is away", show, |device| device["presence"]["word"] == "offline");
        let sent = Http::new(server).post(COMMAND, &json!({ "payload": "when you come" })).is(200);
        assert_eq!(sent["outcome"], "queued", "{sent}");
        sent
    };
    let state = |http: &Http, sent: &Value, is: &str| {
        rig::eventually(is, || one(http, sent), |kept| kept["state"] == is)
    };
    let sent = away(&server, 600);
    let waits = one(&Http::new(&server), &sent);
    assert_eq!((&waits["state"], &waits["delivered_at"]), (&json!("queued"), &json!(null)));
    // It waits through the end of the server.
    let server = Server::start_on(server.killed());
    let http = Http::new(&server);
    assert_eq!(one(&http, &sent)["state"], "queued");
    let back = Device::with_session(&server, &devices[0], Some(600));
    assert_eq!(&*back.message().payload, b"when you come");
    let kept = state(&http, &sent, "delivered");
    assert!(kept["delivered_at"].is_string() && kept["answered_at"].is_null(), "{kept}");
    back.publish(&answer_to(&sent), false, b"done", None);
    let kept = state(&http, &sent, "answered");
    assert!(kept["delivered_at"].is_string() && kept["answered_at"].is_string(), "{kept}");
    back.leave();
    let late = away(&server, 3);
    let kept = state(&http, &late, "expired");
    assert_eq!(kept["why"], "its session expired before the device came back");
    assert!(kept["delivered_at"].is_null(), "{kept}");
    let table = server.muster(&["device", "commands", "MU-000001"]).exits(0).out;
    assert!(table.contains("expired") && table.contains("none: its session expired"), "{table}");
}

fn who_waits_is_told(server: &Server, credential: &Credential) {
    let device = Device::connect(server, credential).subscribed(REQUESTS);
    let answering = std::thread::spawn(move || {
        let topic = String::from_utf8(device.message().topic.to_vec()).unwrap();
        device.publish(&topic.replace("/request", "/response"), false, b"done", None);
        device
    });
    let waited = server.muster(&["device", "command", "MU-000001", "go", "--wait=60"]).exits(0);
    assert_eq!(waited.out, "done\n");
    answering.join().unwrap().leave();
    server.muster(&["device", "command", "MU-000001", "go", "--wait=0"]).exits(2);
}
