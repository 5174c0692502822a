//! Gathering: whether the next batch is worth a moment's wait. Owns the count of messages on their way into the spool.
//!
//! Where many clients send at once, most of those that will be in the next batch but one are nearly here already: with half of them a
//! sync serves several times as many. A client alone never waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest wait for a batch.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(1);
/// After a wait in vain nobody waits for so long: clients may be slow.
pub(crate) const HASTE: Duration = Duration::from_secs(1);

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

    /// The committer wants half of those under way.
    pub(crate) fn aim(&self) {
        self.goal.store(self.under_way.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_those_under_way_are_enough_and_one_alone_always_is() {
        for (under_way, enough) in [(0, 0), (1, 0), (2, 1), (3, 1), (20, 10), (101, 50)] {
            let gathering = Gathering::default();
            (0..under_way + 5).for_each(|_| gathering.begin());
            (0..5).for_each(|_| gathering.end());
            assert!(gathering.is_enough(0), "nobody waits");
            gathering.aim();
            assert!(gathering.is_enough(enough) && (enough == 0 || !gathering.is_enough(enough - 1)), "{under_way}");
            gathering.rest();
            assert!(gathering.is_enough(0));
        }
    }
}
