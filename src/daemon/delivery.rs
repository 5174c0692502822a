//! The delivery loop: the one task that owns the scheduler. New mail, outcomes, orders and time come in; attempts are started,
//! states recorded, notices spooled.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::awaken::Awakening;
use super::clocks::Clocks;
use super::command::Command;
use super::confirm::confirmable;
use super::current::Current;
use super::lookups::Lookups;
use super::notices::{Notices, Order};
use super::pauses::Pauses;
use super::report;
use crate::deliver::{self, Attempted};
use crate::event::{Event, Events};
use crate::listen::Taker;
use crate::mail::{Cause, Destination, Diagnosis, EnhancedCode, Forward, Outcome, QueueId, Recipient, Timestamp};
use crate::notice::Digest;
use crate::queue::{Attempt, AttemptId, Down, Report, Scheduler, Step};
use crate::spool::{Spool, SpoolError};
use crate::system::System;

/// Attempts whose ends are taken in one go.
const ENDED_MAX: usize = 64;
/// Messages looked at in the index in one go.
pub(super) const BATCH_MAX: usize = 256;
/// The loop looks at the wall clock at least this often, because that can jump.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(60);
/// Whether rates were forgotten is asked so often.
const RATES_EVERY: Duration = Duration::from_secs(60);
/// A message whose bounce could not be spooled is tried again after this time.
const TROUBLE_WAIT: Duration = Duration::from_secs(300);

/// The loop's state.
pub(super) struct Delivery {
    pub(super) spool: Spool,
    pub(super) events: Events,
    pub(super) system: System,
    pub(super) scheduler: Scheduler,
    pub(super) current: Arc<Current>,
    pub(super) pauses: Pauses,
    /// What is to be told of messages with recipients that become several others; they come back here when it is.
    pub(super) expanded: Vec<Order>,
    attempts: JoinSet<Attempted>,
    /// What each task of `attempts` is about.
    running: HashMap<tokio::task::Id, Running>,
    /// When the index next has something; none: nothing is known.
    pub(super) next_due: Option<Timestamp>,
    pub(super) spool_path: PathBuf,
    /// Wall clock and monotonic clock.
    pub(super) clocks: Clocks,
    /// When it was last asked whether rates were forgotten, by the monotonic clock.
    rates_asked: Duration,
    /// Destinations that are back, whose parked mail is being fetched.
    pub(super) awakening: Awakening,
    /// Notices under way.
    pub(super) notices: Notices,
    /// Those that weren't sent.
    pub(super) digest: Digest,
    /// Questions to the DNS under way.
    lookups: Lookups,
    /// Since when the spool can't record anything, by the monotonic clock.
    pub(super) stalled: Option<Duration>,
}

/// The loop's inputs.
pub(super) struct Inputs {
    /// New mail; the message itself is in the spool.
    pub(super) accepted: Taker,
    /// Orders.
    pub(super) commands: mpsc::Receiver<Command>,
    /// The server stops.
    pub(super) stop: watch::Receiver<bool>,
}

/// An attempt under way.
struct Running {
    attempt: AttemptId,
    id: QueueId,
    destination: Destination,
    recipients: usize,
    /// By the monotonic clock.
    started: Duration,
}

/// How a task of `attempts` ended.
type Ended = Result<(tokio::task::Id, Attempted), JoinError>;

impl Delivery {
    pub(super) fn new(spool: Spool, events: Events, system: System, current: Arc<Current>, pauses: Pauses) -> Self {
        let mut scheduler = Scheduler::new(current.settings());
        let now = system.clock.now();
        if pauses.all {
            scheduler.pause(now, None);
        }
        for domain in &pauses.domains {
            scheduler.pause(now, Some(domain.clone()));
        }
        let spool_path = current.config.spool.path.clone();
        let next_due = Some(Timestamp::ZERO);
        let clocks = Clocks::new(&spool, &*system.clock);
        Self {
            spool,
            events,
            system,
            scheduler,
            current,
            pauses,
            expanded: Vec::new(),
            attempts: JoinSet::new(),
            running: HashMap::new(),
            next_due,
            spool_path,
            rates_asked: clocks.looked_at(),
            clocks,
            awakening: Awakening::new(),
            notices: Notices::default(),
            digest: Digest::new(now),
            lookups: Lookups::default(),
            stalled: None,
        }
    }

    /// Runs until the stop; then waits for the attempts in flight, at most `shutdown_grace`. Returns how many were cut off.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> usize {
        loop {
            // What is new comes in whatever else there is to do: else a flood of outcomes would keep a single letter waiting.
            self.admit_some(&mut inputs.accepted);
            self.plan().await;
            let wait = self.wait();
            tokio::select! {
                biased;
                () = stopped(&mut inputs.stop) => break,
                Some(command) = inputs.commands.recv() => {
                    self.admit_waiting(&mut inputs.accepted);
                    self.command(command).await;
                }
                Some((order, written)) = self.notices.next(), if !self.notices.is_empty() => self.written(order, written),
                () = self.spool.left() => self.next_due = Some(Timestamp::ZERO),
                Some((domain, hosts)) = self.lookups.next() => self.scheduler.located(self.now(), domain, hosts),
                Some(ended) = self.attempts.join_next_with_id(), if !self.attempts.is_empty() => {
                    self.ended(ended).await;
                    for _ in 1..ENDED_MAX {
                        let Some(ended) = self.attempts.try_join_next_with_id() else { break };
                        self.ended(ended).await;
                    }
                }
                () = inputs.accepted.given() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.finish(inputs).await
    }

    async fn finish(mut self, inputs: Inputs) -> usize {
        // Whoever asked for something hears at once that the server is stopping. The senders of the rest have the 250: the spool has
        // it, the next start finds it.
        drop(inputs);
        let current = Arc::clone(&self.current);
        let grace = tokio::time::sleep(current.config.shutdown_grace);
        tokio::pin!(grace);
        while !self.attempts.is_empty() || !self.notices.is_empty() {
            tokio::select! {
                biased;
                Some((order, written)) = self.notices.next(), if !self.notices.is_empty() => self.written(order, written),
                Some(ended) = self.attempts.join_next_with_id() => self.ended(ended).await,
                () = &mut grace => break,
            }
        }
        self.close_books().await;
        self.send_digest().await;
        let unfinished = self.attempts.len();
        self.attempts.abort_all();
        self.current.deliverer.close().await;
        unfinished
    }

    /// What the last attempts brought to its end is on record before the stop, and its content is gone. Everything else that the scheduler
    /// wants the next start finds by itself.
    async fn close_books(&mut self) {
        self.scheduler.pause(self.now(), None);
        while let Some(step) = self.scheduler.next(self.now()) {
            if matches!(step, Step::Done { .. }) {
                self.carry_out(step).await;
            }
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.system.clock.now()
    }

    /// Until when nothing happens by itself.
    fn wait(&self) -> Duration {
        // What the last steps brought here is expanded at once, too.
        if !self.expanded.is_empty() {
            return Duration::ZERO;
        }
        let due = if self.scheduler.is_still() { None } else { self.next_due };
        let next = [self.scheduler.deadline(), due, self.digest_due(), self.awakens_at(), self.looks_at_log_at()]
            .into_iter()
            .flatten()
            .min();
        next.map_or(LOOK_MAX, |next| next.since(self.now())).min(LOOK_MAX)
    }

    /// Carries out what the scheduler wants, and fetches from the index what has become due.
    async fn plan(&mut self) {
        self.watch_log();
        self.watch_clocks().await;
        self.tell_forgotten();
        self.awaken().await;
        self.tell_digest().await;
        // A page at a time: what ends and what comes in meanwhile doesn't wait for all that is due.
        self.fetch_due().await;
        self.confirm_expansions().await;
        while let Some(step) = self.scheduler.next(self.now()) {
            self.carry_out(step).await;
        }
    }

    fn tell_forgotten(&mut self) {
        let now = self.clocks.looked_at();
        if now < self.rates_asked + RATES_EVERY {
            return;
        }
        self.rates_asked = now;
        let destinations = self.scheduler.forgotten() + self.current.deliverer.forgotten();
        if destinations > 0 {
            self.events.report(Event::RatesForgotten { destinations });
        }
    }

    pub(super) fn trouble(&self, id: Option<QueueId>, operation: &'static str, error: &SpoolError) {
        self.events.report(Event::SpoolTrouble { id, operation, reason: error.to_string() });
    }

    pub(super) async fn carry_out(&mut self, step: Step) {
        match step {
            Step::Attempt(attempt) => self.start(attempt),
            Step::Expire { id, recipients, update } => {
                let message = self.scheduler.message(id).cloned();
                if let Some(message) = message {
                    report::expiries(&self.events, self.now(), &message, &update, &self.current.router);
                    self.bounce(&message, update, &recipients).await;
                }
            }
            Step::Notify { id, recipients, update, .. } => {
                let message = self.scheduler.message(id).cloned();
                if let Some(message) = message {
                    self.tell_delay(&message, update, &recipients).await;
                }
            }
            Step::Postpone { id, destination, update } => {
                report::postponed(&self.events, id, destination, &update);
                self.spool.update(update);
            }
            Step::Locate { domain } => self.lookups.start(domain, &self.current.router),
            Step::Down { site, domains, down: Down { until, failures, why } } => {
                self.awakening.stop(&domains);
                self.events.report(Event::DestinationDown {
                    destination: site,
                    attempts: failures,
                    reply: why.text,
                    next_attempt: until,
                });
            }
            Step::Up { site, domains, down } => {
                self.awakening.start(domains);
                self.events.report(Event::DestinationUp { destination: site, attempts: down.failures });
            }
            Step::Moved { domain, site } => {
                self.awakening.start(vec![domain.clone()]);
                self.events.report(Event::DestinationMoved { domain, destination: site });
            }
            Step::Recall { ids } => self.recall(ids).await,
            Step::Park { id, due } => self.park(id, due),
            Step::Done { id, arrived, recipients } => {
                self.spool.done(id);
                self.events.report(Event::Finished { id, delay: self.now().since(arrived), recipients });
            }
        }
    }

    pub(super) fn park(&mut self, id: QueueId, due: Timestamp) {
        self.spool.park(id, due);
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }

    /// Lets the message rest after trouble that was ours; its state stays what the spool has.
    pub(super) fn rest(&mut self, id: QueueId) {
        self.scheduler.forget(id);
        self.park(id, self.now().plus(TROUBLE_WAIT));
    }

    fn start(&mut self, attempt: Attempt) {
        let Some(message) = self.scheduler.message(attempt.id) else { return };
        let (reverse_path, body, arrived) = (message.reverse_path.clone(), message.body, message.arrived);
        let (is_notice, request) = (message.is_notice(), message.request.clone());
        let (spool, current) = (self.spool.clone(), Arc::clone(&self.current));
        let attempts = attempt.recipients.iter().filter_map(|(index, _)| message.recipients.get(*index as usize));
        let attempts = attempts.map(|recipient| recipient.status.attempts).max().unwrap_or(0);
        self.events.report(Event::Attempting {
            id: attempt.id,
            destination: attempt.destination.clone(),
            recipients: attempt.recipients.len(),
            attempts,
        });
        let dsn = |index: u32| message.recipients.get(index as usize).and_then(Recipient::passed_on);
        let Attempt { attempt, id, destination, site, outgoing, sources, recipients } = attempt;
        let recipients =
            recipients.into_iter().map(|(index, address)| (index, Forward { address, dsn: dsn(index) })).collect::<Vec<_>>();
        let again = attempts > 0 || spool.may_be_from_before(id);
        let started = self.system.clock.monotonic();
        let running = Running { attempt, id, destination: destination.clone(), recipients: recipients.len(), started };
        let task = self.attempts.spawn(async move {
            match spool.content(id).await {
                Ok(content) => {
                    let attempt = deliver::Attempt {
                        id,
                        reverse_path,
                        body,
                        is_notice,
                        request,
                        arrived,
                        destination,
                        site,
                        outgoing,
                        sources,
                        recipients,
                        again,
                        content,
                    };
                    current.deliverer.attempt(attempt).await
                }
                Err(error) => recipients.into_iter().map(|(index, _)| (index, unreadable(&error))).collect::<Vec<_>>().into(),
            }
        });
        self.running.insert(task.id(), running);
    }

    async fn ended(&mut self, ended: Ended) {
        let (task, Attempted { outcomes, connections_from, full_source }) = match ended {
            Ok(ended) => ended,
            // A bug in one attempt: its recipients count as deferred, the others go on.
            Err(error) => {
                self.events.report(Event::Trouble { id: None, operation: "attempt", reason: error.to_string() });
                (error.id(), Vec::new().into())
            }
        };
        let Some(Running { attempt, id, destination, recipients, started }) = self.running.remove(&task) else { return };
        let now = self.now();
        if let Some(next_attempt) = connections_from.filter(|_| outcomes.len() < recipients) {
            let recipients = recipients - outcomes.len();
            self.events.report(Event::Waiting { id, destination: destination.clone(), recipients, next_attempt });
        }
        let in_doubt = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::InDoubt(_)));
        let in_doubt: BTreeSet<u32> = in_doubt.map(|(index, _)| *index).collect();
        let message = self.scheduler.message(id).cloned();
        let (what, done) = confirmable(&outcomes, &destination);
        let entropy = Arc::clone(&self.system.entropy);
        let took = Some(self.system.clock.monotonic().saturating_sub(started));
        let report = Report { outcomes, connections_from, full_source, took };
        let verdict = self.scheduler.report(now, attempt, report, &mut || entropy.fraction());
        let Some(mut message) = message.filter(|_| !verdict.update.statuses.is_empty()) else { return };
        report::statuses(&self.events, now, &message, &destination, &verdict.update, &in_doubt);
        let update = self.confirm(&message, verdict.update, what, done).await;
        if update.statuses.is_empty() {
            return;
        }
        if verdict.failed.is_empty() {
            self.spool.update(update);
        } else {
            message.apply(&update);
            self.bounce(&message, update, &verdict.failed).await;
        }
    }
}

/// Waits for the stop. The guard that `wait_for` returns must not live on.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn unreadable(error: &SpoolError) -> Outcome {
    Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 3, 0), Cause::Local, format!("the spool can't read the message: {error}")))
}
