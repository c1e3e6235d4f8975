//! The test platform: a board in memory, seeded, with a clock that is stepped and a flash that can lose
//! power. A first-class implementation of [`Platform`]; host only, behind the feature `testing`.
//!
//! Parts are handles: a test keeps clones of what it gave away, so it can look into the flash, read the
//! log, press bytes into the serial port and step the clock while the device runs. Nothing here needs a
//! particular executor.

mod flash;
mod pipe;

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use muster_shared::telemetry::Value;

pub use self::{
    flash::{Cut, Flash, Torn},
    pipe::{Pipe, PipeError},
};
use crate::platform::{About, Clock, NetError, Network, Parts, Platform, Reset, Sensors, Trng, TrngFailed};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked elsewhere is reported there; its data may still be looked at.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a future that needs nobody else to make progress, on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A board in memory. Clone it before use to keep handles on its parts.
#[derive(Clone)]
pub struct TestPlatform<N = TestNetwork> {
    /// The clock, stepped by the test.
    pub clock: TestClock,
    /// The flash.
    pub flash: Flash,
    /// The device's end of the factory port.
    pub serial: Pipe,
    /// The log.
    pub log: TestLog,
    /// The network.
    pub network: N,
    /// The hardware generator, if the board has one.
    pub trng: Option<TestTrng>,
}

impl TestPlatform {
    /// A freshly flashed board, and the station's end of its factory port.
    #[must_use]
    pub fn flashed() -> (Self, Pipe) {
        Self::on(Flash::flashed(), TestNetwork::default())
    }
}

impl<N> TestPlatform<N> {
    /// A board with this flash on this network, and the station's end of its factory port.
    #[must_use]
    pub fn on(flash: Flash, network: N) -> (Self, Pipe) {
        let (serial, station) = Pipe::pair();
        let (clock, log) = (TestClock::default(), TestLog::default());
        (Self { clock, flash, serial, log, network, trng: None }, station)
    }
}

impl<N: Network> Platform for TestPlatform<N> {
    type Clock = TestClock;
    type Flash = Flash;
    type Network = N;
    type Serial = Pipe;
    type Log = TestLog;
    type Trng = TestTrng;
    type Sensors = TestSensors;

    fn split(self) -> Parts<Self> {
        Parts {
            clock: self.clock,
            flash: self.flash,
            network: self.network,
            serial: self.serial,
            log: self.log,
            trng: self.trng,
            sensors: TestSensors::default(),
            about: About { version: "0.0.0", digest: [0x5a; 32], reset: Reset::PowerOn },
        }
    }
}

/// A clock that stands still until it is stepped.
#[derive(Clone, Default)]
pub struct TestClock(Arc<Mutex<ClockState>>);

#[derive(Default)]
struct ClockState {
    now_ms: u64,
    waiting: Vec<(u64, Waker)>,
}

impl TestClock {
    /// Moves time on and wakes who waited for it.
    pub fn advance(&self, by_ms: u64) {
        let due = {
            let state = &mut *lock(&self.0);
            state.now_ms += by_ms;
            let now_ms = state.now_ms;
            let (due, later): (Vec<_>, _) = state.waiting.drain(..).partition(|(at, _)| *at <= now_ms);
            state.waiting = later;
            due
        };
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        lock(&self.0).now_ms
    }

    async fn wait_until(&self, at_ms: u64) {
        std::future::poll_fn(|cx| {
            let state = &mut *lock(&self.0);
            if state.now_ms >= at_ms {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|(at, waker)| *at == at_ms && waker.will_wake(cx.waker())) {
                state.waiting.push((at_ms, cx.waker().clone()));
            }
            Poll::Pending
        })
        .await;
    }
}

/// The log, line by line.
#[derive(Clone, Default)]
pub struct TestLog(Arc<Mutex<String>>);

impl TestLog {
    /// Everything so far.
    #[must_use]
    pub fn text(&self) -> String {
        lock(&self.0).clone()
    }

    /// Whole lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

impl fmt::Write for TestLog {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        lock(&self.0).push_str(text);
        Ok(())
    }
}

/// A network of pipes: a connection is refused, or its other end waits in [`TestNetwork::accept`].
#[derive(Clone, Default)]
pub struct TestNetwork(Arc<Mutex<NetworkState>>);

#[derive(Default)]
struct NetworkState {
    fails: Option<NetError>,
    waiting: VecDeque<Pipe>,
    attempts: u32,
}

impl TestNetwork {
    /// From now on every connection fails like this; `None`: succeeds.
    pub fn fail(&self, with: Option<NetError>) {
        lock(&self.0).fails = with;
    }

    /// The server's end of the oldest connection nobody took yet.
    #[must_use]
    pub fn accept(&self) -> Option<Pipe> {
        lock(&self.0).waiting.pop_front()
    }

    /// How often the device tried.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        lock(&self.0).attempts
    }
}

impl Network for TestNetwork {
    type Socket<'a> = Pipe;

    async fn connect<'a>(&'a mut self, _host: &'a str, _port: u16) -> Result<Pipe, NetError> {
        let mut state = lock(&self.0);
        state.attempts += 1;
        match state.fails {
            Some(error) => Err(error),
            None => {
                let (device, server) = Pipe::pair();
                state.waiting.push_back(server);
                Ok(device)
            }
        }
    }
}

/// A hardware generator.
#[derive(Clone, Debug)]
pub enum TestTrng {
    /// Works: every octet is one more than the last.
    Counting(u8),
    /// Fails its own test.
    Failing,
    /// Gives zeros and says nothing.
    Stuck,
}

impl Trng for TestTrng {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), TrngFailed> {
        match self {
            TestTrng::Counting(next) => {
                for octet in out {
                    *octet = *next;
                    *next = next.wrapping_add(1);
                }
                Ok(())
            }
            TestTrng::Failing => Err(TrngFailed),
            TestTrng::Stuck => {
                out.fill(0);
                Ok(())
            }
        }
    }
}

/// A thermometer that rises by a tenth of a degree with every round.
#[derive(Clone, Default)]
pub struct TestSensors(u16);

impl Sensors for TestSensors {
    fn measure(&mut self, each: &mut dyn FnMut(&str, Value)) {
        each("temperature_c", Value::Float(20.0 + f32::from(self.0) / 10.0));
        each("rounds", Value::Int(i64::from(self.0)));
        self.0 = self.0.wrapping_add(1);
    }
}
