//! Ends: keep-alive, wills, farewells.

use super::*;

#[test]
fn reason_strings_give_way_to_the_clients_packet_size() {
    let mut client = Client::with(&connect_with(V5, 0b10, &[0x27, 0, 0, 0, 30], &[&text("MU-1")]));
    client.send(&publish(V5, 1, 7, FOREIGN, b"x"));
    assert_eq!(client.said(), [0x40, 4, 0, 7, 0x87, 0]);
    client.session.end(DisconnectReason::DeviceSuspended.into(), &mut client.out);
    assert_eq!(client.said(), [0xe0, 2, 0x98, 0]);
    let mut client = Client::fresh();
    client.send(&connect_with(V5, 0b10, &[0x27, 0, 0, 0, 8], &[&text("MU-1")]));
    client.session.admit(0, admission(), &mut client.out);
    assert!(client.session.ended() && client.said().is_empty(), "not even CONNACK fits");
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alive_intervals() {
    for protocol in [V3, V5] {
        let mut client = Client::connected(protocol);
        client.now_ms = 10_000;
        client.send(&[0xc0, 0]);
        assert_eq!(client.said(), [0xd0, 0]);
        client.send(&[0xc0]); // half a packet is no sign of life
        assert_eq!(client.session.deadline_ms(), Some(100_000));
        client.session.tick(99_999, &mut client.out);
        assert!(!client.session.ended());
        client.session.tick(100_000, &mut client.out);
        let (farewell, reason) = client.ending();
        assert_eq!(farewell.why, DisconnectReason::KeepAliveTimeout);
        assert_eq!(reason, (protocol == V5).then_some(0x8d));
    }
}

#[test]
fn keep_alive_0_never_ends() {
    let mut bytes = connect(V5);
    bytes[11] = 0;
    assert_eq!(Client::with(&bytes).session.deadline_ms(), None);
}

const WILL: &str = "acme/MU-1/app/will";

fn willing(protocol: Protocol) -> Client {
    let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
    let rest: [&[u8]; 4] = [&text("MU-1"), properties, &text(WILL), &text("gone")];
    Client::with(&connect_with(protocol, 0b0000_1110, &[], &rest))
}

fn fired(client: &mut Client) -> bool {
    client
        .commands()
        .iter()
        .any(|c| matches!(c, Command::AppendWill(w) if w.topic == WILL && w.payload == "gone"))
}

#[test]
fn a_will_fires_when_the_session_ends_by_itself_and_only_then() {
    use DisconnectReason as Why;
    for protocol in [V3, V5] {
        let mut client = willing(protocol);
        client.session.lost(&mut client.out);
        assert!(fired(&mut client) && client.said().is_empty());

        let mut client = willing(protocol);
        client.send(&[0x00, 0x00]);
        assert!(fired(&mut client), "protocol error");

        let mut client = willing(protocol);
        client.session.tick(90_000, &mut client.out);
        assert!(fired(&mut client), "keep-alive");

        let mut client = willing(protocol);
        client.send(&[0xe0, 0]);
        assert!(!fired(&mut client), "DISCONNECT");

        for (why, fires) in [
            (Why::SessionTakenOver, true),
            (Why::CertificateRevoked, false),
            (Why::DeviceSuspended, false),
            (Why::DeviceQuarantined, false),
            (Why::CertificateExpired, false),
            (Why::Administrative, false),
            (Why::ServerShutdown, false),
        ] {
            let mut client = willing(protocol);
            client.session.end(why.into(), &mut client.out);
            assert_eq!(fired(&mut client), fires, "{why}");
        }
    }
    let mut client = willing(V5);
    client.send(&[0xe0, 1, 0x04]);
    assert!(fired(&mut client), "DISCONNECT with will");
}

#[test]
fn a_foreign_will_keeps_the_client_out() {
    for protocol in [V3, V5] {
        for topic in [FOREIGN, "acme/~all/x", "acme/MU-1/twin/desired"] {
            let properties: &[u8] = if protocol == V5 { &[0] } else { &[] };
            let mut client = Client::fresh();
            let rest: [&[u8]; 4] = [&text("MU-1"), properties, &text(topic), &text("")];
            client.send(&connect_with(protocol, 0b110, &[], &rest));
            let commands = client.commands();
            assert!(
                matches!(&commands[..], [Command::Connect(r)] if r.objection == Some(Code::TopicNotIts)),
                "{topic}"
            );
        }
    }
}

#[test]
fn a_farewell_says_its_reason_and_nothing_is_said_after_it() {
    let mut client = Client::connected(V5);
    client.send(&publish(V5, 1, 7, TELEMETRY, b"x"));
    client.commands();
    client.session.end(DisconnectReason::CertificateRevoked.into(), &mut client.out);
    let said = client.said();
    assert_eq!(said[2], 0x98);
    assert!(String::from_utf8_lossy(&said).contains("M302 certificate is revoked"));
    client.settle(Fate::Stored);
    client.send(&[0xc0, 0]);
    client.session.end(DisconnectReason::Administrative.into(), &mut client.out);
    client.session.tick(u64::MAX, &mut client.out);
    assert_eq!(client.session.deliver(1, &downlink(REQUEST, 0), &mut client.out), Err(DeliverError::Ended));
    assert_eq!(client.said(), NOTHING);
    assert_eq!(client.commands().len(), 1, "one Close");
}

fn will_with(expiry_s: u32, delay_s: u32, first: u8) -> Client {
    let expiry = [&[0x11][..], &expiry_s.to_be_bytes()].concat();
    let content = [&[0x03][..], &text("t")].concat();
    let properties = [&[0x18][..], &delay_s.to_be_bytes(), &content].concat();
    let len = [properties.len() as u8];
    let rest: [&[u8]; 5] = [&text("MU-1"), &len, &properties, &text(WILL), &text("gone")];
    let connect = connect_with(V5, first, &expiry, &rest);
    let mut client = Client::admitted(Principal::Device(name()), &connect, lasting(None));
    client.said();
    client
}

#[test]
fn a_will_waits_for_its_delay_and_no_longer_than_the_session() {
    for (expiry_s, delay_s, held) in [(0, 9, None), (9, 0, None), (60, 9, Some(9)), (5, 9, Some(5))] {
        let mut client = will_with(expiry_s, delay_s, 0b0011_0110);
        client.session.lost(&mut client.out);
        let commands = client.commands();
        let (will, delay) = match &commands[0] {
            Command::AppendWill(will) => (will, None),
            Command::HoldWill { will, delay_s } => (will, Some(*delay_s)),
            other => panic!("{other:?}"),
        };
        assert_eq!(delay, held, "{expiry_s} {delay_s}");
        assert_eq!((will.qos, will.retain), (Qos::ExactlyOnce, true));
        assert_eq!(will.properties, [&[0x03][..], &text("t")].concat(), "all but the delay");
    }
}

#[test]
fn a_client_may_change_as_it_leaves_how_long_its_session_goes_on() {
    let leave = |expiry_s: u32| {
        let mut disconnect = vec![0xe0, 7, 0x04, 5, 0x11];
        disconnect.extend(expiry_s.to_be_bytes());
        disconnect
    };
    let mut client = will_with(60, 9, 0b110);
    client.send(&leave(0));
    assert!(matches!(client.commands()[0], Command::AppendWill(_)), "the session ends, so it is due");
    assert_eq!((client.session.expiry_s(), client.session.close_state()), (0, None));
    let mut client = will_with(60, 9, 0b110);
    client.send(&leave(3));
    assert!(matches!(client.commands()[0], Command::HoldWill { delay_s: 3, .. }));
    assert_eq!(client.session.close_state().map(|kept| kept.expiry_s), Some(3));
    let mut client = will_with(0, 9, 0b110);
    let (_, _, reason) = client.ends(&leave(3));
    assert_eq!(reason, Some(0x82), "not from 0");
}

#[test]
fn a_session_that_is_revoked_leaves_no_will_at_any_delay() {
    let mut client = will_with(60, 9, 0b110);
    client.session.end(DisconnectReason::CertificateRevoked.into(), &mut client.out);
    assert!(matches!(client.commands()[..], [Command::Close(_)]));
}
