//! The search against the plain one: every topic, one after the other.

use proptest::prelude::*;

use super::*;
use crate::uplink::{Message, Publisher, StoredPublisher};

fn entry(topic: &str, position: u64, expires_ms: Option<u64>) -> Entry {
    let publisher =
        Publisher::Service { tenant: None, name: "ops".into(), client_id: "1".into(), shown: None };
    let message = Message {
        publisher,
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        payload: Bytes::from_static(b"x"),
        qos: 1,
        retain: true,
        name: None,
        properties: Bytes::new(),
        received_ms: position,
        state: None,
    };
    let mut body = segment::begin();
    segment::push(&mut body, &message, |_| unreachable!("a service has no device's name"));
    Entry { position: Position(position), body: body.into(), expires_ms, owner: None }
}

fn holding<'t>(topics: impl IntoIterator<Item = (&'t str, Option<u64>)>) -> Retained {
    let retained = Retained::default();
    let all = topics.into_iter().zip(1..).map(|((topic, ends), n)| (topic.into(), entry(topic, n, ends)));
    retained.replace(all.collect());
    retained
}

fn topics(found: &[RetainedMessage]) -> Vec<String> {
    found.iter().map(|found| String::from_utf8(found.message.topic.to_vec()).unwrap()).collect()
}

#[test]
fn a_message_is_found_where_it_stands_as_long_as_it_is_retained() {
    let retained = holding([("a", None), ("b", None)]);
    assert_eq!(retained.at(Position(2)).unwrap().topic, "b");
    retained.apply(BTreeMap::from([("b".into(), Some(entry("b", 7, None))), ("a".into(), None)]));
    assert_eq!((retained.at(Position(1)), retained.at(Position(2))), (None, None));
    assert_eq!(retained.at(Position(7)).unwrap().topic, "b");
}

/// Levels that sort before, at and after `/`, share beginnings, or are empty.
fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "a", "a-", "a0", "aa", "b", "b.", "$s", "ü", "~all"])
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => level(), 2 => Just("+")];
    (prop::collection::vec(part, 0..5), any::<bool>()).prop_map(|(mut levels, all)| {
        if all || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_topic_that_matches_is_found_in_order_and_in_portions(
        all in prop::collection::btree_map(topic(), any::<Option<bool>>(), 0..40),
        filter in filter(),
        portion in 1_usize..5,
    ) {
        // Some are over at 10, some end later, some never.
        let ends = |over: &Option<bool>| over.map(|over| if over { 10 } else { 11 });
        let retained = holding(all.iter().map(|(topic, over)| (topic.as_str(), ends(over))));
        let expected: Vec<_> = all
            .iter()
            .filter(|(topic, over)| matches(&filter, topic) && **over != Some(true))
            .map(|(topic, _)| topic.as_str())
            .collect();
        prop_assert_eq!(topics(&retained.matching(&filter, None, usize::MAX, 10)), expected.clone());
        let mut found: Vec<String> = Vec::new();
        loop {
            let some = retained.matching(&filter, found.last().map(String::as_str), portion, 10);
            found.extend(topics(&some));
            if some.len() < portion {
                break;
            }
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_filter_is_searched_for(filter in any::<String>(), all in prop::collection::btree_set(any::<String>(), 0..9)) {
        let retained = holding(all.iter().map(|topic| (topic.as_str(), None)));
        let expected: Vec<_> = all.iter().map(String::as_str).filter(|topic| matches(&filter, topic)).collect();
        prop_assert_eq!(topics(&retained.matching(&filter, None, usize::MAX, 0)), expected);
    }
}

#[test]
fn a_message_is_shown_as_it_was_stored_until_its_time_is_over() {
    let retained = holding([("acme/MU-1/twin/desired", Some(500))]);
    let found = retained.matching("acme/MU-1/#", None, 9, 499);
    let [found] = &found[..] else { panic!("one message") };
    assert_eq!((found.position, found.expires_ms), (Position(1), Some(500)));
    let StoredPublisher::Service { name, .. } = &found.message.publisher else { panic!("a service's") };
    assert_eq!((&**name, found.message.retain, &found.message.payload[..]), ("ops", true, b"x".as_slice()));
    assert!(retained.matching("acme/MU-1/#", None, 9, 500).is_empty());
    assert_eq!(retained.len(), 1, "it goes with the next commit");
}

#[test]
fn what_is_committed_is_shown_and_what_is_removed_is_not() {
    let retained = holding([("a", None), ("b", None)]);
    retained.apply([("a".into(), None), ("c".into(), Some(entry("c", 9, None)))].into());
    assert_eq!(topics(&retained.matching("#", None, 9, 0)), ["b", "c"]);
    retained.replace([("d".into(), entry("d", 10, None))].into());
    assert_eq!(topics(&retained.matching("#", None, 9, 0)), ["d"]);
    assert_eq!(topics(&retained.matching("#", None, 0, 0)), [""; 0]);
}
