//! A device's session against what its certificate allows: whatever it publishes on, abbreviates, wills and
//! subscribes to, what is handed over and what is delivered is within its own namespace, and what is not is
//! refused in the words of its version.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use muster_server::{
    edge::{
        Delivered, Limits, Principal,
        mqtt::{
            packet::Qos,
            session::{Admission, Command, Delivery, Fate, Output, Session, Uplink, Via},
        },
    },
    registry::DeviceName,
};
use muster_shared::Code;

/// Topics: may the device publish there, may it read there?
const TOPICS: [(&str, bool, bool); 9] = [
    ("acme/d-1/telemetry/t", true, false),
    ("acme/d-1/app/x", true, true),
    ("acme/d-1/twin/reported", true, false),
    ("acme/d-1/twin/desired", false, true),
    ("acme/d-1/presence", false, false),
    ("acme/d-2/app/x", false, false),
    ("other/d-1/app/x", false, false),
    ("acme/~all/news", false, true),
    ("$SYS/x", false, false),
];
/// Filters, and what MQTT 5 answers.
const FILTERS: [(&str, u8); 8] = [
    ("acme/d-1/#", 0),
    ("acme/d-1/app/+", 0),
    ("acme/~all/#", 0),
    ("acme/d-2/#", 0x87),
    ("#", 0x87),
    ("+/d-1/app/x", 0x87),
    ("acme/d-1/#/x", 0x8f),
    ("$share/g/acme/d-1/app/x", 0x9e),
];
const V5: u8 = 5;

/// A device and what is known of it.
struct Client {
    version: u8,
    session: Session,
    out: Output,
    /// What each alias stands for; nothing: a topic that is not the device's.
    aliases: BTreeMap<u8, Option<&'static str>>,
    subscribed: Vec<&'static str>,
    /// Topic and retain flag of its will.
    will: Option<(&'static str, bool)>,
    position: u64,
}

/// Takes octets for a device's doings. The first two say version, will and how it leaves.
pub fn run(octets: &[u8]) {
    let [how, will, doings @ ..] = octets else { return };
    let Some(mut client) = Client::connect(*how, *will) else { return };
    for doing in doings.chunks_exact(3) {
        let [what, x, y] = [doing[0], doing[1], doing[2]];
        match what % 5 {
            0 | 1 => client.publish(x, y),
            2 => client.subscribe(x),
            3 => client.deliver(x),
            _ => client.publish_by_alias_alone(x, y),
        }
        if client.session.ended() {
            return;
        }
    }
    client.leave(how & 2 != 0);
}

impl Client {
    fn connect(how: u8, will: u8) -> Option<Self> {
        let name = DeviceName {
            tenant: "acme".parse().expect("a tenant"),
            device_id: "d-1".parse().expect("an id"),
            serial: "MU-1".parse().expect("a serial"),
        };
        let who = Principal::Device(Arc::new(name));
        let mut client = Self {
            version: if how & 1 == 0 { 4 } else { V5 },
            session: Session::new(who, &Limits::default(), 0),
            out: Output::default(),
            aliases: BTreeMap::new(),
            subscribed: Vec::new(),
            will: None,
            position: 0,
        };
        let (topic, its, _) = TOPICS[usize::from(will) % TOPICS.len()];
        let (wills, retain) = (how & 4 != 0, how & 8 != 0);
        let flags = 0b10 | if wills { 0b1100 | u8::from(retain) << 5 } else { 0 };
        let head = [&[0, 4][..], b"MQTT", &[client.version, flags, 0, 0], client.none(), &[0, 0]].concat();
        let left = [client.none(), &text(topic), &text("gone")].concat();
        client.send(0x10, &[&head, if wills { &left } else { &[] }]);
        let (_, commands) = client.said();
        let [Command::Connect(request)] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!(request.objection, (wills && !its).then_some(Code::TopicNotIts));
        if let Some(code) = request.objection {
            client.session.refuse(code, &mut client.out);
            let (packets, _) = client.said();
            assert_eq!(packets[0].1[1], if client.version == V5 { 0x87 } else { 5 });
            return None;
        }
        client.will = wills.then_some((topic, retain));
        let admission = Admission { client_id: "d-1", ..Admission::default() };
        client.session.admit(0, admission, &mut client.out);
        assert_eq!(client.said().0[0].1[1], 0);
        Some(client)
    }

    fn none(&self) -> &'static [u8] {
        if self.version == V5 { &[0] } else { &[] }
    }

    fn send(&mut self, first: u8, body: &[&[u8]]) {
        let body = body.concat();
        assert!(body.len() < 128);
        self.position += 1;
        self.session.mark(self.position);
        let packet = [&[first, body.len() as u8][..], &body].concat();
        assert_eq!(self.session.input(0, &packet, &mut self.out), packet.len());
    }

    fn said(&mut self) -> (Vec<(u8, Vec<u8>)>, Vec<Command>) {
        while self.session.outstanding() > 0 {
            self.session.settled(0, Fate::Stored, &mut self.out);
        }
        let (mut octets, mut packets) = (std::mem::take(&mut self.out.bytes), Vec::new());
        while let [first, len, ..] = octets[..] {
            let (len, head) = match (len, octets.get(2)) {
                (..0x80, _) => (usize::from(len), 2),
                (_, Some(more)) => (usize::from(len & 0x7f) | usize::from(*more) << 7, 3),
                (_, None) => panic!("an unfinished length"),
            };
            let rest = octets.split_off(head + len);
            packets.push((first, octets[head..].to_vec()));
            octets = rest;
        }
        (packets, std::mem::take(&mut self.out.commands))
    }

    /// On a topic by its name; in MQTT 5 now and then with an alias for it.
    fn publish(&mut self, x: u8, y: u8) {
        let (topic, its, _) = TOPICS[usize::from(x) % TOPICS.len()];
        let alias = (self.version == V5 && y & 16 != 0).then_some(y >> 5 & 3).filter(|alias| *alias > 0);
        if let Some(alias) = alias {
            self.aliases.insert(alias, its.then_some(topic));
        }
        self.hand_over(topic, alias, its.then_some(topic), y);
    }

    fn publish_by_alias_alone(&mut self, x: u8, y: u8) {
        let alias = x % 4 + 1;
        match (self.version, self.aliases.get(&alias).copied()) {
            (V5, Some(stands_for)) => self.hand_over("", Some(alias), stands_for, y),
            (V5, None) => {
                self.send(0x30, &[&text(""), &[3, 0x23, 0, alias], b"x"]);
                self.is_over(0x82, Code::PacketOutOfPlace);
            }
            _ => {}
        }
    }

    /// `to`: where it goes, if it may go there.
    fn hand_over(&mut self, named: &str, alias: Option<u8>, to: Option<&str>, y: u8) {
        let (qos, retain) = (y % 3, y & 8 != 0);
        let id: &[u8] = if qos == 0 { &[] } else { &[0, 7] };
        let aliased = alias.map(|alias| [3, 0x23, 0, alias]);
        let properties = aliased.as_ref().map_or(self.none(), |aliased| &aliased[..]);
        self.send(0x30 | qos << 1 | u8::from(retain), &[&text(named), id, properties, &[y]]);
        let Some(to) = to else { return self.is_refused(qos) };
        let (packets, commands) = self.said();
        let handed: Vec<_> = commands.iter().filter_map(appended).collect();
        let [uplink] = handed[..] else { panic!("{commands:?}") };
        assert_eq!((&uplink.topic[..], uplink.qos as u8, uplink.retain), (to.as_bytes(), qos, retain));
        assert!(uplink.properties.is_empty(), "an alias is nobody else's business");
        let answer: &[(u8, Vec<u8>)] = &match qos {
            0 => vec![],
            1 => vec![(0x40, vec![0, 7])],
            _ => vec![(0x50, vec![0, 7])],
        };
        assert_eq!(packets, answer);
        self.release(qos);
    }

    fn release(&mut self, qos: u8) {
        if qos == 2 {
            self.send(0x62, &[&[0, 7]]);
            assert_eq!(self.said().0[0].0, 0x70);
        }
    }

    fn is_refused(&mut self, qos: u8) {
        if qos == 0 || self.version != V5 {
            return self.is_over(0x87, Code::TopicNotIts);
        }
        let (packets, commands) = self.said();
        assert_eq!(commands, [Command::Refused(Code::TopicNotIts)]);
        assert_eq!((packets[0].0, packets[0].1[2]), (if qos == 1 { 0x40 } else { 0x50 }, 0x87));
    }

    /// The server has ended it; the will is due.
    fn is_over(&mut self, reason: u8, code: Code) {
        assert!(self.session.ended());
        let (packets, commands) = self.said();
        if self.version == V5 {
            assert_eq!((packets[0].0, packets[0].1[0]), (0xe0, reason));
        }
        assert!(commands.iter().all(|command| appended(command).is_none()), "{commands:?}");
        assert!(commands.iter().any(|command| matches!(command, Command::Close(of) if of.code == code)));
        self.will_is(true, &commands);
    }

    fn will_is(&self, due: bool, commands: &[Command]) {
        let sent = commands.iter().find_map(|command| match command {
            Command::AppendWill(will) | Command::HoldWill { will, .. } => {
                Some((&will.topic[..], will.retain))
            }
            _ => None,
        });
        assert_eq!(sent, self.will.filter(|_| due).map(|(topic, retain)| (topic.as_bytes(), retain)));
    }

    fn subscribe(&mut self, x: u8) {
        let (filter, reason) = FILTERS[usize::from(x) % FILTERS.len()];
        self.send(0x82, &[&[0, 9], self.none(), &text(filter), &[1]]);
        let (packets, _) = self.said();
        let said = match (reason, self.version) {
            (0, _) => 1,
            (_, V5) => reason,
            _ => 0x80,
        };
        assert_eq!((packets[0].0, packets[0].1.last()), (0x90, Some(&said)), "{filter}");
        if reason == 0 {
            self.subscribed.push(filter);
        }
    }

    /// Somebody sends it a message there: it comes where the device may read and has asked to.
    fn deliver(&mut self, x: u8) {
        static PAYLOAD: Bytes = Bytes::from_static(b"payload");
        let (topic, _, reads) = TOPICS[usize::from(x) % TOPICS.len()];
        let asked = self.subscribed.iter().any(|filter| {
            let prefix = filter.trim_end_matches(['#', '+']);
            topic.starts_with(prefix)
        });
        self.position += 1;
        let message = Delivery {
            topic,
            payload: &PAYLOAD,
            qos: Qos::AtMostOnce,
            retain: false,
            via: Via::Filters,
            properties: &[],
            waited_s: 0,
            from_self: false,
            position: self.position,
        };
        let done = self.session.deliver(self.position, &message, &mut self.out);
        let (packets, _) = self.said();
        if reads && asked {
            assert_eq!((done, packets.len()), (Ok(Some(Delivered::Sent)), 1));
        } else {
            assert!(done.is_err() && packets.is_empty(), "{topic}");
        }
    }

    fn leave(&mut self, in_order: bool) {
        if in_order {
            self.send(0xe0, &[]);
        } else {
            self.session.lost(&mut self.out);
        }
        assert!(self.session.ended());
        let (_, commands) = self.said();
        self.will_is(!in_order, &commands);
    }
}

fn appended(command: &Command) -> Option<&Uplink> {
    match command {
        Command::Append(uplink) => Some(uplink),
        _ => None,
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}
