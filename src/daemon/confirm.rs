//! Confirmations for senders who asked for them (NOTIFY=SUCCESS of RFC 3461): delivered, passed on to a server that confirms nothing,
//! or passed on to all for whom an address stands. And for those who were told of a delay, where that is configured: it is over.

use crate::event::NoticeKind;
use crate::mail::{DeliverByMode, Destination, Message, Outcome, Passed, RecipientState, Update};
use crate::notice::{self, Success, Topic};

use super::delivery::Delivery;

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
    /// Confirms what of `done` happened and is wanted, and records those recipients' statuses with it. Returns the rest of the update.
    pub(super) async fn confirm(
        &mut self,
        message: &Message,
        mut update: Update,
        what: Success,
        done: Vec<(u32, Passed)>,
    ) -> Update {
        let delay_over = self.current.config.notice.delay_over;
        let kind = |index: u32| {
            let (_, passed) = done.iter().find(|(done, _)| *done == index)?;
            let late = delay_over && was_late(message, index);
            is_told(message, index, what, *passed).then_some(NoticeKind::Success).or(late.then_some(NoticeKind::DelayOver))
        };
        for told in [NoticeKind::Success, NoticeKind::DelayOver] {
            let is_told = |index: u32, state| state == RecipientState::Delivered && kind(index) == Some(told);
            let (ours, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut update.statuses).into_iter().partition(|(index, status)| is_told(*index, status.state));
            update.statuses = rest;
            if !ours.is_empty() {
                let indexes: Vec<u32> = ours.iter().map(|(index, _)| *index).collect();
                let mut message = message.clone();
                let ours = Update { statuses: ours, ..Update::new(message.id) };
                message.apply(&ours);
                self.tell_success(&message, ours, told, what, &indexes).await;
            }
        }
        update
    }

    /// Confirms that these addresses were passed on to all for whom they stand.
    pub(super) async fn confirm_expansions(&mut self) {
        for (message, expanded) in std::mem::take(&mut self.expanded) {
            self.tell_success(&message, Update::new(message.id), NoticeKind::Success, Success::Expanded, &expanded).await;
        }
    }

    /// Tells the sender. What happened is recorded even if the notice can't be.
    async fn tell_success(&mut self, message: &Message, update: Update, kind: NoticeKind, what: Success, told: &[u32]) {
        let context = self.context();
        let header = self.header(message.id).await;
        let write = if kind == NoticeKind::DelayOver { notice::delay_over } else { notice::success };
        let Some(notice) = write(&context, message, told, what, &header) else {
            return self.record(update);
        };
        if let Err(error) = self.submit(message.id, kind, notice, update.clone(), told.len()).await {
            self.trouble(Some(message.id), "success notice", &error);
            self.record(update);
        }
    }

    fn record(&self, update: Update) {
        if !update.statuses.is_empty() {
            self.spool.update(update);
        }
    }
}
