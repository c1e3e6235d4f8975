//! Two holders of one identity, over real sockets: continuity tokens in CONNECT and CONNACK.

use muster_server::registry::{Act, DeviceState, DisconnectReason};
use muster_shared::Code;

use crate::{
    client::{Client, V3, V5, code_in, packet, text, tls_of},
    site::{PATIENCE, Site},
};

const NAME: &str = "muster-continuity";

/// CONNECT of MQTT 5 with a token; the client, and what CONNACK says.
async fn show(site: &Site, device: usize, token: Option<&str>) -> (Client, Vec<u8>) {
    let property = token.map(|token| [&[0x26][..], &text(NAME), &text(token)].concat()).unwrap_or_default();
    let head = [&[0, 4][..], b"MQTT", &[V5, 0b10, 0, 60]].concat();
    let mut client = Client::open(site, tls_of(&site.devices[device]), V5).await.unwrap();
    client.send(&packet(0x10, &[&head, &[property.len() as u8], &property, &text("")])).await;
    let connack = client.packet().await.expect("CONNACK");
    (client, connack)
}

/// The token in CONNACK.
fn given(connack: &[u8]) -> String {
    assert_eq!(connack[3], 0, "{connack:02x?}");
    let name = [&[0x26][..], &text(NAME)].concat();
    let at = connack.windows(name.len()).position(|octets| octets == name).expect("a token") + name.len();
    let length = usize::from(u16::from_be_bytes([connack[at], connack[at + 1]]));
    String::from_utf8(connack[at + 2..at + 2 + length].to_vec()).unwrap()
}

async fn becomes(site: &Site, device: usize, state: DeviceState) {
    let look = async {
        while site.detail(device).await.row.state != state {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_device_is_found_out_and_both_are_put_off() {
    let site = Site::with(2).await;
    let (_, connack) = show(&site, 0, None).await;
    let first = given(&connack);
    // The device is copied here. Its copy connects, then the device itself, and then the copy again.
    let (_, connack) = show(&site, 0, Some(&first)).await;
    let of_the_copy = given(&connack);
    let (mut device, connack) = show(&site, 0, Some(&first)).await;
    assert_ne!(given(&connack), of_the_copy, "always a fresh one");
    assert_eq!(device.publish(1, "acme/MU-000001/telemetry/x", b"x").await, 0);
    let (_, connack) = show(&site, 0, Some(&of_the_copy)).await;
    assert_eq!((connack[3], code_in(&connack)), (0x87, Some(Code::ContinuityOlder)));
    let said = device.packet().await.unwrap();
    assert_eq!((said[0], said[2], code_in(&said)), (0xe0, 0x98, Some(Code::DeviceQuarantined)));
    becomes(&site, 0, DeviceState::Quarantined).await;
    let detail = site.detail(0).await;
    assert_eq!(detail.sessions[0].ended.unwrap().1, DisconnectReason::DeviceQuarantined);
    assert!(detail.refusals.iter().any(|row| row.code == Code::ContinuityOlder), "on its record");
    let (_, connack) = show(&site, 0, Some(&of_the_copy)).await;
    assert_eq!(code_in(&connack), Some(Code::DeviceQuarantined));
    // The operator has looked at it. It begins anew.
    site.decide(0, Act::Release).await.unwrap();
    let (_, connack) = show(&site, 0, None).await;
    given(&connack);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_has_confirmed_a_token_must_show_one() {
    let site = Site::with(2).await;
    // Both versions, as often as they like, as long as none was confirmed.
    for version in [V3, V5, V3] {
        Client::connected(&site, &site.devices[0], version).await;
    }
    let (_, connack) = show(&site, 0, None).await;
    let token = given(&connack);
    let (_, connack) = show(&site, 0, Some(&token)).await;
    let next = given(&connack);
    let (_, connack) = show(&site, 0, None).await;
    assert_eq!((connack[3], code_in(&connack)), (0x87, Some(Code::ContinuityMissing)));
    let (_, connack) = Client::connecting(&site, &site.devices[0], V3).await;
    assert_eq!(connack, [0x20, 2, 0, 5], "MQTT 3.1.1 is no way around it");
    let (_, connack) = show(&site, 1, Some(&next)).await;
    assert_eq!(code_in(&connack), Some(Code::ContinuityForged), "another device's");
    let (_, connack) = show(&site, 0, Some(&next)).await;
    given(&connack);
    assert_eq!(site.detail(0).await.row.state, DeviceState::Active);
    site.stop().await;
}
