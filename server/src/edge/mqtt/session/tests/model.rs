//! The session against a small reference model: a client that keeps the specification's rules for QoS 1
//! and 2, a log that commits one thing at a time, a queue, and accidents in between. Whatever happens, a
//! QoS 2 message arrives exactly once and a QoS 1 message at least once, both ways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const APP: &str = "acme/MU-1/app/x";

/// What a writer was handed, in order.
#[derive(Debug)]
enum Handed {
    Append(u32, Option<Box<Kept>>),
    Save(Box<Kept>),
    /// Nobody waits.
    Quiet(Kept),
    Dequeue(u64),
}

/// What survives a crash.
#[derive(Debug, Default)]
struct Disk {
    log: Vec<u32>,
    state: Kept,
    queue: BTreeMap<u64, u8>,
}

/// The client's half (MQTT 5.0 §4.3): messages are numbers.
#[derive(Debug, Default)]
struct Peer {
    /// Sent and not acknowledged: identifier, QoS, number; oldest first.
    sent: Vec<(u16, u8, u32)>,
    /// PUBREC came, PUBCOMP has not.
    releasing: Vec<u16>,
    /// QoS 2 identifiers taken over and not released.
    taken: BTreeSet<u16>,
    /// What arrived, as often as it did.
    arrived: Vec<(u64, u8)>,
    numbers: u32,
    to_server: VecDeque<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    /// The client publishes.
    Publish(u8),
    /// Somebody publishes to the client.
    Push(u8),
    /// One packet of the client reaches the server.
    Carry,
    /// One packet of the server reaches the client.
    Hear,
    /// One thing handed over is on disk.
    Commit,
    /// What changed and nobody waits for is handed over.
    Quiet,
    /// The connection breaks; the client comes back.
    Drop,
    /// The server dies; what was not committed is gone.
    Crash,
}

struct World {
    protocol: Protocol,
    disk: Disk,
    handed: VecDeque<Handed>,
    client: Client,
    stale: bool,
    peer: Peer,
    /// Octets of the server on their way.
    from_server: Vec<u8>,
    tokens: u64,
    /// Delivered on this connection.
    offered: BTreeSet<u64>,
}

impl World {
    fn new(protocol: Protocol) -> Self {
        let mut client = Client::durable(protocol, None).subscribed(protocol, &[(APP, 2)]);
        client.said();
        let disk = Disk { state: client.session.kept().unwrap(), ..Disk::default() };
        Self {
            protocol,
            disk,
            handed: VecDeque::new(),
            client,
            stale: false,
            peer: Peer::default(),
            from_server: Vec::new(),
            tokens: 0,
            offered: BTreeSet::new(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Publish(qos) => self.publish(qos),
            Op::Push(qos) => {
                self.tokens += 1;
                self.disk.queue.insert(self.tokens, qos);
                self.offer();
            }
            Op::Carry => {
                if let Some(packet) = self.peer.to_server.pop_front() {
                    assert_eq!(self.client.send(&packet), packet.len());
                    self.obey();
                }
            }
            Op::Hear => self.hear(),
            Op::Commit => self.commit(),
            Op::Quiet => {
                if std::mem::take(&mut self.stale) {
                    self.handed.push_back(Handed::Quiet(self.client.session.kept().unwrap()));
                }
            }
            Op::Drop => self.reconnect(false),
            Op::Crash => self.reconnect(true),
        }
        assert!(!self.client.session.ended());
        let kept = self.client.session.kept().unwrap();
        assert_eq!(Kept::decode(&kept.encode()), Ok(kept), "identifiers are distinct");
    }

    fn publish(&mut self, qos: u8) {
        let used =
            |id: &u16| self.peer.sent.iter().any(|(of, ..)| of == id) || self.peer.releasing.contains(id);
        // Few identifiers, so that they are used again soon.
        let Some(id) = (1..=4).find(|id| !used(id)) else { return };
        self.peer.numbers += 1;
        let number = self.peer.numbers;
        self.peer.sent.push((id, qos, number));
        self.peer.to_server.push_back(publish(self.protocol, qos, id, APP, &number.to_be_bytes()));
    }

    /// Does what the session wants done.
    fn obey(&mut self) {
        self.from_server.append(&mut self.client.out.bytes);
        for command in self.client.commands() {
            match command {
                Command::Append(uplink) => {
                    let number = u32::from_be_bytes(uplink.payload[..].try_into().unwrap());
                    self.handed.push_back(Handed::Append(number, uplink.state));
                }
                Command::Save(kept) => self.handed.push_back(Handed::Save(kept)),
                Command::Changed => self.stale = true,
                Command::Delivered(token, Ok(_)) => self.handed.push_back(Handed::Dequeue(token)),
                other => panic!("{other:?}"),
            }
        }
        self.offer();
    }

    fn commit(&mut self) {
        let waits = match self.handed.pop_front() {
            None => return,
            Some(Handed::Append(number, state)) => {
                self.disk.log.push(number);
                if let Some(state) = state {
                    self.disk.state = *state;
                }
                true
            }
            Some(Handed::Save(state)) => {
                self.disk.state = *state;
                true
            }
            Some(Handed::Quiet(state)) => {
                self.disk.state = state;
                false
            }
            Some(Handed::Dequeue(token)) => {
                self.disk.queue.remove(&token);
                false
            }
        };
        if waits {
            self.client.settle(Fate::Stored);
            self.obey();
        }
    }

    /// Hands over what waits in the queue, in order.
    fn offer(&mut self) {
        let waiting: Vec<_> = self.disk.queue.iter().map(|(token, qos)| (*token, *qos)).collect();
        for (token, qos) in waiting {
            if !self.client.session.has_room() {
                return;
            }
            if self.offered.insert(token) {
                let payload = [&token.to_be_bytes()[..], &[qos]].concat().into();
                let message = Delivery { payload: &payload, ..downlink(APP, qos) };
                if let Some(Delivered::Acknowledged) = self.client.deliver(token, &message).unwrap() {
                    self.handed.push_back(Handed::Dequeue(token));
                }
                self.from_server.append(&mut self.client.out.bytes);
                for command in self.client.commands() {
                    match command {
                        Command::Save(kept) => self.handed.push_back(Handed::Save(kept)),
                        Command::Changed => self.stale = true,
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }

    fn reconnect(&mut self, crash: bool) {
        let kept = if crash {
            self.handed.clear();
            self.disk.state.clone()
        } else {
            self.client.session.lost(&mut self.client.out);
            self.client.commands();
            while !self.handed.is_empty() {
                self.commit_after_the_end();
            }
            assert_eq!(self.client.session.outstanding(), 0);
            let kept = self.client.session.close_state().unwrap();
            self.handed.push_back(Handed::Quiet(kept.clone()));
            kept
        };
        self.stale = false;
        self.from_server.clear();
        self.peer.to_server.clear();
        self.offered.clear();
        let again: Vec<u64> = kept.inflight().collect();
        self.client = Client::durable(self.protocol, Some(kept));
        self.from_server.append(&mut self.client.out.bytes);
        // What was in flight first, in its order; it fits, as it did before.
        for token in again {
            if let Some(qos) = self.disk.queue.get(&token).copied() {
                assert!(self.client.session.has_room());
                self.offered.insert(token);
                let payload = [&token.to_be_bytes()[..], &[qos]].concat().into();
                let message = Delivery { payload: &payload, ..downlink(APP, qos) };
                assert_eq!(self.client.deliver(token, &message), Ok(None));
            }
        }
        self.client.session.resumed(&mut self.client.out);
        self.obey();
        self.peer_comes_back();
    }

    fn commit_after_the_end(&mut self) {
        let before = self.client.out.bytes.len();
        match self.handed.pop_front().unwrap() {
            Handed::Append(number, state) => {
                self.disk.log.push(number);
                if let Some(state) = state {
                    self.disk.state = *state;
                }
                self.client.settle(Fate::Stored);
            }
            Handed::Save(state) => {
                self.disk.state = *state;
                self.client.settle(Fate::Stored);
            }
            Handed::Quiet(state) => self.disk.state = state,
            Handed::Dequeue(token) => drop(self.disk.queue.remove(&token)),
        }
        assert_eq!(self.client.out.bytes.len(), before, "nothing is said after the end");
    }

    /// The client sends again what was not acknowledged [MQTT-4.4.0-1].
    fn peer_comes_back(&mut self) {
        for &(id, qos, number) in &self.peer.sent {
            let mut again = publish(self.protocol, qos, id, APP, &number.to_be_bytes());
            again[0] |= 0b1000;
            self.peer.to_server.push_back(again);
        }
        for &id in &self.peer.releasing {
            self.peer.to_server.push_back(ack(0x62, id));
        }
    }

    fn hear(&mut self) {
        if self.from_server.is_empty() {
            return;
        }
        let len = 2 + usize::from(self.from_server[1]);
        let packet: Vec<u8> = self.from_server.drain(..len).collect();
        let id = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let peer = &mut self.peer;
        match packet[0] & 0xf0 {
            0x20 => assert_eq!(packet[2..4], [1, 0], "session present"),
            0x30 => {
                let (qos, at) = (packet[0] >> 1 & 0b11, 4 + APP.len());
                let body = &packet[packet.len() - 9..];
                let message = (u64::from_be_bytes(body[..8].try_into().unwrap()), body[8]);
                assert_eq!(qos, message.1);
                if qos == 1 || peer.taken.insert(id(at)) {
                    peer.arrived.push(message);
                }
                peer.to_server.push_back(ack(if qos == 1 { 0x40 } else { 0x50 }, id(at)));
            }
            0x40 => peer.sent.retain(|(of, qos, _)| (*of, *qos) != (id(2), 1)),
            0x50 => {
                if let Some(at) = peer.sent.iter().position(|(of, qos, _)| (*of, *qos) == (id(2), 2)) {
                    peer.sent.remove(at);
                    peer.releasing.push(id(2));
                }
                peer.to_server.push_back(ack(0x62, id(2)));
            }
            0x60 => {
                peer.taken.remove(&id(2));
                peer.to_server.push_back(ack(0x70, id(2)));
            }
            0x70 => peer.releasing.retain(|of| *of != id(2)),
            other => panic!("{other:02x}"),
        }
    }

    /// Lets everything come to rest.
    fn rest(&mut self) {
        for _ in 0..10_000 {
            let quiet = self.peer.to_server.is_empty()
                && self.from_server.is_empty()
                && self.handed.is_empty()
                && !self.stale;
            if quiet {
                return;
            }
            for op in [Op::Carry, Op::Quiet, Op::Commit, Op::Hear] {
                self.step(op);
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&self, published: &[u8], pushed: &[u8]) {
        assert!(self.peer.sent.is_empty() && self.peer.releasing.is_empty() && self.peer.taken.is_empty());
        assert!(self.disk.queue.is_empty(), "everything was delivered");
        assert_eq!(self.client.session.kept().as_ref(), Some(&self.disk.state));
        assert_eq!(self.disk.state.inflight().count() + self.disk.state.received().count(), 0);
        for (number, qos) in (1..).zip(published) {
            let times = self.disk.log.iter().filter(|of| **of == number).count();
            assert!(if *qos == 2 { times == 1 } else { times >= 1 }, "up {number} at {qos}: {times} times");
        }
        for (token, qos) in (1..).zip(pushed) {
            let times = self.peer.arrived.iter().filter(|(of, _)| *of == token).count();
            assert!(if *qos == 2 { times == 1 } else { times >= 1 }, "down {token} at {qos}: {times} times");
        }
    }
}

fn ack(first: u8, id: u16) -> Vec<u8> {
    [&[first, 2][..], &id.to_be_bytes()].concat()
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u8..3).prop_map(Op::Publish),
        4 => (1u8..3).prop_map(Op::Push),
        8 => Just(Op::Carry),
        8 => Just(Op::Hear),
        8 => Just(Op::Commit),
        2 => Just(Op::Quiet),
        1 => Just(Op::Drop),
        1 => Just(Op::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_message_arrives_as_often_as_its_level_says(
        v5 in any::<bool>(),
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut world = World::new(if v5 { V5 } else { V3 });
        let (mut published, mut pushed) = (Vec::new(), Vec::new());
        for op in ops {
            let before = world.peer.numbers;
            world.step(op);
            match op {
                Op::Publish(qos) if world.peer.numbers > before => published.push(qos),
                Op::Push(qos) => pushed.push(qos),
                _ => {}
            }
        }
        world.rest();
        world.check(&published, &pushed);
    }
}
