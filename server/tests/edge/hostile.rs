//! Clients that are broken, slow, or mean it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use muster_server::{
    edge::Limits,
    registry::{DisconnectReason, timeline::EventKind},
};
use muster_shared::Code;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    client::{Client, End, V3, V5, code_in, connect, connect_with, packet, publish, text, tls_of},
    site::{PATIENCE, Site},
};

const TELEMETRY: &str = "acme/MU-000001/telemetry/climate";

fn impatient() -> Limits {
    Limits { handshake: Duration::from_millis(700), connect: Duration::from_millis(700), ..Limits::default() }
}

/// Everything until the server closes.
async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("closed in time") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    all
}

/// A device that is not the one at fault is served as ever.
async fn works(site: &Site) {
    let mut client = Client::connected(site, &site.devices[1], V5).await;
    assert_eq!(client.publish(1, "acme/MU-000002/telemetry/x", b"fine").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_is_closed() {
    let site = Site::with(2).await;
    let not_tls: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &connect(V5, ""),
        &[0; 512],
        &[0xff; 70_000],
        &[0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0xff, 0xff],
    ];
    for octets in not_tls {
        let mut stream = TcpStream::connect(site.addr).await.unwrap();
        let _ = stream.write_all(octets).await;
        let _ = stream.shutdown().await;
        let said = read_all(&mut stream).await;
        assert!(said.len() < 16, "at most an alert: {said:02x?}");
    }
    works(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_closed() {
    let site = Site::limited(2, impatient()).await;
    let mut silent = TcpStream::connect(site.addr).await.unwrap();
    assert!(read_all(&mut silent).await.is_empty());
    // The same behind a finished handshake.
    let mut mute = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    assert_eq!(mute.end().await, End::Clean);
    let mut half = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    half.send(&connect(V5, "")[..7]).await;
    assert_eq!(half.end().await, End::Clean);
    let refusals = site.detail(0).await.refusals;
    assert_eq!(refusals.iter().map(|row| row.code).collect::<Vec<_>>(), [Code::ConnectTimeout]);
    works(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_of_one_octet_at_a_time_meets_its_deadline() {
    let site = Site::limited(2, impatient()).await;
    let mut slow = TcpStream::connect(site.addr).await.unwrap();
    // A record of 16 KiB, and a handshake message of as much, an octet now and then.
    let mut octets = vec![0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xfc];
    octets.resize(16 * 1024, 0);
    let feed = async {
        for octet in octets {
            if slow.write_all(&[octet]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, feed).await.expect("cut off");
    works(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn octets_that_come_one_by_one_are_as_good_as_any() {
    let site = Site::with(2).await;
    let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    for octet in [connect(V5, ""), publish(V5, 1, 7, TELEMETRY, b"slow")].concat() {
        client.send(&[octet]).await;
    }
    assert_eq!(client.packet().await.unwrap()[3], 0);
    assert_eq!(client.packet().await.unwrap(), [0x40, 2, 0, 7]);
    site.stop().await;
}

/// Lets few octets through at a time, so that records and handshake messages arrive in pieces.
struct Dribble(TcpStream, usize);

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let most = octets.len().min(self.1);
        Pin::new(&mut self.0).poll_write(cx, &octets[..most])
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_handshake_messages_in_pieces_are_put_together() {
    let site = Site::with(2).await;
    for (fragment, most) in [(33, usize::MAX), (64, 3), (16 * 1024, 1)] {
        let mut config = tls_of(&site.devices[0]).as_ref().clone();
        // A certificate then spans many records.
        config.max_fragment_size = Some(fragment);
        let stream = TcpStream::connect(site.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let connecting = connector.connect(name, Dribble(stream, most));
        let (mut read, mut write) = tokio::io::split(timeout(PATIENCE, connecting).await.unwrap().unwrap());
        let writing = tokio::spawn(async move {
            write.write_all(&connect(V5, "")).await.unwrap();
            for id in 1..=30 {
                write.write_all(&publish(V5, 1, id, TELEMETRY, &[7; 300])).await.unwrap();
                write.flush().await.unwrap();
            }
            write
        });
        let mut head = [0; 2];
        timeout(PATIENCE, read.read_exact(&mut head)).await.unwrap().unwrap();
        let mut connack = vec![0; head[1].into()];
        read.read_exact(&mut connack).await.unwrap();
        assert_eq!((head[0], connack[1]), (0x20, 0));
        for id in 1..=30 {
            let mut puback = [0; 4];
            timeout(PATIENCE, read.read_exact(&mut puback)).await.unwrap().unwrap();
            assert_eq!(puback, [0x40, 2, 0, id], "answered while the next record is half here");
        }
        drop(writing.await.unwrap());
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_packets_that_are_not_connect_are_closed_and_recorded() {
    let site = Site::with(2).await;
    for first in
        [&publish(V5, 1, 1, TELEMETRY, b"x")[..], &[0xc0, 0], &[0x20, 2, 0, 0], &[0x00, 0], b"GET / "]
    {
        let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
        client.send(first).await;
        assert_eq!(client.end().await, End::Clean, "{first:02x?}");
    }
    assert_eq!(site.stored().await, []);
    let refused: u64 = site.detail(0).await.refusals.iter().map(|row| row.count).sum();
    assert_eq!(refused, 5);
    works(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_packets_end_the_session_with_their_reason() {
    let site = Site::with(2).await;
    let bad: [(&[u8], u8, Code); 6] = [
        (&[0x36, 2, 0, 0], 0x81, Code::PacketMalformed),
        (&[0x30, 0xff, 0xff, 0xff, 0xff], 0x81, Code::PacketMalformed),
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], 0x95, Code::PacketTooLarge),
        (&connect(V5, ""), 0x82, Code::PacketOutOfPlace),
        (&[0xd0, 0], 0x82, Code::PacketOutOfPlace),
        (&[0x82, 7, 0, 1, 0, 0, 1, b'x', 0x30], 0x82, Code::PacketOutOfPlace),
    ];
    for (octets, reason, code) in bad {
        let mut client = Client::connected(&site, &site.devices[0], V5).await;
        client.send(octets).await;
        let said = client.packet().await.unwrap();
        assert_eq!((said[0], said[2], code_in(&said)), (0xe0, reason, Some(code)), "{octets:02x?}");
        assert_eq!(client.end().await, End::Clean);
        let ended = site.detail(0).await.sessions[0].ended.map(|(_, why)| why);
        assert_eq!(ended, Some(DisconnectReason::ProtocolError));
    }
    works(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_packet_is_taken_and_one_octet_more_is_not() {
    let site = Site::with(2).await;
    let max = muster_shared::limits::PACKET_MAX;
    let head = publish(V5, 1, 7, TELEMETRY, &vec![0; max - 100]).len() - (max - 100);
    let mut client = Client::connected(&site, &site.devices[0], V5).await;
    assert_eq!(client.publish(7, TELEMETRY, &vec![7; max - head]).await, 0);
    assert_eq!(site.stored().await[0].payload.len(), max - head);
    client.send(&publish(V5, 1, 8, TELEMETRY, &vec![7; max - head + 1])).await;
    assert_eq!(code_in(&client.packet().await.unwrap()), Some(Code::PacketTooLarge));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_ends_after_its_keep_alive() {
    let site = Site::with(1).await;
    let mut client = Client::open(&site, tls_of(&site.devices[0]), V5).await.unwrap();
    client.send(&connect_with(V5, 0b10, 1, &[&text("")])).await;
    assert_eq!(client.packet().await.unwrap()[3], 0);
    for _ in 0..4 {
        sleep(Duration::from_millis(400)).await;
        client.send(&[0xc0, 0]).await;
        assert_eq!(client.packet().await.unwrap(), [0xd0, 0], "signs of life keep it");
    }
    let said = client.packet().await.unwrap();
    assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x8d, Some(Code::KeepAliveTimeout)));
    let ended = async {
        loop {
            if let Some((_, why)) = site.detail(0).await.sessions[0].ended {
                return why;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    // It is told before it is recorded.
    assert_eq!(timeout(PATIENCE, ended).await.expect("in time"), DisconnectReason::KeepAliveTimeout);
    assert!(site.detail(0).await.refusals.is_empty(), "silence is no refusal");
    site.stop().await;
}

/// Octets that the kernel holds of one connection at most, both ways and on both ends of it.
fn held_by_the_kernel() -> usize {
    let most = |name: &str| -> usize {
        let three = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        three.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    2 * (most("tcp_rmem") + most("tcp_wmem"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_not_read_and_then_closed() {
    let site = Site::with(2).await;
    let mut deaf = Client::open(&site, tls_of(&site.devices[0]), V3).await.unwrap();
    deaf.send(&connect_with(V3, 0b10, 1, &[&text("")])).await;
    assert_eq!(deaf.packet().await.unwrap()[3], 0);
    // Answers nobody takes, until the server reads no more: it keeps no more than four packets of the largest
    // size, the kernel has the rest.
    let pings = [0xc0, 0].repeat(32 * 1024);
    let most = held_by_the_kernel() + 8 * muster_shared::limits::PACKET_MAX;
    let mut sent = 0;
    while timeout(Duration::from_secs(1), deaf.send(&pings)).await.is_ok() && sent <= most {
        sent += pings.len();
    }
    assert!(sent <= most, "{sent} octets were taken of one that reads nothing, of {most}");
    let key = site.key(0);
    let closed = async {
        while site.roster.is_online(key).is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("closed");
    let ended = site.detail(0).await.sessions[0].ended.map(|(_, why)| why);
    assert_eq!(ended, Some(DisconnectReason::KeepAliveTimeout), "what is not read is not heard");
    works(&site).await;
    drop(deaf);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_too_fast_is_slowed_and_its_operator_sees_it() {
    let site = Site::limited(2, Limits { messages_per_s: 20, ..Limits::default() }).await;
    let mut eager = Client::connected(&site, &site.devices[0], V5).await;
    // The burst that is granted, and then some.
    for id in 1..=240 {
        eager.send(&publish(V5, 1, id, TELEMETRY, b"x")).await;
        assert_eq!(eager.packet().await.unwrap(), [0x40, 2, 0, id as u8], "slowed, and nothing is lost");
    }
    assert_eq!(site.edge.as_ref().unwrap().seen().slowed, 1, "once a minute, not once a message");
    assert_eq!(site.detail(0).await.refusals, [], "it was refused nothing");
    for (device, lines) in [(0, &["slowed: over 20 msg/s"][..]), (1, &[])] {
        let page = site.registry.timeline(&site.devices[device].identity().serial, None, 100).await.unwrap();
        let slowed = page.items.iter().filter(|event| event.kind == EventKind::Slowed);
        assert_eq!(slowed.map(|event| &event.text).collect::<Vec<_>>(), lines);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_reset_is_a_lost_session() {
    let site = Site::with(1).await;
    let client = Client::connected(&site, &site.devices[0], V5).await;
    client.reset();
    while site.roster.count() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let ended = site.detail(0).await.sessions[0].ended.map(|(_, why)| why);
    assert_eq!(ended, Some(DisconnectReason::ConnectionLost));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_turned_away_and_room_comes_back() {
    let site = Site::limited(2, Limits { connections: 3, ..Limits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(site.addr).await.unwrap());
    }
    sleep(Duration::from_millis(200)).await;
    let mut one_more = TcpStream::connect(site.addr).await.unwrap();
    assert!(read_all(&mut one_more).await.is_empty());
    drop(held);
    sleep(Duration::from_millis(500)).await;
    works(&site).await;
    site.stop().await;
}

/// Runs one test of this binary again in a process with few descriptors.
#[test]
fn without_descriptors_the_edge_goes_on_and_recovers() {
    const INNER: &str = "hostile::inner_without_descriptors";
    let binary = std::env::current_exe().unwrap();
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 96; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(binary)
        .arg(INNER)
        .env("MUSTER_FEW_DESCRIPTORS", "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn inner_without_descriptors() {
    if std::env::var_os("MUSTER_FEW_DESCRIPTORS").is_none() {
        return;
    }
    let site = Site::with(2).await;
    let mut live = Client::connected(&site, &site.devices[0], V5).await;
    let mut hoard = Vec::new();
    // Each takes a descriptor here and one in the edge, until there are none.
    loop {
        match timeout(Duration::from_secs(5), TcpStream::connect(site.addr)).await {
            Ok(Ok(stream)) => hoard.push(stream),
            _ => break,
        }
        assert!(hoard.len() < 96, "the limit does not hold");
    }
    assert_eq!(live.publish(1, TELEMETRY, b"still here").await, 0, "who is in goes on");
    drop(hoard);
    sleep(Duration::from_millis(500)).await;
    works(&site).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_octets_behind_the_handshake_harm_nobody() {
    let site = Site::with(2).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..60 {
        let version = if round % 2 == 0 { V3 } else { V5 };
        let mut client = Client::connected(&site, &site.devices[0], version).await;
        let mut octets: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
        if round % 3 == 0 {
            octets = packet(random() as u8, &[&octets]);
        }
        client.send(&octets).await;
    }
    works(&site).await;
    assert!(site.stored().await.iter().all(|m| m.topic.starts_with(b"acme/MU-00000")));
    site.stop().await;
}
