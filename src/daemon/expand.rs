//! Replaces recipients by what their aliases lead to, step by step, until only mailboxes and remote addresses are open.

use std::collections::BTreeSet;

use crate::mail::{Address, Destination, Message, Recipient, RecipientState, Timestamp, Update};
use crate::route::{Route, Router};

/// A message never grows beyond this by expansion: an alias that leads to more is expanded no further.
const RECIPIENTS_MAX: usize = 20_000;

/// The update that expands every open alias of a message, if there is one. Loops end because an address that the message has
/// already is never added again.
pub(super) fn expand(message: &Message, router: &Router, now: Timestamp) -> Option<Update> {
    let mut expansion =
        Expansion { known: message.recipients.iter().map(|r| r.address.clone()).collect(), update: Update::new(message.id) };
    for (index, recipient) in (0u32..).zip(&message.recipients).filter(|(_, r)| r.is_open()) {
        if expansion.replace(recipient, router, now) {
            let mut status = recipient.status.clone();
            status.state = RecipientState::Expanded;
            expansion.update.statuses.push((index, status));
        }
    }
    // What was added may be an alias itself.
    let mut at = 0;
    while at < expansion.update.added.len() {
        let recipient = expansion.update.added[at].clone();
        if expansion.replace(&recipient, router, now) {
            expansion.update.added[at].status.state = RecipientState::Expanded;
        }
        at += 1;
    }
    let changed = !expansion.update.statuses.is_empty() || !expansion.update.added.is_empty();
    changed.then_some(expansion.update)
}

struct Expansion {
    known: BTreeSet<Address>,
    update: Update,
}

impl Expansion {
    /// Adds an alias' targets; false if the recipient is no alias, or also a mailbox of its own.
    fn replace(&mut self, recipient: &Recipient, router: &Router, now: Timestamp) -> bool {
        let Route::Alias(targets) = router.route(&recipient.address) else { return false };
        let original = recipient.original.clone().unwrap_or_else(|| recipient.address.clone());
        for target in targets.iter().filter(|target| **target != recipient.address) {
            if self.known.len() < RECIPIENTS_MAX && self.known.insert(target.clone()) {
                self.update.added.push(Recipient::new(target.clone(), Some(original.clone()), now));
            }
        }
        !targets.contains(&recipient.address)
    }
}

/// Where each open recipient goes. An address that nobody has any more goes to its own domain, and fails there with the words
/// that fit.
pub(super) fn destinations(message: &Message, router: &Router) -> Vec<(u32, Destination)> {
    let open = (0u32..).zip(&message.recipients).filter(|(_, recipient)| recipient.is_open());
    open.map(|(index, recipient)| (index, destination(recipient, router))).collect()
}

/// Where one recipient goes.
pub(super) fn destination(recipient: &Recipient, router: &Router) -> Destination {
    match router.route(&recipient.address) {
        Route::Deliver(destination) => destination,
        Route::Alias(_) | Route::Unknown => Destination::Local(recipient.address.domain().clone()),
    }
}

/// For the log: which recipients an update expanded, and into what.
pub(super) fn expanded<'a>(message: &'a Message, update: &'a Update) -> impl Iterator<Item = (&'a Address, Vec<&'a Address>)> {
    let replaced = update.statuses.iter().filter_map(|(index, _)| message.recipients.get(*index as usize));
    replaced.map(|recipient| {
        let original = recipient.original.as_ref().unwrap_or(&recipient.address);
        let into = update.added.iter().filter(|added| added.original.as_ref() == Some(original) && added.is_open());
        (&recipient.address, into.map(|added| &added.address).collect())
    })
}
