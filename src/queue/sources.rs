//! What leaves from those of our own addresses that are bounded. State: what is in flight from each and was of late, and the lines
//! that wait for one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Source;
use crate::mail::{Meters, Site, Timestamp};

/// Lines that may go on in one go when an attempt from an address has ended.
const WOKEN_MAX: usize = 16;
/// How long a connection waits for the next message: as long an address is the first choice for a line where it was used.
pub(super) const RECENT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sources {
    counts: BTreeMap<Arc<str>, Count>,
    meters: Meters<Arc<str>>,
    /// Those with room, as far as is known, for lines that wait.
    freed: BTreeSet<Arc<str>>,
    /// When others have some again for whom lines wait.
    later: BTreeSet<(Timestamp, Arc<str>)>,
    /// How many were chosen: equals have their turns.
    turns: usize,
}

/// What is under way in one scope.
#[derive(Debug)]
struct Count {
    source: Source,
    in_flight: usize,
    /// No new connection before this time: only lines that have one go on.
    unconnected: Option<Timestamp>,
    blocked: BTreeSet<Site>,
    /// Which of them was woken last.
    last: Option<Site>,
}

/// Why nothing may leave from an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Until when that is so; none: until an attempt ends.
    pub(super) until: Option<Timestamp>,
}

impl Sources {
    /// The addresses that a line's next message may leave from, one of each family that it has: which it will be depends on the host.
    /// `recent`: those that have served the line a moment ago, the last behind.
    pub(super) fn choose(&mut self, now: Timestamp, all: &[Source], recent: &[(IpAddr, Timestamp)]) -> Result<Vec<Source>, Full> {
        let mut chosen = Vec::new();
        for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let (mut open, mut until, mut any): (Vec<&Source>, Option<Timestamp>, bool) = (Vec::new(), None, false);
            let is_warm = |ip: &IpAddr| recent.iter().any(|(warm, since)| warm == ip && since.plus(RECENT) > now);
            for source in all.iter().filter(|source| family(&source.ip)) {
                any = true;
                match self.full(now, source, is_warm(&source.ip)) {
                    None => open.push(source),
                    Some(full) => until = until.into_iter().chain(full.until).min(),
                }
            }
            let mut warm = recent.iter().rev().filter(|(_, since)| since.plus(RECENT) > now);
            let warm = warm.find_map(|(ip, _)| open.iter().find(|source| source.ip == *ip));
            let turn = |index: usize| (index + self.turns) % open.len();
            let least = || open.iter().enumerate().min_by_key(|(index, source)| (self.in_flight(source), turn(*index)));
            match warm.or_else(|| Some(least()?.1)) {
                Some(source) => chosen.push((*source).clone()),
                None if any => return Err(Full { until }),
                None => {}
            }
        }
        Ok(chosen)
    }

    /// Attempts in flight that leave from an address, or may.
    pub(super) fn in_flight(&self, source: &Source) -> usize {
        self.counts.get(&source.scope).map_or(0, |count| count.in_flight)
    }

    /// Why nothing more may leave from an address; none: it may. `is_warm`: a connection from there waits for more.
    fn full(&mut self, now: Timestamp, source: &Source, is_warm: bool) -> Option<Full> {
        let count = self.counts.get(&source.scope);
        if count.map_or(0, |count| count.in_flight) >= source.outgoing.concurrency.unwrap_or(usize::MAX) {
            return Some(Full { until: None });
        }
        if let Some(from) = count.and_then(|count| count.unconnected).filter(|from| !is_warm && *from > now) {
            return Some(Full { until: Some(from) });
        }
        let next = self.meters.next(now, &source.scope, source.outgoing.messages_rate?);
        (next > now).then_some(Full { until: Some(next) })
    }

    /// A line waits until there is room for it.
    pub(super) fn wait(&mut self, now: Timestamp, site: &Site, all: &[Source]) {
        for source in all {
            if self.full(now, source, false).is_some() {
                self.count(source).blocked.insert(site.clone());
            }
        }
    }

    /// See `Meters::forgotten`.
    pub(super) fn forgotten(&mut self) -> u64 {
        self.meters.forgotten()
    }

    /// An attempt starts, and may leave from these.
    pub(super) fn start(&mut self, now: Timestamp, chosen: &[Source]) {
        self.turns = self.turns.wrapping_add(1);
        for source in chosen {
            self.count(source).in_flight += 1;
            if let Some(rate) = source.outgoing.messages_rate {
                self.meters.add(now, &source.scope, rate);
            }
        }
    }

    /// It ended. `none_before`: from this address no connection may be made before this time.
    pub(super) fn end(&mut self, chosen: &[Source], none_before: Option<(IpAddr, Timestamp)>) {
        for source in chosen {
            let Some(count) = self.counts.get_mut(&source.scope) else { continue };
            count.in_flight = count.in_flight.saturating_sub(1);
            if let Some((_, until)) = none_before.filter(|(ip, _)| *ip == source.ip) {
                count.unconnected = Some(until);
            }
            self.freed.insert(source.scope.clone());
        }
    }

    /// One that started then came to nothing: its message isn't counted yet.
    pub(super) fn take_back(&mut self, started: Timestamp, chosen: &[Source]) {
        for source in chosen.iter().filter(|source| source.outgoing.messages_rate.is_some()) {
            self.meters.take_back(started, &source.scope);
        }
    }

    /// Some of the lines that waited for attempts to end, each in its turn; they have to look whether there is room for them.
    pub(super) fn woken(&mut self, now: Timestamp) -> Vec<Site> {
        let mut woken = Vec::new();
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, scope)) = self.later.pop_first()
        {
            self.freed.insert(scope);
        }
        for scope in std::mem::take(&mut self.freed) {
            let Some(source) = self.counts.get(&scope).map(|count| count.source.clone()) else { continue };
            let full = self.full(now, &source, false);
            let Some(count) = self.counts.get_mut(&scope) else { continue };
            if let Some(until) = full.and_then(|full| full.until).filter(|_| !count.blocked.is_empty()) {
                self.later.insert((until, scope.clone()));
            }
            if full.is_none() {
                woken.extend((0..WOKEN_MAX).map_while(|_| count.wake()));
                if !count.blocked.is_empty() {
                    self.freed.insert(scope.clone());
                }
            }
            if count.in_flight == 0 && count.blocked.is_empty() && count.unconnected.is_none_or(|until| until <= now) {
                self.counts.remove(&scope);
            }
        }
        woken
    }

    /// When `woken` has some.
    pub(super) fn deadline(&self, now: Timestamp) -> Option<Timestamp> {
        if self.freed.is_empty() { self.later.first().map(|(at, _)| *at) } else { Some(now) }
    }

    /// A clock that was set back: until when no connection may be made isn't known any more.
    pub(super) fn clamp(&mut self) {
        self.later.clear();
        for (scope, count) in &mut self.counts {
            count.unconnected = None;
            self.freed.insert(scope.clone());
        }
    }

    fn count(&mut self, source: &Source) -> &mut Count {
        let new = || Count { source: source.clone(), in_flight: 0, unconnected: None, blocked: BTreeSet::new(), last: None };
        let count = self.counts.entry(source.scope.clone()).or_insert_with(new);
        if count.source != *source {
            // Another configuration.
            count.source = source.clone();
        }
        count
    }
}

impl Count {
    /// The line whose turn it is.
    fn wake(&mut self) -> Option<Site> {
        let behind = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.blocked.range((behind, Bound::Unbounded)).next().or_else(|| self.blocked.first()).cloned()?;
        self.blocked.remove(&next);
        self.last = Some(next.clone());
        Some(next)
    }
}
