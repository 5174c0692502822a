//! A message in the scheduler: its parts, what keeps it there, and the steps that time alone brings about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::due::{expires_at, next_notice_at, returned_at};
use super::line::Place;
use super::step::Step;
use super::verdict::expire;
use crate::config::Retry;
use crate::mail::{Address, Destination, Domain, Message, Origin, Site, Timestamp, Update};

/// Who is due when the lifetime ends, and couldn't be tried before, is left so long for an attempt: mail isn't given up untried after a
/// hold, a pause or an outage.
pub const LAST_CHANCE: Duration = Duration::from_secs(3600);

/// A message that the scheduler holds.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    /// Boxed: a map of one entry has room for eleven.
    pub(super) parts: BTreeMap<Destination, Box<Part>>,
    /// Parts that are ready: they stand in a line, or wait to know in which.
    pub(super) waiting: usize,
    /// Parts with an attempt in flight.
    pub(super) attempts: usize,
    /// Notices asked for and not yet confirmed.
    pub(super) notices: u32,
    /// Since when it could be attempted, as far as that is ours.
    pub(super) since: Timestamp,
    /// Its lifetime is over, but some who are due wait for their last attempt until then.
    chance: Option<Timestamp>,
    /// Its entry among the alarms; `NEVER`: none.
    pub(super) alarm: Timestamp,
    /// Sent away from crowded lines until then.
    pub(super) away: Option<Timestamp>,
    /// Stands among those that leave.
    pub(super) leaving: bool,
    /// Only here for the attempts in flight; no step speaks of it any more.
    pub(super) forgotten: bool,
}

/// The open recipients of a message that share a destination. At most one attempt is in flight for them.
#[derive(Clone, Debug)]
pub(super) struct Part {
    recipients: Vec<u32>,
    /// Those whose attempt is under way, ascending.
    in_flight: Vec<u32>,
    pub(super) stage: Stage,
    /// Its place in line, where it was taken out of it and not attempted.
    pub(super) before: Option<Place>,
    /// When the first of those not in flight may be attempted; `NEVER` if none.
    pub(super) ready_at: Timestamp,
}

/// What a part is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for a time.
    Idle,
    /// Waits to know its site, and counts for its origin meanwhile.
    Unlocated(Origin),
    /// Waits for its turn at a site.
    Waiting(Site, Place),
    /// Is being attempted.
    InFlight,
}

impl Entry {
    pub(super) fn new(message: Message, since: Timestamp) -> Self {
        Self {
            message,
            since,
            chance: None,
            parts: BTreeMap::new(),
            waiting: 0,
            attempts: 0,
            notices: 0,
            alarm: Timestamp::NEVER,
            away: None,
            leaving: false,
            forgotten: false,
        }
    }

    /// Takes over what is under way for the same message, from an entry that stands in no line.
    pub(super) fn inherit(&mut self, old: Entry) {
        self.attempts = old.attempts;
        self.notices = if old.forgotten { 0 } else { old.notices };
        self.leaving = old.leaving;
        for (destination, mut part) in old.parts {
            if part.stage == Stage::InFlight {
                part.recipients = part.in_flight.clone();
                self.parts.insert(destination, part);
            }
        }
    }

    /// Whether something keeps it here.
    pub(super) fn stays(&self) -> bool {
        self.attempts > 0 || self.waiting > 0 || self.notices > 0
    }

    /// Sorts open recipients into parts. Whoever is in flight stays where it is, even if its destination would be another now.
    pub(super) fn assign(&mut self, destinations: Vec<(u32, Destination)>) {
        let mut taken: BTreeSet<u32> = self.in_flight().collect();
        for (index, destination) in destinations {
            let open = self.message.recipients.get(index as usize).is_some_and(|r| r.is_open());
            if open && taken.insert(index) {
                self.parts.entry(destination).or_insert_with(|| Box::new(Part::new())).recipients.push(index);
            }
        }
    }

    /// Nobody is attempted later than `latest`, except where the sender wants to wait longer.
    pub(super) fn clamp(&mut self, latest: Timestamp) {
        let latest = latest.max(self.message.held_until());
        for recipient in self.message.recipients.iter_mut().filter(|r| r.is_open()) {
            recipient.status.next_attempt = recipient.status.next_attempt.min(latest);
        }
    }

    /// Nothing waits longer than under the new time; the next look sees who has a last chance.
    pub(super) fn clock_went_back(&mut self, now: Timestamp, latest: Timestamp) {
        self.clamp(latest);
        (self.since, self.chance) = (self.since.min(now), None);
    }

    /// Where each recipient's mail goes, as far as that is known.
    pub(super) fn destinations(&self) -> BTreeMap<u32, &Destination> {
        let parts = self.parts.iter();
        parts.flat_map(|(destination, part)| part.recipients.iter().map(move |index| (*index, destination))).collect()
    }

    /// The recipients whose attempt is under way.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = u32> {
        self.parts.values().flat_map(|part| part.in_flight.iter().copied())
    }

    /// The lifetime is over: all open recipients, except those in flight, whose outcome decides, and those who are due and may still get
    /// their attempt.
    pub(super) fn expire(&mut self, now: Timestamp, paused: &BTreeSet<Domain>) -> Option<Step> {
        let mut kept: BTreeSet<u32> = self.in_flight().collect();
        let chance = self.since.plus(LAST_CHANCE).min(returned_at(&self.message));
        let due = self.parts.values().filter(|_| now < chance).flat_map(|part| part.ready_now(&self.message, paused, now));
        let due: Vec<u32> = due.collect();
        self.chance = (!due.is_empty()).then_some(chance);
        kept.extend(due);
        let recipients: Vec<u32> = self.open().filter(|index| !kept.contains(index)).collect();
        if recipients.is_empty() {
            return None;
        }
        let update = expire(&self.message, &recipients);
        self.message.apply(&update);
        self.notices += 1;
        Some(Step::Expire { id: self.message.id, recipients, update })
    }

    /// `ages_done` of the configured ages are reached, or the sender's deadline is over. Several at once: one notice.
    pub(super) fn notify(&mut self, ages_done: u32, deadline_told: bool) -> Option<Step> {
        let recipients: Vec<u32> = self.open().collect();
        let aged = ages_done > self.message.delays_noticed;
        if recipients.is_empty() || !aged && !deadline_told {
            return None;
        }
        let delays_noticed = aged.then_some(ages_done);
        let update = Update { delays_noticed, deadline_told, ..Update::new(self.message.id) };
        self.message.apply(&update);
        self.notices += 1;
        Some(Step::Notify { id: self.message.id, ages_done, recipients, update })
    }

    /// When it wants attention though no attempt of it ends: a recipient becomes ready, a notice is due, or it expires.
    pub(super) fn alarm_at(&self, retry: &Retry) -> Timestamp {
        if self.message.held || self.message.is_done() {
            return Timestamp::NEVER;
        }
        let idle = self.parts.values().filter(|part| part.stage == Stage::Idle);
        let ready = idle.map(|part| part.ready_at).min().unwrap_or(Timestamp::NEVER);
        let expired = self.expiry_at(retry);
        ready.min(next_notice_at(&self.message, retry)).min(expired)
    }

    /// `NEVER` when nobody is left whom expiry would concern: an attempt in flight looks at the time itself.
    fn expiry_at(&self, retry: &Retry) -> Timestamp {
        let idle = self.parts.values().any(|part| part.recipients.len() > part.in_flight.len());
        let expires = expires_at(&self.message, retry);
        if idle { self.chance.map_or(expires, |chance| chance.max(expires)) } else { Timestamp::NEVER }
    }

    fn open(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.message.recipients).filter(|(_, recipient)| recipient.is_open()).map(|(index, _)| index)
    }
}

impl Part {
    fn new() -> Self {
        Self { recipients: Vec::new(), in_flight: Vec::new(), stage: Stage::Idle, before: None, ready_at: Timestamp::NEVER }
    }

    /// Whether nothing of it is open or in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.recipients.is_empty() && self.stage == Stage::Idle
    }

    /// Drops recipients that are final, and sees when the first of the others is ready: never while held or paused.
    pub(super) fn update(&mut self, message: &Message, paused: &BTreeSet<Domain>) {
        let Self { recipients, in_flight, .. } = self;
        let of = |index: u32| message.recipients.get(index as usize).filter(|r| r.is_open());
        recipients.retain(|index| of(*index).is_some() || in_flight.binary_search(index).is_ok());
        self.ready_at = self.ready(message, paused).map(|(at, _, _)| at).min().unwrap_or(Timestamp::NEVER);
    }

    /// Those that are ready and not in flight.
    pub(super) fn ready_now(&self, message: &Message, paused: &BTreeSet<Domain>, now: Timestamp) -> Vec<u32> {
        self.ready(message, paused).filter(|(at, _, _)| *at <= now).map(|(_, index, _)| index).collect()
    }

    /// Starts an attempt for those that are ready now.
    pub(super) fn begin_attempt(
        &mut self,
        message: &Message,
        paused: &BTreeSet<Domain>,
        now: Timestamp,
        count_max: usize,
    ) -> Vec<(u32, Address)> {
        // A clock that went back a little makes nobody unready who has come to its turn.
        let now = now.max(self.ready_at);
        let ready = self.ready(message, paused).filter(|(at, _, _)| *at <= now).take(count_max);
        let recipients: Vec<(u32, Address)> = ready.map(|(_, index, address)| (index, address.clone())).collect();
        self.in_flight = recipients.iter().map(|(index, _)| *index).collect();
        self.in_flight.sort_unstable();
        self.stage = Stage::InFlight;
        recipients
    }

    /// The attempt has ended for these.
    pub(super) fn end_attempt(&mut self) -> Vec<u32> {
        self.stage = Stage::Idle;
        std::mem::take(&mut self.in_flight)
    }

    fn ready<'a>(
        &'a self,
        message: &'a Message,
        paused: &'a BTreeSet<Domain>,
    ) -> impl Iterator<Item = (Timestamp, u32, &'a Address)> {
        let open = self.recipients.iter().filter_map(move |index| {
            let recipient = message.recipients.get(*index as usize).filter(|r| r.is_open() && !message.held)?;
            Some((recipient.status.next_attempt, *index, &recipient.address))
        });
        let in_flight = &self.in_flight;
        open.filter(move |(_, index, address)| in_flight.binary_search(index).is_err() && !paused.contains(address.domain()))
    }
}
