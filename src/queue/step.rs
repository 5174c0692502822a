//! What the scheduler wants done: the steps that come out of it.

use super::health::Down;
use crate::config::{Outgoing, Source};
use crate::mail::{Address, Destination, Domain, QueueId, Site, Timestamp, Update};

/// Names an attempt; never used twice by one scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub(super) u64);

/// One try at one destination for some recipients of one message; ends with `Scheduler::report`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its name, for `report`.
    pub attempt: AttemptId,
    /// The message.
    pub id: QueueId,
    /// Where to.
    pub destination: Destination,
    /// Whose line it stood in: connections are shared within a site.
    pub site: Site,
    /// What bounds its connections; nothing for a notice.
    pub outgoing: Outgoing,
    /// Where what leaves from our own addresses is bounded: those that it may leave from, one of each family, with their bounds.
    pub sources: Vec<Source>,
    /// Recipients by index, at most 1000.
    pub recipients: Vec<(u32, Address)>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start this attempt.
    Attempt(Attempt),
    /// The lifetime is over for these recipients: record `update` together with the bounce, then call `Scheduler::noticed`.
    Expire {
        /// The message.
        id: QueueId,
        /// Recipients by index.
        recipients: Vec<u32>,
        /// Makes them `Bounced`; the scheduler's own copy has it already.
        update: Update,
    },
    /// Tell the sender of a delay: record `update` together with the notice, then call `Scheduler::noticed`.
    Notify {
        /// The message.
        id: QueueId,
        /// How many of the configured ages are done with then.
        ages_done: u32,
        /// Recipients that still wait, by index.
        recipients: Vec<u32>,
        /// Sets `delays_noticed`; the scheduler's own copy has it already.
        update: Update,
    },
    /// The destination of these recipients is down: record `update`, which puts them off; no attempt was made.
    Postpone {
        /// The message.
        id: QueueId,
        /// What is down.
        destination: Destination,
        /// The scheduler's own copy has it already.
        update: Update,
    },
    /// It isn't known where a domain's mail goes: ask for the names of its MX hosts, then call `Scheduler::located`.
    Locate {
        /// Which.
        domain: Domain,
    },
    /// A site can't be reached, again or for the first time: its mail waits until one attempt has reached it.
    Down {
        /// Which.
        site: Site,
        /// The domains whose mail is known to go there.
        domains: Vec<Domain>,
        /// What is known.
        down: Down,
    },
    /// A site that was down was reached: its mail needn't wait any longer.
    Up {
        /// Which.
        site: Site,
        /// The domains whose mail is known to go there.
        domains: Vec<Domain>,
        /// What was known of it.
        down: Down,
    },
    /// A domain's mail was waiting for a site that is down, and goes elsewhere now: it needn't wait any longer.
    Moved {
        /// Which.
        domain: Domain,
        /// Where its mail goes now.
        site: Site,
    },
    /// There is a place for these messages, which were parked for the want of one: admit those that still are. Ascending.
    Recall {
        /// Which.
        ids: Vec<QueueId>,
    },
    /// Nothing to do before `due`: the message has left the scheduler and waits in the spool's index.
    Park {
        /// The message.
        id: QueueId,
        /// When it wants to be admitted again; `NEVER` while it is held.
        due: Timestamp,
    },
    /// Every recipient is final: the message has left the scheduler, the spool may forget it.
    Done {
        /// The message.
        id: QueueId,
        /// When it was accepted.
        arrived: Timestamp,
        /// How many recipients it had at the end, those that an alias put in included.
        recipients: usize,
    },
}
