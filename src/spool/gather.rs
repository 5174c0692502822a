//! Gathering: whether the next batch is worth a moment's wait. Owns the count of messages on their way into the spool.
//!
//! Where many clients send at once, those whose content is on its way are nearly here: with them one sync does for two or three. But
//! half of the clients are enough: while that half waits for the disk, the other keeps the processors busy. A client alone never waits,
//! and where somebody is slow the waiting soon ends for good.
//!
//! What nobody waits for (states, ends) lingers a moment, unless a message comes: to be woken and to write for each costs more than it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest wait for a batch.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(4);
/// So long lingers what nobody waits for,
pub(crate) const LINGER: Duration = Duration::from_millis(1);
/// or until so much of it is there.
const LINGER_COUNT: usize = 100;
/// Where a sync takes longer than this, nobody waits: enough comes while it runs.
const QUICK: Duration = Duration::from_micros(500);
/// After a wait in vain there is none for so long, and twice as long after each further one.
const HASTE: Duration = Duration::from_millis(250);
/// But no longer than this.
const HASTE_MAX: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// Every message on its way to the queue holds one more of these.
    under_way: UnderWay,
    /// How many operations the committer waits for; none: it takes what there is.
    goal: AtomicUsize,
    /// The same while something is queued that nobody waits for.
    goal_of_others: AtomicUsize,
}

/// Held by a message from its beginning until it is queued or given up.
pub(crate) type UnderWay = Arc<()>;

impl Gathering {
    /// A message is begun.
    pub(crate) fn begin(&self) -> UnderWay {
        self.under_way.clone()
    }

    /// The committer wants some of those under way, too, where so many are queued; the last batch had `answered` messages.
    pub(crate) fn aim(&self, queued: usize, answered: usize) {
        let under_way = Arc::strong_count(&self.under_way) - 1;
        self.wait_for(goal(queued, under_way, answered), 0);
    }

    /// The committer has nothing that anybody waits for.
    pub(crate) fn linger(&self) {
        self.wait_for(0, LINGER_COUNT);
    }

    /// The committer takes what there is again.
    pub(crate) fn rest(&self) {
        self.wait_for(0, 0);
    }

    fn wait_for(&self, goal: usize, goal_of_others: usize) {
        self.goal.store(goal, Ordering::Relaxed);
        self.goal_of_others.store(goal_of_others.max(goal), Ordering::Relaxed);
    }

    /// Whether the committer waits no longer when so many operations are queued.
    pub(crate) fn is_enough(&self, queued: usize) -> bool {
        queued >= self.goal.load(Ordering::Relaxed)
    }

    /// The same when the last of them is one that nobody waits for.
    pub(crate) fn is_enough_of_others(&self, queued: usize) -> bool {
        queued >= self.goal_of_others.load(Ordering::Relaxed)
    }
}

/// How many operations make a batch: half of the clients' that send, as far as they are seen. All of them at a time would wait for the
/// disk together, and then the disk for them.
fn goal(queued: usize, under_way: usize, answered: usize) -> usize {
    let here = queued + under_way;
    here.max(answered).div_ceil(2).clamp(queued, here)
}

/// Whether there is a wait, by how the last ones ended.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Not before.
    from: Duration,
    /// How long the next haste is.
    haste: Duration,
    /// How long the last sync took.
    sync: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { from: Duration::ZERO, haste: HASTE, sync: Duration::ZERO }
    }

    pub(crate) fn has_any(&self, now: Duration) -> bool {
        now >= self.from && self.is_quick()
    }

    /// Whether the last sync was.
    pub(crate) fn is_quick(&self) -> bool {
        self.sync <= QUICK
    }

    /// A batch was written and synced in this time.
    pub(crate) fn synced(&mut self, took: Duration) {
        self.sync = took;
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
    fn half_of_those_who_send_are_enough() {
        for (queued, under_way, answered, enough) in
            [(1, 0, 0, 1), (1, 1, 1, 1), (1, 19, 0, 10), (10, 10, 10, 10), (3, 4, 20, 7), (5, 0, 20, 5), (15, 5, 1, 15)]
        {
            assert_eq!(goal(queued, under_way, answered), enough, "{queued} queued, {under_way} under way, {answered} answered");
        }
    }

    #[test]
    fn those_under_way_are_waited_for_and_one_alone_waits_for_nobody() {
        for (queued, under_way) in [(1, 0), (1, 1), (5, 20), (1, 100)] {
            let gathering = Gathering::default();
            let begun: Vec<UnderWay> = (0..under_way).map(|_| gathering.begin()).collect();
            drop(gathering.begin());
            assert!(gathering.is_enough(0), "nobody waits");
            gathering.aim(queued, 0);
            let half = goal(queued, under_way, 0);
            assert!(gathering.is_enough(half) && !gathering.is_enough(half - 1), "{queued} and {under_way}");
            assert_eq!(gathering.is_enough(queued), begun.len() < 2);
            gathering.rest();
            assert!(gathering.is_enough(0));
        }
    }

    #[test]
    fn what_nobody_waits_for_wakes_nobody_for_a_while_and_messages_do() {
        let gathering = Gathering::default();
        assert!(gathering.is_enough_of_others(1), "the first says that there is something");
        gathering.linger();
        assert!(gathering.is_enough(1) && !gathering.is_enough_of_others(LINGER_COUNT - 1));
        assert!(gathering.is_enough_of_others(LINGER_COUNT));
        let _under_way: Vec<UnderWay> = (0..9).map(|_| gathering.begin()).collect();
        gathering.aim(1, 0);
        assert!(!gathering.is_enough_of_others(4) && gathering.is_enough_of_others(5), "it counts for a batch");
        gathering.rest();
        assert!(gathering.is_enough(1) && gathering.is_enough_of_others(1));
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
        // At 0, 0.25, 0.75, 1.75, 3.75 and 7.75 seconds, and then every 8.
        assert_eq!(waits, 6 + (3600 - 8) / 8);
        now += HASTE_MAX;
        patience.waited(now, false);
        assert!(patience.has_any(now));
        patience.waited(now, true);
        assert!(!patience.has_any(now) && patience.has_any(now + HASTE));
    }

    #[test]
    fn nobody_waits_where_syncs_are_slow() {
        let mut patience = Patience::new();
        patience.synced(QUICK * 2);
        assert!(!patience.has_any(Duration::from_secs(3600)));
        patience.synced(QUICK);
        assert!(patience.has_any(Duration::ZERO));
    }
}
