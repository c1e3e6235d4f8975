//! Kill -9 at any moment: a message, its queue, what it retains and the state that came with it are all
//! there or all not.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use super::{
    all,
    rig::{Router, device_key, retained, save, service, verdicts},
};
use crate::uplink::{Cursor, Message, Outcome, Reader, Writer};

const CHILD: &str = "MUSTER_TEST_KEPT_CHILD";
const TOPIC: &str = "acme/MU-0/app/x";
/// Messages handed over together.
const AT_ONCE: u64 = 4;

async fn open(dir: &Path) -> Writer {
    Writer::open(dir, Arc::new(verdicts()), Arc::new(Router), Box::new(|_| {})).await.unwrap()
}

/// Runs only as the child of the crash test: appends without end and says what was acknowledged. Each
/// message says up to where the queue had been taken when it was sent, and so does the state it brings.
#[tokio::test]
async fn child_of_the_crash_test() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let writer = open(Path::new(&dir)).await;
    let mut taken: Vec<u64> =
        writer.take_sessions().iter().flat_map(|session| &session.queue).map(|(at, _)| at.0).collect();
    let mut upto = writer.committed().borrow().0;
    writer.change(save(device_key(0), "", &taken)).await;
    for round in 0..u64::MAX {
        let tickets: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let text = format!("{round}.{n} {upto}");
                let done = if n == 0 { std::mem::take(&mut taken) } else { Vec::new() };
                let state = Some(Box::new(save(device_key(0), &text, &done)));
                writer.append(Message { state, ..retained(service(), TOPIC, &text) })
            })
            .collect();
        for outcome in join_all(tickets).await {
            let Outcome::Stored(position) = outcome else { panic!("{outcome:?}") };
            taken.push(position.0);
            upto = position.0;
        }
        // One write a line: what the parent has read was acknowledged.
        std::io::stdout().write_all(format!("acked {upto}\n").as_bytes()).unwrap();
    }
}

/// What was acknowledged by a child that was killed after `until` lines.
fn killed_after(until: u64, dir: &Path) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["uplink::tests::crash::child_of_the_crash_test", "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut heard, mut acked) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(position) = line.strip_prefix("acked ") {
            acked = position.parse().unwrap();
            heard += 1;
        }
        if heard == until {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(heard >= until, "the child ended by itself after {heard}");
    acked
}

#[tokio::test]
async fn kill_9_at_any_moment_leaves_everything_of_a_message_or_nothing() {
    let dir = TempDir::new().unwrap();
    for until in [3, 10, 17, 24, 31, 38] {
        let acked = killed_after(until, dir.path());
        let writer = open(dir.path()).await;
        let reader = Reader::open(dir.path()).await.unwrap();
        let stored = all(&reader, &Cursor::default()).await.unwrap();
        reader.close().await;
        let (last, newest) = stored.last().unwrap();
        assert!(last.0 >= acked, "acknowledged up to {acked}, stored {}", last.0);
        let sessions = writer.take_sessions();
        let kept = writer.retained().matching("#", None, 9, 0);
        writer.close().await;
        let [session] = &sessions[..] else { panic!("{sessions:?}") };
        let [kept] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!((kept.position, &kept.message), (*last, newest));
        assert_eq!(session.state, newest.payload);
        let text = String::from_utf8(newest.payload.to_vec()).unwrap();
        let upto: u64 = text.split(' ').next_back().unwrap().parse().unwrap();
        let waits: Vec<(u64, &Bytes)> =
            session.queue.iter().map(|(at, message)| (at.0, &message.payload)).collect();
        let after = stored.iter().filter(|(at, _)| at.0 > upto);
        assert_eq!(waits, after.map(|(at, message)| (at.0, &message.payload)).collect::<Vec<_>>());
    }
}
