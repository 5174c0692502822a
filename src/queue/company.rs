//! Bulk in company: where one origin's bulk and the single letters of others go to the same near site, the bulk leaves the letters
//! time on the processor. State: until when letters count as coming.
//!
//! As many attempts of bulk as go side by side keep every core busy, and whoever comes beside them waits for a core at each step of
//! his attempt, though his turn comes at once. So while others send a letter now and then, bulk is content with fewer. An attempt that
//! hangs keeps no core busy: it is nobody's reason to wait.

use std::collections::VecDeque;
use std::time::Duration;

use crate::mail::Timestamp;

/// An origin with so many in a line sends bulk.
const BULK: usize = 16;
/// Bulk leaves room for so long after a letter: the next one may follow.
const TOGETHER: Duration = Duration::from_secs(1);
/// Attempts at a time for bulk meanwhile,
const BESIDE: usize = 1;
/// besides those that take longer than this.
const HANGING: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Letters have come of late; not any more from then on.
    until: Timestamp,
}

impl Company {
    /// A message joins a line of so many, of which so many are of its own origin.
    pub(super) fn joined(&mut self, now: Timestamp, all: usize, own: usize) {
        if own == 0 && all >= BULK {
            self.until = now.plus(TOGETHER);
        }
    }

    /// Until when letters count as coming, if they do.
    pub(super) fn until(&self, now: Timestamp) -> Option<Timestamp> {
        // A clock that was set back must not make it last.
        (now < self.until && self.until <= now.plus(TOGETHER)).then_some(self.until)
    }

    /// How many attempts there may be for an origin that has so many in the line, but for those that hang.
    pub(super) fn limit(&self, now: Timestamp, own: impl FnOnce() -> usize) -> usize {
        if self.until(now).is_some() && own() >= BULK { BESIDE } else { usize::MAX }
    }
}

/// Attempts under way: when each began.
#[derive(Debug, Default)]
pub(super) struct Flights(VecDeque<Timestamp>);

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn begin(&mut self, now: Timestamp) {
        self.0.push_back(now);
    }

    /// One that began then has ended. Where none did the clock was set back meanwhile: then it is one of the youngest.
    pub(super) fn end(&mut self, began: Timestamp) {
        match self.0.iter().position(|at| *at == began) {
            Some(place) => _ = self.0.remove(place),
            None => _ = self.0.pop_back(),
        }
    }

    /// When the oldest began, for tests.
    #[cfg(test)]
    pub(super) fn oldest(&self) -> Timestamp {
        self.0[0]
    }

    /// How many of them hang.
    pub(super) fn hanging(&self, now: Timestamp) -> usize {
        self.0.iter().filter(|began| began.plus(HANGING) <= now).count()
    }

    /// When one more of them hangs, if none ends; late by as much again at the most, so that few such times have to be remembered.
    pub(super) fn hangs_at(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.0.iter().map(|began| began.plus(HANGING)).filter(|at| *at > now).min()?;
        let step = HANGING.as_millis() as u64;
        Some(Timestamp::from_millis(next.as_millis().div_ceil(step) * step))
    }

    /// A clock that was set back: nothing begins in the future.
    pub(super) fn clamp(&mut self, now: Timestamp) {
        self.0.iter_mut().for_each(|began| *began = now.min(*began));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_leaves_room_while_letters_come_and_letters_never_do() {
        let mut company = Company::default();
        let at = |millis: u64| Timestamp::from_millis(1_000_000 + millis);
        company.joined(at(0), BULK - 1, 0);
        company.joined(at(0), 10 * BULK, 1);
        assert_eq!(company.limit(at(0), || BULK), usize::MAX, "no bulk there, or nobody beside it");
        company.joined(at(0), BULK, 0);
        assert_eq!((company.limit(at(0), || BULK), company.limit(at(999), || BULK)), (BESIDE, BESIDE));
        assert_eq!(company.limit(at(0), || BULK - 1), usize::MAX, "a letter");
        assert_eq!(company.limit(at(1000), || BULK), usize::MAX, "alone again");
        company.joined(at(1000), BULK, 0);
        assert_eq!(company.limit(Timestamp::from_millis(0), || BULK), usize::MAX, "the clock was set back");
    }

    #[test]
    fn those_hang_that_began_long_ago() {
        let at = |millis: u64| Timestamp::from_millis(1_000_000 + millis);
        let mut flights = Flights::default();
        for millis in [0, 30, 90] {
            flights.begin(at(millis));
        }
        assert_eq!((flights.hanging(at(99)), flights.hangs_at(at(99))), (0, Some(at(100))));
        assert_eq!((flights.hanging(at(100)), flights.hangs_at(at(100))), (1, Some(at(200))));
        flights.end(at(30));
        assert_eq!((flights.len(), flights.hanging(at(130)), flights.hangs_at(at(190))), (2, 1, None));
        let earlier = Timestamp::from_millis(0);
        flights.clamp(earlier);
        assert_eq!(flights.hangs_at(earlier), Some(earlier.plus(HANGING)), "the clock was set back");
        let mut flights = Flights::default();
        flights.begin(earlier);
        flights.begin(at(0));
        flights.clamp(earlier.plus(HANGING));
        flights.end(at(0));
        assert_eq!((flights.len(), flights.hanging(earlier.plus(HANGING))), (1, 1), "the one that hangs still does");
    }
}
