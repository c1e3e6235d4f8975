//! The firmware's [`Platform`], made of host parts.

use std::{io, net::SocketAddr, time::Duration};

use embedded_io_async::{ErrorType, Read, Write};
use muster_firmware::platform::{
    About, Clock, NetError, Network, Parts, Platform, Reset, Sensors, Trng, TrngFailed,
};
use muster_shared::telemetry::Value;
use rand_chacha::{ChaCha20Rng, rand_core::RngCore, rand_core::SeedableRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{flash::Flash, log::Log, serial::Serial};

/// A board of host parts.
pub struct Board {
    pub(crate) flash: Flash,
    pub(crate) log: Log,
    pub(crate) serial: Serial,
    pub(crate) route: Route,
    pub(crate) entropy: Entropy,
    pub(crate) reset: Reset,
}

/// Where the device's connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    /// To the host and port the station gave it.
    #[default]
    AsTold,
    /// Here, whatever the station said: what user networking's 10.0.2.2 is to an emulated board.
    To(SocketAddr),
    /// Nowhere: the cable is out.
    Down,
}

/// What the board's random generator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entropy {
    /// None: only the seed in flash counts, as on a board without one.
    #[default]
    SeedOnly,
    /// The operating system's.
    System,
    /// A stream that depends on this number alone, so that a run repeats.
    Seeded(u64),
}

impl Platform for Board {
    type Clock = Uptime;
    type Flash = Flash;
    type Network = HostNetwork;
    type Serial = Serial;
    type Log = Log;
    type Trng = Generator;
    type Sensors = Gauges;

    fn split(self) -> Parts<Self> {
        let clock = Uptime(Instant::now());
        let trng = match self.entropy {
            Entropy::SeedOnly => None,
            Entropy::System => Some(Generator(None)),
            Entropy::Seeded(seed) => Some(Generator(Some(ChaCha20Rng::seed_from_u64(seed)))),
        };
        Parts {
            sensors: Gauges { clock: clock.clone() },
            clock,
            flash: self.flash,
            network: HostNetwork { route: self.route },
            serial: self.serial,
            log: self.log,
            trng,
            about: About {
                version: env!("CARGO_PKG_VERSION"),
                // There is no image; a digest of zeros says so.
                digest: [0; 32],
                reset: self.reset,
            },
        }
    }
}

/// Time since the device was switched on, by tokio's clock.
#[derive(Debug, Clone)]
pub struct Uptime(Instant);

impl Clock for Uptime {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn wait_until(&self, at_ms: u64) {
        match self.0.checked_add(Duration::from_millis(at_ms)) {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// TCP by the host.
#[derive(Debug)]
pub struct HostNetwork {
    route: Route,
}

impl Network for HostNetwork {
    type Socket<'a> = Connection;

    async fn connect<'a>(&'a mut self, host: &'a str, port: u16) -> Result<Connection, NetError> {
        let address = match self.route {
            Route::AsTold => {
                let mut found = tokio::net::lookup_host((host, port)).await.map_err(|_| NetError::Name)?;
                found.find(SocketAddr::is_ipv4).ok_or(NetError::Name)?
            }
            Route::To(address) => address,
            Route::Down => return Err(NetError::Link),
        };
        let stream = TcpStream::connect(address).await.map_err(|_| NetError::Unreachable)?;
        stream.set_nodelay(true).map_err(|_| NetError::Unreachable)?;
        Ok(Connection(stream))
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection(TcpStream);

impl ErrorType for Connection {
    type Error = io::Error;
}

impl Read for Connection {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).await
    }
}

impl Write for Connection {
    async fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}

/// The random generator: the operating system's, or a repeatable one.
pub struct Generator(Option<ChaCha20Rng>);

impl Trng for Generator {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), TrngFailed> {
        match &mut self.0 {
            Some(stream) => {
                stream.fill_bytes(out);
                Ok(())
            }
            None => getrandom::fill(out).map_err(|_| TrngFailed),
        }
    }
}

/// A temperature as a function of uptime.
#[derive(Debug)]
pub struct Gauges {
    clock: Uptime,
}

impl Sensors for Gauges {
    fn measure(&mut self, each: &mut dyn FnMut(&str, Value)) {
        let uptime_s = self.clock.now_ms() / 1000;
        let step = uptime_s % 80;
        each("temperature_c", Value::Float(20.0 + step.min(80 - step) as f32 / 8.0));
        each("uptime_s", Value::Int(uptime_s.cast_signed()));
    }
}
