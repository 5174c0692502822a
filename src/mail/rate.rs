//! So many in a time: a bound, and the memory that it takes to keep it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::Timestamp;

/// Times that a meter remembers; of more frequent events several share one, that of the last.
const TIMES_MAX: u64 = 256;

/// At most `count` in any `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In what time, more than zero.
    pub period: Duration,
}

/// As an admin writes it: `100/1m`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.period.as_secs();
        let whole = |unit: &&(u64, &str)| self.period.subsec_nanos() == 0 && seconds > 0 && seconds.is_multiple_of(unit.0);
        match [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")].iter().find(whole) {
            Some((unit, name)) => write!(f, "{}/{}{name}", self.count, seconds / unit),
            None => write!(f, "{}/{:?}", self.count, self.period),
        }
    }
}

/// What happened in the last period, for a rate.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// When, and how many; oldest first.
    times: VecDeque<(Timestamp, u32)>,
    count: u32,
}

impl Meter {
    /// When the next may happen: `now`, or as soon as the period from the oldest is over.
    pub fn next(&mut self, now: Timestamp, rate: Rate) -> Timestamp {
        self.forget(now, rate.period);
        match self.times.front() {
            Some((oldest, _)) if self.count >= rate.count => oldest.plus(rate.period),
            _ => now,
        }
    }

    /// It happens.
    pub fn add(&mut self, now: Timestamp, rate: Rate) {
        self.forget(now, rate.period);
        self.count = self.count.saturating_add(1);
        let grain = u64::try_from(rate.period.as_millis()).unwrap_or(u64::MAX) / TIMES_MAX;
        match self.times.back_mut() {
            Some((time, count)) if time.as_millis() / grain.max(1) == now.as_millis() / grain.max(1) => {
                (*time, *count) = (now, count.saturating_add(1));
            }
            _ => self.times.push_back((now, 1)),
        }
    }

    /// What was counted then didn't happen after all.
    pub fn take_back(&mut self, added: Timestamp) {
        let index = self.times.partition_point(|(time, _)| *time < added);
        if let Some((_, count)) = self.times.get_mut(index) {
            (self.count, *count) = (self.count.saturating_sub(1), *count - 1);
            if *count == 0 {
                self.times.remove(index);
            }
        }
    }

    fn forget(&mut self, now: Timestamp, period: Duration) {
        // A clock that was set back: nothing happened later than now.
        for (time, _) in self.times.iter_mut().rev().take_while(|(time, _)| *time > now) {
            *time = now;
        }
        while let Some((time, count)) = self.times.front()
            && time.plus(period) <= now
        {
            self.count = self.count.saturating_sub(*count);
            self.times.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    #[test]
    fn a_rate_is_shown_as_it_is_written() {
        let shown = |millis| Rate { count: 5, period: Duration::from_millis(millis) }.to_string();
        let periods = [60_000, 90_000, 3_600_000, 172_800_000, 1000, 1500].map(shown);
        assert_eq!(periods, ["5/1m", "5/90s", "5/1h", "5/2d", "5/1s", "5/1.5s"]);
    }

    #[test]
    fn so_many_at_once_and_the_next_when_the_first_is_a_period_ago() {
        let rate = Rate { count: 3, period: Duration::from_secs(60) };
        let mut meter = Meter::default();
        for second in [0, 10, 20] {
            assert_eq!(meter.next(at(second * 1000), rate), at(second * 1000));
            meter.add(at(second * 1000), rate);
        }
        assert_eq!(meter.next(at(30_000), rate), at(60_000));
        assert_eq!(meter.next(at(60_000), rate), at(60_000));
        meter.add(at(60_000), rate);
        assert_eq!(meter.next(at(60_000), rate), at(70_000));
        meter.next(at(119_999), rate);
        assert!(!meter.times.is_empty());
        meter.next(at(120_000), rate);
        assert!(meter.times.is_empty());
    }

    #[test]
    fn what_is_taken_back_counts_no_longer_and_what_happened_beside_it_does() {
        let rate = Rate { count: 3, period: Duration::from_secs(60) };
        let mut meter = Meter::default();
        for second in [0, 10, 20] {
            meter.add(at(second * 1000), rate);
        }
        meter.take_back(at(0));
        assert_eq!(meter.next(at(21_000), rate), at(21_000));
        meter.add(at(21_000), rate);
        assert_eq!(meter.next(at(21_000), rate), at(70_000));
        meter.take_back(at(90_000));
        assert_eq!(meter.count, 3);
    }

    #[test]
    fn a_clock_set_back_stops_nobody_for_longer_than_a_period() {
        let rate = Rate { count: 1, period: Duration::from_secs(60) };
        let mut meter = Meter::default();
        meter.add(at(900_000), rate);
        assert_eq!(meter.next(at(0), rate), at(60_000));
    }

    proptest! {
        #[test]
        fn no_period_ever_has_more(gaps in prop::collection::vec(0u64..400, 1..600), count in 1u32..50) {
            let rate = Rate { count, period: Duration::from_secs(1) };
            let (mut meter, mut now, mut taken) = (Meter::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                if meter.next(at(now), rate) <= at(now) {
                    meter.add(at(now), rate);
                    taken.push(now);
                }
            }
            for window in taken.windows(count as usize + 1) {
                prop_assert!(window[count as usize] - window[0] >= 1000);
            }
            prop_assert!(meter.times.len() as u64 <= TIMES_MAX + 1);
        }
    }
}
