//! How quickly one thing follows another, lately. State: the last rounds of them.

use std::time::Duration;

use crate::mail::Timestamp;

/// So many make a round.
const ROUND: u32 = 64;
/// What is assumed while none of them was seen.
const UNKNOWN: Duration = Duration::from_millis(1);
/// The shortest and the longest time for which a message is sent away.
const AWAY_MIN: Duration = Duration::from_secs(1);
const AWAY_MAX: Duration = Duration::from_secs(60);

/// The pace at which attempts end, and those who were told to come back when it is their turn.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// The pace of the last whole round.
    last: Option<Duration>,
    since: Timestamp,
    count: u32,
    /// Messages that were sent away have been told to come back up to this time.
    away_until: Timestamp,
}

impl Pace {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { last: None, since: now, count: 0, away_until: Timestamp::ZERO }
    }

    /// One more has ended.
    pub(super) fn count(&mut self, now: Timestamp) {
        self.count += 1;
        if self.count >= ROUND {
            self.last = Some(now.since(self.since) / ROUND);
            (self.since, self.count) = (now, 0);
        }
    }

    /// When one should come back before whom so many wait: spread over the time that these need, the next one a little later.
    pub(super) fn send_away(&mut self, now: Timestamp, waiting: usize) -> Timestamp {
        let pace = self.pace(now);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let needed = pace.saturating_mul(waiting).clamp(AWAY_MIN, AWAY_MAX);
        let back = now.plus(needed).max(self.away_until.min(now.plus(AWAY_MAX)));
        self.away_until = back.plus(pace);
        back
    }

    /// The time from one to the next.
    fn pace(&self, now: Timestamp) -> Duration {
        let present = now.since(self.since).checked_div(self.count);
        self.last.or(present).unwrap_or(UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_away_comes_back_at_the_pace_of_late() {
        let at = |millis: u64| Timestamp::from_millis(1_000_000 + millis);
        let mut pace = Pace::new(at(0));
        // A slow beginning, then 100 ms each.
        for n in 0..u64::from(ROUND) {
            pace.count(at(n * 5000));
        }
        let begun = 63 * 5000;
        for n in 1..=u64::from(ROUND) {
            pace.count(at(begun + n * 100));
        }
        let now = at(begun + 6400);
        let first = pace.send_away(now, 100);
        assert_eq!(first.since(now), Duration::from_secs(10));
        assert_eq!(pace.send_away(now, 100).since(first), Duration::from_millis(100));
        assert_eq!(Pace::new(now).send_away(now, 1_000_000).since(now), AWAY_MAX);
    }
}
