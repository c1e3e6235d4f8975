//! Every normative statement of both specifications by its number: what it asks in a few words of ours, and
//! the test that shows it or the reason why there is none.
//!
//! The numbers are those of appendix B of MQTT 5.0 (OASIS Standard, 7 March 2019) and of appendix B of MQTT
//! 3.1.1 (OASIS Standard, 29 October 2014), where a number is printed in several spellings the regular one.
//! Chapter 6 of both, on WebSocket, and chapter 7 of 3.1.1 included.

mod v3;
mod v5;

use std::collections::BTreeSet;

use crate::not_applicable;

/// A statement, and the test that shows it.
pub(crate) struct Statement {
    /// Without "MQTT-".
    pub(crate) number: &'static str,
    /// What it asks of a server.
    pub(crate) asks: &'static str,
    /// `None`: the test named after it.
    pub(crate) shared: Option<&'static str>,
}

/// Shown by the test named after it.
pub(crate) const fn own(number: &'static str, asks: &'static str) -> Statement {
    Statement { number, asks, shared: None }
}

/// Shown by an exchange another statement's test has already.
pub(crate) const fn by(number: &'static str, asks: &'static str, test: &'static str) -> Statement {
    Statement { number, asks, shared: Some(test) }
}

impl Statement {
    /// The test that shows it.
    fn test(&self, specification: u8) -> String {
        match self.shared {
            Some(test) => test.to_owned(),
            None => format!("mqtt{specification}_{}", self.number.replace(['.', '-'], "_")),
        }
    }
}

/// Statements of MQTT 5.0 in chapters 1 to 4 and 6.
const ALL_V5: usize = 251;
/// Statements of MQTT 3.1.1 in chapters 1 to 4, 6 and 7.
const ALL_V3: usize = 141;

fn every_test() -> BTreeSet<&'static str> {
    use crate::{
        alias, connack, connect, connect_form, delivery, disconnect, expiry, flow, malformed, properties,
        qos1, qos2, resend, retain, session, shared, subscribe, subscribe_form, topics, trouble, unsubscribe,
        will,
    };
    let all = [
        alias::TESTS,
        connack::TESTS,
        connect::TESTS,
        connect_form::TESTS,
        delivery::TESTS,
        disconnect::TESTS,
        expiry::TESTS,
        flow::TESTS,
        malformed::TESTS,
        properties::TESTS,
        qos1::TESTS,
        qos2::TESTS,
        resend::TESTS,
        retain::TESTS,
        session::TESTS,
        shared::TESTS,
        subscribe::TESTS,
        subscribe_form::TESTS,
        topics::TESTS,
        trouble::TESTS,
        unsubscribe::TESTS,
        will::TESTS,
    ];
    all.into_iter().flatten().copied().collect()
}

#[test]
fn every_statement_has_a_test_or_a_reason() {
    let tests = every_test();
    let mut unused = tests.clone();
    let mut missing = Vec::new();
    let (mut tested, mut listed) = (0, 0);
    for (specification, all, shown, not) in
        [(5, ALL_V5, v5::SHOWN, not_applicable::V5), (3, ALL_V3, v3::SHOWN, not_applicable::V3)]
    {
        let mut numbers = BTreeSet::new();
        let mut shared = 0;
        for statement in shown {
            assert!(!statement.asks.is_empty() && numbers.insert(statement.number), "{}", statement.number);
            let test = statement.test(specification);
            shared += usize::from(statement.shared.is_some());
            match tests.get(test.as_str()) {
                Some(test) => drop(unused.remove(test)),
                None => missing.push(format!("[MQTT-{}] of {specification}: {test}", statement.number)),
            }
        }
        for (number, _) in not {
            assert!(numbers.insert(number), "{number} has a test");
        }
        tested += shown.len();
        listed += not.len();
        println!(
            "MQTT {specification}: {} statements, {} with a test of their own, {shared} with another's, \
             {} not for a server of this kind",
            numbers.len(),
            shown.len() - shared,
            not.len(),
        );
        assert_eq!(numbers.len(), all, "the specification has as many");
    }
    // What `cargo verify` shows of this test though it passes.
    println!("MQTT statements: {tested} tested, {listed} listed");
    assert!(missing.is_empty(), "without a test: {missing:#?}");
    assert!(unused.is_empty(), "tests of no statement: {unused:?}");
}
