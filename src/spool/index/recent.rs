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
    /// Of those that wait.
    due: BTreeSet<(Timestamp, QueueId)>,
    /// Somebody works on them; their due time is what it was before.
    taken: BTreeSet<QueueId>,
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
        self.taken.remove(&id);
        if let Some((stored, due)) = &new {
            self.size += size(stored);
            self.due.insert((*due, id));
        }
        let due = new.as_ref().map(|(_, due)| *due);
        let old = match new {
            Some(new) => self.messages.insert(id, new),
            None => self.messages.remove(&id),
        };
        if let Some((stored, old)) = &old {
            self.size = self.size.saturating_sub(size(stored));
            if due != Some(*old) {
                self.due.remove(&(*old, id));
            }
        }
        old
    }

    /// Changes only the due time, zero: somebody works on it; `false` if the message isn't here.
    pub(crate) fn set_due(&mut self, id: QueueId, due: Timestamp) -> bool {
        let Some((_, old)) = self.messages.get_mut(&id) else { return false };
        self.due.remove(&(*old, id));
        if due == Timestamp::ZERO {
            self.taken.insert(id);
        } else {
            *old = due;
            self.taken.remove(&id);
            self.due.insert((due, id));
        }
        true
    }

    /// A message and its due time.
    pub(crate) fn get(&self, id: QueueId) -> Option<(&Stored, Timestamp)> {
        self.messages.get(&id).map(|(stored, due)| (stored, self.due_of(id, *due)))
    }

    fn due_of(&self, id: QueueId, due: Timestamp) -> Timestamp {
        if self.taken.contains(&id) { Timestamp::ZERO } else { due }
    }

    /// All of them by id, with their due times.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (QueueId, &Stored, Timestamp)> {
        self.messages.iter().map(|(id, (stored, due))| (*id, stored, self.due_of(*id, *due)))
    }

    /// Whether somebody works on it.
    pub(crate) fn is_taken(&self, id: QueueId) -> bool {
        self.taken.contains(&id)
    }

    /// By id, with the due times that they have when nobody works on them.
    pub(crate) fn messages(&self) -> &BTreeMap<QueueId, Parked> {
        &self.messages
    }

    /// At most so many with due times from `from` to `to` inclusive, the earliest first.
    pub(crate) fn due_within(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Vec<(Timestamp, QueueId)> {
        let from = from.max(Timestamp::from_millis(1));
        let due = self.due.range((from, QueueId(0))..).take_while(|(due, _)| *due <= to);
        due.take(count_max).copied().collect()
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
