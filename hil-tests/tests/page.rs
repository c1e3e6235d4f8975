//! An operator's first day with real boards: the page in a real browser, the real server, and the real image in
//! QEMU. What the page says is compared with what the board says on its serial port.
//!
//! The browser is the one the page's own tests drive; here nothing stands in for the devices.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../server/tests/page/driver.rs"]
#[allow(dead_code, unreachable_pub, reason = "the page's own tests use the rest")]
mod driver;

mod qemu {
    use std::time::{Duration, Instant};

    use muster_hil::{
        process,
        qemu::{BOARD_PATIENCE, Board},
        rig::{Parts, Ports, Rig, Server, batch, serial},
    };
    use muster_server::api::view::{Decision, DeviceDetail, Import, Page, Session};
    use serde_json::json;

    use super::driver::Browser;

    /// How long the server may take until what a board has done is in its answers.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A board, and up to where its log was looked at.
    struct Watched {
        serial: String,
        board: Board,
        read: usize,
    }

    impl Watched {
        /// Waits for the next line of its log that has these words.
        fn says(&mut self, words: &str) -> String {
            let (line, read) = self.board.wait_for(self.read, words, BOARD_PATIENCE).unwrap();
            self.read = read;
            line.text
        }
    }

    /// Everything that runs; the folder goes last.
    struct House {
        first: Watched,
        second: Watched,
        server: Server,
        rig: Rig,
    }

    impl House {
        /// Two boards, made at the station, imported and connected; then a colleague suspends the second.
        fn open() -> Self {
            let parts = Parts::make(&mut |text| println!("{text}")).unwrap();
            let rig = Rig::open(&parts, None).unwrap();
            rig.ceremony().unwrap();
            rig.init_server().unwrap();
            let server = rig.start_server(Ports::FREE).unwrap();
            let factory = rig.factory().unwrap();
            let made = [1, 2].map(|number| {
                let serial = serial(number);
                let mut board = rig.blank_board(&serial, rig.root_digest().unwrap()).unwrap();
                board.power_on().unwrap();
                let unit = rig.run_unit(&factory, &board, &serial, &batch(1), server.mqtt).unwrap();
                assert!(unit.passed(), "{unit:?}");
                Watched { serial, board, read: 0 }
            });
            let manifest = rig.close_batch(&factory, &batch(1)).unwrap();
            let import: Import = rig.ask(&["batch", "import", manifest.to_str().unwrap()]).unwrap();
            assert_eq!((import.registered, import.refused.len()), (2, 0));
            let [mut first, mut second] = made;
            first.says("muster telemetry ");
            second.says("muster mqtt connected");
            let reason = ["--reason", "returned for repair, case 881"];
            let suspend = [&["device", "suspend", second.serial.as_str()][..], &reason].concat();
            let decision: Decision = rig.ask(&suspend).unwrap();
            assert_eq!(decision.to, "suspended");
            second.says(" M201 ");
            let house = Self { first, second, server, rig };
            house.until("its readings are there", |first| !first.readings.is_empty());
            house
        }

        /// Asks for the first device until the answer is as it must be.
        fn until(&self, wanted: &str, holds: impl Fn(&DeviceDetail) -> bool) {
            let end = Instant::now() + PATIENCE;
            loop {
                let detail: DeviceDetail = self.rig.ask(&["device", "show", &self.first.serial]).unwrap();
                if holds(&detail) {
                    return;
                }
                assert!(Instant::now() < end, "not so: {wanted}; the server says {:?}", detail.device);
                process::pause(Duration::from_millis(50)).unwrap();
            }
        }

        /// A browser in which the first operator comes in, by the link the server wrote as it started.
        fn sign_in(&self) -> Browser {
            let link = self.rig.sign_in_link(&self.server).unwrap();
            let (site, _) = link.split_once("/once/").unwrap();
            assert_eq!(site, format!("https://localhost:{}", self.server.https.port()));
            let browser = Browser::start(site);
            browser.look(1280, 900, false);
            browser.go(link.strip_prefix(site).unwrap());
            assert!(browser.text("main").contains("lets admin in, once"), "{}", browser.text("main"));
            browser.click("main form button");
            browser.until("signed in", "document.querySelector('header.bar')");
            assert_eq!(browser.place(), "/");
            browser
        }
    }

    #[test]
    fn a_new_operator_finds_a_board_watches_it_suspends_it_and_revokes_it_for_ever() {
        let mut house = House::open();
        let browser = house.sign_in();
        let told = "document.querySelector('main').innerText.includes('from 1 suspended device')";
        browser.until("what needs somebody is on the first page", told);

        let path = format!("/devices/{}", house.first.serial);
        browser.key("/");
        browser.write("#find", &format!("{}\u{e007}", house.first.serial));
        browser.until("found by its serial", &format!("location.pathname === '{path}'"));
        readings_arrive(&browser);
        why_not(&browser, &mut house.second);

        browser.go(&path);
        suspend_and_undo(&browser, &mut house.first);
        revoke(&browser, &mut house.first);
        it_has_ended(&browser, &house);
        never_again(&mut house.first);

        // A refusal that a page shows has a status of its own, and is no fault of the page.
        let faults = browser.complaints();
        let faults: Vec<_> =
            faults.iter().filter(|line| !line.contains("the server responded with a status of 4")).collect();
        assert!(faults.is_empty(), "{faults:?}");
        drop(browser);
        let House { first, second, server, rig } = house;
        drop((first, second));
        server.stop().unwrap();
        drop(rig);
    }

    /// What the board measures comes onto the page by itself.
    fn readings_arrive(browser: &Browser) {
        assert!(browser.text(".head").contains("online"), "{}", browser.text(".head"));
        assert!(browser.text("[data-live=newest]").contains("temperature_c"));
        browser.until("live", "document.querySelector('#live').dataset.state === 'live'");
        let newest = "document.querySelector('[data-live=newest] time').dateTime";
        browser.script(&format!("window.same = true; window.before = {newest}"), &[]);
        browser.until("a newer reading", &format!("{newest} > window.before"));
        let same = browser.script("return window.same === true", &[]);
        assert_eq!(same, json!(true), "the page was not loaded again");
    }

    /// Why the other board is refused: the same on the page as on its serial port.
    fn why_not(browser: &Browser, second: &mut Watched) {
        let line = second.says(" M201 ");
        assert!(line.contains("suspended"), "{line}");
        browser.go(&format!("/devices/{}", second.serial));
        browser.until("it is refused", "document.querySelector('.head .chip.s-suspended')");
        browser.click("main a[href$='/why']");
        browser.until("its own page", "location.pathname.endsWith('/why')");
        let told = browser.text("main");
        assert!(told.contains("M201") && told.contains("returned for repair, case 881"), "{told}");
        assert_eq!(browser.script("return document.querySelectorAll('.checks .failed').length", &[]), 1);
        // What would help stands beside it.
        assert!(browser.text(".head .acts").contains("Resume"), "{}", browser.text(".head"));
    }

    fn suspend_and_undo(browser: &Browser, first: &mut Watched) {
        browser.click(".head a[href$='/suspend']");
        browser.until("the dialog", "document.querySelector('dialog[open] form[data-act]')");
        browser.write("dialog #reason", "case 882");
        browser.click("dialog button.primary");
        browser.until("suspended", "document.querySelector('.head .chip.s-suspended')");
        let said = browser.text("[data-done]");
        assert!(said.contains("Session closed in"), "{said}");
        // The offer to undo it lasts ten seconds: it is taken before the board's log is read.
        browser.click("[data-undo]");
        browser.until("undone", "document.querySelector('.head .chip.s-active')");
        first.says(" M201 ");
        first.says("muster mqtt connected");
        let online = "document.querySelector('.head .presence.online')";
        browser.until("it is seen to come back", online);
    }

    fn revoke(browser: &Browser, first: &mut Watched) {
        let last_four = &first.serial[first.serial.len() - 4..];
        browser.click(".more-acts summary");
        browser.click(".more-acts a[href$='/revoke']");
        browser.until("its own page", "location.pathname.endsWith('/revoke')");
        assert!(browser.text(".effects").contains("it never connects again with this key"));
        browser.script("document.querySelector('#reason_code').value = 'keyCompromise'", &[]);
        browser.write("#reason", "stolen from the van");
        browser.write("#typed", last_four);
        browser.click("button.danger");
        browser.until("revoked", "document.querySelector('.head .chip.s-revoked')");
        first.says(" M302 ");
    }

    /// The page, the list of sessions and the timeline say the same.
    fn it_has_ended(browser: &Browser, house: &House) {
        browser.until("it is seen to be gone", "document.querySelector('.head .presence.offline')");
        let said = browser.text("main");
        assert!(said.contains("keyCompromise") && said.contains("stolen from the van"), "{said}");
        let sessions: Page<Session> = house.rig.ask(&["session", "list"]).unwrap();
        assert!(sessions.items.is_empty(), "{sessions:?}");
    }

    /// Off, on: the key is worth nothing any more, and the board knows it.
    fn never_again(first: &mut Watched) {
        first.board.power_cut();
        first.board.power_on().unwrap();
        first.read = 0;
        let line = first.says(" M302 ");
        assert!(line.contains("stop until power-on"), "{line}");
    }
}
