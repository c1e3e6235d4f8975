//! What a message passes through, wired: the log, the bus that carries its fresh end, who reads it, and the
//! sessions it is kept for.
//!
//! ```text
//! edge ─append─► log ─commit─┬─► bus ─► latest readings, tail ─► services
//!                            └─► sessions ─► devices
//! ```

use std::{path::Path, sync::Arc};

use crate::{
    bus::{Bus as _, Latest, Rumqttd, StartError},
    edge::{Roster, Sessions, Tail, feed::Groups},
    registry::{Registry, RegistryError},
    uplink::{
        Bounds, History, OpenError, ReadError, Reader, Writer,
        history::{HistoryError, Projection},
    },
};

/// The parts, running.
pub struct Messages {
    /// Where messages are stored.
    pub uplink: Writer,
    /// Where they are read.
    pub reader: Reader,
    /// Who carries the fresh ones.
    pub bus: Arc<Rumqttd>,
    /// Where services find them.
    pub tail: Arc<Tail>,
    /// The sessions, live and away.
    pub sessions: Arc<Sessions>,
    /// What sensors said over the last days.
    pub history: History,
    latest: Latest,
    charts: Projection,
}

/// Why they cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum MessagesError {
    /// The bus.
    #[error("the bus cannot be started")]
    Bus(#[from] StartError),
    /// The log.
    #[error("the uplink log cannot be opened")]
    Open(#[from] OpenError),
    /// The log's readers.
    #[error("the uplink log cannot be read")]
    Read(#[from] ReadError),
    /// The registry, which remembers commands.
    #[error("what became of commands cannot be written")]
    Registry(#[from] RegistryError),
    /// The history of readings.
    #[error("the history of readings cannot be opened")]
    History(#[from] HistoryError),
}

impl Messages {
    /// Opens the log in `data_dir`, with the sessions it has kept, and starts the rest on this runtime.
    ///
    /// # Errors
    /// [`MessagesError`]; nothing runs then.
    pub async fn open(data_dir: &Path, registry: &Registry) -> Result<Self, MessagesError> {
        Self::open_within(data_dir, registry, Bounds::default()).await
    }

    /// The same with other bounds on what is kept for sessions and as retained messages.
    ///
    /// # Errors
    /// [`MessagesError`]; nothing runs then.
    pub async fn open_within(
        data_dir: &Path,
        registry: &Registry,
        bounds: Bounds,
    ) -> Result<Self, MessagesError> {
        let bus = Rumqttd::start()?;
        let sessions = Sessions::new(Roster::new(), registry.verdicts());
        let publish = {
            let bus = Arc::clone(&bus);
            Box::new(move |fresh| bus.publish(fresh))
        };
        let verdicts = registry.verdicts();
        // Two files, each read by threads of its own: neither waits for the other.
        let (uplink, history) = tokio::join!(
            Writer::open_within(data_dir, verdicts, sessions.clone(), publish, bounds),
            History::open(data_dir)
        );
        let (uplink, history) = (uplink?, history?);
        let reader = Reader::open(data_dir).await?;
        let latest = Latest::start(registry.clone(), reader.clone(), &*bus);
        let charts = history.follow(registry.clone(), reader.clone());
        let tail = Tail::start(&*bus, reader.clone());
        sessions.tell(registry.facts());
        sessions.begin(uplink.clone(), Groups::new(Arc::clone(&tail)), uplink.take_sessions());
        registry.settle_queued(sessions.commands()).await?;
        Ok(Self { uplink, reader, bus, tail, sessions, history, latest, charts })
    }

    /// Stores what was handed over, and ends. Nobody hands over anything any more.
    pub async fn close(self) {
        self.uplink.close().await;
        self.latest.stop().await;
        self.charts.stop().await;
        self.history.close().await;
        self.tail.stop().await;
        self.bus.stop().await;
        self.reader.close().await;
    }
}
