use muster_pki::PublicKey;

use super::Fleet;
use crate::registry::{
    Act, AuditFilter, AuditHead, AuditReport, Scope,
    audit::{checkpoint, export},
};

/// Twelve decisions: the root, three stations, an import and seven about devices.
async fn logged() -> Fleet {
    let fleet = Fleet::with(3).await;
    for device in 0..3 {
        fleet.act(device, Act::Suspend).await.unwrap();
        fleet.act(device, Act::Resume).await.unwrap();
    }
    fleet.act(0, Act::Revoke).await.unwrap();
    fleet
}

async fn verify(fleet: &Fleet) -> AuditReport {
    fleet.registry.audit_verify(None).await.unwrap()
}

#[tokio::test]
async fn an_untouched_log_is_intact_and_its_head_moves_with_each_decision() {
    let fleet = logged().await;
    let report = verify(&fleet).await;
    assert_eq!((report.broken, report.intact, report.head.no), (None, 12, 12));
    assert_eq!(report.head, fleet.registry.audit_head().await.unwrap());
    fleet.act(1, Act::Suspend).await.unwrap();
    assert_eq!(verify(&fleet).await.head.no, 13);
    let fleet = fleet.reopened().await;
    assert_eq!(verify(&fleet).await.intact, 13);
}

#[tokio::test]
async fn a_changed_row_is_named_whichever_column_it_is() {
    for (sql, no) in [
        ("UPDATE audit SET reason = 'another' WHERE no = 6", 6),
        ("UPDATE audit SET actor = 'ben' WHERE no = 7", 7),
        ("UPDATE audit SET at_ms = at_ms + 1 WHERE no = 1", 1),
        ("UPDATE audit SET target = 'acme/MU-000002' WHERE no = 12", 12),
        ("UPDATE audit SET detail = '{}' WHERE no = 5", 5),
        ("UPDATE audit SET token = 't-2' WHERE no = 8", 8),
        ("UPDATE audit SET node = 'x' WHERE no = 8", 8),
        ("UPDATE audit SET tenant = 'zeta' WHERE no = 8", 8),
        ("UPDATE audit SET tenant = NULL, request = NULL, address = NULL WHERE no = 8", 8),
        ("UPDATE audit SET request = 'x' WHERE no = 6", 6),
        ("UPDATE audit SET address = '192.0.2.1' WHERE no = 7", 7),
        ("UPDATE audit SET role = 'admin' WHERE no = 9", 9),
        ("UPDATE audit SET action = 'device.resume' WHERE no = 6", 6),
        ("UPDATE audit SET previous = zeroblob(32) WHERE no = 4", 4),
        ("UPDATE audit SET digest = zeroblob(32) WHERE no = 4", 4),
        ("UPDATE audit SET digest = zeroblob(31) WHERE no = 4", 4),
        // A type that PostgreSQL does not let in at all.
        (
            Fleet::either(
                "UPDATE audit SET at_ms = 'yesterday' WHERE no = 10",
                "UPDATE audit SET at_ms = 0 WHERE no = 10",
            ),
            10,
        ),
        ("UPDATE audit SET action = target, target = action WHERE no = 3", 3),
    ] {
        let fleet = logged().await;
        assert_eq!(fleet.sql(sql).await, 1, "{sql}");
        let broken = verify(&fleet).await.broken.unwrap();
        assert_eq!(broken.no, no, "{sql}: {}", broken.why);
    }
}

#[tokio::test]
async fn removed_moved_and_added_rows_are_named() {
    for (sql, no) in [
        ("DELETE FROM audit WHERE no = 1", 1),
        ("DELETE FROM audit WHERE no = 6", 6),
        ("DELETE FROM audit WHERE no = 12", 12),
        ("DELETE FROM audit WHERE no > 9", 10),
        ("DELETE FROM audit", 1),
        ("DELETE FROM audit WHERE no = 6; UPDATE audit SET no = no - 1 WHERE no > 6", 6),
        (
            "UPDATE audit SET no = -1 WHERE no = 3; UPDATE audit SET no = 3 WHERE no = 4; UPDATE audit SET no = 4 WHERE no = -1",
            3,
        ),
        (
            "INSERT INTO audit SELECT 13, node, at_ms, actor, role, token, action, target, reason, detail, digest, digest, tenant, request, address FROM audit WHERE no = 12",
            13,
        ),
        (
            "INSERT INTO audit SELECT -5, node, at_ms, actor, role, token, action, target, reason, detail, digest, digest, tenant, request, address FROM audit WHERE no = 12",
            0,
        ),
    ] {
        let fleet = logged().await;
        assert!(fleet.sql(sql).await >= 1, "{sql}");
        let broken = verify(&fleet).await.broken.unwrap();
        assert_eq!(broken.no, no, "{sql}: {}", broken.why);
    }
}

#[tokio::test]
async fn a_log_cut_and_set_back_with_its_head_is_caught_by_an_outside_checkpoint() {
    let fleet = logged().await;
    let checkpoint = fleet.registry.audit_head().await.unwrap();
    let set_back = "DELETE FROM audit WHERE no > 9;
        UPDATE registry SET audit_no = 9, audit_digest = (SELECT digest FROM audit WHERE no = 9)";
    fleet.sql(set_back).await;
    assert_eq!(verify(&fleet).await.broken, None, "from inside alone nothing is missing");
    let report = fleet.registry.audit_verify(Some(&checkpoint)).await.unwrap();
    assert_eq!((report.intact, report.broken.unwrap().no), (9, 10));
    // And written on: the chain holds again, but row 12 is another than it was.
    for device in [1, 2, 1, 2] {
        let act = if fleet.registry.audit_head().await.unwrap().no < 11 { Act::Suspend } else { Act::Resume };
        fleet.act(device, act).await.unwrap();
    }
    assert_eq!(verify(&fleet).await.broken, None);
    let report = fleet.registry.audit_verify(Some(&checkpoint)).await.unwrap();
    assert_eq!(report.broken.unwrap().no, 12);
}

#[tokio::test]
async fn a_checkpoint_of_the_past_is_part_of_a_log_that_grew() {
    let fleet = logged().await;
    let checkpoint = fleet.registry.audit_head().await.unwrap();
    fleet.act(1, Act::Suspend).await.unwrap();
    let report = fleet.registry.audit_verify(Some(&checkpoint)).await.unwrap();
    assert_eq!((report.broken, report.intact), (None, 13));
    let forged = AuditHead { digest: [7; 32], ..checkpoint };
    assert_eq!(fleet.registry.audit_verify(Some(&forged)).await.unwrap().broken.unwrap().no, 12);
}

/// An export as the server writes it, line by line.
async fn exported(fleet: &Fleet) -> Vec<String> {
    let last = fleet.registry.audit_checkpoint().await.unwrap();
    let checkpoints = fleet.registry.audit_checkpoints(0).await.unwrap();
    let rows = fleet.registry.audit(0, 1000).await.unwrap();
    assert_eq!(rows.last().unwrap().no, last.head.no);
    let text = export::begin(&fleet.registry.audit_key(), &checkpoints) + &export::rows(&rows);
    text.lines().map(|line| format!("{line}\n")).collect()
}

fn check(lines: &[String], key: &PublicKey, outside: Option<&AuditHead>) -> AuditReport {
    export::check(lines.concat().as_bytes(), Some(key), outside).unwrap().report
}

#[tokio::test]
async fn an_export_proves_itself_with_the_public_key_alone() {
    let fleet = logged().await;
    let early = fleet.registry.audit_checkpoint().await.unwrap();
    fleet.act(1, Act::Suspend).await.unwrap();
    let (key, lines) = (fleet.registry.audit_key(), exported(&fleet).await);
    let pem = checkpoint::public_key_pem(&key);
    assert_eq!(checkpoint::read_public_key(pem.as_bytes()).unwrap(), key);
    let report = check(&lines, &key, Some(&early.head));
    assert_eq!((report.intact, report.broken), (13, None));
    let own = export::check(lines.concat().as_bytes(), None, None).unwrap();
    assert!(own.own_key && own.report.broken.is_none() && own.checkpoints == 2);
    // The same again when nothing was decided since.
    assert_eq!(exported(&fleet).await, lines);
    assert_eq!(verify(&fleet).await.broken, None);
}

#[tokio::test]
async fn an_export_that_was_changed_names_the_first_bad_row() {
    let fleet = logged().await;
    let (key, lines) = (fleet.registry.audit_key(), exported(&fleet).await);
    // Line 0 is the head, line 1 the checkpoint of row 12, line n + 1 row n.
    let of = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        check(&lines, &key, None).broken.map(|broken| broken.no)
    };
    assert_eq!(of(&|_| {}), None);
    for no in 1..=12 {
        let flipped =
            |lines: &mut Vec<String>| lines[no + 1] = lines[no + 1].replacen("\"ana\"", "\"eve\"", 1);
        assert_eq!(of(&flipped), Some(no as u64), "flipped in row {no}");
        assert_eq!(of(&|lines| drop(lines.remove(no + 1))), Some(no as u64), "row {no} cut");
        assert_eq!(of(&|lines| lines.truncate(no + 1)), Some(no as u64), "the tail cut at row {no}");
    }
    assert_eq!(of(&|lines| lines.swap(5, 6)), Some(4), "two rows in each other's place");
    assert_eq!(of(&|lines| drop(lines.drain(4..7))), Some(3), "three rows cut");
    assert_eq!(of(&|lines| lines[8] = "{}\n".to_owned()), Some(7));
    assert_eq!(of(&|lines| lines[13] = lines[13].trim_end().to_owned()), Some(12), "the last line is cut");
}

#[tokio::test]
async fn rows_that_were_forged_onto_an_export_are_covered_by_no_signature() {
    let fleet = logged().await;
    let (key, lines) = (fleet.registry.audit_key(), exported(&fleet).await);
    fleet.act(1, Act::Suspend).await.unwrap();
    let forged = export::rows(&fleet.registry.audit(12, 1).await.unwrap());
    let mut longer = lines.clone();
    longer.push(forged);
    let broken = check(&longer, &key, None).broken.unwrap();
    assert_eq!((broken.no, broken.why.as_str()), (13, "no signed checkpoint covers it"));
    // Another server's key has signed another log.
    let stranger = logged().await;
    let theirs = exported(&stranger).await;
    let broken = check(&theirs, &key, None).broken.unwrap();
    assert_eq!(broken.no, 12);
    assert!(broken.why.contains("not signed"), "{}", broken.why);
    // Without any checkpoint nothing is proved.
    let mut none = lines.clone();
    none.remove(1);
    assert_eq!(check(&none, &key, None).broken.unwrap().no, 1);
    // Cut back to an older checkpoint it proves itself; the newer one, kept elsewhere, says what is missing.
    let newest = fleet.registry.audit_checkpoint().await.unwrap();
    assert_eq!(check(&lines, &key, None).broken, None);
    let broken = check(&lines, &key, Some(&newest.head)).broken.unwrap();
    assert_eq!(broken.no, 13);
    for junk in ["", "\n", "{}\n", "not JSON\n"] {
        assert!(export::check(junk.as_bytes(), Some(&key), None).is_err(), "{junk:?}");
    }
}

#[tokio::test]
async fn a_log_that_was_written_anew_lacks_its_signatures() {
    let fleet = logged().await;
    fleet.registry.audit_checkpoint().await.unwrap();
    for (sql, no) in [
        ("UPDATE audit_checkpoint SET digest = zeroblob(32)", 12),
        ("UPDATE audit_checkpoint SET at_ms = at_ms + 1", 12),
        ("UPDATE audit_checkpoint SET no = 11", 11),
        ("UPDATE audit_checkpoint SET node = 'x'", 12),
    ] {
        let fleet = logged().await;
        fleet.registry.audit_checkpoint().await.unwrap();
        assert_eq!(fleet.sql(sql).await, 1);
        assert_eq!(verify(&fleet).await.broken.unwrap().no, no, "{sql}");
    }
    // Cut, with the registry's own head set back: the signed checkpoint knows better.
    let set_back = "DELETE FROM audit WHERE no > 9;
        UPDATE registry SET audit_no = 9, audit_digest = (SELECT digest FROM audit WHERE no = 9)";
    fleet.sql(set_back).await;
    assert_eq!(verify(&fleet).await.broken.unwrap().no, 10);
}

#[tokio::test]
async fn a_listing_is_filtered_and_a_tenant_s() {
    let fleet = logged().await;
    let [acme, other] = ["acme", "other"].map(|name| Scope::One(name.parse().unwrap()));
    let numbers = async |scope: &Scope, filter: AuditFilter, after| {
        let page = fleet.registry.audit_page(scope, &filter, after, 3).await.unwrap();
        (page.items.iter().map(|row| row.no).collect::<Vec<_>>(), page.next, page.total)
    };
    let next = |no: &str| Some(no.to_owned());
    let all = AuditFilter::default();
    assert_eq!(numbers(&Scope::Every, all.clone(), None).await, (vec![1, 2, 3], next("3"), 12));
    assert_eq!(numbers(&Scope::Every, all.clone(), Some(9)).await, (vec![10, 11, 12], None, 12));
    // The root is every tenant's, one station is the other tenant's.
    assert_eq!(numbers(&other, all.clone(), None).await.2, 1);
    assert_eq!(numbers(&acme, all.clone(), None).await.2, 10);
    let newest = AuditFilter { newest_first: true, ..all.clone() };
    assert_eq!(numbers(&acme, newest.clone(), None).await, (vec![12, 11, 10], next("10"), 10));
    assert_eq!(numbers(&acme, newest, Some(10)).await.0, [9, 8, 7]);
    let of = |action: &str| AuditFilter { action: Some(action.to_owned()), ..all.clone() };
    assert_eq!(numbers(&acme, of("device.suspend"), None).await.2, 3);
    assert_eq!(numbers(&acme, of("device."), None).await.2, 7);
    assert_eq!(numbers(&acme, of("device"), None).await.2, 0);
    let about = |target: &str| AuditFilter { target: Some(target.to_owned()), ..all.clone() };
    assert_eq!(numbers(&Scope::Every, about("acme/MU-000001"), None).await.2, 3);
    assert_eq!(numbers(&acme, about("MU-000001"), None).await.2, 3);
    assert_eq!(numbers(&other, about("acme/MU-000001"), None).await.2, 0);
    let by = AuditFilter { actor: Some("ana".to_owned()), ..all.clone() };
    assert_eq!(numbers(&acme, by, None).await.2, 10);
    let at = fleet.registry.audit(5, 1).await.unwrap()[0].at_ms;
    let since = AuditFilter { since_ms: Some(at), ..all.clone() };
    let until = AuditFilter { until_ms: Some(at), ..all.clone() };
    let (since, until) =
        (numbers(&Scope::Every, since, None).await.2, numbers(&Scope::Every, until, None).await.2);
    assert_eq!(since + until, 12);
}

#[tokio::test]
async fn what_the_newest_check_found_is_kept_and_made_again() {
    let wait = std::time::Duration::from_secs(60);
    let fleet = logged().await;
    let first = fleet.registry.audit_standing(wait).await.unwrap().unwrap();
    assert_eq!((first.report.intact, first.report.broken.clone()), (12, None));
    fleet.act(1, Act::Suspend).await.unwrap();
    assert_eq!(fleet.registry.audit_standing(wait).await.unwrap(), Some(first), "it is a moment old");
    fleet.registry.inner.standing.age();
    let second = fleet.registry.audit_standing(wait).await.unwrap().unwrap();
    assert_eq!((second.report.intact, second.report.broken), (13, None), "what was added is followed");
    // What is wrong with a new row is found by following on; with an old one, by who checks them all.
    fleet.act(1, Act::Resume).await.unwrap();
    fleet.sql("UPDATE audit SET reason = 'another' WHERE no = 14").await;
    fleet.registry.inner.standing.age();
    let third = fleet.registry.audit_standing(wait).await.unwrap().unwrap();
    assert_eq!(third.report.broken.unwrap().no, 14);
    fleet.sql("UPDATE audit SET reason = 'another' WHERE no = 3").await;
    assert_eq!(verify(&fleet).await.broken.unwrap().no, 3);
    let kept = fleet.registry.audit_standing(wait).await.unwrap().unwrap();
    assert_eq!(kept.report.broken.unwrap().no, 3, "a check that was asked for is one too");
}
