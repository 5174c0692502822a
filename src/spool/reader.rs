//! Reads a stopped server's spool, from the log alone, and changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::{Filter, Note, SpoolError, Stats};
use crate::mail::{Message, QueueId};
use crate::system::{Content, Disk};

/// What a stopped server's log says.
pub struct StoppedSpool {
    notes: Vec<Note>,
}

/// Reads the log below `path`. `Locked` if a server has the spool open.
#[allow(unused_variables)]
pub fn read_stopped(path: &Path, disk: &Arc<dyn Disk>) -> Result<StoppedSpool, SpoolError> {
    Err(SpoolError::Closed)
}

#[allow(unused_variables)]
impl StoppedSpool {
    /// Messages that match, ordered by id.
    pub fn list(&self, filter: &Filter) -> Vec<Message> {
        Vec::new()
    }
    /// One message.
    pub fn message(&self, id: QueueId) -> Option<Message> {
        None
    }
    /// A message's content.
    pub fn content(&self, id: QueueId) -> Result<Arc<dyn Content>, SpoolError> {
        Err(SpoolError::Unknown(id))
    }
    /// Counts the queue.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// Damage that was met: a torn tail, unreadable records.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}
