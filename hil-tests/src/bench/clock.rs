//! What processes and threads have used, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Microseconds of processor time a process has used, all its threads together, those that ended too.
///
/// The kernel counts in hundredths of a second (proc(5)), so what is measured must take seconds.
pub(super) fn cpu_us(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before it may hold anything but ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
    let mut next = || fields.next().context("/proc/PID/stat is short")?.context("/proc/PID/stat");
    let (user, system) = (next()?, next()?);
    Ok((user + system) as f64 * 10_000.0)
}

/// Processor time this thread has used.
pub(super) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The clock counts up from zero, and its nanoseconds are below 10^9 (clock_gettime(2)).
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Octets of memory a process has for itself: not its program, not files, not what the kernel keeps for it.
pub(super) fn memory(process: u32) -> Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kb =
        line.and_then(|line| line.trim().strip_suffix(" kB")).context("smaps_rollup has no Anonymous")?;
    Ok(kb.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let (before, own) = (cpu_us(std::process::id()).unwrap(), thread_time());
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while cpu_us(std::process::id()).unwrap() <= before {
            assert!(std::time::Instant::now() < until, "five busy seconds are no processor time");
        }
        assert!(thread_time() > own);
    }

    #[test]
    fn memory_grows_with_what_is_written_to() {
        let before = memory(std::process::id()).unwrap();
        let held = vec![1_u8; 32 << 20];
        let after = memory(std::process::id()).unwrap();
        assert!(after >= before + (24 << 20), "{before} {after}");
        drop(held);
    }
}
