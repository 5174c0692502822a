//! Confirmations for senders who asked for them (NOTIFY=SUCCESS of RFC 3461): delivered, passed on to a server that confirms nothing,
//! or passed on to all for whom an address stands. And for those who were told of a delay, where that is configured: it is over.

use super::delivery::Delivery;
use super::notices::{Order, Saying};
use crate::mail::{DeliverByMode, Destination, Message, Outcome, Passed, RecipientState, Update};
use crate::notice::{self, Success, Topic};

/// What an attempt's outcomes give to confirm, to whom it happened, and what the next hop has taken over of that.
pub(super) fn confirmable(outcomes: &[(u32, Outcome)], destination: &Destination) -> (Success, Vec<(u32, Passed)>) {
    let what = match destination {
        // An LMTP server is a mailbox store: what it has taken is delivered.
        Destination::Local(_) | Destination::Lmtp(_) => Success::Delivered,
        Destination::Route(_) | Destination::Mx(_) => Success::Relayed,
    };
    let done = outcomes.iter().filter_map(|(index, outcome)| match outcome {
        Outcome::Delivered(diagnosis) => Some((*index, diagnosis.passed)),
        _ => None,
    });
    (what, done.collect())
}

/// Whether the sender is told of this recipient: of success where that is wanted and nobody else will speak of it, and of the next
/// step of a message whose way is to be traced (RFC 2852 section 4.1): each with `T`, or the last that is known.
fn is_told(message: &Message, index: u32, what: Success, passed: Passed) -> bool {
    let wanted = |topic| !notice::wanted(message, [index], topic).is_empty();
    let by = message.deadline().map(|(_, by)| by).filter(|_| what == Success::Relayed);
    let traced = by.is_some_and(|by| by.trace || by.mode == DeliverByMode::Notify && !passed.deliver_by);
    !passed.dsn && wanted(Topic::Success) || traced && wanted(Topic::Deadline)
}

/// Whether the sender was told of a delay of this recipient, so far as that depends on the message.
fn was_late(message: &Message, index: u32) -> bool {
    let told = |topic| !notice::wanted(message, [index], topic).is_empty();
    message.delays_noticed > 0 && told(Topic::Delay) || message.deadline().is_some_and(|(_, by)| by.told) && told(Topic::Deadline)
}

impl Delivery {
    /// Has what of `done` happened and is wanted confirmed, and those recipients' statuses recorded with it. Returns the rest of the
    /// update.
    pub(super) async fn confirm(
        &mut self,
        message: &Message,
        mut update: Update,
        what: Success,
        done: Vec<(u32, Passed)>,
    ) -> Update {
        let delay_over = self.current.config.notice.delay_over;
        let said = |index: u32| {
            let (_, passed) = done.iter().find(|(done, _)| *done == index)?;
            let late = delay_over && was_late(message, index);
            is_told(message, index, what, *passed).then_some(Saying::Done(what)).or(late.then_some(Saying::DelayOver(what)))
        };
        for saying in [Saying::Done(what), Saying::DelayOver(what)] {
            let is_told = |index: u32, state| state == RecipientState::Delivered && said(index) == Some(saying);
            let (ours, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut update.statuses).into_iter().partition(|(index, status)| is_told(*index, status.state));
            update.statuses = rest;
            if !ours.is_empty() {
                let told: Vec<u32> = ours.iter().map(|(index, _)| *index).collect();
                let mut message = message.clone();
                let update = Update { statuses: ours, ..Update::new(message.id) };
                message.apply(&update);
                self.scheduler.keep(message.id);
                self.order(Order { message, saying, told, update }).await;
            }
        }
        update
    }

    /// Confirms that these addresses are passed on to all for whom they stand.
    pub(super) async fn confirm_expansions(&mut self) {
        for order in std::mem::take(&mut self.expanded) {
            self.order(order).await;
        }
    }
}
