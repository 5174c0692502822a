//! What the rest of the server asks of the delivery loop.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::current::Current;
use crate::mail::{Destination, Domain, QueueId, ReversePath};
use crate::queue::{SiteState, Verb};

/// A question or an order, with the place for its answer.
pub(super) enum Command {
    /// An operator verb on these messages.
    Change { verb: Verb, ids: Vec<QueueId>, answer: oneshot::Sender<Result<Changed, String>> },
    /// Stops attempts, all or to a domain.
    Pause { domain: Option<Domain>, answer: oneshot::Sender<Result<(), String>> },
    /// Starts them again.
    Resume { domain: Option<Domain>, answer: oneshot::Sender<Result<(), String>> },
    /// What is paused.
    Paused { answer: oneshot::Sender<Paused> },
    /// Goes by another configuration from now on.
    Reload { current: Arc<Current>, answer: oneshot::Sender<()> },
    /// What is known of sites, so many at the most.
    Sites { count_max: usize, answer: oneshot::Sender<Vec<SiteState>> },
    /// What is known of the site where a sender's mail to a destination goes.
    Site { destination: Destination, sender: ReversePath, answer: oneshot::Sender<Option<SiteState>> },
    /// How busy it is.
    Levels { answer: oneshot::Sender<Levels> },
}

/// What a verb came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Messages that it changed.
    pub touched: u64,
    /// Ids that are not in the queue.
    pub unknown: Vec<QueueId>,
}

/// Where delivery attempts are stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Everywhere.
    pub all: bool,
    /// To these domains.
    pub domains: Vec<Domain>,
    /// Everywhere, by nobody: why the spool can't record what attempts come to.
    #[serde(default)]
    pub stopped: Option<String>,
}

/// How busy the delivery loop is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Messages in the scheduler.
    pub scheduled: usize,
    /// Attempts in flight.
    pub attempts: usize,
}
