use super::Fleet;
use crate::registry::{Act, AuditHead, AuditReport};

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
            "INSERT INTO audit SELECT 13, node, at_ms, actor, role, token, action, target, reason, detail, digest, digest FROM audit WHERE no = 12",
            13,
        ),
        (
            "INSERT INTO audit SELECT -5, node, at_ms, actor, role, token, action, target, reason, detail, digest, digest FROM audit WHERE no = 12",
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
