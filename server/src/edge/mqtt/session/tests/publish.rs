//! What a client publishes at QoS 0 and 1.

use super::*;

#[test]
fn puback_leaves_only_when_the_message_is_stored() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&publish(protocol, 1, 7, TELEMETRY, b"x"));
        assert_eq!(client.appended().len(), 1);
        assert_eq!(client.said(), NOTHING, "not before");
        client.settle(Fate::Stored);
        assert_eq!(client.said(), [0x40, 2, 0, 7]);
    }
}

#[test]
fn pubacks_leave_in_the_order_of_their_messages() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 7, TELEMETRY, b"x"));
    client.send(&publish(V5, 1, 5, FOREIGN, b"y"));
    client.send(&publish(V5, 0, 0, TELEMETRY, b"z"));
    client.send(&publish(V5, 1, 6, TELEMETRY, b"z"));
    assert_eq!(client.said(), NOTHING, "the refusal waits for what came before it");
    assert_eq!(client.session.outstanding(), 3);
    client.settle(Fate::Stored);
    let said = client.said();
    assert_eq!(said[..6], [0x40, 2, 0, 7, 0x40, said[5]]);
    assert_eq!(said[6..9], [0, 5, 0x87]);
    client.settle(Fate::Stored);
    assert_eq!(client.said(), NOTHING, "QoS 0 has no answer");
    client.settle(Fate::Stored);
    assert_eq!(client.said(), [0x40, 2, 0, 6]);
}

#[test]
fn a_message_that_cannot_be_stored_ends_the_session_without_any_puback() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.send(&publish(protocol, 1, 7, TELEMETRY, b"x"));
        client.send(&publish(protocol, 1, 8, TELEMETRY, b"x"));
        client.commands();
        client.settle(Fate::Failed);
        client.settle(Fate::Stored);
        let said = client.said();
        assert!(!said.contains(&0x40), "{said:02x?}");
        client.out.bytes = said;
        let (farewell, reason) = client.ending();
        assert_eq!(farewell.code, Code::NotStored);
        assert_eq!(reason, (protocol == V5).then_some(0x83));
    }
}

#[test]
fn a_message_refused_at_the_commit_is_refused_with_the_reason() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 7, TELEMETRY, b"x"));
    client.settle(Fate::Refused(Code::DeviceSuspended));
    let said = client.said();
    assert_eq!((said[0], said[4]), (0x40, 0x87));
    assert!(String::from_utf8_lossy(&said).contains("M201 device is suspended"));

    let mut client = Client::connected(V3);
    client.send(&publish(V3, 1, 7, TELEMETRY, b"x"));
    client.commands();
    client.settle(Fate::Refused(Code::DeviceSuspended));
    assert_eq!(client.ending().0.code, Code::DeviceSuspended);
}

#[test]
fn what_is_handed_over_is_what_was_published() {
    let mut client = Client::connected(V5);
    let properties = [&[0x03][..], &text("text/plain"), &[0x26], &text("k"), &text("v")].concat();
    let body = [&text("acme/MU-1/app/a/b")[..], &[0, 3], &[properties.len() as u8], &properties, b"hello"];
    client.send(&packet(0x32, &body));
    let [uplink] = &client.appended()[..] else { panic!("one message") };
    assert_eq!(uplink.topic, "acme/MU-1/app/a/b");
    assert_eq!(uplink.payload, "hello");
    assert_eq!(uplink.properties, properties);
    assert_eq!((uplink.qos, uplink.name), (Qos::AtLeastOnce, None));
}

#[test]
fn a_telemetry_batch_says_its_name_unless_it_is_json() {
    let boot = Boot { install: 9, count: 2 };
    let mut buffer = [0; 64];
    let batch = TelemetryBatch::new(boot, 41, 0).write(&mut buffer).unwrap().to_vec();
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 1, TELEMETRY, &batch));
    let json = [&[0x03][..], &text("application/json")].concat();
    client.send(&packet(0x32, &[&text(TELEMETRY), &[0, 2], &[json.len() as u8], &json, &batch]));
    client.send(&publish(V5, 1, 3, "acme/MU-1/app/x", &batch));
    client.send(&publish(V5, 1, 4, TELEMETRY, b"\xff"));
    let names: Vec<_> = client.appended().into_iter().map(|uplink| uplink.name).collect();
    assert_eq!(names, [Some((boot, 41)), None, None, None]);
}

#[test]
fn a_topic_that_is_not_the_devices_is_refused_and_never_handed_over() {
    let foreign =
        [FOREIGN, "other/MU-1/telemetry/x", "acme/MU-1/twin/desired", "acme/~all/x", "$SYS/x", "x", "/"];
    for topic in foreign {
        let mut client = Client::connected(V5);
        client.send(&publish(V5, 1, 7, topic, b"x"));
        assert_eq!(client.commands(), [Command::Refused(Code::TopicNotIts)], "{topic}");
        let said = client.said();
        assert_eq!((said[0], said[4]), (0x40, 0x87), "{topic}");
        assert!(String::from_utf8_lossy(&said).contains("M210 topic is not the device's"));
        assert!(!client.session.ended());

        let ended = Client::connected(V5).ends(&publish(V5, 0, 0, topic, b"x"));
        assert_eq!(ended, (DisconnectReason::TopicRefused, Code::TopicNotIts, Some(0x87)), "{topic}");
        for qos in [0, 1] {
            let ended = Client::connected(V3).ends(&publish(V3, qos, 7, topic, b"x"));
            assert_eq!(ended, (DisconnectReason::TopicRefused, Code::TopicNotIts, None), "{topic}");
        }
    }
}

#[test]
fn a_response_topic_that_is_not_the_devices_is_refused_like_the_topic() {
    for (response, fine) in
        [("acme/MU-1/app/answer", true), ("acme/MU-2/app/answer", false), (TELEMETRY, false)]
    {
        let mut client = Client::connected(V5);
        let property = [&[0x08][..], &text(response)].concat();
        let body = [&text("acme/MU-1/app/q")[..], &[0, 7], &[property.len() as u8], &property, b"?"];
        client.send(&packet(0x32, &body));
        assert_eq!(matches!(client.commands()[..], [Command::Append(_)]), fine, "{response}");
    }
}

#[test]
fn more_in_flight_than_the_receive_maximum_is_an_error_in_mqtt_5() {
    let mut client = Client::connected(V5);
    for id in 1..=UPLINK_INFLIGHT_MAX {
        client.send(&publish(V5, 1, id, TELEMETRY, b"x"));
    }
    assert!(!client.session.ended());
    assert_eq!(client.ends(&publish(V5, 1, 999, TELEMETRY, b"x")).2, Some(0x93));
}

#[test]
fn what_waits_for_the_log_is_bounded_and_holds_the_client_back() {
    let mut client = Client::connected(V3);
    let one = publish(V3, 1, 7, TELEMETRY, b"x");
    let many = one.repeat(1000);
    let used = client.send(&many);
    assert_eq!(used, one.len() * 2 * usize::from(UPLINK_INFLIGHT_MAX));
    assert!(!client.session.listens());
    assert_eq!(client.session.deadline_ms(), None, "it cannot make itself heard");
    client.now_ms = 500_000;
    client.settle(Fate::Stored);
    assert!(client.session.listens());
    assert_eq!(client.session.deadline_ms(), Some(590_000));
    assert_eq!(client.send(&many[used..]), one.len());
}

#[test]
fn retain_is_handed_on() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        let mut retained = publish(protocol, 1, 7, "acme/MU-1/app/x", b"x");
        retained[0] |= 1;
        client.send(&retained);
        client.send(&publish(protocol, 1, 8, "acme/MU-1/app/x", b"x"));
        let retain: Vec<_> = client.appended().iter().map(|uplink| uplink.retain).collect();
        assert_eq!(retain, [true, false]);
    }
}

#[test]
fn an_alias_stands_for_the_topic_it_was_given_last() {
    let mut client = Client::connected(V5);
    let alias = |n: u8| [0x23, 0, n];
    client.send(&publish_with(0x32, 1, "acme/MU-1/app/a", &alias(32), b"1"));
    let properties = [&[0x01, 1][..], &alias(32), &[0x02, 0, 0, 0, 9]].concat();
    client.send(&publish_with(0x32, 2, "", &properties, b"2"));
    client.send(&publish_with(0x32, 3, "acme/MU-1/app/b", &alias(32), b"3"));
    client.send(&publish_with(0x30, 0, "", &alias(32), b"4"));
    let uplinks = client.appended();
    let said: Vec<_> = uplinks.iter().map(|one| (&one.topic[14..], &one.payload[..])).collect();
    assert_eq!(said, [(&b"a"[..], &b"1"[..]), (b"a", b"2"), (b"b", b"3"), (b"b", b"4")]);
    assert_eq!(uplinks[1].properties, [0x01, 1, 0x02, 0, 0, 0, 9][..], "all but the alias");
    assert!(uplinks[0].properties.is_empty());
}

#[test]
fn an_alias_hides_no_foreign_topic() {
    let mut client = Client::connected(V5);
    client.send(&publish_with(0x32, 1, FOREIGN, &[0x23, 0, 1], b"x"));
    client.send(&publish_with(0x32, 2, "", &[0x23, 0, 1], b"x"));
    assert_eq!(client.commands(), vec![Command::Refused(Code::TopicNotIts); 2]);
    let said = client.said();
    assert_eq!((said[4], said[usize::from(said[1]) + 2 + 4]), (0x87, 0x87));
    assert_eq!(client.ends(&publish_with(0x30, 0, "", &[0x23, 0, 1], b"x")).2, Some(0x87));
    let mut client = Client::connected(V5);
    assert_eq!(client.ends(&publish_with(0x32, 2, "", &[0x23, 0, 1], b"x")).2, Some(0x82), "never given");
}
