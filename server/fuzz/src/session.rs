//! The session engine against a model of a few maps: octets are taken for a client's doings, and what the engine
//! answers must be what the model says. Every message and state handed over is stored at once; how the engine
//! waits for that is its own tests' affair.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use muster_server::edge::{
    Delivered, Limits, Principal, Service,
    mqtt::{
        packet::Qos,
        session::{Admission, Command, Delivery, Fate, Kept, Output, Session, Via},
    },
};

const TOPICS: [&str; 5] = ["a", "a/b", "b", "a/b/c", "/a"];
const FILTERS: [&str; 7] = ["a", "#", "+", "a/#", "+/b", "a/+/c", "/+"];
const V5: u8 = 5;

/// What a packet identifier of ours stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// PUBLISH at this QoS, not answered; the token of its message.
    Publish(u8, u64),
    /// PUBREL, not answered.
    Released,
}

/// What a session is, said simply.
#[derive(Debug, Default)]
struct Model {
    /// Filters, and the QoS granted.
    subscriptions: BTreeMap<&'static str, u8>,
    /// QoS 2 identifiers of the client, taken and not released.
    unreleased: Vec<u16>,
    /// What the client has not answered, oldest first.
    sent: Vec<(u16, Sent)>,
}

/// A client, the engine and the model.
struct Pair {
    version: u8,
    durable: bool,
    session: Session,
    out: Output,
    position: u64,
    model: Model,
}

/// Takes octets for a client's doings. The first says version and whether the session goes on.
pub fn run(octets: &[u8]) {
    let [how, doings @ ..] = octets else { return };
    let version = if how & 1 == 0 { 4 } else { V5 };
    let mut pair = Pair {
        version,
        durable: how & 2 != 0,
        session: fresh(),
        out: Output::default(),
        position: 0,
        model: Model::default(),
    };
    pair.connect(None);
    for (at, doing) in doings.chunks_exact(3).enumerate() {
        let [what, x, y] = [doing[0], doing[1], doing[2]];
        match what % 11 {
            0 => pair.publish(x, y),
            1 => pair.pubrel(id(x)),
            2 => pair.subscribe(FILTERS[usize::from(x) % FILTERS.len()], y % 3),
            3 => pair.unsubscribe(FILTERS[usize::from(x) % FILTERS.len()]),
            4 | 5 => pair.deliver(TOPICS[usize::from(x) % TOPICS.len()], y % 3),
            6 => pair.answer(usize::from(x)),
            7 => pair.answer_nothing(x, y),
            8 => pair.ping(),
            9 => pair.come_back(),
            _ => return pair.anything(&doings[3 * at + 1..]),
        }
    }
}

fn fresh() -> Session {
    let name = "fuzz".parse().expect("a name");
    let service = Service::new(name, None, ["#"], ["#"]).expect("filters");
    Session::new(Principal::Service(Arc::new(service)), &Limits::default(), 0)
}

/// Few identifiers, so that they meet again.
fn id(x: u8) -> u16 {
    u16::from(x % 4) + 1
}

impl Pair {
    /// What the session said and wanted, after everything it handed over was stored.
    fn said(&mut self) -> (Vec<(u8, Vec<u8>)>, Vec<Command>) {
        while self.session.outstanding() > 0 {
            self.session.settled(0, Fate::Stored, &mut self.out);
        }
        let mut octets = std::mem::take(&mut self.out.bytes);
        let mut packets = Vec::new();
        while !octets.is_empty() {
            let (len, head) = varint(&octets[1..]);
            let rest = octets.split_off(1 + head + len);
            packets.push((octets[0], octets[1 + head..].to_vec()));
            octets = rest;
        }
        (packets, std::mem::take(&mut self.out.commands))
    }

    fn send(&mut self, first: u8, body: &[&[u8]]) {
        let body = body.concat();
        let packet = [&[first, body.len() as u8][..], &body].concat();
        self.position += 1;
        self.session.mark(self.position);
        assert_eq!(self.session.input(0, &packet, &mut self.out), packet.len());
    }

    /// No properties, where the version has them.
    fn none(&self) -> &'static [u8] {
        if self.version == V5 { &[0] } else { &[] }
    }

    fn connect(&mut self, kept: Option<Kept>) {
        let clean = u8::from(!self.durable) << 1;
        let expiry: &[u8] = match (self.version, self.durable) {
            (V5, true) => &[5, 0x11, 0xff, 0xff, 0xff, 0xff],
            (V5, false) => &[0],
            _ => &[],
        };
        let head = [&[0, 4][..], b"MQTT", &[self.version, clean, 0, 0]].concat();
        self.send(0x10, &[&head, expiry, &[0, 1, b'c']]);
        let (packets, commands) = self.said();
        assert!(packets.is_empty() && matches!(commands[..], [Command::Connect(_)]), "{commands:?}");
        let present = u8::from(kept.is_some());
        let admission = Admission { kept, client_id: "c", expiry_max_s: u32::MAX, ..Admission::default() };
        self.session.admit(0, admission, &mut self.out);
        let (mut packets, _) = self.said();
        let (first, body) = packets.remove(0);
        assert_eq!((first, &body[..2]), (0x20, &[present, 0][..]));
        // PUBRELs of before, in order, and nothing else.
        let released = self.model.sent.iter().filter(|(_, sent)| *sent == Sent::Released);
        let released: Vec<_> = released.map(|(id, _)| (0x62, id.to_be_bytes().to_vec())).collect();
        assert_eq!(packets, released);
    }

    fn publish(&mut self, x: u8, y: u8) {
        let (qos, id) = (y % 3, id(x));
        let topic = TOPICS[usize::from(y) % TOPICS.len()];
        let field = [&[0, topic.len() as u8][..], topic.as_bytes()].concat();
        let head = id.to_be_bytes();
        let head: &[u8] = if qos == 0 { &[] } else { &head };
        let dup = if qos > 0 { x & 8 } else { 0 };
        self.send(0x30 | dup | qos << 1 | y >> 7, &[&field, head, self.none(), &[x, y]]);
        let (packets, commands) = self.said();
        let known = qos == 2 && self.model.unreleased.contains(&id);
        let appended: Vec<_> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Append(uplink) => Some((&uplink.topic[..], uplink.qos as u8, uplink.retain)),
                _ => None,
            })
            .collect();
        if known {
            assert!(appended.is_empty(), "taken twice: {commands:?}");
        } else {
            assert_eq!(appended, [(topic.as_bytes(), qos, y >> 7 == 1)]);
        }
        let answer = match qos {
            0 => vec![],
            1 => vec![(0x40, id)],
            _ => vec![(0x50, id)],
        };
        assert_eq!(answers(&packets), answer);
        if qos == 2 && !known {
            self.model.unreleased.push(id);
        }
    }

    fn pubrel(&mut self, id: u16) {
        self.send(0x62, &[&id.to_be_bytes()]);
        let (packets, _) = self.said();
        assert_eq!(answers(&packets), [(0x70, id)]);
        let before = self.model.unreleased.len();
        self.model.unreleased.retain(|held| *held != id);
        let known = before > self.model.unreleased.len();
        let reason = packets[0].1.get(2).copied().unwrap_or(0);
        assert_eq!(reason, if known || self.version != V5 { 0 } else { 0x92 });
    }

    fn subscribe(&mut self, filter: &'static str, qos: u8) {
        let field = [&[0, filter.len() as u8][..], filter.as_bytes(), &[qos]].concat();
        self.send(0x82, &[&[0, 9], self.none(), &field]);
        let (packets, _) = self.said();
        assert_eq!(packets, [(0x90, [&[0, 9], self.none(), &[qos]].concat())]);
        self.model.subscriptions.insert(filter, qos);
    }

    fn unsubscribe(&mut self, filter: &'static str) {
        let field = [&[0, filter.len() as u8][..], filter.as_bytes()].concat();
        self.send(0xa2, &[&[0, 9], self.none(), &field]);
        let (packets, _) = self.said();
        let code = if self.model.subscriptions.remove(filter).is_some() { 0 } else { 0x11 };
        let codes: &[u8] = if self.version == V5 { &[0, code] } else { &[] };
        assert_eq!(packets, [(0xb0, [&[0, 9], codes].concat())]);
    }

    fn deliver(&mut self, topic: &'static str, qos: u8) {
        if !self.session.has_room() {
            assert!(!self.model.sent.is_empty(), "no room, and nothing on its way");
            return;
        }
        self.position += 1;
        let token = self.position;
        let done = self.session.deliver(token, &message(topic, qos, token), &mut self.out);
        let (packets, _) = self.said();
        let granted = self.model.subscriptions.iter().filter(|(filter, _)| matches(filter, topic));
        match granted.map(|(_, granted)| *granted).max().map(|granted| granted.min(qos)) {
            None => assert!(done.is_err() && packets.is_empty(), "{done:?}"),
            Some(0) => {
                assert_eq!(done, Ok(Some(Delivered::Sent)));
                assert_eq!(publishes(&packets, self.version), [(0x30, topic, 0)]);
            }
            Some(qos) => {
                assert_eq!(done, Ok(None));
                let found = publishes(&packets, self.version);
                let [(first, to, id)] = found[..] else { panic!("{found:?}") };
                assert_eq!((first, to), (0x30 | qos << 1, topic));
                assert!(id != 0 && self.model.sent.iter().all(|(used, _)| *used != id), "in use: {id}");
                self.model.sent.push((id, Sent::Publish(qos, token)));
            }
        }
    }

    /// The client answers one of the messages on their way.
    fn answer(&mut self, which: usize) {
        if self.model.sent.is_empty() {
            return;
        }
        let at = which % self.model.sent.len();
        let (id, sent) = self.model.sent[at];
        let answer = match sent {
            Sent::Publish(1, _) => 0x40,
            Sent::Publish(..) => 0x50,
            Sent::Released => 0x70,
        };
        self.send(answer, &[&id.to_be_bytes()]);
        let (packets, commands) = self.said();
        self.model.sent.remove(at);
        if let Sent::Publish(qos, token) = sent {
            assert!(commands.contains(&Command::Delivered(token, Ok(Delivered::Acknowledged))));
            if qos == 2 {
                self.model.sent.push((id, Sent::Released));
            }
        }
        let expected = if answer == 0x50 { vec![(0x62, id)] } else { vec![] };
        assert_eq!(answers(&packets), expected);
    }

    /// An answer to what was never sent.
    fn answer_nothing(&mut self, x: u8, y: u8) {
        let id = 0xf000 | u16::from(y);
        let kind = [0x40, 0x50, 0x70][usize::from(x % 3)];
        self.send(kind, &[&id.to_be_bytes()]);
        let (packets, _) = self.said();
        let expected = if kind == 0x50 { vec![(0x62, id)] } else { vec![] };
        assert_eq!(answers(&packets), expected);
    }

    fn ping(&mut self) {
        self.send(0xc0, &[]);
        assert_eq!(self.said().0, [(0xd0, vec![])]);
    }

    /// The connection is lost, and the client comes back to the session it left, if that goes on.
    fn come_back(&mut self) {
        self.session.lost(&mut self.out);
        self.said();
        let kept = self.session.close_state();
        assert_eq!(kept.is_some(), self.durable);
        // As it is on disk.
        let kept = kept.map(|kept| Kept::decode(&kept.encode()).expect("just written"));
        if !self.durable {
            self.model = Model::default();
        }
        self.session = fresh();
        let again: Vec<_> = kept.iter().flat_map(Kept::inflight).collect();
        self.connect(kept);
        let open = self.model.sent.iter().filter(|(_, sent)| *sent != Sent::Released);
        let open: Vec<_> = open.copied().collect();
        assert_eq!(again.len(), open.len());
        for (token, (id, sent)) in again.into_iter().zip(open) {
            let Sent::Publish(qos, of) = sent else { unreachable!("filtered") };
            assert_eq!(token, of, "in the order they were sent");
            let done = self.session.deliver(token, &message("a", 2, token), &mut self.out);
            assert_eq!(done, Ok(None));
            let (packets, _) = self.said();
            assert_eq!(publishes(&packets, self.version), [(0x38 | qos << 1, "a", id)]);
        }
        self.session.resumed(&mut self.out);
        assert!(self.said().0.is_empty());
    }

    /// Octets as they are. Nothing is promised about the answers, but that there is an end to them.
    fn anything(&mut self, octets: &[u8]) {
        let mut used = 0;
        while used < octets.len() && self.session.listens() {
            let more = self.session.input(0, &octets[used..], &mut self.out);
            self.said();
            if more == 0 {
                return;
            }
            used += more;
        }
    }
}

fn message(topic: &str, qos: u8, position: u64) -> Delivery<'_> {
    static PAYLOAD: Bytes = Bytes::from_static(b"payload");
    Delivery {
        topic,
        payload: &PAYLOAD,
        qos: Qos::from_bits(qos).expect("0, 1 or 2"),
        retain: false,
        via: Via::Filters,
        properties: &[],
        waited_s: 0,
        from_self: false,
        position,
    }
}

/// Kinds and identifiers of answers.
fn answers(packets: &[(u8, Vec<u8>)]) -> Vec<(u8, u16)> {
    packets.iter().map(|(first, body)| (*first, u16::from_be_bytes([body[0], body[1]]))).collect()
}

/// First octet, topic and identifier of PUBLISHes.
fn publishes(packets: &[(u8, Vec<u8>)], version: u8) -> Vec<(u8, &str, u16)> {
    let mut all = Vec::new();
    for (first, body) in packets {
        let len = usize::from(body[1]);
        let topic = std::str::from_utf8(&body[2..2 + len]).expect("a topic of ours");
        let mut rest = &body[2 + len..];
        let mut id = 0;
        if first >> 1 & 3 > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        assert_eq!(&rest[usize::from(version == V5)..], b"payload");
        all.push((*first, topic, id));
    }
    all
}

/// A variable byte integer: value and octets.
fn varint(octets: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (at, octet) in octets.iter().enumerate() {
        value |= usize::from(octet & 0x7f) << (7 * at);
        if octet & 0x80 == 0 {
            return (value, at + 1);
        }
    }
    panic!("an unfinished number")
}

/// Does the filter match the topic (MQTT 5.0 §4.7)? Level by level, without `$`.
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
    for (at, level) in filter.iter().enumerate() {
        match *level {
            "#" => return true,
            "+" if at < topic.len() => {}
            level if topic.get(at) == Some(&level) => {}
            _ => return false,
        }
    }
    filter.len() == topic.len()
}
