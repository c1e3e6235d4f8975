//! An operator's day: find a device, suspend it and take it back, revoke it for ever, several at once.

use super::{clean, fleet, of};
use crate::fleet::{HOSTILE_TAG, Live};
use crate::{
    driver::Browser,
    rig::{Server, eventually, read},
};

#[test]
fn a_device_is_found_suspended_with_undo_and_revoked_on_its_own_page() {
    let (fleet, browser) = fleet();
    browser.go("/");
    let overview = browser.text("main");
    assert!(overview.contains("1 refusal from 1 suspended device"), "{overview}");
    assert!(overview.contains("1 device quarantined"), "{overview}");

    // Found by its serial, from anywhere.
    browser.key("/");
    browser.write("#find", "MU-000001\u{e007}");
    browser.until("found", "location.pathname === '/devices/MU-000001'");
    assert!(browser.text(".head").contains("online"), "{}", browser.text(".head"));
    assert!(browser.text("main").contains("21.5"), "its readings are there");

    suspend_and_undo(&browser);
    assert!(browser.text(".head .chip").ends_with("active"));

    let live = Live::connect(&fleet.server, &fleet.credentials[0]).unwrap();
    revoke(&browser);
    live.ended();
    assert!(Live::connect(&fleet.server, &fleet.credentials[0]).is_err(), "it never comes back");
    fleet.live.ended();
    clean(&browser);
}

fn suspend_and_undo(browser: &crate::driver::Browser) {
    browser.click(".head a[href$='/suspend']");
    browser.until("the dialog", "document.querySelector('dialog[open] form[data-act]')");
    let focused = browser.script("return document.activeElement.name", &[]);
    assert_eq!(focused, "reason", "the focus is where one types");
    browser.write("dialog #reason", "case 882");
    browser.click("dialog button.primary");
    browser.until("suspended", "document.querySelector('.head .chip.s-suspended')");
    let said = browser.text("[data-done]");
    assert!(said.contains("Suspended by") && said.contains("Session closed in"), "{said}");
    browser.click("[data-undo]");
    browser.until("undone", "document.querySelector('.head .chip.s-active')");
    assert!(browser.text(".events").contains("undo of no."), "{}", browser.text(".events"));
}

fn revoke(browser: &crate::driver::Browser) {
    browser.click(".more-acts summary");
    browser.click(".more-acts a[href$='/revoke']");
    browser.until("its own page", "location.pathname.endsWith('/revoke')");
    assert!(browser.text(".effects").contains("it never connects again with this key"));
    assert_eq!(browser.script("return document.activeElement.textContent", &[]), "Cancel");
    // What is missing is listed, and nothing is done.
    browser.script(
        "for (const e of document.querySelectorAll('[required]')) e.removeAttribute('required')",
        &[],
    );
    browser.script("document.querySelector('textarea').removeAttribute('minlength')", &[]);
    browser.write("#reason", "stolen");
    browser.write("#typed", "0009");
    browser.click("button.danger");
    browser.until("refused", "document.querySelector('[role=alert]')");
    let told = browser.text("[role=alert]");
    for fault in ["fewer than 10 characters", "RFC 5280", "not how MU-000001 ends"] {
        assert!(told.contains(fault), "{told}");
    }
    browser.script("document.querySelector('#reason').value = 'stolen from the van'", &[]);
    browser.script("document.querySelector('#typed').value = '0001'", &[]);
    browser.script("document.querySelector('#reason_code').value = 'keyCompromise'", &[]);
    browser.click("button.danger");
    browser.until("revoked", "document.querySelector('.head .chip.s-revoked')");
    let said = browser.text("main");
    assert!(said.contains("keyCompromise") && said.contains("stolen from the van"), "{said}");
}

#[test]
fn a_revocation_is_not_made_on_what_was_not_seen() {
    let (fleet, browser) = fleet();
    browser.go(&format!("{}/revoke", of("MU-000005")));
    fleet.server.muster(&["device", "quarantine", "MU-000005", "--reason", "seen twice"]).exits(0);
    browser.script("document.querySelector('#reason_code').value = 'keyCompromise'", &[]);
    browser.write("#reason", "stolen from the van");
    browser.write("#typed", "0005");
    browser.click("button.danger");
    browser.until("refused", "document.querySelector('[role=alert]')");
    let told = browser.text("[role=alert]");
    assert!(told.contains("changed meanwhile") && told.contains("seen twice"), "{told}");
    let state = fleet.server.muster(&["device", "show", "MU-000005", "--json"]).exits(0).json();
    assert_eq!(state["state"], "quarantined");
}

#[test]
fn several_are_suspended_at_once_and_each_outcome_is_told() {
    let (fleet, browser) = fleet();
    browser.go("/devices");
    assert_eq!(browser.script("return document.querySelector('#with').hidden", &[]), true);
    for serial in ["MU-000004", "MU-000006", "MU-000007"] {
        browser.click(&format!("tr[data-serial='{serial}'] input[name=s]"));
    }
    browser.until("counted", "document.querySelector('#with').innerText.includes('3 selected')");
    browser.click("#with button[value=suspend]");
    browser.until("asked", "document.querySelector('dialog[open] form[data-act]')");
    let asked = browser.text("dialog");
    assert!(asked.contains("Suspend 2 devices?") && asked.contains("1 would be skipped"), "{asked}");
    browser.write("dialog #reason", "recall 7");
    browser.click("dialog button.primary");
    browser.until("told", "document.querySelector('main [role=status]')");
    assert!(browser.text("main").contains("done 2 · skipped 1 · failed 0"), "{}", browser.text("main"));
    let state = fleet.server.muster(&["device", "show", "MU-000006", "--json"]).exits(0).json();
    assert_eq!(state["state"], "suspended");
    clean(&browser);
}

#[test]
fn keys_lead_everywhere_and_change_nothing() {
    let (fleet, browser) = fleet();
    let decided = || fleet.server.muster(&["audit", "verify", "--json"]).exits(0).json()["rows"].clone();
    let before = decided();
    let (enter, escape) = ("\u{e007}", "\u{e00c}");
    // Until the next frame a field of a dialog that was closed has the focus, and takes the keys.
    let closed = |browser: &Browser| {
        browser.until(
            "closed",
            "!document.querySelector('dialog[open]') && !document.activeElement?.closest('dialog')",
        );
    };
    let serial = |browser: &Browser, serial: &str| {
        browser.until(serial, &format!("document.querySelector('h1').innerText === '{serial}'"));
    };
    browser.go("/devices?sort=serial");
    browser.key("j");
    browser.key("j");
    browser.until("the second row", "document.querySelectorAll('tbody tr')[1].classList.contains('here')");
    browser.key("x");
    browser.until("selected", "document.querySelector('#with').innerText.includes('1 selected')");
    browser.key("k");
    browser.key(enter);
    serial(&browser, "MU-000001");
    // It opens the form; what is done is done there.
    browser.key("n");
    browser
        .until("asked", "document.activeElement.name === 'reason' && document.querySelector('dialog[open]')");
    browser.key(escape);
    closed(&browser);
    browser.key("]");
    serial(&browser, "MU-000002");
    browser.key("r");
    browser.until("asked", "document.querySelector('dialog[open]')?.innerText.includes('MU-000002')");
    browser.key(escape);
    closed(&browser);
    browser.key("[");
    serial(&browser, "MU-000001");
    for place in ["d", "b", "c", "a", "s", "o"] {
        browser.key("g");
        browser.key(place);
        let there = format!(
            "document.querySelector('a[data-go=\"{place}\"]').getAttribute('aria-current') === 'page'"
        );
        browser.until(place, &there);
    }
    let zone = browser.text("#zone .word");
    browser.key("u");
    browser.until("another zone", "document.querySelector('#zone .word').innerText.startsWith('UTC+')");
    browser.key("u");
    assert_eq!(browser.text("#zone .word"), zone);
    // All of them are told, and whoever types by voice can switch them off.
    browser.key("?");
    browser
        .until("told", "document.querySelector('dialog[open]')?.innerText.includes('previous, next device')");
    browser.click("dialog input[type=checkbox]");
    browser.key(escape);
    browser.go("/devices");
    browser.key("j");
    assert_eq!(browser.script("return document.querySelectorAll('tr.here').length", &[]), 0);
    assert_eq!(decided(), before, "no key alone changes anything");
    clean(&browser);
}

#[test]
fn every_act_works_without_script() {
    let (fleet, browser) = fleet();
    browser.scripting(false);
    browser.go("/devices?filter=state%3Asuspended");
    assert!(browser.text("main").contains("MU-000002"));
    browser.click("td a.serial");
    browser.click(".head a[href$='/resume']");
    browser.write("#reason", "repaired");
    browser.click("button.primary");
    // Without script nothing says here that the next page has come.
    let shown = || fleet.server.muster(&["device", "show", "MU-000002", "--json"]).exits(0).json();
    eventually("it is resumed", shown, |device| device["state"] == "registered");
    browser.scripting(true);
}

#[test]
fn what_people_and_devices_say_is_text() {
    let (mut fleet, browser) = fleet();
    fleet.speak_ill();
    let by_tag = format!("/devices?filter=tag%3A%22{HOSTILE_TAG}%22");
    for path in [
        "/",
        "/devices",
        "/devices?cols=model,id,address,note",
        &by_tag,
        "/devices/MU-000001",
        "/devices/MU-000001?tab=json",
        "/devices/MU-000001/readings",
        "/devices/MU-000001/why",
        "/devices/MU-000001/suspend",
        "/devices/MU-000003",
        "/audit",
        "/devices?filter=%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/devices/%3Cb%3E",
    ] {
        browser.go(path);
        let title = browser.script("return document.title", &[]);
        assert_ne!(title, "owned", "{path}");
        let foreign =
            browser.script("return document.querySelectorAll('main script, main img, main b').length", &[]);
        assert_eq!(foreign, 0, "{path}");
    }
    for (path, shown) in [
        ("/devices/MU-000003", "<img src=x onerror="),
        ("/devices/MU-000001", HOSTILE_TAG),
        ("/devices/MU-000001", "<b>owned</b>"),
        ("/devices/MU-000001/readings", "<b>owned</b>"),
        (&by_tag, "MU-000001"),
    ] {
        browser.go(path);
        browser.until(
            "it is shown as it was written",
            &format!("document.querySelector('main').innerText.includes({shown:?})"),
        );
    }
    // What is live is put into the page by script.
    browser.go("/devices/MU-000001");
    browser.until("live", "document.querySelector('#live').dataset.state === 'live'");
    fleet.live.send("<i>later</i>", 2.0);
    browser.until("it came", "document.querySelector('main').innerText.includes('<i>later</i>')");
    assert_eq!(
        browser
            .script("return document.querySelectorAll('main i:not(.glyph), main b, main img').length", &[]),
        0
    );
    assert_ne!(browser.script("return document.title", &[]), "owned");
    clean(&browser);
    drop(fleet);
}

#[test]
fn a_token_lets_in_to_where_one_was_going_and_out_again() {
    let server = Server::start();
    let browser = Browser::start(&format!("https://{}", server.https));
    browser.go("/settings/about");
    browser.write("#token", "muster_wrong");
    browser.click("main form button");
    browser.until("refused", "document.querySelector('[role=alert]')");
    browser.go("/settings/about");
    browser.write("#token", read(server.place().data().join("token")).trim());
    browser.click("main form button");
    browser.until("signed in", "document.querySelector('header.bar')");
    assert_eq!(browser.place(), "/settings/about");
    browser.click(".who summary");
    browser.click(".who form button");
    browser.until("signed out", "location.pathname === '/login'");
    browser.go("/devices");
    assert!(browser.place().starts_with("/login"), "{}", browser.place());
}

#[test]
fn what_happens_elsewhere_is_seen_without_a_reload_until_it_is_paused() {
    let (mut fleet, browser) = fleet();
    browser.go("/devices/MU-000001");
    browser.until("live", "document.querySelector('#live').dataset.state === 'live'");
    browser.script("window.same = true", &[]);
    fleet.live.send("temperature_c", 30.25);
    browser.until("the reading", "document.querySelector('main').innerText.includes('30.25')");
    fleet.server.muster(&["device", "suspend", "MU-000001", "--reason", "case 883"]).exits(0);
    browser.until("the state", "document.querySelector('.head .chip.s-suspended')");
    assert_eq!(browser.script("return window.same === true", &[]), true, "the page was not loaded again");
    browser.key(".");
    browser.until("paused", "document.querySelector('#live').dataset.state === 'paused'");
    browser.key(".");
    browser.until("live again", "document.querySelector('#live').dataset.state === 'live'");
}
