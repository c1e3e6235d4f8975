//! What a client is sent at QoS 0 and 1.

use super::*;

#[test]
fn a_message_is_delivered_once_at_the_qos_granted_and_acknowledged() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&subscribe(protocol, &[("acme/MU-1/#", 0), ("acme/MU-1/command/+/request", 1)]));
        client.said();
        client.commands();
        assert_eq!(client.session.deliver(5, &downlink(REQUEST, 1), &mut client.out), Ok(None));
        assert_eq!(client.said(), publish(protocol, 1, 1, REQUEST, b"do"));
        client.send(&[0x40, 2, 0, 1, 0x40, 2, 0, 1]);
        assert_eq!(client.commands(), [Command::Delivered(5, Ok(Delivered::Acknowledged))], "once");
        let sent = client.session.deliver(6, &downlink("acme/MU-1/twin/desired", 1), &mut client.out);
        assert_eq!(sent, Ok(Some(Delivered::Sent)), "the wide filter was granted QoS 0");
        assert_eq!(client.said(), publish(protocol, 0, 0, "acme/MU-1/twin/desired", b"do"));
    }
}

#[test]
fn delivery_is_narrowed_to_what_the_device_may_read() {
    let mut client = Client::connected(V5);
    client.send(&subscribe(V5, &[("acme/MU-1/#", 1), ("acme/~all/#", 1)]));
    client.said();
    for (topic, fine) in [
        (REQUEST, true),
        ("acme/MU-1/app/x", true),
        ("acme/~all/news", true),
        (TELEMETRY, false),
        ("acme/MU-1/presence", false),
        ("acme/MU-2/app/x", false),
        ("acme/MU-1/credential/csr", false),
    ] {
        let sent = client.session.deliver(1, &downlink(topic, 0), &mut client.out);
        assert_eq!(sent.is_ok(), fine, "{topic}");
        assert_eq!(!client.said().is_empty(), fine, "{topic}");
    }
}

#[test]
fn the_devices_limits_on_what_it_is_sent_are_kept() {
    let properties = [0x21, 0, 2, 0x27, 0, 0, 0, 64];
    let mut client = Client::with(&connect_with(V5, 0b10, &properties, &[&text("MU-1")]));
    client.send(&subscribe(V5, &[("acme/MU-1/#", 1)]));
    client.said();
    client.commands();
    for token in [1, 2] {
        assert!(client.session.has_room());
        assert_eq!(client.session.deliver(token, &downlink(REQUEST, 1), &mut client.out), Ok(None));
    }
    assert!(!client.session.has_room(), "receive maximum 2");
    client.send(&[0x40, 3, 0, 1, 0x83]);
    assert_eq!(client.commands(), [Command::Delivered(1, Err(DeliverError::Refused(0x83)))]);
    assert!(client.session.has_room());
    client.said();
    let payload = vec![0; 64].into();
    let big = Delivery { payload: &payload, ..downlink(REQUEST, 1) };
    assert_eq!(client.session.deliver(3, &big, &mut client.out), Err(DeliverError::TooLarge));
    assert_eq!(client.said(), NOTHING);
    let mut client = Client::connected(V3);
    client.send(&subscribe(V3, &[("acme/MU-1/#", 1)]));
    for token in 0..u64::from(DOWNLINK_INFLIGHT_MAX) {
        assert!(client.session.has_room());
        assert_eq!(client.session.deliver(token, &downlink(REQUEST, 1), &mut client.out), Ok(None));
    }
    assert!(!client.session.has_room());
}

#[test]
fn a_subscription_identifier_comes_with_what_it_found() {
    let mut client = Client::connected(V5);
    client.send(&packet(0x82, &[&[0, 9, 3, 0x0b, 0x80, 0x01], &text("acme/MU-1/#"), &[1]]));
    client.said();
    assert_eq!(client.session.deliver(1, &downlink(REQUEST, 0), &mut client.out), Ok(Some(Delivered::Sent)));
    let expected = packet(0x30, &[&text(REQUEST), &[3, 0x0b, 0x80, 0x01], b"do"]);
    assert_eq!(client.said(), expected);
}

#[test]
fn packet_identifiers_wrap_and_skip_what_is_in_flight() {
    let mut client = Client::connected(V3);
    client.send(&subscribe(V3, &[("acme/MU-1/#", 1)]));
    client.said();
    assert_eq!(client.session.deliver(0, &downlink(REQUEST, 1), &mut client.out), Ok(None));
    for round in 0..70_000u64 {
        client.said();
        assert_eq!(client.session.deliver(round, &downlink(REQUEST, 1), &mut client.out), Ok(None));
        let said = client.said();
        let at = 4 + REQUEST.len();
        let id = &said[at..at + 2];
        assert!(id != [0, 0] && id != [0, 1], "0 is no identifier and 1 is in flight");
        client.send(&[0x40, 2, id[0], id[1]]);
    }
}

const APP: &str = "acme/MU-1/app/x";

#[test]
fn overlapping_subscriptions_get_one_copy_with_all_their_identifiers() {
    let mut client = Client::connected(V5);
    for (id, filter, qos) in [(1, "acme/MU-1/#", 0), (2, "acme/MU-1/app/+", 1), (3, "acme/MU-1/app/y", 2)] {
        client.send(&packet(0x82, &[&[0, 9, 2, 0x0b, id], &text(filter), &[qos]]));
    }
    client.send(&subscribe(V5, &[(APP, 0)]));
    client.said();
    assert_eq!(client.deliver(1, &downlink(APP, 2)), Ok(None));
    assert_eq!(client.said(), publish_with(0x32, 1, APP, &[0x0b, 1, 0x0b, 2], b"do"));
}

#[test]
fn properties_are_passed_on_as_they_came_and_dropped_for_3() {
    let raw = [&[0x03][..], &text("text/plain"), &[0x09, 0, 1, 9], &[0x26], &text("k"), &text("v")].concat();
    let message = Delivery { properties: &raw, ..downlink(APP, 0) };
    let mut client = Client::connected(V5).subscribed(V5, &[(APP, 0)]);
    assert!(client.deliver(1, &message).is_ok());
    assert_eq!(client.said(), publish_with(0x30, 0, APP, &raw, b"do"));
    let mut client = Client::connected(V3).subscribed(V3, &[(APP, 0)]);
    assert!(client.deliver(1, &message).is_ok());
    assert_eq!(client.said(), publish(V3, 0, 0, APP, b"do"));
}

#[test]
fn a_message_grows_old_and_expires() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol).subscribed(protocol, &[(APP, 1)]);
        let message = Delivery { properties: &[0x02, 0, 0, 1, 0], ..downlink(APP, 0) };
        assert!(client.deliver(1, &Delivery { waited_s: 255, ..message }).is_ok());
        if protocol == V5 {
            assert_eq!(client.said(), publish_with(0x30, 0, APP, &[0x02, 0, 0, 0, 1], b"do"));
        }
        client.said();
        for waited_s in [256, u32::MAX] {
            let old = Delivery { waited_s, ..message };
            assert_eq!(client.deliver(1, &old), Err(DeliverError::Expired));
        }
        assert_eq!(client.said(), NOTHING);
        let now = Delivery { properties: &[0x02, 0, 0, 0, 0], ..downlink(APP, 0) };
        assert!(client.deliver(1, &now).is_ok(), "to whoever is there at once");
        assert_eq!(client.deliver(1, &Delivery { waited_s: 1, ..now }), Err(DeliverError::Expired));
    }
}

#[test]
fn a_client_that_remembers_aliases_is_sent_topics_once() {
    let two = connect_with(V5, 0b10, &[0x22, 0, 2], &[&text("MU-1")]);
    let mut client = Client::with(&two).subscribed(V5, &[("acme/MU-1/app/+", 0)]);
    let mut sent = |topic: &str| {
        assert!(client.deliver(1, &downlink(topic, 0)).is_ok());
        client.said()
    };
    let (a, b, c) = ("acme/MU-1/app/a", "acme/MU-1/app/b", "acme/MU-1/app/c");
    let with = |topic: &str, alias: u8| publish_with(0x30, 0, topic, &[0x23, 0, alias], b"do");
    let conversation = [
        (a, with(a, 1)),
        (a, with("", 1)),
        (b, with(b, 2)),
        (b, with("", 2)),
        (c, with(c, 1)),
        (a, with(a, 2)),
        (c, with("", 1)),
    ];
    for (topic, expected) in conversation {
        assert_eq!(sent(topic), expected, "{topic}");
    }
}

#[test]
fn a_message_as_large_as_any_client_could_send_can_be_delivered() {
    let mut client = Client::connected(V5);
    client.send(&packet(0x82, &[&[0, 9, 5, 0x0b, 0xff, 0xff, 0xff, 0x7f], &text(APP), &[1]]));
    client.said();
    let payload = vec![0; PACKET_MAX - APP.len()].into();
    let large = Delivery { payload: &payload, ..downlink(APP, 1) };
    assert_eq!(client.deliver(1, &large), Ok(None));
    let payload = vec![0; PACKET_MAX - APP.len() + 1].into();
    let larger = Delivery { payload: &payload, ..downlink(APP, 1) };
    assert_eq!(client.deliver(2, &larger), Err(DeliverError::TooLarge));
}
