//! Packets that are not what they should be.

use crate::{
    client::{Client, End, V5, connect, packet, publish, text},
    siege::{Siege, withstands},
};

/// Sent right behind a finished handshake, and the connection ends. How often: so that what one leaves is
/// seen.
const TIMES: usize = 20;

async fn first(siege: &Siege, round: usize, octets: &[u8]) {
    for _ in 0..TIMES {
        let mut client = siege.open(round).await;
        client.send(octets).await;
        while let Ok(said) = client.packet().await {
            assert!(said[0] == 0x20 && said[3] >= 0x80, "{said:02x?}");
        }
    }
}

/// Sent behind CONNACK, and the session ends.
async fn then(siege: &Siege, round: usize, octets: &[u8]) {
    let mut client = siege.connected(round).await;
    client.send(octets).await;
    ended(&mut client).await;
}

async fn ended(client: &mut Client) {
    match client.packet().await {
        Ok(said) => {
            assert!(said[0] == 0xe0 && said[2] >= 0x80, "{said:02x?}");
            assert_eq!(client.end().await, End::Clean);
        }
        Err(end) => assert_eq!(end, End::Clean),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_first_packet() {
    withstands(async |siege, round| {
        // 256 MiB are announced, and a megabyte of it sent.
        first(siege, round, &[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
        let mut client = siege.open(round).await;
        client.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
        for _ in 0..64 {
            client.send(&[0; 16 * 1024]).await;
        }
        while client.packet().await.is_ok() {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_varint() {
    withstands(async |siege, round| {
        for octets in [&[0x10, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0x10, 0x80, 0x80, 0x80, 0x80, 0]] {
            first(siege, round, octets).await;
        }
        for octets in [
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f][..],
            &[0x30, 0x80, 0x80, 0x80, 0x80, 0],
            &[0xc0, 0x80, 0x00],
            &[0x30, 8, 0, 1, b't', 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0x82, 7, 0, 1, 2, 0x0b, 0xff, 0, 0],
        ] {
            then(siege, round, octets).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_only_packet_before_and_after_connect() {
    withstands(async |siege, round| {
        for octets in
            [&[0x20, 3, 0, 0, 0][..], &[0x90, 3, 0, 1, 0], &[0xb0, 2, 0, 1], &[0xd0, 0], &[0xf0, 0], &[0, 0]]
        {
            first(siege, round, octets).await;
            then(siege, round, octets).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf_8() {
    withstands(async |siege, round| {
        for bad in [&[0xff][..], &[0xc0, 0x80], &[0xed, 0xa0, 0x80], &[0xf4, 0x90, 0x80, 0x80], b"a\0b"] {
            let field = [&[0, bad.len() as u8], bad].concat();
            then(siege, round, &packet(0x30, &[&field, &[0], b"x"])).await;
            then(siege, round, &packet(0x82, &[&[0, 1, 0], &field, &[1]])).await;
            then(siege, round, &packet(0xa2, &[&[0, 1, 0], &field])).await;
            let head = [&[0, 4][..], b"MQTT", &[5, 2, 0, 60, 0]].concat();
            first(siege, round, &packet(0x10, &[&head, &field])).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_topic() {
    withstands(async |siege, round| {
        then(siege, round, &publish(V5, 0, 0, "", b"x")).await;
        then(siege, round, &publish(V5, 1, 1, "", b"x")).await;
        let mut client = siege.connected(round).await;
        client.send(&packet(0x82, &[&[0, 1, 0, 0, 0, 1]])).await;
        let said = client.packet().await.unwrap();
        assert!(*said.last().unwrap() >= 0x80 || said[2] >= 0x80, "{said:02x?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slashes_by_the_ten_thousand() {
    withstands(async |siege, round| {
        for slashes in [60_000, 65_000] {
            let topic = text(&"/".repeat(slashes));
            let mut client = siege.connected(round).await;
            for octets in [
                packet(0x32, &[&topic, &[0, 1, 0], b"x"]),
                packet(0x82, &[&[0, 2, 0], &topic, &[1]]),
                packet(0xa2, &[&[0, 3, 0], &topic]),
            ] {
                client.send(&octets).await;
                let Ok(said) = client.packet().await else { panic!("no answer and no reason") };
                assert!(
                    *said.last().unwrap() != 0 || said[4..].iter().any(|octet| *octet >= 0x80),
                    "{said:02x?}"
                );
                if said[0] == 0xe0 {
                    client = siege.connected(round).await;
                }
            }
        }
        let will =
            [&[0, 4][..], b"MQTT", &[5, 0b110, 0, 60, 0, 0, 0, 0], &text(&"/".repeat(60_000)), &text("x")];
        first(siege, round, &packet(0x10, &will)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn property_floods() {
    withstands(async |siege, round| {
        // As many user properties as a packet has room for, long ones and the shortest there are.
        for one in [[&[0x26][..], &text("key"), &text(&"v".repeat(50))].concat(), vec![0x26, 0, 0, 0, 0]] {
            let properties = one.repeat(60_000 / one.len());
            let mut len = vec![];
            let mut rest = properties.len();
            while rest > 0 {
                len.push((rest % 128) as u8 | if rest >= 128 { 0x80 } else { 0 });
                rest /= 128;
            }
            let topic = text(&siege.own(round));
            then(siege, round, &packet(0x32, &[&topic, &[0, 1], &len, &properties, b"x"])).await;
            then(siege, round, &packet(0x82, &[&[0, 2], &len, &properties, &topic, &[1]])).await;
            then(siege, round, &packet(0xe0, &[&[0], &len, &properties])).await;
            let head = [&[0, 4][..], b"MQTT", &[5, 2, 0, 60]].concat();
            first(siege, round, &packet(0x10, &[&head, &len, &properties, &text("")])).await;
        }
        assert_eq!(siege.stored(&siege.own(round)).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_bits() {
    withstands(async |siege, round| {
        for first in [0x11_u8, 0x36, 0x41, 0x5f, 0x60, 0x80, 0xa0, 0xc1, 0xe8] {
            then(siege, round, &[first, 2, 0, 1]).await;
        }
        let connect = connect(V5, "");
        first(siege, round, &[&[0x1f], &connect[1..]].concat()).await;
        let mut flags = connect;
        flags[9] |= 1;
        first(siege, round, &flags).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_connect() {
    withstands(async |siege, round| {
        then(siege, round, &connect(V5, "")).await;
        then(siege, round, &connect(V5, "MU-000001")).await;
        // Both at once, before anybody could answer.
        let mut client = siege.open(round).await;
        client.send(&connect(V5, "").repeat(50)).await;
        assert_eq!(client.packet().await.unwrap()[0], 0x20);
        ended(&mut client).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_out_of_order() {
    withstands(async |siege, round| {
        let mut client = siege.connected(round).await;
        let own = siege.own(round);
        assert_eq!(client.subscribe(&own).await, 1);
        // Answers to nothing, by the thousand, of every kind and with every identifier.
        for kind in [0x40_u8, 0x50, 0x62, 0x70] {
            let all: Vec<u8> = (1..=2000_u16).flat_map(|id| [kind, 2, (id >> 8) as u8, id as u8]).collect();
            client.send(&all).await;
        }
        client.send(&[0xc0, 0]).await;
        while client.packet().await.unwrap() != [0xd0, 0] {}
        // The wrong kind for what is on its way, then the right one twice.
        client.send(&publish(V5, 1, 1, &own, b"x")).await;
        let message = loop {
            let packet = client.packet().await.unwrap();
            if packet[0] == 0x32 {
                break packet;
            }
        };
        let at = 4 + own.len();
        let (high, low) = (message[at], message[at + 1]);
        client.send(&[0x70, 2, high, low, 0x50, 2, high, low, 0x40, 2, high, low, 0x40, 2, high, low]).await;
        client.send(&[0xc0, 0]).await;
        loop {
            match client.packet().await {
                Ok(said) if said == [0xd0, 0] => break,
                Ok(said) if said[0] == 0xe0 => break,
                Ok(_) => {}
                Err(end) => panic!("without a word: {end:?}"),
            }
        }
    })
    .await;
}
