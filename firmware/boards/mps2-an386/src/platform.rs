//! The board as the agent sees it: [`Platform`], put together from the drivers.

use core::convert::Infallible;

use muster_firmware::platform::{About, Parts, Platform, Sensors, Trng, TrngFailed};
use muster_shared::telemetry::Value;

use crate::{
    flash::Flash,
    image,
    net::Tcp,
    time::{self, Uptime},
    uart::{FactoryPort, Log},
};

/// The board's parts.
pub(crate) struct Board {
    pub(crate) flash: Flash,
    pub(crate) network: Tcp,
    pub(crate) serial: FactoryPort,
    pub(crate) log: Log,
    pub(crate) about: About,
}

impl Platform for Board {
    type Clock = Uptime;
    type Flash = Flash;
    type Network = Tcp;
    type Serial = FactoryPort;
    type Log = Log;
    type Trng = NoGenerator;
    type Sensors = Gauges;

    fn split(self) -> Parts<Self> {
        Parts {
            clock: Uptime,
            flash: self.flash,
            network: self.network,
            serial: self.serial,
            log: self.log,
            trng: None,
            sensors: Gauges,
            about: self.about,
        }
    }
}

/// The generator this board does not have: no value of it exists.
pub(crate) struct NoGenerator(Infallible);

impl Trng for NoGenerator {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), TrngFailed> {
        match self.0 {}
    }
}

/// What the board measures: a temperature as a function of uptime, for want of a sensor, and itself.
pub(crate) struct Gauges;

impl Sensors for Gauges {
    fn measure(&mut self, each: &mut dyn FnMut(&str, Value)) {
        let uptime_s = embassy_time::Instant::now().as_secs();
        each("temperature_c", Value::Float(temperature_c(uptime_s)));
        each("busy_us", Value::Int(time::busy_us().cast_signed()));
        each("uptime_s", Value::Int(uptime_s.cast_signed()));
        each("stack_free_octets", Value::Int(image::stack_free() as i64));
    }
}

/// 20 °C to 25 °C and back in steps of an eighth, a period of 80 s.
fn temperature_c(uptime_s: u64) -> f32 {
    let step = uptime_s % 80;
    20.0 + step.min(80 - step) as f32 / 8.0
}
