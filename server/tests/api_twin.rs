//! The twin of a device over the API, the command line and MQTT, with a client that is not ours.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use muster_pki::testing::Credential;
use rig::{
    Server,
    device::Device,
    http::{Answer, Http},
    run_with,
};
use serde_json::{Value, json};

const TWIN: &str = "/v1/devices/MU-000001/twin";
const DESIRED: &str = "acme/MU-000001/twin/desired";
const REPORTED: &str = "acme/MU-000001/twin/reported";
const ITS_OWN: &str = "acme/MU-000001/#";

/// The next desired state a device gets: document, version as its property says, and whether it was retained.
#[track_caller]
fn desired(device: &Device) -> (Value, String, bool) {
    let message = device.message();
    let properties = message.properties.unwrap();
    let content = properties.content_type.as_deref();
    assert_eq!((&*message.topic, content), (DESIRED.as_bytes(), Some("application/json")));
    let (name, version) = properties.user_properties[0].clone();
    assert_eq!(name, "version");
    (serde_json::from_slice(&message.payload).unwrap(), version, message.retain)
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
    let live = Device::connect(server, credential).subscribed(ITS_OWN);
    let key = "idempotency-key: \"twin-1\"\r\nif-match: \"0\"\r\n";
    let set = put(http, key, b"{\"period_s\": 30}");
    assert_eq!(set.header("etag"), Some("\"1\""));
    let set = set.is(200);
    assert_eq!((&set["desired_version"], &set["published"]), (&json!(1), &json!(true)));
    assert_eq!(set["desired_by"], "admin");
    assert_eq!(desired(&live), (json!({ "period_s": 30 }), "1".to_owned(), false));
    // The same request again is answered and does nothing; another of an old version says what there is.
    assert_eq!(put(http, key, b"{\"period_s\": 30}").is(200), set);
    let stale = put(http, "if-match: \"0\"\r\n", b"{}").refused(412, "M532");
    assert!(stale["why"].as_str().unwrap().starts_with("it is at version 1 now, set by admin"), "{stale}");
    put(http, "if-match: \"1\"\r\n", b"{\"period_s\": 60}").is(200);
    assert_eq!(desired(&live).1, "2");
    live.leave();
    // Suspended, it is set all the same, and on its topic when the device may talk again.
    server.muster(&["device", "suspend", "MU-000001", "--reason", "case 881"]).exits(0);
    let set = put(http, "", b"{\"period_s\": 90}").is(200);
    assert_eq!((&set["desired_version"], &set["published"]), (&json!(3), &json!(false)));
    server.muster(&["device", "resume", "MU-000001", "--reason", "case 881"]).exits(0);
    let back = Device::connect(server, credential).subscribed(ITS_OWN);
    assert_eq!(desired(&back), (json!({ "period_s": 90 }), "3".to_owned(), true));
}

fn what_the_device_reports_is_shown(server: &Server, http: &Http, credential: &Credential) {
    let device = Device::connect(server, credential);
    let said = b"{\"firmware\":\"1.4.2\",\"period_s\":90,\"note\":\"<b>x</b>\"}";
    device.publish(REPORTED, true, said, Some("application/json"));
    let shown = http.get(TWIN).is(200);
    assert_eq!(shown["reported"], json!({ "firmware": "1.4.2", "period_s": 90, "note": "<b>x</b>" }));
    assert_eq!(
        (&shown["reported_content_type"], &shown["reported_base64"]),
        (&json!("application/json"), &json!(null))
    );
    assert!(shown["reported_at"].is_string());
    the_page_escapes(http);
    device.publish(REPORTED, true, b"not JSON", Some("text/plain"));
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
