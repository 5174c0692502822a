//! What was started lately where messages are counted: at sites, or from addresses. State: that, for those that had something last.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::{Meter, Rate, Timestamp};

/// Rates that are remembered; when there are more, the one that will be forgotten first anyway is forgotten now.
const COUNTED_MAX: usize = 20_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Meters<Name> {
    meters: BTreeMap<Name, (Meter, Timestamp)>,
    /// When each has nothing to remember any more.
    idle: BTreeSet<(Timestamp, Name)>,
}

impl<Name> Default for Meters<Name> {
    fn default() -> Self {
        Self { meters: BTreeMap::new(), idle: BTreeSet::new() }
    }
}

impl<Name: Clone + Ord> Meters<Name> {
    /// When the next message may be started: `now`, or when the rate allows it.
    pub(super) fn next(&mut self, now: Timestamp, name: &Name, rate: Rate) -> Timestamp {
        self.meters.get_mut(name).map_or(now, |(meter, _)| meter.next(now, rate))
    }

    /// One is started.
    pub(super) fn add(&mut self, now: Timestamp, name: &Name, rate: Rate) {
        let until = now.plus(rate.period);
        let (meter, idle) = self.meters.entry(name.clone()).or_default();
        meter.add(now, rate);
        self.idle.remove(&(*idle, name.clone()));
        *idle = until;
        self.idle.insert((until, name.clone()));
        while let Some((until, _)) = self.idle.first()
            && (*until <= now || self.idle.len() > COUNTED_MAX)
            && let Some((_, name)) = self.idle.pop_first()
        {
            self.meters.remove(&name);
        }
    }

    /// One that was started then never got so far.
    pub(super) fn take_back(&mut self, started: Timestamp, name: &Name) {
        if let Some((meter, _)) = self.meters.get_mut(name) {
            meter.take_back(started);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mail::{Destination, Domain, Site};

    fn site(n: usize) -> Site {
        Site::Own(Destination::Mx(Domain::parse(&format!("d{n}.test")).unwrap()))
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_over_is_forgotten_first() {
        let rate = Rate { count: 1, period: Duration::from_secs(60) };
        let mut meters = Meters::default();
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        for n in 0..COUNTED_MAX + 500 {
            meters.add(at(u64::from(n >= 500)), &site(n), rate);
        }
        assert_eq!((meters.meters.len(), meters.idle.len()), (COUNTED_MAX, COUNTED_MAX));
        assert_eq!(meters.next(at(1), &site(0), rate), at(1), "the oldest");
        assert_eq!(meters.next(at(1), &site(500), rate), at(61));
        meters.add(at(61), &site(0), rate);
        assert_eq!((meters.meters.len(), meters.idle.len()), (1, 1));
    }
}
