//! Failures and delays: who is told of them, and an operator's verbs. Owns nothing.

use super::delivery::Delivery;
use super::notices::{Order, Saying};
use crate::event::{Event, NoticeKind};
use crate::mail::{Message, QueueId, Update};
use crate::notice::{self, Addressee, Topic};
use crate::queue::{Verb, expires_at};
use crate::spool::SpoolError;

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
        let expires = expires_at(message, &self.current.config.retry);
        self.order(Order { message: message.clone(), saying: Saying::Late { expires }, told, update }).await;
    }

    /// An operator verb on one message: whether it changed something; none if there is no such message.
    pub(super) async fn change_one(&mut self, verb: Verb, id: QueueId) -> Result<Option<bool>, SpoolError> {
        if let Some(message) = self.scheduler.message(id).cloned() {
            return self.change_message(verb, message).await.map(Some);
        }
        if let Some(message) = self.spool.take(id).await? {
            // It goes back into the index, and comes from there when there is room: an order about a long queue fills no memory.
            let changed = self.change_message(verb, message.clone()).await;
            if !matches!(changed, Ok(true)) {
                self.settle_away(&message);
            }
            return changed.map(Some);
        }
        // Just accepted and on its way here, or on its way out.
        match self.spool.message(id).await? {
            Some(message) => self.change_message(verb, message).await.map(Some),
            None => Ok(None),
        }
    }

    async fn change_message(&mut self, verb: Verb, mut message: Message) -> Result<bool, SpoolError> {
        let (id, now) = (message.id, self.system.clock.now());
        let Some(update) = verb.update(&message, &self.scheduler.in_flight(id), now) else { return Ok(false) };
        let touched: Vec<u32> = update.statuses.iter().map(|(index, _)| *index).collect();
        message.apply(&update);
        if verb == Verb::Bounce {
            match self.failure(&message, update.clone(), &touched) {
                Ok(order) => self.write_now(order).await?,
                Err(update) => self.spool.update(update),
            }
        } else {
            self.spool.update(update.clone());
        }
        let from = message.reverse_path.clone();
        self.events.report(match verb {
            Verb::Retry => Event::Retried { id },
            Verb::Hold => Event::Held { id },
            Verb::Release => Event::Released { id },
            Verb::Bounce => Event::Bounced { id, from, recipients: touched.len() },
            Verb::Remove => Event::Removed { id, from, recipients: touched.len() },
        });
        if matches!(verb, Verb::Retry | Verb::Release) {
            // An admin's word counts for more than the memory of a destination that was down.
            let destinations = self.current.router.plan(&message, now).destinations;
            self.scheduler.forgive(destinations.into_iter().map(|(_, destination)| destination));
        }
        if !self.scheduler.change(now, &update) {
            self.settle_away(&message);
        }
        Ok(true)
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
