//! One typed admin protocol: what an admin may ask of a running server, as a trait, as JSON lines on a Unix socket, and as the
//! client that the command line uses. Console and command line go through it, so they can't differ.

mod client;
mod protocol;
mod running;
mod server;
mod stats;
mod view;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};
pub use running::Running;
pub use server::{Server, bind};
pub use stats::{GroupKind, StatsRow, state_name, stats_rows};
pub use view::{MessageDetails, MessageView, RecipientDetails, RecipientView};

use crate::config::Config;
pub use crate::daemon::{Changed, Health, Paused};
pub use crate::event::metrics::CONTENT_TYPE as METRICS_CONTENT_TYPE;
use crate::mail::{Destination, Domain, Message, QueueId, ReversePath, Timestamp};
pub use crate::queue::{SiteState, SourceState, Verb, Why};
use crate::spool::{Filter, Stats};
use crate::system::{BoxFuture, Content};

/// A running server as an admin sees it. Errors are for people: what went wrong, in a sentence.
pub trait Admin: Send + Sync {
    /// The configuration in force; a new value after a reload.
    fn config(&self) -> Arc<Config>;
    /// Messages in the order of their ids.
    fn list(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Message>, String>>;
    /// One message; none: it is not in the queue.
    fn message(&self, id: QueueId) -> BoxFuture<'_, Result<Option<Message>, String>>;
    /// A message's content, readable as long as it is held.
    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Option<Arc<dyn Content>>, String>>;
    /// Counts, bytes, ages.
    fn stats(&self) -> BoxFuture<'_, Result<Stats, String>>;
    /// What is known of sites with mail, and of those that are down.
    fn sites(&self) -> BoxFuture<'_, Result<Vec<SiteState>, String>>;
    /// What is known of the site where a destination's mail goes; none if nothing is.
    fn site(&self, destination: Destination, sender: ReversePath) -> BoxFuture<'_, Result<Option<SiteState>, String>>;
    /// Carries an operator verb out; the answer comes when it is durable.
    fn change(&self, verb: Verb, selection: Selection) -> BoxFuture<'_, Result<Changed, String>>;
    /// What is paused now.
    fn paused(&self) -> BoxFuture<'_, Result<Paused, String>>;
    /// Stops delivery attempts, all or to a domain; outlives a restart.
    fn pause(&self, domain: Option<Domain>) -> BoxFuture<'_, Result<(), String>>;
    /// Starts them again.
    fn resume(&self, domain: Option<Domain>) -> BoxFuture<'_, Result<(), String>>;
    /// Reads the configuration, users and aliases again. If something is wrong, nothing changes and every problem is told.
    fn reload(&self) -> BoxFuture<'_, Result<(), Vec<String>>>;
    /// How the server is; an answer means that the delivery loop runs.
    fn health(&self) -> BoxFuture<'_, Health>;
    /// The metrics in the OpenMetrics text form, measured now.
    fn metrics(&self) -> BoxFuture<'_, String>;
}

/// Which messages a verb is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Ids(Vec<QueueId>),
    /// Those that the filter lets through, its limit included.
    Filter(Filter),
    /// The whole queue.
    All,
}

/// The filter as it goes over the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Exactly this reverse-path; the empty text for notices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<crate::mail::ReversePath>,
    /// A recipient with this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<crate::mail::Address>,
    /// A recipient in this domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// Messages in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<crate::mail::MessageState>,
    /// Messages accepted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived_before: Option<Timestamp>,
    /// No more than this many, the lowest ids first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl From<Query> for Filter {
    fn from(query: Query) -> Filter {
        let Query { sender, recipient, domain, state, arrived_before, limit } = query;
        Filter { sender, recipient, domain, state, arrived_before, limit, after: None }
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::fake::config;
    pub(crate) use super::view::tests::{message, retry};
}
