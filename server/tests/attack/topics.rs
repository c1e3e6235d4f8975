//! Attempts to speak or hear as somebody else.

use muster_server::registry::Act;
use muster_shared::Code;

use crate::{
    client::{Client, End, V5, code_in, connect, connect_with, packet, publish, text},
    siege::{Siege, withstands},
};

const VICTIM: &str = "acme/MU-000001/app/x";

/// CONNECT is refused with this reason and the connection closed.
async fn refused(siege: &Siege, round: usize, connect: &[u8], reason: u8) {
    let mut client = siege.open(round).await;
    client.send(connect).await;
    let connack = client.packet().await.unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, reason), "{connack:02x?}");
    assert_eq!(client.end().await, End::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_client_id() {
    withstands(async |siege, round| {
        for id in ["MU-000001", "mu-000002", "MU-00000", "service", "MU-000001\u{200b}"] {
            refused(siege, round, &connect(V5, id), 0x85).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcard_in_client_id() {
    withstands(async |siege, round| {
        for id in ["#", "+", "MU-00000+", "MU-000002/#", "acme/MU-000001", "../MU-000001", "$share", "~all"] {
            refused(siege, round, &connect(V5, id), 0x85).await;
        }
    })
    .await;
}

/// Subscribes to several filters; the codes.
async fn codes(client: &mut Client, filters: &[&str]) -> Vec<u8> {
    let mut payload = Vec::new();
    for filter in filters {
        payload.extend(text(filter));
        payload.push(1);
    }
    client.send(&packet(0x82, &[&[0, 9, 0], &payload])).await;
    let suback = client.packet().await.unwrap();
    assert_eq!((suback[0], &suback[2..4]), (0x90, &[0, 9][..]), "{suback:02x?}");
    suback[suback.len() - filters.len()..].to_vec()
}

/// Nothing of the victim's has come: the next thing heard is the answer to a ping.
async fn hears_nothing(client: &mut Client) {
    client.send(&[0xc0, 0]).await;
    assert_eq!(client.packet().await.unwrap(), [0xd0, 0]);
}

/// None of these is granted, and what the victim says is not heard.
async fn not_granted(siege: &Siege, round: usize, filters: &[&str]) {
    let mut client = siege.connected(round).await;
    assert_eq!(codes(&mut client, filters).await, vec![0x87; filters.len()], "{filters:?}");
    let mut watch = siege.watch().await;
    assert_eq!(watch.publish(1, VICTIM, b"secret").await & 0x80, 0);
    hears_nothing(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_filter_of_a_subscribe_foreign() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        let (own, foreign) = (siege.own(round), VICTIM);
        assert_eq!(codes(&mut client, &[&own, foreign, &own]).await, [1, 0x87, 1]);
        let mut watch = siege.watch().await;
        assert_eq!(watch.publish(1, foreign, b"secret").await & 0x80, 0);
        assert_eq!(watch.publish(2, &own, b"its own").await & 0x80, 0);
        let heard = client.packet().await.unwrap();
        assert!(heard.ends_with(b"its own"), "{heard:02x?}");
        hears_nothing(&mut client).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn share_escape() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        let filters = ["$share/g/#", "$share/g/acme/MU-000001/#", "$share/acme/MU-000002/app/x"];
        let codes = codes(&mut client, &filters).await;
        assert!(codes.iter().all(|code| [0x87, 0x9e].contains(code)), "{codes:02x?}");
        let mut watch = siege.watch().await;
        assert_eq!(watch.publish(1, VICTIM, b"secret").await & 0x80, 0);
        hears_nothing(&mut client).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcard_read() {
    withstands(async |siege, round| {
        let filters =
            ["#", "+/#", "acme/#", "acme/+/#", "acme/+/app/x", "+/MU-000001/app/x", "+/+/+/+", "other/#"];
        not_granted(siege, round, &filters).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_will() {
    withstands(async |siege, round| {
        for topic in [VICTIM, "acme/~all/x", "$SYS/x", "acme/MU-000001/presence"] {
            let will = connect_with(V5, 0b0000_1110, 60, &[&text(""), &[0], &text(topic), &text("boo")]);
            refused(siege, round, &will, 0x87).await;
        }
        assert_eq!(siege.stored(VICTIM).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn will_fired_on_kick() {
    withstands(async |siege, round| {
        let will =
            connect_with(V5, 0b0010_1110, 60, &[&text(""), &[0], &text(&siege.own(round)), &text("boo")]);
        let mut client = siege.open(round).await;
        client.send(&will).await;
        assert_eq!(client.packet().await.unwrap()[3], 0);
        siege.site.decide(round + 1, Act::Suspend).await.unwrap().enforced().await.unwrap();
        let said = client.packet().await.unwrap();
        assert_eq!((said[0], code_in(&said)), (0xe0, Some(Code::DeviceSuspended)));
        assert_eq!(client.end().await, End::Clean);
        assert_eq!(siege.stored(&siege.own(round)).await, 0);
    })
    .await;
}

/// PUBLISH of MQTT 5 at QoS 1 with properties.
fn with(topic: &str, id: u16, properties: &[u8]) -> Vec<u8> {
    packet(0x32, &[&text(topic), &id.to_be_bytes(), &[properties.len() as u8], properties, b"x"])
}

#[tokio::test(flavor = "multi_thread")]
async fn alias_that_hides_a_foreign_topic() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        client.send(&with(VICTIM, 1, &[0x23, 0, 1])).await;
        let puback = client.packet().await.unwrap();
        assert_eq!((puback[0], puback[4]), (0x40, 0x87), "{puback:02x?}");
        // The refused PUBLISH named the alias or not; either way it leads nowhere.
        client.send(&with("", 2, &[0x23, 0, 1])).await;
        match client.packet().await.unwrap() {
            puback if puback[0] == 0x40 => assert_eq!(puback[4], 0x87, "{puback:02x?}"),
            said => assert_eq!((said[0], said[2]), (0xe0, 0x82), "{said:02x?}"),
        }
        // One of its own, then the name of another behind it.
        let mut client = siege.connected(round).await;
        client.send(&with(&siege.own(round), 3, &[0x23, 0, 2])).await;
        assert_eq!(client.packet().await.unwrap()[0], 0x40);
        client.send(&with(VICTIM, 4, &[0x23, 0, 2])).await;
        assert_eq!(client.packet().await.unwrap()[4], 0x87);
        assert_eq!(siege.stored(VICTIM).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_response_topic() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        for to in [VICTIM, "acme/MU-000001/command/1/request", "other/x"] {
            let to = [&[0x08][..], &text(to)].concat();
            client.send(&with(&siege.own(round), 1, &to)).await;
            let puback = client.packet().await.unwrap();
            assert_eq!((puback[0], puback[4]), (0x40, 0x87), "{puback:02x?}");
        }
        assert_eq!(siege.stored(&siege.own(round)).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sys_publish() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        for topic in ["$SYS/broker/clients", "$SYS", "$share/g/acme/MU-000001/app/x", "$"] {
            let reason = client.publish(1, topic, b"x").await;
            assert!([0x87, 0x90].contains(&reason), "{topic}: {reason:02x}");
        }
        client.send(&publish(V5, 0, 0, "$SYS/x", b"x")).await;
        let said = client.packet().await.unwrap();
        assert_eq!(said[0], 0xe0, "{said:02x?}");
        assert_eq!(siege.stored("$").await, 0);
    })
    .await;
}
