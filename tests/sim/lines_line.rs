//! What is seen at one place of the lines' simulation, and how often a rule had something to say.

use std::collections::{BTreeMap, BTreeSet};

use posthouse::config::Outgoing;
use posthouse::mail::{Destination, QueueId, Rate, Timestamp};

/// The recipients of a message at one domain.
pub(crate) type Part = (QueueId, Destination);

#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) began: Timestamp,
    pub(crate) attempts: u32,
    /// Attempts that nobody can hold against it: an order, or the server knew nothing yet.
    pub(crate) allowed: u32,
}

/// What is seen at a place.
#[derive(Debug)]
pub(crate) struct Line {
    /// Since when each part could be tried.
    pub(crate) waiting: BTreeMap<Part, Timestamp>,
    /// Those among them that were put off because the place was down.
    pub(crate) postponed: BTreeSet<Part>,
    /// How many recipients of each part are being attempted.
    pub(crate) flights: BTreeMap<Part, usize>,
    /// Connections now.
    pub(crate) open: usize,
    /// Whether notices came here: no bound is for them.
    pub(crate) notices: bool,
    /// When attempts of mail began.
    pub(crate) starts: Vec<(Timestamp, Part)>,
    /// When connections were asked for.
    pub(crate) calls: Vec<Timestamp>,
    /// Those in force; two while they change.
    pub(crate) bounds: Vec<Outgoing>,
    /// Since when they are, or the server runs.
    pub(crate) counted_from: Timestamp,
    /// When something last ended or changed.
    pub(crate) changed: Timestamp,
    pub(crate) down_until: Option<Timestamp>,
    /// Somebody was told to wait so long for a connection.
    pub(crate) connections_from: Option<Timestamp>,
    pub(crate) outage: Option<Outage>,
    /// By priority and sender: how many of each other sender's went since its own last.
    pub(crate) passed: BTreeMap<(i8, usize), BTreeMap<usize, u32>>,
}

impl Line {
    /// Nothing was seen yet.
    pub(crate) fn new(bounds: Outgoing, begun: Timestamp) -> Self {
        Self {
            waiting: BTreeMap::new(),
            postponed: BTreeSet::new(),
            flights: BTreeMap::new(),
            open: 0,
            notices: false,
            starts: Vec::new(),
            calls: Vec::new(),
            bounds: vec![bounds],
            counted_from: begun,
            changed: begun,
            down_until: None,
            connections_from: None,
            outage: None,
            passed: BTreeMap::new(),
        }
    }

    /// The rate in force; none while it changes.
    pub(crate) fn rate(&self, rate: impl Fn(&Outgoing) -> Option<Rate>) -> Option<Rate> {
        let [bounds] = &self.bounds[..] else { return None };
        rate(bounds)
    }

    /// Since when something could go on here that doesn't; none: it needn't.
    pub(crate) fn free_from(&self) -> Option<Timestamp> {
        let due = *self.waiting.values().min()?;
        if !self.flights.is_empty() {
            return None;
        }
        let bounds = self.bounds.last()?;
        let messages = bounds.messages_rate.map(|rate| free_at(self.starts.iter().map(|(at, _)| *at), rate));
        let calls = bounds.connections_rate.map(|rate| free_at(self.calls.iter().copied(), rate));
        [Some(due), Some(self.changed), self.down_until, self.connections_from, messages, calls].into_iter().flatten().max()
    }
}

/// When a rate allows the next.
fn free_at(times: impl DoubleEndedIterator<Item = Timestamp>, rate: Rate) -> Timestamp {
    times.rev().nth(rate.count as usize - 1).map_or(Timestamp::ZERO, |at| at.plus(rate.period))
}

/// How many there were in the time of a rate.
pub(crate) fn in_window(times: impl Iterator<Item = Timestamp>, now: Timestamp, rate: Rate, from: Timestamp) -> usize {
    times.filter(|at| at.plus(rate.period) > now && *at >= from).count()
}

/// How often a rule had something to say: stories in which one never has prove nothing about it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Attempts with which a place had as many messages as its rate allows.
    pub(crate) at_messages: usize,
    /// Connections with which it had as many of those.
    pub(crate) at_calls: usize,
    /// Attempts with which it had as many as there may be at a time.
    pub(crate) at_a_time: usize,
    /// The same for what leaves from the bounded address.
    pub(crate) leaving_messages: usize,
    pub(crate) leaving_calls: usize,
    pub(crate) leaving_at_a_time: usize,
    /// Attempts while somebody else waited for the same line.
    pub(crate) in_turn: usize,
    /// Attempts of urgent mail past others.
    pub(crate) urgent: usize,
    /// Parts that were put off without an attempt.
    pub(crate) postponed: usize,
    /// Attempts during outages.
    pub(crate) probes: usize,
    /// Attempts of a part that waited.
    pub(crate) starts: usize,
    /// Mail that was given up because its sender had set it a time.
    pub(crate) too_late: usize,
    /// Recipients whom senders heard of.
    pub(crate) told_of_failure: usize,
    pub(crate) told_of_delay: usize,
    pub(crate) told_of_success: usize,
    /// And of whose failure they wanted to hear nothing.
    pub(crate) silent: usize,
}

impl Counts {
    fn all(&mut self) -> [&mut usize; 16] {
        [
            &mut self.at_messages,
            &mut self.at_calls,
            &mut self.at_a_time,
            &mut self.leaving_messages,
            &mut self.leaving_calls,
            &mut self.leaving_at_a_time,
            &mut self.in_turn,
            &mut self.urgent,
            &mut self.postponed,
            &mut self.probes,
            &mut self.starts,
            &mut self.too_late,
            &mut self.told_of_failure,
            &mut self.told_of_delay,
            &mut self.told_of_success,
            &mut self.silent,
        ]
    }

    pub(crate) fn add(&mut self, mut other: Self) {
        for (mine, others) in self.all().into_iter().zip(other.all()) {
            *mine += *others;
        }
    }

    /// Whether each is at least so high.
    pub(crate) fn are_at_least(mut self, count: usize) -> bool {
        self.all().into_iter().all(|found| *found >= count)
    }
}
