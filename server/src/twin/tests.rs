//! From the registry to the topic: after a crash, after a suspension, and past a device that filled its room.

use std::sync::Arc;

use muster_shared::SerialNumber;

use super::*;
use crate::{
    app::Messages,
    registry::{
        Reason,
        testing::{Fleet, ana},
    },
    revocation::Revocation,
    uplink::{Publisher, testing::telemetry},
};

struct Node {
    fleet: Fleet,
    messages: Messages,
}

impl Node {
    async fn start(fleet: Fleet) -> Self {
        let messages = Messages::open(fleet.dir.path(), &fleet.registry).await.unwrap();
        Self { fleet, messages }
    }

    fn serial(&self) -> &SerialNumber {
        &self.fleet.devices[0].serial
    }

    fn name(&self) -> Arc<DeviceName> {
        self.fleet.registry.verdicts().name(self.fleet.devices[0].key)
    }

    async fn set(&self, document: &str) {
        self.fleet.registry.set_desired(&ana(), self.serial(), document.as_bytes()).await.unwrap();
    }

    fn carry(&self) -> Twins {
        Twins::start(self.fleet.registry.clone(), self.messages.uplink.clone())
    }

    fn published(&self) -> Option<u64> {
        published(&self.messages.uplink.retained(), &self.name())
    }

    /// Waits until this version is where the device reads it.
    async fn reads(&self, version: u64) -> StoredMessage {
        until("published", || async { self.published() == Some(version) }).await;
        retained(&self.messages.uplink.retained(), &self.name(), Kind::TwinDesired).unwrap()
    }

    async fn decide(&self, act: Act) {
        let Messages { sessions, uplink, .. } = &self.messages;
        let revocation = Revocation::new(self.fleet.registry.clone(), sessions.clone(), uplink.clone());
        let decided = revocation.decide(&ana(), self.serial(), act, &Reason::new("a reason of ten")).await;
        decided.unwrap().enforced().await.unwrap();
    }
}

async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_version_reads_back_from_the_properties_it_was_written_to() {
    for of in [1, 9, 10, u64::MAX] {
        assert_eq!(version(&properties(of)), Some(of));
    }
    assert_eq!(&*properties(7), b"\x03\x00\x10application/json\x26\x00\x07version\x00\x017");
    for not_ours in [&b""[..], PROPERTIES, b"\x03\x00\x10application/json", b"\x01\x01"] {
        assert_eq!(version(not_ours), None, "{not_ours:x?}");
    }
}

#[tokio::test]
async fn what_was_set_before_a_crash_is_published_at_the_next_start() {
    let node = Node::start(Fleet::with(2).await).await;
    // Committed, and nobody carried it.
    node.set("{\"n\":1}").await;
    assert_eq!(node.published(), None);
    let twins = node.carry();
    let message = node.reads(1).await;
    assert_eq!((&*message.payload, message.qos, message.retain), (&b"{\"n\":1}"[..], 1, true));
    assert_eq!(message.content_type(), Some("application/json"));
    // From now on at once, in the order of the versions.
    for n in 2..=20 {
        node.set(&format!("{{\"n\":{n}}}")).await;
    }
    let message = node.reads(20).await;
    assert_eq!(&*message.payload, b"{\"n\":20}");
    twins.stop().await;
    // What is there is not sent again.
    let before = node.messages.uplink.position();
    let twins = node.carry();
    node.set("{}").await;
    node.reads(21).await;
    twins.stop().await;
    assert_eq!(node.messages.uplink.position().0, before.0 + 1);
}

#[tokio::test]
async fn a_device_that_may_talk_again_finds_it_there_again() {
    let node = Node::start(Fleet::with(1).await).await;
    let twins = node.carry();
    node.set("{\"n\":1}").await;
    node.reads(1).await;
    node.decide(Act::Suspend).await;
    assert_eq!(node.published(), None, "nothing of it is kept on its topics");
    node.set("{\"n\":2}").await;
    node.decide(Act::Resume).await;
    let message = node.reads(2).await;
    assert_eq!(&*message.payload, b"{\"n\":2}");
    node.decide(Act::Revoke).await;
    assert_eq!(node.published(), None);
    twins.stop().await;
}

#[tokio::test]
async fn a_device_that_has_filled_its_room_still_gets_it_and_a_service_is_not_the_server() {
    let node = Node::start(Fleet::with(1).await).await;
    let name = node.name();
    let app = |n: usize| Message {
        topic: format!("{}/{}/app/{n}", name.tenant, name.device_id).into(),
        retain: true,
        name: None,
        ..telemetry(&node.fleet.devices[0], n as u64, 1.0)
    };
    let mut kept = 0;
    while let Outcome::Stored(_) = node.messages.uplink.append(app(kept)).await {
        kept += 1;
    }
    assert!((2..1000).contains(&kept), "{kept}");
    // Somebody else's word on the topic is no version of ours, and gives way.
    let theirs = Message {
        publisher: Publisher::Service {
            tenant: None,
            name: "ops".into(),
            client_id: "x".into(),
            shown: None,
        },
        properties: properties(1),
        ..message(&name, node.fleet.devices[0].key, 1, "{\"theirs\":true}".to_owned())
    };
    assert!(matches!(node.messages.uplink.append(theirs).await, Outcome::Stored(_)));
    assert_eq!(node.published(), None);
    node.set("{\"n\":1}").await;
    let twins = node.carry();
    assert_eq!(&*node.reads(1).await.payload, b"{\"n\":1}");
    twins.stop().await;
    // The same on the other half: only the device says what it is.
    let said = |publisher| Message {
        publisher,
        topic: topic(&name, Kind::TwinReported).into(),
        payload: "{}".into(),
        retain: true,
        ..message(&name, node.fleet.devices[0].key, 1, String::new())
    };
    let service = Publisher::Service { tenant: None, name: "ops".into(), client_id: "x".into(), shown: None };
    node.messages.uplink.append(said(service)).await;
    assert_eq!(reported(&node.messages.uplink.retained(), &name), None);
}
