//! What differs for services: any client id, shared subscriptions, wider bounds.

use muster_shared::ServiceName;

use super::*;
use crate::edge::{
    limits::{SERVICE_INFLIGHT_MAX, SERVICE_SUBSCRIPTIONS_MAX},
    principal::Service,
};

fn service() -> Principal {
    let name = ServiceName::new("ingest").unwrap();
    Principal::Service(Arc::new(Service::new(name, None, ["#"], ["#"]).unwrap()))
}

fn fresh() -> Client {
    Client { session: Session::new(service(), &Bounds::default(), 0), ..Client::fresh() }
}

fn connected(protocol: Protocol) -> Client {
    let mut client = Client::admitted(service(), &connect(protocol), admission());
    client.said();
    client
}

#[test]
fn any_client_id_is_its_own() {
    let objection = |bytes: &[u8]| {
        let mut client = fresh();
        client.send(bytes);
        match client.commands().pop() {
            Some(Command::Connect(request)) => request.objection,
            other => panic!("{other:?}"),
        }
    };
    for protocol in [V3, V5] {
        for id in ["MU-1", "any/thing é", ""] {
            assert_eq!(objection(&connect_with(protocol, 0b10, &[], &[&text(id)])), None, "{id}");
        }
    }
    let unclean = connect_with(V3, 0, &[], &[&text("")]);
    assert_eq!(objection(&unclean), Some(Code::ClientIdForeign), "[MQTT-3.1.3-8]");
}

#[test]
fn the_client_id_the_server_chose_is_told() {
    let assigned = Admission { client_id: "ingest-0001", ..admission() };
    let mut client = Client::admitted(service(), &connect_with(V5, 0b10, &[], &[&text("")]), assigned);
    let said = client.said();
    let expected = [&[0x12][..], &text("ingest-0001")].concat();
    assert!(said.windows(expected.len()).any(|w| w == expected));
    assert!(!said.windows(2).any(|w| w == [0x2a, 0]), "shared subscriptions are to be had");
}

#[test]
fn shared_subscriptions_are_found_by_their_name_alone() {
    let share = "$share/g/acme/+/telemetry/#";
    for protocol in [V3, V5] {
        let mut client = connected(protocol);
        client.send(&subscribe(protocol, &[(share, 1)]));
        assert_eq!(client.said().last(), Some(&1));
        assert_eq!(client.commands(), [Command::Subscriptions(1)], "no retained message is due");
        let [one] = &client.session.subscriptions().collect::<Vec<_>>()[..] else { panic!("one") };
        assert_eq!(one.share(), Some(("g", "acme/+/telemetry/#")));
        assert!(!client.session.matches(TELEMETRY, false, 1));
        assert_eq!(client.deliver(1, &downlink(TELEMETRY, 1)), Err(DeliverError::NotSubscribed));
        let shared = Delivery { via: Via::Share(share), ..downlink(TELEMETRY, 1) };
        assert_eq!(client.deliver(1, &shared), Ok(None));
        let other = Delivery { via: Via::Share("$share/h/acme/+/telemetry/#"), ..shared };
        assert_eq!(client.deliver(2, &other), Err(DeliverError::NotSubscribed));
    }
}

#[test]
fn a_shared_filter_has_a_group_and_a_filter() {
    let mut client = connected(V5);
    let bad = [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//x",
        "$share/+/x",
        "$share/#/x",
        "$share/g/#/x",
    ];
    let filters: Vec<_> = bad.iter().map(|filter| (*filter, 1)).collect();
    client.send(&subscribe(V5, &filters));
    let said = client.said();
    // `$share` alone is a topic that begins with `$`, and not a service's.
    assert_eq!(said[said.len() - 8..], [0x87, 0x8f, 0x8f, 0x8f, 0x8f, 0x8f, 0x8f, 0x8f]);
    client.send(&subscribe(V5, &[("$share/g//x", 1)]));
    assert_eq!(client.said().last(), Some(&1), "an empty first level is one");
}

#[test]
fn a_service_has_more_room() {
    let mut client = connected(V5);
    for n in 0..SERVICE_SUBSCRIPTIONS_MAX {
        client.send(&subscribe(V5, &[(&format!("a/{n}"), 1)]));
    }
    client.said();
    client.send(&subscribe(V5, &[("one/more", 1)]));
    assert_eq!(client.said().last(), Some(&0x97));
    for token in 0..u64::from(SERVICE_INFLIGHT_MAX) {
        assert!(client.session.has_room());
        assert_eq!(client.deliver(token, &downlink("a/1", 1)), Ok(None));
    }
    assert!(!client.session.has_room());
}
