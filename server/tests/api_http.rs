//! The HTTPS API as a program meets it, good and bad.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rig::{Server, read};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(server: &Server) -> Stream {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.place().data().join("https.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(&server.https).unwrap();
    socket.set_read_timeout(Some(rig::LIMIT)).unwrap();
    StreamOwned::new(connection, socket)
}

/// Status line and body of one answer to octets sent as they are.
fn exchange(server: &Server, octets: &[u8]) -> (String, String) {
    let mut stream = connect(server);
    // A server that has answered already may have closed its end.
    let _ = stream.write_all(octets);
    let _ = stream.flush();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

fn token(server: &Server) -> String {
    read(server.place().data().join("token")).trim().to_owned()
}

fn ask(server: &Server, token: &str, line: &str, body: &str) -> (u16, Value) {
    let request = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (head, body) = exchange(server, request.as_bytes());
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head:?}"));
    (status, serde_json::from_str(&body).unwrap_or_else(|_| json!(body)))
}

#[track_caller]
fn is_problem(answer: &(u16, Value), status: u16, code: &str) {
    let (got, problem) = answer;
    assert_eq!((*got, problem["code"].as_str()), (status, Some(code)), "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["type"], format!("urn:muster:error:{code}"));
    for field in ["title", "detail", "what", "where", "why", "next", "exit", "request_id"] {
        assert!(problem.get(field).is_some(), "{field} is not in {problem}");
    }
    assert!(problem["request_id"].is_string() && problem["where"].is_string(), "{problem}");
}

/// Starting a server costs seconds of key derivation: these share one.
#[test]
fn how_much_may_be_asked_is_said_in_the_configuration() {
    let place = rig::Place::new();
    let file = place.data().join("muster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let bounds = "[https]\nrequests_per_s = 1\nrequests_burst = 5\njson_max = 4096\n";
    std::fs::write(&file, text.replace("[https]\n", bounds)).unwrap();
    let shown = place.muster(&["config", "--json"]).exits(0).json();
    let of = |key: &str| {
        let items = shown["items"].as_array().unwrap();
        items.iter().find(|of| of["key"] == key).unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert_eq!((of("https.requests_burst"), of("https.streams_each")), ("5".to_owned(), "16".to_owned()));
    let server = Server::start_on(place);
    let http = rig::http::Http::new(&server);
    let long = serde_json::json!({ "reason": "x".repeat(5000) });
    http.post("/v1/devices/MU-1/suspend", &long).refused(413, "M513");
    let answers: Vec<_> = (0..20).map(|_| http.get("/v1/devices")).collect();
    let refused = answers.iter().find(|answer| answer.status == 429).unwrap();
    let problem = refused.refused(429, "M508");
    assert_eq!(problem["why"], "1 a second, 5 at once after a pause");
    drop(server);
    let place = rig::Place::new();
    let file = place.data().join("muster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[https]\n", "[https]\nstreams_each = 300\n")).unwrap();
    let wrong = place.muster(&["config", "check"]).exits(2).refused("M505");
    assert!(wrong.err.contains("https.streams_each = 300"), "{}", wrong.err);
    assert!(wrong.err.contains("at most 256 is wanted, which is https.streams_max"), "{}", wrong.err);
}

#[test]
fn a_program_meets_the_api() {
    let server = Server::start();
    answers_carry_what_keeps_them_private(&server);
    every_refusal_is_a_problem_document_with_its_code(&server);
    a_wrong_token_opens_nothing(&server);
    garbage_does_not_hurt_it(&server);
}

fn every_refusal_is_a_problem_document_with_its_code(server: &Server) {
    let token = token(server);
    let of = |line: &str, body: &str| ask(server, &token, line, body);
    is_problem(&of("GET /v1/nothing", ""), 404, "M510");
    is_problem(&of("DELETE /v1/devices", ""), 405, "M512");
    is_problem(&of("GET /v1/devices?colour=red", ""), 400, "M504");
    is_problem(&of("GET /v1/devices?limit=0", ""), 400, "M504");
    is_problem(&of("GET /v1/devices?limit=-1", ""), 400, "M504");
    is_problem(&of("GET /v1/devices?filter=state%3Agone", ""), 400, "M504");
    is_problem(&of("GET /v1/devices?after=%00", ""), 400, "M504");
    is_problem(&of("GET /v1/audit?after=x", ""), 400, "M504");
    is_problem(&of("GET /v1/batches?after=x", ""), 400, "M504");
    is_problem(&of("GET /v1/audit/verify?checkpoint_no=1", ""), 400, "M504");
    is_problem(&of("GET /v1/devices/MU-1", ""), 404, "M208");
    is_problem(&of("GET /v1/devices/%2e%2e%2fetc", ""), 400, "M504");
    is_problem(&of("POST /v1/devices/MU-1/suspend", ""), 400, "M504");
    is_problem(&of("POST /v1/devices/MU-1/suspend", "{}"), 400, "M214");
    is_problem(&of("POST /v1/devices/MU-1/suspend", "{\"reason\":\" \"}"), 400, "M214");
    is_problem(&of("POST /v1/devices/MU-1/suspend", "{\"reason\":7}"), 400, "M504");
    is_problem(&of("POST /v1/devices/MU-1/suspend", "{\"reason\":\"x\",\"force\":true}"), 400, "M504");
    is_problem(&of("POST /v1/devices/MU-1/suspend", "{\"reason\":\"x\"}"), 404, "M208");
    is_problem(&of("POST /v1/devices/MU-1/decommission", "{\"reason\":\"x\"}"), 400, "M214");
    is_problem(&of("POST /v1/devices/MU-1/first-connection", "{\"reason\":\"x\"}"), 404, "M510");
    is_problem(&of("POST /v1/devices/MU-1/revoke", "{\"reason\":\"x\"}"), 400, "M214");
    let unconfirmed = "{\"reason\":\"x\",\"reason_code\":\"keyCompromise\",\"confirm\":\"MU-2\"}";
    is_problem(&of("POST /v1/devices/MU-1/revoke", unconfirmed), 428, "M213");
    is_problem(&of("POST /v1/devices/MU-1/command", "{}"), 400, "M504");
    is_problem(&of("POST /v1/devices/MU-1/command", "{\"payload_base64\":\"%\"}"), 400, "M504");
    is_problem(&of("POST /v1/devices/MU-1/command", "{\"payload\":\"x\"}"), 404, "M208");
    is_problem(&of("POST /v1/batches", ""), 422, "M401");
    is_problem(&of("POST /v1/stations", "nothing"), 422, "M408");
    is_problem(&of("POST /v1/tokens", "{\"operator\":\"a b\",\"role\":\"viewer\",\"days\":1}"), 400, "M504");
    is_problem(&of("POST /v1/tokens", "{\"operator\":\"a\",\"role\":\"king\",\"days\":1}"), 400, "M504");
    is_problem(&of("POST /v1/tokens", "{\"operator\":\"a\",\"role\":\"viewer\",\"days\":0}"), 400, "M504");
    is_problem(&of("POST /v1/tokens/t-0/revoke", ""), 404, "M520");
    let huge = "x".repeat(80_000);
    is_problem(&of("POST /v1/devices/MU-1/suspend", &huge), 413, "M513");
    // A length that is only announced is refused without waiting for it.
    let request = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 99999999999\r\n\r\n"
    );
    let (head, body) = exchange(server, request.as_bytes());
    assert!(head.starts_with("HTTP/1.1 413") && body.contains("M513"), "{head} {body}");
}

fn a_wrong_token_opens_nothing(server: &Server) {
    let right = token(server);
    let mut flipped = right.clone().into_bytes();
    let last = flipped.len() - 1;
    flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
    let wrong =
        [String::from_utf8(flipped).unwrap(), "muster_".to_owned(), "x".to_owned(), format!("{right}x")];
    let routes = [
        "GET /v1",
        "GET /v1/status",
        "GET /v1/devices",
        "GET /v1/devices/MU-1",
        "GET /v1/batches",
        "GET /v1/stations",
        "GET /v1/sessions",
        "GET /v1/audit",
        "GET /v1/audit/verify",
        "GET /v1/tokens",
        "GET /metrics",
        "POST /v1/batches",
        "POST /v1/stations",
        "POST /v1/tokens",
        "POST /v1/tokens/t-0/revoke",
        "POST /v1/devices/MU-1/suspend",
        "POST /v1/devices/MU-1/revoke",
        "POST /v1/devices/MU-1/disconnect",
        "POST /v1/devices/MU-1/command",
    ];
    for route in routes {
        is_problem(&ask(server, &wrong[0], route, "{}"), 401, "M501");
    }
    for token in &wrong {
        is_problem(&ask(server, token, "GET /v1/status", ""), 401, "M501");
    }
    let (head, _) = exchange(server, b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 401") && head.to_lowercase().contains("www-authenticate: bearer"),
        "{head}"
    );
    let basic =
        "GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Basic YTpi\r\n\r\n";
    assert!(exchange(server, basic.as_bytes()).0.starts_with("HTTP/1.1 401"));
    assert_eq!(ask(server, &right, "GET /v1/status", "").0, 200);
    for open in ["GET /healthz", "GET /readyz"] {
        assert_eq!(ask(server, "none", open, "").0, 200, "{open} needs no token");
    }
}

fn garbage_does_not_hurt_it(server: &Server) {
    for garbage in [
        &b"\x00\x01\x02\x03\x04\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%zz%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage instead of frames",
        b"POST /v1/batches HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = connect(server);
        let _ = stream.write_all(garbage);
        let _ = stream.flush();
        stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Not even TLS; and a head that never ends.
    let mut plain = TcpStream::connect(&server.https).unwrap();
    plain.set_read_timeout(Some(rig::LIMIT)).unwrap();
    let _ = plain.write_all(b"GET / HTTP/1.1\r\n\r\n");
    let _ = plain.read_to_end(&mut Vec::new());
    let mut endless = connect(server);
    let line = [b'x'; 4096];
    let _ = endless.write_all(b"GET / HTTP/1.1\r\nx: ");
    while endless.write_all(&line).is_ok() && endless.flush().is_ok() {
        endless.sock.set_nonblocking(true).unwrap();
        let ended = endless.sock.peek(&mut [0; 1]).is_ok();
        endless.sock.set_nonblocking(false).unwrap();
        if ended {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let (status, body) = ask(server, &token(server), "GET /v1/status", "");
    assert_eq!((status, &body["ready"]), (200, &json!(true)));
}

fn answers_carry_what_keeps_them_private(server: &Server) {
    let request = format!(
        "GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
        token(server)
    );
    let (head, _) = exchange(server, request.as_bytes());
    let head = head.to_lowercase();
    for header in ["cache-control: no-store", "x-content-type-options: nosniff", "x-request-id: "] {
        assert!(head.contains(header), "{head}");
    }
}
