//! How messages come to the scheduler: new ones from the sessions, and those that are due from the index. State: the delivery loop's.

use std::sync::Arc;

use super::delivery::{Delivery, LOOK_MAX};
use super::notices::{Order, Saying};
use super::report;
use crate::listen::Taker;
use crate::mail::{Message, QueueId};
use crate::notice::Success;
use crate::queue;
use crate::route::Plan;
use crate::spool::SpoolError;

/// Messages taken from the channel in one go.
const NEW_MAX: usize = 256;
/// Messages taken from the index in one go.
const DUE_MAX: usize = 64;

impl Delivery {
    /// Admits messages that are due. For whom there is no room, the scheduler has another place.
    pub(super) async fn fetch_due(&mut self) {
        let now = self.now();
        if self.scheduler.is_still() || self.next_due.is_none_or(|due| due > now) {
            return;
        }
        match self.spool.due(now, DUE_MAX).await {
            Ok(messages) => messages.into_iter().for_each(|message| self.admit(message)),
            Err(error) => return self.index_trouble(&error),
        }
        match self.spool.next_due().await {
            Ok(due) => self.next_due = due,
            Err(error) => self.index_trouble(&error),
        }
    }

    fn index_trouble(&mut self, error: &SpoolError) {
        self.trouble(None, "index", error);
        self.next_due = Some(self.now().plus(LOOK_MAX));
    }

    /// Admits what waits in the channel.
    pub(super) fn admit_some(&mut self, accepted: &mut Taker) {
        for _ in 0..NEW_MAX {
            let Some(id) = accepted.try_take() else { return };
            self.admit_new(id);
        }
    }

    /// Admits a message that was just accepted, as the spool has it by now: an order may have changed it, parked it or ended it while
    /// it was on its way here.
    pub(super) fn admit_new(&mut self, id: QueueId) {
        let Some(message) = self.spool.active(id) else { return };
        if self.scheduler.is_still() {
            // Nothing is attempted: it takes no room here, and comes from the index when that goes on.
            self.spool.park(id, queue::due_at(&message, &self.current.config.retry));
        } else {
            self.admit(Arc::unwrap_or_clone(message));
        }
    }

    /// Takes all that waits in the channel: an order must find every message either here or in the index.
    pub(super) fn admit_waiting(&mut self, accepted: &mut Taker) {
        while let Some(id) = accepted.try_take() {
            self.admit_new(id);
        }
    }

    /// Expands aliases and hands the message to the scheduler. If the sender is to be told of that, both happens together with the notice,
    /// and the message comes here again.
    pub(super) fn admit(&mut self, mut message: Message) {
        let now = self.now();
        let Plan { update, destinations, expanded } = self.current.router.plan(&message, now);
        if !expanded.is_empty() {
            message.apply(&update);
            self.scheduler.forget(message.id);
            let saying = Saying::Done(Success::Expanded);
            return self.expanded.push(Order { message, saying, told: expanded, update });
        }
        if !update.statuses.is_empty() {
            report::expansions(&self.events, &message, &update);
            message.apply(&update);
            self.spool.update(update);
        }
        self.scheduler.admit(now, message, destinations);
    }
}
