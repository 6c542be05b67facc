//! The clocks: stamps for the timeline, and the wall clock that the host gives.

use rustix::io;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const NS_PER_S: u64 = 1_000_000_000;

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * NS_PER_S + now.tv_nsec as u64
}

/// Sets CLOCK_REALTIME to `realtime_ns` nanoseconds since the epoch.
pub(crate) fn set_realtime(realtime_ns: u64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(realtime_ns / NS_PER_S).map_err(|_| io::Errno::INVAL)?,
        tv_nsec: (realtime_ns % NS_PER_S) as i64,
    };
    clock_settime(ClockId::Realtime, time)
}
