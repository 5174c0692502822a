//! How many connections were made to each site lately, where that is bounded. State: a meter a site.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::mail::{Meter, Rate, Site, Timestamp};

/// Sites whose connections are counted; when there are more, that with the first name is forgotten.
const METERS_MAX: usize = 20_000;

/// See the module.
#[derive(Default)]
pub(super) struct Meters(Mutex<BTreeMap<Site, Meter>>);

impl Meters {
    /// Counts a new connection, if the rate allows it; else says when it will.
    pub(super) fn count(&self, now: Timestamp, site: &Site, rate: Rate) -> Result<(), Timestamp> {
        let mut meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if meters.len() >= METERS_MAX && !meters.contains_key(site) {
            meters.pop_first();
        }
        let meter = meters.entry(site.clone()).or_default();
        let next = meter.next(now, rate);
        if next > now {
            return Err(next);
        }
        meter.add(now, rate);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mail::{Destination, Domain};

    #[test]
    fn each_site_is_counted_by_itself_and_no_more_than_can_be() {
        let site = |number: usize| Site::Own(Destination::Mx(Domain::parse(&format!("d{number}.test")).unwrap()));
        let (meters, now) = (Meters::default(), Timestamp::from_millis(1000));
        let rate = Rate { count: 1, period: Duration::from_secs(60) };
        assert_eq!(meters.count(now, &site(1), rate), Ok(()));
        assert_eq!(meters.count(now, &site(1), rate), Err(now.plus(rate.period)));
        for number in 2..METERS_MAX + 10 {
            assert_eq!(meters.count(now, &site(number), rate), Ok(()));
        }
        assert_eq!(meters.0.lock().unwrap().len(), METERS_MAX);
    }
}
