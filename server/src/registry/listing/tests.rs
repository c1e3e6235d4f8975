use muster_shared::Code;
use sqlx::Row as _;

use super::*;
use crate::registry::{
    Act, Claimed, Connected, DisconnectReason, Registry,
    filter::{Age, Compare},
    testing::{Fleet, ana},
};

/// Devices in two batches, no two alike in what is asked for.
async fn mixed() -> Fleet {
    let fleet = Fleet::empty().await.grown(240).await;
    fleet
        .sql(
            "UPDATE device SET state = 'suspended' WHERE id % 5 = 0;
             UPDATE device SET state = 'quarantined' WHERE id % 31 = 0;
             UPDATE device SET state = 'revoked' WHERE id % 37 = 0;
             UPDATE device SET firmware = '1.4.2', firmware_key = '0000000001000000000400000000020000000000~' WHERE id % 3 = 0;
             UPDATE device SET firmware = '1.10', firmware_key = '0000000001000000001000000000000000000000~' WHERE id % 7 = 0;
             INSERT INTO label (kind, word, device) SELECT 'tag', 'line two', id FROM device WHERE id % 11 = 0;
             INSERT INTO label (kind, word, device) SELECT 'group', 'north', id FROM device WHERE id % 2 = 0",
        )
        .await;
    let now = now_ms();
    fleet
        .each("INSERT INTO newest (device, seen_ms) VALUES ($1, $2)", |id| {
            (id % 4 != 0).then(|| now - id * 3_600_000)
        })
        .await;
    fleet
        .each("UPDATE device SET changed_at_ms = $2 WHERE id = $1", |id| Some(now - (id * 7919) % 241))
        .await;
    fleet
        .each(
            "INSERT INTO refusal (device, claimed, code, minute_ms, count, last_at_ms)
             VALUES ($1, '', 'M201', $2, $1, $2)",
            |id| (id % 9 == 0).then(|| now - now % 60_000),
        )
        .await;
    fleet
        .each(
            "INSERT INTO session (id, device, began_at_ms, remote, protocol, keep_alive_s)
             VALUES ($1, $1, $2, '10.0.0.1:1', 5, 60)",
            |id| (id % 6 == 0).then_some(now),
        )
        .await;
    fleet
}

/// What a term says of a device, by what everybody else reads of it.
fn holds(term: &Term, row: &DeviceRow, id: i64) -> bool {
    let text = |text: &str| {
        let serial = row.serial.as_str().to_lowercase();
        let number = serial.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_start_matches('0');
        serial.starts_with(text)
            || row.device_id.as_str().to_lowercase().starts_with(text)
            || text.trim_start_matches('0') == number
            || text.len() >= 8 && row.certificate.to_string().starts_with(text)
    };
    let age = |age: Age, at_ms: Option<i64>| match (age, at_ms) {
        (Age::Never, at) => at.is_none(),
        (_, None) => false,
        (Age::Less(s), Some(distance)) => distance < s as i64 * 1000,
        (Age::More(s), Some(distance)) => distance > s as i64 * 1000,
    };
    let number = |compare: Compare, of: u64, than: u64| match compare {
        Compare::Less => of < than,
        Compare::LessOrEqual => of <= than,
        Compare::Equal => of == than,
        Compare::MoreOrEqual => of >= than,
        Compare::More => of > than,
    };
    let now = now_ms() as i64;
    term.not
        != match &term.is {
            Is::State(states) => states.contains(&row.in_force),
            Is::Tenant(tenant) => row.tenant == *tenant,
            Is::Batch(batch) => row.batch == *batch,
            Is::Station(station) => row.station == *station,
            Is::Product(product) => row.product == *product,
            Is::Tag(word) => word == "line two" && id % 11 == 0,
            Is::Group(word) => word == "north" && id % 2 == 0,
            Is::Online(online) => *online == (id % 6 == 0),
            Is::Seen(of) => age(*of, row.last_seen_ms.map(|at| now - at as i64)),
            Is::Expires(of) => age(*of, Some(row.not_after_s * 1000 - now)),
            Is::Refused(compare, count) => number(*compare, row.refused_24h, *count),
            Is::Firmware(None) => row.firmware.is_none(),
            Is::Firmware(Some((compare, version))) => row.firmware.as_ref().is_some_and(|firmware| {
                let key: crate::registry::filter::Version = firmware.parse().unwrap();
                let place = u64::from(key.key() > version.key()) + u64::from(key.key() >= version.key());
                number(*compare, place, 1)
            }),
            Is::Serial(begin) => row.serial.as_str().to_lowercase().starts_with(begin),
            Is::Text(of) => text(of),
        }
}

async fn all(registry: &Registry, filter: &str, order: &str, limit: u32) -> Vec<DeviceRow> {
    let mut listing = Listing {
        filter: filter.parse().unwrap(),
        order: order.parse().unwrap(),
        limit,
        ..Listing::default()
    };
    let mut items = Vec::new();
    loop {
        let page = registry.list(&listing).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        assert!(page.total as usize >= page.items.len() + usize::from(page.next.is_some()));
        items.extend(page.items);
        listing.after = page.next;
        if listing.after.is_none() {
            return items;
        }
        assert!(items.len() < 10_000, "{filter} {order} does not end");
    }
}

const FILTERS: &[&str] = &[
    "",
    "state:suspended",
    "-state:registered",
    "state:suspended,quarantined",
    "batch:G-0001",
    "-batch:G-0001",
    "station:S-07",
    "station:S-99",
    "product:TH-2",
    "tag:\"line two\"",
    "-tag:\"line two\"",
    "group:north online:yes",
    "online:yes",
    "online:no",
    "-online:yes",
    "seen:<2d",
    "seen:>5d",
    "seen:never",
    "-seen:>5d",
    "expires:<30d",
    "expires:>1y",
    "refused:>0",
    "refused:>=99",
    "refused:0",
    "-refused:>0",
    "firmware:<1.10",
    "firmware:1.4.2",
    "firmware:>1.4.2",
    "firmware:unknown",
    "-firmware:<1.10",
    "serial:gr-00012",
    "GR-00012",
    "12",
    "0012",
    "-\"12\"",
    "tenant:acme",
    "tenant:other",
    "state:suspended batch:G-0001 -online:yes seen:<5d",
    "nothing",
    "gr- state:suspended refused:>0",
];

#[tokio::test]
async fn every_filter_in_every_order_finds_what_it_says_and_each_device_once() {
    let fleet = mixed().await;
    let registry = &fleet.registry;
    let verdicts = registry.verdicts();
    let every = all(registry, "", "serial", 50).await;
    assert_eq!(every.len(), 240);
    for text in FILTERS {
        let filter: Filter = text.parse().unwrap();
        let id = |row: &DeviceRow| verdicts.row(row.key).unwrap();
        let matching = |row: &&DeviceRow| filter.terms.iter().all(|term| holds(term, row, id(row)));
        let expected: Vec<_> = every.iter().filter(matching).map(|row| row.serial.clone()).collect();
        for order in ["serial", "attention", "-seen"] {
            let mut found: Vec<_> =
                all(registry, text, order, 23).await.into_iter().map(|row| row.serial).collect();
            found.sort_by(|a, b| a.as_str().cmp(b.as_str()));
            assert_eq!(found, expected, "{text} by {order}");
        }
        let (count, exact) = registry.count(None, &filter).await.unwrap();
        assert_eq!((count as usize, exact), (expected.len(), true), "{text}");
    }
}

#[tokio::test]
async fn every_order_is_the_one_it_is_called() {
    type Key = fn(&DeviceRow) -> i64;
    let fleet = mixed().await;
    let keys: [(&str, Key); 5] = [
        ("attention", |row| -(i64::from(row.attention) << 50) - row.changed_at_ms as i64),
        ("seen", |row| -(row.last_seen_ms.unwrap_or(0) as i64)),
        ("changed", |row| -(row.changed_at_ms as i64)),
        ("expires", |row| row.not_after_s),
        ("refused", |row| -(row.refused_24h as i64)),
    ];
    for (order, key) in keys {
        let rows = all(&fleet.registry, "", order, 17).await;
        assert!(rows.is_sorted_by_key(key), "{order}");
        let back = all(&fleet.registry, "", &format!("-{order}"), 19).await;
        let serials = |rows: &[DeviceRow]| rows.iter().map(|row| row.serial.clone()).collect::<Vec<_>>();
        assert_eq!(serials(&rows), serials(&back.into_iter().rev().collect::<Vec<_>>()), "{order}");
    }
    let first = &all(&fleet.registry, "", "attention", 50).await[0];
    assert_eq!((first.state, first.attention), (DeviceState::Quarantined, 3));
}

#[tokio::test]
async fn a_cursor_is_of_its_order_and_nothing_else_is_one() {
    let fleet = Fleet::empty().await.grown(3).await;
    let list = |order: &str, after: Option<&str>| {
        let listing = Listing {
            order: order.parse().unwrap(),
            after: after.map(str::to_owned),
            limit: 1,
            ..Listing::default()
        };
        let registry = fleet.registry.clone();
        async move { registry.list(&listing).await }
    };
    let next = list("seen", None).await.unwrap().next.unwrap();
    assert!(list("seen", Some(&next)).await.is_ok());
    for (order, after) in
        [("-seen", &*next), ("serial", &next), ("seen", "MU-000001"), ("seen", ""), ("seen", "AAAA")]
    {
        assert_eq!(list(order, Some(after)).await.unwrap_err().code(), Code::UsageWrong, "{order} {after}");
    }
    assert_eq!("colour".parse::<Order>().unwrap_err().code(), Code::UsageWrong);
}

#[tokio::test]
async fn one_tenant_sees_and_counts_its_own_only() {
    let fleet = mixed().await;
    let other: Tenant = "other".parse().unwrap();
    for text in FILTERS {
        let filter: Filter = text.parse().unwrap();
        let listing =
            Listing { tenant: Some(other.clone()), filter: filter.clone(), limit: 9, ..Listing::default() };
        let page = fleet.registry.list(&listing).await.unwrap();
        assert_eq!((page.items.len(), page.total, page.next), (0, 0, None), "{text}");
        assert_eq!(fleet.registry.count(Some(&other), &filter).await.unwrap(), (0, true), "{text}");
    }
    let summary = fleet.registry.summary(Some(&other)).await.unwrap();
    assert!(summary.states.iter().all(|(_, count)| *count == 0) && summary.needs.is_empty());
}

#[tokio::test]
async fn what_is_seen_of_a_device_is_in_its_row_when_it_is_written() {
    let fleet = Fleet::with(2).await;
    let (facts, at_ms) = (fleet.registry.facts(), now_ms());
    let device = fleet.devices[0].key;
    let begin = |at_ms| {
        facts.connected(Connected {
            device,
            at_ms,
            remote: "10.0.4.17:1".parse().unwrap(),
            protocol: 5,
            keep_alive_s: 60,
        })
    };
    let (first, second) = (begin(at_ms), begin(at_ms + 1));
    facts.disconnected(device, first, at_ms + 2, DisconnectReason::SessionTakenOver);
    for _ in 0..3 {
        facts.refused(&Claimed::Device(fleet.devices[1].key), Code::DeviceSuspended, at_ms, None);
    }
    facts.flush().await;
    fleet.registry.store_newest().await.unwrap();
    let found = async |filter: &str| {
        let rows = all(&fleet.registry, filter, "serial", 10).await;
        rows.into_iter().map(|row| row.serial.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(found("online:yes").await, ["MU-000001"], "the older session's end is not the newer one's");
    assert_eq!(found("seen:<1h").await, ["MU-000001"]);
    assert_eq!(found("refused:3").await, ["MU-000002"]);
    facts.disconnected(device, second, at_ms + 3, DisconnectReason::ClientInitiated);
    facts.refused(&Claimed::Device(fleet.devices[1].key), Code::DeviceSuspended, at_ms, None);
    facts.flush().await;
    assert!(found("online:yes").await.is_empty());
    assert_eq!(found("refused:4").await, ["MU-000002"]);
    // A day later nobody remembers.
    let late = |ms: u64| crate::registry::standing::Swept::at(at_ms + ms);
    let sweep = |to| {
        let inner = fleet.registry.inner.clone();
        async move { crate::registry::standing::sweep(&inner, &Default::default(), &to).await.unwrap() }
    };
    sweep(late(0)).await;
    assert_eq!(found("refused:4").await, ["MU-000002"]);
    sweep(late(25 * 3_600_000)).await;
    assert!(found("refused:>0").await.is_empty());
    // What is out of use says nothing any more.
    for act in [crate::registry::Act::Revoke, crate::registry::Act::Decommission] {
        fleet.act(0, act).await.unwrap();
    }
    assert!(found("seen:<1h").await.is_empty());
    assert_eq!(found("state:decommissioned").await, ["MU-000001"]);
}

#[tokio::test]
async fn certificates_that_end_soon_need_somebody() {
    let fleet = Fleet::empty().await.grown(5).await;
    let soon = now_ms() / 1000 + 29 * 86_400;
    fleet.each("UPDATE device SET expires_s = $2 WHERE id = $1", |id| (id == 2).then_some(soon)).await;
    let inner = fleet.registry.inner.clone();
    let now = crate::registry::standing::Swept::at(now_ms());
    crate::registry::standing::sweep(&inner, &Default::default(), &now).await.unwrap();
    let rows = all(&fleet.registry, "", "attention", 10).await;
    assert_eq!(rows.iter().map(|row| row.attention).collect::<Vec<_>>(), [1, 0, 0, 0, 0]);
    let summary = fleet.registry.summary(None).await.unwrap();
    let needs: Vec<_> = summary.needs.iter().map(|need| (need.filter.to_string(), need.count)).collect();
    assert_eq!(needs, [("expires:<30d -state:revoked,decommissioned".to_owned(), 1)]);
    assert_eq!(fleet.registry.audit(0, 100).await.unwrap().last().unwrap().actor, ana().name, "unaudited");
}

/// Which term drives a page's statement, and the steps of its plan.
async fn planned(
    inner: &Inner,
    connection: &mut Connection,
    text: &str,
    order: Order,
) -> (Option<usize>, Vec<String>) {
    let listing = Listing { filter: text.parse().unwrap(), order, ..Listing::default() };
    let asked = Asked::new(inner, &listing);
    let driving = driving(inner, &mut *connection, &asked).await.unwrap();
    let mut query = page_query(inner, "EXPLAIN QUERY PLAN ", &asked, driving, None, 51);
    let plan = query.build().fetch_all(connection).await.unwrap();
    (driving, plan.iter().map(|row| row.try_get("detail").unwrap()).collect())
}

/// 100 000 devices: no statement reads them all to find a page of them.
#[tokio::test]
async fn at_a_hundred_thousand_devices_every_page_is_found_by_an_index() {
    let fleet = Fleet::empty().await.grown(100_000).await;
    fleet
        .sql(
            "UPDATE device SET state = 'suspended' WHERE id % 100 = 0;
             UPDATE device SET state = 'active', heard_ms = 1700000000000 + id WHERE id % 2 = 1;
             UPDATE device SET firmware = '1.4.2', firmware_key = '0000000001000000000400000000020000000000~' WHERE id % 50 = 0;
             UPDATE device SET refused = id, online = 1 WHERE id % 1000 = 0;
             INSERT INTO label (kind, word, device) SELECT 'tag', 'x', id FROM device WHERE id % 500 = 0",
        )
        .await;
    let inner = &fleet.registry.inner;
    let mut connection = inner.database.readers().acquire().await.unwrap();
    for (text, by) in [
        ("", "INDEX device_urgency"),
        ("state:active", "INDEX device_urgency"),
        ("state:suspended", "INDEX device_state"),
        ("-state:active,registered", "INDEX device_state"),
        ("batch:G-0007", "INDEX device_batch"),
        ("state:active batch:G-0007", "INDEX device_batch"),
        ("firmware:<2", "INDEX device_firmware"),
        ("seen:<1s", "INDEX device_heard"),
        ("expires:<30d", "INDEX device_expires"),
        ("refused:>0", "INDEX device_refused"),
        ("online:yes", "INDEX device_online"),
        ("tag:x", "INTEGER PRIMARY KEY"),
        ("serial:gr-000012", "INDEX device_find_serial"),
        ("99999", "INTEGER PRIMARY KEY"),
        ("gr-0000", "INTEGER PRIMARY KEY"),
        ("gr-", "INDEX device_urgency"),
        ("tenant:other", "INTEGER PRIMARY KEY"),
    ] {
        for order in Sort::ALL {
            let order = Order { sort: *order, reverse: false };
            let (driving, steps) = planned(inner, &mut connection, text, order).await;
            let by = by.replace("device_urgency", order.sort.index());
            assert!(steps.iter().any(|step| step.contains(&by)), "{text} by {order}: {steps:?}");
            // An index of who is connected, and of nobody else, is read as it is.
            let scans = |step: &&String| {
                step.starts_with("SCAN device") && driving.is_some() && !step.contains("device_online")
            };
            assert!(!steps.iter().any(|step| step == "SCAN device"), "{text} by {order}: {steps:?}");
            assert_eq!(steps.iter().find(scans), None, "{text} by {order}");
        }
        let listing = Listing { filter: text.parse().unwrap(), limit: 50, ..Listing::default() };
        let page = fleet.registry.list(&listing).await.unwrap();
        assert!(page.items.len() == 50 || page.next.is_none(), "{text}");
    }
    drop(connection);
    let count = async |text: &str| fleet.registry.count(None, &text.parse().unwrap()).await.unwrap();
    assert_eq!(count("").await, (100_000, true), "added up, not counted");
    assert_eq!(count("state:active").await, (50_000, true));
    assert_eq!(count("tag:x state:suspended").await, (200, true), "few are counted");
    assert_eq!(count("gr-").await, (FEW as u64, false), "many are not");
    while_groups_hold_some(&fleet).await;
}

/// The same while a batch, and who shows a certificate of some CA, is held.
async fn while_groups_hold_some(fleet: &Fleet) {
    let inner = &fleet.registry.inner;
    let decide = async |group: &str, act, code| {
        let (kind, value) = group.split_once(' ').unwrap();
        let group = crate::registry::Group::read(kind, value).unwrap();
        let reason = crate::registry::Reason { text: "a reason of ten".to_owned(), code };
        fleet.registry.decide_group(&ana(), group, act, &reason).await.unwrap();
    };
    let count = async |text: &str| fleet.registry.count(None, &text.parse().unwrap()).await.unwrap();
    decide("batch S-07/G-0007", Act::Suspend, None).await;
    for order in Sort::ALL {
        let order = Order { sort: *order, reverse: false };
        let mut connection = inner.database.readers().acquire().await.unwrap();
        for (text, by) in [
            ("state:suspended", &["INDEX device_state", "INDEX device_batch", "INDEX batch_held"][..]),
            ("state:active", &[order.sort.index()]),
            ("state:quarantined", &["INDEX device_state", "INDEX device_batch", "INDEX batch_held"]),
        ] {
            let (driving, steps) = planned(inner, &mut connection, text, order).await;
            for by in by {
                assert!(steps.iter().any(|step| step.contains(by)), "{text} by {order}: {steps:?}");
            }
            let scans = steps.iter().any(|step| step == "SCAN device" || step.starts_with("SCAN found"));
            assert!(!scans, "{text} by {order}: {steps:?}");
            assert_eq!(driving.is_some(), text != "state:active", "{text} by {order}");
        }
    }
    assert_eq!(count("state:suspended").await, (1990, true), "a thousand of each, and ten that are both");
    assert_eq!(count("state:active").await, (49_500, true), "added up");
    let listing = Listing { filter: "state:suspended".parse().unwrap(), limit: 50, ..Listing::default() };
    let page = fleet.registry.list(&listing).await.unwrap();
    assert_eq!((page.items.len(), page.total), (50, 1990));
    let ca = format!("ca {}", hex::encode([7; 20]));
    decide(&ca, Act::Revoke, Some(crate::registry::RevocationReason::KeyCompromise)).await;
    assert_eq!(count("state:revoked").await, (100_000, true), "whoever has nothing else to show");
    assert_eq!(count("state:suspended,active").await, (0, true));
    let listing = Listing { filter: "state:revoked".parse().unwrap(), limit: 50, ..Listing::default() };
    assert_eq!(fleet.registry.list(&listing).await.unwrap().items.len(), 50);
}
