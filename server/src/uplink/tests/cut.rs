//! A commit is whole or not there, wherever it is cut: at any statement, and at any octet of what reaches
//! the disk.

use std::fs;

use tempfile::TempDir;

use super::rig::{Rig, SMALL, device, device_key, message, retained, save, server, service, service_key};
use crate::uplink::{Change, Message, Outcome, Position, batch::Item};

fn with(change: Change, message: Message) -> Item {
    Item::Message(Message { state: Some(Box::new(change)), ..message })
}

fn said(message: Message) -> Item {
    Item::Message(message)
}

/// Something of everything, to be changed.
fn before() -> Vec<Item> {
    vec![
        Item::Change(save(device_key(0), "one", &[])),
        Item::Change(save(device_key(1), "one", &[])),
        said(message(service(), "acme/MU-0/app/a", "first")),
        said(message(service(), "acme/~all/app/news", "second")),
        said(retained(service(), "plant/a", "old")),
        said(retained(service(), "plant/b", "goes")),
    ]
}

/// Every statement a commit can have.
fn change() -> Vec<Item> {
    vec![
        with(save(device_key(0), "two", &[1]), message(service(), "acme/MU-0/app/a", "third")),
        Item::Change(Change::Forget { key: device_key(1) }),
        Item::Change(save(service_key("1"), "new", &[])),
        said(retained(device(1), "acme/MU-1/app/x", "new")),
        said(retained(service(), "plant/a", "newer")),
        said(retained(service(), "plant/b", "")),
        Item::Change(Change::Dequeue { key: device_key(0), positions: vec![Position(2)] }),
    ]
}

#[tokio::test]
async fn a_commit_that_is_cut_at_any_statement_leaves_nothing_behind() {
    let mut rig = Rig::open(SMALL).await;
    rig.batch(&before(), 1).await;
    let old = rig.picture().await;
    assert_eq!((old.log.len(), old.sessions.len(), old.retained.len()), (4, 2, 2));
    let places = [
        ("INSERT", "segment"),
        ("INSERT", "session"),
        ("UPDATE", "session"),
        ("DELETE", "session"),
        ("INSERT", "held"),
        ("DELETE", "held"),
        ("INSERT", "queue"),
        ("DELETE", "queue"),
        ("INSERT", "retained"),
        ("UPDATE", "retained"),
        ("DELETE", "retained"),
    ];
    for (statement, table) in places {
        let plan = rig.plan(&change(), 2);
        assert!(plan.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored(_))));
        let cut =
            format!("CREATE TRIGGER cut AFTER {statement} ON {table} BEGIN SELECT RAISE(ABORT, 'cut'); END");
        rig.sql(cut).await;
        assert!(rig.commit(plan, 2).await.is_err(), "the batch has no {statement} of {table}");
        rig.sql("DROP TRIGGER cut".to_owned()).await;
        assert_eq!(rig.picture().await, old, "cut at {statement} of {table}");
        rig.reopen().await;
        assert_eq!(rig.picture().await, old, "cut at {statement} of {table}, and opened anew");
    }
    rig.batch(&change(), 2).await;
    let new = rig.picture().await;
    assert_eq!(new.log.len(), 8);
    let state = |n| new.sessions.get(&device_key(n)).map(|(state, queue)| (&state[..], &queue[..]));
    assert_eq!(state(0), Some((b"two".as_slice(), &[(Position(5), "third".into())][..])));
    assert_eq!(state(1), None);
    assert!(new.sessions.contains_key(&service_key("1")));
    let topics: Vec<_> = new.retained.iter().map(|(topic, (at, _))| (topic.as_str(), at.0)).collect();
    assert_eq!(topics, [("acme/MU-1/app/x", 6), ("plant/a", 7)]);
    assert_eq!(rig.orphans().await, (0, 0));
    rig.close().await;
}

/// A batch that changes a little of everything each time.
fn round(n: u64) -> Vec<Item> {
    let text = format!("round {n}");
    vec![
        with(
            save(device_key(0), &text, &[n.saturating_sub(1) * 3]),
            message(service(), "acme/MU-0/app/a", &text),
        ),
        said(retained(server(0), "acme/MU-0/presence", &text)),
        said(retained(service(), "plant/a", if n % 3 == 2 { "" } else { &text })),
        Item::Change(if n.is_multiple_of(2) {
            save(device_key(1), &text, &[])
        } else {
            Change::Forget { key: device_key(1) }
        }),
    ]
}

#[tokio::test]
async fn whatever_of_the_file_reached_the_disk_a_start_finds_whole_commits() {
    let mut rig = Rig::open(SMALL).await;
    // The file without a journal: everything below is in the journal alone.
    rig.close().await;
    rig.reopen().await;
    let mut pictures = vec![rig.picture().await];
    for n in 0..6 {
        rig.batch(&round(n), n).await;
        pictures.push(rig.picture().await);
    }
    let file = fs::read(rig.file()).unwrap();
    let journal = rig.file().with_extension("sqlite-wal");
    let frames = fs::read(&journal).unwrap();
    let (head, page) = (32, 24 + 4096);
    assert_eq!(frames.len() % page, head, "a header and whole frames");
    let ends = (0..frames.len()).filter(|at| at % page == head || at % page == page / 2);
    let mut last = 0;
    for end in ends.chain([frames.len()]) {
        let dir = TempDir::new().unwrap();
        let copy = dir.path().join(rig.file().file_name().unwrap());
        fs::write(&copy, &file).unwrap();
        fs::write(copy.with_extension("sqlite-wal"), &frames[..end]).unwrap();
        let mut found = Rig::on(dir, SMALL).await;
        let picture = found.picture().await;
        let at = pictures.iter().position(|whole| *whole == picture);
        let at = at.unwrap_or_else(|| panic!("between two commits at octet {end}: {picture:?}"));
        assert!(at >= last, "more of the file is less of the log");
        assert_eq!(found.orphans().await, (0, 0));
        last = at;
        found.close().await;
    }
    assert_eq!(last, pictures.len() - 1, "all of the file is all of the log");
    rig.close().await;
}
