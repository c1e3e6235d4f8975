//! Topic names and filters, and how one matches the other (§4.7, §3.3.2.1).

use crate::{
    broker::Broker,
    packets::{PUBACK, Publish, V3, V5, subscribe, unsubscribe},
};

async fn refused(broker: &Broker, version: u8, octets: &[u8]) {
    let mut client = broker.client(version, "a").await;
    client.send(octets).await;
    client.closed_for(&[0x81, 0x82, 0x8f, 0x90]).await;
}

/// Not granted: SUBACK says so, or the connection is closed.
async fn not_granted(broker: &Broker, version: u8, filter: &[u8]) {
    let mut client = broker.client(version, "a").await;
    client.send(subscribe(version, 1, &[], &[(filter, 1)])).await;
    if let Some(packet) = client.packet().await {
        let failed = match packet.kind() {
            0x90 => packet.codes()[0],
            _ => packet.reason(),
        };
        assert!(failed >= 0x80, "{:?}: {packet:02x?}", String::from_utf8_lossy(filter));
    }
}

async fn a_topic_name_is_utf_8_and_comes_first(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("é/\u{1f980}", 1).await;
    client.say("é/\u{1f980}", "x").await;
    let packet = client.packet().await.unwrap();
    let topic = "é/\u{1f980}".as_bytes();
    assert_eq!(packet.body[..2 + topic.len()], [&[0, topic.len() as u8], topic].concat());
    for topic in [&[0xff][..], &[0xc3, 0x28], &[0xed, 0xa0, 0x80]] {
        refused(broker, version, &Publish::new(topic, "x").bytes(version)).await;
    }
    // A topic longer than the packet.
    refused(broker, version, &[0x30, 3, 0, 9, b't']).await;
}

async fn a_topic_name_has_no_wildcards(broker: &mut Broker, version: u8) {
    for topic in ["#", "+", "a/#", "a/+/b", "a+", "#a"] {
        for qos in 0..=2 {
            refused(broker, version, &Publish::new(topic, "x").qos(qos).id(1).bytes(version)).await;
        }
    }
}

async fn wildcards_are_for_filters(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    for filter in ["+/+", "/#", "#"] {
        assert_eq!(client.subscribe(filter, 0).await, 0);
    }
    client.say("a/b", "x").await;
    assert_eq!(client.take().await.topic(), "a/b");
    refused(broker, version, &Publish::new("a/+", "x").qos(1).id(1).bytes(version)).await;
}

async fn the_multi_level_wildcard_stands_last(broker: &mut Broker, version: u8) {
    for filter in ["a#", "a/#/b", "#/a", "##", "a/##", "a/b#"] {
        not_granted(broker, version, filter.as_bytes()).await;
    }
    let mut client = broker.client(version, "b").await;
    assert_eq!(client.subscribe("a/b/#", 1).await, 1);
    for topic in ["a", "a/b", "a/b/", "a/b/c", "a/b/c/d", "a/bc", "b", "/a/b"] {
        client.say(topic, topic).await;
    }
    assert_eq!(client.heard().await, ["a/b", "a/b/", "a/b/c", "a/b/c/d"]);
}

async fn the_single_level_wildcard_is_a_level(broker: &mut Broker, version: u8) {
    for filter in ["a+", "+a", "a/+b", "a/b+/c", "++", "a/+#"] {
        not_granted(broker, version, filter.as_bytes()).await;
    }
    for (filter, yes) in [
        ("+", &["a", "b"][..]),
        ("+/+", &["/a", "a/", "a/b", "b/b"]),
        ("/+", &["/a"]),
        ("+/b", &["a/b", "b/b"]),
        ("+/+/+", &["a/b/c", "a//c", "//"]),
        ("a/+/c", &["a/b/c", "a//c"]),
        ("+/", &["a/"]),
    ] {
        let mut client = broker.client(version, "b").await;
        assert_eq!(client.subscribe(filter, 1).await, 1);
        for topic in ["/a", "a", "a/", "a/b", "a/b/c", "a//c", "b", "b/b", "//"] {
            client.say(topic, topic).await;
        }
        assert_eq!(client.heard().await, yes, "{filter}");
    }
}

async fn a_wildcard_does_not_match_a_leading_dollar(broker: &mut Broker, version: u8) {
    let mut wild = broker.client(version, "wild").await;
    for filter in ["#", "+/x", "+/#"] {
        wild.subscribe(filter, 1).await;
    }
    let mut named = broker.client(version, "named").await;
    let granted = named.subscribe("$muster/#", 1).await;
    let mut publisher = broker.client(version, "publisher").await;
    publisher.send(Publish::new("$muster/x", "x").qos(1).id(1).bytes(version)).await;
    let answer = publisher.packet().await;
    let accepted = answer.is_some_and(|answer| answer.kind() == PUBACK && answer.reason() < 0x80);
    assert_eq!(wild.heard().await, [""; 0]);
    if accepted && granted < 0x80 {
        assert_eq!(named.heard().await, ["x"]);
    }
    // A dollar further on is a character.
    let mut publisher = broker.client(version, "publisher").await;
    publisher.say("a/$x", "y").await;
    assert_eq!(wild.heard().await, ["y"]);
}

async fn a_topic_has_a_character(broker: &mut Broker, version: u8) {
    refused(broker, version, &Publish::new("", "x").bytes(version)).await;
    refused(broker, version, &Publish::new("", "x").qos(1).id(1).bytes(version)).await;
    not_granted(broker, version, b"").await;
    let mut client = broker.client(version, "b").await;
    assert_eq!(client.subscribe("/", 1).await, 1, "one character is enough");
    client.say("/", "x").await;
    assert_eq!(client.take().await.topic(), "/");
}

async fn a_topic_has_no_null_character(broker: &mut Broker, version: u8) {
    for topic in [&b"\0"[..], b"a\0", b"a/\0/b"] {
        refused(broker, version, &Publish::new(topic, "x").bytes(version)).await;
        refused(broker, version, &subscribe(version, 1, &[], &[(topic, 1)])).await;
        refused(broker, version, &unsubscribe(version, 1, &[topic])).await;
    }
}

async fn nothing_is_normalised(broker: &mut Broker, version: u8) {
    // One letter, and the same of two characters; cases; spaces; compatibility forms; a slash more.
    let topics = [
        "\u{e9}", "e\u{301}", "A", "a", " a", "a ", "\u{fb01}", "fi", "a/b", "a//b", "/a/b", "a/b/", "%41",
        "a/../a",
    ];
    for topic in topics {
        let mut client = broker.client(version, "a").await;
        client.subscribe(topic, 1).await;
        for topic in topics {
            client.say(topic, topic).await;
        }
        assert_eq!(client.heard().await, [topic]);
    }
}

statements! {
    mqtt5_3_3_2_1 => a_topic_name_is_utf_8_and_comes_first(V5);
    mqtt3_3_3_2_1 => a_topic_name_is_utf_8_and_comes_first(V3);
    mqtt5_3_3_2_2 => a_topic_name_has_no_wildcards(V5);
    mqtt3_3_3_2_2 => a_topic_name_has_no_wildcards(V3);
    mqtt5_4_7_0_1 => wildcards_are_for_filters(V5);
    mqtt3_4_7_1_1 => wildcards_are_for_filters(V3);
    mqtt5_4_7_1_1 => the_multi_level_wildcard_stands_last(V5);
    mqtt3_4_7_1_2 => the_multi_level_wildcard_stands_last(V3);
    mqtt5_4_7_1_2 => the_single_level_wildcard_is_a_level(V5);
    mqtt3_4_7_1_3 => the_single_level_wildcard_is_a_level(V3);
    mqtt5_4_7_2_1 => a_wildcard_does_not_match_a_leading_dollar(V5);
    mqtt3_4_7_2_1 => a_wildcard_does_not_match_a_leading_dollar(V3);
    mqtt5_4_7_3_1 => a_topic_has_a_character(V5);
    mqtt3_4_7_3_1 => a_topic_has_a_character(V3);
    mqtt5_4_7_3_2 => a_topic_has_no_null_character(V5);
    mqtt3_4_7_3_2 => a_topic_has_no_null_character(V3);
    mqtt5_4_7_3_4 => nothing_is_normalised(V5);
    mqtt3_4_7_3_4 => nothing_is_normalised(V3);
}
