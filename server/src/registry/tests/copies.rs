//! The whole registry in a file of lines, and back.

use super::Fleet;
use crate::registry::{Act, Place, Registry, RegistryError, testing::ana};

/// Lines of an export, and the audit log's head.
async fn everything(registry: &Registry) -> Vec<String> {
    let mut at = crate::registry::export::Exporting::begin(None);
    let mut lines = Vec::new();
    while let Some((some, next)) = registry.export(at).await.unwrap() {
        lines.extend(some.lines().map(str::to_owned));
        at = next;
    }
    lines
}

#[tokio::test]
async fn what_is_written_is_read_back_and_only_the_restore_is_added() {
    let fleet = Fleet::with(3).await;
    fleet.act(0, Act::Suspend).await.unwrap();
    fleet.act(1, Act::Revoke).await.unwrap();
    let file = fleet.dir.path().join("copy");
    let (header, rows) = fleet.registry.back_up(&ana(), &file).await.unwrap();
    assert!(rows > 10);
    let before = everything(&fleet.registry).await;
    fleet.act(2, Act::Suspend).await.unwrap();
    assert!(fleet.registry.back_up(&ana(), &file).await.is_err(), "nothing is overwritten");

    let empty = Fleet::nothing().await;
    let (dir, place) = (empty.dir.path(), empty.place());
    empty.registry.close().await;
    let refused = Registry::restore(&ana(), dir, &place, &file, false).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Occupied(_)), "{refused}");
    let restored = Registry::restore(&ana(), dir, &place, &file, true).await.unwrap();
    assert_eq!((restored.rows, restored.audit_no, restored.epoch), (rows, header.audit_no, 2));
    let registry = Registry::open_at(dir, &place).await.unwrap();
    let mut after = everything(&registry).await;
    let added = after.pop().unwrap();
    assert!(added.contains("registry.restore"), "{added}");
    assert_eq!(after, before);
    assert_eq!(registry.audit_verify(None).await.unwrap().broken, None);
    // And written on: numbers of rows go on where they were.
    registry
        .create_token(&ana(), &crate::registry::NewToken::of("new", crate::registry::Role::Viewer, None))
        .await
        .unwrap();
    registry.close().await;
}

#[tokio::test]
async fn a_copy_of_one_database_is_restored_into_the_other() {
    let fleet = Fleet::with(2).await;
    let file = fleet.dir.path().join("copy");
    fleet.registry.back_up(&ana(), &file).await.unwrap();
    let before = everything(&fleet.registry).await;
    let dir = tempfile::tempdir().unwrap();
    let place = Place::in_dir(dir.path());
    Registry::restore(&ana(), dir.path(), &place, &file, false).await.unwrap();
    let registry = Registry::open(dir.path()).await.unwrap();
    let mut after = everything(&registry).await;
    after.pop();
    assert_eq!(after, before);
    registry.close().await;
}

#[tokio::test]
async fn a_copy_that_is_not_whole_changes_nothing() {
    let fleet = Fleet::with(1).await;
    let file = fleet.dir.path().join("copy");
    fleet.registry.back_up(&ana(), &file).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let cut = lines[..lines.len() - 1].join("\n");
    let miscounted = format!("{cut}\n{{\"rows\":1}}\n");
    let newer = text.replacen("\"version\":", "\"version\":9", 1);
    let stranger = text.replacen("\"table\":\"device\"", "\"table\":\"devise\"", 1);
    let before = everything(&fleet.registry).await;
    fleet.registry.close().await;
    for bad in [cut, miscounted, newer, stranger, String::new(), "{}\n".to_owned()] {
        let path = fleet.dir.path().join("bad");
        std::fs::write(&path, &bad).unwrap();
        let done = Registry::restore(&ana(), fleet.dir.path(), &fleet.place(), &path, true).await;
        assert!(matches!(done, Err(RegistryError::Backup(_))), "{done:?}");
    }
    let fleet = fleet.reopened().await;
    assert_eq!(everything(&fleet.registry).await, before);
}
