//! `/v1/stream` as a program meets it: what happens is told once, in order, and gone on with after a cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::time::Duration;

use rig::{
    Server,
    device::Device,
    http::{Events, Http},
};
use serde_json::json;

/// The connection ends with its answer, so that the stream's end is seen at once.
const CLOSE: &str = "connection: close\r\n";

fn act(http: &Http, serial: &str, verb: &str) -> u64 {
    let answer = http.post(&format!("/v1/devices/{serial}/{verb}"), &json!({ "reason": "a reason of ten" }));
    answer.is(200)["audit_no"].as_u64().unwrap()
}

#[test]
fn what_happens_is_told() {
    let server = Server::start();
    let http = Http::new(&server);
    server.with_devices("B-1", &["MU-000001", "MU-000002", "MU-000003"]);
    decisions_come_in_order_and_after_a_cut(&http);
    only_what_was_asked_for_is_told(&http);
    what_cannot_be_told_is_a_gap(&http);
    what_is_wrong_is_refused(&http);
    a_stream_ends_with_its_token(&server, &http);
    streams_end_when_the_server_stops(server, &http);
}

/// A device that sends too fast is slowed, and everybody who looks is told: the stream, the overview, its timeline.
#[test]
fn what_is_noticed_of_a_device_is_told() {
    let place = rig::Place::new();
    let mut command = place.command(rig::SERVE);
    command.env("MUSTER_LIMITS_MESSAGES_PER_S", "1");
    let server = Server::start_by(place, command);
    let credential = server.with_devices("B-1", &["MU-000001"]).remove(0);
    let http = Http::new(&server);
    let mut events = http.events("/v1/stream?filter=kind%3Anotice", "");
    events.next_of("open");
    let device = Device::connect(&server, &credential);
    let reported = |version: &str| {
        let payload = format!("{{\"firmware\":\"{version}\"}}");
        device.publish("acme/MU-000001/twin/reported", false, payload.as_bytes(), Some("application/json"));
        let now = || http.get("/v1/devices/MU-000001").is(200)["firmware"].clone();
        rig::eventually("the version", now, |now| now == version);
    };
    reported("1.4.1");
    // More than a burst of what it may.
    for _ in 0..14 {
        device.publish("acme/MU-000001/app/x", false, b"fast", None);
    }
    let slowed = |overview: &serde_json::Value| {
        let lines = overview["activity"].as_array().unwrap();
        lines.iter().any(|line| line["kind"] == "slowed" && line["serial"] == "MU-000001")
    };
    rig::eventually("the notice", || http.get("/v1/overview").is(200), slowed);
    let told = events.next_of("notice").json();
    assert_eq!(
        (&told["serial"], &told["notice"]["notice"]),
        (&json!("MU-000001"), &json!("slowed")),
        "{told}"
    );
    assert_eq!(told["notice"]["text"], "slowed: over 1 msg/s");
    reported("1.4.2");
    let timeline = http.get("/v1/devices/MU-000001/timeline").is(200);
    let lines: Vec<_> =
        timeline["items"].as_array().unwrap().iter().map(|of| of["text"].as_str().unwrap()).collect();
    for line in ["firmware: now 1.4.1 (the first it reported)", "firmware: now 1.4.2 (was 1.4.1)"] {
        assert!(lines.contains(&line), "{lines:?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("slowed: over 1 msg/s")), "{lines:?}");
    device.leave();
}

fn decisions_come_in_order_and_after_a_cut(http: &Http) {
    let mut events = http.events("/v1/stream", "");
    assert_eq!(events.status(), 200, "{}", events.head);
    assert!(events.head.to_lowercase().contains("content-type: text/event-stream"), "{}", events.head);
    let open = events.next_of("open");
    assert!(open.id.is_some());
    let first = act(http, "MU-000001", "suspend");
    let told = events.next_of("change");
    let change = told.json();
    assert_eq!(change["schema"], "muster.event/1");
    assert_eq!((change["change"]["no"].as_u64(), &change["serial"]), (Some(first), &json!("MU-000001")));
    // A cut: what was decided meanwhile is told from the last id on, by either way of saying it.
    let last = told.id.unwrap();
    drop(events);
    let missed: Vec<u64> =
        ["resume", "suspend", "resume"].iter().map(|verb| act(http, "MU-000001", verb)).collect();
    for resumed in [
        http.events("/v1/stream", &format!("last-event-id: {last}\r\n")),
        http.events(&format!("/v1/stream?after={last}"), ""),
        http.events("/v1/stream?after=nonsense", &format!("last-event-id: {last}\r\n")),
    ] {
        let mut resumed = resumed;
        let told: Vec<u64> = missed
            .iter()
            .map(|_| resumed.next_of("change").json()["change"]["no"].as_u64().unwrap())
            .collect();
        assert_eq!(told, missed);
    }
}

fn only_what_was_asked_for_is_told(http: &Http) {
    let mut events = http.events("/v1/stream?filter=kind%3Achange%20MU-000002", "");
    events.next_of("open");
    act(http, "MU-000001", "suspend");
    let own = act(http, "MU-000002", "suspend");
    assert_eq!(events.next_of("change").json()["change"]["no"], own);
    act(http, "MU-000001", "resume");
    let own = act(http, "MU-000002", "resume");
    assert_eq!(events.next_of("change").json()["change"]["no"], own);
    let mut quiet = http.events("/v1/stream?filter=tenant%3Aother", "");
    quiet.next_of("open");
    act(http, "MU-000001", "suspend");
    act(http, "MU-000001", "resume");
    quiet.patience(Duration::from_millis(1500));
    assert!(quiet.next().is_none(), "another tenant's is not told");
}

fn what_cannot_be_told_is_a_gap(http: &Http) {
    let mut events = http.events("/v1/stream", "");
    let id = events.next_of("open").id.unwrap();
    // The same registry, ahead of its log: as a restored copy would find it.
    let mut ahead = http.events(&format!("/v1/stream?after={}", forged(&id, false)), "");
    let gap = ahead.next_of("gap").json();
    assert_eq!(gap["gap"]["of"], "decisions");
    assert!(gap["gap"]["from"].as_u64() < gap["gap"]["to"].as_u64(), "{gap}");
    let no = act(http, "MU-000003", "suspend");
    assert_eq!(ahead.next_of("change").json()["change"]["no"], no, "and then it goes on");
    act(http, "MU-000003", "resume");
    // Another server's id: everything of this one is told.
    let mut foreign =
        http.events(&format!("/v1/stream?after={}&filter=kind%3Achange", forged(&id, true)), "");
    assert_eq!(foreign.next_of("gap").json()["gap"]["from"], json!(null));
    assert_eq!(foreign.next_of("change").json()["change"]["no"], 1);
}

/// The cursor with its numbers raised, or its nodes changed.
fn forged(id: &str, node: bool) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut octets = URL_SAFE_NO_PAD.decode(&id[1..]).unwrap();
    for entry in octets.chunks_exact_mut(17) {
        if node {
            entry[8] ^= 1;
        } else if entry[0] == 0 {
            entry[15] = 7;
        }
    }
    format!("e{}", URL_SAFE_NO_PAD.encode(octets))
}

fn what_is_wrong_is_refused(http: &Http) {
    for (path, status, code) in [
        ("/v1/stream?after=nonsense", 400, "M504"),
        ("/v1/stream?filter=kind%3Aall", 400, "M504"),
        ("/v1/stream?filter=topic%3Aa%2F%23%2Fb", 400, "M504"),
        ("/v1/stream?colour=red", 400, "M504"),
        ("/v1/stream?filter=MU-999999", 404, "M208"),
    ] {
        http.get(path).refused(status, code);
    }
    http.with("muster_none").get("/v1/stream").refused(401, "M501");
    // As many as one credential may have.
    let mut all: Vec<_> = (0..16).map(|_| http.events("/v1/stream", "")).collect();
    assert!(all.iter().all(|events| events.status() == 200));
    let refused = http.get("/v1/stream");
    refused.refused(429, "M508");
    assert!(refused.header("retry-after").is_some());
    all.pop();
    let until = std::time::Instant::now() + rig::LIMIT;
    while http.events("/v1/stream", "").status() != 200 {
        assert!(std::time::Instant::now() < until, "a place is not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_stream_ends_with_its_token(server: &Server, http: &Http) {
    let made = server.muster(&["token", "create", "eve", "--role", "viewer", "--json"]).exits(0).json();
    let mut events = http.with(made["token"].as_str().unwrap()).events("/v1/stream", CLOSE);
    let open = events.next_of("open").id;
    http.post(&format!("/v1/tokens/{}/revoke", made["id"].as_str().unwrap()), &json!({})).is(200);
    let end = events.next_of("end").json();
    assert_eq!(end["problem"]["code"], "M502", "{end}");
    assert!(events.next().is_none());
    assert!(events.last_id.is_some() && open.is_some());
}

fn streams_end_when_the_server_stops(server: Server, http: &Http) {
    let mut events = http.events("/v1/stream", "");
    events.next_of("open");
    server.signal("TERM");
    assert!(events.next().is_none(), "it ends, and keeps nobody waiting");
    let (status, log, _) = server.wait();
    assert_eq!(status, Some(0), "{log}");
}

/// A session of the web page that a token opened: its cookie's header line, and that a page of ours asks.
fn session(http: &Http, token: &str) -> String {
    const OURS: &str = "sec-fetch-site: same-origin\r\n";
    let answer = http.with("").ask("POST", "/login", OURS, format!("token={token}").as_bytes());
    assert_eq!(answer.status, 303, "{}", answer.head);
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
    format!("cookie: {cookie}\r\n{OURS}")
}

/// The end is told, with this code, and nothing about the device before it; its id.
#[track_caller]
fn ends(mut events: Events, code: &str) -> Option<String> {
    loop {
        let event = events.next().expect("the stream says why it ends");
        if event.kind == "end" {
            assert_eq!(event.json()["problem"]["code"], code, "{}", event.data);
            assert!(events.next().is_none(), "and nothing comes after it");
            return event.id;
        }
        assert!(!event.data.contains("MU-000001"), "told too late: {}", event.data);
    }
}

/// Each is ended in its own way; then something happens at once, which it must not be told.
#[test]
fn who_may_not_listen_any_more_is_told_nothing_that_comes_after() {
    let server = Server::start();
    let http = Http::new(&server);
    server.with_devices("B-1", &["MU-000001"]);
    let body = json!({ "operator": "eve", "role": "viewer", "days": 1 });
    let eve = http.post("/v1/tokens", &body).is(200);
    let (token, id) = (eve["token"].as_str().unwrap(), eve["id"].as_str().unwrap());
    let nobody = http.with("");
    let (own, theirs) = (session(&http, &http.token), session(&http, token));
    let follow = |headers: &str, filter: &str| {
        let mut events = nobody.events(&format!("/v1/stream{filter}"), &format!("{CLOSE}{headers}"));
        assert_eq!(events.status(), 200, "{}", events.head);
        events.next_of("open");
        events
    };

    // Signed out.
    let events = follow(&own, "");
    assert_eq!(nobody.ask("POST", "/logout", &own, b"").status, 303);
    let no = act(&http, "MU-000001", "suspend");
    let last = ends(events, "M525").unwrap();
    // Who signs in again goes on where the other was cut, and misses nothing.
    let mut resumed = http.events(&format!("/v1/stream?after={last}&filter=kind%3Achange%20MU-000001"), "");
    assert_eq!(resumed.next_of("change").json()["change"]["no"], no);

    // The token a session was opened with is revoked; one that listens to messages alone hears of it too.
    let (all, messages) = (follow(&theirs, ""), follow(&theirs, "?filter=kind%3Amessage"));
    http.post(&format!("/v1/tokens/{id}/revoke"), &json!({})).is(200);
    act(&http, "MU-000001", "resume");
    ends(all, "M525");
    ends(messages, "M525");

    // The operator is removed.
    let bob = http.post("/v1/tokens", &json!({ "operator": "bob", "role": "viewer", "days": 1 })).is(200);
    let events = follow(&session(&http, bob["token"].as_str().unwrap()), "");
    http.post("/v1/operators/bob/remove", &json!({ "reason": "left" })).is(200);
    act(&http, "MU-000001", "suspend");
    ends(events, "M525");
}
