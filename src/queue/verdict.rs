//! What outcomes mean for recipients: delivered, to be tried again at a time, or bounced.

use super::backoff::{backoff, hinted};
use crate::config::Retry;
use crate::mail::{
    Cause, Diagnosis, EnhancedCode, Message, Outcome, QueueId, RecipientState, RecipientStatus, Timestamp, Update,
};

/// Delivery time expired, for good (RFC 3463 section 3.5, X.4.7).
const EXPIRED: EnhancedCode = EnhancedCode(5, 4, 7);

/// What an attempt's outcomes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The recipients' new statuses, for the spool.
    pub update: Update,
    /// Those that failed, by index: `update` says `Bounced` of them already, and the sender is to be told.
    pub failed: Vec<u32>,
}

impl Verdict {
    pub(super) fn new(id: QueueId) -> Self {
        Self { update: Update::new(id), failed: Vec::new() }
    }

    /// Takes one recipient's outcome; `expired`: there is no time for another attempt.
    pub(super) fn add(&mut self, index: u32, old: &RecipientStatus, outcome: Outcome, when: &When<'_>) {
        let mut status = RecipientStatus { attempts: old.attempts.saturating_add(1), ..old.clone() };
        let in_doubt = matches!(outcome, Outcome::InDoubt(_));
        let (state, diagnosis) = match outcome {
            Outcome::Delivered(diagnosis) => (RecipientState::Delivered, diagnosis),
            Outcome::Deferred(diagnosis) | Outcome::InDoubt(diagnosis) => (RecipientState::Deferred, diagnosis),
            Outcome::Failed(diagnosis) => (RecipientState::Bounced, diagnosis),
        };
        let Diagnosis { status: code, cause, text, next_hop, passed: _, wait, turned_away: _ } = diagnosis;
        status.state = state;
        status.last_status = Some(code);
        status.last_cause = Some(cause);
        status.last_reply = text;
        status.next_hop = next_hop;
        if state == RecipientState::Deferred {
            if when.expires <= when.now {
                status = expired(&status);
            } else {
                let usual = backoff(when.retry, status.attempts, in_doubt, when.random);
                let wait = wait.filter(|_| !in_doubt).and_then(|wait| hinted(when.retry, status.attempts, wait, when.random));
                status.next_attempt = when.now.plus(wait.unwrap_or(usual));
            }
        }
        if status.state == RecipientState::Bounced {
            self.failed.push(index);
        }
        self.update.statuses.push((index, status));
    }
}

/// The times that decide about a deferred recipient.
pub(super) struct When<'a> {
    pub(super) now: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) retry: &'a Retry,
    /// 0 to 1. One number for all recipients of an attempt, so that they stay together in the next one.
    pub(super) random: f64,
}

/// The status of a recipient that waited too long. Words and next hop of the last attempt stay: they say what was in the way.
pub(super) fn expired(old: &RecipientStatus) -> RecipientStatus {
    RecipientStatus {
        state: RecipientState::Bounced,
        last_status: Some(EXPIRED),
        last_cause: Some(Cause::Expired),
        ..old.clone()
    }
}

/// Expires these recipients of a message.
pub(super) fn expire(message: &Message, recipients: &[u32]) -> Update {
    let mut update = Update::new(message.id);
    for index in recipients {
        if let Some(recipient) = message.recipients.get(*index as usize) {
            update.statuses.push((*index, expired(&recipient.status)));
        }
    }
    update
}

/// For a recipient about whom an attempt said nothing.
pub(super) fn without_result() -> Outcome {
    Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 3, 0), Cause::Local, "the attempt ended without a result"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::backoff::tests::retry;
    use super::*;
    use crate::mail::{Address, Recipient, Reply};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn verdict(outcome: Outcome, expires: Timestamp) -> (RecipientStatus, Vec<u32>) {
        let retry = retry();
        let mut verdict = Verdict::new(QueueId(1));
        let old = Recipient::new(Address::parse("a@x.test").unwrap(), None, NOW).status;
        verdict.add(3, &old, outcome, &When { now: NOW, expires, retry: &retry, random: 0.5 });
        assert_eq!(verdict.update.statuses[0].0, 3);
        (verdict.update.statuses[0].1.clone(), verdict.failed)
    }

    fn reply(code: u16) -> Diagnosis {
        Diagnosis::from_reply(&Reply::plain(code, "words"), "mx.x.test [192.0.2.1]:25")
    }

    #[test]
    fn each_outcome_has_its_state() {
        let (status, failed) = verdict(Outcome::Delivered(reply(250)), Timestamp::NEVER);
        assert_eq!((status.state, status.attempts, failed), (RecipientState::Delivered, 1, vec![]));
        assert_eq!((status.last_reply.as_str(), status.next_hop.as_str()), ("250 words", "mx.x.test [192.0.2.1]:25"));
        let (status, failed) = verdict(Outcome::Failed(reply(550)), Timestamp::NEVER);
        assert_eq!((status.state, failed), (RecipientState::Bounced, vec![3]));
        let (status, failed) = verdict(Outcome::Deferred(reply(450)), Timestamp::NEVER);
        assert_eq!((status.state, failed), (RecipientState::Deferred, vec![]));
        assert_eq!(status.next_attempt, NOW.plus(Duration::from_secs(300)));
        let (status, _) = verdict(Outcome::InDoubt(reply(450)), Timestamp::NEVER);
        assert_eq!(status.next_attempt, NOW.plus(Duration::from_secs(600)));
    }

    #[test]
    fn deferral_past_the_lifetime_is_expiry_and_keeps_the_last_words() {
        let (status, failed) = verdict(Outcome::Deferred(reply(450)), NOW);
        assert_eq!((status.state, failed), (RecipientState::Bounced, vec![3]));
        assert_eq!((status.last_status, status.last_cause), (Some(EXPIRED), Some(Cause::Expired)));
        assert_eq!(status.last_reply, "450 words");
        let (status, _) = verdict(Outcome::Delivered(reply(250)), NOW);
        assert_eq!(status.state, RecipientState::Delivered);
    }
}
