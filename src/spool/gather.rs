//! Gathering: whether the next batch is worth a moment's wait. Owns the count of messages on their way into the spool.
//!
//! Where many clients send at once, those whose content is on its way are nearly here: with them one sync does for two or three. But
//! half of the clients are enough: while that half waits for the disk, the other keeps the processors busy. Only where all of them are
//! back sooner than a sync is done, two halves would each wait for the other's sync: then all make one batch. A client alone never waits
//! (but once, when the others have just left), and where somebody is slow the waiting soon ends for good.
//!
//! What nobody waits for (states, ends) lingers a moment, unless a message comes: to be woken and to write for each costs more than it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The longest wait for a batch.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(4);
/// So long lingers what nobody waits for,
pub(crate) const LINGER: Duration = Duration::from_millis(1);
/// or until so much of it is there.
const LINGER_COUNT: usize = 100;
/// Where a sync takes longer than this, nobody waits for half of the clients (enough come while it runs), and it is begun before those are
/// told who waited for the last one.
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
    /// Whether the last sync wasn't quick.
    slow: AtomicBool,
}

/// Held by a message from its beginning until it is queued or given up.
pub(crate) type UnderWay = Arc<()>;

impl Gathering {
    /// A message is begun.
    pub(crate) fn begin(&self) -> UnderWay {
        self.under_way.clone()
    }

    /// Who sends, as far as they are seen.
    pub(crate) fn clients(&self, queued: usize, untold: usize, answered: usize) -> Clients {
        Clients { queued, under_way: Arc::strong_count(&self.under_way) - 1, untold, answered }
    }

    /// How the last sync was.
    pub(crate) fn note_sync(&self, quick: bool) {
        self.slow.store(!quick, Ordering::Relaxed);
    }

    /// Whether syncs are slow: those who wait for one are told together.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// The committer wants a batch of these.
    pub(crate) fn aim(&self, clients: Clients, share: Share) {
        self.wait_for(clients.goal(share), 0);
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

/// The messages that were queued so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Queued {
    count: u64,
    /// When the last one was.
    last: Duration,
}

impl Queued {
    /// One more is.
    pub(crate) fn add(&mut self, now: Duration) {
        self.count += 1;
        self.last = now;
    }
}

/// Clients that send.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clients {
    /// Their messages are queued.
    pub(crate) queued: usize,
    /// Their messages are on their way.
    pub(crate) under_way: usize,
    /// Their messages are durable, but they don't know it yet.
    pub(crate) untold: usize,
    /// So many had a message in the last batch.
    pub(crate) answered: usize,
}

/// Whose messages make a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Half of the clients: all of them at a time would wait for the disk together, and then the disk for them.
    Half,
    /// All.
    All,
}

impl Clients {
    fn count(self) -> usize {
        (self.queued + self.under_way + self.untold).max(self.answered)
    }

    /// How many operations make a batch.
    fn goal(self, share: Share) -> usize {
        match share {
            Share::Half => self.count().div_ceil(2).clamp(self.queued, self.queued + self.under_way),
            Share::All => self.count(),
        }
    }
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
    /// When clients were told last, and how many messages had been queued by then.
    told: (Duration, u64),
    /// In so long one of those who were told is back with a message, with the others beside it.
    back: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { from: Duration::ZERO, haste: HASTE, sync: Duration::ZERO, told: (Duration::ZERO, 0), back: Duration::MAX }
    }

    pub(crate) fn has_any(&self, now: Duration) -> bool {
        now >= self.from
    }

    /// Whether the last sync was.
    pub(crate) fn is_quick(&self) -> bool {
        self.sync <= QUICK
    }

    /// Whose messages make the next batch.
    pub(crate) fn share(&self, clients: Clients) -> Share {
        let back = self.back.saturating_mul(u32::try_from(clients.count()).unwrap_or(u32::MAX));
        // Were it a whole sync, it would make no difference.
        if back < self.sync * 3 / 4 { Share::All } else { Share::Half }
    }

    /// How long the next batch may be waited for; the timer rounds it up to milliseconds.
    pub(crate) fn longest(&self, share: Share) -> Duration {
        match share {
            _ if self.is_quick() => WAIT_MAX,
            Share::All => self.sync.min(WAIT_MAX),
            Share::Half => Duration::ZERO,
        }
    }

    /// Notes that clients are told now, and how many messages had been queued.
    pub(crate) fn note_told(&mut self, now: Duration, queued: Queued) {
        self.told = (now, queued.count);
    }

    /// Learns from the messages that were queued since clients were told.
    pub(crate) fn look(&mut self, queued: Queued) {
        let (told, before) = self.told;
        if let Ok(new @ 1..) = u32::try_from(queued.count - before) {
            self.back = queued.last.saturating_sub(told) / new;
        }
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
            let clients = Clients { queued, under_way, untold: 0, answered };
            assert_eq!(clients.goal(Share::Half), enough, "{clients:?}");
        }
    }

    #[test]
    fn those_who_do_not_know_yet_that_theirs_is_durable_are_the_other_half() {
        let clients = Clients { queued: 7, under_way: 5, untold: 10, answered: 8 };
        assert_eq!((clients.goal(Share::Half), clients.goal(Share::All)), (11, 22));
    }

    #[test]
    fn all_make_one_batch_where_they_are_back_sooner_than_a_sync_is_done() {
        let clients = |answered| Clients { answered, ..Clients::default() };
        let mut patience = Patience::new();
        patience.synced(Duration::from_millis(2));
        assert_eq!(patience.share(clients(20)), Share::Half, "nothing is known of them");
        let mut queued = Queued::default();
        queued.add(Duration::from_millis(1));
        patience.note_told(Duration::from_millis(10), queued);
        patience.look(queued);
        assert_eq!(patience.share(clients(20)), Share::Half, "nobody is back");
        // Five of them in a quarter of a millisecond.
        (1..=5).for_each(|count| queued.add(Duration::from_millis(10) + count * Duration::from_micros(50)));
        patience.look(queued);
        assert_eq!([1, 20, 29, 30, 100].map(|count| patience.share(clients(count))), {
            use Share::*;
            [All, All, All, Half, Half]
        });
        assert_eq!(clients(1).goal(Share::All), 1, "one alone waits for nobody");
        assert_eq!(patience.longest(Share::All), Duration::from_millis(2));
        assert_eq!(patience.longest(Share::Half), Duration::ZERO, "enough come while a sync runs");
        patience.synced(Duration::from_micros(100));
        assert_eq!(patience.share(clients(20)), Share::Half);
        assert_eq!(patience.longest(Share::Half), WAIT_MAX);
        patience.synced(Duration::from_secs(1));
        assert_eq!(patience.longest(Share::All), WAIT_MAX);
    }

    #[test]
    fn those_under_way_are_waited_for_and_one_alone_waits_for_nobody() {
        for (queued, under_way) in [(1, 0), (1, 1), (5, 20), (1, 100)] {
            let gathering = Gathering::default();
            let begun: Vec<UnderWay> = (0..under_way).map(|_| gathering.begin()).collect();
            drop(gathering.begin());
            assert!(gathering.is_enough(0), "nobody waits");
            let clients = gathering.clients(queued, 0, 0);
            gathering.aim(clients, Share::Half);
            let half = clients.goal(Share::Half);
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
        gathering.aim(gathering.clients(1, 0, 0), Share::Half);
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
}
