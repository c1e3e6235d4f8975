//! QoS 2, both ways.

use super::*;
use crate::edge::limits::UNRELEASED_MAX;

#[test]
fn qos_2_acknowledgements_answer_nothing_and_grow_nothing() {
    let mut client = Client::connected(V5);
    client.send(&[0x62, 2, 0, 5, 0x50, 2, 0, 5, 0x70, 2, 0, 5, 0x40, 2, 0, 5]);
    assert_eq!(client.said(), [0x70, 3, 0, 5, 0x92, 0x62, 3, 0, 5, 0x92]);
    assert_eq!(client.commands(), []);
    let mut client = Client::connected(V3);
    client.send(&[0x62, 2, 0, 5]);
    assert_eq!(client.said(), [0x70, 2, 0, 5]);
}

const APP: &str = "acme/MU-1/app/x";
const NOT_FOUND: u8 = 0x92;

#[test]
fn pubrec_leaves_only_when_the_message_is_stored_and_pubcomp_frees_its_identifier() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&publish(protocol, 2, 7, APP, b"x"));
        let [uplink] = &client.appended()[..] else { panic!("one message") };
        assert_eq!((uplink.qos, &uplink.state), (Qos::ExactlyOnce, &None), "nothing to keep");
        assert_eq!(client.said(), NOTHING, "not before");
        client.settle(Fate::Stored);
        assert_eq!(client.said(), [0x50, 2, 0, 7]);
        client.send(&[0x62, 2, 0, 7]);
        assert_eq!(client.said(), [0x70, 2, 0, 7]);
        client.send(&publish(protocol, 2, 7, APP, b"another"));
        assert_eq!(client.appended().len(), 1, "the identifier was free");
    }
}

#[test]
fn a_message_that_comes_twice_is_taken_once() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        let mut again = publish(protocol, 2, 7, APP, b"x");
        client.send(&again);
        again[0] |= 0b1000;
        client.send(&again);
        assert_eq!(client.appended().len(), 1);
        client.settle(Fate::Stored);
        assert_eq!(client.said(), [0x50, 2, 0, 7], "one PUBREC for what came before it");
        client.send(&again);
        assert_eq!(client.said(), [0x50, 2, 0, 7]);
        assert_eq!(client.commands(), []);
    }
}

#[test]
fn answers_at_both_levels_leave_in_the_order_of_their_messages() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 2, 1, APP, b"x"));
    client.send(&publish(V5, 1, 2, APP, b"x"));
    client.send(&publish(V5, 2, 3, FOREIGN, b"x"));
    client.settle(Fate::Stored);
    client.settle(Fate::Stored);
    let said = client.said();
    assert_eq!(said[..8], [0x50, 2, 0, 1, 0x40, 2, 0, 2]);
    assert_eq!((said[8], &said[10..13]), (0x50, &[0, 3, 0x87][..]));
}

#[test]
fn a_refused_message_leaves_its_identifier_free() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 2, 7, APP, b"x"));
    client.appended();
    client.settle(Fate::Refused(Code::RetainedFull));
    assert_eq!(client.said()[4], 0x97);
    client.send(&publish(V5, 2, 7, APP, b"y"));
    assert_eq!(client.appended().len(), 1);
    let mut client = Client::connected(V3);
    client.send(&publish(V3, 2, 7, APP, b"x"));
    client.settle(Fate::Refused(Code::RetainedFull));
    assert_eq!(client.ending().0.code, Code::RetainedFull);
}

#[test]
fn no_pubcomp_before_a_pubrec() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&publish(protocol, 2, 7, APP, b"x"));
        client.commands();
        let (why, _, reason) = client.ends(&[0x62, 2, 0, 7]);
        assert_eq!((why, reason), (PROTOCOL_ERROR, (protocol == V5).then_some(0x82)));
    }
}

#[test]
fn a_flood_that_is_never_released_is_bounded() {
    let mut client = Client::connected(V5);
    for id in 1..=UPLINK_INFLIGHT_MAX {
        client.send(&publish(V5, 2, id, APP, b"x"));
        client.settle(Fate::Stored);
    }
    assert!(!client.session.ended());
    client.commands();
    client.said();
    assert_eq!(client.ends(&publish(V5, 2, 999, APP, b"x")).2, Some(0x93));
    let mut client = Client::connected(V3);
    for id in 1..=UNRELEASED_MAX as u16 {
        client.send(&publish(V3, 2, id, APP, b"x"));
        client.settle(Fate::Stored);
    }
    assert!(!client.session.ended());
    client.send(&publish(V3, 2, 1, APP, b"x"));
    assert!(!client.session.ended(), "a repetition is no new one");
    client.send(&publish(V3, 2, 9999, APP, b"x"));
    assert!(client.session.ended());
}

#[test]
fn a_message_is_sent_and_released() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol).subscribed(protocol, &[("acme/MU-1/#", 2)]);
        assert_eq!(client.deliver(5, &downlink(APP, 2)), Ok(None));
        assert_eq!(client.said(), publish(protocol, 2, 1, APP, b"do"));
        client.send(&[0x50, 2, 0, 1]);
        assert_eq!(client.said(), [0x62, 2, 0, 1]);
        assert_eq!(client.commands(), [Command::Delivered(5, Ok(Delivered::Acknowledged))]);
        client.send(&[0x50, 2, 0, 1]);
        assert_eq!(client.said(), [0x62, 2, 0, 1], "once more");
        client.send(&[0x70, 2, 0, 1]);
        assert_eq!((client.said(), client.commands()), (vec![], vec![]));
        client.send(&[0x50, 2, 0, 1]);
        let unknown: &[u8] = if protocol == V5 { &[0x62, 3, 0, 1, NOT_FOUND] } else { &[0x62, 2, 0, 1] };
        assert_eq!(client.said(), unknown);
    }
}

#[test]
fn the_lower_of_both_levels_is_used() {
    let filters = [("acme/MU-1/app/0", 0), ("acme/MU-1/app/1", 1), ("acme/MU-1/app/2", 2)];
    let mut client = Client::connected(V5).subscribed(V5, &filters);
    for (granted, (topic, _)) in filters.iter().enumerate() {
        for published in 0..3 {
            let sent = client.deliver(1, &downlink(topic, published));
            assert!(sent.is_ok());
            let qos = client.said()[0] >> 1 & 0b11;
            assert_eq!(usize::from(qos), granted.min(usize::from(published)), "{topic} {published}");
        }
    }
}

#[test]
fn receive_maximum_counts_until_pubcomp() {
    let one = connect_with(V5, 0b10, &[0x21, 0, 1], &[&text("MU-1")]);
    let mut client = Client::with(&one).subscribed(V5, &[("acme/MU-1/#", 2)]);
    assert_eq!(client.deliver(1, &downlink(APP, 2)), Ok(None));
    assert!(!client.session.has_room());
    client.send(&[0x50, 2, 0, 1]);
    assert!(!client.session.has_room(), "PUBREC is not the end");
    client.send(&[0x70, 2, 0, 1]);
    assert!(client.session.has_room());
    assert_eq!(client.deliver(2, &downlink(APP, 2)), Ok(None));
    client.commands();
    client.send(&[0x50, 3, 0, 2, 0x83]);
    assert_eq!(client.commands(), [Command::Delivered(2, Err(DeliverError::Refused(0x83)))]);
    assert!(client.session.has_room(), "a refusal is");
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_ends_the_session() {
    for (qos, answer) in [(2, [0x40, 2, 0, 1]), (1, [0x50, 2, 0, 1])] {
        let mut client = Client::connected(V5).subscribed(V5, &[("acme/MU-1/#", 2)]);
        assert_eq!(client.deliver(1, &downlink(APP, qos)), Ok(None));
        assert_eq!(client.ends(&answer).2, Some(0x82));
    }
}
