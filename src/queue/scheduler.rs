//! The scheduler: decides what is attempted next and when a message is done, parked, expired or late.
//!
//! Owns the messages that are ready or in flight, each with its parts: the recipients that share a destination. A message with
//! neither leaves with `Step::Park` or `Step::Done`, once the notices about it are safe. Never does input or output.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::backoff::wait_max;
use super::due::{ages_reached, deadline_notice_at, expires_at, next_notice_at};
use super::entry::Entry;
use super::health::News;
use super::line::{Place, Waiting};
use super::lines::Lines;
use super::plan::Plan;
use super::pools::Pools;
use super::report::Report;
use super::sites::Sites;
use super::step::{Attempt, AttemptId, Step};
use super::verdict::{Verdict, When, without_result};
use crate::config::{self, Config, Outgoing, Source};
use crate::mail::{Destination, Domain, Message, Outcome, QueueId, Site, Timestamp, Update};

/// Recipients of one attempt at the most.
const RECIPIENTS_MAX: usize = 1000;
/// A clock that goes back by more than this has been set back.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// What the scheduler goes by.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Attempts in flight, all destinations together.
    pub attempts_max: usize,
    /// Attempts in flight at one remote destination.
    pub concurrency: usize,
    /// Messages held in memory, about; `room` says how many more are welcome.
    pub active_max: usize,
    /// When to try again, and when to give up.
    pub retry: config::Retry,
    /// What is bounded at which destinations.
    pub destinations: Vec<config::DestinationRule>,
    /// Which of our own addresses mail may leave from.
    pub pools: Pools,
    /// Whose parts are larger than those of others.
    pub shares: Vec<config::Share>,
}

impl Settings {
    /// Those of a configuration.
    pub fn new(config: &Config, pools: Pools) -> Self {
        Self {
            pools,
            attempts_max: config.queue.attempts,
            concurrency: config.remote.concurrency,
            active_max: config.queue.active,
            retry: config.retry.clone(),
            destinations: config.destinations.clone(),
            shares: config.shares.clone(),
        }
    }
}

/// Plans deliveries. All operations take logarithmic time in the number of messages, except operator verbs on everything.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) settings: Settings,
    pub(super) entries: BTreeMap<QueueId, Entry>,
    pub(super) lines: Lines,
    pub(super) sites: Sites,
    attempts: BTreeMap<AttemptId, Flight>,
    attempt_last: u64,
    /// When each message wants attention though no attempt of it ends.
    alarms: BTreeSet<(Timestamp, QueueId)>,
    pub(super) steps: VecDeque<Step>,
    /// Messages that nothing keeps here any more; what becomes of them is decided when the step is asked for.
    leaving: VecDeque<QueueId>,
    pub(super) paused: bool,
    /// What attempts come to can't be recorded: none begins.
    pub(super) stalled: bool,
    /// What was called for last couldn't be fetched yet.
    unfetched: bool,
    pub(super) paused_domains: BTreeSet<Domain>,
    /// The latest `now`.
    pub(super) clock: Timestamp,
    /// Since when attempts can be made: the start, or the end of a time in which none could be.
    pub(super) since: Timestamp,
}

/// An attempt under way.
#[derive(Debug)]
struct Flight {
    id: QueueId,
    destination: Destination,
    site: Site,
    place: Place,
    started: Timestamp,
    /// Our addresses that it may leave from, where they are bounded.
    sources: Vec<Source>,
}

impl Scheduler {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self {
            lines: Lines::new(settings.attempts_max, settings.concurrency, settings.shares.clone()),
            sites: Sites::new(settings.destinations.clone(), settings.pools.clone()),
            settings,
            entries: BTreeMap::new(),
            attempts: BTreeMap::new(),
            attempt_last: 0,
            alarms: BTreeSet::new(),
            steps: VecDeque::new(),
            leaving: VecDeque::new(),
            paused: false,
            stalled: false,
            unfetched: false,
            paused_domains: BTreeSet::new(),
            clock: Timestamp::ZERO,
            since: Timestamp::ZERO,
        }
    }

    /// Messages that it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many more messages it may hold. Those for whom there is no room it parks, and calls them back.
    pub fn room(&self) -> usize {
        self.settings.active_max.saturating_sub(self.entries.len())
    }

    /// A message that it holds, as far as it has come.
    pub fn message(&self, id: QueueId) -> Option<&Message> {
        self.entries.get(&id).map(|entry| &entry.message)
    }

    /// Every message that it holds; not those that are only here for attempts in flight.
    pub fn ids(&self) -> Vec<QueueId> {
        self.entries.iter().filter(|(_, entry)| !entry.forgotten).map(|(id, _)| *id).collect()
    }

    /// The recipients of a message whose attempt is under way.
    pub fn in_flight(&self, id: QueueId) -> Vec<u32> {
        self.entries.get(&id).map(|entry| entry.in_flight().collect()).unwrap_or_default()
    }

    /// Attempts in flight, all together.
    pub fn attempts_in_flight(&self) -> usize {
        self.attempts.len()
    }

    /// Every site with messages: how many wait for it, and how many attempts are in flight.
    pub fn sites(&self) -> impl Iterator<Item = (&Site, usize, usize)> {
        self.lines.iter()
    }

    /// How often a site or an address of ours began to count from zero again because what it had was forgotten, since this was asked last:
    /// it may have more messages than its rates allow.
    pub fn forgotten(&mut self) -> u64 {
        self.lines.forgotten()
    }

    /// When to call `next` again if nothing else happens.
    pub fn deadline(&self) -> Option<Timestamp> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        alarm.into_iter().chain(self.lines.deadline()).min().filter(|_| !self.is_still())
    }

    /// Takes a message over. `destinations` has one for each open recipient, by index; an open recipient without one isn't
    /// attempted in this stay. A message that is already here is replaced; its attempts in flight go on.
    pub fn admit(&mut self, now: Timestamp, message: Message, destinations: Vec<(u32, Destination)>) {
        self.watch_clock(now);
        let id = message.id;
        let mut entry = Entry::new(message, now);
        if let Some(old) = self.take_out(id) {
            entry.inherit(old);
        }
        entry.clamp(now.plus(wait_max(&self.settings.retry)));
        entry.assign(destinations);
        entry.away = self.crowded_until(now, &mut entry);
        let away = entry.away.is_some();
        self.entries.insert(id, entry);
        if away {
            self.settle(id);
        } else {
            self.refresh(now, id);
        }
    }

    /// The next thing to do; call it until there is nothing.
    pub fn next(&mut self, now: Timestamp) -> Option<Step> {
        self.watch_clock(now);
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            if let Some(id) = self.leaving.pop_front() {
                match self.let_go(now, id) {
                    Some(step) => return Some(step),
                    None => continue,
                }
            }
            match self.alarms.first().filter(|_| !self.is_still()) {
                Some((at, id)) if *at <= now => {
                    let id = *id;
                    self.refresh(now, id);
                }
                _ => break,
            }
        }
        match self.is_still() {
            true => None,
            // What can be started isn't to wait for what comes from disk.
            false => self.start(now).or_else(|| self.called(now)),
        }
    }

    /// Whom to fetch. Nobody more while some couldn't be: they keep their places with those who are away.
    fn called(&mut self, now: Timestamp) -> Option<Step> {
        if self.unfetched { None } else { self.recall(now).map(|ids| Step::Recall { ids }) }
    }

    /// Whether those of the last `Step::Recall` were fetched; if not, there is no other until they are.
    pub fn fetched(&mut self, all: bool) {
        self.unfetched = !all;
    }

    /// An attempt has ended: what that means for its recipients. A recipient without an outcome counts as deferred. `jitter`
    /// gives random numbers from 0 to 1. If the verdict has failed recipients, record the update together with the bounce, then
    /// call `noticed`; else record the update alone. An attempt that isn't known has an empty verdict.
    pub fn report(
        &mut self,
        now: Timestamp,
        attempt: AttemptId,
        report: impl Into<Report>,
        jitter: &mut dyn FnMut() -> f64,
    ) -> Verdict {
        self.watch_clock(now);
        let Report { outcomes, connections_from, full_source, took } = report.into();
        let Some(Flight { id, destination, site, place, started, sources }) = self.attempts.remove(&attempt) else {
            return Verdict::new(QueueId(0));
        };
        if outcomes.is_empty() && connections_from.is_some() {
            self.lines.take_back(started, &site, &place, &sources);
        }
        let random = jitter();
        let news = News::of(&outcomes);
        self.lines.has_left(&site, &sources, full_source.zip(connections_from));
        // Where one address has no connection left, others may have.
        self.lines.finish(&site, &place, started, took, &news, connections_from.filter(|_| full_source.is_none()));
        self.heard(now, &site, news, random);
        let mut verdict = Verdict::new(id);
        let Some(entry) = self.entries.get_mut(&id) else { return verdict };
        let Some(part) = entry.parts.get_mut(&destination) else { return verdict };
        let mut outcomes: BTreeMap<u32, Outcome> = outcomes.into_iter().collect();
        let retry = &self.settings.retry;
        let when = When { now, expires: expires_at(&entry.message, retry), retry, random };
        for index in part.end_attempt() {
            let outcome = match outcomes.remove(&index) {
                Some(outcome) => outcome,
                None if connections_from.is_some() => {
                    part.before = Some(place.clone());
                    continue;
                }
                None => without_result(),
            };
            // What an operator made final meanwhile stays so: nobody is both bounced and delivered.
            if let Some(recipient) = entry.message.recipients.get(index as usize).filter(|r| r.is_open()) {
                verdict.add(index, &recipient.status, outcome, &when);
            }
        }
        entry.attempts -= 1;
        entry.message.apply(&verdict.update);
        entry.notices += u32::from(!verdict.failed.is_empty());
        self.refresh_part(now, id, &destination);
        verdict
    }

    /// The notice that an `Expire`, a `Notify` or a verdict with failures asked for is committed together with its update, or
    /// there was none to be written. The message leaves only then, so that its end is never recorded before its bounce.
    pub fn noticed(&mut self, id: QueueId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.notices = entry.notices.saturating_sub(1);
            self.settle(id);
        }
    }

    /// Keeps a message until one more notice about it is committed, which ends with `noticed`.
    pub fn keep(&mut self, id: QueueId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.notices += 1;
        }
    }

    /// Carries out a change that was made elsewhere, an operator's, on a message that is here; false if it isn't. Attempts in
    /// flight go on, and their outcomes count for recipients that are still open.
    pub fn change(&mut self, now: Timestamp, update: &Update) -> bool {
        self.watch_clock(now);
        let Some(entry) = self.entries.get_mut(&update.id) else { return false };
        let held = entry.message.held;
        entry.message.apply(update);
        if held && !entry.message.held {
            entry.since = now;
        }
        self.refresh(now, update.id);
        true
    }

    /// Drops a message without a further step; true if attempts of it are still in flight: their reports give verdicts as ever.
    pub fn forget(&mut self, id: QueueId) -> bool {
        let Some(mut entry) = self.take_out(id) else { return false };
        let in_flight = entry.attempts > 0;
        if in_flight {
            entry.forgotten = true;
            self.entries.insert(id, entry);
        }
        in_flight
    }

    /// Goes by other settings from now on; what is in flight stays.
    pub fn reconfigure(&mut self, now: Timestamp, settings: Settings) {
        self.lines.reconfigure(settings.attempts_max, settings.concurrency, settings.shares.clone());
        self.settings = settings;
        self.clock = now;
        self.sites = Sites::new(self.settings.destinations.clone(), self.settings.pools.clone());
        self.scatter(None);
    }

    /// Starts the attempt whose turn it is.
    fn start(&mut self, now: Timestamp) -> Option<Step> {
        let (site, place, Waiting { id, destination }, sources) = self.lines.take()?;
        let attempt = AttemptId(self.attempt_last + 1);
        let entry = self.entries.get_mut(&id)?;
        let part = entry.parts.get_mut(&destination)?;
        let bounds = self.lines.bounds(&site);
        // No bound holds a notice up; but the connection that it leaves behind is one from there.
        let (outgoing, leaving) = match place.is_notice() {
            true => (Outgoing::default(), bounds.sources.to_vec()),
            false => (bounds.outgoing, sources.clone()),
        };
        let recipients = part.begin_attempt(&entry.message, &self.paused_domains, now, RECIPIENTS_MAX);
        entry.waiting -= 1;
        entry.attempts += 1;
        self.attempt_last += 1;
        let flight = Flight { id, destination: destination.clone(), site: site.clone(), place, started: now, sources };
        self.attempts.insert(attempt, flight);
        Some(Step::Attempt(Attempt { attempt, id, destination, site, outgoing, sources: leaving, recipients }))
    }

    /// A clock that was set back: whoever waits for a time planned before waits no longer than one backoff.
    fn watch_clock(&mut self, now: Timestamp) {
        if self.clock == Timestamp::ZERO {
            self.since = now;
        }
        if now.plus(CLOCK_SLACK) < self.clock {
            self.clock = now;
            let latest = now.plus(wait_max(&self.settings.retry));
            self.since = self.since.min(now);
            self.entries.values_mut().for_each(|entry| entry.clock_went_back(now, latest));
            self.lines.clamp(now, latest);
            self.sites.clamp(now);
            self.refresh_all(now);
        }
        self.clock = now;
        self.lines.tick(now);
    }

    pub(super) fn refresh_all(&mut self, now: Timestamp) {
        let ids: Vec<QueueId> = self.entries.keys().copied().collect();
        for id in ids {
            self.refresh(now, id);
        }
    }

    /// Brings a message up to date with the time and its own state.
    pub(super) fn refresh(&mut self, now: Timestamp, id: QueueId) {
        self.postpone(now, id, None);
        let still = self.is_still();
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.forgotten) else { return };
        entry.away = None;
        // While all is still, time brings nothing about: what is due then happens when it goes on.
        if !entry.message.held && !still {
            let retry = &self.settings.retry;
            if expires_at(&entry.message, retry) <= now {
                self.steps.extend(entry.expire(now, &self.paused_domains));
            }
            if next_notice_at(&entry.message, retry) <= now {
                let deadline_over = deadline_notice_at(&entry.message) <= now;
                self.steps.extend(entry.notify(ages_reached(&entry.message, retry, now), deadline_over));
            }
        }
        let Entry { message, parts, waiting, .. } = entry;
        let mut plan = Plan::new(now, &mut self.lines, &mut self.sites, &mut self.steps, &self.paused_domains);
        for (destination, part) in parts.iter_mut() {
            plan.part(message, destination, part, waiting);
        }
        parts.retain(|_, part| !part.is_empty());
        self.settle(id);
    }

    /// The same after the end of an attempt: only its part has changed.
    fn refresh_part(&mut self, now: Timestamp, id: QueueId, destination: &Destination) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.forgotten {
            if entry.attempts == 0 {
                self.entries.remove(&id);
            }
            return;
        }
        self.postpone(now, id, Some(destination));
        let Some(Entry { message, parts, waiting, .. }) = self.entries.get_mut(&id) else { return };
        if let Some(part) = parts.get_mut(destination) {
            let mut plan = Plan::new(now, &mut self.lines, &mut self.sites, &mut self.steps, &self.paused_domains);
            plan.part(message, destination, part, waiting);
            if part.is_empty() {
                parts.remove(destination);
            }
        }
        self.settle(id);
    }

    /// Lines a message up for leaving if nothing keeps it, else sets its alarm.
    fn settle(&mut self, id: QueueId) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.forgotten) else { return };
        let alarm = if entry.stays() { entry.alarm_at(&self.settings.retry) } else { Timestamp::NEVER };
        if alarm != entry.alarm {
            self.alarms.remove(&(entry.alarm, id));
            entry.alarm = alarm;
            if alarm != Timestamp::NEVER {
                self.alarms.insert((alarm, id));
            }
        }
        if !entry.stays() && !entry.leaving {
            entry.leaving = true;
            self.leaving.push_back(id);
        }
    }

    /// Lets a message leave, unless something came up that keeps it.
    fn let_go(&mut self, now: Timestamp, id: QueueId) -> Option<Step> {
        let entry = self.entries.get_mut(&id)?;
        entry.leaving = false;
        if entry.forgotten || entry.stays() {
            return None;
        }
        let entry = self.take_out(id)?;
        if entry.message.is_done() {
            return Some(Step::Done { id, arrived: entry.message.arrived, recipients: entry.message.recipients.len() });
        }
        let due = match entry.away {
            Some(due) => due,
            None => self.park_until(now, &entry),
        };
        Some(Step::Park { id, due })
    }

    /// Takes a message out of its lines and of the alarms.
    fn take_out(&mut self, id: QueueId) -> Option<Entry> {
        let mut entry = self.entries.remove(&id)?;
        self.alarms.remove(&(entry.alarm, id));
        entry.alarm = Timestamp::NEVER;
        for part in entry.parts.values_mut() {
            part.step_out(&mut self.lines, &mut entry.waiting);
        }
        Some(entry)
    }
}
