use std::time::Duration;

use muster_shared::telemetry::{Reading, Value};

use super::Fleet;
use crate::registry::{DeviceKey, Filter, Newest, query::ReadingRow, readings::SENSORS_MAX};

async fn readings(fleet: &Fleet, device: usize) -> Vec<ReadingRow> {
    fleet.registry.device(&fleet.devices[device].serial).await.unwrap().readings
}

/// Names and values.
async fn values(fleet: &Fleet, device: usize) -> Vec<(String, Value)> {
    readings(fleet, device).await.into_iter().map(|row| (row.sensor, row.value)).collect()
}

fn value(sensor: &str, value: i64) -> (String, Value) {
    (sensor.to_owned(), Value::Int(value))
}

async fn last_seen(fleet: &Fleet, device: usize) -> Option<u64> {
    let row = fleet.registry.device(&fleet.devices[device].serial).await.unwrap().row;
    let list = fleet.registry.devices(&Filter::default(), None, 10).await.unwrap();
    let listed = list.items.into_iter().find(|item| item.key == row.key).unwrap();
    assert_eq!(listed.last_seen_ms, row.last_seen_ms, "the list and the page say the same");
    row.last_seen_ms
}

#[tokio::test]
async fn what_was_said_is_shown_at_once_and_lies_in_the_file_after_the_stop() {
    let fleet = Fleet::with(2).await;
    let first = [
        ("door_open", Value::Bool(true)),
        ("count", Value::Int(i64::MIN)),
        ("temperature_c", Value::Float(21.25)),
        ("broken_c", Value::Float(f32::NAN)),
    ];
    fleet.said(0, &first, 1, "a1");
    fleet.said(0, &[("temperature_c", Value::Float(-4.5))], 2, "a2");
    assert_eq!(fleet.count("SELECT count(*) FROM newest").await, 0, "nothing is written for it");
    assert_eq!(fleet.registry.projected("latest").await.unwrap().as_deref(), Some("a2"));
    assert_eq!(fleet.registry.projected("other").await.unwrap(), None);
    let before = readings(&fleet, 0).await;
    let fleet = fleet.reopened().await;
    for rows in [before, readings(&fleet, 0).await] {
        let names: Vec<_> = rows.iter().map(|row| row.sensor.as_str()).collect();
        assert_eq!(names, ["broken_c", "count", "door_open", "temperature_c"]);
        assert!(matches!(rows[0].value, Value::Float(value) if value.is_nan()));
        assert_eq!((rows[1].value, rows[2].value), (Value::Int(i64::MIN), Value::Bool(true)));
        assert_eq!((rows[3].value, rows[3].received_ms, rows[2].received_ms), (Value::Float(-4.5), 2, 1));
    }
    assert_eq!(fleet.registry.projected("latest").await.unwrap().as_deref(), Some("a2"));
    assert_eq!((last_seen(&fleet, 0).await, last_seen(&fleet, 1).await), (Some(2), None));
}

#[tokio::test]
async fn a_query_merges_memory_with_the_row() {
    let fleet = Fleet::with(1).await;
    fleet.said(0, &[("kept", Value::Int(1)), ("both", Value::Int(1))], 10, "a1");
    let fleet = fleet.reopened().await;
    // The process that is here now has heard of one sensor only.
    fleet.said(0, &[("both", Value::Int(2)), ("new", Value::Int(2))], 20, "a2");
    let merged = [value("both", 2), value("kept", 1), value("new", 2)];
    assert_eq!(values(&fleet, 0).await, merged);
    assert_eq!(last_seen(&fleet, 0).await, Some(20));
    fleet.registry.store_newest().await.unwrap();
    assert_eq!(values(&fleet, 0).await, merged);
    // A clock that was set back, and a message of before: the device was heard of at 20 all the same.
    fleet.said(0, &[], 15, "a3");
    assert_eq!(last_seen(&fleet, 0).await, Some(20));
    let fleet = fleet.reopened().await;
    assert_eq!(values(&fleet, 0).await, merged);
    fleet.said(0, &[], 5, "a4");
    assert_eq!(last_seen(&fleet, 0).await, Some(20), "of memory and row the later");
    assert_eq!(last_seen(&fleet.reopened().await, 0).await, Some(20));
}

#[tokio::test]
async fn a_crash_loses_what_was_not_stored_together_with_its_cursor() {
    let fleet = Fleet::with(1).await;
    fleet.said(0, &[("count", Value::Int(1))], 10, "a1");
    fleet.registry.store_newest().await.unwrap();
    fleet.said(0, &[("count", Value::Int(2)), ("new", Value::Int(2))], 20, "a2");
    let crashed = fleet.after_a_crash().await;
    assert_eq!(crashed.registry.projected("latest").await.unwrap().as_deref(), Some("a1"));
    assert_eq!(values(&crashed, 0).await, [value("count", 1)]);
    assert_eq!(last_seen(&crashed, 0).await, Some(10));
    // The log is read from there again.
    crashed.said(0, &[("count", Value::Int(2)), ("new", Value::Int(2))], 20, "a2");
    assert_eq!(values(&crashed, 0).await, values(&fleet, 0).await);
    let crashed = crashed.reopened().await;
    assert_eq!(values(&crashed, 0).await, [value("count", 2), value("new", 2)]);
}

#[tokio::test]
async fn sensors_are_bounded_across_memory_and_row() {
    let fleet = Fleet::with(1).await;
    let say = |fleet: &Fleet, prefix: &str, received_ms| {
        for n in 0..1000 {
            fleet.said(0, &[(&*format!("{prefix}{n}"), Value::Int(n))], received_ms, "a1");
        }
    };
    say(&fleet, "s", 1);
    assert_eq!(
        readings(&fleet, 0).await.len(),
        SENSORS_MAX,
        "names are the device's own, so they are bounded"
    );
    let fleet = fleet.reopened().await;
    fleet.said(0, &[("s7", Value::Int(-7))], 2, "a2");
    say(&fleet, "other", 3);
    for fleet in [fleet.after_a_crash().await, fleet] {
        assert_eq!(readings(&fleet, 0).await.len(), SENSORS_MAX);
        fleet.said(0, &[("s7", Value::Int(-7))], 4, "a2");
        fleet.registry.store_newest().await.unwrap();
        let rows = readings(&fleet, 0).await;
        assert_eq!(rows.len(), SENSORS_MAX);
        assert!(rows.iter().all(|row| row.sensor.starts_with('s')), "those that were first stay");
        assert_eq!(rows.iter().find(|row| row.sensor == "s7").unwrap().value, Value::Int(-7));
    }
}

/// A registry with one device of a manifest and many more that only have a row.
async fn many() -> (Fleet, Vec<DeviceKey>) {
    let fleet = Fleet::with(1).await;
    let made = fleet
        .sql(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 8300)
             INSERT INTO device (tenant, device_id, serial, state, batch, registered_at_ms, changed_at_ms, changed_no)
             SELECT 'acme', 'D-' || n, 'D-' || n, 'active', (SELECT id FROM batch), 1, 1, 1 FROM n",
        )
        .await;
    let fleet = fleet.reopened().await;
    let verdicts = fleet.registry.verdicts();
    let key = |n| verdicts.by_id(&"acme".parse().unwrap(), &format!("D-{n}").parse().unwrap()).unwrap();
    let keys = (1..=made).map(key).collect();
    (fleet, keys)
}

fn say(newest: &Newest, device: DeviceKey, sensors: std::ops::Range<usize>) {
    let reading =
        |n| Reading { sensor: (&*format!("s{n}")).try_into().unwrap(), uptime_ms: 1, value: Value::Int(1) };
    let readings: Vec<_> = sensors.map(reading).collect();
    newest.gather().message(device, 1, &readings);
}

#[tokio::test]
async fn many_changed_devices_are_stored_early() {
    let (fleet, devices) = many().await;
    let newest = fleet.registry.newest();
    let mut said = 0;
    while !newest.is_full() {
        say(&newest, devices[said], 0..1);
        said += 1;
    }
    assert!(said < devices.len(), "it is full before all have spoken");
    fleet.registry.store_newest().await.unwrap();
    assert!(!newest.is_full());
    assert_eq!(fleet.count("SELECT count(*) FROM newest").await, said as i64);
    assert_eq!(fleet.count("SELECT count(*) FROM newest WHERE length(readings) > 2").await, said as i64);
    // What nobody waits for may be more: it is stored in more than one transaction.
    for device in &devices {
        fleet.registry.newest().see(*device, 2);
    }
    assert!(newest.is_full());
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while newest.is_full() {
        assert!(tokio::time::Instant::now() < until, "it is stored without being asked for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fleet.registry.store_newest().await.unwrap();
    assert_eq!(fleet.count("SELECT count(*) FROM newest WHERE seen_ms = 2").await, devices.len() as i64);
    assert_eq!(fleet.count("SELECT count(*) FROM newest WHERE length(readings) > 2").await, said as i64);
}

#[tokio::test]
async fn many_sensors_are_stored_early_and_found_in_their_rows_after() {
    let (fleet, devices) = many().await;
    let newest = fleet.registry.newest();
    let mut said = 0;
    while !newest.is_full() {
        say(&newest, devices[said], 0..SENSORS_MAX);
        said += 1;
    }
    assert!(said < devices.len() / 2, "it is full long before all have spoken");
    fleet.registry.store_newest().await.unwrap();
    assert!(!newest.is_full());
    // Memory has let go of it; the row has not.
    say(&newest, devices[0], 3..5);
    fleet.registry.store_newest().await.unwrap();
    let rows = fleet.count("SELECT count(DISTINCT length(readings)) FROM newest").await;
    assert_eq!(rows, 1, "every row still has all sensors");
}

#[tokio::test]
async fn a_write_that_failed_is_done_later() {
    let fleet = Fleet::with(1).await;
    fleet.said(0, &[("count", Value::Int(1))], 10, "a1");
    // The table is away: the write fails as it would on a full disk.
    fleet.sql("ALTER TABLE newest RENAME TO away").await;
    assert!(fleet.registry.store_newest().await.is_err());
    fleet.sql("ALTER TABLE away RENAME TO newest").await;
    assert_eq!(values(&fleet, 0).await, [value("count", 1)], "it is shown all the same");
    fleet.registry.store_newest().await.unwrap();
    let crashed = fleet.after_a_crash().await;
    assert_eq!(values(&crashed, 0).await, [value("count", 1)]);
    assert_eq!(last_seen(&crashed, 0).await, Some(10));
    assert_eq!(crashed.registry.projected("latest").await.unwrap().as_deref(), Some("a1"));
}

#[tokio::test]
async fn a_damaged_row_is_said_and_then_replaced() {
    let fleet = Fleet::with(1).await;
    fleet.said(0, &[("count", Value::Int(1))], 10, "a1");
    let fleet = fleet.reopened().await;
    fleet.sql("UPDATE newest SET readings = unhex('0107')").await;
    assert!(fleet.registry.device(&fleet.devices[0].serial).await.is_err());
    fleet.said(0, &[("new", Value::Int(2))], 11, "a2");
    fleet.registry.store_newest().await.unwrap();
    assert_eq!(values(&fleet, 0).await, [value("new", 2)]);
}

#[tokio::test]
async fn it_is_stored_from_time_to_time() {
    let fleet = Fleet::with(1).await;
    fleet.said(0, &[("count", Value::Int(1))], 10, "a1");
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while fleet.count("SELECT count(*) FROM newest WHERE seen_ms = 10").await == 0 {
        assert!(tokio::time::Instant::now() < until, "a minute, and nothing in the file");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_older_file_keeps_when_devices_were_seen_and_reads_the_log_again() {
    let fleet = Fleet::with(1).await;
    fleet.said(0, &[("count", Value::Int(1))], 10, "a1");
    fleet.registry.store_newest().await.unwrap();
    // The file as the first version left it.
    fleet
        .sql(
            "ALTER TABLE device ADD COLUMN last_seen_ms INTEGER;
             UPDATE device SET last_seen_ms = 7;
             DROP TABLE newest;
             CREATE TABLE reading (
                 device INTEGER NOT NULL REFERENCES device (id), sensor TEXT NOT NULL, kind TEXT NOT NULL,
                 number INTEGER, measure REAL, received_ms INTEGER NOT NULL, uptime_ms INTEGER NOT NULL,
                 PRIMARY KEY (device, sensor));
             INSERT INTO reading VALUES ((SELECT id FROM device), 'count', 'int', 1, NULL, 7, 1);
             DELETE FROM _sqlx_migrations WHERE version = 3;",
        )
        .await;
    let fleet = fleet.reopened().await;
    assert_eq!(last_seen(&fleet, 0).await, Some(7));
    assert_eq!(fleet.registry.projected("latest").await.unwrap(), None, "so the readings come again");
    assert_eq!(values(&fleet, 0).await, []);
}
