//! Devices that a group holds are listed, counted and shown in the state they are held in, from the decision on.

use muster_pki::testing;

use super::Fleet;
use crate::registry::{
    Act, DeviceState, Group, Listing, Reason, RevocationReason, Scope,
    listing::{Order, Sort},
    now_ms,
    testing::{HIERARCHY, ana, credential},
};

fn group(kind: &str) -> Group {
    let station = &HIERARCHY.stations[0];
    match kind {
        "tenant" => Group::Tenant(station.record.tenant.clone()),
        "station" => Group::Station(station.record.station.clone()),
        "batch" => Group::Batch(station.record.station.clone(), "B-0001".parse().unwrap()),
        _ => Group::Ca(station.factory.certificate().key_id()),
    }
}

async fn decide(fleet: &Fleet, kind: &str, act: Act) {
    let code = (act == Act::Revoke).then_some(RevocationReason::KeyCompromise);
    let reason = Reason { text: "a reason of ten".to_owned(), code };
    fleet.registry.decide_group(&ana(), group(kind), act, &reason).await.unwrap();
}

/// The last digit of each device the filter finds, in order; every page of it, and the count.
async fn found(fleet: &Fleet, filter: &str) -> String {
    let filter = filter.parse().unwrap();
    let (mut digits, mut after) = (String::new(), None);
    loop {
        let page = fleet.registry.devices(&filter, after.as_deref(), 2).await.unwrap();
        digits.extend(page.items.iter().filter_map(|row| row.serial.as_str().chars().last()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let counted = fleet.registry.count(None, &filter).await.unwrap();
    assert_eq!(counted, (digits.len() as u64, true), "{filter}");
    digits
}

/// Everybody says the same of how many are in which state; and each is found by the state it is shown in.
async fn all_agree(fleet: &Fleet) {
    let overview = fleet.registry.overview(None).await.unwrap();
    let summary = fleet.registry.summary(None).await.unwrap();
    let every = fleet.registry.devices(&"".parse().unwrap(), None, 100).await.unwrap().items;
    let mut met = 0;
    for state in DeviceState::ALL {
        let in_it = every.iter().filter(|row| row.in_force == state).count() as u64;
        let of = |states: &[(DeviceState, u64)]| {
            states.iter().find(|(one, _)| *one == state).map_or(0, |(_, count)| *count)
        };
        assert_eq!(found(fleet, &format!("state:{state}")).await.len() as u64, in_it, "{state}");
        let without = found(fleet, &format!("-state:{state}")).await.len() as u64;
        assert_eq!(without, every.len() as u64 - in_it, "all but {state}");
        assert_eq!((of(&overview.states), of(&summary.states)), (in_it, in_it), "{state}");
        met += in_it;
    }
    assert_eq!(met, every.len() as u64);
    for row in &every {
        let detail = fleet.registry.device(&row.serial).await.unwrap();
        assert_eq!((detail.row.in_force, detail.row.state), (row.in_force, row.state));
        assert_eq!(detail.held_by.is_some(), row.in_force != row.state, "{}", row.serial);
        let refused = fleet.registry.verdicts().may_talk(row.key, &row.certificate, 0).err();
        assert_eq!(row.refused_as, refused, "{}", row.serial);
    }
}

#[tokio::test]
async fn who_is_held_is_found_by_what_holds_from_the_decision_on() {
    let fleet = Fleet::with(4).await;
    fleet.act(1, Act::Suspend).await.unwrap();
    fleet.act(2, Act::Quarantine).await.unwrap();
    for (kind, act, back, suspended, quarantined) in [
        ("batch", Act::Suspend, Act::Resume, "124", "3"),
        ("station", Act::Quarantine, Act::Release, "", "1234"),
        ("tenant", Act::Suspend, Act::Resume, "124", "3"),
    ] {
        decide(&fleet, kind, act).await;
        assert_eq!(found(&fleet, "state:suspended").await, suspended, "{kind}");
        assert_eq!(found(&fleet, "state:quarantined").await, quarantined, "{kind}");
        assert_eq!(found(&fleet, "state:registered,active").await, "", "{kind}");
        assert_eq!(found(&fleet, "state:suspended,quarantined batch:B-0001").await, "1234", "{kind}");
        let overview = fleet.registry.overview(Some(&HIERARCHY.stations[0].record.tenant)).await.unwrap();
        assert_eq!(overview.quarantined_ms.is_some(), !quarantined.is_empty());
        let held_by = fleet.registry.device(&fleet.devices[0].serial).await.unwrap().held_by.unwrap();
        assert_eq!(held_by.action, format!("{kind}.{act}"));
        all_agree(&fleet).await;
        decide(&fleet, kind, back).await;
        assert_eq!(found(&fleet, "state:registered").await, "14", "as it was: {kind}");
        assert_eq!(found(&fleet, "state:suspended").await, "2", "{kind}");
        all_agree(&fleet).await;
    }
}

#[tokio::test]
async fn the_gravest_group_counts_and_what_it_leaves_behind() {
    let fleet = Fleet::with(2).await;
    decide(&fleet, "tenant", Act::Suspend).await;
    decide(&fleet, "batch", Act::Quarantine).await;
    assert_eq!(found(&fleet, "state:quarantined").await, "12");
    all_agree(&fleet).await;
    // Another batch of the same station is the tenant's, whenever it comes, and after a restart too.
    let late = [credential("MU-000007")];
    let before = fleet.registry.batches(&crate::registry::Scope::Every, None, 10).await.unwrap();
    let before = before.items[0].manifest.as_ref().map(|of| (of.sequence, of.digest));
    let manifest = testing::manifest_of(&HIERARCHY.stations[0], "B-0002", before, &late, now_ms());
    fleet.registry.import_manifest(&ana(), &manifest).await.unwrap();
    assert_eq!(
        (found(&fleet, "state:suspended").await, found(&fleet, "state:registered").await),
        ("7".to_owned(), String::new())
    );
    let fleet = fleet.reopened().await;
    assert_eq!(
        (found(&fleet, "state:suspended").await, found(&fleet, "state:quarantined").await),
        ("7".to_owned(), "12".to_owned())
    );
    let active = fleet.registry.batches(&crate::registry::Scope::Every, None, 10).await.unwrap();
    assert!(active.items.iter().all(|batch| batch.active == 0));
    decide(&fleet, "batch", Act::Release).await;
    assert_eq!(found(&fleet, "state:suspended").await, "127");
    all_agree(&fleet).await;
}

#[tokio::test]
async fn whose_group_or_authority_is_revoked_is_revoked_before_its_row_says_so() {
    for kind in ["batch", "station", "tenant", "ca"] {
        let fleet = Fleet::with(3).await;
        fleet.act(1, Act::Suspend).await.unwrap();
        decide(&fleet, kind, Act::Revoke).await;
        let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
        assert_eq!(detail.row.state, DeviceState::Registered, "no row is written yet: {kind}");
        assert_eq!(found(&fleet, "state:revoked").await, "123", "{kind}");
        assert_eq!(found(&fleet, "state:registered,active,suspended").await, "", "{kind}");
        all_agree(&fleet).await;
    }
}

/// The last digit of each device in the order of attention, and whether it needs somebody; every page of two.
async fn in_order(fleet: &Fleet, filter: &str, reverse: bool) -> (String, Vec<u8>) {
    let (mut digits, mut attention, mut after) = (String::new(), Vec::new(), None);
    loop {
        let order = Order { sort: Sort::Attention, reverse };
        let listing = Listing { tenant: None, filter: filter.parse().unwrap(), order, after, limit: 2 };
        let page = fleet.registry.list(&listing).await.unwrap();
        digits.extend(page.items.iter().filter_map(|row| row.serial.as_str().chars().last()));
        attention.extend(page.items.iter().map(|row| row.attention));
        after = page.next;
        if after.is_none() {
            return (digits, attention);
        }
    }
}

/// Devices 1 to 4 in one batch, 7 to 9 in another, each changed a millisecond after the one before it; 2 and 8
/// are quarantined by themselves, 3 was refused.
async fn two_batches() -> Fleet {
    let fleet = Fleet::with(4).await;
    let late = ["MU-000007", "MU-000008", "MU-000009"].map(credential);
    let before = fleet.registry.batches(&Scope::Every, None, 10).await.unwrap();
    let before = before.items[0].manifest.as_ref().map(|of| (of.sequence, of.digest));
    let manifest = testing::manifest_of(&HIERARCHY.stations[0], "B-0002", before, &late, now_ms());
    fleet.registry.import_manifest(&ana(), &manifest).await.unwrap();
    fleet
        .sql(
            "UPDATE device SET changed_at_ms = 1000 + id;
             UPDATE device SET state = 'active' WHERE serial LIKE '%4' OR serial LIKE '%7';
             UPDATE device SET state = 'quarantined' WHERE serial LIKE '%2' OR serial LIKE '%8';
             UPDATE device SET refused = 5 WHERE serial LIKE '%3'",
        )
        .await;
    fleet
}

#[tokio::test]
async fn whom_a_group_holds_needs_somebody_as_who_is_in_that_state_by_himself() {
    let fleet = two_batches().await;
    let as_they_are = ("8239741".to_owned(), vec![3, 3, 2, 0, 0, 0, 0]);
    assert_eq!(in_order(&fleet, "", false).await, as_they_are);
    for (kind, act, back, expected, attention) in [
        ("batch", Act::Quarantine, Some(Act::Release), "8432197", [3, 3, 3, 3, 3, 0, 0]),
        ("batch", Act::Suspend, Some(Act::Resume), "8239741", [3, 3, 2, 0, 0, 0, 0]),
        ("station", Act::Quarantine, Some(Act::Release), "9874321", [3; 7]),
        ("batch", Act::Revoke, None, "8974321", [3, 0, 0, 0, 0, 0, 0]),
        ("ca", Act::Revoke, None, "9874321", [0; 7]),
    ] {
        decide(&fleet, kind, act).await;
        let (digits, needs) = in_order(&fleet, "", false).await;
        assert_eq!((digits.as_str(), &needs[..]), (expected, &attention[..]), "{kind} {act}");
        let backwards: String = expected.chars().rev().collect();
        assert_eq!(in_order(&fleet, "", true).await.0, backwards, "{kind} {act}");
        // By a term that few devices meet, which drives.
        let of_one = in_order(&fleet, "batch:B-0002", false).await.0;
        let expected: String = expected.chars().filter(|digit| "789".contains(*digit)).collect();
        assert_eq!(of_one, expected, "{kind} {act}");
        if let Some(back) = back {
            decide(&fleet, kind, back).await;
            assert_eq!(in_order(&fleet, "", false).await, as_they_are, "{kind} {back}");
        }
    }
}

#[tokio::test]
async fn a_batch_counts_as_active_who_may_talk() {
    let fleet = two_batches().await;
    let active = || async {
        let rows = fleet.registry.batches(&Scope::Every, None, 10).await.unwrap().items;
        rows.iter().map(|row| row.active).collect::<Vec<_>>()
    };
    assert_eq!(active().await, [1, 1]);
    decide(&fleet, "batch", Act::Suspend).await;
    assert_eq!(active().await, [0, 1]);
    decide(&fleet, "batch", Act::Resume).await;
    decide(&fleet, "station", Act::Quarantine).await;
    assert_eq!(active().await, [0, 0]);
    decide(&fleet, "station", Act::Release).await;
    assert_eq!(active().await, [1, 1]);
    decide(&fleet, "ca", Act::Revoke).await;
    assert_eq!(active().await, [0, 0]);
}
