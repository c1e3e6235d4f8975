//! Octets from anybody: nothing panics, nothing is said that is not so.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A conversation of well-formed packets, some of them refused.
fn conversation(protocol: Protocol) -> Vec<u8> {
    let unsubscribe: &[&[u8]] = &[&[0, 4], if protocol == V5 { &[0] } else { &[] }, &text("acme/MU-1/#")];
    [
        connect(protocol),
        subscribe(protocol, &[("acme/MU-1/#", 1), ("acme/~all/+", 0)]),
        publish(protocol, 1, 7, TELEMETRY, &[b'x'; 300]),
        publish(protocol, 0, 0, TELEMETRY, b"y"),
        vec![0xc0, 0],
        publish(protocol, 1, 8, "acme/MU-1/twin/reported", b"{}"),
        vec![0x40, 2, 0, 1],
        packet(0xa2, unsubscribe),
        vec![0xe0, 0],
    ]
    .concat()
}

/// Everything a session does with these octets, given in pieces of these sizes. `settle`: every message
/// is stored at once; else the log never answers.
fn run(bytes: &[u8], pieces: &[usize], settle: bool) -> (Vec<u8>, Vec<Command>) {
    let mut client = Client::fresh();
    let (mut said, mut done) = (Vec::new(), Vec::new());
    let mut held: Vec<u8> = Vec::new();
    let mut pieces = pieces.iter().copied().cycle();
    let mut left = bytes;
    loop {
        let used = client.send(&held);
        assert!(used <= held.len());
        held.drain(..used);
        let commands = client.commands();
        let idle = used == 0 && commands.is_empty();
        for command in commands {
            match command {
                Command::Connect(ref request) => match request.objection {
                    None => client.session.admit(0, admission(), &mut client.out),
                    Some(code) => client.session.refuse(code, &mut client.out),
                },
                Command::Append(_) if settle => client.settle(Fate::Stored),
                _ => {}
            }
            done.push(command);
        }
        done.append(&mut client.out.commands);
        said.append(&mut client.out.bytes);
        if idle {
            if left.is_empty() {
                return (said, done);
            }
            let piece = pieces.next().unwrap_or(1).clamp(1, left.len());
            held.extend_from_slice(&left[..piece]);
            left = &left[piece..];
        }
    }
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(V3), Just(V5)]
}

proptest! {
    #[test]
    fn how_octets_are_cut_changes_nothing(protocol in protocol(), pieces in prop::collection::vec(1usize..40, 1..20)) {
        let bytes = conversation(protocol);
        let (said, done) = run(&bytes, &[usize::MAX], false);
        prop_assert!(done.iter().filter(|c| matches!(c, Command::Append(_))).count() == 3, "{done:?}");
        prop_assert_eq!(run(&bytes, &pieces, false), (said, done));
    }

    #[test]
    fn no_octets_make_a_session_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), protocol in protocol()) {
        run(&bytes, &[7], true);
        run(&[connect(protocol), bytes].concat(), &[64], true);
    }

    #[test]
    fn no_mutation_makes_a_session_panic_or_speak_for_another(
        protocol in protocol(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = conversation(protocol);
        for (at, octet) in flips {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        let (_, done) = run(&bytes, &[usize::MAX], true);
        for command in done {
            if let Command::Append(uplink) | Command::AppendWill(uplink) = command {
                prop_assert!(uplink.topic.starts_with(b"acme/MU-1/"), "{:?}", uplink.topic);
            }
        }
    }

    #[test]
    fn packets_of_any_kind_and_body_are_survived(
        protocol in protocol(),
        packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let mut bytes = connect(protocol);
        for (first, body) in packets {
            bytes.extend(packet(first, &[&body]));
        }
        let (_, done) = run(&bytes, &[usize::MAX], true);
        prop_assert!(done.iter().filter(|c| matches!(c, Command::Close(_))).count() <= 1);
    }
}

/// What a client may do that heeds no rule.
#[derive(Debug, Clone, Copy)]
enum Move {
    Publish {
        qos: u8,
        id: u16,
        foreign: bool,
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP by its first octet.
    Ack(u8, u16),
    Subscribe(u8),
    /// The log answers.
    Settle(bool),
    /// Somebody publishes to it.
    Deliver(u8),
}

fn any_move() -> impl Strategy<Value = Move> {
    let id = 1u16..5;
    prop_oneof![
        4 => (0u8..3, id.clone(), any::<bool>())
            .prop_map(|(qos, id, foreign)| Move::Publish { qos, id, foreign: foreign && qos > 0 }),
        4 => (prop::sample::select(vec![0x40, 0x50, 0x62, 0x70]), id).prop_map(|(first, id)| Move::Ack(first, id)),
        1 => (0u8..3).prop_map(Move::Subscribe),
        4 => prop::bool::weighted(0.95).prop_map(Move::Settle),
        3 => (0u8..3).prop_map(Move::Deliver),
    ]
}

/// Packets of a server: first octet, and what follows the length.
fn packets(mut octets: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let [first, len, rest @ ..] = octets {
        let (body, rest) = rest.split_at(usize::from(*len));
        all.push((*first, body));
        octets = rest;
    }
    all
}

proptest! {
    #[test]
    fn nothing_is_acknowledged_that_is_not_stored(
        durable in any::<bool>(),
        protocol in protocol(),
        moves in prop::collection::vec(any_move(), 0..80),
    ) {
        let mut client = if durable { Client::durable(protocol, None) } else { Client::connected(protocol) };
        client.said();
        // What was handed over: its packet identifier and QoS, if it is a message.
        let mut handed: VecDeque<Option<(u16, u8)>> = VecDeque::new();
        let mut stored: Vec<(u16, u8)> = Vec::new();
        let mut sending = None;
        for (token, one) in (0..).zip(moves) {
            match one {
                Move::Publish { qos, id, foreign } => {
                    let foreign = foreign && protocol == V5;
                    sending = Some((id, qos));
                    client.send(&publish(protocol, qos, id, if foreign { FOREIGN } else { TELEMETRY }, b"x"));
                }
                Move::Ack(first, id) => drop(client.send(&[first, 2, 0, id as u8])),
                Move::Subscribe(qos) => drop(client.send(&subscribe(protocol, &[("acme/MU-1/#", qos)]))),
                Move::Settle(fine) => {
                    if let Some(message) = handed.pop_front() {
                        stored.extend(message.filter(|_| fine));
                        client.settle(if fine { Fate::Stored } else { Fate::Failed });
                    }
                }
                Move::Deliver(qos) if client.session.has_room() => {
                    let _ = client.deliver(token, &downlink(REQUEST, qos));
                }
                Move::Deliver(_) => {}
            }
            for command in client.commands() {
                match command {
                    Command::Append(_) => handed.push_back(sending),
                    Command::Save(_) => handed.push_back(None),
                    _ => {}
                }
            }
            prop_assert!(client.session.ended() || client.session.outstanding() == handed.len());
            let said = client.said();
            for (first, body) in packets(&said) {
                let refused = body.get(2).is_some_and(|reason| *reason >= 0x80);
                let (qos, ends) = match first {
                    0x40 => (1, true),
                    0x50 => (2, false),
                    0x70 if body.len() == 2 && protocol == V5 => (2, true),
                    _ => continue,
                };
                let message = (u16::from_be_bytes([body[0], body[1]]), qos);
                let at = stored.iter().position(|of| *of == message);
                prop_assert!(refused || at.is_some(), "{message:?} of {stored:?}");
                if let (false, true, Some(at)) = (refused, ends, at) {
                    stored.remove(at);
                }
            }
            if let Some(kept) = client.session.kept() {
                prop_assert_eq!(Kept::decode(&kept.encode()), Ok(kept), "two messages under one identifier");
            }
        }
    }
}
