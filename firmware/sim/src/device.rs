//! A running device: spawn it, read its log, hold its factory port, pull its plug.

use muster_firmware::{Resources, platform::Reset};
use tokio::{
    io::DuplexStream,
    task::{JoinHandle, spawn_local},
};

use crate::{
    board::{Board, Entropy, Route},
    flash::Flash,
    log::Log,
    serial::{self, Socket},
};

/// What a device is started with.
#[derive(Clone)]
pub struct Config {
    /// Its flash; it outlives the device.
    pub flash: Flash,
    /// Where its connections go.
    pub route: Route,
    /// Its random generator.
    pub entropy: Entropy,
    /// Why it starts.
    pub reset: Reset,
    /// Lines also go to standard output, behind this name.
    pub echo: Option<String>,
}

impl Config {
    /// A device with this flash, powered on, that connects to where the station says and has no random
    /// generator but its seed.
    #[must_use]
    pub fn new(flash: Flash) -> Self {
        let (route, entropy) = (Route::AsTold, Entropy::SeedOnly);
        Self { flash, route, entropy, reset: Reset::PowerOn, echo: None }
    }
}

/// A running device. Dropping it pulls the plug.
pub struct Device {
    flash: Flash,
    log: Log,
    port: Socket,
    task: JoinHandle<()>,
}

impl Device {
    /// Switches a device on.
    ///
    /// # Panics
    /// Outside of a [`tokio::task::LocalSet`]: the agent's futures stay on their thread.
    #[must_use]
    pub fn spawn(config: Config) -> Self {
        let (port, serial) = serial::port();
        let log = Log::default();
        if let Some(name) = &config.echo {
            log.echo(name);
        }
        let board = Board {
            flash: config.flash.clone(),
            log: log.clone(),
            serial,
            route: config.route,
            entropy: config.entropy,
            reset: config.reset,
        };
        let task = spawn_local(async move {
            let mut resources = Box::new(Resources::new());
            // The agent's own future is large; it lives on the heap, not in the task's cell twice.
            Box::pin(muster_firmware::run(board, &mut resources)).await;
        });
        Self { flash: config.flash, log, port, task }
    }

    /// The device's log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The device's flash.
    #[must_use]
    pub fn flash(&self) -> &Flash {
        &self.flash
    }

    /// Plugs a cable into the factory port, in place of one that was there; gives the station's end.
    #[must_use]
    pub fn factory_port(&self) -> DuplexStream {
        self.port.plug()
    }

    /// The port itself, for whoever plugs cables later.
    #[must_use]
    pub fn port(&self) -> Socket {
        self.port.clone()
    }

    /// Whether the agent still runs; it ends only by a panic.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Pulls the plug and waits until the device is gone; its flash stays.
    ///
    /// # Errors
    /// The agent's panic, if that is how it ended.
    pub async fn unplug(mut self) -> Result<Flash, tokio::task::JoinError> {
        self.task.abort();
        match (&mut self.task).await {
            Err(ended) if ended.is_panic() => Err(ended),
            _ => Ok(self.flash.clone()),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}
