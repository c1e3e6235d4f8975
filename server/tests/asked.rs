//! What is asked of a real server, by command and over HTTPS: devices by filter, labels, timelines, batches,
//! certificates, revocation lists and the status list.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_pki::{
    Signer as _,
    crl::{Crl, RevocationReason},
    testing::{self, Credential},
};
use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};
use rig::{Server, http::Http, muster, read, run};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

#[test]
fn devices_are_found_by_what_the_filter_says() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003", "MU-000005"]);
    server.muster(&["device", "suspend", "MU-000002", "--reason", "case 881"]).exits(0);
    server.muster(&["device", "label", "MU-000003", "--tag", "Line 2", "--note", "<b>spare</b>"]).exits(0);
    let serials = |filter: &str, more: &[&str]| {
        let ran =
            server.muster(&[&["device", "list", "-o", "serial", "--filter", filter], more].concat()).exits(0);
        ran.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let sorted = ["--sort", "serial"];
    assert_eq!(serials("state:suspended", &[]), ["MU-000002"]);
    assert_eq!(serials("state!=suspended", &sorted), ["MU-000001", "MU-000003", "MU-000005"]);
    assert_eq!(serials("tag:\"line 2\"", &[]), ["MU-000003"]);
    assert_eq!(
        serials("batch:B-0001 -tag:\"line 2\"", &["--sort", "-serial"]),
        ["MU-000005", "MU-000002", "MU-000001"]
    );
    assert_eq!(serials("5", &[]), ["MU-000005"]);
    assert_eq!(serials("mu-00000", &[&sorted[..], &["--limit", "2"]].concat()), ["MU-000001", "MU-000002"]);
    assert_eq!(serials("online:no seen:never firmware:unknown", &[]).len(), 4);
    let wide = server.muster(&["device", "list", "-o", "wide", "--filter", "MU-000003"]).exits(0);
    assert!(wide.out.contains("ISSUER") && wide.out.contains("<b>spare</b>"), "{}", wide.out);
    let wrong = server.muster(&["device", "list", "--filter", "state:gone"]).exits(2);
    assert!(wrong.err.contains("quarantined"), "{}", wrong.err);
    let none = server.muster(&["device", "list", "--filter", "tag:none"]).exits(0);
    assert!(none.out.is_empty() && none.err.contains("drop a part"), "{}", none.err);
    // The same over HTTPS, page after page.
    let http = Http::new(&server);
    let first = http.get("/v1/devices?sort=serial&limit=3").is(200);
    assert_eq!((first["items"].as_array().unwrap().len(), &first["total"]), (3, &4.into()));
    let next = first["next"].as_str().unwrap();
    let second = http.get(&format!("/v1/devices?sort=serial&limit=3&after={next}")).is(200);
    assert_eq!(
        (&second["items"][0]["serial"], &second["next"]),
        (&"MU-000005".into(), &serde_json::Value::Null)
    );
    http.get("/v1/devices?filter=colour:red").refused(400, "M504");
    http.get("/v1/devices?sort=colour").refused(400, "M504");
    http.get(&format!("/v1/devices?sort=seen&after={next}")).refused(400, "M504");
}

#[test]
fn one_device_s_timeline_labels_and_readings() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001"]);
    server.muster(&["device", "suspend", "MU-000001", "--reason", "case 881"]).exits(0);
    let shown = server.muster(&["device", "show", "MU-000001", "--history"]).exits(0);
    assert!(shown.out.contains("suspended by admin \"case 881\""), "{}", shown.out);
    assert!(shown.out.contains("registered from manifest B-0001 by admin"), "{}", shown.out);
    let labelled = server.muster(&["device", "label", "MU-000001", "MU-000099", "--group", "north"]).exits(9);
    assert!(labelled.out.contains("MU-000001 tags none · groups north"), "{}", labelled.out);
    assert!(labelled.err.contains("M208"), "{}", labelled.err);
    let http = Http::new(&server);
    let lines = http.get("/v1/devices/MU-000001/timeline").is(200);
    assert_eq!(
        (&lines["items"][0]["kind"], &lines["items"][0]["actor"]),
        (&"ordered".into(), &"admin".into())
    );
    assert_eq!(lines["items"][1]["mark"], "suspended");
    let readings = http.get("/v1/devices/MU-000001/readings?range=1h&buckets=1200").is(200);
    assert_eq!((&readings["bucket_ms"], readings["sensors"].as_array().unwrap().len()), (&3000.into(), 0));
    http.get("/v1/devices/MU-000001/readings?range=1000d").refused(400, "M504");
    http.get("/v1/devices/MU-000099/readings").refused(404, "M208");
    http.get("/v1/devices/MU-000099/timeline").refused(404, "M208");
    let none = server.muster(&["device", "readings", "MU-000001"]).exits(0);
    assert!(none.err.contains("said nothing"), "{}", none.err);
    let sessions = server.muster(&["session", "show", "MU-000001"]).exits(0);
    assert!(sessions.err.contains("never connected"), "{}", sessions.err);
}

#[test]
fn a_batch_is_shown_exported_and_verified_again() {
    let server = Server::start();
    server.with_devices("B-0001", &["MU-000001", "MU-000004"]);
    let shown = server.muster(&["batch", "show", "B-0001"]).exits(0);
    assert!(shown.out.contains("2: MU-000002 to MU-000003"), "{}", shown.out);
    let copy = server.place().dir.path().join("copy.muster");
    server.muster(&["batch", "export", "B-0001", "--out", copy.to_str().unwrap()]).exits(0);
    assert_eq!(read(&copy), read(server.place().dir.path().join("B-0001.muster")));
    server.muster(&["batch", "export", "B-0001", "--out", copy.to_str().unwrap()]).exits(2).refused("M509");
    let verified = server.muster(&["batch", "verify", "B-0001"]).exits(0);
    assert!(verified.out.contains("1 manifests hold, with 2 devices"), "{}", verified.out);
    server.muster(&["batch", "show", "B-9"]).exits(4).refused("M407");
}

#[test]
fn certificates_and_what_is_published_of_them() {
    let server = Server::start();
    let devices = server.with_devices("B-0001", &["MU-000001", "MU-000002", "MU-000003"]);
    let revoke =
        ["device", "revoke", "MU-000002", "--reason-code", "keyCompromise", "--reason", "key found outside"];
    server.muster(&[&revoke[..], &["--confirm", "MU-000002"]].concat()).exits(0);
    server.muster(&["device", "suspend", "MU-000003", "--reason", "case 881"]).exits(0);
    let list = server.muster(&["cert", "list", "--status", "revoked"]).exits(0);
    let id = devices[1].identity().id.to_string();
    assert!(list.out.contains(&id[..8]) && list.out.contains("keyCompromise"), "{}", list.out);
    let shown = server.muster(&["cert", "show", &id]).exits(0);
    assert!(shown.out.contains("-----BEGIN CERTIFICATE-----"), "{}", shown.out);
    let file = server.place().file("device.der", &devices[1].chain[0]);
    let seen = server.muster(&["cert", "inspect", file.to_str().unwrap()]).exits(0);
    assert!(seen.out.contains(&id) && seen.out.contains("acme/MU-000002"), "{}", seen.out);
    let stranger = server.place().devices(&["MU-000009"]);
    let file = server.place().file("stranger.der", &stranger[0].chain[0]);
    server.muster(&["cert", "inspect", file.to_str().unwrap()]).exits(4).refused("M314");
    server.muster(&["cert", "inspect", "/proc/self/status"]).exits(8);
    let shown = server.muster(&["ca", "show", "operational"]).exits(0);
    assert!(shown.out.contains("this server"), "{}", shown.out);
    server.muster(&["ca", "show", "nobody"]).exits(4);
    let http = Http::new(&server);
    let hierarchy = &server.place().hierarchy;
    for (name, ca) in [("operational", &hierarchy.operational), ("service", &hierarchy.service)] {
        let answer = http.get(&format!("/v1/crl/{name}"));
        assert_eq!(answer.header("content-type"), Some("application/pkix-crl"));
        let list = Crl::verify(&answer.body, ca.certificate()).unwrap();
        assert!(
            list.number > 0 && list.revoked.is_empty(),
            "the devices' birth certificates are not its own"
        );
    }
    what_was_issued_here_and_revoked_is_listed(&server, &http);
    what_a_certificate_stands_on_is_said(&server, &devices);
    http.get("/v1/crl/factory").refused(404, "M314");
    let out = server.place().dir.path().join("operational.crl");
    server.muster(&["ca", "crl", "operational", "--out", out.to_str().unwrap()]).exits(0);
    Crl::verify(&std::fs::read(out).unwrap(), hierarchy.operational.certificate()).unwrap();
    status_list_says(&http, hierarchy.operational.key().public_key().point());
}

/// Issuer and root by name and fingerprint, and before whom the key was proven.
fn what_a_certificate_stands_on_is_said(server: &Server, devices: &[Credential]) {
    let json = server.muster(&["device", "show", "MU-000001", "--json"]).exits(0).json();
    let of = &json["certificates"][0];
    assert_eq!((&of["key_proven"], of["chain"].as_array().unwrap().len()), (&"station".into(), 3));
    let hierarchy = &server.place().hierarchy;
    let factory = hierarchy.stations[0].factory.certificate();
    let digest = |der: &[u8]| hex::encode(Sha256::digest(der));
    for (link, der) in
        [(0, &devices[0].chain[0][..]), (1, factory.der()), (2, hierarchy.root.certificate().der())]
    {
        assert_eq!(of["chain"][link]["fingerprint"], digest(der), "{of}");
        assert_eq!(of["chain"][link]["fault"], serde_json::Value::Null, "{of}");
    }
    assert_eq!(of["issuer"], hex::encode(factory.key_id()));
    let shown = server.muster(&["device", "show", "MU-000001"]).exits(0);
    for said in
        ["issuer factory CA of S-07", "✓ chain", "✓ key proven to its station", &digest(factory.der())]
    {
        assert!(shown.out.contains(said), "{said}: {}", shown.out);
    }
    let revoked = server.muster(&["device", "show", "MU-000002"]).exits(0);
    assert!(revoked.out.contains("✕ chain: device"), "{}", revoked.out);
}

#[test]
fn each_question_about_a_certificate_is_answered() {
    let server = Server::start();
    let devices = server.with_devices("B-0001", &["MU-000001", "MU-000002"]);
    let place = server.place();
    let file = |name: &str, octets: &[u8]| place.file(name, octets).to_str().unwrap().to_owned();
    let good = file("good.der", &devices[0].chain[0]);
    let verified = server.muster(&["cert", "verify", &good]).exits(0);
    for said in ["signed by S-07 (factory CA", "registered to acme/MU-000001", "may connect"] {
        assert!(verified.out.contains(said), "{said}: {}", verified.out);
    }
    server.muster(&["device", "suspend", "MU-000002", "--reason", "case 881"]).exits(0);
    let held = file("held.der", &devices[1].chain[0]);
    let refused = server.muster(&["cert", "verify", &held]).exits(10);
    assert!(refused.out.contains("would be refused [M201]") && refused.out.contains("resume"), "{refused:?}");
    let unknown = file("unknown.der", &place.devices(&["MU-000009"])[0].chain[0]);
    let json = server.muster(&["cert", "verify", &unknown, "--json"]).exits(10).json();
    assert_eq!((&json["good"], &json["checks"][0]["outcome"]), (&false.into(), &"yes".into()), "{json}");
    assert_eq!(
        (&json["checks"][2]["check"], &json["checks"][2]["outcome"]),
        (&"registered".into(), &"no".into())
    );
    // Signed by nobody who is trusted here.
    let stranger = testing::hierarchy(rig::now_s());
    let foreign = file("foreign.pem", stranger.service.certificate().pem().as_bytes());
    let ran = server.muster(&["cert", "verify", &foreign]).exits(10);
    assert!(ran.out.contains("nobody below"), "{}", ran.out);
    // What was made here for a service, until it is revoked.
    let out = place.dir.path().join("meter").to_str().unwrap().to_owned();
    place.muster(&["cert", "issue", "--service", "meter", "--out", &out]).exits(0);
    let service = format!("{out}/meter.pem");
    let ran = server.muster(&["cert", "verify", &service]).exits(0);
    assert!(ran.out.contains("not on the revocation list of service"), "{}", ran.out);
    let id = server.muster(&["cert", "verify", &service, "--json"]).exits(0).json()["certificate_id"].clone();
    let why = ["--reason", "left on a train", "--reason-code", "keyCompromise"];
    let revoke = ["cert", "revoke", &service, "--confirm", &id.as_str().unwrap()[..8]];
    server.muster(&[&revoke[..], &why].concat()).exits(0);
    let ran = server.muster(&["cert", "verify", &service]).exits(10);
    assert!(ran.out.contains("it is on the revocation list of service"), "{}", ran.out);
    // Without a server: against the root alone.
    let root = file("root.pem", place.hierarchy.root.certificate().pem().as_bytes());
    let factory = file("factory.pem", place.hierarchy.stations[0].factory.certificate().pem().as_bytes());
    let alone = |arguments: &[&str]| run(muster(["cert", "verify"]).args(arguments).current_dir("/"));
    let ran = alone(&[&good, "--root", &root, "--authority", &factory]).exits(0);
    assert!(ran.out.contains("no server was asked"), "{}", ran.out);
    alone(&[&good, "--root", &root]).exits(10);
    alone(&[&good, "--root", &good]).exits(8);
    alone(&[&good, "--root", &root, "--authority", &foreign]).exits(8);
    alone(&["/proc/self/status", "--root", &root]).exits(8);
}

/// Of certificates that were made here for services and operators, those that were revoked, each on the list of
/// its own authority.
fn what_was_issued_here_and_revoked_is_listed(server: &Server, http: &Http) {
    let place = server.place();
    let issue = |flag: &str, name: &str| {
        let out = place.dir.path().join(name);
        let out = out.to_str().unwrap();
        let said = place.muster(&["cert", "issue", "--json", flag, name, "--out", out]).exits(0).json();
        (said["certificate_id"].as_str().unwrap().to_owned(), format!("{out}/{name}.pem"))
    };
    let (lost, file) = issue("--service", "historian");
    let (_, kept) = issue("--service", "planner");
    let (left, _) = issue("--operator", "olga");
    let revoke = |what: &str, id: &str, code: &str| {
        let why = ["--reason", "left on a train", "--reason-code", code, "--confirm", &id[..8]];
        server.muster(&[&["cert", "revoke", what], &why[..]].concat()).exits(0);
    };
    revoke(&file, &lost, "keyCompromise");
    revoke(&left, &left, "cessationOfOperation");
    // One that nobody here has issued is refused at the door, and on no list.
    revoke(&"ab".repeat(32), &"ab".repeat(32), "keyCompromise");
    let listed = |name: &str, ca: &muster_pki::Ca| {
        let answer = http.get(&format!("/v1/crl/{name}"));
        let list = Crl::verify(&answer.body, ca.certificate()).unwrap().revoked;
        list.into_iter().map(|one| (hex::encode(one.serial.octets()), one.reason)).collect::<Vec<_>>()
    };
    // The serial number stands behind the version in a certificate (RFC 5280 §4.1).
    let serial = |file: &str| {
        let pem = std::fs::read(file).unwrap();
        let der = CertificateDer::from_pem_slice(&pem).unwrap();
        let at = der.windows(7).position(|seven| seven == [0xa0, 3, 2, 1, 2, 2, 16]).unwrap() + 7;
        hex::encode(&der[at..at + 16])
    };
    let hierarchy = &place.hierarchy;
    let service = listed("service", &hierarchy.service);
    assert_eq!(service, [(serial(&file), RevocationReason::KeyCompromise)]);
    assert_ne!(serial(&kept), serial(&file), "the other one is good");
    let olga = place.dir.path().join("olga/olga.pem");
    let operator = listed("operator", &hierarchy.operator);
    assert_eq!(operator, [(serial(olga.to_str().unwrap()), RevocationReason::CessationOfOperation)]);
    assert!(listed("operational", &hierarchy.operational).is_empty());
}

/// The list's signature holds, and it says of each device what it is: read without any code of the server.
fn status_list_says(http: &Http, key: &[u8]) {
    let answer = http.get("/v1/status-list");
    assert_eq!(answer.header("content-type"), Some("application/statuslist+jwt"));
    let token = String::from_utf8(answer.body).unwrap();
    let parts: Vec<_> = token.split('.').collect();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(parts[2]).unwrap()).unwrap();
    let signed = format!("{}.{}", parts[0], parts[1]);
    VerifyingKey::from_sec1_bytes(key).unwrap().verify(signed.as_bytes(), &signature).unwrap();
    let claims: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let packed = URL_SAFE_NO_PAD.decode(claims["status_list"]["lst"].as_str().unwrap()).unwrap();
    let octets = miniz_oxide::inflate::decompress_to_vec_zlib(&packed).unwrap();
    let list = http.get("/v1/certificates").is(200);
    let mut said = std::collections::BTreeMap::new();
    for of in list["items"].as_array().unwrap() {
        let at = of["status_index"].as_u64().unwrap() as usize;
        let value = octets.get(at / 4).map_or(0, |octet| octet >> (at % 4 * 2) & 3);
        said.insert(of["serial"].as_str().unwrap().to_owned(), value);
    }
    let said: Vec<_> = said.iter().map(|(serial, value)| (serial.as_str(), *value)).collect();
    assert_eq!(said, [("MU-000001", 0), ("MU-000002", 1), ("MU-000003", 2)]);
}
