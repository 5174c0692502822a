//! Confirmations for senders who asked for them (NOTIFY=SUCCESS of RFC 3461): delivered, passed on to a server that confirms nothing,
//! or passed on to all for whom an address stands.

use crate::event::NoticeKind;
use crate::mail::{Destination, Message, Outcome, RecipientState, Update};
use crate::notice::{self, Success, Topic};

use super::delivery::Delivery;

/// What an attempt's outcomes give to confirm, and to whom it happened: nothing where the next hop has taken that over.
pub(super) fn confirmable(outcomes: &[(u32, Outcome)], destination: &Destination) -> (Success, Vec<u32>) {
    let what = match destination {
        // An LMTP server is a mailbox store: what it has taken is delivered.
        Destination::Local(_) | Destination::Lmtp(_) => Success::Delivered,
        Destination::Route(_) | Destination::Mx(_) => Success::Relayed,
    };
    let ours = |outcome: &Outcome| matches!(outcome, Outcome::Delivered(diagnosis) if !diagnosis.passed.dsn);
    (what, outcomes.iter().filter(|(_, outcome)| ours(outcome)).map(|(index, _)| *index).collect())
}

impl Delivery {
    /// Confirms what of `done` happened and is wanted, and records those recipients' statuses with it. Returns the rest of the update.
    pub(super) async fn confirm(&mut self, message: &Message, mut update: Update, what: Success, done: Vec<u32>) -> Update {
        let told = notice::wanted(message, done, Topic::Success);
        let is_told = |index: &u32, state| told.contains(index) && state == RecipientState::Delivered;
        let (ours, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut update.statuses).into_iter().partition(|(index, status)| is_told(index, status.state));
        update.statuses = rest;
        if !ours.is_empty() {
            let told: Vec<u32> = ours.iter().map(|(index, _)| *index).collect();
            let mut message = message.clone();
            let ours = Update { statuses: ours, ..Update::new(message.id) };
            message.apply(&ours);
            self.tell_success(&message, ours, what, &told).await;
        }
        update
    }

    /// Confirms that these addresses were passed on to all for whom they stand.
    pub(super) async fn confirm_expansions(&mut self) {
        for (message, expanded) in std::mem::take(&mut self.expanded) {
            self.tell_success(&message, Update::new(message.id), Success::Expanded, &expanded).await;
        }
    }

    /// Tells the sender. What happened is recorded even if the notice can't be.
    async fn tell_success(&mut self, message: &Message, update: Update, what: Success, told: &[u32]) {
        let context = self.context();
        let header = self.header(message.id).await;
        let Some(notice) = notice::success(&context, message, told, what, &header) else {
            return self.record(update);
        };
        if let Err(error) = self.submit(message.id, NoticeKind::Success, notice, update.clone(), told.len()).await {
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
