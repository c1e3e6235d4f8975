//! The log on real files.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

mod crash;
mod cut;
mod kept;
mod model;
mod rig;
mod trim;

use bytes::Bytes;
use futures_util::future::join_all;
use muster_shared::Code;

use super::{Cursor, Message, Outcome, Position, Publisher, ReadError, Reader, Writer, testing::telemetry};
use crate::registry::{
    Act, Registry,
    testing::{Device, Fleet},
};

async fn writer(fleet: &Fleet) -> Writer {
    Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), Box::new(|_| {})).await.unwrap()
}

async fn reader(fleet: &Fleet) -> Reader {
    Reader::open(fleet.dir.path()).await.unwrap()
}

/// Everything after a cursor.
async fn all(reader: &Reader, from: &Cursor) -> Result<Vec<(Position, super::StoredMessage)>, ReadError> {
    let (mut out, mut cursor) = (Vec::new(), from.clone());
    loop {
        let read = reader.read(&cursor, 100).await?;
        if read.messages.is_empty() {
            return Ok(out);
        }
        out.extend(read.messages);
        cursor = read.next;
    }
}

async fn sql(fleet: &Fleet, sql: &'static str) {
    use sqlx::Connection as _;
    let path = fleet.dir.path().join(super::FILE);
    let options = crate::registry::sqlite::options(&path);
    let mut connection = crate::registry::sqlite::Connection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn nameless(device: &Device, payload: &'static [u8]) -> Message {
    Message { name: None, payload: Bytes::from_static(payload), ..telemetry(device, 0, 0.0) }
}

#[tokio::test]
async fn what_is_stored_is_read_in_order_without_a_gap() {
    let fleet = Fleet::with(3).await;
    let writer = writer(&fleet).await;
    let mut sent = Vec::new();
    let mut tickets = Vec::new();
    for seq in 0..300 {
        for device in &fleet.devices {
            let mut message = telemetry(device, seq, seq as f32);
            message.properties = Bytes::from(vec![3, 0, 1, b'a' + (seq % 26) as u8]);
            sent.push(message.clone());
            tickets.push(writer.append(message));
        }
    }
    let stored = join_all(tickets).await;
    let expected: Vec<_> = (1..=900).map(|n| Outcome::Stored(Position(n))).collect();
    assert_eq!(stored, expected, "positions are dense and in the order of handing over");
    let reader = reader(&fleet).await;
    let read = all(&reader, &Cursor::default()).await.unwrap();
    assert_eq!(read.len(), sent.len());
    for ((position, got), (n, sent)) in read.iter().zip(sent.iter().enumerate()) {
        assert_eq!(position.0, n as u64 + 1);
        assert_eq!(
            (&got.topic, &got.payload, &got.properties),
            (&sent.topic, &sent.payload, &sent.properties)
        );
        assert_eq!((got.name, got.qos, got.received_ms), (sent.name, sent.qos, sent.received_ms));
        let (tenant, device_id) = got.device().unwrap();
        assert!(got.topic.starts_with(format!("{tenant}/{device_id}/telemetry/").as_bytes()));
    }
    // From any place in the middle, in portions of any size.
    for (after, max) in [(0, 1), (1, 7), (449, 450), (899, 10), (900, 10)] {
        let from = Cursor::default().after(reader.node(), Position(after));
        let part = reader.read(&from, max).await.unwrap();
        let expected = (after + 1..=900).take(max).map(Position).take(part.messages.len());
        assert_eq!(part.messages.iter().map(|(at, _)| *at).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!(part.messages.is_empty(), after == 900);
        assert_eq!(part.next.position(reader.node()).0, after + part.messages.len() as u64);
    }
    assert_eq!(reader.end().await.unwrap().position(reader.node()), Position(900));
    assert_eq!(*writer.committed().borrow(), Position(900));
    writer.close().await;
    reader.close().await;
}

#[tokio::test]
async fn a_message_sent_again_is_stored_once_also_after_a_restart() {
    let fleet = Fleet::with(2).await;
    let one = &fleet.devices[0];
    let first = writer(&fleet).await;
    for seq in 0..200 {
        assert_eq!(first.append(telemetry(one, seq, 0.0)).await, Outcome::Stored(Position(seq + 1)));
    }
    assert_eq!(first.append(telemetry(one, 199, 0.0)).await, Outcome::Duplicate(Position(200)));
    let twice = join_all([telemetry(one, 200, 0.0), telemetry(one, 200, 0.0)].map(|m| first.append(m))).await;
    assert_eq!(twice, [Outcome::Stored(Position(201)), Outcome::Duplicate(Position(201))], "in one batch");
    let other = first.append(telemetry(&fleet.devices[1], 199, 0.0)).await;
    assert_eq!(other, Outcome::Stored(Position(202)), "another device's name is another name");
    first.close().await;

    let second = writer(&fleet).await;
    assert!(matches!(second.append(telemetry(one, 150, 0.0)).await, Outcome::Duplicate(at) if at.0 <= 202));
    let forgotten = second.append(telemetry(one, 10, 0.0)).await;
    assert_eq!(forgotten, Outcome::Stored(Position(203)), "beyond the window it is stored, never lost");
    let mut next = telemetry(one, 150, 0.0);
    next.name = next.name.map(|(boot, seq)| (muster_shared::telemetry::Boot { count: 2, ..boot }, seq));
    assert_eq!(second.append(next).await, Outcome::Stored(Position(204)), "another start of the device");
    for at in [205, 206] {
        assert_eq!(second.append(nameless(one, b"x")).await, Outcome::Stored(Position(at)));
    }
    second.close().await;
}

#[tokio::test]
async fn the_verdict_is_read_again_at_the_commit() {
    let fleet = Fleet::with(2).await;
    let writer = writer(&fleet).await;
    fleet.act(0, Act::Suspend).await.unwrap();
    assert_eq!(
        writer.append(telemetry(&fleet.devices[0], 1, 0.0)).await,
        Outcome::Refused(Code::DeviceSuspended)
    );
    let mut borrowed = telemetry(&fleet.devices[1], 1, 0.0);
    let (device, certificate) = (fleet.devices[1].key, fleet.devices[0].certificate);
    borrowed.publisher = Publisher::Device { device, certificate };
    assert_eq!(writer.append(borrowed).await, Outcome::Refused(Code::SerialTaken));
    fleet.act(0, Act::Resume).await.unwrap();
    assert_eq!(writer.append(telemetry(&fleet.devices[0], 1, 0.0)).await, Outcome::Stored(Position(1)));
    fleet.act(0, Act::Revoke).await.unwrap();
    assert_eq!(
        writer.append(telemetry(&fleet.devices[0], 1, 0.0)).await,
        Outcome::Refused(Code::CertificateRevoked),
        "also what is in the log already"
    );
    writer.close().await;
}

#[tokio::test]
async fn closing_stores_what_was_handed_over_and_takes_nothing_more() {
    let fleet = Fleet::with(1).await;
    let writer = writer(&fleet).await;
    let again = writer.clone();
    let tickets: Vec<_> =
        (0..5000).map(|seq| writer.append(telemetry(&fleet.devices[0], seq, 0.0))).collect();
    writer.close().await;
    for (n, outcome) in join_all(tickets).await.into_iter().enumerate() {
        assert_eq!(outcome, Outcome::Stored(Position(n as u64 + 1)));
    }
    assert!(!again.is_ready());
    assert_eq!(again.append(telemetry(&fleet.devices[0], 5001, 0.0)).await, Outcome::Failed);
    again.barrier().await;
    let reader = reader(&fleet).await;
    assert_eq!(all(&reader, &Cursor::default()).await.unwrap().len(), 5000);
    reader.close().await;
}

#[tokio::test]
async fn a_write_that_fails_acknowledges_nothing_and_the_log_comes_back_whole() {
    let fleet = Fleet::with(1).await;
    let device = &fleet.devices[0];
    let writer = writer(&fleet).await;
    assert_eq!(writer.append(telemetry(device, 0, 0.0)).await, Outcome::Stored(Position(1)));
    sql(&fleet, "ALTER TABLE segment RENAME TO away").await;
    let outcomes = join_all((1..50).map(|seq| writer.append(telemetry(device, seq, 0.0)))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Failed), "{outcomes:?}");
    assert!(!writer.is_ready());
    writer.barrier().await;
    assert_eq!(writer.append(telemetry(device, 1, 0.0)).await, Outcome::Failed);
    sql(&fleet, "ALTER TABLE away RENAME TO segment").await;
    tokio::time::timeout(Duration::from_secs(60), async {
        while !writer.is_ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(writer.append(telemetry(device, 0, 0.0)).await, Outcome::Duplicate(Position(1)));
    assert_eq!(writer.append(telemetry(device, 1, 0.0)).await, Outcome::Stored(Position(2)));
    writer.close().await;
}

#[tokio::test]
async fn a_writer_that_is_closed_while_its_file_is_away_ends() {
    let fleet = Fleet::with(1).await;
    let writer = writer(&fleet).await;
    sql(&fleet, "ALTER TABLE segment RENAME TO away").await;
    assert_eq!(writer.append(telemetry(&fleet.devices[0], 0, 0.0)).await, Outcome::Failed);
    tokio::time::timeout(Duration::from_secs(60), writer.close()).await.unwrap();
}

#[tokio::test]
async fn damage_loss_and_foreign_cursors_are_told_apart() {
    let fleet = Fleet::with(1).await;
    let first = writer(&fleet).await;
    for seq in 0..4 {
        first.append(telemetry(&fleet.devices[0], seq, 0.0)).await;
    }
    first.close().await;
    let reader = reader(&fleet).await;
    let start = Cursor::default();
    let at = |position| Cursor::default().after(reader.node(), Position(position));
    let foreign = Cursor::default().after(reader.node() ^ 1, Position(99));
    assert_eq!(
        all(&reader, &foreign).await.unwrap().len(),
        4,
        "another log's cursor skips nothing of this one"
    );
    let ahead = all(&reader, &at(5)).await.unwrap_err();
    assert!(matches!(ahead, ReadError::Ahead { asked: 5, last: 4 }), "{ahead}");

    sql(&fleet, "UPDATE segment SET body = substr(body, 1, length(body) - 1) || x'01' WHERE first = 3").await;
    let damaged = all(&reader, &start).await.unwrap_err();
    assert!(matches!(damaged, ReadError::Segment(super::SegmentError::Checksum { first: 3 })), "{damaged}");
    let refused =
        Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), Box::new(|_| {})).await;
    assert!(refused.is_err(), "a writer that cannot read its tail cannot tell what it holds");

    sql(&fleet, "DELETE FROM segment WHERE first = 3").await;
    let missing = all(&reader, &at(1)).await.unwrap_err();
    assert!(matches!(missing, ReadError::Missing { from: 3, to: 3 }), "{missing}");
    sql(&fleet, "DELETE FROM segment WHERE first < 3").await;
    let gone = all(&reader, &start).await.unwrap_err();
    assert!(matches!(gone, ReadError::Gone { asked: 1, oldest: 4 }), "{gone}");
    assert_eq!(all(&reader, &at(3)).await.unwrap().len(), 1);
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_flip_and_a_barrier_nothing_of_the_device_is_accepted() {
    let fleet = Fleet::with(1).await;
    let writer = Arc::new(writer(&fleet).await);
    let verdicts = fleet.registry.verdicts();
    let device = &fleet.devices[0];
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for round in 0..400_u64 {
        verdicts.set_state(device.key, crate::registry::DeviceState::Active);
        let publishers: Vec<_> = (0..4_u64)
            .map(|n| {
                let (writer, device) = (writer.clone(), device.clone());
                tokio::spawn(async move {
                    let mut outcomes = Vec::new();
                    for seq in 0..40 {
                        let mut message = telemetry(&device, seq, 0.0);
                        message.name = None;
                        message.received_ms = round * 1000 + n;
                        outcomes.push(writer.append(message).await);
                        if matches!(outcomes.last(), Some(Outcome::Refused(_))) {
                            break;
                        }
                    }
                    outcomes
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(round * 37 % 5000)).await;
        verdicts.set_state(device.key, crate::registry::DeviceState::Revoked);
        writer.barrier().await;
        let at_return = *writer.committed().borrow();
        for outcome in join_all(publishers).await.into_iter().flat_map(Result::unwrap) {
            match outcome {
                Outcome::Stored(position) => {
                    accepted += 1;
                    assert!(position <= at_return, "round {round}: {position:?} after {at_return:?}");
                }
                Outcome::Refused(code) => {
                    refused += 1;
                    assert_eq!(code, Code::CertificateRevoked);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(*writer.committed().borrow(), at_return, "round {round}");
    }
    assert!(accepted > 400 && refused > 400, "both sides were seen: {accepted} accepted, {refused} refused");
    Arc::into_inner(writer).unwrap().close().await;
}

const CHILD: &str = "MUSTER_TEST_UPLINK_CHILD";

/// Runs only as the child of the crash test: appends without end and says what was acknowledged.
#[tokio::test]
async fn child_of_the_crash_test() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = Path::new(&dir);
    let registry = Registry::open(dir).await.unwrap();
    let writer = Writer::open(dir, registry.verdicts(), Arc::new(()), Box::new(|_| {})).await.unwrap();
    let devices = registry.devices(&Default::default(), None, 50).await.unwrap().items;
    // Every child goes on where the last one's numbers end, as a device within one start would.
    let base = writer.committed().borrow().0;
    for round in 0..u64::MAX {
        let tickets: Vec<_> = devices
            .iter()
            .map(|row| {
                let device = Device {
                    serial: row.serial.clone(),
                    key: row.key,
                    certificate: row.certificate,
                    credential: None,
                };
                (row.serial.clone(), base + round, writer.append(telemetry(&device, base + round, 0.0)))
            })
            .collect();
        for (serial, seq, ticket) in tickets {
            if let Outcome::Stored(position) = ticket.await {
                // One write a line: what the parent has read was acknowledged.
                let line = format!("acked {serial} {seq} {}\n", position.0);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn kill_9_at_any_moment_loses_no_acknowledged_message() {
    let mut fleet = Fleet::with(8).await;
    let mut acked = BTreeMap::new();
    for round in 0..8_u64 {
        fleet.registry.close().await;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["uplink::tests::child_of_the_crash_test", "--exact", "--nocapture"])
            .env(CHILD, fleet.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        let until = 40 + round * 53;
        while let Some(Ok(line)) = lines.next() {
            if let ["acked", serial, seq, position] = line.split(' ').collect::<Vec<_>>()[..] {
                acked.insert(
                    position.parse::<u64>().unwrap(),
                    (serial.to_owned(), seq.parse::<u64>().unwrap()),
                );
                heard += 1;
            }
            if heard == until {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(heard >= until, "the child ended by itself after {heard}");
        fleet = fleet.reopened().await;
        let writer = writer(&fleet).await;
        let reader = reader(&fleet).await;
        let stored = all(&reader, &Cursor::default()).await.unwrap();
        let mut names = std::collections::BTreeSet::new();
        for (n, (position, message)) in stored.iter().enumerate() {
            assert_eq!(position.0, n as u64 + 1, "positions are dense");
            let name = (message.device().unwrap().1.to_string(), message.name.unwrap().1);
            assert!(names.insert(name.clone()), "{name:?} is there twice");
            if let Some(acked) = acked.get(&position.0) {
                assert_eq!(*acked, name);
            }
        }
        let last = acked.keys().last().unwrap();
        assert!(stored.len() as u64 >= *last, "acknowledged up to {last}, stored {}", stored.len());
        // The device heard nothing about its last messages and sends them again.
        for device in &fleet.devices {
            let own = |message: &super::StoredMessage| {
                message.device().unwrap().1.as_str() == device.serial.as_str()
            };
            let (_, newest) = stored.iter().rfind(|(_, message)| own(message)).unwrap();
            let again = writer.append(telemetry(device, newest.name.unwrap().1, 0.0)).await;
            assert!(matches!(again, Outcome::Duplicate(_)), "{again:?}");
        }
        writer.close().await;
        reader.close().await;
    }
}
