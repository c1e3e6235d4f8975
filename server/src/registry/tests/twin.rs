//! The state a device should be in: versions, the record, and what stays when the device is out of use.

use muster_shared::Code;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Fleet;
use crate::registry::{
    Act, Aim, Order, Target, changes::What, export::Exporting, testing::ana, timeline::EventKind,
};

fn aim(fleet: &Fleet, seen: Option<u64>) -> Aim {
    Aim::seen(&Target::from(&fleet.devices[0].serial), seen)
}

#[tokio::test]
async fn each_setting_is_a_version_a_record_and_a_change() {
    let fleet = Fleet::with(2).await;
    let serial = &fleet.devices[0].serial;
    let never = fleet.registry.twin(serial).await.unwrap();
    assert_eq!((never.version(), never.desired), (0, None));
    let mut changes = fleet.registry.changes();
    // Spaces, order and digits stay as they came.
    let first = r#"{ "b":1.50, "a":"<b>&" }"#;
    let set = fleet.registry.set_desired(&ana(), aim(&fleet, Some(0)), first.as_bytes()).await.unwrap();
    assert_eq!(set.version(), 1);
    let change = changes.recv().await.unwrap();
    assert_eq!(change.what, What::Ordered { device: fleet.devices[0].key, order: Order::Twin });
    let kept = fleet.registry.twin(serial).await.unwrap();
    assert_eq!(kept, set);
    let desired = kept.desired.unwrap();
    assert_eq!((&*desired.document, &*desired.author), (first, "ana"));
    assert_eq!(fleet.registry.set_desired(&ana(), serial, b"{}").await.unwrap().version(), 2);
    assert_eq!(fleet.registry.desired(fleet.devices[0].key).await.unwrap().unwrap().document, "{}");
    assert_eq!(fleet.registry.desired(fleet.devices[1].key).await.unwrap(), None);

    let rows = fleet.registry.audit(0, 100).await.unwrap();
    let rows: Vec<_> = rows.iter().filter(|row| row.action == "device.twin").collect();
    let detail: Value = serde_json::from_str(&rows[0].detail).unwrap();
    let digest = hex::encode(Sha256::digest(first));
    assert_eq!((rows.len(), detail), (2, json!({ "version": 1, "document_sha256": digest, "octets": 24 })));
    assert!(rows.iter().all(|row| row.target == "acme/MU-000001" && !row.detail.contains("<b>")));
    assert_eq!(fleet.registry.audit_verify(None).await.unwrap().broken, None);
    let page = fleet.registry.timeline(serial, None, 10).await.unwrap();
    let lines: Vec<_> =
        page.items.iter().filter(|of| of.kind == EventKind::Ordered).map(|of| of.text.clone()).collect();
    assert_eq!(lines, ["desired state 2 set by ana", "desired state 1 set by ana"]);

    let fleet = fleet.reopened().await;
    assert_eq!(fleet.registry.twin(&fleet.devices[0].serial).await.unwrap().version(), 2);
    let all = fleet.registry.twins(None, 10).await.unwrap();
    assert_eq!(all, [(fleet.devices[0].key, 2)]);
    assert_eq!(fleet.registry.twins(Some(fleet.devices[0].key), 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_not_seen_is_not_replaced_and_what_is_no_object_is_not_kept() {
    let fleet = Fleet::with(1).await;
    fleet.registry.set_desired(&ana(), aim(&fleet, None), b"{\"a\":1}").await.unwrap();
    for seen in [0, 2, u64::MAX] {
        let error = fleet.registry.set_desired(&ana(), aim(&fleet, Some(seen)), b"{}").await.unwrap_err();
        assert_eq!(error.code(), Code::DeviceChanged, "{error}");
    }
    let error = fleet.registry.set_desired(&ana(), aim(&fleet, Some(1)), b"[]").await.unwrap_err();
    assert_eq!(error.code(), Code::UsageWrong, "{error}");
    let unknown: Target = "MU-999999".parse().unwrap();
    let error = fleet.registry.set_desired(&ana(), unknown, b"{}").await.unwrap_err();
    assert_eq!(error.code(), Code::DeviceUnknown, "{error}");
    fleet.break_commits().await;
    fleet.registry.set_desired(&ana(), aim(&fleet, Some(1)), b"{}").await.unwrap_err();
    fleet.mend_commits().await;
    let kept = fleet.registry.twin(&fleet.devices[0].serial).await.unwrap().desired.unwrap();
    assert_eq!((kept.version, &*kept.document), (1, "{\"a\":1}"));
}

#[tokio::test]
async fn it_is_exported_and_gone_with_the_device() {
    let fleet = Fleet::with(1).await;
    let serial = fleet.devices[0].serial.clone();
    // A device that is kept out for now can be prepared for its return.
    fleet.act(0, Act::Suspend).await.unwrap();
    fleet.registry.set_desired(&ana(), &serial, b"{\"period_s\": 30}").await.unwrap();
    let (mut lines, mut at) = (String::new(), Some(Exporting::begin(Some(&"acme".parse().unwrap()))));
    while let Some(from) = at {
        let more = fleet.registry.export(from).await.unwrap();
        at = more.map(|(some, next)| {
            lines.push_str(&some);
            next
        });
    }
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["kind"] == "twin").unwrap();
    assert_eq!((&line["serial"], &line["version"]), (&json!(serial.as_str()), &json!(1)));
    assert_eq!((&line["desired"], &line["author"]), (&json!({ "period_s": 30 }), &json!("ana")));

    fleet.act(0, Act::Revoke).await.unwrap();
    let error = fleet.registry.set_desired(&ana(), &serial, b"{}").await.unwrap_err();
    assert_eq!(error.code(), Code::CertificateRevoked, "{error}");
    assert_eq!(fleet.registry.twin(&serial).await.unwrap().version(), 1);
    fleet.act(0, Act::Decommission).await.unwrap();
    let error = fleet.registry.set_desired(&ana(), &serial, b"{}").await.unwrap_err();
    assert_eq!(error.code(), Code::DeviceDecommissioned, "{error}");
    assert_eq!(fleet.registry.twin(&serial).await.unwrap().desired, None);
    assert_eq!(fleet.count("SELECT count(*) FROM twin").await, 0);
}
