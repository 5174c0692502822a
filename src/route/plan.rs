//! The plan for a message: aliases expanded, and a destination for each open recipient.

use std::collections::BTreeSet;

use super::{Route, Router, mailbox_destination};
use crate::mail::{
    Address, Cause, Destination, Diagnosis, Domain, EnhancedCode, Message, Recipient, RecipientState, RecipientStatus,
    ReversePath, Timestamp, Update,
};

/// Addresses that an alias may lead to, steps between included.
const EXPANSION_MAX: usize = 10_000;
/// Aliases behind aliases.
const DEPTH_MAX: usize = 50;

/// Where a message's recipients go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Recipients that became others (`Expanded`, `added`). Often nothing.
    pub update: Update,
    /// A destination for each recipient that is open behind `update`. Who is nobody goes to the local domain, and fails there
    /// (`Router::maildir`) like any other attempt.
    pub destinations: Vec<(u32, Destination)>,
    /// Recipients that became several others, or nobody new, and whose success the sender wants to be told of: that is told of the address
    /// itself, and no more of those behind it (RFC 3461 section 5.2.7.3).
    pub expanded: Vec<u32>,
}

/// Where an alias leads in the end.
#[derive(Default)]
struct Expansion {
    leaves: Vec<(Address, Route)>,
    seen: BTreeSet<(String, Domain)>,
    path: Vec<(String, Domain)>,
}

impl Router {
    /// Plans a message. Apply `update` to it (and to the spool's), then admit it with `destinations`.
    pub fn plan(&self, message: &Message, now: Timestamp) -> Plan {
        let mut plan = Plan { update: Update::new(message.id), destinations: Vec::new(), expanded: Vec::new() };
        let routes: Vec<(u32, &Recipient, Option<Route>)> = (0u32..)
            .zip(&message.recipients)
            .map(|(index, recipient)| {
                (index, recipient, recipient.is_open().then(|| self.recipient_route(&message.reverse_path, recipient)))
            })
            .collect();
        let is_alias = |route: &Option<Route>| matches!(route, Some(Route::Alias(_)));
        let mut known = BTreeSet::new();
        if routes.iter().any(|(_, _, route)| is_alias(route)) {
            known.extend(routes.iter().filter(|(_, _, route)| !is_alias(route)).map(|(_, r, _)| key(&r.address)));
        }
        for (index, recipient, route) in routes {
            match route {
                None => {}
                Some(Route::Deliver(destination)) => plan.destinations.push((index, destination)),
                Some(Route::Unknown) => plan.destinations.push((index, nowhere(&recipient.address))),
                Some(Route::Alias(_)) => self.expand(&mut plan, message, index, &mut known, now),
            }
        }
        plan
    }

    /// What becomes of a recipient: one that came out of an alias is a mailbox even if an alias has its name.
    fn recipient_route(&self, sender: &ReversePath, recipient: &Recipient) -> Route {
        let expanded = recipient.original.is_some();
        match self.directory.mailbox(&recipient.address).filter(|_| expanded) {
            Some(mailbox) => Route::Deliver(mailbox_destination(&mailbox)),
            None => self.route(sender, &recipient.address),
        }
    }

    /// Replaces a recipient by all that its alias leads to; nobody gets the message twice.
    fn expand(&self, plan: &mut Plan, message: &Message, index: u32, known: &mut BTreeSet<(String, Domain)>, now: Timestamp) {
        let Some(recipient) = message.recipients.get(index as usize) else { return };
        let Ok(leaves) = self.leaves(&message.reverse_path, &recipient.address) else {
            plan.destinations.push((index, nowhere(&recipient.address)));
            return;
        };
        let expanded = RecipientStatus { state: RecipientState::Expanded, ..recipient.status.clone() };
        plan.update.statuses.push((index, expanded));
        let original = recipient.original.as_ref().unwrap_or(&recipient.address);
        let leaves: Vec<_> = leaves.into_iter().filter(|(address, _)| known.insert(key(address))).collect();
        // A single one takes the sender's wishes over as they are.
        let several = leaves.len() != 1;
        if several && recipient.notify().is_some_and(|notify| notify.success) {
            plan.expanded.push(index);
        }
        let now = now.max(message.held_until());
        for (address, route) in leaves {
            let new = u32::try_from(message.recipients.len() + plan.update.added.len()).unwrap_or(u32::MAX);
            let destination = match route {
                Route::Deliver(destination) => destination,
                Route::Unknown | Route::Alias(_) => nowhere(&address),
            };
            plan.destinations.push((new, destination));
            let mut added = Recipient::new(address, Some(original.clone()), now);
            added.dsn = recipient.dsn.clone();
            if let Some(notify) = added.dsn.as_mut().and_then(|dsn| dsn.notify.as_mut()).filter(|_| several) {
                notify.success = false;
            }
            plan.update.added.push(added);
        }
    }

    /// Everything that an alias leads to, in order, each once; never an alias.
    pub(super) fn leaves(&self, sender: &ReversePath, address: &Address) -> Result<Vec<(Address, Route)>, Diagnosis> {
        let mut expansion = Expansion::default();
        self.walk(sender, address, &mut expansion);
        let what = if expansion.seen.len() > EXPANSION_MAX {
            format!("the alias {address} leads to more than {EXPANSION_MAX} addresses")
        } else if expansion.leaves.is_empty() {
            format!("the alias {address} leads in a circle")
        } else {
            return Ok(expansion.leaves);
        };
        Err(Diagnosis::new(EnhancedCode(5, 4, 6), Cause::Local, what))
    }

    fn walk(&self, sender: &ReversePath, address: &Address, expansion: &mut Expansion) {
        let key = key(address);
        if expansion.path.contains(&key) || expansion.path.len() >= DEPTH_MAX {
            // The alias names itself, or the circle closes: the mailbox of that name is meant, if there is one.
            let leaf = |(leaf, _): &(Address, Route)| leaf == address;
            if let Some(mailbox) = self.directory.mailbox(address).filter(|_| !expansion.leaves.iter().any(leaf)) {
                expansion.leaves.push((address.clone(), Route::Deliver(mailbox_destination(&mailbox))));
            }
            return;
        }
        if expansion.seen.len() > EXPANSION_MAX || !expansion.seen.insert(key.clone()) {
            return;
        }
        match self.route(sender, address) {
            Route::Alias(targets) => {
                expansion.path.push(key);
                for target in &targets {
                    self.walk(sender, target, expansion);
                }
                expansion.path.pop();
            }
            route => expansion.leaves.push((address.clone(), route)),
        }
    }
}

impl Plan {
    /// Whether `update` has anything to record.
    pub fn changes(&self) -> bool {
        !self.update.statuses.is_empty() || !self.update.added.is_empty()
    }
}

/// For the address of nobody: its own domain, where the attempt finds out.
fn nowhere(address: &Address) -> Destination {
    Destination::Local(address.domain().clone())
}

/// By this two addresses are the same mailbox; a foreign domain's rules aren't known, but nobody tells names apart by case.
fn key(address: &Address) -> (String, Domain) {
    (address.local().to_ascii_lowercase(), address.domain().clone())
}
