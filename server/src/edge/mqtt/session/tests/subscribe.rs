//! Subscriptions: what is granted, what is refused, what is replayed.

use super::*;

#[test]
fn each_filter_is_granted_or_refused_by_itself() {
    let filters = [
        ("acme/MU-1/#", 2),
        ("acme/MU-2/#", 1),
        ("acme/~all/#", 0),
        ("acme/+/command/+/request", 1),
        ("#", 0),
        ("$SYS/#", 0),
        ("$share/g/acme/MU-1/#", 1),
        ("acme/MU-1/#/x", 1),
        ("", 1),
    ];
    let mut client = Client::connected(V5);
    client.send(&subscribe(V5, &filters));
    let said = client.said();
    assert_eq!(said[said.len() - 9..], [2, 0x87, 0, 0x87, 0x87, 0x87, 0x9e, 0x8f, 0x8f]);
    assert!(String::from_utf8_lossy(&said).contains("M210"));
    let mut commands = client.commands();
    assert_eq!(commands.pop(), Some(Command::Subscriptions(2)));
    let codes = [Code::TopicNotIts; 4];
    let codes =
        codes.into_iter().chain([Code::SharedForServices, Code::FilterMalformed, Code::FilterMalformed]);
    assert_eq!(commands, codes.map(Command::Refused).collect::<Vec<_>>());

    let mut client = Client::connected(V3);
    client.send(&subscribe(V3, &filters));
    let said = client.said();
    assert_eq!(said, [0x90, 11, 0, 9, 2, 0x80, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
}

#[test]
fn a_client_that_wants_no_problem_information_gets_none() {
    let mut client = Client::with(&connect_with(V5, 0b10, &[0x17, 0], &[&text("MU-1")]));
    client.send(&publish(V5, 1, 7, FOREIGN, b"x"));
    assert_eq!(client.said(), [0x40, 3, 0, 7, 0x87]);
    client.send(&subscribe(V5, &[("acme/MU-2/#", 1)]));
    assert_eq!(client.said(), [0x90, 4, 0, 9, 0, 0x87]);
}

#[test]
fn subscriptions_are_bounded_replaced_and_taken_back() {
    let mut client = Client::connected(V5);
    for n in 0..SUBSCRIPTIONS_MAX {
        client.send(&subscribe(V5, &[(&format!("acme/MU-1/app/{n}"), 1)]));
    }
    client.said();
    client.send(&subscribe(V5, &[("acme/MU-1/app/one-more", 1), ("acme/MU-1/app/0", 0)]));
    let said = client.said();
    assert_eq!(said[said.len() - 2..], [0x97, 0]);
    assert!(String::from_utf8_lossy(&said).contains("M224"));
    let unsubscribe = packet(0xa2, &[&[0, 4, 0], &text("acme/MU-1/app/0"), &text("acme/MU-1/app/none")]);
    client.commands();
    client.send(&unsubscribe);
    assert_eq!(client.said(), [0xb0, 5, 0, 4, 0, 0, 0x11]);
    assert_eq!(client.commands(), [Command::Subscriptions(SUBSCRIPTIONS_MAX - 1)]);
    let mut client = Client::connected(V3);
    client.send(&packet(0xa2, &[&[0, 4], &text("acme/MU-1/app/0")]));
    assert_eq!(client.said(), [0xb0, 2, 0, 4]);
}

fn subscribe_with(properties: &[u8], filter: &str, options: u8) -> Vec<u8> {
    packet(0x82, &[&[0, 9, properties.len() as u8], properties, &text(filter), &[options]])
}

fn replays(client: &mut Client) -> Vec<String> {
    let mut filters = Vec::new();
    while let Some(replay) = client.session.replay() {
        filters.push(replay.filter.to_string());
        client.session.replayed(&mut client.out);
    }
    filters
}

const APP: &str = "acme/MU-1/app/x";

#[test]
fn retained_messages_are_due_as_retain_handling_says() {
    for (handling, first, second) in [(0x00, 1, 1), (0x10, 1, 0), (0x20, 0, 0)] {
        let mut client = Client::connected(V5);
        client.send(&subscribe_with(&[], APP, 1 | handling));
        assert_eq!(replays(&mut client).len(), first, "{handling:02x}");
        client.send(&subscribe_with(&[], APP, 1 | handling));
        assert_eq!(replays(&mut client).len(), second, "{handling:02x}, once more");
    }
    let mut client = Client::connected(V3);
    for _ in 0..2 {
        client.send(&subscribe(V3, &[(APP, 1), ("acme/MU-2/#", 1)]));
        assert_eq!(replays(&mut client), [APP], "3.1.1 sends them each time, and none for what is refused");
    }
}

#[test]
fn a_retained_message_comes_by_its_subscription_alone() {
    let mut client = Client::connected(V5);
    client.session.mark(41);
    client.send(&subscribe_with(&[0x0b, 7], "acme/MU-1/#", 0));
    client.session.replayed(&mut client.out);
    client.send(&subscribe_with(&[0x0b, 8], APP, 1));
    assert_eq!(client.commands(), [Command::Subscriptions(1), Command::Subscriptions(2)]);
    let replay = Replay { filter: APP.into(), up_to: 41, after: None };
    assert_eq!(client.session.replay(), Some(&replay));
    client.said();
    let retained = Delivery { via: Via::Replay(APP), retain: true, position: 12, ..downlink(APP, 2) };
    assert_eq!(client.deliver(1, &retained), Ok(None));
    assert_eq!(client.said(), publish_with(0x33, 1, APP, &[0x0b, 8], b"do"), "QoS 1, RETAIN, one identifier");
    let other = Delivery { topic: "acme/MU-1/app/y", ..retained };
    assert_eq!(client.deliver(2, &other), Err(DeliverError::NotSubscribed));
    client.send(&packet(0xa2, &[&[0, 4, 0], &text(APP)]));
    assert_eq!(client.deliver(3, &retained), Err(DeliverError::NotSubscribed), "taken back meanwhile");
}

#[test]
fn a_subscription_finds_what_comes_after_it() {
    let mut client = Client::connected(V5);
    client.session.mark(41);
    client.send(&subscribe(V5, &[(APP, 0)]));
    client.said();
    assert!(!client.session.matches(APP, false, 41));
    assert!(client.session.matches(APP, false, 42));
    let before = Delivery { position: 41, ..downlink(APP, 0) };
    assert_eq!(client.deliver(1, &before), Err(DeliverError::NotSubscribed));
    client.session.mark(50);
    client.send(&subscribe(V5, &[(APP, 1)]));
    assert!(client.session.matches(APP, false, 45), "replaced without a gap [MQTT-3.8.4-3]");
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut client = Client::connected(V5);
    client.send(&subscribe_with(&[], APP, 0b101));
    client.said();
    let own = Delivery { from_self: true, ..downlink(APP, 1) };
    assert_eq!(client.deliver(1, &own), Err(DeliverError::NotSubscribed));
    assert!(!client.session.matches(APP, true, 1) && client.session.matches(APP, false, 1));
    assert_eq!(client.deliver(1, &downlink(APP, 1)), Ok(None));
    client.send(&subscribe_with(&[], "acme/MU-1/#", 0));
    client.said();
    assert_eq!(client.deliver(1, &own), Ok(Some(Delivered::Sent)), "the other subscription wants it");
}

#[test]
fn retain_as_published_passes_the_flag_on() {
    let retained = Delivery { retain: true, ..downlink(APP, 0) };
    for (options, expected) in [(0, 0x30), (0b1000, 0x31)] {
        let mut client = Client::connected(V5);
        client.send(&subscribe_with(&[], APP, options));
        client.said();
        assert!(client.deliver(1, &retained).is_ok());
        assert_eq!(client.said()[0], expected);
        assert!(client.deliver(1, &downlink(APP, 0)).is_ok());
        assert_eq!(client.said()[0], 0x30);
    }
}

#[test]
fn reasons_other_than_authorisation_are_said_too() {
    let mut client = Client::connected(V5);
    for (filter, reason, code) in [
        ("$share/g/acme/MU-1/#", 0x9e, "M225"),
        ("acme/MU-1/#/x", 0x8f, "M223"),
        ("acme/MU-2/#", 0x87, "M210"),
    ] {
        client.send(&subscribe(V5, &[(filter, 0)]));
        let said = client.said();
        assert_eq!(said.last(), Some(&reason), "{filter}");
        assert!(String::from_utf8_lossy(&said).contains(code), "{filter}");
    }
    assert_eq!(client.ends(&subscribe_with(&[], "$share/g/x", 0b100)).2, Some(0x82), "[MQTT-3.8.3-4]");
}
