//! Requests made from the API's own description: for each operation of the document the server serves, sound
//! ones, and ones in which a single thing is not as it should be, asked by everybody from nobody to the admin.
//!
//! Whatever is asked:
//! - no answer is a fault of the server's (5xx), and the server is ready and its audit log whole at the end;
//! - an answer's status, media type and document are the described ones, and nothing is in it that is not described;
//! - a refusal is a problem document whose code is one of those the description lists for that status;
//! - what the description rules out is not done; nor is it without a credential, or by who may only look;
//! - a write under an idempotency key is answered a second time as it was the first.
//!
//! And each operation is met in its good form at least once: a new route that this cannot ask soundly fails here,
//! and wants a line in `fleet`.
//!
//! What is drawn by lot is drawn from one seed, so a failure comes back. `MUSTER_SEED=7` draws otherwise.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answer;
mod ask;
mod fleet;
mod hostile;
mod line;
#[path = "../rig/mod.rs"]
mod rig;
mod shape;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use answer::{Answered, faults};
use ask::{Ask, Dice, Operation, read};
use fleet::Fleet;
use line::Line;
use rig::Server;

/// What is drawn from when nobody says.
const SEED: u64 = 20_261_122;
/// Failures that are told in full.
const TOLD: usize = 20;
/// How often what is asked too fast is asked again.
const PATIENCE: usize = 50;
/// Sound requests of an operation, by who may do all of it.
const SOUND: usize = 6;

/// Somebody who asks.
struct Who {
    name: &'static str,
    /// With several, so that nobody asks more than anybody may.
    tokens: Vec<String>,
    /// Only looks, or not even that: nothing may be done for them.
    powerless: bool,
    /// Of so many requests that are not sound they send one.
    every: usize,
}

impl Who {
    fn token(&self, turn: usize) -> Option<&str> {
        (!self.tokens.is_empty()).then(|| &*self.tokens[turn % self.tokens.len()])
    }
}

/// What has come of it.
#[derive(Default)]
struct Found {
    asked: usize,
    /// What was wrong, and with what: the first of its kind as it was, and how many.
    failures: BTreeMap<String, (String, usize)>,
    by_status: BTreeMap<u16, usize>,
    good: BTreeSet<String>,
}

impl Found {
    fn note(&mut self, operation: &Operation, who: &Who, ask: &Ask, answered: Option<&Answered>) {
        self.asked += 1;
        let Some(answered) = answered else {
            if !ask.torn {
                self.fail(who, ask, "the connection ended without an answer", None);
            }
            return;
        };
        *self.by_status.entry(answered.status).or_default() += 1;
        if who.name == "admin" && operation.is_good(answered.status) {
            self.good.insert(operation.id.clone());
        }
        for fault in faults(operation, ask, answered) {
            self.fail(who, ask, &fault, Some(answered));
        }
        if who.powerless && operation.writes && !operation.open && answered.status < 400 {
            self.fail(who, ask, "it was done for somebody who may not do it", Some(answered));
        }
    }

    fn fail(&mut self, who: &Who, ask: &Ask, fault: &str, answered: Option<&Answered>) {
        let mut told = format!("  asked by {}: {ask}", who.name);
        if let Some(answered) = answered {
            let _ = write!(told, "\n  answered {answered}");
        }
        let kind = format!("{} {}: {fault}", ask.method, ask.path);
        self.failures.entry(kind).or_insert((told, 0)).1 += 1;
    }
}

/// Asks as one of them, and what is asked too fast again.
fn asked(line: &mut Line, who: &Who, ask: &Ask, turn: usize) -> Option<Answered> {
    let token = who.token(turn);
    let mut answered = line.ask(ask, token);
    for _ in 0..PATIENCE {
        // Who fails to sign in too often waits longer than this test does.
        if !answered.as_ref().is_some_and(|of| of.json()["code"] == "M508") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        answered = line.ask(ask, token);
    }
    answered
}

/// Everything one of them asks of an operation.
fn ask_all(
    fleet: &mut Fleet,
    line: &mut Line,
    operation: &Operation,
    who: &Who,
    found: &mut Found,
    seed: u64,
) {
    let mut dice = Dice::new(seed, &format!("{} {}", operation.id, who.name));
    let sound = if who.powerless { 1 } else { SOUND.max(operation.words()) };
    for turn in 0..sound {
        fleet.asks(who.token(turn));
        let mut ask = fleet.sound(operation, Some(turn), &mut dice);
        let key =
            (operation.writes && !operation.open && !who.powerless).then(|| ask.under_a_new_key(&mut dice));
        let first = asked(line, who, &ask, turn);
        found.note(operation, who, &ask, first.as_ref());
        if let Some(answered) = &first {
            fleet.learn(operation, answered);
        }
        if key.is_some() {
            ask.said = format!("{}, again under its key", ask.said);
            let again = asked(line, who, &ask, turn);
            found.note(operation, who, &ask, again.as_ref());
            if let Some(fault) = answer::repeated(operation, first.as_ref(), again.as_ref()) {
                found.fail(who, &ask, &fault, again.as_ref());
            }
        }
    }
    let odd = hostile::asks(fleet, operation, &mut dice);
    for (turn, ask) in odd.iter().enumerate().filter(|(turn, _)| turn % who.every == 0) {
        let answered = asked(line, who, ask, turn);
        found.note(operation, who, ask, answered.as_ref());
    }
}

#[test]
fn whatever_is_asked_is_answered_as_described() {
    let seed = std::env::var("MUSTER_SEED").ok().map_or(SEED, |seed| seed.parse().unwrap());
    let server = Server::start();
    let mut fleet = Fleet::new(&server);
    let document = fleet.http.get("/v1/openapi.json").is(200);
    let operations = read(&document);
    assert!(operations.len() > 50, "{}", operations.len());
    let all = [
        Who { name: "admin", tokens: fleet.tokens("adam", "admin", None), powerless: false, every: 1 },
        Who { name: "a viewer", tokens: fleet.tokens("vera", "viewer", None), powerless: true, every: 5 },
        Who {
            name: "an operator of a tenant",
            tokens: fleet.tokens("acme/olaf", "operator", None),
            powerless: false,
            every: 3,
        },
        // Who fails to sign in is soon heard no more, so it is little that is asked like this.
        Who { name: "nobody", tokens: vec![], powerless: true, every: 1000 },
    ];
    let mut found = Found::default();
    let mut line = Line::new(fleet.http.with(""));
    for operation in &operations {
        for who in &all {
            ask_all(&mut fleet, &mut line, operation, who, &mut found, seed);
        }
    }
    println!("{} asked, by status {:?}, seed {seed}", found.asked, found.by_status);
    let unmet: Vec<_> = operations.iter().map(|of| &of.id).filter(|id| !found.good.contains(*id)).collect();
    let told = found.failures.iter().take(TOLD);
    let told: String =
        told.map(|(kind, (first, n))| format!("{kind}, {n} times, as when\n{first}\n")).collect();
    let n = found.failures.len();
    assert!(n == 0, "seed {seed}, {n} kinds of failure:\n{told}");
    assert!(unmet.is_empty(), "never answered as they are meant to be: {unmet:?}");
    drop(line);

    fleet.http.with("").get("/readyz").is(200);
    server.muster(&["audit", "verify"]).exits(0);
    fleet.leave();
    server.signal("TERM");
    let (status, log, _) = server.wait();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("panicked") && !log.contains(" ERROR "), "{log}");
}
