//! Time from the CMSDK dual timer (ARM DDI 0479 §4.4): timer 1 runs free, timer 2 is the alarm.
//!
//! Timer 1 wraps after 2³² / 25 MHz = 171 s. An alarm is never further away than 60 s, so somebody reads
//! the counter more than twice in each round, and the 64-bit count misses none.

use core::{cell::RefCell, task::Waker};

use critical_section::{CriticalSection, Mutex};
use embassy_time::{Duration, Instant, Timer};
use embassy_time_driver::{Driver, TICK_HZ};
use embassy_time_queue_utils::Queue;

use crate::chip::{DUAL_TIMER, Interrupt, SYSCLK_HZ};

const TIMER1_LOAD: usize = 0x00;
const TIMER1_VALUE: usize = 0x04;
const TIMER1_CONTROL: usize = 0x08;
const TIMER2_LOAD: usize = 0x20;
const TIMER2_CONTROL: usize = 0x28;
const TIMER2_INTERRUPT_CLEAR: usize = 0x2c;

const ENABLE: u32 = 1 << 7;
const INTERRUPT: u32 = 1 << 5;
const BITS_32: u32 = 1 << 1;
const ONE_SHOT: u32 = 1 << 0;

const CYCLES_PER_TICK: u64 = SYSCLK_HZ as u64 / TICK_HZ;
const ALARM_MAX: u64 = 60 * TICK_HZ;
const _: () = assert!((SYSCLK_HZ as u64).is_multiple_of(TICK_HZ));
const _: () = assert!(2 * ALARM_MAX * CYCLES_PER_TICK < u32::MAX as u64);

struct DualTimer(Mutex<RefCell<State>>);

struct State {
    queue: Queue,
    /// Cycles up to `seen`.
    cycles: u64,
    /// The counter when it was last read, counting up.
    seen: u32,
    /// Cycles the processor slept.
    slept: u64,
}

embassy_time_driver::time_driver_impl!(static TIME: DualTimer = DualTimer(Mutex::new(RefCell::new(State {
    queue: Queue::new(),
    cycles: 0,
    seen: 0,
    slept: 0,
}))));

/// Starts the counter and the first alarm.
pub(crate) fn start() {
    DUAL_TIMER.write(TIMER1_LOAD, u32::MAX);
    DUAL_TIMER.write(TIMER1_CONTROL, ENABLE | BITS_32);
    critical_section::with(|cs| TIME.0.borrow_ref_mut(cs).rearm());
    Interrupt::DualTimer.unmask();
}

/// Sleeps until an interrupt is pending, and counts for how long. Interrupts must be masked.
pub(crate) fn sleep() {
    let from = critical_section::with(|cs| TIME.0.borrow_ref_mut(cs).count());
    cortex_m::asm::wfi();
    critical_section::with(|cs| {
        let mut state = TIME.0.borrow_ref_mut(cs);
        let woke = state.count();
        state.slept += woke - from;
    });
}

/// Microseconds since start in which the processor did not sleep.
pub(crate) fn busy_us() -> u64 {
    critical_section::with(|cs| {
        let mut state = TIME.0.borrow_ref_mut(cs);
        (state.count() - state.slept) * 1_000_000 / u64::from(SYSCLK_HZ)
    })
}

/// The alarm went off.
pub(crate) extern "C" fn on_alarm() {
    critical_section::with(|cs| TIME.0.borrow_ref_mut(cs).rearm());
}

impl Driver for DualTimer {
    fn now(&self) -> u64 {
        critical_section::with(|cs: CriticalSection<'_>| self.0.borrow_ref_mut(cs).now())
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        critical_section::with(|cs| {
            let mut state = self.0.borrow_ref_mut(cs);
            if state.queue.schedule_wake(at, waker) {
                state.rearm();
            }
        });
    }
}

impl State {
    /// Ticks since start.
    fn now(&mut self) -> u64 {
        self.count() / CYCLES_PER_TICK
    }

    /// Cycles since start. Before [`start`] the counter stands still at its highest value: 0.
    fn count(&mut self) -> u64 {
        let count = !DUAL_TIMER.read(TIMER1_VALUE);
        self.cycles += u64::from(count.wrapping_sub(self.seen));
        self.seen = count;
        self.cycles
    }

    /// Wakes what is due and sets the alarm to what comes next.
    fn rearm(&mut self) {
        let now = self.now();
        let next = self.queue.next_expiration(now);
        let ticks = next.saturating_sub(now).clamp(1, ALARM_MAX);
        let cycles = u32::try_from(ticks * CYCLES_PER_TICK).unwrap_or(u32::MAX);
        // One-shot: the count starts anew when the timer is enabled (DDI 0479 §4.4.2).
        DUAL_TIMER.write(TIMER2_CONTROL, 0);
        DUAL_TIMER.write(TIMER2_INTERRUPT_CLEAR, 1);
        DUAL_TIMER.write(TIMER2_LOAD, cycles);
        DUAL_TIMER.write(TIMER2_CONTROL, ENABLE | INTERRUPT | BITS_32 | ONE_SHOT);
    }
}

/// The agent's clock.
#[derive(Clone)]
pub(crate) struct Uptime;

impl muster_firmware::platform::Clock for Uptime {
    fn now_ms(&self) -> u64 {
        Instant::now().as_millis()
    }

    async fn wait_until(&self, at_ms: u64) {
        // Farther than embassy's ticks reach is never.
        Timer::at(Instant::MIN.saturating_add(Duration::from_millis(at_ms.min(u64::MAX / TICK_HZ)))).await;
    }
}
