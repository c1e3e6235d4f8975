//! Every way to write over the API, once: how it is asked, what the audit log says of it, and how it is seen that
//! it was done. Each is about something of its own, so that what it did is told from what the others did.
//!
//! | module | writes |
//! |---|---|
//! | `devices` | about one device, and jobs about several |
//! | `trust` | about groups of devices, who made them, and whom the server trusts |
//! | `access` | about those who decide |

use std::collections::BTreeMap;

use muster_pki::testing::Credential;
use serde_json::{Value, json};

use super::lists::base64;
use crate::rig::{Server, http::Http};

mod access;
mod devices;
mod trust;

/// What is done to a device, alone or by what it has in common with others.
const HELD: &[&str] = &["suspend", "resume", "quarantine", "release", "revoke"];

/// The writing routes as the API describes them, each with what can be asked of it.
pub(crate) const ROUTES: [(&str, &[&str]); 26] = [
    ("PUT /v1/devices/{serial}/twin", &[]),
    ("POST /v1/audit/checkpoint", &[]),
    ("POST /v1/authorities/{name}/rotate", &["ask", "install"]),
    ("POST /v1/batches", &[]),
    ("POST /v1/batches/{batch}/{act}", HELD),
    ("POST /v1/cas/{ca}/{act}", &["withdraw"]),
    ("POST /v1/certificates/{id}/{act}", &["revoke"]),
    ("POST /v1/config/retention", &[]),
    ("POST /v1/devices/{serial}/command", &[]),
    ("POST /v1/devices/{serial}/labels", &[]),
    ("POST /v1/devices/{serial}/replace", &[]),
    (
        "POST /v1/devices/{serial}/{act}",
        &["suspend", "resume", "quarantine", "release", "revoke", "decommission", "disconnect"],
    ),
    ("POST /v1/import", &[]),
    ("POST /v1/jobs", &["suspend", "label"]),
    ("POST /v1/jobs/plan", &[]),
    ("POST /v1/jobs/{id}/cancel", &[]),
    ("POST /v1/login", &[]),
    ("POST /v1/operators", &[]),
    ("POST /v1/operators/{name}/invite", &[]),
    ("POST /v1/operators/{name}/remove", &[]),
    ("POST /v1/operators/{name}/role", &[]),
    ("POST /v1/stations", &[]),
    ("POST /v1/stations/{station}/{act}", HELD),
    ("POST /v1/tenants/{tenant}/{act}", HELD),
    ("POST /v1/tokens", &[]),
    ("POST /v1/tokens/{id}/revoke", &[]),
];

/// What is kept for a period that is decided about.
const PERIODS: [&str; 4] = ["uplink_days", "uplink_mib", "sessions_days", "refusals_days"];

/// A route, and what is asked of it; empty where there is only one thing.
pub(crate) type Row = (&'static str, &'static str);

/// Each thing that can be asked of each route.
pub(crate) fn rows() -> Vec<Row> {
    let of = |(route, acts): (&'static str, &'static [&'static str])| {
        let acts = if acts.is_empty() { &[""] } else { acts };
        acts.iter().map(move |act| (route, *act))
    };
    ROUTES.into_iter().flat_map(of).collect()
}

/// Whether something is so.
type Seen = Box<dyn Fn(&Http) -> bool + Sync>;

/// One write.
pub(crate) struct Write {
    pub(crate) route: &'static str,
    pub(crate) path: String,
    media: &'static str,
    body: Vec<u8>,
    /// What the audit log calls it, and whom or what it names; `None`: it is on no record.
    pub(crate) record: Option<(String, String)>,
    /// Whether it was done; `None`: nothing but the record shows it.
    seen: Option<Seen>,
    /// It may come to nothing, and is answered all the same.
    pub(crate) idle: bool,
}

impl Write {
    fn new(route: &'static str, path: impl Into<String>, body: &Value) -> Self {
        Self {
            route,
            path: path.into(),
            media: "application/json",
            body: body.to_string().into_bytes(),
            record: None,
            seen: None,
            idle: false,
        }
    }

    fn of(self, media: &'static str, octets: impl Into<Vec<u8>>) -> Self {
        Self { media, body: octets.into(), ..self }
    }

    fn on_record(self, action: impl Into<String>, whom: impl Into<String>) -> Self {
        Self { record: Some((action.into(), whom.into())), ..self }
    }

    fn seen(self, seen: impl Fn(&Http) -> bool + Sync + 'static) -> Self {
        Self { seen: Some(Box::new(seen)), ..self }
    }

    fn may_be_idle(self) -> Self {
        Self { idle: true, ..self }
    }

    /// Asks for it, under a key if it takes one; `None`: no whole answer came.
    pub(crate) fn ask(&self, http: &Http, key: Option<&str>) -> Option<crate::rig::http::Answer> {
        let (method, _) = self.route.split_once(' ').unwrap();
        let mut headers = format!("content-type: {}\r\n", self.media);
        // Who signs in is nobody yet, so nobody's keys are kept.
        if let Some(key) = key.filter(|_| self.route != "POST /v1/login") {
            headers.push_str(&format!("idempotency-key: \"{key}\"\r\n"));
        }
        http.try_ask(method, &self.path, &headers, &self.body)
    }

    /// How often it stands in the audit log.
    pub(crate) fn recorded(&self, http: &Http) -> usize {
        let Some((action, whom)) = &self.record else { return 0 };
        let rows = http.get(&format!("/v1/audit?order=newest&limit=1000&action={action}")).is(200);
        rows["items"].as_array().unwrap().iter().filter(|row| row.to_string().contains(whom.as_str())).count()
    }

    /// Whether it was done, where anything shows it.
    pub(crate) fn is_done(&self, http: &Http) -> Option<bool> {
        self.seen.as_ref().map(|seen| seen(http))
    }
}

/// What the writes are about.
pub(crate) struct World {
    /// Devices nothing was done to yet.
    fresh: Vec<Credential>,
    made: BTreeMap<Row, usize>,
}

fn items(http: &Http, path: &str) -> Vec<Value> {
    http.get(path).is(200)["items"].as_array().unwrap().clone()
}

fn there(path: String) -> impl Fn(&Http) -> bool {
    move |http| http.get(&path).status == 200
}

impl World {
    /// On a new server: devices for so many writes.
    pub(crate) fn new(server: &Server, http: &Http, writes: usize) -> Self {
        // Replacing one takes two.
        let serials: Vec<String> = (1..=writes + 4).map(|n| format!("MU-{n:06}")).collect();
        let fresh = server.place().devices(&serials.iter().map(String::as_str).collect::<Vec<_>>());
        let manifest = std::fs::read(server.place().manifest("B-0001", &fresh)).unwrap();
        http.ask("POST", "/v1/batches", "content-type: application/octet-stream\r\n", &manifest).is(200);
        Self { fresh, made: BTreeMap::new() }
    }

    fn next(&mut self, what: Row) -> usize {
        let n = self.made.entry(what).or_default();
        *n += 1;
        *n
    }

    fn device(&mut self) -> Credential {
        self.fresh.pop().expect("a device that nothing was done to")
    }

    fn serial(&mut self) -> String {
        self.device().identity().serial.to_string()
    }

    /// The next write by this route, with what it needs made before.
    pub(crate) fn write(&mut self, server: &Server, http: &Http, row: Row) -> Write {
        let (route, act) = row;
        let n = self.next(row);
        let reason = format!("reason {n} of {route} {act}.").replace(['{', '}'], "");
        match route.split(['/', ' ']).nth(3).unwrap() {
            "devices" => self.about_a_device(http, row, n, &reason),
            "jobs" => self.by_a_job(http, row, &reason),
            "operators" | "tokens" | "login" => self.about_access(http, route, n),
            "audit" => Write::new(route, "/v1/audit/checkpoint", &json!({})).may_be_idle(),
            "config" => {
                // A period of its own each time: what one was set to is seen until it is set again.
                let key = format!("retention.{}", PERIODS[n - 1]);
                let value = format!("{}", 1000 + n);
                let body = json!({ "key": key, "value": 1000 + n, "reason": reason });
                Write::new(route, "/v1/config/retention", &body).on_record("retention.set", &*reason).seen(
                    move |http| {
                        let all = items(http, "/v1/config");
                        all.iter().any(|item| item["key"] == *key && item["value"] == *value)
                    },
                )
            }
            "import" => {
                let serial = format!("MU-{:06}", 9000 + n);
                let device = server.place().devices(&[&serial]).remove(0);
                let line = json!({ "certificate": base64(&device.chain[0]) });
                let batch = format!("L-{n:04}");
                Write::new(route, format!("/v1/import?batch={batch}&product=TH-2"), &Value::Null)
                    .of("application/x-ndjson", format!("{line}\n"))
                    .on_record("device.import", batch)
                    .seen(there(format!("/v1/devices/{serial}")))
            }
            _ => self.about_trust(server, http, row, &reason),
        }
    }
}
