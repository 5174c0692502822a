//! Tells the mail log what an attempt's verdict, or an expiry, says about each recipient.

use std::collections::BTreeSet;

use crate::event::{Event, Events};
use crate::mail::{Cause, Destination, EnhancedCode, Message, RecipientState, Timestamp, Update};

/// One event for each recipient whose status the update sets. `in_doubt` are those whose connection was lost after the final
/// dot.
pub(super) fn statuses(
    events: &Events,
    now: Timestamp,
    message: &Message,
    destination: &Destination,
    update: &Update,
    in_doubt: &BTreeSet<u32>,
) {
    for (index, status) in &update.statuses {
        let Some(recipient) = message.recipients.get(*index as usize) else { continue };
        let (id, from, to, destination) =
            (message.id, message.reverse_path.clone(), recipient.address.clone(), destination.clone());
        let code = status.last_status.unwrap_or(EnhancedCode(4, 0, 0));
        let (next_hop, reply) = (status.next_hop.clone(), status.last_reply.clone());
        let (delay, attempts) = (now.since(message.arrived), status.attempts);
        let cause = status.last_cause.unwrap_or(Cause::Local);
        events.report(match status.state {
            RecipientState::Delivered => {
                let size = message.size;
                Event::Delivered { id, from, to, destination, next_hop, status: code, reply, size, delay, attempts }
            }
            RecipientState::Bounced if cause == Cause::Expired => {
                Event::Expired { id, from, to, destination, status: code, reply, delay, attempts }
            }
            RecipientState::Bounced => {
                Event::Failed { id, from, to, destination, next_hop, status: code, cause, reply, delay, attempts }
            }
            RecipientState::Deferred => {
                let (in_doubt, next_attempt) = (in_doubt.contains(index), status.next_attempt);
                Event::Deferred {
                    id,
                    from,
                    to,
                    destination,
                    next_hop,
                    status: code,
                    cause,
                    reply,
                    in_doubt,
                    delay,
                    attempts,
                    next_attempt,
                }
            }
            RecipientState::Pending | RecipientState::Expanded | RecipientState::Removed => continue,
        });
    }
}
