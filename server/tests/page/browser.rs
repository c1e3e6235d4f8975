//! What a person does on the page, and what it looks like.

mod life;
mod looks;

use crate::{
    driver::Browser,
    fleet::Fleet,
    rig::{Server, read},
};

/// A browser in which the first operator has come in by the first link.
fn signed_in(server: &Server) -> Browser {
    let browser = Browser::start(&format!("https://{}", server.https));
    browser.look(1280, 900, false);
    // Who is not signed in is asked to.
    browser.go("/devices");
    assert_eq!(browser.place(), "/login?then=%2Fdevices");
    let link = read(server.place().data().join("first-link"));
    let (_, secret) = link.trim().split_once("/once/").unwrap();
    browser.go(&format!("/once/{secret}"));
    assert!(browser.text("main").contains("lets admin in, once"), "{}", browser.text("main"));
    browser.click("main form button");
    browser.until("signed in", "document.querySelector('header.bar')");
    assert_eq!(browser.place(), "/");
    browser
}

/// Where a device's page is.
fn of(serial: &str) -> String {
    format!("/devices/{serial}")
}

/// Nothing was asked of anybody but the site, and nothing failed in the page.
fn clean(browser: &Browser) {
    let complaints = browser.complaints();
    // A 4xx that the page itself shows is no fault of the page.
    let faults: Vec<_> =
        complaints.iter().filter(|line| !line.contains("the server responded with a status of 4")).collect();
    assert!(faults.is_empty(), "{faults:?}");
    for url in browser.requests() {
        let own = url.starts_with(&browser.site)
            || url.starts_with("data:")
            || url.starts_with("chrome:")
            || url.starts_with("about:");
        assert!(own, "a request to {url}");
    }
}

fn fleet() -> (Fleet, Browser) {
    let fleet = Fleet::start();
    let browser = signed_in(&fleet.server);
    (fleet, browser)
}
