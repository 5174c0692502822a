//! The rules of destinations and fairness, held against a record of what was seen: nothing here knows the scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthouse::config::Outgoing;
use posthouse::event::Event;
use posthouse::mail::{Address, Destination, QueueId, Timestamp};
use posthouse::system::sim::Calling;

use crate::lines::Letter;
use crate::lines_leaving::{Bound, Leaving};
use crate::lines_line::{Counts, Line, Outage, Part, in_window};
use crate::lines_world::{JOINED, LOCAL, PERIOD_MAX, PLACES, Place, Seen, place_of};

/// A line with mail that may go stands still for no longer than this.
const IDLE_MAX: Duration = Duration::from_secs(2);
/// Who waits for less than this may not have been seen by all yet.
const NEWS_TIME: Duration = Duration::from_millis(200);
/// So many of another sender's messages go between two of a sender who has some waiting in the same line.
const PASSED_MAX: u32 = 3;
/// Attempts that fail in a row before a destination counts as down.
const FAILURES_MIN: u32 = 3;

/// What the server was told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) attempts: usize,
    pub(crate) active: usize,
    pub(crate) retry_first: Duration,
    pub(crate) retry_max: Duration,
    pub(crate) bounds: Vec<Outgoing>,
    pub(crate) leaving: Bound,
}

/// What is known of a message.
#[derive(Clone, Debug, Default)]
struct Known {
    /// None: a notice, or its acceptance was lost with the power.
    letter: Option<usize>,
    is_notice: bool,
    /// Whoever has given its last recipient up, or delivered it.
    open: BTreeSet<Address>,
}

/// What the record shows up to some moment.
pub(crate) struct Replay<'a> {
    letters: &'a [Letter],
    settings: &'a Settings,
    lines: Vec<Line>,
    leaving: Leaving,
    messages: BTreeMap<QueueId, Known>,
    /// Since when there is room for an attempt at a remote place.
    room: Option<Timestamp>,
    /// When it was last told anew what stands in which line.
    fresh: Timestamp,
    now: Timestamp,
    /// How much was looked at.
    pub(crate) counts: Counts,
}

impl<'a> Replay<'a> {
    /// Goes through a record; panics where a rule is broken.
    pub(crate) fn check(letters: &'a [Letter], settings: &'a Settings, record: &[(Timestamp, Seen)]) -> Counts {
        let begun = record.first().map_or(Timestamp::ZERO, |(at, _)| *at);
        let lines = settings.bounds.iter().map(|bounds| Line::new(*bounds, begun)).collect();
        let mut replay = Self {
            letters,
            settings,
            lines,
            leaving: Leaving::new(settings.leaving, begun),
            messages: BTreeMap::new(),
            room: Some(begun),
            fresh: begun,
            now: begun,
            counts: Counts::default(),
        };
        for (at, seen) in record {
            replay.pass(*at);
            replay.see(seen);
            let full = replay.in_flight() >= settings.attempts - (settings.attempts / 4).max(1);
            replay.room = if full { None } else { replay.room.or(Some(*at)) };
        }
        let left: Vec<_> = replay.lines.iter().flat_map(|line| line.waiting.keys().chain(line.flights.keys())).collect();
        assert!(left.is_empty(), "never came to an end: {left:?}");
        replay.counts
    }

    /// Time goes on: no line stood still that could go.
    fn pass(&mut self, now: Timestamp) {
        self.check_deadlines(self.now);
        if now > self.now.plus(IDLE_MAX) {
            for (place, line) in self.lines.iter().enumerate() {
                if let Some(from) = line.free_from().zip(self.room).map(|(free, room)| free.max(room))
                    && now > from.plus(IDLE_MAX)
                {
                    let waiting = line.waiting.iter().filter(|(_, due)| **due <= from);
                    let waiting: Vec<_> = waiting.map(|((id, _), _)| (id, self.messages.get(id))).take(3).collect();
                    let name = PLACES[place].domains[0];
                    panic!("{name}: stands still from {} to {}: {waiting:?}", text(from), text(now));
                }
            }
        }
        self.now = now;
    }

    /// When a message is to be given up, if its sender says so.
    fn deadline(&self, id: QueueId) -> Option<Timestamp> {
        self.letters[self.messages.get(&id)?.letter?].deadline()
    }

    /// What its sender has set a time doesn't wait any longer, whatever it waits for.
    fn check_deadlines(&self, now: Timestamp) {
        for (place, line) in self.lines.iter().enumerate() {
            for (id, _) in line.waiting.keys() {
                let over = self.deadline(*id).is_some_and(|deadline| now > deadline.plus(IDLE_MAX));
                assert!(!over, "{}: {id} still waits behind its deadline at {}", PLACES[place].domains[0], text(now));
            }
        }
    }

    fn see(&mut self, seen: &Seen) {
        let now = self.now;
        match seen {
            Seen::Call(place, from, what) => {
                self.leaving.call(now, *place, *from, *what, &mut self.counts);
                self.call(*place, *what);
            }
            Seen::Message(place, from) => self.leaving.message(now, *place, *from, &mut self.counts),
            Seen::Event(event) => self.event(event),
            Seen::Trouble(place, begins) => {
                let line = &mut self.lines[*place];
                line.changed = now;
                line.outage = begins.then_some(Outage { began: now, attempts: 0, allowed: 0 });
            }
            Seen::Bounds(place, bounds) => {
                self.fresh = now;
                self.lines[*place].bounds.push(*bounds);
            }
            Seen::Reloaded => {
                self.afresh();
                for line in &mut self.lines {
                    line.bounds = line.bounds.split_off(line.bounds.len() - 1);
                }
            }
            Seen::Begun => {
                self.afresh();
                self.leaving.begin(now);
                for line in &mut self.lines {
                    let flights = std::mem::take(&mut line.flights);
                    line.waiting.extend(flights.into_keys().map(|part| (part, now)));
                    line.open = 0;
                }
            }
        }
    }

    /// What was known of destinations is forgotten.
    fn afresh(&mut self) {
        let allowed = self.burst();
        self.fresh = self.now;
        for line in &mut self.lines {
            (line.counted_from, line.changed, line.down_until) = (self.now, self.now, None);
            line.passed.clear();
            if let Some(outage) = &mut line.outage {
                outage.allowed += allowed;
            }
        }
    }

    /// Attempts that may be under way before the first has shown that a place is down.
    fn burst(&self) -> u32 {
        FAILURES_MIN + u32::try_from(self.settings.concurrency).unwrap()
    }

    fn in_flight(&self) -> usize {
        self.lines.iter().take(LOCAL).map(|line| line.flights.len()).sum()
    }

    fn call(&mut self, place: usize, what: Calling) {
        let now = self.now;
        let most = self.settings.concurrency;
        let line = &mut self.lines[place];
        match what {
            Calling::Began => {
                let name = PLACES[place].domains[0];
                line.calls.push(now);
                if let Some(rate) = line.rate(|bounds| bounds.connections_rate).filter(|_| !line.notices) {
                    let count = in_window(line.calls.iter().copied(), now, rate, line.counted_from);
                    self.counts.at_calls += usize::from(count == rate.count as usize);
                    assert!(count <= rate.count as usize, "{name}: {count} connections in a time that allows {rate}");
                }
            }
            Calling::Made => {
                line.open += 1;
                let bound = line.bounds.iter().map(|bounds| bounds.concurrency.unwrap_or(most)).max().unwrap_or(most);
                let bound = if line.notices { most } else { bound.min(most) };
                assert!(
                    line.open <= bound,
                    "{}: {} connections at {}, not {bound}",
                    PLACES[place].domains[0],
                    line.open,
                    text(now)
                );
            }
            Calling::Over => line.open = line.open.saturating_sub(1),
        }
    }

    fn event(&mut self, event: &Event) {
        let now = self.now;
        match event {
            Event::Accepted { id, to, .. } => {
                let number = to.addresses().first().and_then(|to| self.letters.iter().position(|letter| letter.is_to(to)));
                self.wait(*id, Known { letter: number, is_notice: false, open: to.addresses().iter().cloned().collect() });
            }
            Event::Notified { notice, to, .. } => {
                self.wait(*notice, Known { letter: None, is_notice: true, open: BTreeSet::from([to.clone()]) });
            }
            Event::Attempting { id, destination, recipients, .. } => self.attempt(*id, destination, *recipients),
            Event::Waiting { id, destination, recipients, next_attempt } => {
                assert!(*next_attempt <= now.plus(PERIOD_MAX), "no rate has a message wait until {next_attempt}");
                self.lines[place(destination)].connections_from = Some(*next_attempt);
                self.unattempted(*id, destination, *recipients);
            }
            Event::Deferred { id, to, destination, next_attempt, .. } => {
                self.landed(*id, to, destination, Some(*next_attempt));
            }
            Event::Delivered { id, to, destination, .. } | Event::Failed { id, to, destination, .. } => {
                // Connections that were made before still serve.
                let outage = &mut self.lines[place(destination)].outage;
                *outage = outage.as_ref().map(|_| Outage { began: now, attempts: 0, allowed: 0 });
                self.landed(*id, to, destination, None);
            }
            Event::Expired { id, to, destination, .. } => {
                self.counts.too_late += usize::from(self.deadline(*id).is_some());
                // Perhaps with the attempt that it still had.
                self.landed(*id, to, destination, None);
            }
            Event::Postponed { id, destination, next_attempt, .. } => {
                let line = &mut self.lines[place(destination)];
                let part = (*id, destination.clone());
                line.waiting.insert(part.clone(), *next_attempt);
                line.postponed.insert(part);
                self.counts.postponed += 1;
            }
            Event::DestinationDown { destination, next_attempt, .. } => {
                if let Some(place) = named(&destination.to_string()) {
                    (self.lines[place].down_until, self.lines[place].changed) = (Some(*next_attempt), now);
                }
            }
            Event::DestinationUp { destination, .. } => {
                let Some(place) = named(&destination.to_string()) else { return };
                let line = &mut self.lines[place];
                (line.down_until, line.changed) = (None, now);
                for part in std::mem::take(&mut line.postponed) {
                    if let Some(due) = line.waiting.get_mut(&part) {
                        *due = now.min(*due);
                    }
                }
            }
            Event::Retried { id } => {
                let allowed = self.burst();
                for line in &mut self.lines {
                    for (_, due) in line.waiting.iter_mut().filter(|((waiting, _), _)| waiting == id) {
                        *due = now.min(*due);
                        (line.changed, line.down_until) = (now, None);
                        line.outage.iter_mut().for_each(|outage| outage.allowed += allowed);
                    }
                }
            }
            _ => {}
        }
    }

    /// A message is there, and could be tried.
    fn wait(&mut self, id: QueueId, known: Known) {
        for address in &known.open {
            let destination = match place_of(address.domain().as_str()) {
                LOCAL => Destination::Local(address.domain().clone()),
                _ => Destination::Mx(address.domain().clone()),
            };
            self.lines[place(&destination)].waiting.insert((id, destination), self.now);
        }
        self.messages.insert(id, known);
    }

    fn attempt(&mut self, id: QueueId, destination: &Destination, recipients: usize) {
        let (now, place) = (self.now, place(destination));
        let part = (id, destination.clone());
        let known = self.messages.entry(id).or_default().clone();
        if known.is_notice {
            self.lines[place].notices = true;
        } else {
            self.check_bounds(place, &part);
            if let Some(letter) = known.letter {
                self.check_turn(place, letter, &part);
            }
        }
        let allowed = self.burst();
        let Settings { retry_first, retry_max, .. } = *self.settings;
        let line = &mut self.lines[place];
        if let Some(outage) = &mut line.outage {
            outage.attempts += 1;
            self.counts.probes += 1;
            let most = allowed + outage.allowed + probes(now.since(outage.began), retry_first, retry_max);
            let name = PLACES[place].domains[0];
            assert!(
                outage.attempts <= most,
                "{name}: {} attempts in {:?} of an outage",
                outage.attempts,
                now.since(outage.began)
            );
        }
        self.counts.starts += usize::from(line.waiting.remove(&part).is_some());
        line.postponed.remove(&part);
        line.flights.insert(part, recipients);
        line.changed = now;
    }

    /// There was no connection for these: they are in line again, and if it is all of them there was no attempt.
    fn unattempted(&mut self, id: QueueId, destination: &Destination, recipients: usize) {
        let part = (id, destination.clone());
        let line = &mut self.lines[place(destination)];
        let left = line.flights.get_mut(&part).expect("it was attempted");
        *left -= recipients;
        if *left == 0 {
            line.flights.remove(&part);
            if let Some(begun) = line.starts.iter().rposition(|(_, started)| *started == part) {
                line.starts.remove(begun);
            }
        }
        line.waiting.insert(part, self.now);
        line.changed = self.now;
    }

    /// An attempt of mail begins: as many as there may be, and as often.
    fn check_bounds(&mut self, place: usize, part: &Part) {
        let (now, name) = (self.now, PLACES[place].domains[0]);
        let line = &mut self.lines[place];
        assert!(!line.flights.contains_key(part), "{name}: {part:?} is tried twice at a time");
        line.starts.push((now, part.clone()));
        if let Some(rate) = line.rate(|bounds| bounds.messages_rate) {
            let count = in_window(line.starts.iter().map(|(at, _)| *at), now, rate, line.counted_from);
            self.counts.at_messages += usize::from(count == rate.count as usize);
            assert!(count <= rate.count as usize, "{name}: {count} messages in a time that allows {rate}");
        }
        let most = self.settings.concurrency;
        let bounds = line.bounds.iter().map(|bounds| bounds.concurrency.unwrap_or(most).min(most)).max().unwrap_or(most);
        let count = line.flights.len() + 1;
        self.counts.at_a_time += usize::from(count == bounds);
        assert!(place == LOCAL || count <= bounds, "{name}: {count} attempts at a time, not {bounds}");
    }

    /// Urgent mail first, then each sender in his turn, and of his own what he wants delivered sooner.
    fn check_turn(&mut self, place: usize, number: usize, part: &Part) {
        let (now, name) = (self.now, PLACES[place].domains[0]);
        let letter = &self.letters[number];
        assert!(letter.deadline().is_none_or(|deadline| now <= deadline.plus(IDLE_MAX)), "{number} is tried behind its deadline");
        let line = &mut self.lines[place];
        let fresh = self.fresh;
        let known = |due: Timestamp| due.max(fresh).plus(NEWS_TIME) < now;
        let others = line.waiting.iter().filter(|(other, due)| *other != part && known(**due));
        let others: Vec<&Letter> =
            others.filter_map(|((id, _), _)| Some(&self.letters[self.messages.get(id)?.letter?])).collect();
        if line.waiting.get(part).is_none_or(|due| *due > now) {
            // An order to try it, or a probe: out of turn.
            return;
        }
        // Where memory is scarce, what isn't urgent may have to wait for a place in it.
        let here = |other: &Letter| other.priority > 0 || self.settings.active >= 1000;
        if let Some(other) = others.iter().find(|other| other.priority > letter.priority && here(other)) {
            panic!("{name}: {} of priority {} waits for {} of {}", other.number, other.priority, number, letter.priority);
        }
        self.counts.urgent += usize::from(others.iter().any(|other| other.priority < letter.priority));
        let equals = others.iter().filter(|other| other.priority == letter.priority);
        let senders: BTreeSet<usize> = equals.map(|other| other.sender).collect();
        line.passed.remove(&(letter.priority, letter.sender));
        // Where memory is scarce a letter may have to wait for a place in it, which it gets before that is emptied once; it may hold half as
        // much again for lines that stand still.
        let passed_max = PASSED_MAX + if self.settings.active < 1000 { self.settings.active as u32 * 3 / 2 } else { 0 };
        for sender in senders.into_iter().filter(|sender| *sender != letter.sender) {
            self.counts.in_turn += 1;
            let passed = line.passed.entry((letter.priority, sender)).or_default().entry(letter.sender).or_default();
            *passed += 1;
            assert!(*passed <= passed_max, "{name}: {passed} of sender {}'s before sender {sender}'s next", letter.sender);
        }
        // Whose mail doesn't wait isn't passed by.
        let waiting = &line.waiting;
        let waits = |sender: usize| {
            let of = |id: &QueueId| self.messages.get(id).and_then(|known| known.letter).map(|n| self.letters[n].sender);
            waiting.keys().any(|(id, _)| of(id) == Some(sender))
        };
        line.passed.retain(|(_, sender), _| waits(*sender));
    }

    /// An attempt has ended for a recipient.
    fn landed(&mut self, id: QueueId, to: &Address, destination: &Destination, next_attempt: Option<Timestamp>) {
        let part = (id, destination.clone());
        let line = &mut self.lines[place(destination)];
        if let Some(left) = line.flights.get_mut(&part) {
            *left -= 1;
            if *left == 0 {
                line.flights.remove(&part);
                line.changed = self.now;
            }
        }
        match next_attempt {
            Some(next) => {
                let due = line.waiting.entry(part).or_insert(next);
                *due = next.min(*due);
            }
            None => self.ended(id, to, destination),
        }
    }

    /// Nothing more happens for a recipient.
    fn ended(&mut self, id: QueueId, to: &Address, destination: &Destination) {
        let Some(known) = self.messages.get_mut(&id) else { return };
        known.open.remove(to);
        if known.open.iter().all(|open| open.domain() != to.domain()) {
            let line = &mut self.lines[place(destination)];
            let part = (id, destination.clone());
            line.waiting.remove(&part);
            line.changed = self.now;
        }
    }
}

/// How often a place that is down may be asked in a time.
fn probes(time: Duration, first: Duration, max: Duration) -> u32 {
    let (mut count, mut wait, mut elapsed) = (0, first, Duration::ZERO);
    while elapsed + wait.mul_f64(0.9) <= time {
        elapsed += wait.mul_f64(0.9);
        (count, wait) = (count + 1, (wait * 2).min(max));
    }
    count
}

fn place(destination: &Destination) -> usize {
    match destination {
        Destination::Local(domain) | Destination::Mx(domain) => place_of(domain.as_str()),
        other => panic!("nothing goes to {other}"),
    }
}

/// The place that a destination's name in the log speaks of.
fn named(site: &str) -> Option<usize> {
    if site.contains("joined.test") {
        return Some(JOINED);
    }
    let of = |place: &Place| {
        place.hosts.iter().any(|(name, _)| site.contains(name)) || place.domains.iter().any(|name| site.contains(name))
    };
    PLACES.iter().take(LOCAL).position(of)
}

fn text(at: Timestamp) -> String {
    at.rfc3339_millis()
}
