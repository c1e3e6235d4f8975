//! The one reader there is today: keeps what is newest of each device in the registry's memory.
//!
//! It reads the uplink log from a durable cursor and is woken by the bus. What it heard in time it takes
//! from the bus; a gap, a restart or a lost wake-up it fills from the log. What it took is shown at once and
//! stored by the registry from time to time, with the cursor, so after a crash it repeats a little and skips
//! nothing.

use std::{sync::Arc, time::Duration};

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
    registry::{Newest, Registry, RegistryError, Verdicts},
    uplink::{Cursor, Fresh, Position, ReadError, Reader, StoredMessage},
};

/// Its name beside its cursor.
const NAME: &str = "latest";
/// How often it looks by itself, should every wake-up be lost.
const LOOK: Duration = Duration::from_secs(1);
/// Messages read from the log at a time.
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
        let (verdicts, newest) = (registry.verdicts(), registry.newest());
        let projection = Projection { registry, verdicts, newest, reader, cursor: Cursor::default() };
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
    verdicts: Arc<Verdicts>,
    newest: Arc<Newest>,
    reader: Reader,
    /// Up to where `newest` has come.
    cursor: Cursor,
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
            if *stop.borrow() {
                return Ok(self.registry.store_newest().await?);
            }
            tokio::select! {
                heard = self.hear(bus) => heard?,
                _ = stop.changed() => {}
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Trouble> {
        let kept = self.registry.projected(NAME).await?;
        self.cursor = kept.and_then(|cursor| cursor.parse().ok()).unwrap_or_default();
        Ok(())
    }

    /// Takes what the bus carries, until the log has to be looked at: because of a gap, or because nothing
    /// has come for a while. Dropped between two commits, it has taken the first and not the second.
    async fn hear(&mut self, bus: &mut Subscription) -> Result<(), Trouble> {
        loop {
            self.make_room().await?;
            let until = Instant::now() + LOOK;
            match timeout_at(until, bus.next()).await {
                Ok(Some(fresh)) if self.take(&fresh) => {}
                // A bus that has stopped says so at once, and wakes nobody.
                Ok(None) => {
                    sleep_until(until).await;
                    return Ok(());
                }
                Ok(Some(_)) | Err(_) => return Ok(()),
            }
        }
    }

    /// What does not fit into memory is stored early.
    async fn make_room(&self) -> Result<(), Trouble> {
        if self.newest.is_full() {
            self.registry.store_newest().await?;
        }
        Ok(())
    }

    /// Takes one commit from the bus; `false` when the log has to be read instead.
    fn take(&mut self, fresh: &Fresh) -> bool {
        let read = self.cursor.position(self.reader.node());
        if fresh.node != self.reader.node() || fresh.first.0 > read.0 + 1 {
            return false;
        }
        match fresh.messages() {
            Ok(messages) => {
                self.add(messages.iter().filter(|(position, _)| *position > read));
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
            self.make_room().await?;
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
            self.add(read.messages.iter());
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

    fn add<'m>(&mut self, messages: impl Iterator<Item = &'m (Position, StoredMessage)>) {
        let mut newest = self.newest.gather();
        let mut last = None;
        for (position, message) in messages {
            last = Some(*position);
            // What services and the server publish is no sign of a device, and no reading of it.
            let device = message.device().and_then(|(tenant, id)| self.verdicts.by_id(tenant, id));
            let Some(device) = device else { continue };
            let telemetry = telemetry(message);
            let readings = telemetry.as_ref().map_or(&[][..], |batch| &batch.readings);
            newest.message(device, message.received_ms, readings);
        }
        if let Some(last) = last {
            self.cursor = std::mem::take(&mut self.cursor).after(self.reader.node(), last);
            newest.end(NAME, self.cursor.to_string());
        }
    }
}

/// A telemetry message's batch; none of any other message, and none of one in another format.
pub(crate) fn telemetry(message: &StoredMessage) -> Option<TelemetryBatch> {
    let topic = std::str::from_utf8(&message.topic).ok().and_then(|topic| Topic::parse(topic).ok());
    let Some(Topic::Device { kind: Kind::Telemetry { .. }, .. }) = topic else { return None };
    TelemetryBatch::read(&message.payload).ok()
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
        let detail = fleet.registry.device(&fleet.devices[0].serial).await.unwrap();
        assert!(detail.row.last_seen_ms.is_some());
        assert_eq!(position(&fleet, &writer).await, Position(4));
        assert_eq!(fleet.count("SELECT count(*) FROM newest").await, 2, "the stop stores it");
        writer.close().await;
        reader.close().await;
    }

    async fn position(fleet: &Fleet, writer: &Writer) -> Position {
        let cursor: Cursor = fleet.registry.projected(NAME).await.unwrap().unwrap().parse().unwrap();
        cursor.position(writer.node())
    }

    #[tokio::test]
    async fn a_crash_between_two_stores_repeats_a_little_and_skips_nothing() {
        let fleet = Fleet::with(2).await;
        let bus = Rumqttd::start().unwrap();
        let open =
            || Writer::open(fleet.dir.path(), fleet.registry.verdicts(), Arc::new(()), Box::new(|_| {}));
        let writer = open().await.unwrap();
        let reader = Reader::open(fleet.dir.path()).await.unwrap();
        let latest = Latest::start(fleet.registry.clone(), reader.clone(), &*bus);
        writer.append(telemetry(&fleet.devices[0], 0, 1.0)).await;
        writer.append(telemetry(&fleet.devices[1], 0, 1.0)).await;
        shows(&fleet, 1, 1.0).await;
        fleet.registry.store_newest().await.unwrap();
        // The first device goes on, the second does not.
        writer.append(telemetry(&fleet.devices[0], 1, 2.0)).await;
        shows(&fleet, 0, 2.0).await;
        let crashed = fleet.after_a_crash().await;
        assert_eq!(position(&crashed, &writer).await, Position(2), "memory is gone");
        writer.append(telemetry(&fleet.devices[0], 2, 3.0)).await;
        let again = Latest::start(crashed.registry.clone(), reader.clone(), &*bus);
        shows(&crashed, 0, 3.0).await;
        shows(&crashed, 1, 1.0).await;
        again.stop().await;
        assert_eq!(position(&crashed, &writer).await, Position(4));
        let seen = |fleet: &Fleet| {
            let (registry, serial) = (fleet.registry.clone(), fleet.devices[0].serial.clone());
            async move { registry.device(&serial).await.unwrap().row.last_seen_ms }
        };
        latest.stop().await;
        assert!(seen(&crashed).await.is_some());
        assert_eq!(seen(&crashed).await, seen(&fleet).await);
        writer.close().await;
        reader.close().await;
        bus.stop().await;
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
