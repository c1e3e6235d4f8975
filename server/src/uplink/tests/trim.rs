//! Old segments go, and nothing else does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{all, nameless, reader, sql, writer};
use crate::{
    registry::testing::Fleet,
    uplink::{Cursor, Keep, Outcome, Position, ReadError, Writer, snapshot},
};

/// Asks for the removal and waits until nothing more goes.
async fn trimmed(writer: &Writer, keep: Keep) -> u64 {
    writer.trim(keep);
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while writer.kept().more {
        assert!(tokio::time::Instant::now() < until, "the removal does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.kept().removed
}

async fn store(writer: &Writer, fleet: &Fleet, count: usize) {
    for _ in 0..count {
        // One by one: a segment each.
        let stored = writer.append(nameless(&fleet.devices[0], &[7; 4000])).await;
        assert!(matches!(stored, Outcome::Stored(_)), "{stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_goes_and_the_newest_stays_whatever_its_age() {
    let fleet = Fleet::with(1).await;
    let (writer, reader) = (writer(&fleet).await, reader(&fleet).await);
    store(&writer, &fleet, 200).await;
    let hour = Keep { age: Some(Duration::from_secs(3600)), octets: None };
    assert_eq!(trimmed(&writer, hour).await, 0, "nothing is an hour old");
    sql(&fleet, "UPDATE segment SET at_ms = at_ms - 7200000 WHERE first <= 150").await;
    assert_eq!(trimmed(&writer, hour).await, 150);
    let gone = reader.read(&Cursor::default(), 10).await.unwrap_err();
    assert!(matches!(gone, ReadError::Gone { asked: 1, oldest: 151 }), "{gone}");
    let rest = all(&reader, &Cursor::default().after(reader.node(), Position(150))).await.unwrap();
    assert_eq!(rest.len(), 50);
    sql(&fleet, "UPDATE segment SET at_ms = 1").await;
    assert_eq!(trimmed(&writer, hour).await, 199);
    store(&writer, &fleet, 1).await;
    assert_eq!(writer.position(), Position(201), "positions go on");
    writer.close().await;
    let writer = super::writer(&fleet).await;
    assert_eq!(writer.position(), Position(201), "also after a restart");
    writer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_go_while_the_file_holds_too_much_and_messages_are_stored_meanwhile() {
    let fleet = Fleet::with(1).await;
    let writer = writer(&fleet).await;
    store(&writer, &fleet, 600).await;
    let keep = Keep { age: None, octets: Some(512 << 10) };
    let stop = Arc::new(AtomicBool::new(false));
    let storing = {
        let (writer, stop, message) = (writer.clone(), stop.clone(), nameless(&fleet.devices[0], &[9; 4000]));
        tokio::spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Acquire) {
                assert!(matches!(writer.append(message.clone()).await, Outcome::Stored(_)));
                let kept = writer.kept();
                if kept.more {
                    seen.insert(kept.removed);
                }
            }
            seen
        })
    };
    assert!(trimmed(&writer, keep).await > 100);
    stop.store(true, Ordering::Release);
    // Acknowledged between one part of the removal and the next, again and again: none waited for its end.
    let seen = storing.await.unwrap();
    assert!(seen.len() > 3, "acknowledged while so many segments were gone: {seen:?}");
    let removed = trimmed(&writer, keep).await;
    assert!(writer.kept().octets <= keep.octets.unwrap(), "{:?}", writer.kept());
    let reader = reader(&fleet).await;
    let rest = all(&reader, &Cursor::default().after(reader.node(), Position(removed))).await.unwrap();
    assert_eq!(rest.len() as u64, writer.position().0 - removed, "what stays is dense");
    writer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_while_the_log_is_written_holds_all_that_was_acknowledged_and_is_another_log() {
    let fleet = Fleet::with(1).await;
    let writer = writer(&fleet).await;
    store(&writer, &fleet, 50).await;
    let storing = {
        let (writer, message) = (writer.clone(), nameless(&fleet.devices[0], &[9; 4000]));
        tokio::spawn(async move {
            for _ in 0..100 {
                assert!(matches!(writer.append(message.clone()).await, Outcome::Stored(_)));
            }
        })
    };
    let acknowledged = writer.position();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join(crate::uplink::FILE);
    snapshot::write(fleet.dir.path(), &copy).await.unwrap();
    storing.await.unwrap();
    snapshot::adopt(&copy).await.unwrap();
    let read = crate::uplink::Reader::open(dir.path()).await.unwrap();
    assert_ne!(read.node(), writer.node());
    let messages = all(&read, &Cursor::default().after(writer.node(), Position(40))).await.unwrap();
    assert!(messages.len() as u64 >= acknowledged.0, "a cursor of the other log says nothing here");
    assert!(messages.iter().map(|(position, _)| position.0).eq(1..=messages.len() as u64));
    writer.close().await;
}
