//! The list of devices on the page, of a fleet that fills many pages: fifty rows each, to the end by its own
//! links, no device twice and none left out, in the order that was asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::collections::BTreeSet;

use rig::{Server, http::Http};
use serde_json::json;

/// Devices of the first station, and of the second.
const FIRST: std::ops::Range<u32> = 1..2488;
const SECOND: std::ops::Range<u32> = 10_001..10_101;
/// Rows of a page.
const ROWS: usize = 50;

fn serials(of: std::ops::Range<u32>) -> Vec<String> {
    of.map(|n| format!("MU-{n:06}")).collect()
}

/// The rows of a page, and where its next one is.
fn rows(http: &Http, path: &str) -> (Vec<String>, Option<String>) {
    let page = http.get(path);
    assert_eq!(page.status, 200, "{path}: {}", page.head);
    let html = String::from_utf8(page.body).unwrap();
    let rows = html.split(" data-serial=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    let next = html.split("<a ").find(|link| link.contains("rel=\"next\""));
    let next = next.map(|link| link.split("href=\"").nth(1).unwrap().split('"').next().unwrap());
    (rows.collect(), next.map(|href| href.replace("&#38;", "&").replace("&amp;", "&")))
}

/// Every row from a first page to the last, by the pages' own links; each page but the last is full.
fn walk(http: &Http, first: &str) -> Vec<String> {
    let (mut all, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(path) = next {
        let (rows, following) = rows(http, &path);
        assert!(rows.len() == ROWS || (following.is_none() && rows.len() < ROWS), "{path}: {}", rows.len());
        all.extend(rows);
        assert!(all.len() <= FIRST.len() + SECOND.len(), "the pages do not end");
        next = following;
    }
    all
}

fn act(http: &Http, serial: &str, verb: &str) {
    http.post(&format!("/v1/devices/{serial}/{verb}"), &json!({ "reason": "a reason of ten" })).is(200);
}

#[test]
fn thousands_of_devices_are_listed_page_by_page_each_once() {
    let server = Server::start();
    let (first, second) = (serials(FIRST), serials(SECOND));
    for (batch, serials) in [("B-0001", &first), ("B-0002", &second)] {
        server.with_devices(batch, &serials.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let http = Http::new(&server);
    // Spread over the fleet, so that what needs somebody is on no page by chance.
    let suspended: BTreeSet<_> = first.iter().step_by(40).chain(second.iter().step_by(50)).collect();
    let quarantined: BTreeSet<_> = first.iter().skip(7).step_by(900).collect();
    suspended.iter().for_each(|serial| act(&http, serial, "suspend"));
    quarantined.iter().for_each(|serial| act(&http, serial, "quarantine"));
    let everybody: BTreeSet<_> = first.iter().chain(&second).collect();

    // What needs somebody comes first; nobody twice, nobody left out.
    let all = walk(&http, "/devices");
    let seen: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), &seen), (everybody.len(), &everybody));
    let urgent: BTreeSet<_> = all[..quarantined.len()].iter().collect();
    assert_eq!(urgent, quarantined);
    let (page, _) = rows(&http, "/devices");
    assert_eq!(page, all[..ROWS], "a page is the same when it is asked for again");

    // Another order, and the other way round.
    let by_serial = walk(&http, "/devices?sort=serial");
    assert!(by_serial.iter().eq(everybody.iter().copied()), "by serial");
    let (last, _) = rows(&http, "/devices?sort=-serial");
    assert!(last.iter().eq(everybody.iter().rev().take(ROWS).copied()), "{last:?}");

    // A filter holds over all its pages.
    let found = walk(&http, "/devices?filter=state%3Asuspended");
    assert_eq!((found.len(), found.iter().collect::<BTreeSet<_>>()), (suspended.len(), suspended.clone()));
    assert!(found.len() > ROWS, "more than a page of them");
    let found = walk(&http, "/devices?filter=batch%3AB-0002&sort=serial");
    assert_eq!(found, second);
    let found = walk(&http, "/devices?filter=state%3Asuspended%20batch%3AB-0002");
    let both: BTreeSet<_> = second.iter().step_by(50).collect();
    assert_eq!((found.len(), found.iter().collect::<BTreeSet<_>>()), (both.len(), both));
    assert_eq!(rows(&http, "/devices?filter=state%3Arevoked"), (Vec::new(), None));

    // What is decided between two pages moves nobody onto both.
    let (page, next) = rows(&http, "/devices?sort=serial");
    act(&http, &page[0], if suspended.contains(&page[0]) { "resume" } else { "suspend" });
    let (following, _) = rows(&http, &next.unwrap());
    assert!(following.iter().eq(everybody.iter().skip(ROWS).take(ROWS).copied()), "{following:?}");
}
