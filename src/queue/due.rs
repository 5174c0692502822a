//! When a message wants attention: its next attempt, its next delay notice, its expiry.

use std::time::Duration;

use crate::config::Retry;
use crate::mail::{DeliverByMode, Message, Timestamp};

/// When what is still open of the message expires: `lifetime` after its delivery could begin, `bounce_lifetime` for a null
/// reverse-path; or when the sender wants it back (RFC 2852).
pub fn expires_at(message: &Message, retry: &Retry) -> Timestamp {
    let lifetime = if message.reverse_path.is_null() { retry.bounce_lifetime } else { retry.lifetime };
    message.released_at().plus(lifetime).min(returned_at(message))
}

/// When the sender wants it back; `NEVER` if he doesn't.
pub(super) fn returned_at(message: &Message) -> Timestamp {
    match message.deadline() {
        Some((deadline, by)) if by.mode == DeliverByMode::Return => deadline,
        _ => Timestamp::NEVER,
    }
}

/// When the sender has to be told that the message wasn't delivered in the time that he gave; `NEVER` if that isn't wanted, or done.
pub(super) fn deadline_notice_at(message: &Message) -> Timestamp {
    match message.deadline() {
        Some((deadline, by)) if by.mode == DeliverByMode::Notify && !by.told && !message.reverse_path.is_null() => deadline,
        _ => Timestamp::NEVER,
    }
}

/// When the next delay notice is due; `NEVER` when all ages are done with, and for a null reverse-path: nobody is told.
pub(super) fn next_notice_at(message: &Message, retry: &Retry) -> Timestamp {
    if message.reverse_path.is_null() {
        return Timestamp::NEVER;
    }
    let age = retry.delay_notice.get(message.delays_noticed as usize);
    age.map_or(Timestamp::NEVER, |age| message.released_at().plus(*age)).min(deadline_notice_at(message))
}

/// How many of the configured ages the message has reached.
pub(super) fn ages_reached(message: &Message, retry: &Retry, now: Timestamp) -> u32 {
    let reached = |age: &&Duration| message.released_at().plus(**age) <= now;
    let waiting = retry.delay_notice.iter().skip(message.delays_noticed as usize);
    message.delays_noticed.saturating_add(u32::try_from(waiting.take_while(reached).count()).unwrap_or(u32::MAX))
}

/// The earliest time at which the message wants something: an attempt, a delay notice or its expiry; at once if nothing of it is
/// open, so that its end gets recorded, which a crash kept from happening. `NEVER` if it is held.
pub fn due_at(message: &Message, retry: &Retry) -> Timestamp {
    if message.is_done() {
        return message.arrived;
    }
    if message.held {
        return Timestamp::NEVER;
    }
    message.next_attempt().min(next_notice_at(message, retry)).min(expires_at(message, retry))
}

#[cfg(test)]
mod tests {
    use super::super::backoff::tests::retry;
    use super::*;
    use crate::mail::{DeliverBy, Hold, RecipientState, Request};

    fn message(reverse_path: &str) -> Message {
        Message::sample(1, Timestamp::from_millis(1_000_000), reverse_path, &["a@x.test"])
    }

    #[test]
    fn the_earliest_of_attempt_notice_and_expiry_counts() {
        let retry = retry();
        let mut message = message("s@x.test");
        assert_eq!(due_at(&message, &retry), message.arrived);
        message.recipients[0].status.next_attempt = Timestamp::NEVER;
        assert_eq!(due_at(&message, &retry), message.arrived.plus(retry.delay_notice[0]));
        message.delays_noticed = 1;
        assert_eq!(due_at(&message, &retry), message.arrived.plus(retry.lifetime));
        message.held = true;
        assert_eq!(due_at(&message, &retry), Timestamp::NEVER);
        message.recipients[0].status.state = RecipientState::Delivered;
        assert_eq!(due_at(&message, &retry), message.arrived);
    }

    #[test]
    fn a_null_reverse_path_has_its_own_lifetime_and_no_delay_notice() {
        let retry = retry();
        let mut message = message("");
        message.recipients[0].status.next_attempt = Timestamp::NEVER;
        assert_eq!(due_at(&message, &retry), message.arrived.plus(retry.bounce_lifetime));
    }

    #[test]
    fn a_deadline_is_an_expiry_or_a_notice() {
        let retry = retry();
        let mut message = message("s@x.test");
        message.recipients[0].status.next_attempt = Timestamp::NEVER;
        let by = DeliverBy { seconds: 60, mode: DeliverByMode::Return, trace: false, told: false };
        message.request = Request { deliver_by: Some(by), ..Request::default() }.boxed();
        let deadline = message.arrived.plus(Duration::from_secs(60));
        assert_eq!((expires_at(&message, &retry), due_at(&message, &retry)), (deadline, deadline));
        let by = DeliverBy { mode: DeliverByMode::Notify, ..by };
        message.request = Request { deliver_by: Some(by), ..Request::default() }.boxed();
        assert_eq!(expires_at(&message, &retry), message.arrived.plus(retry.lifetime));
        assert_eq!(due_at(&message, &retry), deadline);
        message.request = Request { deliver_by: Some(DeliverBy { told: true, ..by }), ..Request::default() }.boxed();
        assert_eq!(due_at(&message, &retry), message.arrived.plus(retry.delay_notice[0]));
    }

    #[test]
    fn all_times_count_from_the_end_of_a_hold() {
        let retry = retry();
        let mut message = message("s@x.test");
        message.request = Request { hold: Some(Hold::For(1000)), ..Request::default() }.boxed();
        let released = message.arrived.plus(Duration::from_secs(1000));
        assert_eq!(expires_at(&message, &retry), released.plus(retry.lifetime));
        assert_eq!(next_notice_at(&message, &retry), released.plus(retry.delay_notice[0]));
    }

    #[test]
    fn ages_are_counted_in_order() {
        let mut retry = retry();
        retry.delay_notice = [4, 24, 48].map(|h| Duration::from_secs(h * 3600)).to_vec();
        let message = message("s@x.test");
        let at = |hours: u64| message.arrived.plus(Duration::from_secs(hours * 3600));
        assert_eq!([at(0), at(4), at(30), at(99)].map(|now| ages_reached(&message, &retry, now)), [0, 1, 2, 3]);
    }
}
