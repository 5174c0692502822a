//! Parked messages in memory: what a run is made of, and all that the twin of the index on disk consists of.

use std::collections::{BTreeMap, BTreeSet};

use super::Stored;
use crate::mail::{QueueId, Timestamp};

/// A message and when it is due.
pub(crate) type Parked = (Stored, Timestamp);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    messages: BTreeMap<QueueId, Parked>,
    due: BTreeSet<(Timestamp, QueueId)>,
    /// What the messages take, about; bytes.
    size: usize,
}

/// About what a message takes in memory.
pub(crate) fn size(stored: &Stored) -> usize {
    let texts: usize =
        stored.message.recipients.iter().map(|to| 256 + to.status.last_reply.len() + to.status.next_hop.len()).sum();
    256 + texts
}

impl Recent {
    /// Puts a message in, or takes it out; says what was there.
    pub(crate) fn put(&mut self, id: QueueId, new: Option<Parked>) -> Option<Parked> {
        let due = new.as_ref().map(|(_, due)| *due);
        self.size += new.as_ref().map_or(0, |(stored, _)| size(stored));
        let old = match new {
            Some(new) => self.messages.insert(id, new),
            None => self.messages.remove(&id),
        };
        if let Some((stored, due)) = &old {
            self.due.remove(&(*due, id));
            self.size = self.size.saturating_sub(size(stored));
        }
        self.due.extend(due.map(|due| (due, id)));
        old
    }

    /// Changes only the due time; `false` if the message isn't here.
    pub(crate) fn set_due(&mut self, id: QueueId, due: Timestamp) -> bool {
        let Some((_, old)) = self.messages.get_mut(&id) else { return false };
        self.due.remove(&(*old, id));
        *old = due;
        self.due.insert((due, id));
        true
    }

    pub(crate) fn get(&self, id: QueueId) -> Option<&Parked> {
        self.messages.get(&id)
    }

    /// By id.
    pub(crate) fn messages(&self) -> &BTreeMap<QueueId, Parked> {
        &self.messages
    }

    /// By due time.
    pub(crate) fn due(&self) -> &BTreeSet<(Timestamp, QueueId)> {
        &self.due
    }

    /// About what it takes in memory; bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}
