//! Gathering: whether the next batch is worth a moment's wait. Owns the count of messages on their way into the spool.
//!
//! Where many clients send at once, those whose content is on its way are nearly here: with them one sync does for two or three. A
//! client alone never waits, and where somebody is slow the waiting soon ends for good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest wait for a batch.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(4);
/// After a wait in vain there is none for so long, and twice as long after each further one.
const HASTE: Duration = Duration::from_secs(1);
/// But no longer than this.
const HASTE_MAX: Duration = Duration::from_secs(64);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// Messages begun and neither committed nor given up.
    under_way: AtomicUsize,
    /// How many operations the committer waits for; none: it takes what there is.
    goal: AtomicUsize,
}

impl Gathering {
    /// A message is begun.
    pub(crate) fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// A message is committed or given up.
    pub(crate) fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// The committer wants as many as are under way.
    pub(crate) fn aim(&self) {
        self.goal.store(self.under_way.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The committer takes what there is again.
    pub(crate) fn rest(&self) {
        self.goal.store(0, Ordering::Relaxed);
    }

    /// Whether the committer waits no longer when so many operations are queued.
    pub(crate) fn is_enough(&self, queued: usize) -> bool {
        queued >= self.goal.load(Ordering::Relaxed)
    }
}

/// Whether there is a wait, by how the last ones ended.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Not before.
    from: Duration,
    /// How long the next haste is.
    haste: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { from: Duration::ZERO, haste: HASTE }
    }

    pub(crate) fn has_any(&self, now: Duration) -> bool {
        now >= self.from
    }

    /// A wait has ended; in vain if not all came that were under way.
    pub(crate) fn waited(&mut self, now: Duration, in_vain: bool) {
        if in_vain {
            self.from = now + self.haste;
            self.haste = (self.haste * 2).min(HASTE_MAX);
        } else {
            self.haste = HASTE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_under_way_are_enough_and_one_alone_is() {
        for under_way in [0, 1, 2, 20, 101] {
            let gathering = Gathering::default();
            (0..under_way + 5).for_each(|_| gathering.begin());
            (0..5).for_each(|_| gathering.end());
            assert!(gathering.is_enough(0), "nobody waits");
            gathering.aim();
            assert!(gathering.is_enough(under_way) && (under_way == 0 || !gathering.is_enough(under_way - 1)), "{under_way}");
            gathering.rest();
            assert!(gathering.is_enough(0));
        }
    }

    #[test]
    fn slow_clients_end_the_waiting() {
        let mut patience = Patience::new();
        let (mut now, mut waits) = (Duration::ZERO, 0);
        while now < Duration::from_secs(3600) {
            if patience.has_any(now) {
                waits += 1;
                patience.waited(now, true);
            }
            now += Duration::from_millis(10);
        }
        // At 0, 1, 3, 7, 15, 31, 63 and 127 seconds, and then every 64.
        assert_eq!(waits, 8 + (3600 - 127) / 64);
        now += HASTE_MAX;
        patience.waited(now, false);
        assert!(patience.has_any(now));
        patience.waited(now, true);
        assert!(!patience.has_any(now) && patience.has_any(now + HASTE));
    }
}
