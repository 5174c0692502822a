//! How many connections were made lately, to each site and from our own addresses, where that is bounded. State: a meter for each.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::mail::{Meter, Rate, Timestamp};

/// Sites and addresses whose connections are counted; when there are more, that with the first name is forgotten.
const METERS_MAX: usize = 20_000;

/// See the module.
#[derive(Default)]
pub(super) struct Meters(Mutex<BTreeMap<String, Meter>>);

impl Meters {
    /// Counts a new connection, if all rates that it is bounded by allow it; else says which doesn't, by its number, and when it will.
    pub(super) fn count(&self, now: Timestamp, rates: &[(String, Rate)]) -> Result<(), (usize, Timestamp)> {
        let mut meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = |(name, rate): &(String, Rate)| meters.get_mut(name).map_or(now, |meter| meter.next(now, *rate));
        let latest = rates.iter().map(next).enumerate().max_by_key(|(_, next)| *next);
        if let Some((number, next)) = latest.filter(|(_, next)| *next > now) {
            return Err((number, next));
        }
        for (name, rate) in rates {
            if meters.len() >= METERS_MAX && !meters.contains_key(name) {
                meters.pop_first();
            }
            meters.entry(name.clone()).or_default().add(now, *rate);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_counted_by_itself_and_no_more_than_can_be() {
        let (meters, now) = (Meters::default(), Timestamp::from_millis(1000));
        let rate = Rate { count: 1, period: Duration::from_secs(60) };
        let count = |number: usize| meters.count(now, &[(format!("d{number}.test"), rate)]);
        assert_eq!(count(1), Ok(()));
        assert_eq!(count(1), Err((0, now.plus(rate.period))));
        for number in 2..METERS_MAX + 10 {
            assert_eq!(count(number), Ok(()));
        }
        assert_eq!(meters.0.lock().unwrap().len(), METERS_MAX);
    }

    #[test]
    fn what_one_rate_forbids_counts_for_none() {
        let (meters, now) = (Meters::default(), Timestamp::from_millis(1000));
        let [wide, narrow] = [2, 1].map(|count| Rate { count, period: Duration::from_secs(60) });
        let both = [("site".to_owned(), wide), ("address".to_owned(), narrow)];
        assert_eq!(meters.count(now, &both), Ok(()));
        assert_eq!(meters.count(now, &both), Err((1, now.plus(wide.period))));
        assert_eq!(meters.count(now, &both[..1]), Ok(()), "what was refused was not counted here");
    }
}
