//! What stays when a client has gone, and what does not.

use std::sync::Arc;

use muster_pki::testing::{self, Credential};
use muster_server::{
    edge::{Service, Trust},
    registry::Act,
};
use serde_json::Value;

use crate::{
    client::{Client, V3, V5, connect, connect_with, packet, publish, text, tls_of},
    site::{HIERARCHY, Site, now_s},
};

const DESIRED: &str = "acme/MU-000001/twin/desired";

/// Believes one service of the whole fleet.
fn trust() -> Trust {
    let probe = Service::new("probe".parse().unwrap(), None, ["#"], ["#"]).unwrap();
    Trust::default().services(HIERARCHY.service.certificate(), [Arc::new(probe)], [])
}

fn probe() -> Credential {
    testing::named(&HIERARCHY.service, "probe", now_s())
}

async fn service(site: &Site) -> Client {
    let mut client = Client::open(site, tls_of(&probe()), V5).await.unwrap();
    client.send(&connect(V5, "probe-1")).await;
    let connack = client.packet().await.unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    client
}

/// A 3.1.1 session that goes on; and whether it did.
async fn durable(site: &Site, device: usize) -> (Client, bool) {
    let mut client = Client::open(site, tls_of(&site.devices[device]), V3).await.unwrap();
    let id = format!("MU-{:06}", device + 1);
    client.send(&connect_with(V3, 0, 60, &[&text(&id)])).await;
    let connack = client.packet().await.unwrap();
    assert_eq!(connack[3], 0, "{connack:02x?}");
    (client, connack[2] == 1)
}

/// Leaves in order.
async fn leave(mut client: Client) {
    client.send(&[0xe0, 0]).await;
    let _ = client.end().await;
}

/// The payload of the next PUBLISH at QoS 1 in 3.1.1, acknowledged.
async fn take(client: &mut Client) -> (String, Vec<u8>) {
    let packet = client.packet().await.unwrap();
    assert_eq!(packet[0] & 0xf6, 0x32, "{packet:02x?}");
    let len = usize::from(packet[3]);
    let topic = String::from_utf8(packet[4..4 + len].to_vec()).unwrap();
    client.send(&[0x40, 2, packet[4 + len], packet[5 + len]]).await;
    (topic, packet[6 + len..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_missed_waits_for_it_through_a_restart() {
    let site = Site::trusting(1, trust()).await;
    let (mut device, present) = durable(&site, 0).await;
    assert!(!present);
    assert_eq!(device.subscribe("acme/MU-000001/#").await, 1);
    leave(device).await;
    let mut probe = service(&site).await;
    for n in 0..3_u8 {
        assert_eq!(probe.publish(u16::from(n) + 1, DESIRED, &[n]).await, 0);
    }
    let site = site.restarted(trust()).await;
    let (mut device, present) = durable(&site, 0).await;
    assert!(present, "the session goes on");
    for n in 0..3_u8 {
        assert_eq!(take(&mut device).await, (DESIRED.to_owned(), vec![n]), "in order");
    }
    leave(device).await;
    let site = site.restarted(trust()).await;
    let (mut device, present) = durable(&site, 0).await;
    assert!(present);
    device.send(&[0xc0, 0]).await;
    assert_eq!(device.packet().await.unwrap(), [0xd0, 0], "what it has is not sent again");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_has_nothing_of_before() {
    let site = Site::trusting(1, trust()).await;
    let (mut device, _) = durable(&site, 0).await;
    device.subscribe("acme/MU-000001/#").await;
    leave(device).await;
    let mut probe = service(&site).await;
    probe.publish(1, DESIRED, b"old").await;
    leave(Client::connected(&site, &site.devices[0], V3).await).await;
    let (mut device, present) = durable(&site, 0).await;
    assert!(!present);
    device.send(&[0xc0, 0]).await;
    assert_eq!(device.packet().await.unwrap(), [0xd0, 0]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_device_that_may_not_talk_stays() {
    for act in [Act::Suspend, Act::Quarantine] {
        let site = Site::trusting(2, trust()).await;
        let mut probe = service(&site).await;
        for device in 0..2 {
            let (mut client, _) = durable(&site, device).await;
            client.subscribe(&format!("acme/MU-{:06}/#", device + 1)).await;
            leave(client).await;
            let topic = format!("acme/MU-{:06}/twin/desired", device + 1);
            probe.publish(1, &topic, b"waits").await;
            let retained = packet(0x33, &[&text(&topic), &[0, 2, 0], b"retained"]);
            probe.send(&retained).await;
            assert_eq!(probe.packet().await.unwrap()[0], 0x40);
        }
        site.decide(0, act).await.unwrap().enforced().await.unwrap();
        let back = if act == Act::Suspend { Act::Resume } else { Act::Release };
        site.decide(0, back).await.unwrap();
        // The other one keeps everything.
        let (mut other, present) = durable(&site, 1).await;
        assert!(present);
        assert_eq!(take(&mut other).await.1, b"waits");
        assert_eq!(take(&mut other).await.1, b"retained");
        let (mut device, present) = durable(&site, 0).await;
        assert!(!present, "{act:?}: no session goes on");
        assert_eq!(device.subscribe("acme/MU-000001/#").await, 1);
        device.send(&[0xc0, 0]).await;
        assert_eq!(device.packet().await.unwrap(), [0xd0, 0], "{act:?}: nothing waits, nothing is retained");
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_told_who_is_here_and_why_not() {
    let site = Site::trusting(1, trust()).await;
    let mut live = service(&site).await;
    live.send(&packet(0x82, &[&[0, 1, 0], &text("acme/+/presence"), &[1]])).await;
    assert_eq!(live.packet().await.unwrap()[0], 0x90);
    let device = Client::connected(&site, &site.devices[0], V5).await;
    assert_eq!(presence(&mut live).await, (true, None));
    site.decide(0, Act::Suspend).await.unwrap().enforced().await.unwrap();
    assert_eq!(presence(&mut live).await, (false, Some("device_suspended".to_owned())));
    drop(device);
    // It is retained, and a device's purge leaves it.
    live.send(&packet(0x82, &[&[0, 2, 0], &text("acme/#"), &[1]])).await;
    assert_eq!(live.packet().await.unwrap()[0], 0x90);
    assert_eq!(presence(&mut live).await, (false, Some("device_suspended".to_owned())));
    // Nobody else says it.
    assert_eq!(live.publish(7, "acme/MU-000001/presence", b"{}").await, 0x87);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_over_what_was_said_last_and_in_its_order() {
    let site = Site::trusting(1, trust()).await;
    // It comes, goes, comes again and is sent away, all of it sooner than services are told anything.
    leave(Client::connected(&site, &site.devices[0], V5).await).await;
    let device = Client::connected(&site, &site.devices[0], V5).await;
    let site = site.restarted(trust()).await;
    drop(device);
    let said: Vec<_> = site.logged().await.iter().map(|message| online(&message.payload)).collect();
    assert_eq!(said, [true, false, true, false]);
    let mut live = service(&site).await;
    live.send(&packet(0x82, &[&[0, 1, 0], &text("acme/+/presence"), &[1]])).await;
    assert_eq!(live.packet().await.unwrap()[0], 0x90);
    assert_eq!(presence(&mut live).await, (false, Some("server_shutdown".to_owned())));
    site.stop().await;
}

fn online(payload: &[u8]) -> bool {
    let said: Value = serde_json::from_slice(payload).expect("JSON");
    said["online"].as_bool().unwrap()
}

/// The next presence at QoS 1 in MQTT 5, acknowledged: online, and why not.
async fn presence(client: &mut Client) -> (bool, Option<String>) {
    let packet = client.packet().await.unwrap();
    assert_eq!(packet[0] & 0xf0, 0x30, "{packet:02x?}");
    let body = packet.iter().position(|octet| *octet == b'{').expect("JSON");
    let topic = String::from_utf8_lossy(&packet).find("acme/").expect("its topic");
    let id = topic + "acme/MU-000001/presence".len();
    client.send(&[0x40, 2, packet[id], packet[id + 1]]).await;
    let said: Value = serde_json::from_slice(&packet[body..]).unwrap();
    (said["online"].as_bool().unwrap(), said["reason"].as_str().map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_everybody_reaches_who_is_here_and_who_is_not() {
    let site = Site::trusting(3, trust()).await;
    for device in [0, 1] {
        let (mut client, _) = durable(&site, device).await;
        client.subscribe("acme/~all/#").await;
        leave(client).await;
    }
    let mut here = Client::connected(&site, &site.devices[2], V3).await;
    here.subscribe("acme/~all/app/+").await;
    let mut probe = service(&site).await;
    assert_eq!(probe.publish(1, "acme/~all/app/hello", b"all").await, 0);
    assert_eq!(take(&mut here).await.1, b"all");
    for device in [0, 1] {
        let (mut client, present) = durable(&site, device).await;
        assert!(present);
        assert_eq!(take(&mut client).await.1, b"all");
    }
    // A device reaches itself on its own app/, and nobody else.
    here.subscribe("acme/MU-000003/app/#").await;
    here.send(&publish(V3, 0, 0, "acme/MU-000003/app/note", b"self")).await;
    assert_eq!(here.packet().await.unwrap()[0], 0x30);
    site.stop().await;
}
