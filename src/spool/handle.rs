//! The spool's face to the rest of the server.

use std::sync::Arc;

use super::index::IndexFactory;
use super::{Filter, Gauges, Options, Recovery, SpoolError, Stats};
use crate::mail::{BodyType, Message, QueueId, Recipient, ReversePath, Timestamp, Update};
use crate::system::{Content, System};

/// Keeps accepted mail. Cheap to clone.
#[derive(Clone)]
pub struct Spool {}

/// A message that is being received: its content, piece by piece. Dropped without `commit`, it leaves nothing behind.
pub struct Draft {
    id: QueueId,
}

/// The envelope of a draft, ready to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// When it was accepted.
    pub arrived: Timestamp,
    /// Where notices go.
    pub reverse_path: ReversePath,
    /// What the sender declared about the content.
    pub body: BodyType,
    /// At least one.
    pub recipients: Vec<Recipient>,
    /// Changes to other messages that become durable with this one or not at all: a notice and the states it speaks of.
    pub updates: Vec<Update>,
}

#[allow(unused_variables, clippy::unused_async)]
impl Spool {
    /// Opens the spool: recovers what the log has, brings the index up to it, starts the loops.
    pub async fn open(options: Options, system: &System, index: Box<dyn IndexFactory>) -> Result<(Spool, Recovery), SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Begins a message; its id is given out here. `Full` if the disk has less than `min_free` left.
    pub fn begin(&self) -> Result<Draft, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Whether `begin` would say `Full`: for 452 before DATA.
    pub fn space(&self) -> Result<(), SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Changes a message: in the spool's copy at once, in the log with the next batch.
    pub fn update(&self, update: Update) {}
    /// Forgets a message: at once here, in the log with the next batch.
    pub fn done(&self, id: QueueId) {}
    /// Lets go of an active message until `due` (`NEVER`: until `take`): out of memory, into the index.
    pub fn park(&self, id: QueueId, due: Timestamp) {}
    /// Parked messages that are due, the earliest first, at most `count_max`; they are active from now on.
    pub async fn due(&self, now: Timestamp, count_max: usize) -> Result<Vec<Message>, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// When the next parked message is due.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Makes a parked message active, due or not. None: unknown, or active already.
    pub async fn take(&self, id: QueueId) -> Result<Option<Message>, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// A look at a message, active or parked.
    pub async fn message(&self, id: QueueId) -> Result<Option<Message>, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Messages that match, ordered by id. For long queues ask in pages: `limit`, then `after`.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Message>, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// A message's content; stays readable as long as it is held.
    pub async fn content(&self, id: QueueId) -> Result<Arc<dyn Content>, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Figures without work, for metrics.
    pub fn gauges(&self) -> Gauges {
        Gauges::default()
    }
    /// Counts the whole queue.
    pub async fn stats(&self) -> Result<Stats, SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Waits until everything asked for so far is durable.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Flushes log and index, ends the loops and lets go of the lock. Every clone is closed by it.
    pub async fn close(&self) -> Result<(), SpoolError> {
        Err(SpoolError::Closed)
    }
}

#[allow(unused_variables, clippy::unused_async)]
impl Draft {
    /// The id: for the `Received:` field and the reply.
    pub fn id(&self) -> QueueId {
        self.id
    }
    /// Adds content.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        Err(SpoolError::Closed)
    }
    /// Makes the message durable: after this returns `Ok` it is never lost. The message is active.
    pub async fn commit(self, accept: Accept) -> Result<Message, SpoolError> {
        Err(SpoolError::Closed)
    }
}
