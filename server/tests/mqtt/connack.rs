//! CONNACK: session present, the reason code, and what it announces (MQTT 5.0 §3.2, 3.1.1 §3.2).

use crate::{
    broker::Broker,
    packets::{CONNACK, Connect, DISCONNECT, Publish, V3, V5, Will, p},
};

async fn a_clean_session_is_never_present(broker: &mut Broker, version: u8) {
    broker.connect(Connect::durable(version, "a")).await.disconnect().await;
    let (_, connack) = broker.connecting(Connect::durable(version, "a").clean()).await;
    assert_eq!((connack.body[0], connack.reason()), (0, 0));
}

async fn a_session_that_is_kept_is_present(broker: &mut Broker, version: u8) {
    let (client, connack) = broker.connecting(Connect::durable(version, "a")).await;
    assert_eq!((connack.body[0], connack.reason()), (0, 0), "there is none yet");
    client.disconnect().await;
    for _ in 0..2 {
        let (client, connack) = broker.connecting(Connect::durable(version, "a")).await;
        assert_eq!((connack.body[0], connack.reason()), (1, 0));
        client.disconnect().await;
    }
    let (_, connack) = broker.connecting(Connect::durable(version, "other")).await;
    assert_eq!((connack.body[0], connack.reason()), (0, 0), "another's");
}

async fn reserved_bits_of_connack_are_zero(broker: &mut Broker, version: u8) {
    broker.connect(Connect::durable(version, "a")).await.disconnect().await;
    let mut answers = Vec::new();
    for connect in [Connect::durable(version, "a"), Connect::new(version, "b")] {
        answers.push(broker.connecting(connect).await.1);
    }
    answers.push(broker.open_device(0, version).await.connect(&Connect::new(version, "foreign")).await);
    for connack in answers {
        assert_eq!((connack.first, connack.body[0] & 0xfe), (CONNACK, 0), "{connack:02x?}");
    }
}

/// A device whose session is kept, and which then asks for what it may not have.
async fn a_refusal_presents_no_session(broker: &mut Broker, version: u8) {
    let id = "MU-000001";
    let mut device = broker.open_device(0, version).await;
    device.connect(&Connect::durable(version, id)).await;
    device.disconnect().await;
    let mut device = broker.open_device(0, version).await;
    let will = Will::new("acme/MU-000002/app/x", "boo");
    let connack = device.connect(&Connect::durable(version, id).will(will)).await;
    assert_ne!(connack.reason(), 0);
    assert!(!connack.session_present());
    assert_eq!(device.closed().await, None);
    // It was there, and still is.
    let mut device = broker.open_device(0, version).await;
    assert!(device.connect(&Connect::durable(version, id)).await.session_present());
}

async fn a_refusal_is_the_last_word(broker: &mut Broker, version: u8) {
    for connect in [
        Connect::new(version, "MU-000002"),
        Connect::new(version, "").will(Will::new("acme/MU-000002/app/x", "boo")),
        Connect::new(version, "").property(p::auth_method("SCRAM-SHA-1")),
        Connect::new(version, "").protocol("MQTT", 9),
    ] {
        let mut device = broker.open_device(0, version).await;
        assert!(device.connect(&connect).await.reason() >= 0x80);
        assert_eq!(device.closed().await, None);
    }
}

/// The reason codes MQTT 5.0 §3.2.2.2 gives to CONNACK.
const CODES: [u8; 22] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99,
    0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
];

async fn connack_codes_are_those_of_the_table(broker: &mut Broker, version: u8) {
    let connects = [
        Connect::new(version, ""),
        Connect::new(version, "MU-000002"),
        Connect::new(version, "a".repeat(300)),
        Connect::new(version, "").will(Will::new("acme/MU-000002/app/x", "boo")),
        Connect::new(version, "").will(Will::new("acme/MU-000001/app/x", vec![0; 60_000])),
        Connect::new(version, "").will(Will::new("a/#", "boo")),
        Connect::new(version, "").will(Will::new("a", "boo").qos(3)),
        Connect::new(version, "").property(p::auth_method("x")),
        Connect::new(version, "").property(p::session_expiry(1)).property(p::session_expiry(1)),
        Connect::new(version, "").protocol("MQTT", 9),
        Connect::new(version, "").flip(1),
        Connect::new(version, [0xff]),
    ];
    let mut told = Vec::new();
    for connect in connects {
        let mut device = broker.open_device(0, version).await;
        device.send(connect.bytes()).await;
        if let Some(connack) = device.packet().await {
            assert!(CODES.contains(&connack.reason()), "{connack:02x?}");
            told.push(connack.reason());
        }
    }
    assert_eq!(told[0], 0);
    assert!(told.contains(&0x85) && told.contains(&0x87), "{told:02x?}");
}

async fn qos_2_is_supported_and_so_no_maximum_is_announced(broker: &mut Broker, version: u8) {
    let (mut client, connack) = broker.connecting(Connect::new(version, "a")).await;
    let properties = connack.properties();
    assert_eq!(properties.number(p::QOS_MAX), None, "0 and 1 are its only values");
    assert_ne!(properties.number(p::RETAIN_AVAILABLE), Some(0));
    assert_eq!(client.publish(Publish::new("a", "x").qos(2)).await & 0x80, 0);
}

async fn an_assigned_client_id_is_nobody_elses(broker: &mut Broker, version: u8) {
    let mut ids = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let (client, connack) = broker.connecting(Connect::new(version, "")).await;
        ids.push(connack.properties().text(p::ASSIGNED_ID).expect("an identifier").to_vec());
        clients.push(client);
    }
    for client in &mut clients {
        client.ping().await;
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

/// The longest CONNACK a device is told, refused or not, against a maximum just below it.
async fn a_small_client_gets_connack_without(broker: &mut Broker, id: &str, property: u8) {
    let ask = |max: Option<u32>| {
        let connect = Connect::new(V5, id);
        match max {
            Some(max) => connect.property(p::packet_max(max)),
            None => connect,
        }
    };
    let mut device = broker.open_device(0, V5).await;
    let full = device.connect(&ask(None)).await;
    assert!(full.properties().0.iter().any(|(id, _)| *id == property), "{full:02x?}");
    drop(device);
    let max = full.len() as u32 - 1;
    let mut device = broker.open_device(0, V5).await;
    let connack = device.connect(&ask(Some(max))).await;
    assert!(connack.len() <= max as usize, "{connack:02x?}");
    assert_eq!(connack.reason(), full.reason());
    assert!(connack.properties().0.iter().all(|(id, _)| *id != property), "{connack:02x?}");
}

async fn connack_leaves_out_a_reason_string_that_does_not_fit(broker: &mut Broker, _: u8) {
    a_small_client_gets_connack_without(broker, "MU-000002", p::REASON_STRING).await;
}

async fn connack_leaves_out_user_properties_that_do_not_fit(broker: &mut Broker, _: u8) {
    a_small_client_gets_connack_without(broker, "MU-000001", p::USER).await;
}

async fn there_is_one_connack(broker: &mut Broker, version: u8) {
    let mut client = broker.client(version, "a").await;
    client.subscribe("a", 2).await;
    client.say("a", "x").await;
    assert_eq!(client.take().await.says(), "x");
    client.ping().await;
    client.send(Connect::new(version, "a").bytes()).await;
    assert_eq!(client.expect(DISCONNECT).await.reason(), 0x82, "and not CONNACK");
    assert_eq!(client.closed().await, None);
}

async fn the_clients_keep_alive_is_in_force_unless_the_server_says_another(broker: &mut Broker, version: u8) {
    let (mut client, connack) = broker.connecting(Connect::new(version, "a").keep_alive(1)).await;
    assert_eq!(connack.properties().number(p::SERVER_KEEP_ALIVE), None);
    client.closed_for(&[0x8d]).await;
}

statements! {
    mqtt5_3_2_2_2 => a_clean_session_is_never_present(V5);
    mqtt3_3_2_2_1 => a_clean_session_is_never_present(V3);
    mqtt5_3_2_2_3 => a_session_that_is_kept_is_present(V5);
    mqtt3_3_2_2_2 => a_session_that_is_kept_is_present(V3);
    mqtt5_3_2_2_1 => reserved_bits_of_connack_are_zero(V5);
    mqtt5_3_2_2_6 => a_refusal_presents_no_session(V5);
    mqtt3_3_2_2_4 => a_refusal_presents_no_session(V3);
    mqtt5_3_2_2_7 => a_refusal_is_the_last_word(V5);
    mqtt5_3_2_2_8 => connack_codes_are_those_of_the_table(V5);
    mqtt5_3_2_2_9 => qos_2_is_supported_and_so_no_maximum_is_announced(V5);
    mqtt5_3_2_2_16 => an_assigned_client_id_is_nobody_elses(V5);
    mqtt5_3_2_2_19 => connack_leaves_out_a_reason_string_that_does_not_fit(V5);
    mqtt5_3_2_2_20 => connack_leaves_out_user_properties_that_do_not_fit(V5);
    mqtt5_3_2_0_2 => there_is_one_connack(V5);
    mqtt5_3_2_2_22 => the_clients_keep_alive_is_in_force_unless_the_server_says_another(V5);
}
