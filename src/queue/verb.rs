//! What an admin may do to queued messages: the operator verbs and the updates they come to.

use serde::{Deserialize, Serialize};

use crate::mail::{Cause, EnhancedCode, Message, RecipientState, RecipientStatus, Timestamp, Update};

/// An operator verb, the same in command line, console and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Try every open recipient now.
    Retry,
    /// No attempt, no expiry, until released.
    Hold,
    /// Ends a hold; what is due is tried at once.
    Release,
    /// Give up every open recipient and tell the sender.
    Bounce,
    /// Give up every open recipient and tell nobody.
    Remove,
}

impl Verb {
    /// The update that carries the verb out on a message, for the spool and for `Scheduler::change`; `None` when there is nothing
    /// to do. `in_flight` (see `Scheduler::in_flight`) are recipients whose attempt is under way: a bounce leaves them out,
    /// because they may be delivered this very moment.
    pub fn update(self, message: &Message, in_flight: &[u32], now: Timestamp) -> Option<Update> {
        let mut update = Update::new(message.id);
        match self {
            Self::Hold | Self::Release => {
                let held = self == Self::Hold;
                update.held = (message.held != held).then_some(held);
            }
            Self::Retry => change_open(&mut update, message, &[], |status| status.next_attempt = now),
            Self::Bounce => change_open(&mut update, message, in_flight, |status| {
                status.state = RecipientState::Bounced;
                status.last_status = Some(EnhancedCode(5, 7, 0));
                status.last_cause = Some(Cause::Operator);
            }),
            Self::Remove => change_open(&mut update, message, &[], |status| {
                status.state = RecipientState::Removed;
                status.last_cause = Some(Cause::Operator);
            }),
        }
        (update.held.is_some() || !update.statuses.is_empty()).then_some(update)
    }
}

fn change_open(update: &mut Update, message: &Message, except: &[u32], change: impl Fn(&mut RecipientStatus)) {
    for (index, recipient) in (0u32..).zip(&message.recipients) {
        if recipient.is_open() && !except.contains(&index) {
            let mut status = recipient.status.clone();
            change(&mut status);
            update.statuses.push((index, status));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(5000);

    fn message() -> Message {
        let mut message = Message::sample(1, Timestamp::ZERO, "", &["a@x.test", "b@x.test", "c@x.test"]);
        message.recipients.iter_mut().for_each(|recipient| recipient.status.next_attempt = Timestamp::NEVER);
        message.recipients[0].status.state = RecipientState::Delivered;
        message
    }

    #[test]
    fn verbs_touch_only_open_recipients() {
        let message = message();
        let states = |verb: Verb, in_flight: &[u32]| {
            let update = verb.update(&message, in_flight, NOW).unwrap();
            update.statuses.iter().map(|(index, status)| (*index, status.state)).collect::<Vec<_>>()
        };
        assert_eq!(states(Verb::Remove, &[2]), [(1, RecipientState::Removed), (2, RecipientState::Removed)]);
        assert_eq!(states(Verb::Bounce, &[2]), [(1, RecipientState::Bounced)]);
        let update = Verb::Retry.update(&message, &[], NOW).unwrap();
        assert!(update.statuses.iter().all(|(_, status)| status.next_attempt == NOW));
    }

    #[test]
    fn what_changes_nothing_is_nothing() {
        let mut message = message();
        assert_eq!(Verb::Release.update(&message, &[], NOW), None);
        assert_eq!(Verb::Hold.update(&message, &[], NOW).unwrap().held, Some(true));
        message.held = true;
        assert_eq!(Verb::Hold.update(&message, &[], NOW), None);
        assert_eq!(Verb::Release.update(&message, &[], NOW).unwrap().held, Some(false));
    }
}
