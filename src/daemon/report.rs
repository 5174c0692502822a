//! Tells the mail log what an attempt's verdict, or an expiry, says about each recipient.

use std::collections::BTreeSet;

use crate::event::{Event, Events, Named};
use crate::mail::{Cause, Destination, EnhancedCode, Message, QueueId, RecipientState, Timestamp, Update};
use crate::route::{Route, Router};

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

/// A message is put off because its destination is down.
pub(super) fn postponed(events: &Events, id: QueueId, destination: Destination, update: &Update) {
    let Some((_, status)) = update.statuses.first() else { return };
    let (recipients, reply, next_attempt) = (update.statuses.len(), status.last_reply.clone(), status.next_attempt);
    events.report(Event::Postponed { id, destination, recipients, reply, next_attempt });
}

/// Which recipients an update expands, and into what.
pub(super) fn expansions(events: &Events, message: &Message, update: &Update) {
    let expanded = update.statuses.iter().filter(|(_, status)| status.state == RecipientState::Expanded);
    for recipient in expanded.filter_map(|(index, _)| message.recipients.get(*index as usize)) {
        let original = recipient.original.as_ref().unwrap_or(&recipient.address);
        let into = update.added.iter().filter(|added| added.original.as_ref() == Some(original));
        let into = Named::new(into.map(|added| &added.address));
        events.report(Event::Expanded { id: message.id, to: recipient.address.clone(), into });
    }
}

/// Recipients whose lifetime is over.
pub(super) fn expiries(events: &Events, now: Timestamp, message: &Message, update: &Update, router: &Router) {
    for (index, status) in &update.statuses {
        let Some(recipient) = message.recipients.get(*index as usize) else { continue };
        let destination = match router.route(&message.reverse_path, &recipient.address) {
            Route::Deliver(destination) => destination,
            Route::Alias(_) | Route::Unknown => Destination::Local(recipient.address.domain().clone()),
        };
        let update = Update { statuses: vec![(*index, status.clone())], ..Update::new(message.id) };
        statuses(events, now, message, &destination, &update, &BTreeSet::new());
    }
}
