//! What is sent again when a client is back, and in which order (§4.4, §4.6, §3.3.1.1).

use crate::{
    broker::Broker,
    client::Client,
    packets::{Connect, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Publish, V3, V5, ack, p, packet},
};

async fn subscribed(broker: &Broker, version: u8, qos: u8) -> Client {
    let mut client = broker.connect(Connect::durable(version, "a")).await;
    client.subscribe("t/#", qos).await;
    client
}

async fn back(broker: &Broker, version: u8) -> Client {
    let (client, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert!(connack.session_present());
    client
}

async fn what_is_sent_again_is_marked(broker: &mut Broker, version: u8) {
    let mut client = subscribed(broker, version, 2).await;
    client.publish(Publish::new("t", "one").qos(1)).await;
    let one = client.message().await;
    client.publish(Publish::new("t", "two").qos(2)).await;
    let two = client.message().await;
    assert!(!one.dup && !two.dup);
    client.reset();
    let mut client = back(broker, version).await;
    for sent in [one, two] {
        let again = client.message().await;
        assert!(again.dup);
        assert_eq!((again.id, again.qos, again.payload), (sent.id, sent.qos, sent.payload));
    }
}

async fn unacknowledged_packets_are_sent_again_and_only_on_a_new_connection(
    broker: &mut Broker,
    version: u8,
) {
    let mut client = subscribed(broker, version, 2).await;
    client.publish(Publish::new("t", "acked").qos(1)).await;
    client.take().await;
    client.publish(Publish::new("t", "released").qos(2)).await;
    let released = client.message().await;
    client.send(ack(PUBREC, released.id)).await;
    client.expect(PUBREL).await;
    client.publish(Publish::new("t", "one").qos(1)).await;
    let one = client.message().await;
    // Not again while the connection is there, however long it takes.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    client.ping().await;
    for restart in [false, true] {
        client.reset();
        if restart {
            broker.restart().await;
        }
        client = back(broker, version).await;
        let mut packets = [client.packet().await.unwrap(), client.packet().await.unwrap()];
        packets.sort_by_key(|packet| packet.first);
        assert_eq!((packets[0].kind(), packets[0].message().id), (PUBLISH, one.id));
        assert_eq!((packets[1].first, packets[1].id()), (PUBREL, released.id));
        client.ping().await;
    }
    client.send(ack(PUBCOMP, released.id)).await;
    client.send(ack(PUBACK, one.id)).await;
    assert_eq!(client.heard().await, [""; 0]);
}

async fn what_is_sent_again_keeps_its_order(broker: &mut Broker, version: u8) {
    let mut client = subscribed(broker, version, 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    for n in 0..12 {
        publisher.publish(Publish::new("t", n.to_string()).qos(1 + n % 2)).await;
    }
    let mut sent = Vec::new();
    for _ in 0..12 {
        let message = client.message().await;
        sent.push((message.id, message.payload));
    }
    client.reset();
    let mut client = back(broker, version).await;
    for sent in sent {
        let message = client.message().await;
        assert_eq!((message.id, message.payload), sent);
    }
}

/// PUBLISHes in one go, some of them refused: answers come in the order of what they answer.
async fn answers_in_order(broker: &Broker, version: u8, qos: u8) {
    let mut client = broker.client(version, "a").await;
    let ids = [9, 3, 0x4321, 4, 1, 0xffff, 2];
    let burst: Vec<u8> =
        ids.iter().flat_map(|id| Publish::new("t", "x").qos(qos).id(*id).bytes(version)).collect();
    client.send(burst).await;
    for id in ids {
        assert_eq!(client.expect(if qos == 1 { PUBACK } else { PUBREC }).await.id(), id);
    }
}

async fn pubacks_come_in_order(broker: &mut Broker, version: u8) {
    answers_in_order(broker, version, 1).await;
}

async fn pubrecs_come_in_order(broker: &mut Broker, version: u8) {
    answers_in_order(broker, version, 2).await;
}

async fn pubrels_come_in_order(broker: &mut Broker, version: u8) {
    let mut client = subscribed(broker, version, 2).await;
    let mut publisher = broker.client(version, "publisher").await;
    let mut ids = Vec::new();
    for n in 0..8 {
        publisher.publish(Publish::new("t", n.to_string()).qos(2)).await;
        ids.push(client.message().await.id);
    }
    // Not the order of the messages: the order of the PUBRECs.
    ids.swap(1, 6);
    ids.swap(0, 3);
    let pubrecs: Vec<u8> = ids.iter().flat_map(|id| ack(PUBREC, *id)).collect();
    client.send(pubrecs).await;
    for id in ids {
        assert_eq!(client.expect(PUBREL).await.id(), id);
    }
}

/// Two publishers at once; each one's messages arrive as it sent them, per topic and QoS.
async fn messages_of_a_topic_come_in_order(broker: &mut Broker, version: u8) {
    const COUNT: usize = 60;
    let mut client = broker.client(version, "listener").await;
    client.subscribe("t/#", 2).await;
    for (id, topic) in [("p", "t/p"), ("q", "t/q")] {
        let mut publisher = broker.client(version, id).await;
        let burst: Vec<u8> = (0..COUNT)
            .flat_map(|n| {
                let publish = Publish::new(topic, n.to_string()).qos((n % 3) as u8);
                publish.id(n as u16 + 1).bytes(version)
            })
            .collect();
        publisher.send(burst).await;
        for _ in 0..COUNT - COUNT / 3 {
            let packet = publisher.packet().await.unwrap();
            assert!([PUBACK, PUBREC].contains(&packet.kind()));
        }
    }
    let mut heard = vec![Vec::new(); 6];
    for message in client.drain().await {
        let publisher = usize::from(message.topic() == "t/q");
        heard[publisher * 3 + usize::from(message.qos)].push(message.says().parse::<usize>().unwrap());
    }
    for (at, heard) in heard.iter().enumerate() {
        let expected: Vec<_> = (0..COUNT).filter(|n| n % 3 == at % 3).collect();
        assert_eq!(*heard, expected, "publisher and QoS {at}");
    }
}

async fn every_topic_is_ordered_even_for_who_was_away(broker: &mut Broker, version: u8) {
    subscribed(broker, version, 2).await.disconnect().await;
    let mut publisher = broker.client(version, "publisher").await;
    for n in 0..30 {
        publisher.publish(Publish::new(format!("t/{}", n % 3), n.to_string()).qos(1)).await;
    }
    let mut client = back(broker, version).await;
    for n in 30..60 {
        publisher.publish(Publish::new(format!("t/{}", n % 3), n.to_string()).qos(1)).await;
    }
    let heard = client.heard().await;
    for rest in 0..3 {
        let of_topic = |n: &usize| n % 3 == rest;
        let heard: Vec<usize> = heard.iter().map(|n| n.parse().unwrap()).filter(of_topic).collect();
        assert_eq!(heard, (0..60).filter(of_topic).collect::<Vec<_>>());
    }
}

async fn answers_nobody_waits_for_harm_nobody(broker: &mut Broker, version: u8) {
    let mut client = subscribed(broker, version, 1).await;
    for kind in [PUBACK, PUBCOMP] {
        client.send(ack(kind, 77)).await;
        client.ping().await;
    }
    client.publish(Publish::new("t", "x").qos(1)).await;
    let message = client.message().await;
    client.send(packet(PUBACK, &[&message.id.to_be_bytes()])).await;
    client.send(packet(PUBACK, &[&message.id.to_be_bytes()])).await;
    assert_eq!(client.heard().await, [""; 0]);
}

/// Retained messages that were sent to a new subscription, in either QoS, beside a fresh one; of a service, and
/// of a device.
async fn retained_messages_under_way_are_sent_again(broker: &mut Broker, version: u8, device: bool) {
    let id = if device { "MU-000001" } else { "a" };
    let open = async |broker: &Broker| {
        let connect = Connect::durable(version, id);
        if !device {
            return broker.connect(connect).await;
        }
        let mut client = broker.open_device(0, version).await;
        assert_eq!(client.connect(&connect).await.reason(), 0);
        client.marks_at("acme/MU-000001/app/mark");
        client
    };
    let mut speaker = broker.client(version, "speaker").await;
    for (n, qos) in [("1", 1), ("2", 2)] {
        let topic = format!("acme/MU-000001/app/{n}");
        let kept = Publish::new(&topic, format!("kept {n}")).qos(qos).retain();
        assert!(speaker.publish(kept).await < 0x80);
    }
    let mut client = open(broker).await;
    let with = if version == V5 { p::subscription_id(7) } else { Vec::new() };
    client.subscribe_with(&with, &[("acme/MU-000001/app/+", 2)]).await;
    speaker.publish(Publish::new("acme/MU-000001/app/fresh", "fresh").qos(1)).await;
    let mut sent = Vec::new();
    while sent.len() < 3 {
        sent.push(client.message().await);
    }
    assert_eq!(sent.iter().filter(|one| one.retain).count(), 2, "{sent:?}");
    // Replaced meanwhile: what was under way is under way still.
    speaker.keep("acme/MU-000001/app/1", "another").await;
    for restart in [false, true] {
        let fresh = if restart { None } else { Some(client.message().await) };
        sent.extend(fresh);
        client.reset();
        if restart {
            broker.restart().await;
        }
        client = open(broker).await;
        for one in &sent {
            let again = client.message().await;
            assert!(again.dup, "{again:?}");
            assert_eq!(
                (again.id, again.qos, again.retain, &again.topic, &again.payload, &again.properties),
                (one.id, one.qos, one.retain, &one.topic, &one.payload, &one.properties)
            );
        }
        client.ping().await;
    }
    for one in &sent {
        client.answer(one).await;
    }
    assert_eq!(client.heard().await, [""; 0]);
    client.disconnect().await;
    // Answered, none comes again; to a new subscription each is due again.
    let mut client = open(broker).await;
    assert_eq!(client.heard().await, [""; 0]);
    client.subscribe("acme/MU-000001/app/+", 2).await;
    assert_eq!(client.heard().await, ["another", "kept 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_retained_and_is_under_way_is_sent_again_as_well() {
    for version in [V3, V5] {
        for device in [false, true] {
            let mut broker = Broker::start().await;
            retained_messages_under_way_are_sent_again(&mut broker, version, device).await;
            broker.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_out_of_place_are_ignored_in_both_versions() {
    let mut broker = Broker::start().await;
    for version in [V3, V5] {
        answers_nobody_waits_for_harm_nobody(&mut broker, version).await;
    }
    broker.stop().await;
}

statements! {
    mqtt5_3_3_1_1 => what_is_sent_again_is_marked(V5);
    mqtt3_3_3_1_1 => what_is_sent_again_is_marked(V3);
    mqtt5_4_4_0_1 => unacknowledged_packets_are_sent_again_and_only_on_a_new_connection(V5);
    mqtt3_4_4_0_1 => unacknowledged_packets_are_sent_again_and_only_on_a_new_connection(V3);
    mqtt5_4_6_0_1 => what_is_sent_again_keeps_its_order(V5);
    mqtt3_4_6_0_1 => what_is_sent_again_keeps_its_order(V3);
    mqtt5_4_6_0_2 => pubacks_come_in_order(V5);
    mqtt3_4_6_0_2 => pubacks_come_in_order(V3);
    mqtt5_4_6_0_3 => pubrecs_come_in_order(V5);
    mqtt3_4_6_0_3 => pubrecs_come_in_order(V3);
    mqtt5_4_6_0_4 => pubrels_come_in_order(V5);
    mqtt3_4_6_0_4 => pubrels_come_in_order(V3);
    mqtt5_4_6_0_5 => messages_of_a_topic_come_in_order(V5);
    mqtt3_4_6_0_6 => messages_of_a_topic_come_in_order(V3);
    mqtt5_4_6_0_6 => every_topic_is_ordered_even_for_who_was_away(V5);
    mqtt3_4_6_0_5 => every_topic_is_ordered_even_for_who_was_away(V3);
}
