//! Who is told, and about whom: the sender's wishes (NOTIFY of RFC 3461), and the postmaster where there is no sender. Owns nothing.

use crate::mail::{Address, Message, Notify, ReversePath};

/// Who is told that recipients failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The sender.
    Sender(Address),
    /// The postmaster: the message had a null reverse-path, so it was a notice itself (double bounce).
    Postmaster(Address),
}

/// Who is told that these recipients (by index) failed: the sender; for a null reverse-path the postmaster; nobody if the
/// postmaster's own address, or where that leads to, is all that failed.
pub fn addressee(message: &Message, failed: &[u32], postmaster: &Address) -> Option<Addressee> {
    if let ReversePath::Address(sender) = &message.reverse_path {
        return Some(Addressee::Sender(sender.clone()));
    }
    let is_postmaster = |a: &Address| a.domain() == postmaster.domain() && a.local().eq_ignore_ascii_case(postmaster.local());
    let mut recipients = failed.iter().filter_map(|index| message.recipients.get(*index as usize));
    let others = recipients.any(|r| !is_postmaster(&r.address) && !r.original.as_ref().is_some_and(is_postmaster));
    others.then(|| Addressee::Postmaster(postmaster.clone()))
}

/// What a notice would be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// It has failed.
    Failure,
    /// It takes long.
    Delay,
    /// The time is over that the sender set for it; delivery goes on (RFC 2852).
    Deadline,
    /// It has arrived.
    Success,
}

/// Those among recipients (by index) about whom the sender wants to be told this. Who said nothing is told of failure and delay.
pub fn wanted(message: &Message, recipients: impl IntoIterator<Item = u32>, topic: Topic) -> Vec<u32> {
    let wants = |index: &u32| {
        let Some(recipient) = message.recipients.get(*index as usize) else { return false };
        match (topic, recipient.notify()) {
            (Topic::Failure | Topic::Delay | Topic::Deadline, None) => true,
            (Topic::Deadline, Some(notify)) => notify != Notify::NEVER,
            (Topic::Success, None) => false,
            (Topic::Failure, Some(notify)) => notify.failure,
            (Topic::Delay, Some(notify)) => notify.delay,
            (Topic::Success, Some(notify)) => notify.success,
        }
    };
    recipients.into_iter().filter(wants).collect()
}
