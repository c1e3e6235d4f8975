//! The door: who is behind a balancer, storms from one address and of a fleet, no descriptors left, two
//! clients with one identity.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use muster_server::{
    edge::{Limits, clones::Policy},
    registry::DisconnectReason,
};
use muster_shared::Code;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    client::{Client, End, V5, code_in, publish, tls_of},
    site::{PATIENCE, Site},
};

const TELEMETRY: &str = "acme/MU-000001/telemetry/climate";

/// A connection from another address of this machine: all of 127.0.0.0/8 is its own.
async fn from(site: &Site, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    timeout(PATIENCE, socket.connect(site.addr)).await.expect("in time").unwrap()
}

/// Behind the balancer, on behalf of somebody.
async fn named(site: &Site, header: &[u8]) -> TcpStream {
    let mut stream = from(site, "127.0.0.9").await;
    stream.write_all(header).await.unwrap();
    stream
}

fn line(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 51522 8883\r\n").into_bytes()
}

/// Version 2, with an extension behind the addresses.
fn binary(client: [u8; 4]) -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12";
    [&head[..], &client, &[127, 0, 0, 1], &[0xc9, 0x42, 0x22, 0xb3], &[4, 0, 3, 1, 2, 3]].concat()
}

fn balanced(limits: Limits) -> Limits {
    Limits { balancers: vec!["127.0.0.9".parse().unwrap()], ..limits }
}

/// Closed without a word.
async fn is_closed(mut stream: TcpStream) {
    let mut octets = [0; 64];
    match timeout(PATIENCE, stream.read(&mut octets)).await.expect("closed in time") {
        Ok(read) => assert_eq!(read, 0, "{:02x?}", &octets[..read]),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

async fn online(site: &Site, device: usize) -> SocketAddr {
    site.roster.is_online(site.key(device)).expect("online").arrival.peer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_balancer_is_known_by_its_own_address() {
    let site = Site::limited(2, balanced(Limits::default())).await;
    for header in [line("203.0.113.7"), binary([203, 0, 113, 7])] {
        let stream = named(&site, &header).await;
        let mut client = Client::over(stream, tls_of(&site.devices[0]), V5).await.unwrap();
        assert_eq!(client.let_in().await, 0);
        assert_eq!(online(&site, 0).await, "203.0.113.7:51522".parse().unwrap());
        assert_eq!(client.publish(1, TELEMETRY, b"x").await, 0);
    }
    // A header in pieces, and the rest right behind it in the same segment.
    let mut stream = from(&site, "127.0.0.9").await;
    stream.set_nodelay(true).unwrap();
    for octet in line("203.0.113.8") {
        stream.write_all(&[octet]).await.unwrap();
    }
    let mut client = Client::over(stream, tls_of(&site.devices[0]), V5).await.unwrap();
    assert_eq!(client.let_in().await, 0);
    assert_eq!(online(&site, 0).await.ip(), "203.0.113.8".parse::<std::net::IpAddr>().unwrap());
    // Everybody else comes as they are.
    let direct = from(&site, "127.0.0.2").await;
    let mut client = Client::over(direct, tls_of(&site.devices[1]), V5).await.unwrap();
    assert_eq!(client.let_in().await, 0);
    assert_eq!(online(&site, 1).await.ip(), "127.0.0.2".parse::<std::net::IpAddr>().unwrap());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_believed_of_balancers_alone_and_they_must_send_one() {
    let limits = Limits { handshake: Duration::from_millis(700), ..Limits::default() };
    let site = Site::limited(1, balanced(limits)).await;
    let not_headers: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 203.0.113.7 127.0.0.1 51522\r\n",
        b"PROXY TCP4 not-an-address 127.0.0.1 51522 8883\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............",
        &[b'P'; 5000],
    ];
    for octets in not_headers {
        is_closed(named(&site, octets).await).await;
    }
    // One that never ends, and none at all, meet the handshake's deadline.
    is_closed(named(&site, b"PROXY TCP4 ").await).await;
    is_closed(named(&site, b"").await).await;
    // From anybody else it is not TLS: no certificate comes to be looked at.
    let mut stream = from(&site, "127.0.0.2").await;
    stream.write_all(&line("203.0.113.7")).await.unwrap();
    assert!(Client::over(stream, tls_of(&site.devices[0]), V5).await.is_err());
    let seen = site.edge.as_ref().unwrap().seen();
    assert_eq!((seen.headers_missing, seen.addresses_busy), (5, 0));
    // A health check says that it is one and closes.
    let check = named(&site, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0").await;
    drop(check);
    let stream = named(&site, &line("203.0.113.7")).await;
    let mut client = Client::over(stream, tls_of(&site.devices[0]), V5).await.unwrap();
    assert_eq!(client.let_in().await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_from_one_address_leaves_the_door_free_for_others() {
    let limits =
        Limits { handshakes_per_address: 16, handshake: Duration::from_secs(60), ..Limits::default() };
    let site = Site::limited(2, limits).await;
    let mut good = Client::connected(&site, &site.devices[0], V5).await;
    // Connections that say nothing: the address has its places, and not one more.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(from(&site, "127.0.0.2").await);
    }
    let busy = || site.edge.as_ref().unwrap().seen().addresses_busy;
    let deadline = Instant::now() + PATIENCE;
    while busy() < 184 {
        assert!(Instant::now() < deadline, "{}", busy());
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(busy(), 184);
    is_closed(from(&site, "127.0.0.2").await).await;
    assert_eq!(good.publish(1, TELEMETRY, b"undisturbed").await, 0);
    let mut newcomer = Client::connected(&site, &site.devices[1], V5).await;
    assert_eq!(newcomer.publish(1, "acme/MU-000002/telemetry/x", b"let in").await, 0);
    // Whoever is left of them goes, and the address is as good as any.
    drop(silent);
    let late = loop {
        assert!(Instant::now() < deadline);
        let stream = from(&site, "127.0.0.2").await;
        if let Ok(client) = Client::over(stream, tls_of(&site.devices[1]), V5).await {
            break client;
        }
        sleep(Duration::from_millis(20)).await;
    };
    drop(late);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_the_balancer_is_held_to_its_own_pace() {
    let limits =
        Limits { handshakes_per_address: 4, handshake: Duration::from_secs(60), ..Limits::default() };
    let site = Site::limited(1, balanced(limits)).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(named(&site, &line("203.0.113.7")).await);
    }
    sleep(Duration::from_millis(200)).await;
    is_closed(named(&site, &line("203.0.113.7")).await).await;
    let stream = named(&site, &line("203.0.113.8")).await;
    let mut client = Client::over(stream, tls_of(&site.devices[0]), V5).await.unwrap();
    assert_eq!(client.let_in().await, 0);
    site.stop().await;
}

/// Handshakes that are real, as fast as they come, from these addresses: how many come through, and in what
/// time. A device that is here is answered all the while.
async fn storm(site: Site, addresses: u8) -> (usize, f64) {
    let site = Arc::new(site);
    let mut good = Client::connected(&site, &site.devices[0], V5).await;
    let done = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut storm = JoinSet::new();
    for n in 0..addresses.max(8) {
        let (site, done) = (Arc::clone(&site), Arc::clone(&done));
        storm.spawn(async move {
            let config = tls_of(&site.devices[1]);
            loop {
                let stream = from(&site, &format!("127.0.0.{}", 20 + n % addresses)).await;
                if Client::over(stream, Arc::clone(&config), V5).await.is_ok() {
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    for id in 1..=200 {
        assert_eq!(good.publish(id, TELEMETRY, b"all the while").await, 0);
        sleep(Duration::from_millis(10)).await;
    }
    let came = (done.load(Ordering::SeqCst), began.elapsed().as_secs_f64());
    storm.shutdown().await;
    drop(good);
    Arc::into_inner(site).expect("the storm is over").stop().await;
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_handshakes_from_one_address_is_held_to_its_pace() {
    let limits = Limits { handshakes_per_address_per_s: 20, ..Limits::default() };
    let (done, seconds) = storm(Site::limited(2, limits).await, 1).await;
    // A second's worth at once, and then its rate; no less than that either, or nobody was served.
    assert!(done >= 20 && done as f64 <= 20.0 * (1.0 + seconds) + 2.0, "{done} in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_handshakes_from_many_addresses_is_held_to_the_node_s_pace() {
    let limits = Limits { handshakes_per_s: 20, ..Limits::default() };
    let (done, seconds) = storm(Site::limited(2, limits).await, 100).await;
    // What two event loops may begin at once, and then the rate.
    let burst = 2.0 * f64::from(muster_server::edge::limits::HANDSHAKE_BURST);
    assert!(done >= 20 && done as f64 <= burst + 20.0 * seconds + 2.0, "{done} in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_one_identity_do_not_take_over_from_one_another_for_ever() {
    let clones = Policy { takeovers_max: 3, ..Policy::default() };
    let site = Site::limited(2, Limits { clones, ..Limits::default() }).await;
    let mut seated = Client::connected(&site, &site.devices[0], V5).await;
    for _ in 0..3 {
        let next = Client::connected(&site, &site.devices[0], V5).await;
        let said = seated.packet().await.unwrap();
        assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x8e, Some(Code::SessionTakenOver)));
        seated = next;
    }
    for _ in 0..10 {
        let (mut refused, connack) = Client::connecting(&site, &site.devices[0], V5).await;
        assert_eq!((connack[3], code_in(&connack)), (0x89, Some(Code::SessionContested)));
        assert_eq!(refused.end().await, End::Clean);
    }
    assert_eq!(seated.publish(1, TELEMETRY, b"who is here stays").await, 0);
    let mut other = Client::connected(&site, &site.devices[1], V5).await;
    assert_eq!(other.publish(1, "acme/MU-000002/telemetry/x", b"not concerned").await, 0);
    let detail = site.detail(0).await;
    let taken = detail.sessions.iter().filter_map(|of| of.ended.map(|(_, why)| why));
    assert_eq!(taken.collect::<Vec<_>>(), [DisconnectReason::SessionTakenOver; 3]);
    let refused: Vec<_> = detail.refusals.iter().map(|row| row.code).collect();
    assert!(refused.iter().all(|code| *code == Code::SessionContested) && !refused.is_empty(), "{refused:?}");
    let seen = site.edge.as_ref().unwrap().seen();
    assert_eq!((seen.takeovers, seen.takeovers_suspected, seen.takeovers_refused), (3, 1, 10));
    site.stop().await;
}

/// Runs one test of this binary again in a process with few descriptors.
#[test]
fn without_descriptors_nothing_acknowledged_is_lost() {
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 112; exec \"$0\" --exact door::inner_without_descriptors --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env("MUSTER_NO_DESCRIPTORS", "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn inner_without_descriptors() {
    if std::env::var_os("MUSTER_NO_DESCRIPTORS").is_none() {
        return;
    }
    let site = Site::with(2).await;
    let mut live = Client::connected(&site, &site.devices[0], V5).await;
    let mut acknowledged = 0_u64;
    let mut hoard = Vec::new();
    for round in 0..3 {
        // Each takes a descriptor here and, while it is let in, one in the edge; those that are turned away
        // give theirs back. Until there are none.
        let mut none_left = 0;
        while none_left < 5 {
            match timeout(PATIENCE, TcpStream::connect(site.addr)).await.expect("in time") {
                Ok(stream) => {
                    hoard.push(stream);
                    none_left = 0;
                }
                Err(_) => {
                    sleep(Duration::from_millis(20)).await;
                    none_left += usize::from(std::fs::File::open("/dev/null").is_err());
                }
            }
            assert!(hoard.len() < 112, "round {round}: the limit does not hold");
        }
        for _ in 0..50 {
            acknowledged += 1;
            live.send(&publish(V5, 1, 7, TELEMETRY, &acknowledged.to_be_bytes())).await;
            assert_eq!(live.packet().await.unwrap(), [0x40, 2, 0, 7], "who is here is served as ever");
        }
        hoard.clear();
        // No restart: the door opens by itself.
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "nobody is let in any more");
            if let Ok(mut other) = Client::open(&site, tls_of(&site.devices[1]), V5).await
                && other.let_in().await == 0
            {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    let stored: Vec<_> = site.stored().await.iter().map(|message| message.payload.to_vec()).collect();
    let sent: Vec<_> = (1..=acknowledged).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(stored, sent, "every one that was acknowledged, once and in order");
    site.stop().await;
}
