//! Lines: a line of messages before each site, first in, first out among equally urgent ones, and whose turn it is.
//!
//! Of the lines that may start an attempt, the one with the fewest in flight is served first, and among equals the one that
//! has waited longest for its turn. So a site that answers slowly holds what it has, and the others take turns with the
//! rest. Keys are ordered, never hashed: the same history gives the same turns.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::health::{Down, Health, News};
use crate::config::Retry;
use crate::mail::{Destination, Diagnosis, Priority, QueueId, Site, Timestamp};

/// A line this long is never turned away from.
const CROWD_MIN: usize = 64;
/// The shortest and the longest time for which a message is sent away from a crowded line.
const AWAY_MIN: Duration = Duration::from_secs(1);
const AWAY_MAX: Duration = Duration::from_secs(60);

/// A message's place in a line: the more urgent first (RFC 6710), and among equals the one that came first.
pub(super) type Place = (Reverse<Priority>, u64);
/// Attempts at a time at a site that was not reached yet: a black hole holds no more than these.
const LIMIT_UNKNOWN: usize = 2;
/// Attempts at a time once it was.
const LIMIT_KNOWN: usize = 5;

/// Who waits: the recipients of a message that share a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) id: QueueId,
    pub(super) destination: Destination,
}

/// Those who wait for one site.
#[derive(Debug)]
struct Line {
    waiting: BTreeMap<Place, Waiting>,
    in_flight: usize,
    /// How many may be: grows while attempts reach the site, shrinks when they don't.
    limit: usize,
    /// An attempt reached it since it was opened.
    known: bool,
    /// Attempts that did since the limit changed last.
    reached: usize,
    /// Its key among the turns, while it may start an attempt.
    turn: Option<(usize, u64)>,
    /// Attempts that ended since it was opened.
    ended: u32,
    opened: Timestamp,
    /// Messages that were sent away have been told to come back up to this time.
    away_until: Timestamp,
}

/// Sites of one kind, local or remote, share attempts and turns.
#[derive(Debug, Default)]
struct Class {
    turns: BTreeMap<(usize, u64), Site>,
    in_flight: usize,
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines {
    lines: BTreeMap<Site, Line>,
    local: Class,
    remote: Class,
    /// Whether a remote site had the last turn.
    remote_last: bool,
    counter: u64,
    attempts_max: usize,
    concurrency: usize,
    /// What is known of sites beyond their mail.
    health: Health,
}

impl Lines {
    pub(super) fn new(attempts_max: usize, concurrency: usize) -> Self {
        Self {
            lines: BTreeMap::new(),
            local: Class::default(),
            remote: Class::default(),
            remote_last: false,
            counter: 0,
            attempts_max: attempts_max.max(1),
            concurrency: concurrency.max(1),
            health: Health::default(),
        }
    }

    /// Other bounds; what is in flight stays.
    pub(super) fn reconfigure(&mut self, attempts_max: usize, concurrency: usize) {
        self.attempts_max = attempts_max.max(1);
        self.concurrency = concurrency.max(1);
        // Routes may be others now.
        self.health = Health::default();
        let sites: Vec<Site> = self.lines.keys().cloned().collect();
        for site in sites {
            self.turn(&site);
        }
    }

    /// Attempts in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.local.in_flight + self.remote.in_flight
    }

    /// Every site with what waits for it and what is in flight, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Site, usize, usize)> {
        self.lines.iter().map(|(site, line)| (site, line.waiting.len(), line.in_flight))
    }

    /// Puts a message at the end of a line, behind all that are as urgent.
    pub(super) fn join(&mut self, now: Timestamp, site: &Site, waiting: Waiting, priority: Priority) -> Place {
        self.counter += 1;
        let place = (Reverse(priority), self.counter);
        if !self.lines.contains_key(site) {
            self.lines.insert(site.clone(), Line::new(now));
        }
        if let Some(line) = self.lines.get_mut(site) {
            line.waiting.insert(place, waiting);
            if line.turn.is_none() {
                self.turn(site);
            }
        }
        place
    }

    /// Takes a message out of a line.
    pub(super) fn leave(&mut self, site: &Site, place: Place) {
        if let Some(line) = self.lines.get_mut(site) {
            line.waiting.remove(&place);
            if line.waiting.is_empty() {
                self.turn(site);
            }
        }
    }

    /// The next message to be attempted; counted as in flight from here on. Local and remote take turns.
    pub(super) fn take(&mut self) -> Option<(Site, Waiting)> {
        if self.in_flight() >= self.attempts_max {
            return None;
        }
        let first = !self.remote_last;
        let remote = [first, !first].into_iter().find(|remote| self.may_start(*remote))?;
        let site = self.class(remote).turns.first_key_value()?.1.clone();
        let line = self.lines.get_mut(&site)?;
        let (_, waiting) = line.waiting.pop_first()?;
        line.in_flight += 1;
        self.class(remote).in_flight += 1;
        self.remote_last = remote;
        self.turn(&site);
        Some((site, waiting))
    }

    /// An attempt at the site has ended.
    pub(super) fn finish(&mut self, site: &Site, news: &News) {
        if let Some(line) = self.lines.get_mut(site) {
            line.in_flight = line.in_flight.saturating_sub(1);
            line.ended = line.ended.saturating_add(1);
            line.learn(news, self.concurrency);
            let class = self.class(site.is_remote());
            class.in_flight = class.in_flight.saturating_sub(1);
            self.turn(site);
        }
    }

    /// Whether the site is down, and not to be tried now.
    pub(super) fn down(&self, now: Timestamp, site: &Site) -> Option<&Down> {
        self.health.down(now, site)
    }

    /// See `Health::is_probed`.
    pub(super) fn is_probed(&self, site: &Site) -> bool {
        self.health.is_probed(site)
    }

    /// See `Health::failed`.
    pub(super) fn failed(&mut self, now: Timestamp, site: &Site, why: Diagnosis, retry: &Retry, random: f64) -> Option<Down> {
        let down = self.health.failed(now, site, why, retry, random);
        self.turn(site);
        down
    }

    /// See `Health::reached`.
    pub(super) fn reached(&mut self, site: &Site) -> Option<Down> {
        let down = self.health.reached(site)?;
        self.turn(site);
        Some(down)
    }

    /// Nothing is held against a site.
    pub(super) fn forgive(&mut self, site: &Site) {
        self.health.forgive(site);
        self.turn(site);
    }

    /// A clock that was set back: nothing is put off beyond `latest`.
    pub(super) fn clamp(&mut self, latest: Timestamp) {
        self.health.clamp(latest);
    }

    /// The messages that wait for a site.
    pub(super) fn waiting(&self, site: &Site) -> Vec<Waiting> {
        self.lines.get(site).map(|line| line.waiting.values().cloned().collect()).unwrap_or_default()
    }

    /// When a message for a crowded line should come back, if it is crowded: longer than the `room` that is left for all
    /// others. Those who come back are spread over the time that the line needs at its pace.
    pub(super) fn crowded(&self, now: Timestamp, site: &Site, room: usize) -> Option<Timestamp> {
        let line = self.lines.get(site).filter(|line| line.waiting.len() >= room.max(CROWD_MIN))?;
        let waiting = u32::try_from(line.waiting.len()).unwrap_or(u32::MAX);
        let needed = line.pace(now).saturating_mul(waiting).clamp(AWAY_MIN, AWAY_MAX);
        Some(now.plus(needed).max(line.away_until.min(now.plus(AWAY_MAX))))
    }

    /// Somebody was sent away from the line until `until`: the next one comes back a little later.
    pub(super) fn sent_away(&mut self, now: Timestamp, site: &Site, until: Timestamp) {
        if let Some(line) = self.lines.get_mut(site) {
            line.away_until = until.plus(line.pace(now));
        }
    }

    /// Whether the first in turn of a class may start. A site beyond its first attempt leaves room for others: it may
    /// have twice as many in flight as are still free.
    fn may_start(&self, remote: bool) -> bool {
        let class = if remote { &self.remote } else { &self.local };
        // A quarter is kept for each class, so that slow remote hosts never stop local delivery, nor a slow disk the rest.
        let share = if self.attempts_max < 2 { 0 } else { (self.attempts_max / 4).max(1) };
        let free =
            (self.attempts_max - share).saturating_sub(class.in_flight).min(self.attempts_max.saturating_sub(self.in_flight()));
        class.turns.first_key_value().is_some_and(|((in_flight, _), _)| free > 0 && (*in_flight == 0 || *in_flight < 2 * free))
    }

    fn class(&mut self, remote: bool) -> &mut Class {
        if remote { &mut self.remote } else { &mut self.local }
    }

    /// Brings a line's turn up to date after a change; a line without anything is dropped.
    fn turn(&mut self, site: &Site) {
        let Some(line) = self.lines.get_mut(site) else { return };
        let limit = if self.health.is_probed(site) { 1 } else { line.limit.min(self.concurrency) };
        let class = if site.is_remote() { &mut self.remote } else { &mut self.local };
        let old = line.turn.take();
        if let Some(turn) = old {
            class.turns.remove(&turn);
        }
        if line.waiting.is_empty() && line.in_flight == 0 {
            self.lines.remove(site);
        } else if !line.waiting.is_empty() && (!site.is_remote() || line.in_flight < limit) {
            self.counter += 1;
            let turn = (line.in_flight, self.counter);
            line.turn = Some(turn);
            class.turns.insert(turn, site.clone());
        }
    }
}

impl Line {
    fn new(now: Timestamp) -> Self {
        Self {
            waiting: BTreeMap::new(),
            in_flight: 0,
            limit: LIMIT_UNKNOWN,
            known: false,
            reached: 0,
            turn: None,
            ended: 0,
            opened: now,
            away_until: Timestamp::ZERO,
        }
    }

    /// One more after as many attempts as are made at a time, half after one that failed.
    fn learn(&mut self, news: &News, limit_max: usize) {
        match news {
            News::Nothing => {}
            News::Unreached(_) => (self.limit, self.reached) = ((self.limit / 2).max(1), 0),
            News::Reached if !self.known => (self.limit, self.reached, self.known) = (LIMIT_KNOWN, 0, true),
            News::Reached => {
                self.reached += 1;
                if self.reached >= self.limit && self.limit < limit_max {
                    (self.limit, self.reached) = (self.limit + 1, 0);
                }
            }
        }
    }

    /// The time from one ended attempt to the next; unknown is slow.
    fn pace(&self, now: Timestamp) -> Duration {
        now.since(self.opened).checked_div(self.ended).unwrap_or(AWAY_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Domain;

    fn mx(name: &str) -> Site {
        Site::Own(Destination::Mx(Domain::parse(name).unwrap()))
    }

    fn local(name: &str) -> Site {
        Site::Own(Destination::Local(Domain::parse(name).unwrap()))
    }

    fn waits(site: &Site, id: u64) -> Waiting {
        let Site::Own(destination) = site else { panic!("{site}") };
        Waiting { id: QueueId(id), destination: destination.clone() }
    }

    fn fill(lines: &mut Lines, site: &Site, ids: std::ops::Range<u64>) {
        for id in ids {
            lines.join(Timestamp::ZERO, site, waits(site, id), Priority::default());
        }
    }

    fn take_all(lines: &mut Lines) -> Vec<(String, u64)> {
        std::iter::from_fn(|| lines.take()).map(|(site, waiting)| (site.to_string(), waiting.id.0)).collect()
    }

    #[test]
    fn the_more_urgent_come_first_and_equals_in_their_order() {
        let mut lines = Lines::new(100, 100);
        for (id, priority) in [(1, 0), (2, -4), (3, 4), (4, 0), (5, 4)] {
            lines.join(Timestamp::ZERO, &local("a.test"), waits(&local("a.test"), id), Priority::new(priority).unwrap());
        }
        let order: Vec<u64> = take_all(&mut lines).into_iter().map(|(_, id)| id).collect();
        assert_eq!(order, [3, 5, 1, 4, 2]);
    }

    #[test]
    fn destinations_take_turns_and_each_line_keeps_its_order() {
        let mut lines = Lines::new(100, 2);
        fill(&mut lines, &mx("a.test"), 0..5);
        fill(&mut lines, &mx("b.test"), 5..7);
        let taken = take_all(&mut lines);
        let ids: Vec<u64> = taken.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, [0, 5, 1, 6], "two each, in turn");
        lines.finish(&mx("a.test"), &News::Reached);
        assert_eq!(take_all(&mut lines), [("mx:a.test".to_owned(), 2)]);
    }

    #[test]
    fn a_destination_with_nothing_in_flight_comes_before_one_with_some() {
        let mut lines = Lines::new(100, 20);
        fill(&mut lines, &mx("slow.test"), 0..50);
        assert_eq!(take_all(&mut lines).len(), LIMIT_UNKNOWN);
        lines.finish(&mx("slow.test"), &News::Reached);
        fill(&mut lines, &mx("new.test"), 50..51);
        assert_eq!(lines.take().unwrap().1.id, QueueId(50));
    }

    #[test]
    fn slow_destinations_leave_attempts_for_others() {
        let mut lines = Lines::new(40, 20);
        for n in 0..10 {
            fill(&mut lines, &mx(&format!("slow{n}.test")), 100 * n..100 * n + 50);
        }
        let taken = take_all(&mut lines).len();
        assert!((20..30).contains(&taken), "{taken} of 30");
        fill(&mut lines, &mx("quick.test"), 5000..5001);
        assert_eq!(lines.take().unwrap().1.id, QueueId(5000));
        fill(&mut lines, &local("home.test"), 6000..6020);
        assert!(take_all(&mut lines).len() >= 5, "local mail has its share");
        assert!(lines.in_flight() <= 40);
    }

    #[test]
    fn one_attempt_at_a_time_still_serves_both_classes() {
        let mut lines = Lines::new(1, 20);
        fill(&mut lines, &mx("a.test"), 0..9);
        fill(&mut lines, &local("b.test"), 10..19);
        let mut remote = 0;
        for _ in 0..8 {
            let (site, _) = lines.take().unwrap();
            assert!(lines.take().is_none());
            remote += usize::from(site.is_remote());
            lines.finish(&site, &News::Reached);
        }
        assert_eq!(remote, 4);
    }

    #[test]
    fn empty_lines_are_dropped_and_places_can_be_given_up() {
        let mut lines = Lines::new(10, 2);
        let place = lines.join(Timestamp::ZERO, &mx("a.test"), waits(&mx("a.test"), 1), Priority::default());
        lines.leave(&mx("a.test"), place);
        assert!(lines.take().is_none());
        fill(&mut lines, &mx("a.test"), 2..3);
        lines.take().unwrap();
        lines.finish(&mx("a.test"), &News::Reached);
        assert_eq!(lines.iter().count(), 0);
        assert!(lines.remote.turns.is_empty());
    }

    #[test]
    fn a_crowded_line_sends_newcomers_away_at_its_own_pace() {
        let mut lines = Lines::new(10, 2);
        let a = mx("a.test");
        fill(&mut lines, &a, 0..101);
        let now = Timestamp::from_millis(10_000);
        assert_eq!(lines.crowded(now, &a, 1000), None);
        lines.take().unwrap();
        for _ in 0..100 {
            lines.lines.get_mut(&a).unwrap().ended += 1; // 100 in 10 seconds: 100 ms each
        }
        let first = lines.crowded(now, &a, 50).unwrap();
        assert_eq!(first.since(now), Duration::from_secs(10));
        lines.sent_away(now, &a, first);
        let second = lines.crowded(now, &a, 50).unwrap();
        assert_eq!(second.since(first), Duration::from_millis(100));
        assert!(lines.crowded(now, &mx("b.test"), 0).is_none());
    }
}
