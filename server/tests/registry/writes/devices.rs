//! Writes about one device, and by jobs.

use serde_json::{Value, json};

use super::{Row, World, Write, items};
use crate::rig::{eventually, http::Http};

fn state_is(serial: &str, state: &'static str) -> impl Fn(&Http) -> bool + use<> {
    let path = format!("/v1/devices/{serial}");
    move |http| http.get(&path).is(200)["state"] == state
}

impl World {
    pub(super) fn about_a_device(&mut self, http: &Http, (route, act): Row, n: usize, reason: &str) -> Write {
        let serial = self.serial();
        let device = format!("/v1/devices/{serial}");
        match route {
            "PUT /v1/devices/{serial}/twin" => {
                let path = format!("{device}/twin");
                Write::new(route, &*path, &json!({ "mark": n }))
                    .on_record("device.twin", serial)
                    .seen(move |http| http.get(&path).is(200)["desired"]["mark"] == n)
            }
            "POST /v1/devices/{serial}/command" => {
                let list = format!("{device}/commands");
                Write::new(
                    route,
                    format!("{device}/command"),
                    &json!({ "payload": "reboot", "reason": reason }),
                )
                .on_record("device.command", serial)
                .seen(move |http| {
                    let all = items(http, &list);
                    assert!(all.iter().all(|one| one["state"] != "sent"), "nobody says what became of it");
                    !all.is_empty()
                })
            }
            "POST /v1/devices/{serial}/labels" => {
                let body = json!({ "note": "marked", "add_tags": ["t"] });
                Write::new(route, format!("{device}/labels"), &body).on_record("device.label", serial).seen(
                    move |http| {
                        let shown = http.get(&device).is(200);
                        let (note, tag) =
                            (shown["labels"]["note"] == "marked", shown["labels"]["tags"] == json!(["t"]));
                        assert_eq!(note, tag, "one without the other: {shown}");
                        note
                    },
                )
            }
            "POST /v1/devices/{serial}/replace" => {
                let successor = self.serial();
                let body = json!({ "successor": successor, "reason": reason, "confirm": serial });
                Write::new(route, format!("{device}/replace"), &body)
                    .seen(move |http| http.get(&device).is(200)["state"] != "registered")
                    .on_record("device.replace", serial)
            }
            "POST /v1/devices/{serial}/{act}" => self.decision(http, (route, act), &serial, reason),
            route => panic!("say here how {route} is asked"),
        }
    }

    fn decision(&self, http: &Http, (route, act): Row, serial: &str, reason: &str) -> Write {
        let before = match act {
            "resume" => Some("suspend"),
            "release" => Some("quarantine"),
            _ => None,
        };
        if let Some(before) = before {
            http.post(&format!("/v1/devices/{serial}/{before}"), &json!({ "reason": "before it" })).is(200);
        }
        let code = matches!(act, "revoke" | "decommission").then_some("keyCompromise");
        let body = json!({ "reason": reason, "reason_code": code, "confirm": serial });
        let write = Write::new(route, format!("/v1/devices/{serial}/{act}"), &body)
            .on_record(format!("device.{act}"), serial);
        match act {
            "suspend" => write.seen(state_is(serial, "suspended")),
            "quarantine" => write.seen(state_is(serial, "quarantined")),
            "revoke" => write.seen(state_is(serial, "revoked")),
            // It is revoked first, by a decision of its own.
            "decommission" => write.seen(state_is(serial, "decommissioned")),
            "resume" | "release" => write.seen(state_is(serial, "registered")),
            "disconnect" => write,
            act => panic!("say here what {act} does"),
        }
    }

    pub(super) fn by_a_job(&mut self, http: &Http, (route, act): Row, reason: &str) -> Write {
        let plan = |ask: &mut Value| {
            ask["confirm"] = http.post("/v1/jobs/plan", ask).is(200)["confirm"].clone();
        };
        let serial = self.serial();
        let mut ask = json!({ "act": "suspend", "filter": format!("serial:{serial}"), "reason": reason });
        match route {
            "POST /v1/jobs/plan" => Write::new(route, "/v1/jobs/plan", &ask).may_be_idle(),
            "POST /v1/jobs" => {
                if act == "label" {
                    ask["act"] = json!("label");
                    ask["label"] = json!({ "add_tags": ["t"] });
                }
                plan(&mut ask);
                let reason = reason.to_owned();
                Write::new(route, "/v1/jobs", &ask)
                    .on_record("job.create", &*reason)
                    .seen(move |http| has_ended(http, &reason, &serial))
            }
            "POST /v1/jobs/{id}/cancel" => {
                plan(&mut ask);
                let id = http.post("/v1/jobs", &ask).is(202)["job"].as_str().unwrap().to_owned();
                // A job of one device may have ended before it is to end: it comes to nothing then. Whether its
                // state says cancelled, too, hangs on which came first.
                Write::new(route, format!("/v1/jobs/{id}/cancel"), &json!({}))
                    .on_record("job.cancel", id)
                    .may_be_idle()
            }
            route => panic!("say here how {route} is asked"),
        }
    }
}

/// Whether there is a job for this reason. If there is, it comes to its end, whatever was in between, and what its
/// row says is so.
fn has_ended(http: &Http, reason: &str, serial: &str) -> bool {
    let jobs = items(http, "/v1/jobs?limit=1000");
    let Some(job) = jobs.iter().find(|job| job["reason"] == reason) else { return false };
    let path = format!("/v1/jobs/{}", job["job"].as_str().unwrap());
    let ended = eventually("the job does not end", || http.get(&path).is(200), |job| job["ended"] == true);
    assert_eq!(ended["state"], "done", "{ended}");
    let rows = items(http, &format!("{path}/rows"));
    let shown = http.get(&format!("/v1/devices/{serial}")).is(200);
    let was_done = shown["state"] == "suspended" || shown["labels"]["tags"] == json!(["t"]);
    // A device that was done before a crash, and is so already after it, is skipped.
    assert_eq!(was_done, rows[0]["outcome"] != "failed", "{rows:?} {shown}");
    assert!(was_done || rows[0]["code"] == "M110", "{rows:?}");
    true
}
