//! Sessions that go on without their connection: what waits for the disk, and what is resumed.

use super::{subscriptions::Subscriptions, *};

const APP: &str = "acme/MU-1/app/x";

/// In flight when the connection ended: tokens 11 at QoS 1 and 12 at QoS 2, sent; 13 at QoS 2, received.
fn left(protocol: Protocol) -> Kept {
    let mut client = Client::durable(protocol, None).subscribed(protocol, &[(APP, 2)]);
    for (token, qos) in [(11, 1), (12, 2), (13, 2)] {
        assert_eq!(client.deliver(token, &downlink(APP, qos)), Ok(None));
        if qos == 2 {
            client.settle(Fate::Stored);
        }
    }
    client.send(&[0x50, 2, 0, 3]);
    client.settle(Fate::Stored);
    client.session.lost(&mut client.out);
    client.session.close_state().expect("it goes on")
}

#[test]
fn what_changes_the_state_is_answered_when_the_state_is_on_disk() {
    for protocol in [V3, V5] {
        let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
        let unsubscribe = packet(0xa2, &[&[0, 4], properties, &text(APP)]);
        let mut client = Client::durable(protocol, None);
        client.said();
        client.send(&subscribe(protocol, &[(APP, 1)]));
        assert!(client.said().is_empty(), "no SUBACK yet");
        let commands = client.commands();
        let [Command::Subscriptions(1), Command::Save(kept)] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!(kept.wants(APP, false), Some(Qos::AtLeastOnce));
        let due = Replay { filter: APP.into(), up_to: 0, after: None };
        assert_eq!(kept.replays, std::slice::from_ref(&due), "what is due is on disk with it");
        assert_eq!(client.session.replay(), None, "retained messages come behind it");
        client.settle(Fate::Stored);
        assert_eq!(client.said()[0], 0x90);
        assert_eq!(client.session.replay(), Some(&due));
        client.send(&unsubscribe);
        assert!(client.said().is_empty(), "no UNSUBACK yet");
        client.settle(Fate::Stored);
        assert_eq!(client.said()[0], 0xb0);
        client.commands();
        client.send(&unsubscribe);
        assert_eq!(client.said()[0], 0xb0, "nothing changed, nothing waits");
        assert_eq!(client.commands(), []);
    }
}

#[test]
fn a_retained_message_is_either_due_or_in_flight() {
    const ALL: &str = "acme/MU-1/app/+";
    for qos in [1, 2] {
        let mut client = Client::durable(V5, None).subscribed(V5, &[(ALL, 2)]);
        client.session.replay_at(APP);
        let message = Delivery { via: Via::Replay(ALL), ..downlink(APP, qos) };
        assert_eq!(client.deliver(5, &message), Ok(None));
        let kept = match &client.commands()[..] {
            [Command::Save(kept)] => (**kept).clone(),
            [Command::Changed] => client.session.kept().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(kept.inflight().collect::<Vec<_>>(), [5]);
        let due = Replay { filter: ALL.into(), up_to: 0, after: Some(APP.into()) };
        assert_eq!(kept.replays, std::slice::from_ref(&due));
        let mut client = Client::durable(V5, Some(kept));
        assert_eq!(client.session.replay(), Some(&due), "it goes on where it was");
        client.session.replayed(&mut client.out);
        assert_eq!(client.session.replay(), None);
        assert_eq!(client.commands(), [Command::Changed], "that it is done goes to the disk");
        assert!(client.session.kept().unwrap().replays.is_empty());
    }
}

#[test]
fn each_subscribe_has_its_retained_messages_and_they_are_bounded() {
    const OTHER: &str = "acme/MU-1/app/y";
    let mut client = Client::durable(V5, None);
    for round in 1..=3 {
        client = client.subscribed(V5, &[(APP, 1), (OTHER, 1)]);
        client.session.replay_at(APP);
        let due = client.session.kept().unwrap().replays;
        assert_eq!(due.len(), 2 * round, "once more for each SUBSCRIBE [MQTT-3.8.4-3]");
        assert_eq!(due[0].after.as_deref(), Some(APP), "the first goes on where it is");
        assert!(due[1..].iter().all(|one| one.after.is_none()));
    }
    for _ in 0..REPLAYS_MAX {
        client = client.subscribed(V5, &[(APP, 1), (OTHER, 1)]);
    }
    let due = client.session.kept().unwrap().replays;
    assert_eq!(due.len(), REPLAYS_MAX);
    assert!(due.iter().all(|one| one.after.is_none()), "the oldest have given way");
    client.send(&packet(0xa2, &[&[0, 4, 0], &text(APP)]));
    let due = client.session.kept().unwrap().replays;
    assert!(!due.is_empty() && due.iter().all(|one| *one.filter == *OTHER), "gone with its subscription");
}

#[test]
fn a_message_and_its_identifier_are_one_commit() {
    let mut client = Client::durable(V5, None);
    client.said();
    client.send(&publish(V5, 2, 7, APP, b"x"));
    client.send(&publish(V5, 2, 8, APP, b"y"));
    let states: Vec<_> = client.appended().into_iter().map(|one| one.state.map(|s| s.unreleased)).collect();
    assert_eq!(states, [Some(vec![7]), Some(vec![7, 8])], "each with what is before it, and no more");
    client.settle(Fate::Stored);
    assert_eq!(client.said(), [0x50, 2, 0, 7]);
    client.send(&[0x62, 2, 0, 7]);
    assert_eq!(client.said(), NOTHING, "forgotten on disk first");
    assert_eq!(client.save().unreleased, [8]);
    client.settle(Fate::Stored);
    assert_eq!(client.said(), [0x50, 2, 0, 8]);
    client.send(&[0x62, 2, 0, 7]);
    assert_eq!(client.said(), NOTHING, "the first PUBCOMP is on its way");
    client.settle(Fate::Stored);
    assert_eq!(client.said(), [0x70, 2, 0, 7]);
}

#[test]
fn a_refused_identifier_is_free_on_disk_before_the_client_knows() {
    let mut client = Client::durable(V5, None);
    client.said();
    client.send(&publish(V5, 2, 7, APP, b"x"));
    client.send(&publish(V5, 1, 8, APP, b"y"));
    client.commands();
    client.settle(Fate::Refused(Code::RetainedFull));
    assert!(client.save().unreleased.is_empty());
    client.settle(Fate::Stored);
    assert_eq!(client.said(), NOTHING, "PUBACK waits behind PUBREC");
    client.settle(Fate::Stored);
    let said = client.said();
    assert_eq!((said[0], said[4]), (0x50, 0x97));
    assert_eq!(said[said.len() - 4..], [0x40, 2, 0, 8]);
}

#[test]
fn a_qos_2_message_leaves_when_its_identifier_is_on_disk() {
    for protocol in [V3, V5] {
        let mut client = Client::durable(protocol, None).subscribed(protocol, &[(APP, 2)]);
        assert_eq!(client.deliver(5, &downlink(APP, 2)), Ok(None));
        assert_eq!(client.said(), NOTHING);
        assert_eq!(client.save().inflight().collect::<Vec<_>>(), [5]);
        assert_eq!(client.deliver(6, &downlink(APP, 1)), Ok(None));
        assert_eq!(client.said(), publish(protocol, 1, 2, APP, b"do"), "QoS 1 need not wait");
        assert_eq!(client.commands(), [Command::Changed]);
        client.settle(Fate::Stored);
        assert_eq!(client.said(), publish(protocol, 2, 1, APP, b"do"));
        assert_eq!(client.commands(), [Command::Changed], "it is behind the other now");
        assert_eq!(client.session.kept().unwrap().inflight().collect::<Vec<_>>(), [6, 5]);
        client.send(&[0x50, 2, 0, 1]);
        assert_eq!(client.said(), NOTHING, "no PUBREL yet");
        let commands = client.commands();
        let [Command::Save(kept), Command::Delivered(5, Ok(Delivered::Acknowledged))] = &commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!(kept.received().collect::<Vec<_>>(), [5]);
        assert_eq!(kept.inflight().collect::<Vec<_>>(), [6]);
        client.settle(Fate::Stored);
        assert_eq!(client.said(), [0x62, 2, 0, 1]);
        client.send(&[0x70, 2, 0, 1]);
        assert_eq!(client.commands(), [Command::Changed]);
    }
}

#[test]
fn a_guessed_acknowledgement_of_what_was_not_sent_ends_the_session() {
    let mut client = Client::durable(V5, None).subscribed(V5, &[(APP, 2)]);
    assert_eq!(client.deliver(5, &downlink(APP, 2)), Ok(None));
    assert_eq!(client.ends(&[0x50, 2, 0, 1]).2, Some(0x82));
    let mut client = Client::durable(V5, None).subscribed(V5, &[(APP, 2)]);
    assert_eq!(client.deliver(5, &downlink(APP, 2)), Ok(None));
    client.settle(Fate::Stored);
    client.send(&[0x50, 2, 0, 1]);
    assert_eq!(client.ends(&[0x70, 2, 0, 1]).2, Some(0x82));
}

#[test]
fn what_was_in_flight_is_sent_again_under_its_identifier() {
    for protocol in [V3, V5] {
        let kept = left(protocol);
        assert_eq!(kept.inflight().collect::<Vec<_>>(), [11, 12]);
        let mut client = Client::durable(protocol, Some(kept));
        let said = client.said();
        assert_eq!(said[2], 1, "session present");
        assert_eq!(said[said.len() - 4..], [0x62, 2, 0, 3], "PUBREL again");
        let expired = Delivery { properties: &[0x02, 0, 0, 0, 1], waited_s: 9, ..downlink(APP, 2) };
        for (token, qos) in [(11, 1u8), (12, 2)] {
            assert_eq!(client.deliver(token, &expired), Ok(None), "[MQTT-4.3.3-7]");
            let said = client.said();
            assert_eq!(said[0], 0x38 | qos << 1, "DUP");
            assert_eq!(said[4 + APP.len()..][..2], [0, token as u8 - 10]);
        }
        assert_eq!(client.deliver(13, &downlink(APP, 2)), Ok(Some(Delivered::Acknowledged)));
        client.session.resumed(&mut client.out);
        assert_eq!((client.said(), client.commands()), (vec![], vec![]));
        client.send(&[0x40, 2, 0, 1]);
        assert_eq!(client.commands()[0], Command::Delivered(11, Ok(Delivered::Acknowledged)));
        assert_eq!(client.deliver(14, &downlink(APP, 1)), Ok(None));
        assert_eq!(client.said(), publish(protocol, 1, 4, APP, b"do"), "the next identifier, no DUP");
    }
}

#[test]
fn what_is_not_there_any_more_is_given_up() {
    let mut client = Client::durable(V5, Some(left(V5)));
    client.said();
    client.session.resumed(&mut client.out);
    assert_eq!(client.said(), [0x62, 2, 0, 2], "the client may hold the identifier");
    let kept = client.session.kept().expect("it runs");
    assert_eq!((kept.inflight().count(), kept.received().collect::<Vec<_>>()), (0, vec![13, 12]));
    client.send(&[0x70, 2, 0, 2, 0x70, 3, 0, 3, 0x92]);
    assert_eq!(client.session.kept().expect("it runs").received().count(), 0);
}

#[test]
fn the_receive_maximum_counts_what_is_sent_on_this_connection() {
    let connect = connect_with(V5, 0, &[0x11, 0, 0, 0, 9, 0x21, 0, 1], &[&text("MU-1")]);
    let mut client = Client::admitted(Principal::Device(name()), &connect, lasting(Some(left(V5))));
    assert!(client.session.has_room());
    assert_eq!(client.deliver(11, &downlink(APP, 1)), Ok(None));
    assert!(!client.session.has_room());
    client.send(&[0x40, 2, 0, 1]);
    assert!(client.session.has_room());
}

#[test]
fn a_message_in_flight_survives_its_subscription() {
    let mut kept = left(V5);
    kept.subscriptions = Subscriptions::default();
    let mut client = Client::durable(V5, Some(kept));
    client.said();
    assert_eq!(client.deliver(11, &downlink(APP, 1)), Ok(None), "[MQTT-3.10.4-3]");
    assert_eq!(client.deliver(20, &downlink(APP, 1)), Err(DeliverError::NotSubscribed));
}

#[test]
fn identifiers_the_client_has_not_released_are_known_on_the_next_connection() {
    let mut client = Client::durable(V5, None);
    for (id, fate) in [(1, Fate::Stored), (2, Fate::Failed), (3, Fate::Stored)] {
        client.send(&publish(V5, 2, id, APP, b"x"));
        if id == 1 {
            client.settle(fate);
        }
    }
    client.session.lost(&mut client.out);
    assert_eq!(client.session.outstanding(), 2);
    client.settle(Fate::Failed);
    client.settle(Fate::Stored);
    client.commands();
    let kept = client.session.close_state().expect("it goes on");
    assert_eq!(kept.unreleased, [1, 3], "the second was not stored");
    assert_eq!(client.session.close_state(), None, "once");
    let mut client = Client::durable(V5, Some(kept));
    client.said();
    for id in 1..=3 {
        client.send(&publish(V5, 2, id, APP, b"x"));
    }
    assert_eq!(client.appended().len(), 1);
    assert_eq!(client.said(), [0x50, 2, 0, 1], "and the third waits for the second");
}

#[test]
fn a_message_of_unknown_fate_is_taken_again() {
    let mut client = Client::durable(V5, None);
    for id in 1..=3 {
        client.send(&publish(V5, 2, id, APP, b"x"));
    }
    client.settle(Fate::Stored);
    client.session.lost(&mut client.out);
    client.settle(Fate::Stored);
    let kept = client.session.close_state().expect("it goes on");
    assert_eq!(kept.unreleased, [1, 2], "nobody knows of the third");
}

#[test]
fn a_session_that_cannot_be_saved_ends() {
    let mut client = Client::durable(V5, None);
    client.send(&subscribe(V5, &[(APP, 1)]));
    client.said();
    client.commands();
    client.settle(Fate::Failed);
    let (farewell, reason) = client.ending();
    assert_eq!((farewell.code, reason), (Code::NotStored, Some(0x83)));
}

#[test]
fn a_session_of_expiry_0_saves_nothing() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol).subscribed(protocol, &[(APP, 2)]);
        assert_eq!(client.deliver(1, &downlink(APP, 2)), Ok(None));
        client.send(&[0x50, 2, 0, 1, 0x70, 2, 0, 1]);
        client.send(&publish(protocol, 2, 1, APP, b"x"));
        client.settle(Fate::Stored);
        client.send(&[0x62, 2, 0, 1]);
        let saves = |c: &Command| matches!(c, Command::Save(_) | Command::Changed);
        assert!(!client.commands().iter().any(saves));
        client.session.lost(&mut client.out);
        assert_eq!(client.session.close_state(), None);
    }
}
