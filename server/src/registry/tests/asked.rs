//! What is asked about one device, one batch and certificates.

use muster_pki::testing;
use muster_shared::Code;

use super::Fleet;
use crate::registry::{
    Act, Claimed, Connected, DisconnectReason, Listing, Notice, Reason, RegistryError, Scope,
    activity::Activity,
    certificates::CertificateFilter,
    label::{Edit, LABELS_MAX},
    now_ms,
    testing::{HIERARCHY, ana, credential},
    timeline::{EventKind, Mark, Only},
    verdict::CertificateStatus,
};

async fn lines(fleet: &Fleet, device: usize) -> Vec<String> {
    let page = fleet.registry.timeline(&fleet.devices[device].serial, None, 200).await.unwrap();
    assert!(page.items.is_sorted_by(|a, b| a.at_ms >= b.at_ms), "newest first");
    page.items.iter().map(|event| format!("{} {}", event.mark.glyph(), event.text)).collect()
}

#[tokio::test]
async fn a_timeline_says_each_thing_in_one_line() {
    let fleet = Fleet::with(2).await;
    let device = fleet.devices[0].key;
    let (facts, at) = (fleet.registry.facts(), now_ms() + 10_000);
    let remote = "10.0.4.17:51522".parse().unwrap();
    fleet.registry.first_connection(device, at).await.unwrap();
    let session = facts.connected(Connected { device, at_ms: at + 1, remote, protocol: 5, keep_alive_s: 60 });
    facts.disconnected(device, session, at + 1 + 7_200_000, DisconnectReason::KeepAliveTimeout);
    for n in 0..3 {
        facts.refused(&Claimed::Device(device), Code::DeviceSuspended, at + 7_300_000 + n, Some(remote));
    }
    facts.flush().await;
    let decided = fleet.act(0, Act::Suspend).await.unwrap();
    fleet.registry.mark_enforced(decided.generation, decided.decided_at_ms + 9, 1).await.unwrap();
    let edit = Edit { add_tags: vec!["Line 2".to_owned()], ..Edit::default() };
    fleet.registry.label(&ana(), &fleet.devices[0].serial, edit).await.unwrap();
    let reason =
        Reason { code: Some(crate::registry::RevocationReason::KeyCompromise), ..Reason::new("case 881") };
    fleet.registry.decide(&ana(), &fleet.devices[0].serial, Act::Revoke, &reason).await.unwrap();
    let said = lines(&fleet, 0).await;
    let short = &fleet.devices[0].certificate.to_string()[..8];
    for expected in [
        "✕ refused [M201] device is suspended, from 10.0.4.17 ×3 that day",
        "· offline: no sign for 90 s (was online 2h)",
        "● connected from 10.0.4.17, MQTT 5",
        "● first connection → active",
        "✕ revoked by ana, keyCompromise \"case 881\", session being closed",
        "· labelled by ana: +tag line 2",
        "‖ suspended by ana \"a reason of ten\", session closed in 9 ms",
        "◇ registered from manifest B-0001 by ana",
        &format!("○ certificate {short} made at S-07"),
    ] {
        let expected = expected.replace("device is suspended", Code::DeviceSuspended.words());
        assert!(said.contains(&expected), "{expected}\n{said:#?}");
    }
    assert_eq!(said.len(), 9, "{said:#?}");
    assert_eq!(lines(&fleet, 1).await.len(), 2, "a neighbour's is its own");
}

#[tokio::test]
async fn a_timeline_is_read_page_after_page_without_a_line_twice() {
    let fleet = Fleet::with(1).await;
    let device = fleet.devices[0].key;
    let (facts, at) = (fleet.registry.facts(), now_ms());
    let remote = "10.0.4.17:1".parse().unwrap();
    for n in 0..25 {
        let at_ms = at + n * 3_600_000;
        let session = facts.connected(Connected { device, at_ms, remote, protocol: 4, keep_alive_s: 0 });
        // Two things in one millisecond stay together.
        facts.disconnected(device, session, at_ms, DisconnectReason::ClientInitiated);
        facts.refused(&Claimed::Device(device), Code::DeviceQuarantined, at_ms + 1, None);
    }
    facts.flush().await;
    let whole = fleet.registry.timeline(&fleet.devices[0].serial, None, 200).await.unwrap();
    assert!(whole.next.is_none());
    let (mut pages, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = fleet.registry.timeline(&fleet.devices[0].serial, after.as_deref(), 7).await.unwrap();
        pages.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
        assert!(pages.len() <= whole.items.len());
    }
    assert_eq!(pages, whole.items);
    let of = |kind| whole.items.iter().filter(|event| event.kind == kind).count();
    assert_eq!((of(EventKind::Connected), of(EventKind::Disconnected)), (25, 25));
    assert!((2..=3).contains(&of(EventKind::Refused)), "one line a day");
    assert_eq!(whole.items.last().map(|event| event.mark), Some(Mark::Made));
    let wrong = fleet.registry.timeline(&fleet.devices[0].serial, Some("yesterday"), 7).await;
    assert_eq!(wrong.unwrap_err().code(), Code::UsageWrong);
}

#[tokio::test]
async fn labels_are_kept_found_audited_and_gone_with_the_device() {
    let fleet = Fleet::with(2).await;
    let serial = &fleet.devices[0].serial;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let edit = Edit {
        add_tags: words(&["Spare", " line 2 "]),
        add_groups: words(&["north"]),
        note: Some("returned, <b>case</b> 881".to_owned()),
        ..Edit::default()
    };
    let labels = fleet.registry.label(&ana(), serial, edit).await.unwrap();
    assert_eq!((labels.tags, labels.groups), (words(&["line 2", "spare"]), words(&["north"])));
    let edit = Edit { remove_tags: words(&["SPARE"]), ..Edit::default() };
    let labels = fleet.registry.label(&ana(), serial, edit).await.unwrap();
    assert_eq!(labels.tags, words(&["line 2"]));
    assert_eq!(
        labels.note.as_ref().map(|note| (&*note.text, &*note.author)),
        Some(("returned, <b>case</b> 881", "ana"))
    );
    let found = async |filter: &str| {
        let listing = Listing { filter: filter.parse().unwrap(), limit: 9, ..Listing::default() };
        fleet.registry.list(&listing).await.unwrap().items
    };
    assert_eq!(
        found("tag:\"line 2\" group:NORTH").await[0].note.as_deref(),
        Some("returned, <b>case</b> 881")
    );
    assert!(found("tag:spare").await.is_empty());
    let row = fleet.registry.audit(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((&*row.action, &*row.target, &*row.actor), ("device.label", "acme/MU-000001", "ana"));
    assert!(row.detail.contains("spare"), "{}", row.detail);
    for wrong in [
        Edit { add_tags: words(&["a\"b"]), ..Edit::default() },
        Edit { add_tags: words(&[" "]), ..Edit::default() },
        Edit { add_groups: words(&[&"x".repeat(65)]), ..Edit::default() },
        Edit { note: Some("a\u{1b}[2J".to_owned()), ..Edit::default() },
        Edit { add_tags: (0..LABELS_MAX).map(|n| format!("t{n}")).collect(), ..Edit::default() },
    ] {
        let error = fleet.registry.label(&ana(), serial, wrong.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::UsageWrong, "{wrong:?}");
    }
    for act in [Act::Revoke, Act::Decommission] {
        fleet.act(0, act).await.unwrap();
    }
    assert!(found("group:north").await.is_empty());
    assert_eq!(fleet.count("SELECT count(*) FROM note").await, 0);
    let error = fleet.registry.label(&ana(), serial, Edit::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::DeviceUnknown);
}

#[tokio::test]
async fn a_batch_is_counted_against_what_was_made() {
    let fleet = Fleet::empty().await;
    let serials = ["MU-000002", "MU-000003", "MU-000007", "MU-000009"];
    let credentials: Vec<_> = serials.iter().map(|serial| credential(serial)).collect();
    let manifest = testing::manifest(&HIERARCHY, "B-0001", &credentials, now_ms());
    fleet.registry.import_manifest(&ana(), &manifest).await.unwrap();
    let key = fleet.registry.verdicts().certificate(&credentials[0].identity().id).unwrap().device;
    fleet.registry.first_connection(key, now_ms()).await.unwrap();
    let batch = "B-0001".parse().unwrap();
    let of = fleet.registry.batch(None, &batch).await.unwrap();
    assert_eq!((of.made, of.registered, of.first_seen, of.refused, of.unannounced), (4, 4, 1, 0, 0));
    let gaps: Vec<_> = of.gaps.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!((gaps, of.missing), (vec![("MU-000004", "MU-000006"), ("MU-000008", "MU-000008")], 4));
    assert_eq!(
        of.serials.map(|(a, b)| (a.to_string(), b.to_string())),
        Some(("MU-000002".into(), "MU-000009".into()))
    );
    assert_eq!((of.station_devices, of.manifests.len()), (4, 1));
    assert!(of.quota >= 4);
    assert_eq!(fleet.registry.batch_manifest(None, &batch, None).await.unwrap(), manifest);
    let again = fleet.registry.verify_batch(None, &batch).await.unwrap();
    assert_eq!((again.manifests, again.rows, again.faults.len(), again.missing.len()), (1, 4, 0, 0));
    // A file that was changed behind the registry's back says so.
    fleet.sql("UPDATE manifest SET body = substr(body, 1, length(body) - 40)").await;
    let again = fleet.registry.verify_batch(None, &batch).await.unwrap();
    assert_eq!((again.manifests, again.faults.len()), (0, 1), "{again:?}");
    for (tenant, name) in [(None, "B-9"), (Some("other"), "B-0001")] {
        let tenant = tenant.map(|tenant| tenant.parse().unwrap());
        let error = fleet.registry.batch(tenant.as_ref(), &name.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.code(), Code::BatchUnknown);
    }
}

#[tokio::test]
async fn certificates_are_listed_by_their_end_found_by_their_digest_and_published_when_revoked() {
    let fleet = Fleet::with(5).await;
    fleet.act(1, Act::Revoke).await.unwrap();
    fleet.act(2, Act::Suspend).await.unwrap();
    let list = async |filter: CertificateFilter| {
        let (mut items, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = fleet.registry.certificates(&filter, after.as_deref(), 2).await.unwrap();
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                return items;
            }
            assert!(items.len() < 10);
        }
    };
    let all = list(CertificateFilter::default()).await;
    assert_eq!(all.len(), 5);
    let revoked =
        list(CertificateFilter { status: Some(CertificateStatus::Revoked), ..Default::default() }).await;
    assert_eq!(revoked.iter().map(|of| of.id).collect::<Vec<_>>(), [fleet.devices[1].certificate]);
    let issuer = all[0].issuer.clone();
    assert_eq!(list(CertificateFilter { issuer: Some(issuer.clone()), ..Default::default() }).await.len(), 5);
    assert!(
        list(CertificateFilter { tenant: Some("other".parse().unwrap()), ..Default::default() })
            .await
            .is_empty()
    );
    assert!(list(CertificateFilter { ends_before_s: Some(0), ..Default::default() }).await.is_empty());
    let one = fleet.registry.certificate(None, &fleet.devices[1].certificate).await.unwrap();
    assert_eq!((one.serial, one.status), (fleet.devices[1].serial.clone(), CertificateStatus::Revoked));
    let unknown = fleet.registry.certificate(None, &muster_shared::CertificateId([7; 32])).await.unwrap_err();
    assert!(matches!(unknown, RegistryError::CertificateUnknown(_)), "{unknown}");
    assert_eq!(unknown.code(), Code::CertificateUnknown);
    let listed = fleet.registry.revoked_of(&issuer, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    let refused = fleet.registry.refused_devices(None);
    let places: Vec<_> = refused.iter().map(|(at, why)| (*at, *why)).collect();
    assert_eq!(
        places,
        [(one.status_index, Code::CertificateRevoked), (one.status_index + 1, Code::DeviceSuspended)]
    );
    assert!(fleet.registry.refused_devices(Some(&"other".parse().unwrap())).is_empty());
    for cursor in ["", "x", "1.zz"] {
        let error =
            fleet.registry.certificates(&CertificateFilter::default(), Some(cursor), 2).await.unwrap_err();
        assert_eq!(error.code(), Code::UsageWrong);
    }
}

#[tokio::test]
async fn a_kind_of_line_is_found_behind_a_hundred_of_another() {
    let fleet = Fleet::with(1).await;
    let device = fleet.devices[0].key;
    let (facts, at) = (fleet.registry.facts(), now_ms() - 60_000);
    let remote = "10.0.4.17:1".parse().unwrap();
    let session = facts.connected(Connected { device, at_ms: at, remote, protocol: 5, keep_alive_s: 0 });
    facts.disconnected(device, session, at + 5, DisconnectReason::ClientInitiated);
    facts.refused(&Claimed::Device(device), Code::DeviceSuspended, at + 10, Some(remote));
    facts.flush().await;
    for _ in 0..26 {
        fleet.act(0, Act::Suspend).await.unwrap();
        fleet.act(0, Act::Resume).await.unwrap();
    }
    let of = async |only| {
        let page = fleet.registry.timeline_of(&fleet.devices[0].serial, only, None, 50).await.unwrap();
        page.items.iter().map(|event| event.kind).collect::<Vec<_>>()
    };
    let mixed = of(None).await;
    assert!(mixed.iter().all(|kind| *kind == EventKind::Decided), "the newest are all decisions");
    assert_eq!(of(Some(Only::Sessions)).await, [EventKind::Disconnected, EventKind::Connected]);
    assert_eq!(of(Some(Only::Refusals)).await, [EventKind::Refused]);
    assert_eq!(of(Some(Only::Decisions)).await, mixed);
}

#[tokio::test]
async fn what_devices_did_last_is_each_tenant_s_own() {
    let fleet = Fleet::with(2).await;
    let (facts, at) = (fleet.registry.facts(), now_ms() - 60_000);
    let remote = "10.0.4.17:1".parse().unwrap();
    let device = fleet.devices[0].key;
    let session = facts.connected(Connected { device, at_ms: at, remote, protocol: 5, keep_alive_s: 0 });
    facts.disconnected(device, session, at + 7, DisconnectReason::ClientInitiated);
    facts.refused(&Claimed::Device(fleet.devices[1].key), Code::DeviceSuspended, at + 9, Some(remote));
    facts.refused(&Claimed::Nobody, Code::IssuerUnknown, at + 11, Some(remote));
    facts.flush().await;
    let of = async |scope: Scope, limit| {
        let found = fleet.registry.activity(&scope, limit).await.unwrap();
        let serial = |of: &Activity| of.device.as_ref().map(|(_, serial)| serial.to_string());
        found.iter().map(|of| (of.event.kind, serial(of))).collect::<Vec<_>>()
    };
    let some = |serial: &str| Some(serial.to_owned());
    let own = [
        (EventKind::Refused, some("MU-000002")),
        (EventKind::Disconnected, some("MU-000001")),
        (EventKind::Connected, some("MU-000001")),
    ];
    assert_eq!(of(Scope::One("acme".parse().unwrap()), 10).await, own);
    assert_eq!(of(Scope::One("other".parse().unwrap()), 10).await, []);
    let all = of(Scope::Every, 2).await;
    assert_eq!(all, [(EventKind::Refused, None), own[0].clone()]);
    facts.noticed(device, Notice::Slowed { per_s: 100 }, at + 13, Some(remote));
    facts.flush().await;
    let newest = of(Scope::One("acme".parse().unwrap()), 1).await;
    assert_eq!(newest, [(EventKind::Slowed, some("MU-000001"))]);
    assert_eq!(of(Scope::One("other".parse().unwrap()), 10).await, []);
}

#[tokio::test]
async fn what_runs_and_what_ends_is_in_the_timeline() {
    let fleet = Fleet::with(1).await;
    let (device, serial) = (fleet.devices[0].key, &fleet.devices[0].serial);
    for version in ["1.4.1", "1.4.1", "1.4.2"] {
        fleet.registry.report_firmware([(device, version.parse().unwrap())].into()).await.unwrap();
        // Two changes of one millisecond would be one.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let lines = async |kind| {
        let page = fleet.registry.timeline(serial, None, 100).await.unwrap();
        let of = page.items.iter().filter(|event| event.kind == kind);
        of.map(|event| (event.text.clone(), event.at_ms)).collect::<Vec<_>>()
    };
    let firmware: Vec<_> = lines(EventKind::Firmware).await.into_iter().map(|(text, _)| text).collect();
    assert_eq!(firmware, ["firmware: now 1.4.2 (was 1.4.1)", "firmware: now 1.4.1 (the first it reported)"]);
    assert!(lines(EventKind::Certificate).await.is_empty(), "it has no end");
    // One that was given a year ago and ends in ten days; then one that has ended.
    let (day_s, now_s) = (86_400, now_ms() / 1000);
    let ends = async |at_s: u64| {
        let set = |id: u64| (id == 1).then_some(at_s);
        fleet
            .each("UPDATE certificate SET not_after_s = $2, added_at_ms = 1000 WHERE device = $1", set)
            .await;
    };
    ends(now_s + 10 * day_s).await;
    let told = lines(EventKind::Certificate).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0.ends_with("ends in 30 days") && told[0].1 == (now_s - 20 * day_s) * 1000, "{told:?}");
    ends(now_s - day_s).await;
    let told = lines(EventKind::Certificate).await;
    assert!(told[0].0.ends_with("has ended") && told[1].0.ends_with("ends in 30 days"), "{told:?}");
    // Of what is out of use nothing is kept.
    fleet.act(0, Act::Revoke).await.unwrap();
    fleet.act(0, Act::Decommission).await.unwrap();
    assert!(lines(EventKind::Firmware).await.is_empty());
}
