//! Sessions, queues and what is retained, against a plain model, on a real file.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use muster_shared::{Code, telemetry::Boot};
use proptest::prelude::*;

use super::rig::{self, DEVICES, Picture, Rig, SMALL, addressees, device_key, service_key};
use crate::uplink::{
    Change, Message, Outcome, Position, Publisher, SessionKey, batch::Item, bounds::Bound, segment,
};

const BOOT: Boot = Boot { install: 1, count: 1 };

#[derive(Debug, Clone)]
struct Waits {
    position: Position,
    payload: Bytes,
    qos: u8,
    size: usize,
    ends: Option<u64>,
}

#[derive(Debug, Clone)]
struct Kept {
    position: Position,
    payload: Bytes,
    owner: Option<String>,
    size: usize,
    ends: Option<u64>,
}

/// Everything, said plainly.
#[derive(Debug, Clone, Default)]
struct Model {
    log: Vec<Bytes>,
    sessions: BTreeMap<SessionKey, (Bytes, Vec<Waits>)>,
    retained: BTreeMap<String, Kept>,
    /// Sequence numbers of each device, and where its newest numbered message is.
    named: BTreeMap<u32, (BTreeSet<u64>, Position)>,
}

/// Who was handed what, and what had to go for it.
type Handed = (Position, BTreeSet<SessionKey>, BTreeSet<SessionKey>, BTreeSet<(SessionKey, Position)>);

fn over(ends: Option<u64>, now: u64) -> bool {
    ends.is_some_and(|ends| ends <= now)
}

fn size(message: &Message) -> usize {
    let verdicts = rig::verdicts();
    let mut body = segment::begin();
    segment::push(&mut body, message, |device| verdicts.name(device));
    body.len()
}

/// The message's expiry, as the tests write it: alone.
fn ends(message: &Message) -> Option<u64> {
    let seconds = message.properties.get(1..5)?;
    Some(message.received_ms + u64::from(u32::from_be_bytes(seconds.try_into().unwrap())) * 1000)
}

fn device_of(publisher: &Publisher) -> Option<u32> {
    match publisher {
        Publisher::Device { device, .. } | Publisher::Server { device } => Some(device.0),
        Publisher::Service { .. } => None,
    }
}

impl Model {
    fn position(&self) -> Position {
        Position(self.log.len() as u64)
    }

    fn item(&mut self, item: &Item, now: u64) -> (Outcome, Option<Handed>) {
        match item {
            Item::Message(message) => self.message(message, now),
            Item::Change(change) if !self.has_place(change) => (Outcome::Refused(Code::SessionsFull), None),
            Item::Change(change) => {
                self.change(change);
                (Outcome::Stored(self.position()), None)
            }
        }
    }

    fn has_place(&self, change: &Change) -> bool {
        let of_service = |key: &&SessionKey| matches!(key, SessionKey::Service { .. });
        match change {
            Change::Session { key, .. } if of_service(&key) && !self.sessions.contains_key(key) => {
                self.sessions.keys().filter(of_service).count() < SMALL.service_sessions
            }
            _ => true,
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Session { key, state, done } => {
                let (kept, queue) = self.sessions.entry(key.clone()).or_default();
                *kept = state.clone();
                queue.retain(|waits| !done.contains(&waits.position));
            }
            Change::Forget { key } => drop(self.sessions.remove(key)),
            Change::Dequeue { key, positions } => {
                if let Some((_, queue)) = self.sessions.get_mut(key) {
                    queue.retain(|waits| !positions.contains(&waits.position));
                }
            }
            Change::Purge { tenant, device_id } => {
                self.sessions
                    .remove(&SessionKey::Device { tenant: tenant.clone(), device_id: device_id.clone() });
                let prefix = format!("{tenant}/{device_id}/");
                self.retained
                    .retain(|topic, _| !topic.starts_with(&prefix) || *topic == format!("{prefix}presence"));
            }
        }
    }

    fn message(&mut self, message: &Message, now: u64) -> (Outcome, Option<Handed>) {
        let topic = std::str::from_utf8(&message.topic).unwrap();
        let presence = topic.ends_with("/presence");
        match &message.publisher {
            Publisher::Device { device, .. } if device.0 == DEVICES - 1 => {
                return (Outcome::Refused(Code::DeviceSuspended), None);
            }
            Publisher::Server { device } if device.0 == DEVICES - 1 && !presence => {
                return (Outcome::Refused(Code::DeviceSuspended), None);
            }
            _ => {}
        }
        if message.state.as_ref().is_some_and(|change| !self.has_place(change)) {
            return (Outcome::Refused(Code::SessionsFull), None);
        }
        if let (Publisher::Device { device, .. }, Some((_, seq))) = (&message.publisher, message.name)
            && let Some((seen, newest)) = self.named.get(&device.0)
            && seen.contains(&seq)
        {
            let newest = *newest;
            self.own(message);
            return (Outcome::Duplicate(newest), None);
        }
        if let Err(code) = self.has_room(message, topic, now) {
            return (Outcome::Refused(code), None);
        }
        self.log.push(message.payload.clone());
        let position = self.position();
        if let (Publisher::Device { device, .. }, Some((_, seq))) = (&message.publisher, message.name) {
            let (seen, newest) = self.named.entry(device.0).or_default();
            seen.insert(seq);
            *newest = position;
        }
        let handed = self.queue(message, topic, position, now);
        if message.retain {
            self.retained.remove(topic);
            if !message.payload.is_empty() {
                self.retained.insert(topic.to_owned(), kept(message, topic, position));
            }
        }
        self.own(message);
        (Outcome::Stored(position), handed)
    }

    fn own(&mut self, message: &Message) {
        if let Some(change) = &message.state {
            self.change(change);
        }
    }

    fn has_room(&self, message: &Message, topic: &str, now: u64) -> Result<(), Code> {
        let to = addressees(topic);
        let told = match &message.publisher {
            Publisher::Service { .. } => true,
            Publisher::Server { .. } => topic.ends_with("/twin/desired"),
            Publisher::Device { .. } => false,
        };
        if let (true, [only], true) = (told, &to[..], message.qos > 0)
            && topic.starts_with(&format!("acme/MU-{only}/"))
            && let Some((_, queue)) = self.sessions.get(&device_key(*only))
            && make_room(queue, size(message), now).is_none()
        {
            return Err(Code::QueueFull);
        }
        let new = kept(message, topic, Position::default());
        if let (true, false, Some(owner)) = (message.retain, message.payload.is_empty(), &new.owner) {
            let others: Vec<_> =
                self.retained.iter().filter(|(at, _)| *at != topic).map(|(_, kept)| kept).collect();
            let own: Vec<_> = others.iter().filter(|kept| kept.owner.as_ref() == Some(owner)).collect();
            let octets = own.iter().map(|kept| kept.size).sum::<usize>() + new.size;
            let counted =
                others.iter().filter(|kept| kept.owner.is_some()).map(|kept| kept.size).sum::<usize>();
            let bound = if owner == "ops" { SMALL.retained_service } else { SMALL.retained_device };
            if own.len() >= bound.messages
                || octets > bound.bytes
                || counted + new.size > SMALL.retained_bytes
            {
                return Err(Code::RetainedFull);
            }
        }
        Ok(())
    }

    fn queue(&mut self, message: &Message, topic: &str, position: Position, now: u64) -> Option<Handed> {
        let to = addressees(topic);
        if to.is_empty() {
            return None;
        }
        let (mut queued, mut missed, mut dropped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for key in to.into_iter().map(device_key) {
            let Some((_, queue)) = self.sessions.get_mut(&key) else { continue };
            let Some((mut left, gone)) = make_room(queue, size(message), now) else {
                missed.insert(key);
                continue;
            };
            let (payload, qos, size, ends) =
                (message.payload.clone(), message.qos, size(message), ends(message));
            left.push(Waits { position, payload, qos, size, ends });
            *queue = left;
            dropped.extend(gone.into_iter().map(|at| (key.clone(), at)));
            queued.insert(key);
        }
        Some((position, queued, missed, dropped))
    }

    fn picture(&self) -> Picture {
        let queue =
            |queue: &Vec<Waits>| queue.iter().map(|waits| (waits.position, waits.payload.clone())).collect();
        Picture {
            log: self.log.clone(),
            sessions: self
                .sessions
                .iter()
                .map(|(key, (state, waits))| (key.clone(), (state.clone(), queue(waits))))
                .collect(),
            retained: self
                .retained
                .iter()
                .map(|(topic, kept)| (topic.clone(), (kept.position, kept.payload.clone())))
                .collect(),
        }
    }
}

fn kept(message: &Message, topic: &str, position: Position) -> Kept {
    let owner = match &message.publisher {
        Publisher::Service { name, .. } => Some(name.to_string()),
        Publisher::Server { .. } if topic.ends_with("/presence") => None,
        // Beside what the device has retained itself.
        Publisher::Server { device } if topic.ends_with("/twin/desired") => {
            Some(format!("twin MU-{}", device.0))
        }
        other => device_of(other).map(|n| format!("MU-{n}")),
    };
    let size = topic.len() + size(message);
    Kept { position, payload: message.payload.clone(), owner, size, ends: ends(message) }
}

/// The queue with room for one more, and what had to go; `None` when it cannot be made.
fn make_room(queue: &[Waits], size: usize, now: u64) -> Option<(Vec<Waits>, Vec<Position>)> {
    let (mut left, mut gone) = (queue.to_vec(), Vec::new());
    let Bound { messages, bytes } = SMALL.queue;
    while left.len() + 1 > messages || left.iter().map(|waits| waits.size).sum::<usize>() + size > bytes {
        let first = left.iter().position(|waits| over(waits.ends, now));
        let first = first.or_else(|| left.iter().position(|waits| waits.qos == 0))?;
        gone.push(left.remove(first).position);
    }
    Some((left, gone))
}

fn key() -> impl Strategy<Value = SessionKey> {
    prop_oneof![4 => (0..DEVICES).prop_map(device_key), 1 => "[1-4]".prop_map(|id| service_key(&id))]
}

fn positions() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1_u64..60, 0..6)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (key(), "[a-z]{0,3}", positions()).prop_map(|(key, state, done)| rig::save(key, &state, &done)),
        1 => key().prop_map(|key| Change::Forget { key }),
        2 => (key(), positions()).prop_map(|(key, positions)| Change::Dequeue {
            key,
            positions: positions.into_iter().map(Position).collect(),
        }),
        1 => (0..DEVICES).prop_map(|n| {
            let SessionKey::Device { tenant, device_id } = device_key(n) else { unreachable!("a device's") };
            Change::Purge { tenant, device_id }
        }),
    ]
}

fn publisher() -> impl Strategy<Value = Publisher> {
    prop_oneof![
        2 => (0..DEVICES).prop_map(rig::device),
        4 => Just(rig::service()),
        1 => (0..DEVICES).prop_map(rig::server),
    ]
}

fn topic() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0..DEVICES, prop::sample::select(vec!["app/a", "app/b", "twin/desired", "presence"]))
            .prop_map(|(n, rest)| format!("acme/MU-{n}/{rest}")),
        2 => Just("acme/~all/app/news".to_owned()),
        1 => prop::sample::select(vec!["plant", "plant/line", "acme"]).prop_map(str::to_owned),
    ]
}

fn a_message() -> impl Strategy<Value = Message> {
    let payload = prop_oneof![1 => Just(String::new()), 3 => "[a-z]{1,9}", 1 => "[a-z]{40,90}"];
    let marks = (
        0_u8..3,
        any::<bool>(),
        prop::option::weighted(0.3, 0_u32..4),
        prop::option::weighted(0.2, 0_u64..5),
    );
    (publisher(), topic(), payload, marks, prop::option::weighted(0.2, change())).prop_map(
        |(publisher, topic, payload, (qos, retain, expiry_s, seq), state)| Message {
            qos,
            retain,
            name: seq.map(|seq| (BOOT, seq)),
            properties: expiry_s.map_or_else(Bytes::new, |s| [&[2][..], &s.to_be_bytes()].concat().into()),
            state: state.map(Box::new),
            ..rig::message(publisher, &topic, &payload)
        },
    )
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![3 => a_message().prop_map(Item::Message), 1 => change().prop_map(Item::Change)]
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Committed,
    /// And the file is opened anew.
    Reopened,
    /// Planned, and never committed.
    GivenUp,
}

fn batch() -> impl Strategy<Value = (Vec<Item>, Fate)> {
    let fate = prop_oneof![6 => Just(Fate::Committed), 1 => Just(Fate::Reopened), 1 => Just(Fate::GivenUp)];
    (prop::collection::vec(item(), 1..9), fate)
}

async fn run(batches: Vec<(Vec<Item>, Fate)>) {
    let mut rig = Rig::open(SMALL).await;
    let mut model = Model::default();
    for (n, (mut items, fate)) in batches.into_iter().enumerate() {
        let now = (n as u64 + 1) * 1000;
        for item in &mut items {
            if let Item::Message(message) = item {
                message.received_ms = now;
            }
        }
        let mut after = model.clone();
        after.retained.retain(|_, kept| !over(kept.ends, now));
        let expected: Vec<_> = items.iter().map(|item| after.item(item, now)).collect();
        let plan = rig.plan(&items, now);
        assert_eq!(plan.outcomes, expected.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>());
        let handed = plan.addressed.iter().map(|addressed| {
            let queued = addressed.queued.iter().cloned().collect();
            let missed = addressed.missed.iter().cloned().collect();
            (addressed.position, queued, missed, addressed.dropped.iter().cloned().collect())
        });
        assert_eq!(
            handed.collect::<Vec<Handed>>(),
            expected.into_iter().filter_map(|(_, handed)| handed).collect::<Vec<_>>()
        );
        if let Fate::GivenUp = fate {
            rig.reopen().await;
        } else {
            rig.commit(plan, now).await.unwrap();
            model = after;
        }
        if let Fate::Reopened = fate {
            rig.reopen().await;
        }
        let picture = model.picture();
        assert_eq!(rig.picture().await, picture, "after batch {n}");
        assert_eq!(rig.orphans().await, (0, 0), "after batch {n}");
        let shown = rig.shown.matching("#", None, usize::MAX, 0).into_iter();
        let shown =
            shown.map(|kept| (String::from_utf8(kept.message.topic.to_vec()).unwrap(), kept.position));
        let expected = picture.retained.into_iter().map(|(topic, (position, _))| (topic, position));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            expected.collect::<Vec<_>>(),
            "what is shown is what is on disk"
        );
    }
    rig.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_what_the_model_says(batches in prop::collection::vec(batch(), 1..14)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(batches));
    }
}
