//! Getting in and out: one-time links, the page's session, certificates, and those who try without.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::{net::TcpStream, os::unix::fs::PermissionsExt as _, sync::Arc};

use rig::{Place, Server, http::Http, read, run_with};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;

/// What a browser adds to a form that was sent from this very page.
const OURS: &str = "sec-fetch-site: same-origin\r\n";

/// An answer to a request with these header lines and no token.
fn browse(http: &Http, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    let mut stream = http.connect();
    exchange(&mut stream, method, path, headers, body)
}

fn exchange<S: std::io::Read + std::io::Write>(
    stream: &mut S,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept: text/html, application/json\r\n\
         {headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.flush();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_owned(), body.to_owned())
}

/// The path of the link in a file, which only its owner reads.
fn link(path: impl AsRef<std::path::Path>) -> String {
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let url = read(path);
    url.trim().split_once("/once/").map(|(_, secret)| format!("/once/{secret}")).unwrap()
}

/// `name=value` of the cookie that an answer sets.
fn cookie(head: &str) -> String {
    let line = head.lines().find(|line| line.to_lowercase().starts_with("set-cookie:")).unwrap();
    let value = line.split_once(':').unwrap().1.trim();
    for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(value.split("; ").any(|part| part == attribute), "{value}");
    }
    assert!(!value.contains("Domain"), "{value}");
    value.split(';').next().unwrap().to_owned()
}

#[test]
fn the_first_link_lets_its_operator_in_once() {
    let server = Server::start();
    let http = Http::new(&server);
    let file = server.place().data().join("first-link");
    let link = link(&file);
    // Looking at it, as mail scanners do, uses nothing up.
    for _ in 0..3 {
        let (status, head, page) = browse(&http, "GET", &link, "", "");
        assert_eq!(status, 200, "{head}");
        assert!(page.contains("<form method=\"post\">") && page.contains("admin"), "{page}");
        assert!(!head.to_lowercase().contains("set-cookie"), "{head}");
        assert!(head.to_lowercase().contains("content-security-policy: default-src 'self'"), "{head}");
    }
    let (status, _, page) = browse(&http, "POST", &link, "sec-fetch-site: cross-site\r\n", "");
    assert_eq!(status, 403, "another site cannot press the button: {page}");
    let (status, head, _) = browse(&http, "POST", &link, OURS, "");
    assert!(status == 303 && head.to_lowercase().contains("location: /\r\n"), "{head}");
    let cookie = cookie(&head);
    let session = format!("cookie: a=b; {cookie}\r\n");
    let (status, _, body) = browse(&http, "GET", "/v1/status", &session, "");
    assert!(status == 200 && body.contains("\"operator\":\"admin\""), "{body}");
    // Used up.
    for method in ["GET", "POST"] {
        let (status, _, page) = browse(&http, method, &link, OURS, "");
        assert!(status == 401 && page.contains("M521") && page.contains("used already"), "{page}");
    }
    writes_need_our_own_page(&http, &session);
    // Signed out, the cookie is worth nothing.
    let (status, head, _) = browse(&http, "POST", "/logout", &format!("{session}{OURS}"), "");
    assert!(status == 303 && head.contains("Max-Age=0"), "{head}");
    let (status, _, body) = browse(&http, "GET", "/v1/status", &session, "");
    assert!(status == 401 && body.contains("M525"), "{body}");
    // It is all on the record, and nothing that lets anybody in is.
    let rows = http.get("/v1/audit?limit=1000&action=operator.").is(200);
    let actions: Vec<_> = rows["items"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    for action in ["operator.invite", "operator.login", "operator.logout", "operator.login-failed"] {
        assert!(actions.contains(&json!(action)), "{action}: {actions:?}");
    }
    let secret = link.strip_prefix("/once/").unwrap().to_owned();
    let value = cookie.split_once('=').unwrap().1.to_owned();
    server.signal("TERM");
    let (status, log, place) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains(&secret) && !log.contains(&value), "{log}");
    let octets = place.stored();
    let holds = |text: &str| octets.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("operator.login"), "that is where it would be");
    assert!(!holds(&secret) && !holds(&value));
    // Somebody has signed in: there is no first link any more.
    let server = Server::start_on(place);
    assert!(!file.exists());
    drop(server);
}

/// A browser adds the cookie to whatever any page makes it send.
fn writes_need_our_own_page(http: &Http, session: &str) {
    let body = "{\"name\":\"mallory\",\"role\":\"admin\"}";
    for foreign in [
        "",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
        "origin: https://evil.test\r\n",
        "origin: null\r\n",
    ] {
        let (status, _, answer) = browse(http, "POST", "/v1/operators", &format!("{session}{foreign}"), body);
        assert!(status == 403 && answer.contains("M522"), "{foreign:?}: {answer}");
    }
    let ours = format!("{session}origin: https://localhost\r\n");
    let (status, _, answer) =
        browse(http, "POST", "/v1/operators", &ours, "{\"name\":\"ben\",\"role\":\"viewer\"}");
    assert_eq!(status, 200, "{answer}");
    // Two of them, or half of one, are none.
    let (status, ..) = browse(http, "GET", "/v1/status", &format!("{session}{session}"), "");
    assert_eq!(status, 401);
    let (status, ..) = browse(http, "GET", "/v1/status", &session.replace("__Host-", ""), "");
    assert_eq!(status, 401);
}

#[test]
fn an_invitation_from_the_host_needs_no_token_and_lets_the_command_line_in() {
    let server = Server::start();
    let data = server.place().data();
    std::fs::rename(data.join("token"), server.place().dir.path().join("lost")).unwrap();
    server.muster(&["device", "list"]).exits(5).refused("M501");
    let out = server.place().dir.path().join("link");
    let invite = ["operator", "invite", "acme/ana", "--role", "operator", "--out", out.to_str().unwrap()];
    let ran = server.muster(&invite).exits(0);
    assert!(!ran.out.contains("/once/") && !ran.err.contains("/once/"), "{ran:?}");
    let path = link(&out);
    let mut login = server.place().command(&["login"]);
    let ran = run_with(&mut login, Some(&read(&out))).exits(0);
    assert!(ran.out.contains("acme/ana, operator of acme"), "{ran:?}");
    assert_eq!(std::fs::metadata(data.join("token")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!ran.out.contains(read(data.join("token")).trim()), "{ran:?}");
    server.muster(&["device", "list"]).exits(0);
    server.muster(&["operator", "list"]).exits(0);
    server.muster(&["token", "list"]).exits(6).refused("M503");
    // The link is used up, for a browser too.
    let mut again = server.place().command(&["login"]);
    run_with(&mut again, Some(&read(&out))).exits(5).refused("M521");
    let http = Http::new(&server);
    assert_eq!(browse(&http, "POST", &path, OURS, "").0, 401);
    // What is not known, or says something else than what is there.
    server.muster(&["operator", "invite", "nobody"]).exits(4).refused("M520");
    server.muster(&["operator", "invite", "acme/ana", "--role", "admin"]).exits(3).refused("M524");
    server.muster(&["operator", "invite", "a b", "--role", "viewer"]).exits(2).refused("M504");
    server.muster(&["operator", "invite", "eve", "--role", "king"]).exits(2).refused("M504");
    let mut nothing = server.place().command(&["login"]);
    run_with(&mut nothing, Some("\n")).exits(2).refused("M504");
    let mut junk = server.place().command(&["login"]);
    run_with(&mut junk, Some("https://localhost/once/AAAA\n")).exits(5).refused("M521");
    // The host's secret opens this door alone, and only while the server runs.
    let host = read(data.join("run/host"));
    let host = http.with(host.trim());
    host.get("/v1/devices").refused(401, "M501");
    host.get("/v1/operators").is(200);
    drop(server);
}

#[test]
fn who_guesses_waits_and_is_on_the_record() {
    let server = Server::start();
    let http = Http::new(&server);
    let path = link(server.place().data().join("first-link"));
    let guess = "/once/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let tries: Vec<_> = (0..14).map(|_| browse(&http, "POST", guess, OURS, "").0).collect();
    assert!(tries[..10].iter().all(|status| *status == 401), "{tries:?}");
    assert!(tries[10..].iter().all(|status| *status == 429), "{tries:?}");
    // From here nobody signs in for a while, not even with the right link; a program works on.
    let (status, _, page) = browse(&http, "POST", &path, OURS, "");
    assert!(status == 429 && page.contains("M523"), "{page}");
    let typed = format!("token={}", http.token);
    assert_eq!(browse(&http, "POST", "/login", OURS, &typed).0, 429);
    http.get("/v1/status").is(200);
    for _ in 0..20 {
        http.with("muster_AAAA").get("/v1/status").refused(401, "M501");
    }
    let rows = http.get("/v1/audit?action=operator.login-failed").is(200);
    let rows = rows["items"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!((&rows[1]["detail"]["count"], &rows[1]["address"]), (&json!(9), &json!("127.0.0.1")));
}

#[test]
fn a_token_typed_in_opens_a_session_that_ends_with_it() {
    let server = Server::start();
    let http = Http::new(&server);
    let body = json!({ "operator": "eve", "role": "viewer", "days": 1 });
    let made = http.post("/v1/tokens", &body).is(200);
    assert_eq!(browse(&http, "GET", "/login", "", "").0, 200);
    for wrong in ["", "token=", "token=muster_AAAA", "token=a&token=b", "name=x", "token=%zz"] {
        let (status, head, _) = browse(&http, "POST", "/login", OURS, wrong);
        assert!(status == 400 || status == 401, "{wrong}: {head}");
    }
    let typed = format!("token={}", made["token"].as_str().unwrap());
    assert_eq!(browse(&http, "POST", "/login", "origin: https://evil.test\r\n", &typed).0, 403);
    let (status, head, _) = browse(&http, "POST", "/login", OURS, &typed);
    assert_eq!(status, 303, "{head}");
    let session = format!("cookie: {}\r\n{OURS}", cookie(&head));
    assert_eq!(browse(&http, "GET", "/v1/devices", &session, "").0, 200);
    let (status, _, body) = browse(&http, "POST", "/v1/devices/MU-1/suspend", &session, "{\"reason\":\"x\"}");
    assert!(status == 404 || (status == 403 && body.contains("M503")), "{body}");
    let revoke = format!("/v1/tokens/{}/revoke", made["id"].as_str().unwrap());
    http.post(&revoke, &json!({ "reason": "left" })).is(200);
    let (status, _, body) = browse(&http, "GET", "/v1/devices", &session, "");
    assert!(status == 401 && body.contains("M525") && body.contains("token"), "{body}");
}

/// A connection that shows this certificate.
fn with_certificate(
    server: &Server,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.place().data().join("https.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(&server.https).unwrap();
    socket.set_read_timeout(Some(rig::LIMIT)).unwrap();
    StreamOwned::new(connection, socket)
}

#[test]
fn a_certificate_of_the_operator_ca_is_a_caller() {
    let place = Place::new();
    let issue = |name: &str, flag: &str| {
        let out = place.dir.path().join(format!("cert-{flag}-{name}"));
        place.muster(&["cert", "issue", &format!("--{flag}"), name, "--out", out.to_str().unwrap()]).exits(0);
        let chain = CertificateDer::pem_file_iter(out.join(format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(out.join(format!("{name}.key.pem"))).unwrap();
        (chain.collect::<Result<Vec<_>, _>>().unwrap(), key)
    };
    let (admin, ghost, service) =
        (issue("admin", "operator"), issue("ghost", "operator"), issue("meter", "service"));
    let server = Server::start_on(place);
    let ask = |(chain, key): &(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
               method: &str,
               path: &str,
               headers: &str,
               body: &str| {
        let mut stream = with_certificate(&server, chain.clone(), key.clone_key());
        exchange(&mut stream, method, path, headers, body)
    };
    let (status, _, body) = ask(&admin, "GET", "/v1/status", "", "");
    assert!(status == 200 && body.contains("\"operator\":\"admin\""), "{body}");
    let add = "{\"name\":\"ben\",\"role\":\"viewer\"}";
    let (status, _, body) = ask(&admin, "POST", "/v1/operators", "", add);
    assert_eq!(status, 200, "a program sends no Origin: {body}");
    let (status, _, body) = ask(&admin, "POST", "/v1/operators", "origin: https://evil.test\r\n", add);
    assert!(status == 403 && body.contains("M522"), "{body}");
    // It names nobody; or it is another authority's, which ends the handshake.
    let (status, _, body) = ask(&ghost, "GET", "/v1/status", "", "");
    assert!(status == 401 && body.contains("ghost"), "{body}");
    let (status, head, _) = ask(&service, "GET", "/v1/status", "", "");
    assert_eq!(status, 0, "{head}");
    // A token that is shown too decides alone.
    let (status, ..) = ask(&admin, "GET", "/v1/status", "authorization: Bearer muster_AAAA\r\n", "");
    assert_eq!(status, 401);
    let http = Http::new(&server);
    let rows = http.get("/v1/audit?action=operator.add").is(200);
    let token = rows["items"].as_array().unwrap().last().unwrap()["token"].clone();
    assert!(token.as_str().unwrap().starts_with("c-"), "{token}");
}
