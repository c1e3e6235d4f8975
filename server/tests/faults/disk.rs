//! A disk that is really full, under what devices say and what operators decide.

use std::time::Instant;

use muster_pki::testing::Credential;
use serde_json::{Value, json};

use crate::{
    FIRST, NOT_STORED, SECOND,
    client::Client,
    recovered,
    rig::{LIMIT, Place, Server, http::Http},
    small_disk::{self, Disk},
    soon, stop, stored,
};

/// Room for a server and what it writes in this test.
const SIZE: &str = "32m";
/// Refusals in a row after which nothing more is expected to be stored.
const REFUSALS: usize = 5;

/// A device on a connection of its own says something: is it acknowledged?
fn is_acknowledged(server: &Server, device: &Credential, payload: &str) -> bool {
    let (mut client, reason) = Client::connecting(server, device).unwrap();
    assert_eq!(reason, 0, "it is let in: that needs no disk");
    match client.publish(FIRST, payload) {
        Ok(0) => true,
        Err(Some(NOT_STORED)) => false,
        other => panic!("{other:?}"),
    }
}

/// What is said until nothing is stored any more: what was acknowledged of it.
fn said_until_full(server: &Server, device: &Credential, disk: &Disk) -> Vec<String> {
    let (mut acknowledged, mut refused, until) = (Vec::new(), 0, Instant::now() + LIMIT);
    for n in 0.. {
        assert!(Instant::now() < until, "the disk does not become full");
        disk.fill();
        let payload = format!("said {n}");
        if is_acknowledged(server, device, &payload) {
            acknowledged.push(payload);
            refused = 0;
        } else {
            refused += 1;
        }
        if refused == REFUSALS {
            break;
        }
    }
    acknowledged
}

/// Decides until nothing can be decided any more: the refusal.
fn decided_until_full(http: &Http, disk: &Disk) -> Value {
    let until = Instant::now() + LIMIT;
    for act in ["suspend", "resume"].into_iter().cycle() {
        assert!(Instant::now() < until, "decisions need no disk");
        disk.fill();
        let path = format!("/v1/devices/MU-000003/{act}");
        let answer = http.post(&path, &json!({ "reason": "is there room for it?" }));
        if answer.status != 200 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            return answer.refused(503, "M110");
        }
    }
    unreachable!("it goes on until it returns")
}

fn readiness(http: &Http) -> (u16, Value) {
    let answer = http.get("/readyz");
    (answer.status, answer.json()["not_ready"].clone())
}

#[test]
fn a_disk_without_room_costs_acknowledgements_and_decisions_until_there_is_room() {
    let Some((server, disk)) = small_disk::start(Place::new(), SIZE) else {
        return crate::a_full_disk_costs_the_acknowledgement_and_nothing_else();
    };
    let data = server.place().data();
    assert!(!crate::rig::read("/proc/self/mounts").contains(data.to_str().unwrap()), "nobody else's disk");
    let devices = server.place().devices(&["MU-000001", "MU-000002", "MU-000003"]);
    let manifest = server.place().manifest("B-0001", &devices);
    let url = format!("https://{}", server.https);
    server.muster(&["--server", &url, "batch", "import", manifest.to_str().unwrap()]).exits(0);
    let http = Http::new(&server);
    let mut second = Client::connected(&server, &devices[1]);
    assert_eq!(second.publish(SECOND, "before"), Ok(0));
    assert!(is_acknowledged(&server, &devices[0], "before"));
    assert_eq!(readiness(&http).0, 200);

    let said = said_until_full(&server, &devices[0], &disk);
    soon("the server says that it is ready", || (readiness(&http).0 == 503).then_some(()));
    assert_eq!(readiness(&http).1, json!(["the uplink log cannot store"]));
    let problem = decided_until_full(&http, &disk);
    assert!(problem["next"].as_str().unwrap().contains("disk of the data directory"), "{problem}");
    let health = http.get("/v1/health").is(200);
    let checks = health["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["check"] == "disk" && check["ok"] == false), "{health}");
    // What needs no disk goes on.
    assert_eq!(http.get("/v1/devices").is(200)["items"].as_array().unwrap().len(), 3);
    second.ping();
    assert!(!is_acknowledged(&server, &devices[0], "still full"));

    disk.free();
    drop(recovered(&server, &devices[0], FIRST));
    soon("the server is not ready", || (readiness(&http).0 == 200).then_some(()));
    assert_eq!(second.publish(SECOND, "after"), Ok(0), "the same connection");
    let reason = json!({ "reason": "there is room" });
    http.post("/v1/devices/MU-000002/suspend", &reason).is(200);
    assert_eq!(second.disconnected(), 0x98);
    let place = disk.kept(|| stop(server));
    let acknowledged = [vec!["before".to_owned()], said, vec!["after".to_owned()]].concat();
    let mut kept = stored(&place, "MU-000001");
    kept.retain(|one| acknowledged.contains(one));
    assert_eq!(kept, acknowledged, "each once, and in order");
    assert_eq!(stored(&place, "MU-000002"), ["before", "after"]);
    place.muster(&["audit", "verify"]).exits(0);
}
