//! What happened lately at each of many, where that is bounded by rates. State: a meter for each that has something to remember.

use std::collections::{BTreeMap, BTreeSet};

use super::{Meter, Rate, Timestamp};

/// Meters that are kept; when there are more, the one that will have nothing to remember first is forgotten now.
const METERS_MAX: usize = 20_000;

/// See the module. They know nothing of why: a name counts on whatever its rate is now.
#[derive(Debug)]
pub struct Meters<Name> {
    meters: BTreeMap<Name, (Meter, Timestamp)>,
    /// When each has nothing to remember any more.
    idle: BTreeSet<(Timestamp, Name)>,
    /// How many were forgotten that had something to remember.
    forgotten: u64,
}

impl<Name> Default for Meters<Name> {
    fn default() -> Self {
        Self { meters: BTreeMap::new(), idle: BTreeSet::new(), forgotten: 0 }
    }
}

impl<Name: Clone + Ord> Meters<Name> {
    /// When the next may happen: `now`, or when the rate allows it.
    pub fn next(&mut self, now: Timestamp, name: &Name, rate: Rate) -> Timestamp {
        self.meters.get_mut(name).map_or(now, |(meter, _)| meter.next(now, rate))
    }

    /// One happens.
    pub fn add(&mut self, now: Timestamp, name: &Name, rate: Rate) {
        let until = now.plus(rate.period);
        let (meter, idle) = self.meters.entry(name.clone()).or_default();
        meter.add(now, rate);
        self.idle.remove(&(*idle, name.clone()));
        *idle = until;
        self.idle.insert((until, name.clone()));
        while let Some((until, _)) = self.idle.first()
            && (*until <= now || self.idle.len() > METERS_MAX)
            && let Some((until, name)) = self.idle.pop_first()
        {
            self.meters.remove(&name);
            self.forgotten += u64::from(until > now);
        }
    }

    /// How many names were forgotten before their time since this was asked last: they count anew, and may have more than their rate allows.
    pub fn forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// One happens, if all of these allow it; else says which doesn't, by its number, and when it will.
    pub fn try_add(&mut self, now: Timestamp, rates: &[(Name, Rate)]) -> Result<(), (usize, Timestamp)> {
        let next = |(name, rate): &(Name, Rate)| self.next(now, name, *rate);
        let latest = rates.iter().map(next).enumerate().max_by_key(|(_, next)| *next);
        if let Some((number, next)) = latest.filter(|(_, next)| *next > now) {
            return Err((number, next));
        }
        rates.iter().for_each(|(name, rate)| self.add(now, name, *rate));
        Ok(())
    }

    /// One that was counted then didn't happen after all.
    pub fn take_back(&mut self, added: Timestamp, name: &Name) {
        if let Some((meter, _)) = self.meters.get_mut(name) {
            meter.take_back(added);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1000)
    }

    fn so_many(count: u32, seconds: u64) -> Rate {
        Rate { count, period: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_over_is_forgotten_first() {
        let (rate, mut meters) = (so_many(1, 60), Meters::default());
        for n in 0..METERS_MAX + 500 {
            meters.add(at(u64::from(n >= 500)), &n, rate);
        }
        assert_eq!((meters.meters.len(), meters.idle.len()), (METERS_MAX, METERS_MAX));
        assert_eq!([meters.forgotten(), meters.forgotten()], [500, 0]);
        assert_eq!(meters.next(at(1), &0, rate), at(1), "the oldest");
        assert_eq!(meters.next(at(1), &500, rate), at(61));
        meters.add(at(61), &0, rate);
        assert_eq!((meters.meters.len(), meters.idle.len(), meters.forgotten()), (1, 1, 0));
    }

    #[test]
    fn whoever_still_has_to_wait_is_not_forgotten_for_his_names_sake() {
        let mut meters = Meters::default();
        assert_eq!(meters.try_add(at(0), &[("a".to_owned(), so_many(1, 86_400))]), Ok(()));
        for n in 0..METERS_MAX + 10 {
            assert_eq!(meters.try_add(at(1), &[(format!("d{n}"), so_many(1, 60))]), Ok(()));
        }
        let first = [("a".to_owned(), so_many(1, 86_400))];
        assert_eq!(meters.try_add(at(2), &first), Err((0, at(86_400))));
    }

    #[test]
    fn what_one_rate_forbids_counts_for_none() {
        let mut meters = Meters::default();
        let both = [("site", so_many(2, 60)), ("address", so_many(1, 60))];
        assert_eq!(meters.try_add(at(0), &both), Ok(()));
        assert_eq!(meters.try_add(at(0), &both), Err((1, at(60))));
        assert_eq!(meters.try_add(at(0), &both[..1]), Ok(()), "what was refused was not counted here");
    }

    #[test]
    fn another_rate_for_the_same_name_counts_what_happened_before() {
        let mut meters = Meters::default();
        assert_eq!(meters.try_add(at(0), &[("site", so_many(5, 60))]), Ok(()));
        assert_eq!(meters.next(at(1), &"site", so_many(1, 60)), at(60));
    }
}
