//! Which recipients' good fortune is told to the sender: those for whom it was asked (RFC 3461), and whom nobody else will speak of.

use std::collections::BTreeMap;

use crate::mail::{DeliverByMode, Destination, Message, Notify, Passed, RecipientState, Update};
use crate::notice::Success;
use crate::route::Plan;

use super::delivery::Delivery;
use super::report;

impl Delivery {
    /// Tells the sender of the recipients that an attempt reached, as far as that was asked, and takes them out of `update`: they are
    /// recorded with the notice.
    pub(super) async fn tell_reached(
        &mut self,
        message: &mut Message,
        destination: &Destination,
        update: &mut Update,
        passed: &BTreeMap<u32, Passed>,
    ) {
        let reached = to_be_told(message, destination, update, passed);
        if !reached.is_empty() {
            let told = split(update, &reached);
            message.apply(&told);
            self.tell_success(message, told, &reached).await;
        }
    }

    /// Admits messages whose senders want to be told of an alias's expansion: that takes the time of a commit.
    pub(super) async fn admit_expanded(&mut self) {
        while let Some(id) = self.expansions.pop_first() {
            // An order may have changed it meanwhile, or ended it.
            let Some(mut message) = self.spool.active(id) else { continue };
            let now = self.now();
            let plan = self.current.router.plan(&message, now);
            let told = plan.expansions_to_tell(&message);
            let Plan { update, destinations } = plan;
            report::expansions(&self.events, &message, &update);
            let reached: Vec<(u32, Success)> = told.into_iter().map(|index| (index, Success::Expanded)).collect();
            if reached.is_empty() {
                self.spool.update(update.clone());
            } else {
                self.tell_success(&message, update.clone(), &reached).await;
            }
            message.apply(&update);
            self.scheduler.admit(now, message, destinations);
        }
    }
}

/// The recipients that an attempt reached and that are to be told of. What the next hop took over with the message it sees to itself.
fn to_be_told(
    message: &Message,
    destination: &Destination,
    update: &Update,
    passed: &BTreeMap<u32, Passed>,
) -> Vec<(u32, Success)> {
    if message.reverse_path.is_null() {
        return Vec::new();
    }
    let arrived = matches!(destination, Destination::Local(_) | Destination::Lmtp(_));
    let delivered = update.statuses.iter().filter(|(_, status)| status.state == RecipientState::Delivered);
    let told = delivered.filter_map(|(index, _)| {
        let notify = message.recipients.get(*index as usize)?.notify();
        let passed = passed.get(index).copied().unwrap_or_default();
        let asked = notify.is_some_and(|notify| notify.success);
        let told = if arrived { asked } else { asked && !passed.dsn || relay_is_traced(message, notify, passed) };
        told.then_some((*index, if arrived { Success::Delivered } else { Success::Relayed }))
    });
    told.collect()
}

/// Whether BY asks to be told that the message was passed on (RFC 2852 section 4.1): each time with `T`, and where its trail is lost.
fn relay_is_traced(message: &Message, notify: Option<Notify>, passed: Passed) -> bool {
    let by = message.deadline().map(|(_, by)| by);
    let traced = by.is_some_and(|by| by.trace || by.mode == DeliverByMode::Notify && !passed.deliver_by);
    traced && notify != Some(Notify::NEVER)
}

/// Takes the statuses of these recipients out of an update, into one of their own.
fn split(update: &mut Update, reached: &[(u32, Success)]) -> Update {
    let is_told = |index: &u32| reached.iter().any(|(reached, _)| reached == index);
    let (told, rest) = std::mem::take(&mut update.statuses).into_iter().partition(|(index, _)| is_told(index));
    update.statuses = rest;
    Update { statuses: told, ..Update::new(update.id) }
}
