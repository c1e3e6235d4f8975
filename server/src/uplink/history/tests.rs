use std::sync::Arc;

use bytes::Bytes;
use muster_shared::telemetry::Value;

use super::{chart::Charts, points::Point, *};
use crate::{
    registry::{Act, now_ms, testing::Fleet},
    uplink::{Message, Writer, testing::telemetry},
};

fn points(values: &[(u64, f64)]) -> Points {
    let mut points = Points::default();
    for (at_s, value) in values {
        points.take("t_c", at_s * 1000, Value::Float(*value as f32));
    }
    points
}

/// Version 1. Do not change this test: rows of this form are in files.
#[test]
fn version_1_is_frozen() {
    let mut some = points(&[(100, 1.5), (110, 2.0), (110, -2.0)]);
    some.take("open", 100_999, Value::Bool(true));
    let golden = "010203745f630264 00000000000000f83f 0a01 00000000000000c0 0000000000000040 00000000000000c0
                  046f70656e01 6400 000000000000f03f";
    let golden: String = golden.chars().filter(|c| !c.is_whitespace()).collect();
    let written = some.write();
    assert_eq!(Points::read(&written), Ok(some));
    assert_eq!(hex::encode(&written), golden);
    for wrong in [&written[..written.len() - 1], &[], &[&written[..], &[0]].concat(), &[2]] {
        assert!(Points::read(wrong).is_err());
    }
}

#[test]
fn a_second_is_one_point_and_what_is_no_number_is_none() {
    let mut some = points(&[(7, 3.0), (5, 1.0), (7, 1.0), (7, 2.0)]);
    some.take("t_c", 5_000, Value::Float(f32::NAN));
    some.take("count", 5_000, Value::Int(-4));
    let (_, t) = &some.sensors[0];
    assert_eq!(
        *t,
        [Point { at_s: 5, min: 1.0, max: 1.0, last: 1.0 }, Point { at_s: 7, min: 1.0, max: 3.0, last: 2.0 },]
    );
    assert_eq!((some.len(), some.first_s()), (3, 5));
    let days = points(&[(86_399, 1.0), (86_400, 2.0)]).days();
    assert_eq!(days.iter().map(|(day, of)| (*day, of.len())).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
    let mut many = Points::default();
    (0..SENSORS + 9).for_each(|n| many.take(&format!("s{n}"), 0, Value::Int(1)));
    assert_eq!(many.len(), SENSORS);
}

#[test]
fn buckets_say_least_greatest_and_last_and_silence_is_a_gap() {
    let range = Range::new(0, 100_000, 10).unwrap();
    // Every two seconds, then half a minute of nothing.
    let said = [(0, 5.0), (2, 1.0), (4, 9.0), (6, 4.0), (36, 7.0), (38, 8.0), (200, 1.0)];
    let chart = |order: &[Points]| {
        let mut charts = Charts::new(&range, &[]);
        order.iter().for_each(|points| charts.add(points));
        charts.finish().remove(0)
    };
    let whole = chart(&[points(&said)]);
    let of = |bucket: &Bucket| (bucket.at_ms, bucket.min, bucket.max, bucket.last);
    assert_eq!(
        whole.buckets.iter().map(of).collect::<Vec<_>>(),
        [(0, 1.0, 9.0, 4.0), (30_000, 7.0, 8.0, 8.0)]
    );
    assert_eq!((whole.interval_ms, &*whole.gaps), (Some(2000), &[(6_000, 36_000)][..]));
    assert_eq!(whole.latest, (8.0, 38_000), "what is outside the range is not in it");
    // In two rows, in the wrong order, and one of them twice: the same.
    let (first, second) = (points(&said[..3]), points(&said[3..]));
    assert_eq!(chart(&[second.clone(), first, second]).buckets, whole.buckets);
    let mut none = Charts::new(&range, std::slice::from_ref(&whole.sensor));
    let mut other = Points::default();
    other.take("other", 0, Value::Int(1));
    none.add(&other);
    assert!(none.finish().is_empty(), "only what was asked for");
}

struct Rig {
    fleet: Fleet,
    writer: Writer,
    reader: Reader,
}

impl Rig {
    async fn with(devices: usize) -> Self {
        let fleet = Fleet::with(devices).await;
        let verdicts = fleet.registry.verdicts();
        let writer = Writer::open(fleet.dir.path(), verdicts, Arc::new(()), Box::new(|_| {})).await.unwrap();
        let reader = Reader::open(fleet.dir.path()).await.unwrap();
        Self { fleet, writer, reader }
    }

    async fn open(&self) -> (History, Projection) {
        let history = History::open(self.fleet.dir.path()).await.unwrap();
        let projection = history.follow(self.fleet.registry.clone(), self.reader.clone());
        (history, projection)
    }

    async fn say(&self, device: usize, seq: u64, value: f32, received_ms: u64) {
        let message = telemetry(&self.fleet.devices[device], seq, value);
        self.writer.append(Message { received_ms, ..message }).await;
    }

    async fn chart(&self, history: &History, device: usize, range: &Range) -> Vec<Chart> {
        let id = self.fleet.devices[device].serial.as_str().parse().unwrap();
        history.chart(&"acme".parse().unwrap(), &id, range, &[]).await.unwrap()
    }

    async fn close(self) {
        self.writer.close().await;
        self.reader.close().await;
    }
}

#[tokio::test]
async fn what_was_said_is_charted_once_before_and_after_it_is_stored_and_after_a_restart() {
    let rig = Rig::with(2).await;
    let at = now_ms() - 3_600_000;
    let range = Range::new(at - at % 1000, at + 3_600_000, 1200).unwrap();
    for n in 0..20 {
        rig.say(0, n, n as f32, at + n * 10_000).await;
    }
    let (history, projection) = rig.open().await;
    projection.stop().await;
    let first = rig.chart(&history, 0, &range).await;
    assert_eq!((first.len(), first[0].buckets.len(), first[0].interval_ms), (1, 20, Some(10_000)));
    assert_eq!((first[0].latest.0, first[0].gaps.len()), (19.0, 0));
    assert!(rig.chart(&history, 1, &range).await.is_empty(), "a neighbour said nothing");
    history.close().await;
    // The day it was said on is over; then more is said, live.
    rig.say(0, 20, 40.0, at + 1_000_000).await;
    let (history, projection) = rig.open().await;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let charts = rig.chart(&history, 0, &range).await;
        if charts[0].latest.0 == 40.0 {
            assert_eq!((charts[0].buckets.len(), charts[0].gaps.len()), (21, 1), "shown before it is stored");
            break;
        }
        assert!(Instant::now() < until, "{charts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    projection.stop().await;
    assert_eq!(rig.chart(&history, 0, &range).await[0].buckets.len(), 21);
    // Old days go, and the newest stays however full it is.
    history.store.sweep(at + 10 * 86_400_000, 20, 0).await.unwrap();
    assert!(rig.chart(&history, 0, &range).await.is_empty());
    history.close().await;
    rig.close().await;
}

#[tokio::test]
async fn nothing_stays_of_what_is_decommissioned_and_what_is_reported_is_listed() {
    let rig = Rig::with(2).await;
    let at = now_ms() - 60_000;
    let range = Range::new(at - 1000, at + 60_000, 10).unwrap();
    rig.say(0, 0, 1.0, at).await;
    rig.say(1, 0, 1.0, at).await;
    for (payload, seq) in [("{\"firmware\":\"1.4.2\",\"more\":[1]}", 1), ("not a document", 2)] {
        let mut message = telemetry(&rig.fleet.devices[1], seq, 0.0);
        message.topic = Bytes::from(format!("acme/{}/twin/reported", rig.fleet.devices[1].serial));
        message.payload = Bytes::from_static(payload.as_bytes());
        message.name = None;
        rig.writer.append(message).await;
    }
    let (history, projection) = rig.open().await;
    projection.stop().await;
    assert_eq!(rig.chart(&history, 0, &range).await.len(), 1);
    let listed = rig.fleet.registry.devices(&"firmware:<2".parse().unwrap(), None, 9).await.unwrap();
    let listed: Vec<_> =
        listed.items.iter().map(|row| (row.serial.as_str(), row.firmware.as_deref())).collect();
    assert_eq!(listed, [("MU-000002", Some("1.4.2"))]);
    for act in [Act::Revoke, Act::Decommission] {
        rig.fleet.act(0, act).await.unwrap();
    }
    history.close().await;
    let (history, projection) = rig.open().await;
    projection.stop().await;
    assert!(rig.chart(&history, 0, &range).await.is_empty());
    assert_eq!(rig.chart(&history, 1, &range).await.len(), 1);
    history.close().await;
    rig.close().await;
}

#[test]
fn a_report_says_a_version_or_none() {
    assert_eq!(reported(b"{\"firmware\":\"1.4.2\"}").unwrap().as_str(), "1.4.2");
    assert_eq!(reported(b"{\"firmware\":\"1.\\u0034\"}").unwrap().as_str(), "1.4");
    for wrong in
        [&b"{}"[..], b"{\"firmware\":1}", b"{\"firmware\":\"<b>\"}", b"[]", b"", &[b' '; REPORTED_MAX + 1]]
    {
        assert_eq!(reported(wrong), None);
    }
}
