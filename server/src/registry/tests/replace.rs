//! A board is swapped: one device's end, another's place.

use muster_shared::Code;
use serde_json::{Value, json};

use super::Fleet;
use crate::registry::{
    Act, Aim, DeviceState, Order, Reason, RegistryError, RevocationReason, Target,
    changes::What,
    label::Edit,
    replace::{Replaced, Swap},
    testing::{ana, now_s},
};

/// Puts the second device in the place of the first.
async fn swap(fleet: &Fleet, old: usize, new: &str, dry_run: bool) -> Result<Replaced, RegistryError> {
    let old = Aim::from(&fleet.devices[old].serial);
    let new = new.parse().unwrap();
    fleet.registry.replace(&ana(), Swap { old, new, reason: Reason::new("a swapped board"), dry_run }).await
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn write(fleet: &Fleet, device: usize, tags: &[&str], note: Option<&str>) {
    let edit = Edit {
        add_tags: words(tags),
        add_groups: words(&["north"]),
        note: note.map(str::to_owned),
        ..Edit::default()
    };
    fleet.registry.label(&ana(), &Target::from(&fleet.devices[device].serial), edit).await.unwrap();
}

#[tokio::test]
async fn the_old_one_ends_and_the_new_one_takes_what_was_written_on_it() {
    let fleet = Fleet::with(3).await;
    let (old, new) = (fleet.devices[0].clone(), fleet.devices[1].clone());
    write(&fleet, 0, &["roof", "b"], Some("hall 4")).await;
    write(&fleet, 1, &["b"], None).await;
    fleet.registry.set_desired(&ana(), &old.serial, b"{\"period_s\":30}").await.unwrap();
    fleet.registry.set_desired(&ana(), &old.serial, b"{\"period_s\":60}").await.unwrap();
    let head = fleet.registry.audit_head().await.unwrap();
    let planned = swap(&fleet, 0, "MU-000002", true).await.unwrap();
    assert_eq!(planned.taken.tags, ["roof"], "what it has already it does not take");
    assert_eq!(fleet.registry.audit_head().await.unwrap(), head, "a dry run leaves no row");
    assert_eq!(fleet.registry.device(&old.serial).await.unwrap().row.state, DeviceState::Registered);
    assert_eq!(fleet.count("SELECT count(*) FROM replacement").await, 0);

    let mut changes = fleet.registry.changes();
    let done = swap(&fleet, 0, "MU-000002", false).await.unwrap();
    assert_eq!((done.decided.act, done.decided.to), (Act::Revoke, DeviceState::Revoked));
    assert_eq!((done.taken, done.desired.clone()), (planned.taken, planned.desired));
    let what = changes.recv().await.unwrap().what;
    assert!(matches!(what, What::Device { device, act: Act::Revoke, .. } if device == old.key), "{what:?}");
    let what = changes.recv().await.unwrap().what;
    assert_eq!(what, What::Ordered { device: new.key, order: Order::Succeed });
    let verdicts = fleet.registry.verdicts();
    assert_eq!(verdicts.may_talk(old.key, &old.certificate, now_s()), Err(Code::CertificateRevoked));
    assert!(verdicts.may_talk(new.key, &new.certificate, now_s()).is_ok());

    let fleet = fleet.reopened().await;
    let (gone, came) = (
        fleet.registry.device(&old.serial).await.unwrap(),
        fleet.registry.device(&new.serial).await.unwrap(),
    );
    assert_eq!(gone.certificates[0].revoked.unwrap().0, RevocationReason::Superseded);
    assert_eq!((gone.places.replaced_by, gone.places.replaces), (Some(new.serial.clone()), None));
    assert_eq!((came.places.replaced_by, came.places.replaces), (None, Some(old.serial.clone())));
    assert_eq!((came.labels.tags, came.labels.groups), (words(&["b", "roof"]), words(&["north"])));
    let note = came.labels.note.unwrap();
    assert_eq!((note.text.as_str(), note.author.as_str()), ("hall 4", "ana"));
    assert_eq!(gone.labels.tags, ["b", "roof"], "what was written on it still says what it was");
    let desired = fleet.registry.twin(&new.serial).await.unwrap().desired.unwrap();
    assert_eq!((desired.version, desired.document.as_str()), (1, "{\"period_s\":60}"));

    // A row on each side, which names the other, and the chain goes on.
    let detail = |row: &crate::registry::AuditRow| serde_json::from_str::<Value>(&row.detail).unwrap();
    let why = gone.why.unwrap();
    assert_eq!((why.action.as_str(), why.reason.as_str()), ("device.replace", "a swapped board"));
    assert_eq!(detail(&why)["successor"], "acme/MU-000002");
    assert_eq!((&came.history[0].action, came.history[0].no), (&"device.succeed".to_owned(), why.no + 1));
    let said = detail(&came.history[0]);
    assert_eq!((&said["predecessor"], &said["tags"]), (&json!("acme/MU-000001"), &json!(["roof"])));
    assert_eq!((&said["note"], &said["twin"]["version"]), (&json!("hall 4"), &json!(1)));
    assert_eq!(fleet.registry.audit_verify(None).await.unwrap().broken, None);
    let line = |page: crate::registry::Page<crate::registry::timeline::Event>| page.items[0].text.clone();
    let lines = fleet.registry.timeline(&old.serial, None, 1).await.unwrap();
    let said = line(lines);
    assert!(said.starts_with("replaced by MU-000002 by ana, superseded \"a swapped board\""), "{said}");
    let said = line(fleet.registry.timeline(&new.serial, None, 1).await.unwrap());
    assert!(said.starts_with("took the place of MU-000001 by ana"), "{said}");
}

#[tokio::test]
async fn its_own_note_and_its_own_desired_state_stay() {
    let fleet = Fleet::with(2).await;
    write(&fleet, 0, &[], Some("hall 4")).await;
    write(&fleet, 1, &[], Some("on the bench")).await;
    for (device, document) in [(0, &b"{\"a\":1}"[..]), (1, b"{\"a\":2}")] {
        fleet.registry.set_desired(&ana(), &fleet.devices[device].serial, document).await.unwrap();
    }
    let done = swap(&fleet, 0, "MU-000002", false).await.unwrap();
    assert_eq!((done.taken.note, done.desired), (None, None));
    let detail = fleet.registry.device(&fleet.devices[1].serial).await.unwrap();
    assert_eq!(detail.labels.note.unwrap().text, "on the bench");
    let twin = fleet.registry.twin(&fleet.devices[1].serial).await.unwrap();
    assert_eq!(twin.desired.unwrap().document, "{\"a\":2}");
}

#[tokio::test]
async fn a_device_that_cannot_take_a_place_takes_none() {
    let fleet = Fleet::with(4).await;
    fleet.act(2, Act::Suspend).await.unwrap();
    let head = fleet.registry.audit_head().await.unwrap();
    for (new, code, why) in [
        ("MU-000001", Code::SuccessorUnfit, "is the device that is to be replaced"),
        ("MU-000003", Code::SuccessorUnfit, "it is suspended"),
        ("other/MU-000002", Code::SuccessorUnfit, "of tenant other"),
        ("MU-999999", Code::DeviceUnknown, "MU-999999"),
    ] {
        let error = swap(&fleet, 0, new, false).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let blank = Swap {
        old: Aim::from(&fleet.devices[0].serial),
        new: "MU-000002".parse().unwrap(),
        reason: Reason::new(" "),
        dry_run: false,
    };
    let error = fleet.registry.replace(&ana(), blank.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::ReasonMissing);
    let old = Aim::seen(&blank.old.target, Some(9999));
    let stale = Swap { old, reason: Reason::new("a swapped board"), ..blank };
    assert_eq!(fleet.registry.replace(&ana(), stale).await.unwrap_err().code(), Code::DeviceChanged);
    fleet.break_commits().await;
    swap(&fleet, 0, "MU-000002", false).await.unwrap_err();
    fleet.mend_commits().await;
    assert_eq!(fleet.registry.audit_head().await.unwrap(), head, "none of it was done");

    swap(&fleet, 0, "MU-000002", false).await.unwrap();
    let error = swap(&fleet, 3, "MU-000002", false).await.unwrap_err();
    assert_eq!(error.code(), Code::SuccessorUnfit);
    assert!(error.to_string().contains("took the place of MU-000001 already"), "{error}");
    let error = swap(&fleet, 0, "MU-000004", false).await.unwrap_err();
    assert_eq!(error.code(), Code::TransitionNotAllowed, "it is revoked: {error}");
    // Its successor can be replaced in turn.
    swap(&fleet, 1, "MU-000004", false).await.unwrap();
    let places = fleet.registry.device(&fleet.devices[1].serial).await.unwrap().places;
    assert!(places.replaced_by.is_some() && places.replaces.is_some(), "{places:?}");
}
