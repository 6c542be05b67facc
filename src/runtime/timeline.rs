//! Clock readings of a launch, host's and guest's on one clock: the host's CLOCK_MONOTONIC.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::log;

/// One reading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// What was reached.
    pub(crate) stage: String,
    /// Host's CLOCK_MONOTONIC, in nanoseconds.
    pub(crate) monotonic_ns: u64,
}

impl Stamp {
    /// Reads the clock now; with `--debug` the log has the stage as well.
    pub(crate) fn now(stage: &str) -> Self {
        log::debug(stage);
        Self { stage: stage.to_owned(), monotonic_ns: monotonic_ns() }
    }
}

/// The host's CLOCK_MONOTONIC, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // CLOCK_MONOTONIC counts from boot and is never negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Prints the readings to stderr, as milliseconds since the first and since the one before.
pub(crate) fn print(mut stamps: Vec<Stamp>) {
    stamps.sort_by_key(|stamp| stamp.monotonic_ns);
    let Some(first) = stamps.first().map(|stamp| stamp.monotonic_ns) else { return };
    let mut before = first;
    eprintln!("{:>12}  {:>12}  stage", "at ms", "took ms");
    for stamp in stamps {
        let milliseconds = |from: u64| (stamp.monotonic_ns - from) as f64 / 1e6;
        eprintln!("{:12.3}  {:12.3}  {}", milliseconds(first), milliseconds(before), stamp.stage);
        before = stamp.monotonic_ns;
    }
}
