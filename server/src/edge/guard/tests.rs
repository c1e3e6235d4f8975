use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    app::Messages,
    edge::{
        clones::Policy,
        roster::{Arrival, Mail, Protocol, Seat},
    },
    registry::{
        DeviceState, DisconnectReason, continuity::KEY_FILE, now_ms, testing::Fleet, timeline::EventKind,
    },
    uplink::Writer,
};

struct Node {
    fleet: Fleet,
    roster: Arc<Roster>,
    uplink: Writer,
    guard: Guard,
    tally: Arc<Tally>,
    _messages: Messages,
}

fn peer() -> SocketAddr {
    "10.0.4.17:51522".parse().unwrap()
}

async fn node(devices: usize, policy: Policy) -> Node {
    on(Fleet::with(devices).await, policy).await
}

async fn on(fleet: Fleet, policy: Policy) -> Node {
    let tally = Arc::<Tally>::default();
    let messages = Messages::open(fleet.dir.path(), &fleet.registry).await.unwrap();
    let (roster, uplink) = (messages.sessions.roster().clone(), messages.uplink.clone());
    let revocation = Revocation::new(fleet.registry.clone(), messages.sessions.clone(), uplink.clone());
    let guard = Guard::new(&fleet.registry, roster.clone(), revocation, policy, tally.clone());
    Node { fleet, roster, uplink, guard, tally, _messages: messages }
}

impl Node {
    /// A connect as far as the guards are concerned: the token for CONNACK, or why not.
    fn connect(&self, device: usize, token: Option<&str>) -> Result<String, Code> {
        let device = self.fleet.devices[device].key;
        let name = self.fleet.registry.verdicts().name(device);
        let newcomer = Newcomer { device, name: &name, peer: peer(), token };
        self.guard.vet(&newcomer, now_ms())?;
        Ok(self.guard.token(&newcomer, now_ms()).unwrap())
    }

    fn enter(&self, device: usize) -> Seat {
        let device = &self.fleet.devices[device];
        self.roster
            .enter(Arrival {
                owner: device.key.into(),
                certificate: device.certificate,
                issuer_key_id: [7; 20],
                peer: peer(),
                protocol: Protocol::V5,
                keep_alive_s: 60,
                cipher: None,
            })
            .0
    }

    fn state(&self, device: usize) -> DeviceState {
        self.fleet.registry.verdicts().state(self.fleet.devices[device].key).unwrap()
    }

    async fn becomes(&self, device: usize, state: DeviceState) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.state(device) != state {
            assert!(Instant::now() < deadline, "{:?}", self.state(device));
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn seen(&self) -> Seen {
        self.tally.read()
    }

    /// Ends the process and starts it again; what was said until now is in the file.
    async fn restarted(self, policy: Policy) -> Self {
        self.fleet.registry.facts().flush().await;
        self.uplink.close().await;
        drop(self.guard);
        on(self.fleet.reopened().await, policy).await
    }
}

/// A device that carries tokens and has confirmed one: the confirmed one, and the one it was given for it.
fn confirmed(node: &Node, device: usize) -> (String, String) {
    let first = node.connect(device, None).unwrap();
    let second = node.connect(device, Some(&first)).unwrap();
    (first, second)
}

#[tokio::test]
async fn a_client_that_carries_no_tokens_is_let_in_until_it_has_confirmed_one() {
    let node = node(2, Policy::default()).await;
    for _ in 0..3 {
        node.connect(0, None).unwrap();
    }
    let (_, token) = confirmed(&node, 0);
    assert_eq!(node.connect(0, None), Err(Code::ContinuityMissing), "an older MQTT is no way around it");
    assert_eq!(node.connect(0, Some("muster")), Err(Code::ContinuityForged));
    assert_eq!(node.connect(1, Some(&token)), Err(Code::ContinuityForged), "another device's");
    let next = node.connect(0, Some(&token)).unwrap();
    assert_ne!(next, token, "always a fresh one");
    assert_eq!(node.state(0), DeviceState::Registered, "a refusal is no quarantine");
    assert_eq!(node.seen().continuity_alerts, 3);
}

#[tokio::test]
async fn an_old_token_quarantines_both_holders_and_a_release_begins_anew() {
    let node = node(1, Policy::default()).await;
    let (first, second) = confirmed(&node, 0);
    node.connect(0, Some(&second)).unwrap();
    let session = node.enter(0);
    assert_eq!(node.connect(0, Some(&first)), Err(Code::ContinuityOlder));
    node.becomes(0, DeviceState::Quarantined).await;
    let Mail::Close(farewell) = std::future::poll_fn(|cx| session.poll_mail(true, cx)).await else {
        panic!("nobody sent anything")
    };
    assert_eq!(farewell.why, DisconnectReason::DeviceQuarantined, "who was here goes too");
    drop(session);
    let audit = node.fleet.registry.audit(0, 100).await.unwrap();
    let row = audit.last().unwrap();
    assert_eq!((row.action.as_str(), row.actor.as_str()), ("device.quarantine", "server"));
    assert!(row.reason.contains("10.0.4.17:51522"), "{}", row.reason);
    let seen = node.seen();
    assert_eq!((seen.quarantined, seen.continuity_alerts), (1, 1));

    node.fleet.act(0, crate::registry::Act::Release).await.unwrap();
    let begun = node.connect(0, None).expect("nothing is held against it any more");
    node.connect(0, Some(&begun)).unwrap();
    let node = node.restarted(Policy::default()).await;
    assert_eq!(node.connect(0, None), Err(Code::ContinuityMissing), "and what began then is in the file");
}

#[tokio::test]
async fn a_release_is_not_undone_by_facts_that_were_on_their_way() {
    let node = node(1, Policy::default()).await;
    confirmed(&node, 0);
    node.fleet.act(0, crate::registry::Act::Quarantine).await.unwrap();
    node.fleet.act(0, crate::registry::Act::Release).await.unwrap();
    let node = node.restarted(Policy::default()).await;
    node.connect(0, None).unwrap();
}

#[tokio::test]
async fn tokens_outlive_the_process() {
    let node = node(1, Policy::default()).await;
    let (first, second) = confirmed(&node, 0);
    let third = node.connect(0, Some(&second)).unwrap();
    let node = node.restarted(Policy::default()).await;
    // CONNACK was lost in between: it still has the one it confirmed.
    node.connect(0, Some(&second)).unwrap();
    assert_eq!(node.seen().continuity_alerts, 0);
    assert_eq!(node.connect(0, Some(&third)), Err(Code::ContinuityOlder), "then nobody has this one");
    assert_eq!(node.connect(0, Some(&first)), Err(Code::ContinuityOlder));
}

/// The files of a registry as they are now, in a folder of their own.
async fn copied(fleet: &Fleet) -> tempfile::TempDir {
    fleet.registry.facts().flush().await;
    let copy = tempfile::TempDir::new().unwrap();
    for entry in std::fs::read_dir(fleet.dir.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn a_restored_registry_lets_every_device_go_on_once() {
    let node = node(3, Policy::default()).await;
    let (old, mut tokens) = (confirmed(&node, 0).1, vec![String::new(); 3]);
    tokens[0] = old.clone();
    confirmed(&node, 1);
    let copy = copied(&node.fleet).await;
    for _ in 0..3 {
        tokens[0] = node.connect(0, Some(&tokens[0])).unwrap();
    }
    // A device that confirmed its first token after the copy was made.
    tokens[2] = confirmed(&node, 2).1;
    node.uplink.close().await;
    let Node { mut fleet, .. } = node;
    fleet.registry.close().await;
    fleet.moved_to(copy);
    let fleet = fleet.reopened().await;
    assert_eq!(fleet.registry.raise_continuity_epoch().await.unwrap(), 2);
    let node = on(fleet.reopened().await, Policy::default()).await;
    assert_eq!(node.fleet.registry.continuity().epoch(), 2, "it is in the file");

    let next = node.connect(0, Some(&tokens[0])).expect("ahead of what the copy knows");
    node.connect(2, Some(&tokens[2])).expect("the copy knows nothing of it");
    assert_eq!(node.seen().continuity_alerts, 1);
    node.connect(0, Some(&next)).unwrap();
    assert_eq!(node.connect(0, Some(&old)), Err(Code::ContinuityOlder), "once, and not for its double");
}

#[tokio::test]
async fn a_copy_put_back_in_silence_meets_its_own_tokens() {
    let node = node(1, Policy::default()).await;
    let copy = copied(&node.fleet).await;
    node.fleet.registry.raise_continuity_epoch().await.unwrap();
    let token = confirmed(&node, 0).1;
    let Node { mut fleet, uplink, .. } = node;
    uplink.close().await;
    fleet.registry.close().await;
    fleet.moved_to(copy);
    let node = on(fleet.reopened().await, Policy::default()).await;
    assert_eq!(node.fleet.registry.continuity().epoch(), 1);
    node.connect(0, Some(&token)).unwrap();
    assert_eq!(node.fleet.registry.continuity().epoch(), 2, "a token of a later epoch says which it is");
    let node = node.restarted(Policy::default()).await;
    assert_eq!(node.fleet.registry.continuity().epoch(), 2);
}

#[tokio::test]
async fn a_key_that_is_lost_locks_nobody_out() {
    let node = node(1, Policy::default()).await;
    let token = confirmed(&node, 0).1;
    let key = node.fleet.dir.path().join(KEY_FILE);
    std::fs::remove_file(&key).unwrap();
    let node = node.restarted(Policy::default()).await;
    let begun = node.connect(0, Some(&token)).expect("it begins anew");
    node.connect(0, Some(&begun)).unwrap();
    assert_eq!(node.connect(0, Some(&token)), Err(Code::ContinuityMissing), "and not again");
}

#[tokio::test]
async fn too_many_old_tokens_at_once_open_the_breaker() {
    let policy = Policy { quarantines_max: 3, ..Policy::default() };
    let node = node(6, policy).await;
    let mut old = Vec::new();
    for device in 0..6 {
        let (first, second) = confirmed(&node, device);
        node.connect(device, Some(&second)).unwrap();
        old.push(first);
    }
    for (device, token) in old.iter().enumerate() {
        let let_in = node.connect(device, Some(token));
        assert_eq!(let_in.is_ok(), device >= 3, "{let_in:?}");
    }
    for device in 0..3 {
        node.becomes(device, DeviceState::Quarantined).await;
    }
    assert!((3..6).all(|device| node.state(device) == DeviceState::Registered));
    let seen = node.seen();
    assert_eq!((seen.quarantined, seen.breaker_openings, seen.continuity_alerts), (3, 1, 6));
}

#[tokio::test]
async fn what_a_device_will_be_held_against_is_known_before() {
    let node = node(2, Policy { quarantines_max: 1, ..Policy::default() }).await;
    let standing = |device: usize| node.guard.standing(node.fleet.devices[device].key, now_ms());
    let fresh = Standing {
        response: Response::Enforce,
        confirmed_epoch: None,
        breaker_open: false,
        contested_until_ms: None,
    };
    assert_eq!(standing(0), fresh);
    let (first, _) = confirmed(&node, 0);
    assert_eq!(standing(0), Standing { confirmed_epoch: Some(1), ..fresh });
    let third = node.connect(0, Some(&first));
    node.connect(0, third.as_deref().ok()).unwrap();
    assert_eq!(node.connect(0, Some(&first)), Err(Code::ContinuityOlder));
    assert!(standing(0).breaker_open && standing(1).breaker_open, "one was enough, for the whole fleet");
}

#[tokio::test]
async fn where_the_operator_only_wants_to_know_everybody_is_let_in() {
    let policy = Policy { continuity: Response::Alert, ..Policy::default() };
    let node = node(1, policy).await;
    let (first, second) = confirmed(&node, 0);
    let third = node.connect(0, Some(&second)).unwrap();
    node.connect(0, Some(&third)).unwrap();
    for shown in [Some(first.as_str()), None, Some("forged")] {
        node.connect(0, shown).unwrap();
    }
    assert_eq!(node.state(0), DeviceState::Registered);
    let seen = node.seen();
    assert_eq!((seen.quarantined, seen.continuity_alerts), (0, 3));
}

#[tokio::test]
async fn sessions_that_take_over_from_one_another_are_announced_and_then_held_back() {
    let node = node(2, Policy { takeovers_max: 3, ..Policy::default() }).await;
    let mut seat = None;
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        let let_in = node.connect(0, None).map(drop);
        if let_in.is_ok() {
            seat = Some(node.enter(0));
        }
        outcomes.push(let_in);
    }
    let contested = Err(Code::SessionContested);
    assert_eq!(
        outcomes,
        [Ok(()), Ok(()), Ok(()), Ok(()), contested, contested],
        "one connect, three takeovers"
    );
    let standing = |device: usize| node.guard.standing(node.fleet.devices[device].key, now_ms());
    assert!(standing(0).contested_until_ms.is_some_and(|until_ms| until_ms > now_ms()), "and it is known");
    assert_eq!(standing(1).contested_until_ms, None);
    assert!(seat.is_some_and(|seat| seat.ordered_to_close().is_none()), "who sits there stays");
    node.connect(1, None).unwrap();
    let seen = node.seen();
    assert_eq!((seen.takeovers, seen.takeovers_suspected, seen.takeovers_refused), (3, 1, 2));
    node.fleet.registry.facts().flush().await;
    let detail = node.fleet.registry.device(&node.fleet.devices[0].serial).await.unwrap();
    assert_eq!((detail.refusals.len(), detail.row.refused_24h), (0, 0), "the newcomers were let in");
    let page = node.fleet.registry.timeline(&node.fleet.devices[0].serial, None, 100).await.unwrap();
    let suspected = page.items.iter().filter(|event| event.kind == EventKind::CloneSuspected);
    let lines: Vec<_> = suspected.map(|event| event.text.as_str()).collect();
    assert_eq!(lines, ["clone suspected: session taken over 3 times, from 10.0.4.17"]);
    assert_eq!(node.state(0), DeviceState::Registered);
}

#[tokio::test]
async fn where_the_operator_wants_it_takeovers_quarantine() {
    let policy = Policy { takeovers: Response::Enforce, takeovers_max: 2, ..Policy::default() };
    let node = node(1, policy).await;
    let session = node.enter(0);
    node.connect(0, None).unwrap();
    assert_eq!(node.connect(0, None), Err(Code::SessionContested));
    node.becomes(0, DeviceState::Quarantined).await;
    drop(session);
    assert_eq!(node.seen().quarantined, 1);
}

#[tokio::test]
async fn a_device_that_comes_back_after_its_session_ended_takes_nothing_over() {
    let node = node(1, Policy { takeovers_max: 1, ..Policy::default() }).await;
    for _ in 0..20 {
        node.connect(0, None).unwrap();
        drop(node.enter(0));
    }
    assert_eq!(node.seen(), Seen::default());
}

#[tokio::test]
async fn clients_of_a_service_do_not_take_over_for_ever_either() {
    let node = node(1, Policy { takeovers_max: 2, takeovers: Response::Enforce, ..Policy::default() }).await;
    let of =
        |client_id: &str| Arc::new(ServiceClient { name: "history".into(), client_id: client_id.into() });
    let certificate = node.fleet.devices[0].certificate;
    let (mut outcomes, mut seats) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let client = of("one");
        let let_in = node.guard.vet_service(&client, now_ms());
        if let_in.is_ok() {
            let owner = Owner::Service(client);
            let protocol = Protocol::V5;
            let arrival = Arrival {
                owner,
                certificate,
                issuer_key_id: [7; 20],
                peer: peer(),
                protocol,
                keep_alive_s: 60,
                cipher: None,
            };
            seats.push(node.roster.enter(arrival).0);
        }
        outcomes.push(let_in.is_ok());
    }
    assert_eq!(outcomes, [true, true, true, false, false]);
    node.guard.vet_service(&of("another"), now_ms()).unwrap();
}
