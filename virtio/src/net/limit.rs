//! Rate limits as token buckets. Time is given, never asked for.

use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A rate, and how much may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes or frames in a second.
    pub per_second: NonZeroU64,
    /// Bytes or frames at once. The last frame of a burst may be beyond it; it is paid for afterwards.
    pub burst: u64,
}

/// The limits of a device, over all its queues. A frame that the other side still has to cut into segments counts once,
/// with all its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of frames towards the guest.
    pub rx_bytes: Option<Rate>,
    /// Frames towards the guest.
    pub rx_frames: Option<Rate>,
    /// Bytes of frames from the guest.
    pub tx_bytes: Option<Rate>,
    /// Frames from the guest.
    pub tx_frames: Option<Rate>,
}

/// A token bucket, kept as the moment at which it will be full: tokens that are missing are time until then.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    full_at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    /// How long until there is a token; zero if there is one.
    fn wait(&self, now: Instant) -> Duration {
        // A bucket of one token, at least, or nothing would ever pass.
        let all_but_one = self.time_of(self.rate.burst.saturating_sub(1));
        self.full_at.saturating_duration_since(now).saturating_sub(all_but_one)
    }

    fn take(&mut self, tokens: u64, now: Instant) {
        let from = self.full_at.max(now);
        self.full_at = from.checked_add(self.time_of(tokens)).unwrap_or(from);
    }

    /// The time in which so many tokens come; at most a day, which no frame needs.
    fn time_of(&self, tokens: u64) -> Duration {
        const DAY_NS: u128 = 86_400_000_000_000;
        let nanos = u128::from(tokens) * 1_000_000_000 / u128::from(self.rate.per_second.get());
        Duration::from_nanos(nanos.min(DAY_NS) as u64)
    }
}

/// The limits of one direction.
#[derive(Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    frames: Option<Bucket>,
}

/// A direction of a device, shared by its queues.
#[derive(Debug)]
pub(super) struct Gate(Option<Mutex<Buckets>>);

impl Gate {
    pub(super) fn new(bytes: Option<Rate>, frames: Option<Rate>, now: Instant) -> Self {
        let bucket = |rate| Bucket::new(rate, now);
        let limited = bytes.is_some() || frames.is_some();
        Self(limited.then(|| Mutex::new(Buckets { bytes: bytes.map(bucket), frames: frames.map(bucket) })))
    }

    /// There is a limit at all.
    pub(super) fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// How long until the next frame may pass; zero if it may now.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.buckets().map_or(Duration::ZERO, |buckets| {
            let wait = |bucket: &Option<Bucket>| bucket.as_ref().map_or(Duration::ZERO, |it| it.wait(now));
            wait(&buckets.bytes).max(wait(&buckets.frames))
        })
    }

    /// A frame has passed.
    pub(super) fn passed(&self, frame_bytes: usize, now: Instant) {
        let Some(mut buckets) = self.buckets() else { return };
        if let Some(bytes) = &mut buckets.bytes {
            bytes.take(frame_bytes as u64, now);
        }
        if let Some(frames) = &mut buckets.frames {
            frames.take(1, now);
        }
    }

    fn buckets(&self) -> Option<MutexGuard<'_, Buckets>> {
        self.0.as_ref().map(|buckets| buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst: u64) -> Option<Rate> {
        NonZeroU64::new(per_second).map(|per_second| Rate { per_second, burst })
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Frames of `bytes` that pass within `time` when somebody always waits exactly as long as the gate says.
    fn passing(gate: &Gate, start: Instant, time: Duration, bytes: usize) -> u64 {
        let (mut now, mut count) = (start, 0);
        loop {
            now += gate.wait(now);
            if now >= start + time {
                return count;
            }
            gate.passed(bytes, now);
            count += 1;
        }
    }

    #[test]
    fn without_limits_everything_passes() {
        let now = Instant::now();
        let gate = Gate::new(None, None, now);
        gate.passed(usize::MAX, now);
        assert!(!gate.is_limited());
        assert_eq!(gate.wait(now), Duration::ZERO);
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let now = Instant::now();
        let gate = Gate::new(None, rate(100, 10), now);
        for _ in 0..10 {
            assert_eq!(gate.wait(now), Duration::ZERO);
            gate.passed(1, now);
        }
        let wait = gate.wait(now);
        assert!(wait > Duration::ZERO && wait <= SECOND / 100, "{wait:?}");
        // One every hundredth of a second; the one at the end of the second is not in it.
        assert_eq!(passing(&gate, now, SECOND, 1), 99);
    }

    #[test]
    fn bytes_are_counted_and_a_large_frame_is_paid_for_afterwards() {
        let now = Instant::now();
        let gate = Gate::new(rate(1000, 100), None, now);
        gate.passed(1100, now);
        let wait = gate.wait(now);
        assert!(wait >= SECOND && wait <= SECOND + SECOND / 1000, "{wait:?}");
        assert_eq!(gate.wait(now + wait), Duration::ZERO);
    }

    #[test]
    fn a_pause_saves_no_more_than_the_burst() {
        let start = Instant::now();
        let gate = Gate::new(None, rate(10, 5), start);
        let later = start + 60 * SECOND;
        // The burst, and what comes in a tenth of a second.
        assert_eq!(passing(&gate, later, SECOND / 10 - SECOND / 1000, 1), 5);
    }

    #[test]
    fn the_tighter_limit_counts() {
        let now = Instant::now();
        let gate = Gate::new(rate(1_000_000, 1000), rate(10, 1), now);
        assert_eq!(passing(&gate, now, SECOND, 100), 10);
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_stop_for_ever() {
        let now = Instant::now();
        for (per_second, burst) in [(1, 0), (1, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX)] {
            let gate = Gate::new(rate(per_second, burst), rate(per_second, burst), now);
            for _ in 0..100 {
                gate.passed(usize::MAX, now);
            }
            assert!(gate.wait(now) <= 101 * 86_400 * SECOND);
            assert_eq!(gate.wait(now + 101 * 86_400 * SECOND), Duration::ZERO);
        }
    }
}
