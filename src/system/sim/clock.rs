//! Simulated time: tokio's, which stands still while anything can run, and a wall clock on top that can be set. State: its offset.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::mail::Timestamp;
use crate::system::Clock;

/// Wall clock and monotonic clock over tokio's paused time.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    /// Wall-clock milliseconds at `start`.
    base: AtomicU64,
    /// Microseconds that calls took.
    taken: AtomicU64,
}

impl SimClock {
    /// The wall clock starts at `base`, the monotonic one at zero. To be made inside the runtime whose time it shows.
    pub fn new(base: Timestamp) -> Self {
        Self { start: Instant::now(), base: AtomicU64::new(base.as_millis()), taken: AtomicU64::new(0) }
    }

    /// Sets the wall clock, forwards or back; the monotonic one goes on undisturbed.
    pub fn set(&self, now: Timestamp) {
        let elapsed = u64::try_from(self.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.base.store(now.as_millis().saturating_sub(elapsed), Ordering::Relaxed);
    }

    /// A call takes so long, for the disk's watcher to say: both clocks go on, and no timer rings.
    pub fn take(&self, time: Duration) {
        self.taken.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.base.load(Ordering::Relaxed)).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed() + Duration::from_micros(self.taken.load(Ordering::Relaxed))
    }
}
