//! `/v1/stream` as a program meets it: what happens is told once, in order, and gone on with after a cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::time::Duration;

use rig::{Server, http::Http};
use serde_json::json;

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
    let mut events = http.with(made["token"].as_str().unwrap()).events("/v1/stream", "");
    let open = events.next_of("open").id;
    http.post(&format!("/v1/tokens/{}/revoke", made["id"].as_str().unwrap()), &json!({})).is(200);
    // Within a beat of fifteen seconds.
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
