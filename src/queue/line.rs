//! A line of messages before one site: notices first, then the more urgent (RFC 6710), and among equals each origin in its turn.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::company::{Company, Flights};
use super::fair::{Fair, Rank};
use super::health::News;
use super::sources::RECENT;
use super::tempo::Tempo;
use crate::config::{Outgoing, Source};
use crate::mail::{Destination, Message, Origin, Priority, QueueId, Timestamp};

/// When a line has its turn: virtual time with the attempts in flight added, these, and who has waited longest.
pub(super) type Turn = (u64, usize, u64);

/// A place in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) origin: Origin,
    /// None: a notice.
    priority: Option<Priority>,
    rank: Rank,
}

/// What an admin bounds in a line; not for notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Whatever address of ours its mail leaves from.
    pub(super) outgoing: Outgoing,
    /// The addresses that it may leave from, if any of them is bounded.
    pub(super) sources: Arc<[Source]>,
}

impl From<Outgoing> for Bounds {
    fn from(outgoing: Outgoing) -> Self {
        Self { outgoing, ..Self::default() }
    }
}

/// Who waits: the recipients of a message that share a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) id: QueueId,
    pub(super) destination: Destination,
}

/// Those who wait for one site, and what is known of how it takes them.
#[derive(Debug)]
pub(super) struct Line {
    notices: Fair<Waiting>,
    mail: BTreeMap<Reverse<Priority>, Fair<Waiting>>,
    count: usize,
    pub(super) flights: Flights,
    /// How many may be: grows while attempts reach the site and don't wait for each other, shrinks when they don't.
    tempo: Tempo,
    company: Company,
    pub(super) bounds: Bounds,
    /// From which addresses it was served lately, and when; the last behind.
    pub(super) recent: Vec<(IpAddr, Timestamp)>,
    /// No new connection before this time: so many attempts can go on with those that there are.
    pub(super) connected: Option<(usize, Timestamp)>,
    /// Its key among the turns, while it may start an attempt.
    pub(super) turn: Option<Turn>,
    /// Whose turn that is, and its virtual time.
    pub(super) stamp: Option<(Origin, u64)>,
}

impl Place {
    /// A message's place, behind those of its origin that came before: `number` says when it came.
    pub(super) fn new(message: &Message, number: u64) -> Self {
        let deadline = message.deadline().map_or(Timestamp::NEVER, |(deadline, _)| deadline);
        let priority = (!message.is_notice()).then(|| message.priority());
        Self { origin: Origin::of(message), priority, rank: (deadline, number) }
    }

    /// Whether no bound holds it up.
    pub(super) fn is_notice(&self) -> bool {
        self.priority.is_none()
    }
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            notices: Fair::default(),
            mail: BTreeMap::new(),
            count: 0,
            flights: Flights::default(),
            tempo: Tempo::new(),
            company: Company::default(),
            bounds: Bounds::default(),
            recent: Vec::new(),
            connected: None,
            turn: None,
            stamp: None,
        }
    }

    /// How many attempts are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// How many of an origin wait.
    pub(super) fn len_of(&self, origin: &Origin) -> usize {
        std::iter::once(&self.notices).chain(self.mail.values()).map(|fair| fair.len_of(origin)).sum()
    }

    /// How many of an origin wait that are so urgent at least, but for notices.
    pub(super) fn len_from(&self, priority: Priority, origin: &Origin) -> usize {
        self.mail.range(..=Reverse(priority)).map(|(_, fair)| fair.len_of(origin)).sum()
    }

    /// The least urgent priority of those who wait; none if there is but notices.
    pub(super) fn lowest(&self) -> Option<Priority> {
        self.mail.keys().next_back().map(|Reverse(priority)| *priority)
    }

    /// Whether one of those who wait is a notice.
    pub(super) fn has_notice(&self) -> bool {
        !self.notices.is_empty()
    }

    /// A message comes, and isn't put in yet.
    pub(super) fn joined(&mut self, now: Timestamp, origin: &Origin) {
        self.company.joined(now, self.len(), self.len_of(origin));
    }

    pub(super) fn insert(&mut self, place: &Place, weight: u32, waiting: Waiting) {
        let fair = match place.priority {
            None => &mut self.notices,
            Some(priority) => self.mail.entry(Reverse(priority)).or_default(),
        };
        let before = fair.len();
        fair.push(&place.origin, weight, place.rank, waiting);
        self.count += fair.len() - before;
    }

    pub(super) fn remove(&mut self, place: &Place) -> Option<Waiting> {
        let fair = match place.priority {
            None => &mut self.notices,
            Some(priority) => self.mail.get_mut(&Reverse(priority))?,
        };
        let removed = fair.remove(&place.origin, place.rank)?;
        self.count -= 1;
        self.tidy(place.priority);
        Some(removed)
    }

    /// Whose turn it is.
    pub(super) fn first(&self) -> Option<&Origin> {
        self.notices.first().or_else(|| self.mail.values().next()?.first())
    }

    /// Takes the one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(Place, Waiting)> {
        let (priority, (origin, rank, waiting)) = match self.notices.pop() {
            Some(notice) => (None, notice),
            None => {
                let (Reverse(priority), mail) = self.mail.iter_mut().next()?;
                (Some(*priority), mail.pop()?)
            }
        };
        self.count -= 1;
        self.tidy(priority);
        Some((Place { origin, priority, rank }, waiting))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.notices.iter().chain(self.mail.values().flat_map(Fair::iter))
    }

    /// When there may be more attempts though none ends.
    pub(super) fn measures_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.tempo.measures_until(now)
    }

    /// How many attempts there may be at a time, for a notice or for other mail.
    pub(super) fn limit(&self, now: Timestamp, concurrency: usize, notice: bool) -> usize {
        let limit = self.tempo.limit(now).min(concurrency);
        if notice {
            return limit;
        }
        let connected = self.connected.filter(|(_, until)| *until > now).map_or(usize::MAX, |(count, _)| count);
        limit.min(self.bounds.outgoing.concurrency.unwrap_or(usize::MAX)).min(connected).min(self.beside(now))
    }

    /// How many there may be of bulk beside letters, while they come.
    fn beside(&self, now: Timestamp) -> usize {
        let own = || self.first().map_or(0, |origin| self.len_of(origin));
        let limit = if self.tempo.is_near() { self.company.limit(now, own) } else { usize::MAX };
        limit.saturating_add(self.flights.hanging(now))
    }

    /// When bulk has the place of letters again, if they don't go on, or that of an attempt that hangs.
    pub(super) fn company_until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.company.until(now).filter(|_| self.beside(now) < usize::MAX)?;
        Some(self.flights.hangs_at(now).map_or(until, |hangs| hangs.min(until)))
    }

    /// An attempt has ended that began then, and took so long.
    pub(super) fn learn(&mut self, now: Timestamp, began: Timestamp, took: Option<Duration>, news: &News, concurrency: usize) {
        self.flights.end(began);
        match news {
            News::Nothing => {}
            News::Unreached(_) => self.tempo.unreached(),
            // With fewer than there might be nothing is learned of more.
            News::Reached if self.beside(now) < self.tempo.limit(now) => {
                self.tempo.reached(now, took, self.in_flight(), self.tempo.limit(now).min(concurrency));
            }
            News::Reached => self.tempo.reached(now, took, self.in_flight(), concurrency),
        }
    }

    /// An attempt starts that may leave from these.
    pub(super) fn leaves(&mut self, sources: &[Source]) {
        for source in sources {
            if let Some(at) = self.recent.iter().rposition(|(ip, _)| *ip == source.ip) {
                self.recent.remove(at);
            }
        }
    }

    /// It has ended, and its connection may wait for the next.
    pub(super) fn has_left(&mut self, now: Timestamp, sources: &[Source]) {
        self.recent.retain(|(_, since)| since.plus(RECENT) > now);
        self.recent.extend(sources.iter().map(|source| (source.ip, now)));
    }

    fn tidy(&mut self, priority: Option<Priority>) {
        if let Some(priority) = priority
            && self.mail.get(&Reverse(priority)).is_some_and(Fair::is_empty)
        {
            self.mail.remove(&Reverse(priority));
        }
    }
}
