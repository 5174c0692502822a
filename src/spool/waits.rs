//! Waits that grow while something stays wrong: how often it is tried, how often it is told. Pure; the time is handed in.

use std::time::Duration;

use super::SpoolError;

/// What holds a segment up is told again after this time,
const TELL_FIRST: Duration = Duration::from_secs(60);
/// and in the end so often.
const TELL_LONGEST: Duration = Duration::from_secs(3600);

/// Each wait is twice as long as the one before, up to the longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    first: Duration,
    longest: Duration,
    next: Duration,
    until: Duration,
}

impl Waits {
    /// Nothing is waited for yet.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first, until: Duration::ZERO }
    }

    /// When the wait is over.
    pub(crate) fn until(&self) -> Duration {
        self.until
    }

    /// The next wait begins; true if it is the longest.
    pub(crate) fn again(&mut self, now: Duration) -> bool {
        let wait = self.next;
        self.until = now + wait;
        self.next = (wait * 2).min(self.longest);
        wait == self.longest
    }

    /// Things have moved: the next wait is the first again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// What holds the oldest segment up: told at once, then less and less often as long as it does.
#[derive(Debug, Default)]
pub(crate) struct Telling(Option<Told>);

#[derive(Debug)]
struct Told {
    segment: u64,
    error: SpoolError,
    at: Duration,
    waits: Waits,
}

impl Telling {
    /// Whether it is to be told now. Something else about the same segment is told soon, but not each time that two take turns.
    pub(crate) fn is_due(&mut self, segment: u64, error: &SpoolError, now: Duration) -> bool {
        let last = self.0.take().filter(|told| told.segment == segment);
        let mut waits = match &last {
            Some(told) if told.error == *error && now >= told.waits.until() => told.waits,
            Some(told) if told.error == *error || now < told.at + TELL_FIRST => {
                self.0 = last;
                return false;
            }
            _ => Waits::new(TELL_FIRST, TELL_LONGEST),
        };
        waits.again(now);
        self.0 = Some(Told { segment, error: error.clone(), at: now, waits });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let mut waits = Waits::new(SECOND, SECOND * 5);
        assert_eq!(waits.until(), Duration::ZERO);
        let each = [1, 2, 4, 5, 5].map(|wait| (waits.again(SECOND * 100), waits.until() == SECOND * (100 + wait)));
        assert_eq!(each, [(false, true), (false, true), (false, true), (true, true), (true, true)]);
        waits.reset();
        waits.again(SECOND * 200);
        assert_eq!(waits.until(), SECOND * 201);
    }

    /// When it is told in a day, if it is tried each second.
    fn told(error: impl Fn(u32) -> SpoolError) -> Vec<u32> {
        let mut telling = Telling::default();
        (0..86_400).filter(|second| telling.is_due(1, &error(*second), SECOND * *second)).collect()
    }

    #[test]
    fn what_stays_the_same_is_told_less_and_less_often() {
        let told = told(|_| SpoolError::Full);
        assert_eq!(told[..8], [0, 60, 180, 420, 900, 1860, 3780, 7380]);
        assert_eq!(told.len(), 29);
    }

    #[test]
    fn something_else_is_told_soon_but_not_each_second() {
        let changes = told(|second| if second < 7000 { SpoolError::Full } else { SpoolError::Closed });
        assert_eq!(changes[6..8], [3780, 7000]);
        let alternates = told(|second| if second % 2 == 0 { SpoolError::Full } else { SpoolError::Closed });
        assert!(alternates.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{alternates:?}");
        let mut telling = Telling::default();
        assert!(telling.is_due(1, &SpoolError::Full, SECOND) && telling.is_due(2, &SpoolError::Full, SECOND));
    }
}
