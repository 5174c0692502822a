//! Failures and delays: who is told of them, and an operator's verbs. Owns nothing.

use std::collections::{BTreeSet, VecDeque};

use super::command::Changed;
use super::delivery::Delivery;
use super::notices::{NOTICES_MAX, Order, Saying};
use crate::event::{Event, NoticeKind};
use crate::mail::{Message, QueueId, Update};
use crate::notice::{self, Addressee, Topic};
use crate::queue::{LAST_CHANCE, Verb, expires_at};
use crate::spool::SpoolError;

/// A message that an order is about.
struct Found {
    message: Message,
    /// It was in the index, and is in memory for the order alone.
    was_parked: bool,
}

impl Delivery {
    /// Has those told whom it concerns that these recipients failed; their part of `update` becomes durable with the notice. What
    /// else it says is recorded at once, so that it can't come behind what happens to those recipients next.
    pub(super) async fn bounce(&mut self, message: &Message, mut update: Update, failed: &[u32]) {
        let (ours, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut update.statuses).into_iter().partition(|(index, _)| failed.contains(index));
        update.statuses = rest;
        if update != Update::new(message.id) {
            self.spool.update(update);
        }
        match self.failure(message, Update { statuses: ours, ..Update::new(message.id) }, failed) {
            Ok(order) => self.order(order).await,
            Err(update) => {
                self.spool.update(update);
                self.scheduler.noticed(message.id);
            }
        }
    }

    /// The notice that these recipients failed; the update back if nobody is to be told.
    fn failure(&self, message: &Message, update: Update, failed: &[u32]) -> Result<Order, Update> {
        let told = notice::wanted(message, failed.iter().copied(), Topic::Failure);
        if told.is_empty() {
            self.unnotified(message, failed, "the sender asked not to be told");
            return Err(update);
        }
        let kind = match notice::addressee(message, &told, &self.current.config.postmaster) {
            Some(Addressee::Sender(_)) => NoticeKind::Bounce,
            Some(Addressee::Postmaster(_)) => NoticeKind::DoubleBounce,
            None => {
                self.unnotified(message, &told, "a notice that not even the postmaster takes");
                return Err(update);
            }
        };
        Ok(Order { message: message.clone(), saying: Saying::Failed(kind), told, update })
    }

    fn unnotified(&self, message: &Message, failed: &[u32], reason: &str) {
        let first = failed.first().and_then(|index| message.recipients.get(*index as usize));
        let to = first.map(|recipient| recipient.address.clone());
        self.events.report(Event::Unnotified { id: message.id, to, reason: reason.to_owned() });
    }

    /// Has the sender told that these recipients still wait, and records `update` with it.
    pub(super) async fn tell_delay(&mut self, message: &Message, update: Update, late: &[u32]) {
        let topic = if update.deadline_told { Topic::Deadline } else { Topic::Delay };
        let told = notice::wanted(message, late.iter().copied(), topic);
        if told.is_empty() || message.reverse_path.address().is_none() {
            self.spool.update(update);
            return self.scheduler.noticed(message.id);
        }
        // Who outlived his lifetime while nobody could try it is told of the time that is left.
        let (now, expires) = (self.now(), expires_at(message, &self.current.config.retry));
        let expires = if expires <= now { now.plus(LAST_CHANCE) } else { expires };
        self.order(Order { message: message.clone(), saying: Saying::Late { expires }, told, update }).await;
    }

    /// The message that an order is about, wherever it is. None: there is none.
    async fn find(&mut self, id: QueueId) -> Result<Option<Found>, SpoolError> {
        self.notices_about(id).await;
        // What came back with its aliases expanded may have met others, of a new configuration: an order is about what it is in the end.
        while self.expanded.iter().any(|order| order.message.id == id) {
            self.confirm_expansions().await;
            self.notices_about(id).await;
        }
        if let Some(message) = self.scheduler.message(id).cloned() {
            return Ok(Some(Found { message, was_parked: false }));
        }
        if let Some(message) = self.spool.take(id).await? {
            return Ok(Some(Found { message, was_parked: true }));
        }
        // Just accepted and on its way here, or on its way out.
        Ok(self.spool.message(id).await?.map(|message| Found { message, was_parked: false }))
    }

    /// What no order changed goes back to where it was: what comes from the index stays in memory only if there is room, however long the
    /// queue is that an order is about.
    fn leave(&mut self, found: &Found) {
        if found.was_parked {
            self.settle_away(&found.message);
        }
    }

    /// What an order makes of a message, if anything.
    fn update(&self, verb: Verb, found: &Found) -> Option<Update> {
        verb.update(&found.message, &self.scheduler.in_flight(found.message.id), self.system.clock.now())
    }

    /// An operator verb on one message, but for bounces: whether it changed something; none if there is no such message.
    pub(super) async fn change_one(&mut self, verb: Verb, id: QueueId) -> Result<Option<bool>, SpoolError> {
        let Some(found) = self.find(id).await? else { return Ok(None) };
        let Some(update) = self.update(verb, &found) else {
            self.leave(&found);
            return Ok(Some(false));
        };
        self.spool.update(update.clone());
        self.changed(verb, found.message, update);
        Ok(Some(true))
    }

    /// Gives messages up, as an operator wants it; the bounces of some at a time share commits.
    pub(super) async fn bounce_all(&mut self, ids: Vec<QueueId>) -> Result<Changed, SpoolError> {
        let mut changed = Changed::default();
        let mut ids: VecDeque<QueueId> = ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        while !ids.is_empty() {
            let (mut orders, mut bounced, mut trouble) = (Vec::new(), Vec::new(), None);
            while orders.len() < NOTICES_MAX
                && let Some(id) = ids.pop_front()
            {
                let found = match self.find(id).await {
                    Ok(Some(found)) => found,
                    Ok(None) => {
                        changed.unknown.push(id);
                        continue;
                    }
                    // Those that were found before it are in memory for this alone: they have to get to their end.
                    Err(error) => {
                        trouble = Some(error);
                        break;
                    }
                };
                let Some(update) = self.update(Verb::Bounce, &found) else {
                    self.leave(&found);
                    continue;
                };
                let failed: Vec<u32> = update.statuses.iter().map(|(index, _)| *index).collect();
                let mut message = found.message.clone();
                message.apply(&update);
                match self.failure(&message, update.clone(), &failed) {
                    Ok(order) => {
                        orders.push(order);
                        bounced.push((found, update));
                    }
                    Err(update) => {
                        self.spool.update(update.clone());
                        self.changed(Verb::Bounce, found.message, update);
                        changed.touched += 1;
                    }
                }
            }
            for ((found, update), written) in bounced.into_iter().zip(self.write_now(orders).await) {
                match written {
                    Ok(()) => {
                        self.changed(Verb::Bounce, found.message, update);
                        changed.touched += 1;
                    }
                    Err(error) => {
                        self.leave(&found);
                        trouble = Some(error);
                    }
                }
            }
            trouble.map_or(Ok(()), Err)?;
        }
        self.spool.flush().await?;
        Ok(changed)
    }

    /// An operator's order is recorded: the log and the scheduler hear of it.
    fn changed(&mut self, verb: Verb, mut message: Message, update: Update) {
        let (id, now, touched) = (message.id, self.system.clock.now(), update.statuses.len());
        message.apply(&update);
        let from = message.reverse_path.clone();
        self.events.report(match verb {
            Verb::Retry => Event::Retried { id },
            Verb::Hold => Event::Held { id },
            Verb::Release => Event::Released { id },
            Verb::Bounce => Event::Bounced { id, from, recipients: touched },
            Verb::Remove => Event::Removed { id, from, recipients: touched },
        });
        if matches!(verb, Verb::Retry | Verb::Release) {
            // An admin's word counts for more than the memory of a destination that was down.
            let destinations = self.current.router.plan(&message, now).destinations;
            self.scheduler.forgive(destinations.into_iter().map(|(_, destination)| destination));
        }
        if !self.scheduler.change(now, &update) {
            self.settle_away(&message);
        }
    }

    /// What becomes of a changed message that isn't in the scheduler.
    fn settle_away(&mut self, message: &Message) {
        if message.is_done() {
            self.spool.done(message.id);
        } else {
            self.park(message.id, crate::queue::due_at(message, &self.current.config.retry));
        }
    }
}
