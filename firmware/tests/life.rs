//! A provisioned board against a small broker in memory: telemetry, refusals, commands, reconnects.
#![allow(clippy::unwrap_used)]

mod common;

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use common::{Server, broker, now_s, provisioned, server_config};
use muster_firmware::{
    Resources,
    platform::{Layout, NetError},
    testing::{Flash, TestClock, TestLog, TestNetwork, TestPlatform},
};
use muster_pki::{hierarchy::Hierarchy, testing};
use muster_shared::telemetry::{Boot, TelemetryBatch};
use rustls::ServerConfig;

/// Where the device says what it is.
const REPORTED: &str = "acme/MU-000001/twin/reported";

/// What a board's world consists of.
struct World {
    hierarchy: Hierarchy,
    flash: Flash,
    config: Arc<ServerConfig>,
}

impl World {
    fn new() -> Self {
        let hierarchy = testing::hierarchy(now_s());
        let flash = provisioned(&hierarchy, &testing::subject("MU-000001"));
        let broker = broker(&hierarchy);
        let factory = hierarchy.stations[0].factory.certificate().der();
        let config = server_config(&broker.chain, broker.key_pkcs8(), Some(factory));
        Self { hierarchy, flash, config }
    }

    /// Powers the board on; it runs while `test` does.
    fn power_on<T>(&self, test: impl AsyncFnOnce(&Board) -> T) -> T {
        let network = TestNetwork::default();
        let (platform, _station) = TestPlatform::on(self.flash.clone(), network.clone());
        let (clock, log) = (platform.clock.clone(), platform.log.clone());
        let board = Board { clock, log, network, config: Arc::clone(&self.config) };
        let mut resources = Box::new(Resources::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let device = muster_firmware::run(platform, &mut resources);
            tokio::select! {
                // What the test sets up before it first waits is there when the device starts.
                biased;
                done = Box::pin(test(&board)) => done,
                never = Box::pin(device) => never,
            }
        })
    }
}

struct Board {
    clock: TestClock,
    log: TestLog,
    network: TestNetwork,
    config: Arc<ServerConfig>,
}

impl Board {
    /// Steps the clock, in small steps of real time so that the device works in between, until `done`.
    async fn until<T>(&self, what: &str, step_ms: u64, mut done: impl FnMut() -> Option<T>) -> T {
        for _ in 0..4000 {
            if let Some(found) = done() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.clock.advance(step_ms);
        }
        panic!("{what} did not happen; the log says:\n{}", self.log.text());
    }

    async fn line(&self, part: &str) -> String {
        self.until(part, 50, || self.log.lines().into_iter().find(|line| line.contains(part))).await
    }

    /// The device's next connection, as a broker sees it after the handshake.
    async fn accept(&self) -> Broker {
        let pipe = self.until("a connection", 500, || self.network.accept()).await;
        Broker { server: Server::new(Arc::clone(&self.config), pipe), came: Vec::new(), takes_reports: true }
    }

    /// The same, with CONNECT and SUBSCRIBE answered.
    async fn session(&self) -> Broker {
        self.session_giving(&[]).await.0
    }

    /// The same with these properties in CONNACK; and CONNECT.
    async fn session_giving(&self, properties: &[u8]) -> (Broker, Vec<u8>) {
        let mut broker = self.accept().await;
        let connect = broker.packet().await;
        let connect = connect.unwrap_or_else(|end| panic!("{end}; the log says:\n{}", self.log.text()));
        assert_eq!(connect[0], 0x10);
        let length = u8::try_from(properties.len()).unwrap();
        broker.server.write(&[&[0x20, 3 + length, 0, 0, length], properties].concat()).await;
        let subscribe = broker.packet().await.unwrap();
        assert_eq!(subscribe[0], 0x82);
        broker.server.write(&[0x90, 4, subscribe[2], subscribe[3], 0, 1]).await;
        (broker, connect)
    }
}

struct Broker {
    server: Server,
    came: Vec<u8>,
    /// Whether what the device reports of itself is acknowledged, and passed over.
    takes_reports: bool,
}

/// A PUBLISH, as [`Broker::packet`] gives it.
struct Publish {
    retain: bool,
    topic: String,
    id: [u8; 2],
    properties: Vec<u8>,
    payload: Vec<u8>,
}

impl Publish {
    fn read(packet: &[u8]) -> Self {
        assert_eq!(packet[0] & 0xfe, 0x32, "at QoS 1, for the first time: {packet:?}");
        let len = usize::from(packet[2]) << 8 | usize::from(packet[3]);
        let rest = &packet[4 + len..];
        let (properties, payload) = rest[3..].split_at(usize::from(rest[2]));
        Self {
            retain: packet[0] & 1 == 1,
            topic: String::from_utf8(packet[4..4 + len].to_vec()).unwrap(),
            id: [rest[0], rest[1]],
            properties: properties.to_vec(),
            payload: payload.to_vec(),
        }
    }
}

impl Broker {
    /// One packet; its length fits one or two octets.
    async fn packet(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if self.came.len() >= 2 {
                let (len, header) = match self.came[1] {
                    n @ 0..=0x7f => (usize::from(n), 2),
                    n if self.came.len() >= 3 => (usize::from(n & 0x7f) + usize::from(self.came[2]) * 128, 3),
                    _ => (usize::MAX / 2, 0),
                };
                if self.came.len() >= header + len {
                    let rest = self.came.split_off(header + len);
                    let packet = std::mem::replace(&mut self.came, rest);
                    // Fixed header in two octets, for easy indexing.
                    return Ok([&packet[..1], &[0], &packet[header..]].concat());
                }
            }
            let more = tokio::time::timeout(Duration::from_secs(30), self.server.read()).await;
            self.came.extend(more.map_err(|_| "silent".to_owned())??);
        }
    }

    /// The next publish that is not passed over: topic, packet id, payload. Pings are answered.
    async fn publish(&mut self) -> Result<(String, [u8; 2], Vec<u8>), String> {
        let publish = loop {
            let packet = self.packet().await?;
            if packet[0] == 0xc0 {
                self.server.write(&[0xd0, 0]).await;
                continue;
            }
            let publish = Publish::read(&packet);
            if publish.topic != REPORTED {
                break publish;
            }
            if self.takes_reports {
                self.ack(publish.id).await;
            }
        };
        assert!(!publish.retain && publish.properties.is_empty());
        Ok((publish.topic, publish.id, publish.payload))
    }

    /// The next publish that is no telemetry, and the packets before it; telemetry is acknowledged.
    async fn reply(&mut self) -> (String, [u8; 2], Vec<u8>) {
        loop {
            let (topic, id, payload) = self.publish().await.unwrap();
            if !topic.ends_with("/telemetry/board") {
                return (topic, id, payload);
            }
            self.ack(id).await;
        }
    }

    async fn ack(&mut self, id: [u8; 2]) {
        self.server.write(&[0x40, 2, id[0], id[1]]).await;
    }

    async fn refuse(&mut self, first: &[u8], reason: u8, text: &str) {
        let mut body = first.to_vec();
        body.push(reason);
        body.push(u8::try_from(text.len() + 3).unwrap());
        body.extend([0x1f, 0, u8::try_from(text.len()).unwrap()]);
        body.extend(text.as_bytes());
        let kind = match first.len() {
            // PUBACK has a packet id, CONNACK a flag, DISCONNECT nothing.
            2 => 0x40,
            1 => 0x20,
            _ => 0xe0,
        };
        let len = u8::try_from(body.len()).unwrap();
        self.server.write(&[&[kind, len], &body[..]].concat()).await;
    }
}

#[test]
fn telemetry_flows_and_is_removed_only_when_acknowledged() {
    let world = World::new();
    let names = Rc::new(RefCell::new(Vec::<(Boot, u64)>::new()));
    world.power_on(async |board| {
        assert_eq!(
            board.line("boot").await,
            "muster boot 0.0.0 acme/MU-000001 | connecting to 10.0.2.2:8883"
        );
        assert_eq!(board.line("T02").await, "muster tls T02 clock not set | using the time floor");
        let mut broker = board.session().await;
        // The factory's power-on has left a measurement; then come this one's.
        for name in [(1, 0), (2, 0), (2, 1), (2, 2)] {
            let (topic, id, payload) = board_side(board, broker.publish()).await.unwrap();
            assert_eq!(topic, "acme/MU-000001/telemetry/board");
            let batch = TelemetryBatch::read(&payload).unwrap();
            assert_eq!((batch.boot.count, batch.seq), name);
            assert_eq!(batch.readings[0].sensor.as_str(), "temperature_c");
            names.borrow_mut().push((batch.boot, batch.seq));
            broker.ack(id).await;
            board.line(&format!("muster telemetry {} acked", batch.seq)).await;
        }
        // Sent, not acknowledged: power goes.
        let (_, _, payload) = board_side(board, broker.publish()).await.unwrap();
        names.borrow_mut().push(TelemetryBatch::name(&payload).unwrap());
    });
    world.power_on(async |board| {
        let mut broker = board.session().await;
        let (_, id, payload) = broker.publish().await.unwrap();
        let again = TelemetryBatch::name(&payload).unwrap();
        assert_eq!(Some(&again), names.borrow().last(), "the same octets under the same name");
        broker.ack(id).await;
        let (_, _, payload) = broker.publish().await.unwrap();
        let (boot, seq) = TelemetryBatch::name(&payload).unwrap();
        assert_eq!((boot.install, boot.count, seq), (again.0.install, 3, 0));
    });
}

/// Lets the device's time run while the broker waits for something.
async fn board_side<T>(board: &Board, broker: impl Future<Output = T>) -> T {
    let tick = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            board.clock.advance(50);
        }
    };
    tokio::select! {
        never = tick => never,
        done = broker => done,
    }
}

#[test]
fn refusals_are_told_and_lead_to_what_the_table_says() {
    let world = World::new();
    world.power_on(async |board| {
        for (reason, text, line) in [
            (0x87, "M202 device is not registered yet", "muster mqtt M202 not registered yet | retry 60s"),
            (0x87, "M201 device is suspended", "muster mqtt M201 suspended by the operator | retry 60s"),
            (0x87, "M205 device is quarantined", "muster mqtt M205 quarantined | retry 60s"),
            (0x89, "", "muster mqtt M111 server busy | retry 5..60s"),
        ] {
            let mut broker = board.accept().await;
            broker.packet().await.unwrap();
            broker.refuse(&[0], reason, text).await;
            assert_eq!(board.line(&line[..16]).await, line);
        }
        // A live session that is closed with a reason.
        let mut broker = board.session().await;
        broker.refuse(&[], 0x98, "M201 device is suspended").await;
        board.line("M201 suspended by the operator").await;
        // For ever.
        let mut broker = board.accept().await;
        broker.packet().await.unwrap();
        broker.refuse(&[0], 0x8a, "M302 certificate is revoked").await;
        assert_eq!(
            board.line("M302").await,
            "muster mqtt M302 our certificate is revoked | stop until power-on"
        );
        let attempts = board.network.attempts();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            board.clock.advance(3_600_000);
        }
        assert_eq!(board.network.attempts(), attempts, "it stopped");
    });
}

#[test]
fn a_command_makes_it_try_another_devices_topic_and_report() {
    let world = World::new();
    world.power_on(async |board| {
        let mut broker = board.session().await;
        let topic = b"acme/MU-000001/command/c1/request";
        let mut body = vec![0, topic.len() as u8];
        body.extend(topic);
        body.extend([0, 9, 0]);
        body.extend(b"publish acme/MU-000007/app/x");
        broker.server.write(&[&[0x32, body.len() as u8], &body[..]].concat()).await;
        let (topic, id, payload) = loop {
            let packet = broker.packet().await.unwrap();
            match packet[0] {
                0x40 => {
                    assert_eq!(packet, [0x40, 0, 0, 9], "the command is acknowledged");
                    break broker.reply().await;
                }
                _ => broker.ack(Publish::read(&packet).id).await,
            }
        };
        assert_eq!((topic.as_str(), &payload[..]), ("acme/MU-000007/app/x", &b"diagnostic"[..]));
        broker.refuse(&id, 0x87, "M210 topic is not the device's").await;
        assert_eq!(
            board.line("M210").await,
            "muster acl M210 topic not ours: acme/MU-000007/app/x | dropped"
        );
        let (topic, id, payload) = broker.reply().await;
        assert_eq!(
            (topic.as_str(), &payload[..]),
            ("acme/MU-000001/command/c1/response", &b"refused M210"[..])
        );
        broker.ack(id).await;
    });
}

#[test]
fn telemetry_that_is_not_stored_is_kept_and_comes_again() {
    let world = World::new();
    world.power_on(async |board| {
        let mut broker = board.session().await;
        let (_, id, first) = broker.publish().await.unwrap();
        broker.refuse(&id, 0x83, "M110 it could not be stored").await;
        assert_eq!(board.line("M110").await, "muster mqtt M110 server cannot store | retry 5..60s");
        let (_, id, again) = board_side(board, broker.publish()).await.unwrap();
        assert_eq!(first, again);
        // And what the server will never take does not stand in the way of the next.
        broker.refuse(&id, 0x87, "M210 topic is not the device's").await;
        let (_, _, next) = board_side(board, broker.publish()).await.unwrap();
        assert_ne!(first, next);
    });
}

#[test]
fn a_server_that_is_not_ours_gets_nothing_and_the_log_says_why() {
    let mut world = World::new();
    let stranger = testing::hierarchy(now_s());
    let theirs = broker(&stranger);
    let factory = world.hierarchy.stations[0].factory.certificate().der();
    world.config = server_config(&theirs.chain, theirs.key_pkcs8(), Some(factory));
    world.power_on(async |board| {
        let mut broker = board.accept().await;
        let heard = broker.packet().await;
        assert!(heard.is_err(), "{heard:?}");
        assert!(heard.unwrap_err().to_lowercase().contains("unknownca"), "the server is told");
        assert_eq!(
            board.line("T01").await,
            "muster tls T01 server not trusted: issuer not pinned | retry 60s"
        );
    });
}

#[test]
fn a_server_that_does_not_know_our_issuer_is_quoted() {
    let mut world = World::new();
    let ours = broker(&world.hierarchy);
    let other = world.hierarchy.stations[1].factory.certificate().der();
    world.config = server_config(&ours.chain, ours.key_pkcs8(), Some(other));
    world.power_on(async |board| {
        let mut broker = board.accept().await;
        assert!(broker.packet().await.is_err());
        let line = board.line("M301").await;
        assert_eq!(line, "muster tls M301 server does not know our issuer (alert 48) | retry 60s");
    });
}

#[test]
fn without_network_it_waits_longer_and_longer_and_keeps_its_measurements() {
    let world = World::new();
    world.power_on(async |board| {
        board.network.fail(Some(NetError::Unreachable));
        board.until("tries", 1000, || (board.network.attempts() > 8).then_some(())).await;
        let lines = board.log.lines();
        assert!(
            lines
                .iter()
                .any(|l| l == "muster net N02 no answer from the server: 10.0.2.2:8883 | retry 1..60s"),
            "{lines:?}"
        );
        assert!(lines.iter().any(|l| l.contains("(x8) | retry")), "{lines:?}");
        board.network.fail(None);
        let mut broker = board.session().await;
        for name in [(1, 0), (2, 0), (2, 1), (2, 2)] {
            let (_, id, payload) = broker.publish().await.unwrap();
            let (boot, seq) = TelemetryBatch::name(&payload).unwrap();
            assert_eq!((boot.count, seq), name, "the oldest comes first, and none is missing");
            broker.ack(id).await;
        }
    });
}

#[test]
fn a_silent_server_is_left() {
    let world = World::new();
    world.power_on(async |board| {
        // Takes the connection and says nothing at all.
        let _pipe = board.until("a connection", 100, || board.network.accept()).await;
        let line = board.line("T04").await;
        assert_eq!(line, "muster tls T04 handshake failed: no answer in time | retry 1..60s");
        // Finishes the handshake, and does not answer CONNECT.
        let mut broker = board.accept().await;
        broker.packet().await.unwrap();
        let line = board.line("M114").await;
        assert_eq!(line, "muster net M114 connection lost: server is silent | retry 1..30s");
        // Answers CONNECT, and no PINGREQ after that.
        let mut broker = board.session().await;
        let seen = board_side(board, async {
            loop {
                match broker.packet().await {
                    Ok(packet) if packet[0] == 0xc0 => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            }
        });
        assert!(seen.await, "a PINGREQ within the keep-alive");
        board.until("the device hangs up", 200, || broker.server.pipe.is_closed().then_some(())).await;
    });
}

#[test]
fn a_malformed_packet_ends_the_session_and_nothing_more() {
    let world = World::new();
    world.power_on(async |board| {
        for bad in [
            &[0x00u8, 0][..],
            &[0x40, 1, 0],
            &[0x30, 0xff, 0xff, 0xff, 0x7f],
            &[0x90, 3, 0, 1, 0],
            &[0x62, 2, 0, 1],
        ] {
            let mut broker = board.session().await;
            broker.server.write(bad).await;
            board.until("the device hangs up", 200, || broker.server.pipe.is_closed().then_some(())).await;
        }
        assert!(board.line("M109").await.starts_with("muster mqtt M109 protocol error"));
        board.session().await;
    });
}

#[test]
fn a_board_whose_counter_cannot_be_committed_runs_no_tls() {
    let world = World::new();
    world.flash.write_protect(Layout::ENTROPY);
    world.power_on(async |board| {
        let line = board.line("T03").await;
        assert_eq!(line, "muster tls T03 entropy counter cannot be committed | no TLS, stop");
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            board.clock.advance(60_000);
        }
        assert_eq!(board.network.attempts(), 0);
    });
}

/// A continuity token as a user property (MQTT 5.0 §2.2.2.2).
fn token(text: &str) -> Vec<u8> {
    let name = b"muster-continuity";
    [&[0x26, 0, 17][..], name, &[0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

#[test]
fn the_continuity_token_is_in_flash_before_the_next_packet_and_shown_in_the_next_connect() {
    let world = World::new();
    let shows = |connect: &[u8], text: &str| {
        assert!(connect.windows(token(text).len()).any(|octets| octets == token(text)), "{connect:02x?}");
    };
    world.power_on(async |board| {
        let (_, connect) = board.session_giving(&token("first")).await;
        assert!(!connect.windows(6).any(|octets| octets == b"muster"), "{connect:02x?}");
        // SUBSCRIBE has come: power goes.
    });
    world.power_on(async |board| {
        let (mut broker, connect) = board.session_giving(&token("second")).await;
        shows(&connect, "first");
        broker.server.close().await;
        let (_, connect) = board.session_giving(&[]).await;
        shows(&connect, "second");
    });
    world.power_on(async |board| {
        // Given none the last time, it shows the one it has; given one it cannot keep, too.
        board.line("T02").await;
        world.flash.write_protect(Layout::CREDENTIALS);
        let (mut broker, connect) = board.session_giving(&token("third")).await;
        shows(&connect, "second");
        board.line("muster store failed | continuity token not kept").await;
        broker.server.close().await;
        shows(&board.session_giving(&[]).await.1, "second");
    });
}

/// The next report of the device on this session; telemetry is acknowledged on the way, and counted.
async fn report(board: &Board, broker: &mut Broker) -> (Publish, usize) {
    let mut measured = 0;
    let came = board_side(board, async {
        loop {
            let packet = broker.packet().await.unwrap();
            if packet[0] == 0xc0 {
                broker.server.write(&[0xd0, 0]).await;
                continue;
            }
            let publish = Publish::read(&packet);
            if publish.topic == REPORTED {
                break publish;
            }
            measured += 1;
            broker.ack(publish.id).await;
        }
    });
    let came = came.await;
    (came, measured)
}

#[test]
fn it_says_what_it_runs_once_a_session() {
    let world = World::new();
    world.power_on(async |board| {
        // The connection ends before the acknowledgement.
        let mut broker = board.session().await;
        let (said, measured) = report(board, &mut broker).await;
        assert_eq!((said.retain, &said.payload[..]), (true, &b"{\"firmware\":\"0.0.0\"}"[..]));
        assert_eq!(said.properties, b"\x03\x00\x10application/json");
        assert!(measured > 0, "telemetry goes first");
        broker.server.close().await;
        // The server refuses it: telemetry goes on, and it is not tried again in this session.
        let mut broker = board.session().await;
        let (said, _) = report(board, &mut broker).await;
        broker.refuse(&said.id, 0x87, "M210 topic is not the device's").await;
        board.line("M210").await;
        broker.takes_reports = false;
        for _ in 0..3 {
            let (_, id, _) = board_side(board, broker.publish()).await.unwrap();
            broker.ack(id).await;
        }
        broker.server.close().await;
        // It has it.
        let mut broker = board.session().await;
        let (said, _) = report(board, &mut broker).await;
        broker.ack(said.id).await;
        board.line("muster twin reported").await;
        broker.server.close().await;
        // It was away, and nobody told it what the server has kept meanwhile: said again, and once.
        let mut broker = board.session().await;
        let (said, _) = report(board, &mut broker).await;
        assert_eq!(said.payload, b"{\"firmware\":\"0.0.0\"}");
        broker.ack(said.id).await;
        for _ in 0..3 {
            let packet = board_side(board, broker.packet()).await.unwrap();
            let publish = Publish::read(&packet);
            assert_ne!(publish.topic, REPORTED, "once a session");
            broker.ack(publish.id).await;
        }
    });
    world.power_on(async |board| {
        let mut broker = board.session().await;
        report(board, &mut broker).await;
    });
}

#[test]
fn a_server_that_never_acknowledges_the_report_gets_telemetry_all_the_same() {
    let world = World::new();
    world.power_on(async |board| {
        let mut broker = board.session().await;
        broker.takes_reports = false;
        for _ in 0..6 {
            let (topic, id, _) = board_side(board, broker.publish()).await.unwrap();
            assert_eq!(topic, "acme/MU-000001/telemetry/board");
            broker.ack(id).await;
        }
    });
}
