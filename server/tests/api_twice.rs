//! What is asked twice, too late or too often: idempotency keys, versions, rates.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use rig::{Server, http::Http};
use serde_json::json;

const SUSPEND: &str = "/v1/devices/MU-000001/suspend";

fn key(key: &str) -> String {
    format!("idempotency-key: \"{key}\"\r\n")
}

#[test]
fn asking_again_does_nothing_again() {
    let server = Server::start();
    let http = Http::new(&server);
    server.with_devices("B-1", &["MU-000001", "MU-000002"]);
    a_repeat_is_answered_as_the_first_was(&http);
    a_key_is_one_requests(&server, &http);
    a_secret_is_not_kept(&http);
    what_has_changed_is_not_decided_about(&http);
    too_many_are_refused(&http);
    a_key_survives_a_restart(server);
}

fn a_repeat_is_answered_as_the_first_was(http: &Http) {
    let body = json!({ "reason": "case 881" });
    let first = http.post_with(SUSPEND, &key("a-1"), &body);
    let document = first.is(200);
    let again = http.post_with(SUSPEND, &key("a-1"), &body);
    assert_eq!(again.is(200), document);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("idempotency-replayed"), None);
    // Without the key it is another request, and not allowed any more.
    http.post(SUSPEND, &body).refused(409, "M203");
    // A refusal is what a request came to, too, and names the request that asked last.
    let one = http.post_with(SUSPEND, &key("a-2"), &body).refused(409, "M203");
    let two = http.post_with(SUSPEND, &key("a-2"), &body).refused(409, "M203");
    assert_eq!((&one["what"], &one["where"]), (&two["what"], &two["where"]));
    assert_ne!(one["request_id"], two["request_id"]);
    http.post("/v1/devices/MU-000001/resume", &json!({ "reason": "back" })).is(200);
}

fn a_key_is_one_requests(server: &Server, http: &Http) {
    let body = json!({ "reason": "case 882" });
    http.post_with(SUSPEND, &key("b-1"), &body).is(200);
    http.post_with(SUSPEND, &key("b-1"), &json!({ "reason": "another" })).refused(422, "M530");
    http.post_with("/v1/devices/MU-000002/suspend", &key("b-1"), &body).refused(422, "M530");
    for wrong in ["\"\"", "a b", "\"a\"b\""] {
        http.post_with(SUSPEND, &format!("idempotency-key: {wrong}\r\n"), &body).refused(400, "M504");
    }
    // A method that is not served is refused as such, whatever its key.
    http.ask("TRACE", SUSPEND, &key("b-1"), b"").refused(405, "M512");
    // Another credential's key of the same name is another key.
    let made = server.muster(&["token", "create", "bo", "--role", "operator", "--json"]).exits(0).json();
    let other = http.with(made["token"].as_str().unwrap());
    other.post_with(SUSPEND, &key("b-1"), &body).refused(409, "M203");
    // What was not done for want of a role may be asked again.
    let look = server.muster(&["token", "create", "eve", "--role", "viewer", "--json"]).exits(0).json();
    let look = http.with(look["token"].as_str().unwrap());
    for _ in 0..2 {
        let refused = look.post_with(SUSPEND, &key("b-2"), &body);
        refused.refused(403, "M503");
        assert_eq!(refused.header("idempotency-replayed"), None);
    }
    http.with("muster_none").post_with(SUSPEND, &key("b-1"), &body).refused(401, "M501");
}

fn a_secret_is_not_kept(http: &Http) {
    let body = json!({ "operator": "cy", "role": "viewer", "days": 1 });
    let made = http.post_with("/v1/tokens", &key("c-1"), &body).is(200);
    let again = http.post_with("/v1/tokens", &key("c-1"), &body);
    again.refused(409, "M531");
    let token = made["token"].as_str().unwrap();
    assert!(!String::from_utf8_lossy(&again.body).contains(token));
    let listed = http.get("/v1/tokens").json();
    let of = listed["items"].as_array().unwrap().iter().filter(|of| of["operator"] == "cy").count();
    assert_eq!(of, 1, "one was made");
}

fn what_has_changed_is_not_decided_about(http: &Http) {
    let path = "/v1/devices/MU-000001";
    let seen = http.get(path);
    let etag = seen.header("etag").unwrap().to_owned();
    assert_eq!(etag, format!("\"{}\"", seen.json()["version"]));
    let (resume, suspend) = (format!("{path}/resume"), format!("{path}/suspend"));
    let body = json!({ "reason": "as seen" });
    http.post_with(&resume, &format!("if-match: {etag}\r\n"), &body).is(200);
    let stale = http.post_with(&suspend, &format!("if-match: {etag}\r\n"), &body).refused(412, "M532");
    let why = stale["why"].as_str().unwrap();
    assert!(why.contains("device.resume by admin") && why.contains("as seen"), "{why}");
    http.post_with(&format!("{path}/disconnect"), &format!("if-match: {etag}\r\n"), &body)
        .refused(412, "M532");
    for wrong in ["7", "\"x\"", "W/\"7\""] {
        http.post_with(&suspend, &format!("if-match: {wrong}\r\n"), &body).refused(400, "M504");
    }
    http.post_with(&suspend, "if-match: *\r\n", &body).is(200);
}

fn too_many_are_refused(http: &Http) {
    let mut stream = http.connect();
    use std::io::{Read as _, Write as _};
    // One connection, many requests at once: more than a burst allows.
    let request = format!("GET /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", http.token);
    let last = request.replace("host: x", "host: x\r\nconnection: close");
    let mut reader = stream.sock.try_clone().unwrap();
    let _ = &mut reader;
    for _ in 0..40 {
        let many = request.repeat(20);
        stream.write_all(many.as_bytes()).unwrap();
        let mut some = [0; 16 * 1024];
        let _ = stream.read(&mut some).unwrap();
    }
    stream.write_all(last.as_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let text = String::from_utf8_lossy(&rest).to_lowercase();
    assert!(
        text.contains("http/1.1 429") && text.contains("retry-after: 1"),
        "{}",
        &text[..text.len().min(500)]
    );
    std::thread::sleep(std::time::Duration::from_millis(1500));
    http.get("/v1/jobs").is(200);
}

fn a_key_survives_a_restart(server: Server) {
    let http = Http::new(&server);
    let body = json!({ "reason": "over a restart" });
    let path = "/v1/devices/MU-000002/suspend";
    let first = http.post_with(path, &key("d-1"), &body).is(200);
    server.signal("KILL");
    let (_, _, place) = server.wait();
    let server = Server::start_on(place);
    let http = Http::new(&server);
    let again = http.post_with(path, &key("d-1"), &body);
    assert_eq!(again.is(200), first);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}
