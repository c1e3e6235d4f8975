//! CONNECT, and what it is answered with.

use super::*;

#[test]
fn the_client_id_is_the_devices_own_or_assigned() {
    let objection = |bytes: &[u8]| {
        let mut client = Client::fresh();
        client.send(bytes);
        match &client.commands()[..] {
            [Command::Connect(request)] => request.objection,
            other => panic!("{other:?}"),
        }
    };
    for protocol in [V3, V5] {
        assert_eq!(objection(&connect(protocol)), None);
        assert_eq!(objection(&connect_with(protocol, 0b10, &[], &[&text("")])), None);
        for foreign in ["MU-2", "mu-1", "MU-1 ", "MU-1/", "+", "acme/MU-1"] {
            let bytes = connect_with(protocol, 0b10, &[], &[&text(foreign)]);
            assert_eq!(objection(&bytes), Some(Code::ClientIdForeign), "{foreign}");
        }
    }
    let unclean = connect_with(V3, 0, &[], &[&text("")]);
    assert_eq!(objection(&unclean), Some(Code::ClientIdForeign), "[MQTT-3.1.3-8]");
    assert_eq!(objection(&connect_with(V5, 0, &[], &[&text("")])), None);
}

#[test]
fn an_assigned_client_id_and_our_limits_are_in_connack() {
    let mut client = Client::fresh();
    client.send(&connect_with(V5, 0b10, &[0x11, 0, 0, 0, 9], &[&text("")]));
    client.session.admit(0, admission(), &mut client.out);
    let said = client.said();
    let has = |needle: &[u8]| said.windows(needle.len()).any(|w| w == needle);
    assert!(has(&[&[0x12][..], &text("MU-1")].concat()), "assigned client id");
    assert!(has(&[0x11, 0, 0, 0, 0]), "no session outlives its connection");
    assert!(has(&[&[0x21][..], &UPLINK_INFLIGHT_MAX.to_be_bytes()].concat()), "receive maximum");
    assert!(has(&[0x2a, 0]), "no shared subscriptions for a device");
    assert!(has(&[&[0x22][..], &TOPIC_ALIAS_MAX.to_be_bytes()].concat()), "topic aliases");
    assert!(has(&[&[0x27][..], &(PACKET_MAX as u32).to_be_bytes()].concat()), "maximum packet size");
}

#[test]
fn a_refused_client_is_told_why_as_far_as_its_version_can() {
    let refusal = |protocol, code| {
        let mut client = Client::fresh();
        client.send(&connect(protocol));
        client.commands();
        client.session.refuse(code, &mut client.out);
        assert!(matches!(client.commands()[..], [Command::Close(farewell)] if farewell.code == code));
        assert!(client.session.ended());
        client.said()
    };
    assert_eq!(refusal(V3, Code::DeviceSuspended), [0x20, 2, 0, 5]);
    assert_eq!(refusal(V3, Code::ClientIdForeign), [0x20, 2, 0, 2]);
    assert_eq!(refusal(V3, Code::ServerStopping), [0x20, 2, 0, 3]);
    for (code, reason) in
        [(Code::DeviceSuspended, 0x87), (Code::ClientIdForeign, 0x85), (Code::CertificateRevoked, 0x8a)]
    {
        let said = refusal(V5, code);
        assert_eq!(said[..4], [0x20, said[1], 0, reason]);
        let text = String::from_utf8_lossy(&said).into_owned();
        let start = text.find('M').unwrap();
        assert_eq!(Code::from_reason(&text[start..]), Some(code));
    }
}

#[test]
fn nothing_is_read_while_the_gate_decides() {
    let mut client = Client::fresh();
    let connect = connect(V5);
    let both = [connect.clone(), publish(V5, 1, 7, TELEMETRY, b"x")].concat();
    let used = client.send(&both);
    assert_eq!(used, connect.len());
    client.commands();
    assert_eq!(client.send(&both[used..]), 0);
    client.session.admit(0, admission(), &mut client.out);
    assert_eq!(client.send(&both[used..]), both.len() - used);
    assert_eq!(client.appended().len(), 1);
}

#[test]
fn anything_but_connect_first_is_closed_without_a_word() {
    let first: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n",
        &[0xc0, 0],
        &publish(V5, 1, 7, TELEMETRY, b"x"),
        &subscribe(V3, &[("acme/MU-1/#", 1)]),
        &[0xe0, 0],
        &[0x20, 2, 0, 0],
        &[0xd0, 0],
        &[0x00, 0x00],
    ];
    for bytes in first {
        let mut client = Client::fresh();
        client.send(bytes);
        assert!(client.session.ended(), "{bytes:02x?}");
        assert_eq!(client.said(), NOTHING, "{bytes:02x?}");
        assert!(
            matches!(client.commands()[..], [Command::Close(f)] if f.why == PROTOCOL_ERROR),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn protocols_we_do_not_speak_are_told_so() {
    let connack = |name: &str, level: u8| {
        let mut client = Client::fresh();
        client.send(&packet(0x10, &[&text(name), &[level, 2, 0, 60, 0], &text("MU-1")]));
        assert_eq!(client.commands().len(), 1);
        assert!(client.session.ended());
        client.said()
    };
    assert_eq!(connack("MQIsdp", 3), [0x20, 2, 0, 1]);
    assert_eq!(connack("MQTT", 3), [0x20, 2, 0, 1]);
    assert_eq!(connack("MQTT", 6)[3], 0x84);
    assert_eq!(connack("mqtt", 5), NOTHING);
    assert_eq!(connack("", 5), NOTHING);
}

#[test]
fn a_malformed_connect_is_answered_in_mqtt_5_and_only_closed_in_3() {
    let mut bad = vec![
        (0b11, vec![text("MU-1")], 0x81),        // reserved flag
        (0b0000_1010, vec![text("MU-1")], 0x81), // will QoS without a will
        (0b0010_0010, vec![text("MU-1")], 0x81), // will retain without a will
        (0b0001_1110, vec![text("MU-1"), vec![0], text("t"), text("")], 0x81), // will QoS 3
        (0b10, vec![text("MU-1"), vec![1]], 0x81), // octets behind the end
        (0b10, vec![vec![0, 9, b'M']], 0x81),    // cut short
        (0b10, vec![vec![0, 1, 0]], 0x81),       // NUL
        (0b10, vec![vec![0, 1, 0xff]], 0x81),    // not UTF-8
        (0b1000_0010, vec![text("MU-1")], 0x81), // user name missing
        (0b10, vec![text(&"x".repeat(300))], 0x85),
        (0b0000_0110, vec![text("MU-1"), vec![0], text("acme/MU-1/app/#"), text("")], 0x90),
    ];
    for (flags, rest, reason) in bad.drain(..) {
        let rest: Vec<&[u8]> = rest.iter().map(Vec::as_slice).collect();
        let mut client = Client::fresh();
        client.send(&connect_with(V5, flags, &[], &rest));
        assert!(client.session.ended());
        assert_eq!(client.said()[3], reason, "{flags:08b}");
        let mut client = Client::fresh();
        client.send(&connect_with(V3, flags, &[], &rest));
        assert!(client.session.ended());
        assert_eq!(client.said(), NOTHING);
    }
    let mut client = Client::fresh();
    client.send(&connect_with(V3, 0b0100_0010, &[], &[&text("MU-1"), &text("pw")]));
    assert!(client.session.ended(), "3.1.1 has no password without a user name [MQTT-3.1.2-22]");
    let mut client = Client::fresh();
    client.send(&connect_with(V5, 0b0100_0010, &[], &[&text("MU-1"), &text("pw")]));
    assert!(matches!(client.commands()[..], [Command::Connect(_)]), "MQTT 5 has");
}

#[test]
fn an_authentication_method_is_refused() {
    let mut client = Client::fresh();
    let auth = [&[0x15][..], &text("SCRAM")].concat();
    client.send(&connect_with(V5, 0b10, &auth, &[&text("MU-1")]));
    assert!(client.session.ended());
    assert_eq!(client.said()[3], 0x8c);
}

#[test]
fn a_client_that_never_sends_connect_is_closed() {
    let mut client = Client::fresh();
    client.send(&connect(V5)[..5]);
    let deadline = client.session.deadline_ms().unwrap();
    client.session.tick(deadline, &mut client.out);
    assert_eq!(client.ending(), ((PROTOCOL_ERROR, Code::ConnectTimeout).into(), None));
}

#[test]
fn what_was_asked_for_is_what_the_gate_hears() {
    let request = |bytes: &[u8]| {
        let mut client = Client::fresh();
        client.send(bytes);
        match client.commands().pop() {
            Some(Command::Connect(request)) => *request,
            other => panic!("{other:?}"),
        }
    };
    let token = [&[0x26][..], &text("muster-continuity"), &text("abc")].concat();
    let properties = [&[0x11, 0, 0, 0, 9][..], &token].concat();
    let asked = request(&connect_with(V5, 0, &properties, &[&text("MU-1")]));
    assert_eq!((asked.clean, asked.expiry_s, asked.keep_alive_s), (false, 9, 60));
    assert_eq!((&*asked.client_id, asked.continuity.as_deref()), ("MU-1", Some("abc")));
    assert_eq!(request(&connect_with(V5, 0, &[], &[&text("MU-1")])).expiry_s, 0, "absent is 0");
    let asked = request(&connect_with(V3, 0, &[], &[&text("MU-1")]));
    assert_eq!((asked.clean, asked.expiry_s, asked.continuity), (false, u32::MAX, None));
    let asked = request(&connect_with(V3, 0b10, &[], &[&text("MU-1")]));
    assert_eq!((asked.clean, asked.expiry_s), (true, 0));
}

/// The properties of a CONNACK.
fn connack(properties: &[u8], admission: Admission<'_>) -> Vec<u8> {
    let bytes = connect_with(V5, 0b10, properties, &[&text("MU-1")]);
    let mut client = Client::admitted(Principal::Device(name()), &bytes, admission);
    client.said()[5..].to_vec()
}

fn has(said: &[u8], needle: &[u8]) -> bool {
    said.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn connack_says_what_differs_from_what_was_asked() {
    let capped = || Admission { expiry_max_s: 5, ..admission() };
    assert!(has(&connack(&[0x11, 0, 0, 0, 9], capped()), &[0x11, 0, 0, 0, 5]));
    assert!(!connack(&[0x11, 0, 0, 0, 5], capped()).starts_with(&[0x11]));
    let keep_alive = |max| Admission { keep_alive_max_s: Some(max), ..admission() };
    assert!(has(&connack(&[], keep_alive(59)), &[0x13, 0, 59]));
    assert!(!has(&connack(&[], keep_alive(60)), &[0x13, 0, 60]));
    let offered = Admission { continuity: Some("abc"), ..admission() };
    let token = [&[0x26][..], &text("muster-continuity"), &text("abc")].concat();
    assert!(has(&connack(&[], offered), &token));
    let response = [&[0x1a][..], &text("acme/MU-1/app/")].concat();
    assert!(has(&connack(&[0x19, 1], admission()), &response));
    assert!(!has(&connack(&[0x19, 0], admission()), &response));
    let tight = Admission { continuity: Some("abc"), ..admission() };
    let said = connack(&[0x27, 0, 0, 0, 30], tight);
    assert!(!has(&said, &token) && !said.is_empty(), "a token gives way to the packet size");
}

#[test]
fn a_client_without_a_keep_alive_is_given_one_in_mqtt_5() {
    for (protocol, deadline_ms) in [(V5, Some(45_000)), (V3, None)] {
        let mut bytes = connect(protocol);
        bytes[11] = 0;
        let limit = Admission { keep_alive_max_s: Some(30), ..admission() };
        let client = Client::admitted(Principal::Device(name()), &bytes, limit);
        assert_eq!(client.session.deadline_ms(), deadline_ms);
    }
}
