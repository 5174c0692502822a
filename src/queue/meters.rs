//! What was started lately at sites whose messages are counted. State: that, for the sites that had something last.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::{Meter, Rate, Site, Timestamp};

/// Sites whose rates are remembered; when there are more, the one that will be forgotten first anyway is forgotten now.
const SITES_MAX: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Meters {
    meters: BTreeMap<Site, (Meter, Timestamp)>,
    /// When each has nothing to remember any more.
    idle: BTreeSet<(Timestamp, Site)>,
}

impl Meters {
    /// When the next message may be started: `now`, or when the rate allows it.
    pub(super) fn next(&mut self, now: Timestamp, site: &Site, rate: Rate) -> Timestamp {
        self.meters.get_mut(site).map_or(now, |(meter, _)| meter.next(now, rate))
    }

    /// One is started.
    pub(super) fn add(&mut self, now: Timestamp, site: &Site, rate: Rate) {
        let until = now.plus(rate.period);
        let (meter, idle) = self.meters.entry(site.clone()).or_default();
        meter.add(now, rate);
        self.idle.remove(&(*idle, site.clone()));
        *idle = until;
        self.idle.insert((until, site.clone()));
        while let Some((until, _)) = self.idle.first()
            && (*until <= now || self.idle.len() > SITES_MAX)
            && let Some((_, site)) = self.idle.pop_first()
        {
            self.meters.remove(&site);
        }
    }

    /// One that was started then never got so far.
    pub(super) fn take_back(&mut self, started: Timestamp, site: &Site) {
        if let Some((meter, _)) = self.meters.get_mut(site) {
            meter.take_back(started);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mail::{Destination, Domain};

    fn site(n: usize) -> Site {
        Site::Own(Destination::Mx(Domain::parse(&format!("d{n}.test")).unwrap()))
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_over_is_forgotten_first() {
        let rate = Rate { count: 1, period: Duration::from_secs(60) };
        let mut meters = Meters::default();
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        for n in 0..SITES_MAX + 500 {
            meters.add(at(u64::from(n >= 500)), &site(n), rate);
        }
        assert_eq!((meters.meters.len(), meters.idle.len()), (SITES_MAX, SITES_MAX));
        assert_eq!(meters.next(at(1), &site(0), rate), at(1), "the oldest");
        assert_eq!(meters.next(at(1), &site(500), rate), at(61));
        meters.add(at(61), &site(0), rate);
        assert_eq!((meters.meters.len(), meters.idle.len()), (1, 1));
    }
}
