//! Every write, with a kill -9 after its answer and at moments before it: what was answered is there, what was not
//! is there as a whole or not at all, fact and record agree, and asking again under the same key does it once.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

use super::{
    rig::{Place, Server, http},
    writes::{ROUTES, World, Write, rows},
};
use crate::rig::http::Http;

/// What the API writes by is what is tried here, with each act there is.
#[test]
fn every_route_that_writes_is_one_of_these() {
    let server = Server::start();
    let document = Http::new(&server).get("/v1/openapi.json").is(200);
    let mut described = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap().iter().filter(|(of, _)| *of != "get") {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let act = parameters.into_iter().find(|of| of["name"] == "act");
            let acts = act.map(|act| act["schema"]["enum"].as_array().expect("words").clone());
            let acts = acts.map(|acts| acts.iter().map(|act| act.as_str().unwrap().to_owned()).collect());
            described.insert(format!("{} {path}", method.to_uppercase()), acts);
        }
    }
    let tried = ROUTES.map(|(route, acts)| {
        let acts: Vec<_> = acts.iter().map(|act| (*act).to_owned()).collect();
        (route.to_owned(), route.ends_with("{act}").then_some(acts))
    });
    assert_eq!(described, tried.into());
}

/// What came of a write, told apart by what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused,
    None,
}

pub(crate) fn read(answer: Option<&http::Answer>) -> Answer {
    match answer {
        None => Answer::None,
        Some(answer) if answer.status < 300 => Answer::Done,
        Some(_) => Answer::Refused,
    }
}

/// Fact and record say the same, and no less than was answered.
#[track_caller]
pub(crate) fn agrees(http: &Http, write: &Write, answer: Answer) {
    let (recorded, seen) = (write.recorded(http), write.is_done(http));
    let told =
        format!("{} {}: {answer:?}, {recorded} on the record, seen: {seen:?}", write.route, write.path);
    assert!(recorded <= 1, "{told}");
    if write.record.is_some() {
        assert!(seen.is_none_or(|seen| seen == (recorded == 1)), "{told}");
        assert!(answer != Answer::Done || write.idle || recorded == 1, "{told}");
    }
}

/// Asked again under its key, it is done once.
#[track_caller]
pub(crate) fn again(http: &Http, write: &Write, key: &str) {
    let before = write.recorded(http);
    let answer = write.ask(http, Some(key)).unwrap();
    if answer.status < 300 {
        return agrees(http, write, Answer::Done);
    }
    // It was begun, and nobody knows whether it was done; or what it was confirmed by is no more.
    let known: &[&str] = match write.route {
        // The link is used up.
        "POST /v1/login" => &["M521"],
        "POST /v1/jobs" => &["M531", "M534"],
        _ => &["M531"],
    };
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    assert!(known.contains(&&*code), "{} {}: {answer:?}", write.route, write.path);
    assert_eq!(write.recorded(http), before, "{} {}", write.route, write.path);
    agrees(http, write, Answer::None);
}

/// Asks for a write and kills the server so much later, or as soon as it has answered: what it ran on, what was
/// answered, and how long that took.
fn struck(
    server: Server,
    http: &Http,
    write: &Write,
    key: &str,
    after: Option<Duration>,
) -> (Place, Answer, Duration) {
    let began = Instant::now();
    let Some(after) = after else {
        let answer = write.ask(http, Some(key));
        let took = began.elapsed();
        return (server.killed(), read(answer.as_ref()), took);
    };
    thread::scope(|scope| {
        let asking = scope.spawn(|| write.ask(http, Some(key)));
        thread::sleep(after);
        let place = server.killed();
        (place, read(asking.join().unwrap().as_ref()), after)
    })
}

/// Kills the server around each of every `parts`th write: once after its answer, then `times` before.
fn kill_around_writes((part, parts): (usize, usize), times: u32) {
    let mut dice = TestRng::from_seed(RngAlgorithm::ChaCha, &[42; 32]);
    let rows: Vec<_> = rows().into_iter().skip(part).step_by(parts).collect();
    let mut server = Server::start();
    let mut world = World::new(&server, &Http::new(&server), rows.len() * (times as usize + 1));
    let (mut all, mut unanswered) = (Vec::new(), 0);
    for row in rows {
        let mut took = Duration::ZERO;
        for turn in 0..=times {
            let http = Http::new(&server);
            let write = world.write(&server, &http, row);
            let key = format!("{turn}-{row:?}").replace(|of: char| !of.is_ascii_alphanumeric(), "-");
            // Anywhere in this turn's share of the time it takes.
            let share = took / times.max(1);
            let after = (turn > 0).then(|| share * (turn - 1) + share * (dice.next_u32() % 1000) / 1000);
            let (place, answer, waited) = struck(server, &http, &write, &key, after);
            if turn == 0 {
                assert_eq!(answer, Answer::Done, "{row:?}");
                took = waited;
            }
            unanswered += usize::from(answer == Answer::None);
            server = Server::start_on(place);
            let http = Http::new(&server);
            agrees(&http, &write, answer);
            again(&http, &write, &key);
            all.push((write, answer));
        }
    }
    let http = Http::new(&server);
    for (write, answer) in &all {
        agrees(&http, write, *answer);
    }
    println!("{} writes, {unanswered} killed before their answer", all.len());
    assert!(unanswered > 0, "no kill came before an answer");
    server.muster(&["audit", "verify"]).exits(0);
}

/// A test for each part of the writes.
macro_rules! parts {
    ($($name:ident $part:literal)+) => {
        mod a_kill_around_any_write_leaves_it_done_or_not_done {
            const PARTS: usize = [$($part),+].len();

            $(#[test]
            fn $name() {
                super::kill_around_writes(($part, PARTS), 3);
            })+
        }
    };
}

parts!(part_1 0 part_2 1 part_3 2 part_4 3 part_5 4 part_6 5 part_7 6 part_8 7 part_9 8 part_10 9 part_11 10
    part_12 11);
