//! Retained messages that are due to a subscription and had no room yet when the connection ended: they are
//! pending, as what waits in a queue is (MQTT 5.0 §4.1, 3.1.1 §3.1.2.4).

use crate::{
    broker::Broker,
    client::Client,
    packets::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, V3, V5, ack, p},
    reading::Message,
};

const FILTER: &str = "acme/MU-000001/app/kept/+";

fn topic(n: usize) -> String {
    format!("acme/MU-000001/app/kept/{n:03}")
}

/// A client whose session goes on; in MQTT 5 one that takes two messages at a time.
async fn open(broker: &Broker, version: u8, device: bool, present: bool) -> Client {
    let connect = Connect::durable(version, if device { "MU-000001" } else { "a" });
    let connect = if version == V5 { connect.property(p::receive_max(2)) } else { connect };
    let (mut client, connack) = if device {
        let mut client = broker.open_device(0, version).await;
        let connack = client.connect(&connect).await;
        (client, connack)
    } else {
        broker.connecting(connect).await
    };
    assert_eq!((connack.reason(), connack.session_present()), (0, present));
    client.marks_at("acme/MU-000001/app/mark");
    client
}

/// What it takes at once.
fn window(version: u8, device: bool) -> usize {
    match (version, device) {
        (V5, _) => 2,
        (_, true) => 32,
        (_, false) => 256,
    }
}

async fn told(client: &mut Client, count: usize) -> Vec<Message> {
    let mut told = Vec::new();
    while told.len() < count {
        told.push(client.message().await);
    }
    told
}

/// Answers these, and takes so many more, answered.
async fn answered(client: &mut Client, first: &[Message], count: usize) -> Vec<Message> {
    let answer = |one: &Message| ack(if one.qos == 1 { PUBACK } else { PUBREC }, one.id);
    client.send(first.iter().flat_map(answer).collect::<Vec<u8>>()).await;
    let mut open = first.iter().filter(|one| one.qos == 2).count();
    let mut told = Vec::new();
    while open > 0 || told.len() < count {
        let packet = client.packet().await.unwrap();
        if packet.kind() == PUBREL & 0xf0 {
            client.send(ack(PUBCOMP, packet.id())).await;
            open -= 1;
        } else {
            let message = packet.message();
            client.send(answer(&message)).await;
            open += usize::from(message.qos == 2);
            told.push(message);
        }
    }
    told
}

async fn what_had_no_room_comes_when_the_client_is_back(
    broker: &mut Broker,
    version: u8,
    device: bool,
    restart: bool,
) {
    let window = window(version, device);
    let count = window + 5;
    let mut speaker = broker.client(version, "speaker").await;
    for n in 0..count {
        let kept = Publish::new(topic(n), n.to_string()).qos(1 + (n % 2) as u8).retain();
        assert!(speaker.publish(kept).await < 0x80);
    }
    let mut client = open(broker, version, device, false).await;
    client.subscribe(FILTER, 2).await;
    // Nothing else is said to it that would wake anybody.
    let mut first = told(&mut client, window).await;
    client.ping().await;
    for _ in 0..2 {
        client.reset();
        if restart {
            broker.restart().await;
        }
        client = open(broker, version, device, true).await;
        let again = told(&mut client, window).await;
        let told = |all: &[Message]| -> Vec<_> {
            all.iter().map(|one| (one.id, one.topic.clone(), one.qos, one.retain)).collect()
        };
        assert_eq!(told(&again), told(&first));
        assert!(again.iter().all(|one| one.dup && one.retain), "{again:?}");
        first = again;
        client.ping().await;
    }
    let mut rest = answered(&mut client, &first, count - window).await;
    assert_eq!(client.heard().await, [""; 0], "none twice");
    rest.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert!(rest.iter().all(|one| one.retain && !one.dup), "{rest:?}");
    let says: Vec<_> = rest.iter().map(Message::says).collect();
    let due: Vec<_> = (window..count).map(|n| n.to_string()).collect();
    assert_eq!(says, due, "each once");
    client.disconnect().await;
    let mut client = open(broker, version, device, true).await;
    assert_eq!(client.heard().await, [""; 0], "nothing is due any more");
    client.disconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_room_comes_after_a_cut() {
    for (version, device) in [(V3, false), (V3, true), (V5, false), (V5, true)] {
        let mut broker = Broker::start().await;
        what_had_no_room_comes_when_the_client_is_back(&mut broker, version, device, false).await;
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_room_comes_after_a_restart() {
    for (version, device) in [(V3, true), (V5, false), (V5, true)] {
        let mut broker = Broker::start().await;
        what_had_no_room_comes_when_the_client_is_back(&mut broker, version, device, true).await;
        broker.stop().await;
    }
}

/// A session with two of six retained messages under way, and the speaker.
async fn cut(broker: &Broker, device: bool) -> Client {
    let mut speaker = broker.client(V5, "speaker").await;
    for n in 0..6 {
        speaker.keep(&topic(n), format!("old {n}")).await;
    }
    let mut client = open(broker, V5, device, false).await;
    client.subscribe(FILTER, 2).await;
    told(&mut client, 2).await;
    client.reset();
    speaker
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_meanwhile_comes_once_and_as_it_is_now() {
    for device in [false, true] {
        let mut broker = Broker::start().await;
        let mut speaker = cut(&broker, device).await;
        speaker.keep(&topic(2), "new 2").await;
        speaker.keep(&topic(3), "").await;
        assert_eq!(speaker.publish(Publish::new(topic(4), "new 4").retain()).await, 0);
        speaker.ping().await;
        broker.restart().await;
        let mut client = open(&broker, V5, device, true).await;
        let mut heard = client.heard().await;
        heard.sort();
        assert_eq!(heard, ["", "new 2", "new 4", "old 0", "old 1", "old 5"], "device: {device}");
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_goes_with_its_subscription_and_with_its_session() {
    for device in [false, true] {
        let broker = Broker::start().await;
        cut(&broker, device).await;
        let mut client = open(&broker, V5, device, true).await;
        let under_way = told(&mut client, 2).await;
        client.unsubscribe(FILTER).await;
        for one in &under_way {
            client.answer(one).await;
        }
        assert_eq!(client.heard().await, [""; 0], "nobody wants the rest");
        // Subscribed anew, all are due; and all once more when only some were sent.
        client.subscribe(FILTER, 2).await;
        let first = told(&mut client, 2).await;
        client.subscribe(FILTER, 2).await;
        for one in &first {
            client.answer(one).await;
        }
        let heard = client.heard().await;
        let due = [2, 3, 4, 5, 0, 1, 2, 3, 4, 5].map(|n| format!("old {n}"));
        assert_eq!(heard, due);
        client.subscribe(FILTER, 2).await;
        told(&mut client, 2).await;
        client.reset();
        let id = if device { "MU-000001" } else { "a" };
        let mut clean = if device { broker.open_device(0, V5).await } else { broker.open(V5).await };
        assert!(!clean.connect(&Connect::durable(V5, id).clean()).await.session_present());
        clean.marks_at("acme/MU-000001/app/mark");
        assert_eq!(clean.heard().await, [""; 0], "a clean start has nothing of before");
        broker.stop().await;
    }
}
