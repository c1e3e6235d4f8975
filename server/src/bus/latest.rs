//! The one reader there is today: keeps the newest value of each sensor of each device in the registry.
//!
//! It reads the uplink log from a durable cursor and is woken by the bus. What it heard in time it takes
//! from the bus; a gap, a restart or a lost wake-up it fills from the log. Readings and cursor are stored in
//! one transaction, so after a crash it repeats a little and skips nothing.

use std::{collections::HashMap, time::Duration};

use muster_shared::{
    telemetry::TelemetryBatch,
    topic::{Kind, Topic},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Bus, Subscription};
use crate::{
    registry::{DeviceKey, Latest as Reading, Registry, RegistryError},
    uplink::{Cursor, Fresh, Position, ReadError, Reader, StoredMessage},
};

/// Its name beside its cursor.
const NAME: &str = "latest";
/// How long readings gather before they are stored: what an operator sees is at most this old.
const GATHER: Duration = Duration::from_millis(200);
/// How often it looks by itself, should every wake-up be lost.
const LOOK: Duration = Duration::from_secs(1);
/// Messages read at a time, and how many may gather before they are stored.
const MESSAGES: usize = 4096;
/// Wait after something failed.
const AGAIN: Duration = Duration::from_secs(1);

/// The projection, running.
pub struct Latest {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Latest {
    /// Starts it on this runtime.
    #[must_use]
    pub fn start(registry: Registry, reader: Reader, bus: &dyn Bus) -> Self {
        let (stop, stopped) = watch::channel(false);
        // Subscribed before the log is first read: nothing falls between.
        let subscription = bus.subscribe();
        let projection =
            Projection { registry, reader, gathered: HashMap::new(), cursor: Cursor::default(), count: 0 };
        Self { stop, task: tokio::spawn(projection.run(subscription, stopped)) }
    }

    /// Reads to the log's end once more, stores what it has, and ends.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the projection of the latest readings panicked");
        }
    }
}

struct Projection {
    registry: Registry,
    reader: Reader,
    /// The newest value of each sensor since the last store.
    gathered: HashMap<(DeviceKey, String), Reading>,
    /// Up to where `gathered` and the registry together have come.
    cursor: Cursor,
    /// Messages since the last store.
    count: usize,
}

impl Projection {
    async fn run(mut self, mut bus: Subscription, mut stop: watch::Receiver<bool>) {
        let mut begun = false;
        loop {
            let done = self.work(&mut begun, &mut bus, &mut stop).await;
            match done {
                Ok(()) => return,
                Err(trouble) => tracing::error!(%trouble, "the latest readings are behind; trying again"),
            }
            if *stop.borrow() || timeout_at(Instant::now() + AGAIN, stop.changed()).await.is_ok() {
                return;
            }
        }
    }

    /// Works until told to stop, or until something fails.
    async fn work(
        &mut self,
        begun: &mut bool,
        bus: &mut Subscription,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Trouble> {
        if !*begun {
            self.begin().await?;
            *begun = true;
        }
        loop {
            self.catch_up().await?;
            self.store().await?;
            if *stop.borrow() {
                return Ok(());
            }
            let heard = tokio::select! {
                heard = bus.next() => heard,
                _ = stop.changed() => continue,
                () = sleep_until(Instant::now() + LOOK) => None,
            };
            let Some(heard) = heard else {
                // A bus that has stopped wakes nobody: look from time to time.
                if bus.is_closed() {
                    let _ = timeout_at(Instant::now() + LOOK, stop.changed()).await;
                }
                continue;
            };
            self.gather(heard, bus).await;
        }
    }

    async fn begin(&mut self) -> Result<(), Trouble> {
        let kept = self.registry.projected(NAME).await?;
        self.cursor = kept.and_then(|cursor| cursor.parse().ok()).unwrap_or_default();
        Ok(())
    }

    /// Takes what the bus carries for a moment, as long as it continues what was read.
    async fn gather(&mut self, first: Fresh, bus: &mut Subscription) {
        let until = Instant::now() + GATHER;
        let mut heard = Some(first);
        while let Some(fresh) = heard {
            if !self.take(&fresh) || self.count >= MESSAGES {
                return;
            }
            heard = timeout_at(until, bus.next()).await.unwrap_or(None);
        }
    }

    /// Takes one commit from the bus; `false` when the log has to be read instead.
    fn take(&mut self, fresh: &Fresh) -> bool {
        let read = self.cursor.position(self.reader.node());
        if fresh.node != self.reader.node() || fresh.first.0 > read.0 + 1 {
            return false;
        }
        match fresh.messages() {
            Ok(messages) => {
                self.add(messages.into_iter().filter(|(position, _)| *position > read));
                true
            }
            Err(error) => {
                tracing::error!(%error, "the bus carried what the log's writer did not write");
                false
            }
        }
    }

    /// Reads the log to its end.
    async fn catch_up(&mut self) -> Result<(), Trouble> {
        loop {
            let read = match self.reader.read(&self.cursor, MESSAGES).await {
                Ok(read) => read,
                Err(error) => {
                    self.cursor = self.beyond(error).await?;
                    continue;
                }
            };
            if read.messages.is_empty() {
                return Ok(());
            }
            self.add(read.messages.into_iter());
            if self.count >= MESSAGES {
                self.store().await?;
            }
        }
    }

    /// Where to go on when the log does not have what comes next. The newest readings need nothing older
    /// than the log has; what is damaged is not passed over silently.
    async fn beyond(&self, error: ReadError) -> Result<Cursor, Trouble> {
        let node = self.reader.node();
        tracing::warn!(%error, "the latest readings go on where the log does");
        match error {
            ReadError::Gone { oldest, .. } => Ok(self.cursor.clone().after(node, Position(oldest - 1))),
            ReadError::Ahead { .. } => Ok(self.reader.end().await?),
            error => Err(error.into()),
        }
    }

    fn add(&mut self, messages: impl Iterator<Item = (Position, StoredMessage)>) {
        let verdicts = self.registry.verdicts();
        let facts = self.registry.facts();
        let mut last = None;
        for (position, message) in messages {
            last = Some(position);
            self.count += 1;
            // What services and the server publish is no sign of a device, and no reading of it.
            let device = message.device().and_then(|(tenant, id)| verdicts.by_id(tenant, id));
            let Some(device) = device else { continue };
            facts.seen(device, message.received_ms);
            for reading in readings(device, &message) {
                self.gathered.insert((device, reading.sensor.clone()), reading);
            }
        }
        if let Some(last) = last {
            self.cursor = std::mem::take(&mut self.cursor).after(self.reader.node(), last);
        }
    }

    async fn store(&mut self) -> Result<(), Trouble> {
        if self.count == 0 {
            return Ok(());
        }
        let latest = self.gathered.values().cloned().collect();
        self.registry.project(NAME, latest, self.cursor.to_string()).await?;
        self.gathered.clear();
        self.count = 0;
        Ok(())
    }
}

/// The readings of a telemetry message; none of any other, and none of one in another format.
fn readings(device: DeviceKey, message: &StoredMessage) -> Vec<Reading> {
    let topic = std::str::from_utf8(&message.topic).ok().and_then(|topic| Topic::parse(topic).ok());
    let Some(Topic::Device { kind: Kind::Telemetry { .. }, .. }) = topic else { return Vec::new() };
    let Ok(batch) = TelemetryBatch::read(&message.payload) else { return Vec::new() };
    let reading = |reading: &muster_shared::telemetry::Reading| Reading {
        device,
        sensor: reading.sensor.as_str().to_owned(),
        value: reading.value,
        received_ms: message.received_ms,
        uptime_ms: reading.uptime_ms,
    };
    batch.readings.iter().map(reading).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        bus::Rumqttd,
        registry::testing::Fleet,
        uplink::{Writer, testing::telemetry},
    };
    use muster_shared::telemetry::Value;

    /// Waits until the device's temperature is `value` and nothing else is left to do.
    async fn shows(fleet: &Fleet, device: usize, value: f32) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let detail = fleet.registry.device(&fleet.devices[device].serial).await.unwrap();
            if detail.readings.first().map(|reading| reading.value) == Some(Value::Float(value)) {
                return;
            }
            assert!(Instant::now() < deadline, "still {:?}", detail.readings);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn readings_arrive_over_the_bus_and_are_found_in_the_log_without_it() {
        let fleet = Fleet::with(2).await;
        let bus = Rumqttd::start().unwrap();
        let tail = {
            let bus = Arc::clone(&bus);
            Box::new(move |fresh| bus.publish(fresh))
        };
        let writer =
            Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), tail).await.unwrap();
        let reader = Reader::open(fleet.dir.path()).await.unwrap();
        // Before the projection runs: only the log has it.
        writer.append(telemetry(&fleet.devices[0], 0, 1.5)).await;
        let latest = Latest::start(fleet.registry.clone(), reader.clone(), &*bus);
        shows(&fleet, 0, 1.5).await;
        writer.append(telemetry(&fleet.devices[1], 0, -3.0)).await;
        writer.append(telemetry(&fleet.devices[0], 1, 2.5)).await;
        shows(&fleet, 1, -3.0).await;
        shows(&fleet, 0, 2.5).await;
        // The bus is gone: the projection still looks.
        bus.stop().await;
        writer.append(telemetry(&fleet.devices[0], 2, 3.5)).await;
        shows(&fleet, 0, 3.5).await;
        latest.stop().await;
        fleet.registry.facts().flush().await;
        let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
        assert!(detail.row.last_seen_ms.is_some());
        let cursor: Cursor = fleet.registry.projected(NAME).await.unwrap().unwrap().parse().unwrap();
        assert_eq!(cursor.position(writer.node()), Position(4));
        writer.close().await;
        reader.close().await;
    }

    #[tokio::test]
    async fn after_a_restart_it_goes_on_at_its_cursor() {
        let fleet = Fleet::with(1).await;
        let bus = Rumqttd::start().unwrap();
        let open =
            || Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), Box::new(|_| {}));
        let writer = open().await.unwrap();
        let reader = Reader::open(fleet.dir.path()).await.unwrap();
        for seq in 0..50 {
            writer.append(telemetry(&fleet.devices[0], seq, seq as f32)).await;
        }
        Latest::start(fleet.registry.clone(), reader.clone(), &*bus).stop().await;
        shows(&fleet, 0, 49.0).await;
        writer.append(telemetry(&fleet.devices[0], 50, 50.0)).await;
        let latest = Latest::start(fleet.registry.clone(), reader.clone(), &*bus);
        shows(&fleet, 0, 50.0).await;
        latest.stop().await;
        writer.close().await;
        reader.close().await;
        bus.stop().await;
    }
}
