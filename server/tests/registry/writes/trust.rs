//! Writes about groups of devices, about who made them, and about whom the server trusts.

use muster_pki::{
    Signer as _, VerifiedCaRequest,
    hierarchy::StationKeys,
    profile::Purpose,
    station::{SerialRange, StationRecord},
    testing,
};
use serde_json::{Value, json};

use super::{Row, World, Write, items, there};
use crate::rig::{self, Server, http::Http};

const OCTETS: &str = "application/octet-stream";

/// Whether the device, as `TENANT/SERIAL`, may not connect.
fn is_refused(device: &str) -> impl Fn(&Http) -> bool + use<> {
    let path = format!("/v1/explain/{}", device.replace('/', "%2F"));
    move |http| http.get(&path).is(200)["may_connect"] == false
}

/// A manifest of one device of this station, and how that device is called.
fn manifest(station: &StationKeys) -> (String, Vec<u8>, String) {
    let name = station.record.station.as_str();
    let serial = format!("{}-0001", name.replace('-', ""));
    let subject = testing::subject_of(station.record.tenant.as_str(), &serial);
    let device = testing::device_with(&station.factory, &subject, testing::key(), rig::now_s());
    let batch = format!("B-{name}");
    let octets = testing::manifest_of(station, &batch, None, &[device], rig::now_s() as u64 * 1000);
    (batch, octets, format!("{}/{serial}", station.record.tenant))
}

/// Asks for another authority of this name, or is told what was asked: the answer of the root, PEM.
fn answered(server: &Server, http: &Http, name: &str) -> String {
    let path = format!("/v1/authorities/{name}/rotate");
    let asked = http.post(&path, &json!({ "reason": "to be answered" })).is(200);
    let request = VerifiedCaRequest::verify(asked["request"].as_str().unwrap().as_bytes()).unwrap();
    server.place().hierarchy.root.certify(&request, rig::now_s()).unwrap().pem()
}

impl World {
    /// A station nobody knows yet, of a tenant of its own.
    fn station(&mut self, server: &Server) -> StationKeys {
        let n = self.next(("station", ""));
        let root = &server.place().hierarchy.root;
        let factory =
            root.make_issuing(Purpose::Factory, &format!("N-{n:03} factory CA"), rig::now_s()).unwrap();
        let manifest_key = testing::key();
        let serial = |at: &str| format!("N{n:03}-{at}").parse().unwrap();
        let record = StationRecord {
            station: format!("N-{n:03}").parse().unwrap(),
            tenant: format!("tenant-{n:03}").parse().unwrap(),
            factory: factory.certificate().clone(),
            manifest_key: *manifest_key.public_key(),
            quota: 10,
            serials: SerialRange::new(&serial("0001"), &serial("0100")).unwrap(),
            signed_at_s: rig::now_s() as u64,
        };
        let record_file = record.sign(root).unwrap();
        StationKeys { factory, manifest_key, manifest_certificate: Vec::new(), record_file, record }
    }

    /// A station that is known and has one device here: its name, its batch, its tenant, its device.
    fn working(&mut self, server: &Server, http: &Http) -> [String; 4] {
        let station = self.station(server);
        http.ask("POST", "/v1/stations", "", &station.record_file).is(200);
        let (batch, octets, device) = manifest(&station);
        http.ask("POST", "/v1/batches", "", &octets).is(200);
        [station.record.station.to_string(), batch, station.record.tenant.to_string(), device]
    }

    pub(super) fn about_trust(
        &mut self,
        server: &Server,
        http: &Http,
        (route, act): Row,
        reason: &str,
    ) -> Write {
        match route {
            "POST /v1/batches" => {
                let station = self.station(server);
                http.ask("POST", "/v1/stations", "", &station.record_file).is(200);
                let (batch, octets, _) = manifest(&station);
                Write::new(route, "/v1/batches", &Value::Null)
                    .of(OCTETS, octets)
                    .seen(there(format!("/v1/batches/{batch}")))
                    .on_record("batch.import", batch)
            }
            "POST /v1/stations" => {
                let station = self.station(server);
                let name = station.record.station.to_string();
                let of = name.clone();
                Write::new(route, "/v1/stations", &Value::Null)
                    .of(OCTETS, station.record_file)
                    .on_record("station.trust", name)
                    .seen(move |http| items(http, "/v1/stations").iter().any(|row| row["station"] == *of))
            }
            "POST /v1/authorities/{name}/rotate" => {
                // An authority of each: what is asked for and what is answered are about one.
                let (name, action) = match act {
                    "ask" => ("operator", "authority.request"),
                    _ => ("service", "authority.rotate"),
                };
                let path = format!("/v1/authorities/{name}/rotate");
                // What was begun before is told again, until it has ended.
                http.post(&path, &json!({ "certificate": answered(server, http, name) })).is(200);
                let mut body = json!({ "reason": reason });
                if act == "install" {
                    body["certificate"] = json!(answered(server, http, name));
                }
                Write::new(route, path, &body).on_record(action, reason)
            }
            "POST /v1/certificates/{id}/{act}" => {
                let device = self.device();
                let id = device.identity().id.to_string();
                let body = json!({ "reason": reason, "reason_code": "superseded", "confirm": id });
                Write::new(route, format!("/v1/certificates/{id}/{act}"), &body)
                    .on_record("cert.revoke", reason)
                    .seen(is_refused(device.identity().serial.as_str()))
            }
            _ => self.about_a_group(server, http, (route, act), reason),
        }
    }

    fn about_a_group(&mut self, server: &Server, http: &Http, (route, act): Row, reason: &str) -> Write {
        let [station, batch, tenant, device] = self.working(server, http);
        let (kind, plural, name) = match route.split('/').nth(2).unwrap() {
            "cas" => ("ca", "cas", station),
            "batches" => ("batch", "batches", batch),
            "stations" => ("station", "stations", station),
            "tenants" => ("tenant", "tenants", tenant),
            _ => panic!("say here how {route} is asked"),
        };
        let before = match act {
            "resume" => Some("suspend"),
            "release" => Some("quarantine"),
            _ => None,
        };
        if let Some(before) = before {
            http.post(&format!("/v1/{plural}/{name}/{before}"), &json!({ "reason": "before it" })).is(200);
        }
        let code = match act {
            "withdraw" => Some("cACompromise"),
            "revoke" => Some("keyCompromise"),
            _ => None,
        };
        let body = json!({ "reason": reason, "reason_code": code, "confirm": name });
        let write = Write::new(route, format!("/v1/{plural}/{name}/{act}"), &body)
            .on_record(format!("{kind}.{act}"), reason);
        let refused = is_refused(&device);
        write.seen(move |http| refused(http) == before.is_none())
    }
}
