//! Shared subscriptions (MQTT 5.0 §4.8.2).

use crate::{
    broker::Broker,
    client::Client,
    packets::{
        Connect, DISCONNECT, PUBLISH, PUBREC, PUBREL, Publish, SUBACK, V5, ack, ack_with, p, subscribe,
    },
    reading::Message,
    site::PATIENCE,
};

const PUBREL_KIND: u8 = PUBREL & 0xf0;

/// Two members of one group on `filter`, each with its QoS.
async fn members(broker: &Broker, filter: &str, qos: [u8; 2]) -> [Client; 2] {
    let mut clients = Vec::new();
    for (id, qos) in ["one", "two"].into_iter().zip(qos) {
        let mut client = broker.connect(Connect::durable(V5, id)).await;
        assert_eq!(client.subscribe(filter, qos).await, qos);
        clients.push(client);
    }
    clients.try_into().unwrap_or_else(|_| unreachable!("two of them"))
}

async fn refused(broker: &Broker, filter: &str) {
    let mut client = broker.client(V5, "a").await;
    client.send(subscribe(V5, 1, &[], &[(filter, 1)])).await;
    let packet = client.packet().await.unwrap();
    let reason = if packet.kind() == SUBACK { packet.codes()[0] } else { packet.reason() };
    assert!([SUBACK, DISCONNECT].contains(&packet.kind()) && reason >= 0x80, "{filter}: {packet:02x?}");
}

/// What the members are sent, and answer: until there are `count` messages, and then for a while, for one that
/// should not be there. A group has a place of its own in the log, so no mark tells where it is.
async fn gathered(members: &mut [Client], count: usize) -> Vec<Vec<Message>> {
    let mut all = vec![Vec::new(); members.len()];
    let begun = std::time::Instant::now();
    let mut more = 20;
    while more > 0 {
        for (member, all) in members.iter_mut().zip(&mut all) {
            member.send([0xc0, 0]).await;
            loop {
                let packet = member.packet().await.unwrap();
                match packet.kind() {
                    PUBLISH => all.push(packet.message()),
                    PUBREL_KIND => member.send(ack(0x70, packet.id())).await,
                    _ => break,
                }
                if packet.kind() == PUBLISH {
                    match packet.message() {
                        Message { qos: 1, id, .. } => member.send(ack(0x40, id)).await,
                        Message { qos: 2, id, .. } => member.send(ack(PUBREC, id)).await,
                        _ => {}
                    }
                }
            }
        }
        if all.iter().map(Vec::len).sum::<usize>() >= count {
            more -= 1;
        }
        assert!(begun.elapsed() < PATIENCE, "not all come: {all:02x?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    all
}

async fn a_share_has_a_name(broker: &mut Broker, _: u8) {
    for filter in ["$share", "$share/", "$share//", "$share//t"] {
        refused(broker, filter).await;
    }
    // Each message goes to one member of the group, and to whoever has a subscription of its own.
    let mut clients = members(broker, "$share/g/t/+", [1, 1]).await;
    let mut own = broker.client(V5, "own").await;
    own.subscribe("t/#", 1).await;
    let mut publisher = broker.client(V5, "publisher").await;
    let all: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    for n in &all {
        publisher.say(&format!("t/{n}"), n).await;
    }
    let shared = gathered(&mut clients, all.len()).await.concat();
    let mut shared: Vec<_> = shared.iter().map(|message| message.says().to_owned()).collect();
    shared.sort_by_key(|n| n.parse::<u32>().unwrap());
    assert_eq!(shared, all, "each once");
    assert_eq!(own.heard().await, all);
}

async fn a_share_name_has_no_wildcards_and_a_filter_behind_it(broker: &mut Broker, _: u8) {
    for filter in
        ["$share/g", "$share/g/", "$share/+/t", "$share/g+/t", "$share/#/t", "$share/#", "$share/g/a#"]
    {
        refused(broker, filter).await;
    }
    let mut client = broker.client(V5, "a").await;
    for filter in ["$share/g/t", "$share/G1 é/t/#", "$share/g/#", "$share/g//t"] {
        assert_eq!(client.subscribe(filter, 1).await, 1, "{filter}");
    }
}

async fn each_member_has_the_qos_it_was_granted(broker: &mut Broker, _: u8) {
    let mut publisher = broker.client(V5, "publisher").await;
    let mut clients = members(broker, "$share/g/t", [0, 1]).await;
    for n in 0..30 {
        publisher.publish(Publish::new("t", n.to_string()).qos(2)).await;
    }
    let heard = gathered(&mut clients, 30).await;
    for (granted, all) in heard.iter().enumerate() {
        assert!(all.iter().all(|message| usize::from(message.qos) == granted), "{all:02x?}");
    }
    assert_eq!(heard.concat().len(), 30);
}

/// A QoS 2 message with one member, begun and not finished: who has it, and who has not.
async fn begun(broker: &Broker) -> (Client, Client, usize, u16) {
    let mut clients = members(broker, "$share/g/t", [2, 2]).await;
    let mut publisher = broker.client(V5, "publisher").await;
    publisher.publish(Publish::new("t", "x").qos(2)).await;
    // Either may have it, now or in a moment: pings find out.
    let mut found = None;
    for at in (0..2).cycle() {
        clients[at].send([0xc0, 0]).await;
        let packet = clients[at].packet().await.unwrap();
        if packet.kind() == PUBLISH {
            assert_eq!(clients[at].packet().await.unwrap().kind(), 0xd0);
            found = Some((at, packet.message().id));
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (at, id) = found.expect("the loop ends with it");
    let [one, two] = clients;
    if at == 0 { (one, two, at, id) } else { (two, one, at, id) }
}

const IDS: [&str; 2] = ["one", "two"];

async fn qos_2_is_completed_with_the_member_it_was_begun_with(broker: &mut Broker, _: u8) {
    let (mut chosen, mut other, at, id) = begun(broker).await;
    chosen.send(ack(PUBREC, id)).await;
    chosen.expect(PUBREL).await;
    chosen.reset();
    assert!(gathered(std::slice::from_mut(&mut other), 0).await[0].is_empty());
    let mut back = broker.connect(Connect::durable(V5, IDS[at])).await;
    assert_eq!(back.expect(PUBREL).await.id(), id);
    back.send(ack(0x70, id)).await;
    let mut both = [back, other];
    assert!(gathered(&mut both, 0).await.concat().is_empty());
}

async fn qos_2_goes_to_no_other_member_when_the_session_ends(broker: &mut Broker, _: u8) {
    let (chosen, mut other, at, _) = begun(broker).await;
    chosen.reset();
    // The session ends before the delivery is complete.
    let (_, connack) = broker.connecting(Connect::new(V5, IDS[at])).await;
    assert!(!connack.session_present());
    assert!(gathered(std::slice::from_mut(&mut other), 0).await[0].is_empty());
}

async fn a_message_a_member_refuses_goes_to_nobody(broker: &mut Broker, _: u8) {
    let mut clients = members(broker, "$share/g/t", [1, 1]).await;
    let mut publisher = broker.client(V5, "publisher").await;
    publisher.say("t", "refused").await;
    // Whoever is given it refuses it.
    let mut refused = 0;
    for at in (0..2).cycle() {
        clients[at].send([0xc0, 0]).await;
        let packet = clients[at].packet().await.unwrap();
        if packet.kind() == PUBLISH {
            clients[at].send(ack_with(0x40, packet.message().id, 0x97)).await;
            assert_eq!(clients[at].packet().await.unwrap().kind(), 0xd0);
            refused += 1;
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(refused, 1);
    publisher.say("t", "taken").await;
    let all = gathered(&mut clients, 1).await.concat();
    let all: Vec<_> = all.iter().map(Message::says).collect();
    assert_eq!(all, ["taken"], "what was refused goes to nobody");
}

async fn a_member_without_room_gives_back_what_is_for_it(broker: &mut Broker, _: u8) {
    let small = Connect::durable(V5, "one").property(p::receive_max(1));
    let mut full = broker.connect(small).await;
    full.subscribe("own", 1).await;
    full.subscribe("$share/g/t", 1).await;
    let mut free = broker.client(V5, "two").await;
    free.subscribe("$share/g/t", 1).await;
    // The one message that it has room for; it does not answer it.
    let mut speaker = broker.client(V5, "speaker").await;
    speaker.say("own", "unanswered").await;
    let unanswered = full.message().await;
    for n in 0..6 {
        speaker.say("t", n.to_string()).await;
    }
    for n in 0..6 {
        assert_eq!(free.take().await.says(), n.to_string());
    }
    full.answer(&unanswered).await;
    full.ping().await;
}

async fn devices_share_nothing(broker: &mut Broker, version: u8) {
    let mut device = broker.device(0, version).await;
    let code = device.subscribe("$share/g/acme/MU-000001/app/x", 1).await;
    assert!([0x87, 0x9e].contains(&code), "{code:02x}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_member_holds_up_no_other() {
    let mut broker = Broker::start().await;
    a_member_without_room_gives_back_what_is_for_it(&mut broker, V5).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_subscriptions_are_for_services() {
    let mut broker = Broker::start().await;
    devices_share_nothing(&mut broker, V5).await;
    broker.stop().await;
}

statements! {
    mqtt5_4_8_2_1 => a_share_has_a_name(V5);
    mqtt5_4_8_2_2 => a_share_name_has_no_wildcards_and_a_filter_behind_it(V5);
    mqtt5_4_8_2_3 => each_member_has_the_qos_it_was_granted(V5);
    mqtt5_4_8_2_4 => qos_2_is_completed_with_the_member_it_was_begun_with(V5);
    mqtt5_4_8_2_5 => qos_2_goes_to_no_other_member_when_the_session_ends(V5);
    mqtt5_4_8_2_6 => a_message_a_member_refuses_goes_to_nobody(V5);
}
