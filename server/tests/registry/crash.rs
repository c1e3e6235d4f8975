//! Killed at any moment: what was answered is so, and the audit log is whole.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{Answered, SERIALS, decide, holds};
use crate::rig::{Place, Server};

/// Decides until `strike` has happened to the server; what was answered, and the server as it is then.
fn struck(server: Server, after: Duration, strike: impl FnOnce(Server) -> Place) -> (Place, Answered) {
    server.with_devices("B-0001", &SERIALS);
    let stop = AtomicBool::new(false);
    let data = server.place().data();
    thread::scope(|scope| {
        let deciding = scope.spawn(|| decide(&data, &stop));
        thread::sleep(after);
        let place = strike(server);
        stop.store(true, Ordering::Release);
        let (answered, _) = deciding.join().unwrap();
        (place, answered)
    })
}

#[test]
fn after_a_kill_what_was_answered_is_so() {
    // Wherever the kill falls between a commit and its answer.
    for after in [150, 400, 700] {
        let (place, answered) = struck(Server::start(), Duration::from_millis(after), Server::killed);
        // A database may still be finding out that the killed server is gone: the next one waits for it.
        let server = Server::start_on(place);
        holds(&server, &answered, 1);
    }
}
