//! Who waits on disk although nothing is known that he would have to wait for but a place here. State: their ids, by what they wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::mail::{Domain, Origin, QueueId, Site, Timestamp};

/// Ids that are remembered, about 20 bytes each. Mail beyond that comes back at a time, not when there is a place.
const IDS_MAX: usize = 2_000_000;
/// A flow takes as much memory as so many ids.
const FLOW_IDS: usize = 20;

/// What a message waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// That it goes on in this line.
    Line(Site),
    /// That there is room for one more of its origin.
    Room,
    /// The end of a domain's pause, to go on in this line.
    Pause(Domain, Site),
}

/// Messages of an origin that wait for the same; the oldest is next.
pub(super) type Flow = (Wait, Origin);

/// See the module. Ids of messages that went another way meanwhile may be among them.
#[derive(Debug, Default)]
pub(super) struct Away {
    flows: BTreeMap<Wait, BTreeMap<Origin, BTreeSet<QueueId>>>,
    /// How many flows there are.
    count: usize,
    /// How many ids.
    ids: usize,
    /// Flows for which there may be a place.
    open: BTreeSet<Flow>,
    /// Which of them was looked at last.
    last: Option<Flow>,
    /// Sites that are down, for whose sake nobody has to come back before this time.
    resting: BTreeSet<(Timestamp, Site)>,
}

impl Away {
    /// How many flows there are.
    pub(super) fn flows(&self) -> usize {
        self.count
    }

    /// For how many of them there may be a place.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// How many messages wait for a place in this line.
    pub(super) fn waiting_for(&self, site: &Site) -> usize {
        self.flows.get(&Wait::Line(site.clone())).map_or(0, |flows| flows.values().map(BTreeSet::len).sum())
    }

    /// How many wait for the end of a pause to go on in a line; lines that nobody waits for so are left out.
    pub(super) fn paused(&self) -> BTreeMap<Site, usize> {
        let mut paused = BTreeMap::new();
        for (wait, flows) in self.flows.range((Bound::Excluded(Wait::Room), Bound::Unbounded)) {
            if let Wait::Pause(_, site) = wait {
                *paused.entry(site.clone()).or_default() += flows.values().map(BTreeSet::len).sum::<usize>();
            }
        }
        paused
    }

    /// Remembers a message; false if there are too many.
    pub(super) fn put(&mut self, wait: Wait, origin: Origin, id: QueueId) -> bool {
        let is_new = !self.flows.get(&wait).is_some_and(|flows| flows.contains_key(&origin));
        if self.ids + FLOW_IDS * (self.count + usize::from(is_new)) >= IDS_MAX {
            return false;
        }
        let ids = self.flows.entry(wait.clone()).or_default().entry(origin.clone()).or_default();
        self.ids += usize::from(ids.insert(id));
        self.count += usize::from(is_new);
        if !matches!(wait, Wait::Pause(..)) {
            self.open.insert((wait, origin));
        }
        true
    }

    /// A line has one less of this origin.
    pub(super) fn touch(&mut self, site: &Site, origin: &Origin) {
        if self.count == 0 {
            return;
        }
        let wait = Wait::Line(site.clone());
        if self.flows.get(&wait).is_some_and(|flows| flows.contains_key(origin)) {
            self.open.insert((wait, origin.clone()));
        }
    }

    /// Whoever waits for this site may come back.
    pub(super) fn wake(&mut self, site: &Site) {
        if self.count > 0 {
            let wait = Wait::Line(site.clone());
            let origins = self.flows.get(&wait).into_iter().flat_map(BTreeMap::keys);
            self.open.extend(origins.map(|origin| (wait.clone(), origin.clone())));
        }
    }

    /// Nobody has to come back for a site before this time.
    pub(super) fn rest(&mut self, site: &Site, until: Timestamp) {
        self.resting.insert((until, site.clone()));
        let wait = Wait::Line(site.clone());
        for origin in self.flows.get(&wait).into_iter().flat_map(BTreeMap::keys) {
            self.open.remove(&(wait.clone(), origin.clone()));
        }
    }

    /// The same for no site any more.
    pub(super) fn wake_all(&mut self) {
        self.tick(Timestamp::NEVER);
    }

    /// Time goes on.
    pub(super) fn tick(&mut self, now: Timestamp) {
        while let Some((until, _)) = self.resting.first()
            && *until <= now
            && let Some((_, site)) = self.resting.pop_first()
        {
            self.wake(&site);
        }
    }

    /// When a site's rest is over.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// A flow for which there may be a place, each in its turn.
    pub(super) fn next_open(&mut self) -> Option<Flow> {
        let behind = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.open.range((behind, Bound::Unbounded)).next().or_else(|| self.open.first());
        self.last = next.cloned();
        self.last.clone()
    }

    /// There is none until the line has one less of the origin.
    pub(super) fn close(&mut self, flow: &Flow) {
        self.open.remove(flow);
    }

    /// The next of a flow.
    pub(super) fn take(&mut self, flow: &Flow, count_max: usize) -> Vec<QueueId> {
        let Some(flows) = self.flows.get_mut(&flow.0) else { return Vec::new() };
        let Some(ids) = flows.get_mut(&flow.1) else { return Vec::new() };
        let taken: Vec<QueueId> = std::iter::from_fn(|| ids.pop_first()).take(count_max).collect();
        self.ids -= taken.len();
        if ids.is_empty() {
            flows.remove(&flow.1);
            self.count -= 1;
            self.open.remove(flow);
        }
        if flows.is_empty() {
            self.flows.remove(&flow.0);
        }
        taken
    }

    /// One domain's pause, or every pause, is over: whoever waited for that waits for room.
    pub(super) fn resume(&mut self, domain: Option<&Domain>) {
        let over = |wait: &Wait| matches!(wait, Wait::Pause(paused, _) if domain.is_none_or(|domain| domain == paused));
        let waits: Vec<Wait> = self.flows.keys().filter(|wait| over(wait)).cloned().collect();
        for wait in waits {
            for (origin, mut ids) in self.flows.remove(&wait).into_iter().flatten() {
                self.count -= 1;
                self.ids -= ids.len();
                let flows = self.flows.entry(Wait::Room).or_default();
                self.count += usize::from(!flows.contains_key(&origin));
                let waiting = flows.entry(origin.clone()).or_default();
                let before = waiting.len();
                waiting.append(&mut ids);
                self.ids += waiting.len() - before;
                self.open.insert((Wait::Room, origin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Destination;

    fn origin(name: &str) -> Origin {
        Origin::parse(&format!("domain:{name}.test")).unwrap()
    }

    fn site(name: &str) -> Site {
        Site::Own(Destination::Mx(Domain::parse(name).unwrap()))
    }

    fn ids(range: std::ops::Range<u64>) -> Vec<QueueId> {
        range.map(QueueId).collect()
    }

    #[test]
    fn the_oldest_come_first_and_flows_take_turns() {
        let mut away = Away::default();
        let (a, b) = ((Wait::Line(site("a.test")), origin("x")), (Wait::Line(site("a.test")), origin("y")));
        for id in [3, 1, 2, 2] {
            assert!(away.put(a.0.clone(), a.1.clone(), QueueId(id)));
        }
        away.put(b.0.clone(), b.1.clone(), QueueId(9));
        assert_eq!((away.flows(), away.ids), (2, 4));
        assert_eq!([away.next_open(), away.next_open(), away.next_open()], [Some(a.clone()), Some(b.clone()), Some(a.clone())]);
        assert_eq!(away.take(&a, 2), ids(1..3));
        away.close(&a);
        assert_eq!([away.next_open(), away.next_open()], [Some(b.clone()), Some(b.clone())]);
        away.touch(&site("a.test"), &a.1);
        assert_eq!(away.next_open(), Some(a.clone()));
        assert_eq!((away.take(&a, 9), away.take(&b, 9)), (ids(3..4), ids(9..10)));
        assert_eq!((away.flows(), away.ids, away.next_open(), away.flows.len()), (0, 0, None, 0));
    }

    #[test]
    fn a_site_that_is_down_brings_nobody_back_until_its_time_or_its_return() {
        let mut away = Away::default();
        let (a, x, at) = (site("a.test"), origin("x"), Timestamp::from_millis);
        away.put(Wait::Line(a.clone()), x.clone(), QueueId(1));
        away.rest(&a, at(100));
        assert_eq!((away.next_open(), away.deadline()), (None, Some(at(100))));
        away.tick(at(99));
        assert_eq!(away.next_open(), None);
        away.tick(at(100));
        assert!(away.next_open().is_some() && away.deadline().is_none());
        away.rest(&a, at(200));
        away.wake(&a);
        assert!(away.next_open().is_some());
    }

    #[test]
    fn senders_that_nobody_heard_of_before_take_no_more_memory_than_there_is() {
        let mut away = Away::default();
        let put = |away: &mut Away, n: usize| away.put(Wait::Room, origin(&format!("x{n}")), QueueId(n as u64));
        let flows = (0..IDS_MAX).take_while(|n| put(&mut away, *n)).count();
        assert!(flows <= IDS_MAX / FLOW_IDS && flows > IDS_MAX / (2 * FLOW_IDS), "{flows}");
        away.take(&(Wait::Room, origin("x0")), 1);
        assert!(put(&mut away, 0) && !put(&mut away, IDS_MAX));
    }

    #[test]
    fn the_end_of_a_pause_makes_its_mail_wait_for_room() {
        let mut away = Away::default();
        let [one, two] = ["one.test", "two.test"].map(|name| Domain::parse(name).unwrap());
        for (id, domain) in [(1, &one), (2, &two), (3, &one)] {
            away.put(Wait::Pause(domain.clone(), site(domain.as_str())), origin("x"), QueueId(id));
        }
        away.put(Wait::Room, origin("x"), QueueId(3));
        let room = (Wait::Room, origin("x"));
        assert_eq!(away.paused(), BTreeMap::from([(site("one.test"), 2), (site("two.test"), 1)]));
        away.resume(Some(&one));
        assert_eq!((away.flows(), away.ids, away.take(&room, 9)), (2, 3, ids(1..2).into_iter().chain(ids(3..4)).collect()));
        away.resume(None);
        assert_eq!((away.next_open(), away.take(&room, 9), away.flows(), away.ids), (Some(room), ids(2..3), 0, 0));
    }
}
