//! Which messages a listing is about.

use crate::mail::{Address, Domain, Message, MessageState, QueueId, ReversePath, Timestamp};

/// All given conditions must hold; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The reverse-path; the local part without regard to case.
    pub sender: Option<ReversePath>,
    /// An open recipient has this address, or came from it through an alias; the local part without regard to case.
    pub recipient: Option<Address>,
    /// An open recipient's domain.
    pub domain: Option<Domain>,
    /// What the message is doing.
    pub state: Option<MessageState>,
    /// Accepted before this time.
    pub arrived_before: Option<Timestamp>,
    /// Only ids greater than this: the next page of a listing.
    pub after: Option<QueueId>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether a message meets every condition, `limit` aside.
    pub fn matches(&self, message: &Message) -> bool {
        let mut open = message.recipients.iter().filter(|recipient| recipient.is_open());
        self.after.is_none_or(|after| message.id > after)
            && self.state.is_none_or(|state| message.state() == state)
            && self.arrived_before.is_none_or(|time| message.arrived < time)
            && self.sender.as_ref().is_none_or(|sender| same_path(sender, &message.reverse_path))
            && self.domain.as_ref().is_none_or(|domain| open.clone().any(|to| to.address.domain() == domain))
            && self.recipient.as_ref().is_none_or(|wanted| {
                open.any(|to| same(wanted, &to.address) || to.original.as_ref().is_some_and(|from| same(wanted, from)))
            })
    }
}

fn same(left: &Address, right: &Address) -> bool {
    left.domain() == right.domain() && left.local().eq_ignore_ascii_case(right.local())
}

fn same_path(left: &ReversePath, right: &ReversePath) -> bool {
    match (left.address(), right.address()) {
        (Some(left), Some(right)) => same(left, right),
        (left, right) => left.is_none() && right.is_none(),
    }
}
