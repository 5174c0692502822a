//! The lines before all sites, and whose turn it is.
//!
//! Of the lines that may start an attempt, the one whose next message belongs to the origin that has had least of late is served
//! first, and those with fewer in flight before those with more. So neither an origin that sends much nor a site that answers slowly
//! keeps others from their turns. Keys are ordered, never hashed: the same history gives the same turns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::away::Away;
use super::crowd::LOOKS_MAX;
use super::fair::ITEM;
use super::health::{Down, Health, News};
use super::line::{Bounds, Line, Place, Turn, Waiting};
use super::shares::Shares;
use super::sources::{Full, Sources};
use crate::config::{self, Outgoing, Retry, Source};
use crate::mail::{Diagnosis, Message, Meters, Origin, Site, Timestamp};

/// A line this long is never turned away from.
pub(super) const CROWD_MIN: usize = 64;
/// Who is away is looked at again after this time, if there are more than can be looked at in one go.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Lines that are looked at to find one that may have its turn now.
const SCAN_MAX: usize = 64;

/// Sites of one kind, local or remote, share attempts and turns.
#[derive(Debug, Default)]
struct Class {
    turns: BTreeMap<Turn, Site>,
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
    now: Timestamp,
    /// Lines that may start an attempt only later, and when.
    later: BTreeSet<(Timestamp, Site)>,
    meters: Meters<Site>,
    /// What leaves from our own addresses, where that is bounded.
    pub(super) sources: Sources,
    /// What origins have had of late.
    pub(super) shares: Shares,
    /// Who isn't here and waits to be called.
    pub(super) away: Away,
    /// What is known of sites beyond their mail.
    health: Health,
    /// There are, or were, lines that share bounds with others, or whose messages are counted.
    is_bounded: bool,
}

impl Lines {
    pub(super) fn new(attempts_max: usize, concurrency: usize, weights: Vec<config::Share>) -> Self {
        Self {
            lines: BTreeMap::new(),
            local: Class::default(),
            remote: Class::default(),
            remote_last: false,
            counter: 0,
            attempts_max: attempts_max.max(1),
            concurrency: concurrency.max(1),
            now: Timestamp::ZERO,
            later: BTreeSet::new(),
            meters: Meters::default(),
            sources: Sources::default(),
            shares: Shares::new(weights),
            away: Away::default(),
            health: Health::default(),
            is_bounded: false,
        }
    }

    /// Other bounds; what is in flight stays.
    pub(super) fn reconfigure(&mut self, attempts_max: usize, concurrency: usize, weights: Vec<config::Share>) {
        self.shares.reweigh(weights);
        self.attempts_max = attempts_max.max(1);
        self.concurrency = concurrency.max(1);
        // Routes may be others now.
        self.health = Health::default();
        self.away.wake_all();
        let sites: Vec<Site> = self.lines.keys().cloned().collect();
        for site in sites {
            self.turn(&site);
        }
    }

    /// Time goes on: lines that had to wait for it have their turns again.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.now = now;
        self.away.tick(now);
        for site in self.sources.woken(now) {
            self.turn(&site);
        }
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, site)) = self.later.pop_first()
        {
            self.turn(&site);
        }
    }

    /// When a line may start an attempt that may not now, or who is away may come back: for a site that was down, or as far as not all
    /// of them could be looked at.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let later = self.later.first().map(|(at, _)| *at);
        let look = (self.away.open() > LOOKS_MAX).then(|| self.now.plus(LOOK_AGAIN));
        later.into_iter().chain(self.away.deadline()).chain(look).chain(self.sources.deadline(self.now)).min()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn line(&self, site: &Site) -> Option<&Line> {
        self.lines.get(site)
    }

    /// Sites with mail, and those that couldn't be reached of late; some twice.
    pub(super) fn known(&self) -> impl Iterator<Item = &Site> {
        self.lines.keys().chain(self.health.sites())
    }

    /// A site, and the parts of it that are set apart because of the addresses that they leave from.
    pub(super) fn parts(&self, site: &Site) -> Vec<Site> {
        let first = Site::From(Arc::new(site.clone()), "".into());
        let is_part = |part: &&Site| matches!(part, Site::From(whole, _) if **whole == *site);
        let lines = self.lines.range(first.clone()..).map(|(part, _)| part).take_while(is_part);
        let parts: BTreeSet<Site> = lines.chain(self.health.from(first).take_while(is_part)).cloned().collect();
        std::iter::once(site.clone()).chain(parts).collect()
    }

    /// When a site's rate allows the next message.
    pub(super) fn next_message(&mut self, site: &Site) -> Option<Timestamp> {
        let rate = self.lines.get(site)?.bounds.outgoing.messages_rate?;
        Some(self.meters.next(self.now, site.whole(), rate))
    }

    /// See `Meters::forgotten`.
    pub(super) fn forgotten(&mut self) -> u64 {
        self.meters.forgotten() + self.sources.forgotten()
    }

    /// Attempts in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.local.in_flight + self.remote.in_flight
    }

    /// Every site with what waits for it and what is in flight, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Site, usize, usize)> {
        self.lines.iter().map(|(site, line)| (site, line.len(), line.in_flight()))
    }

    /// Puts a message into a line: where it stood before, or behind all of its origin that are as urgent.
    pub(super) fn join(
        &mut self,
        site: &Site,
        bounds: impl Into<Bounds>,
        waiting: Waiting,
        message: &Message,
        before: Option<Place>,
    ) -> Place {
        self.counter += 1;
        let place = before.unwrap_or_else(|| Place::new(message, self.counter));
        let weight = self.shares.join(&place.origin);
        let line = self.lines.entry(site.clone()).or_insert_with(Line::new);
        line.bounds = bounds.into();
        self.is_bounded |= !line.bounds.sources.is_empty() || line.bounds.outgoing.messages_rate.is_some();
        line.joined(self.now, &place.origin);
        line.insert(&place, weight, waiting);
        self.turn(site);
        place
    }

    /// Takes a message out of a line.
    pub(super) fn leave(&mut self, site: &Site, place: &Place) {
        if let Some(line) = self.lines.get_mut(site)
            && line.remove(place).is_some()
        {
            self.shares.leave(&place.origin);
            self.away.touch(site, &place.origin);
            self.turn(site);
        }
    }

    /// The next message to be attempted; counted as in flight from here on. Local and remote take turns.
    /// With the addresses that it may leave from, if they are bounded.
    pub(super) fn take(&mut self) -> Option<(Site, Place, Waiting, Vec<Source>)> {
        if self.in_flight() >= self.attempts_max {
            return None;
        }
        let first = !self.remote_last;
        let (remote, site, sources) = loop {
            let (remote, site) = [first, !first].into_iter().find_map(|remote| Some((remote, self.next_site(remote)?)))?;
            match self.room(&site) {
                Ok(sources) => break (remote, site, sources),
                // Another line has taken what room there was.
                Err(_) => self.turn(&site),
            }
        };
        let line = self.lines.get_mut(&site)?;
        let (place, waiting) = line.pop()?;
        line.leaves(&sources);
        self.sources.start(self.now, &sources);
        line.flights.begin(self.now);
        if let Some((_, time)) = line.stamp.take() {
            self.shares.served(time);
        }
        if let Some(rate) = line.bounds.outgoing.messages_rate.filter(|_| !place.is_notice()) {
            self.meters.add(self.now, site.whole(), rate);
        }
        self.shares.start(&place.origin);
        self.away.touch(&site, &place.origin);
        self.class(remote).in_flight += 1;
        self.remote_last = remote;
        self.turn(&site);
        Some((site, place, waiting, sources))
    }

    /// The addresses that a line's next message may leave from, if they are bounded; or why there is no room for it within the bounds that
    /// the line shares with others. No bound holds notices up.
    fn room(&mut self, site: &Site) -> Result<Vec<Source>, Full> {
        let Some(line) = self.lines.get(site).filter(|line| !line.has_notice()) else { return Ok(Vec::new()) };
        let Outgoing { concurrency, messages_rate, .. } = line.bounds.outgoing;
        if self.is_bounded && self.in_flight_at(site.whole()) >= concurrency.unwrap_or(usize::MAX).min(self.concurrency) {
            return Err(Full { until: None });
        }
        if let Some(rate) = messages_rate {
            let next = self.meters.next(self.now, site.whole(), rate);
            if next > self.now {
                return Err(Full { until: Some(next) });
            }
        }
        self.sources.choose(self.now, &line.bounds.sources, &line.recent)
    }

    /// Attempts under way to a remote site with all its parts; none to others, which have no parts.
    pub(super) fn in_flight_at(&self, whole: &Site) -> usize {
        if !whole.is_remote() {
            return 0;
        }
        self.parts(whole).iter().filter_map(|part| self.lines.get(part)).map(|line| line.in_flight()).sum()
    }

    /// An attempt has ended that may have left from these; see `Sources::end`.
    pub(super) fn has_left(&mut self, site: &Site, sources: &[Source], none_before: Option<(IpAddr, Timestamp)>) {
        self.sources.end(sources, none_before);
        if let Some(line) = self.lines.get_mut(site).filter(|_| none_before.is_none()) {
            line.has_left(self.now, sources);
        }
    }

    /// What an admin bounds at a site.
    pub(super) fn bounds(&self, site: &Site) -> Bounds {
        self.lines.get(site).map(|line| line.bounds.clone()).unwrap_or_default()
    }

    /// A message that was started then stands in line again, because the attempt came to nothing: it isn't counted yet.
    pub(super) fn take_back(&mut self, started: Timestamp, site: &Site, place: &Place, sources: &[Source]) {
        if !place.is_notice() {
            self.meters.take_back(started, site.whole());
            self.sources.take_back(started, sources);
        }
    }

    /// An attempt at the site has ended that began then. `connections`: none may be made before this time, and that it would have wanted one.
    pub(super) fn finish(
        &mut self,
        site: &Site,
        place: &Place,
        began: Timestamp,
        took: Option<Duration>,
        news: &News,
        connections: Option<Timestamp>,
    ) {
        self.shares.end(&place.origin);
        if let Some(line) = self.lines.get_mut(site) {
            line.learn(self.now, began, took, news, self.concurrency);
            if let Some(until) = connections {
                line.connected = Some((line.in_flight(), until));
            }
            let class = self.class(site.is_remote());
            class.in_flight = class.in_flight.saturating_sub(1);
            self.turn(site);
            if self.is_bounded {
                self.parts(site.whole()).iter().for_each(|part| self.turn(part));
            }
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
        self.away.wake(site);
        self.turn(site);
        Some(down)
    }

    /// Nothing is held against a site.
    pub(super) fn forgive(&mut self, site: &Site) {
        self.health.forgive(site);
        self.away.wake(site);
        self.turn(site);
    }

    /// A clock that was set back: nothing is put off beyond `latest`, and until when no connection may be made isn't known any more.
    pub(super) fn clamp(&mut self, now: Timestamp, latest: Timestamp) {
        self.now = now;
        self.health.clamp(latest);
        self.away.wake_all();
        self.sources.clamp();
        for line in self.lines.values_mut() {
            line.connected = None;
            line.flights.clamp(now);
        }
        for (_, site) in std::mem::take(&mut self.later) {
            self.turn(&site);
        }
    }

    /// The messages that wait for a site.
    pub(super) fn waiting(&self, site: &Site) -> Vec<Waiting> {
        self.lines.get(site).map(|line| line.iter().cloned().collect()).unwrap_or_default()
    }

    /// How many of an origin wait for a site.
    pub(super) fn waiting_of(&self, site: &Site, origin: &Origin) -> usize {
        self.lines.get(site).map_or(0, |line| line.len_of(origin))
    }

    /// How many wait for a site.
    pub(super) fn waiting_at(&self, site: &Site) -> usize {
        self.lines.get(site).map_or(0, Line::len)
    }

    /// The site of a class whose turn it is. One beyond its first attempt leaves room for others: it may have twice as many in flight
    /// as are still free. So does an origin: the last sixteenth is for those who have none in flight.
    fn next_site(&self, remote: bool) -> Option<Site> {
        let class = if remote { &self.remote } else { &self.local };
        // A quarter is kept for each class, so that slow remote hosts never stop local delivery, nor a slow disk the rest.
        let share = if self.attempts_max < 2 { 0 } else { (self.attempts_max / 4).max(1) };
        let free =
            (self.attempts_max - share).saturating_sub(class.in_flight).min(self.attempts_max.saturating_sub(self.in_flight()));
        let kept = self.attempts_max / 16;
        let mut turns = class.turns.values().take(SCAN_MAX);
        let found = turns.find(|site| {
            self.lines.get(site).is_some_and(|line| {
                let newcomer = line.first().is_none_or(|origin| self.shares.in_flight(origin) == 0);
                free > 0 && (line.in_flight() == 0 || line.in_flight() < 2 * free) && (newcomer || free > kept)
            })
        });
        found.cloned()
    }

    fn class(&mut self, remote: bool) -> &mut Class {
        if remote { &mut self.remote } else { &mut self.local }
    }

    /// Brings a line's turn up to date after a change; a line without anything is dropped.
    fn turn(&mut self, site: &Site) {
        let full = if self.is_bounded { self.room(site).err() } else { None };
        let Some(line) = self.lines.get_mut(site) else { return };
        let class = if site.is_remote() { &mut self.remote } else { &mut self.local };
        let old = line.turn.take();
        if let Some(turn) = old {
            class.turns.remove(&turn);
        }
        let connections_from = line.connected.map(|(_, until)| until).filter(|until| *until > self.now);
        if line.len() == 0 && line.in_flight() == 0 {
            // Whoever joins meanwhile has to know that no connection can be had.
            match connections_from {
                Some(until) => _ = self.later.insert((until, site.clone())),
                None => _ = self.lines.remove(site),
            }
            return;
        }
        let Some(origin) = line.first() else { return };
        let notice = line.has_notice();
        let probed = self.health.is_probed(site);
        let limit = line.limit(self.now, self.concurrency, notice).min(if probed { 1 } else { usize::MAX });
        if site.is_remote() && line.in_flight() >= limit {
            // Nothing else than time brings a line back whose connections are used up, or whose attempts hang that are measured, or leave
            // room for letters.
            let waits = [connections_from, line.measures_until(self.now), line.company_until(self.now)];
            for until in waits.into_iter().flatten() {
                self.later.insert((until, site.clone()));
            }
            return;
        }
        if let Some(full) = full {
            self.sources.wait(self.now, site, &line.bounds.sources);
            self.later.extend(full.until.map(|until| (until, site.clone())));
            return;
        }
        let time = match &line.stamp {
            Some((stamped, time)) if stamped == origin => *time,
            _ => self.shares.stamp(origin),
        };
        self.counter += 1;
        let turn = (time + line.in_flight() as u64 * ITEM, line.in_flight(), self.counter);
        // Who waits already keeps his place among equals.
        let turn = old.filter(|old| old.0 == turn.0 && old.1 == turn.1).unwrap_or(turn);
        line.stamp = Some((origin.clone(), time));
        line.turn = Some(turn);
        class.turns.insert(turn, site.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Destination, Domain, Priority, Rate, Request};
    use crate::queue::tests::message;

    fn mx(name: &str) -> Site {
        Site::Own(Destination::Mx(Domain::parse(name).unwrap()))
    }

    fn local(name: &str) -> Site {
        Site::Own(Destination::Local(Domain::parse(name).unwrap()))
    }

    fn letter(id: u64, from: &str, priority: i8) -> Message {
        let request = Request { priority: Priority::new(priority), ..Request::default() };
        Message { request: request.boxed(), ..message(id, from, &[]) }
    }

    fn join(lines: &mut Lines, site: &Site, outgoing: Outgoing, message: &Message) -> Place {
        let Site::Own(destination) = site else { panic!("{site}") };
        let waiting = Waiting { id: message.id, destination: destination.clone() };
        lines.join(site, outgoing, waiting, message, None)
    }

    fn fill_from(lines: &mut Lines, from: &str, site: &Site, ids: std::ops::Range<u64>) {
        for id in ids {
            join(lines, site, Outgoing::default(), &letter(id, from, 0));
        }
    }

    fn fill(lines: &mut Lines, site: &Site, ids: std::ops::Range<u64>) {
        fill_from(lines, "s@x.test", site, ids);
    }

    fn take(lines: &mut Lines) -> Option<u64> {
        lines.take().map(|(_, _, waiting, _)| waiting.id.0)
    }

    fn take_all(lines: &mut Lines) -> Vec<u64> {
        std::iter::from_fn(|| take(lines)).collect()
    }

    fn finish(lines: &mut Lines, site: &Site) {
        let began = lines.lines[site].flights.oldest();
        lines.finish(site, &Place::new(&letter(0, "s@x.test", 0), 0), began, None, &News::Reached, None);
    }

    #[test]
    fn the_more_urgent_come_first_and_equals_in_their_order() {
        let mut lines = Lines::new(100, 100, Vec::new());
        for (id, priority) in [(1, 0), (2, -4), (3, 4), (4, 0), (5, 4)] {
            join(&mut lines, &local("a.test"), Outgoing::default(), &letter(id, "s@x.test", priority));
        }
        assert_eq!(take_all(&mut lines), [3, 5, 1, 4, 2]);
    }

    #[test]
    fn destinations_take_turns_and_each_line_keeps_its_order() {
        let mut lines = Lines::new(100, 2, Vec::new());
        fill(&mut lines, &mx("a.test"), 0..5);
        fill(&mut lines, &mx("b.test"), 5..7);
        assert_eq!(take_all(&mut lines), [0, 5, 1, 6], "two each, in turn");
        finish(&mut lines, &mx("a.test"));
        assert_eq!(take_all(&mut lines), [2]);
    }

    #[test]
    fn a_destination_with_nothing_in_flight_comes_before_one_with_some() {
        let mut lines = Lines::new(100, 20, Vec::new());
        fill(&mut lines, &mx("slow.test"), 0..50);
        assert_eq!(take_all(&mut lines).len(), 2);
        finish(&mut lines, &mx("slow.test"));
        fill(&mut lines, &mx("new.test"), 50..51);
        assert_eq!(take(&mut lines), Some(50));
    }

    /// Attempts begin as they may, and each in turn takes a millisecond, for so long; how many there were at a time at the end.
    fn run_near(lines: &mut Lines, site: &Site, millis: u64) -> usize {
        for _ in 0..millis {
            while lines.take().is_some() {}
            let place = Place::new(&letter(0, "s@x.test", 0), 0);
            let began = lines.lines[site].flights.oldest();
            lines.finish(site, &place, began, Some(Duration::from_millis(1)), &News::Reached, None);
            lines.tick(lines.now().plus(Duration::from_millis(1)));
        }
        while lines.take().is_some() {}
        lines.in_flight()
    }

    #[test]
    fn bulk_for_a_near_site_leaves_room_while_others_send_letters() {
        let (mut lines, site) = (Lines::new(100, 20, Vec::new()), mx("near.test"));
        lines.tick(Timestamp::from_millis(1_000_000));
        fill(&mut lines, &site, 0..5000);
        let alone = run_near(&mut lines, &site, 300);
        assert!(alone > 5, "{alone}");
        fill_from(&mut lines, "letter@y.test", &site, 9000..9001);
        assert_eq!(run_near(&mut lines, &site, 30), 1);
        for n in 0..10 {
            fill_from(&mut lines, "letter@y.test", &site, 9001 + n..9002 + n);
            assert_eq!(take(&mut lines), Some(9001 + n), "at once");
            assert_eq!(run_near(&mut lines, &site, 100), 1, "the letters go on");
        }
        assert!(run_near(&mut lines, &site, 1300) >= alone, "and nothing was forgotten meanwhile");
    }

    #[test]
    fn an_attempt_that_hangs_is_no_reason_for_bulk_to_wait_beside_letters() {
        let (mut lines, site) = (Lines::new(100, 20, Vec::new()), mx("near.test"));
        lines.tick(Timestamp::from_millis(1_000_000));
        fill(&mut lines, &site, 0..5000);
        run_near(&mut lines, &site, 300);
        fill_from(&mut lines, "letter@y.test", &site, 9000..9001);
        assert_eq!(run_near(&mut lines, &site, 30), 1, "of the bulk");
        // It hangs, while letters go on.
        let begun = lines.now();
        let mut millis = 0;
        let next = loop {
            millis += 1;
            lines.tick(begun.plus(Duration::from_millis(millis)));
            fill_from(&mut lines, "letter@y.test", &site, 9000 + millis..9001 + millis);
            match take_all(&mut lines).iter().find(|id| **id < 9000) {
                Some(next) => break *next,
                None => assert!(lines.deadline().is_some_and(|at| at <= begun.plus(Duration::from_millis(200)))),
            }
        };
        assert!((100..=200).contains(&millis), "{millis}: {next}");
    }

    #[test]
    fn a_distant_site_gets_as_many_attempts_as_there_may_be_whoever_sends() {
        let (mut lines, site) = (Lines::new(100, 20, Vec::new()), mx("far.test"));
        lines.tick(Timestamp::from_millis(1_000_000));
        for sender in 0..20 {
            fill_from(&mut lines, &format!("s@x{sender}.test"), &site, 1000 * sender..1000 * sender + 200);
        }
        let place = Place::new(&letter(0, "s@x0.test", 0), 0);
        for n in 0..2000 {
            if n % 20 == 0 {
                fill_from(&mut lines, &format!("s@y{n}.test"), &site, 100_000 + n..100_001 + n);
            }
            take_all(&mut lines);
            lines.finish(&site, &place, lines.now(), Some(Duration::from_millis(100)), &News::Reached, None);
            lines.tick(lines.now().plus(Duration::from_millis(5)));
        }
        take_all(&mut lines);
        assert_eq!(lines.in_flight(), 20);
    }

    #[test]
    fn slow_destinations_leave_attempts_for_others() {
        let mut lines = Lines::new(40, 20, Vec::new());
        for n in 0..10 {
            fill(&mut lines, &mx(&format!("slow{n}.test")), 100 * n..100 * n + 50);
        }
        let taken = take_all(&mut lines).len();
        assert!((20..30).contains(&taken), "{taken} of 30");
        fill(&mut lines, &mx("quick.test"), 5000..5001);
        assert_eq!(take(&mut lines), Some(5000));
        fill(&mut lines, &local("home.test"), 6000..6020);
        assert!(take_all(&mut lines).len() >= 5, "local mail has its share");
        assert!(lines.in_flight() <= 40);
    }

    #[test]
    fn one_attempt_at_a_time_still_serves_both_classes() {
        let mut lines = Lines::new(1, 20, Vec::new());
        fill(&mut lines, &mx("a.test"), 0..9);
        fill(&mut lines, &local("b.test"), 10..19);
        let mut remote = 0;
        for _ in 0..8 {
            let (site, ..) = lines.take().unwrap();
            assert!(lines.take().is_none());
            remote += usize::from(site.is_remote());
            finish(&mut lines, &site);
        }
        assert_eq!(remote, 4);
    }

    #[test]
    fn empty_lines_are_dropped_and_places_can_be_given_up() {
        let mut lines = Lines::new(10, 2, Vec::new());
        let place = join(&mut lines, &mx("a.test"), Outgoing::default(), &letter(1, "s@x.test", 0));
        lines.leave(&mx("a.test"), &place);
        assert!(lines.take().is_none());
        fill(&mut lines, &mx("a.test"), 2..3);
        lines.take().unwrap();
        finish(&mut lines, &mx("a.test"));
        assert_eq!(lines.iter().count(), 0);
        assert!(lines.remote.turns.is_empty());
    }

    #[test]
    fn a_single_letter_has_the_next_turn_at_the_same_site_and_elsewhere() {
        let mut lines = Lines::new(40, 20, Vec::new());
        fill_from(&mut lines, "bulk@b.test", &mx("same.test"), 0..1000);
        for n in 0..200u64 {
            fill_from(&mut lines, "bulk@b.test", &mx(&format!("d{n}.test")), 1000 + n..1001 + n);
        }
        let started = take_all(&mut lines).len();
        assert!((20..=28).contains(&started), "{started}: the rest is kept for newcomers");
        fill_from(&mut lines, "ann@a.test", &mx("other.test"), 5000..5001);
        assert_eq!(take(&mut lines), Some(5000), "though all that the bulk may have is in flight");
        fill_from(&mut lines, "kim@k.test", &mx("same.test"), 6000..6001);
        lines.finish(&mx("same.test"), &Place::new(&letter(0, "bulk@b.test", 0), 0), lines.now(), None, &News::Reached, None);
        let next: Vec<u64> = std::iter::from_fn(|| take(&mut lines)).take(2).collect();
        assert!(next.contains(&6000), "{next:?}");
    }

    #[test]
    fn a_rate_holds_mail_up_and_no_notice() {
        let mut lines = Lines::new(40, 20, Vec::new());
        let a = mx("a.test");
        let outgoing =
            Outgoing { messages_rate: Some(Rate { count: 2, period: Duration::from_secs(60) }), ..Outgoing::default() };
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        lines.tick(at(100));
        for id in 0..5 {
            join(&mut lines, &a, outgoing, &letter(id, "s@x.test", 0));
            // Quick enough to say that it isn't the concurrency that bounds it.
            if take(&mut lines).is_some() {
                finish(&mut lines, &a);
            }
        }
        assert_eq!((lines.iter().next(), lines.deadline()), (Some((&a, 3, 0)), Some(at(160))));
        join(&mut lines, &a, outgoing, &letter(9, "", 0));
        assert_eq!(take_all(&mut lines), [9]);
        finish(&mut lines, &a);
        lines.tick(at(160));
        assert_eq!(take_all(&mut lines), [2, 3]);
        assert_eq!(lines.deadline(), Some(at(220)));
    }

    #[test]
    fn the_memory_of_a_rate_outlives_the_line() {
        let mut lines = Lines::new(40, 20, Vec::new());
        let outgoing =
            Outgoing { messages_rate: Some(Rate { count: 1, period: Duration::from_secs(60) }), ..Outgoing::default() };
        for id in 0..2 {
            join(&mut lines, &mx("a.test"), outgoing, &letter(id, "s@x.test", 0));
            assert_eq!(take(&mut lines), [Some(0), None][id as usize]);
            if id == 0 {
                finish(&mut lines, &mx("a.test"));
                assert_eq!(lines.iter().count(), 0);
            }
        }
    }

    #[test]
    fn without_new_connections_a_line_goes_on_with_those_that_there_are() {
        let mut lines = Lines::new(40, 20, Vec::new());
        let a = mx("a.test");
        let until = Timestamp::from_millis(60_000);
        fill(&mut lines, &a, 0..10);
        assert_eq!(take_all(&mut lines), [0, 1]);
        let place = Place::new(&letter(0, "s@x.test", 0), 0);
        lines.finish(&a, &place, lines.now(), None, &News::Nothing, Some(until));
        assert_eq!(take(&mut lines), None, "one is in flight, and no more connections are allowed");
        finish(&mut lines, &a);
        assert_eq!(take_all(&mut lines), [2], "its connection is free");
        assert_eq!(lines.deadline(), Some(until));
        lines.tick(until);
        assert!(take_all(&mut lines).len() > 1);
    }

    #[test]
    fn the_only_message_of_a_line_waits_for_its_connection_too() {
        let mut lines = Lines::new(40, 20, Vec::new());
        let a = mx("a.test");
        let until = Timestamp::from_millis(60_000);
        fill(&mut lines, &a, 0..1);
        assert_eq!(take(&mut lines), Some(0));
        lines.finish(&a, &Place::new(&letter(0, "s@x.test", 0), 0), lines.now(), None, &News::Nothing, Some(until));
        fill(&mut lines, &a, 0..1);
        assert_eq!((take(&mut lines), lines.deadline()), (None, Some(until)));
        lines.tick(until);
        assert_eq!(take(&mut lines), Some(0));
        finish(&mut lines, &a);
        assert_eq!(lines.iter().count(), 0);
    }
}
