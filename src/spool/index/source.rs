//! The places that a listing looks at: memory, and for each run the family of keys that tells most.

use std::collections::btree_map;

use super::run::{Ids, Run, Summaries};
use super::{IndexError, Stored};
use crate::mail::{QueueId, Timestamp};

/// Where a listing looks.
pub(super) enum Source<'a> {
    /// What isn't in a run yet.
    Memory(btree_map::Range<'a, QueueId, (Stored, Timestamp)>),
    /// The narrowest family of a run's keys.
    Keys(Ids<'a>),
    /// Summaries, which tell most of what doesn't meet the filter.
    Summaries(&'a Run, Summaries<'a>),
}

impl Source<'_> {
    pub(super) fn is_summaries(&self) -> bool {
        matches!(self, Self::Summaries(..))
    }

    /// The next message, and whether it is worth a look.
    pub(super) fn next(&mut self) -> Result<Option<(QueueId, bool)>, IndexError> {
        match self {
            // Taken only when it is looked at.
            Self::Memory(messages) => Ok(messages.clone().next().map(|(id, _)| (*id, true))),
            Self::Keys(ids) => Ok(ids.next()?.map(|id| (id, true))),
            Self::Summaries(_, summaries) => summaries.next(),
        }
    }

    /// The message that `next` went to.
    pub(super) fn stored(&mut self, id: QueueId) -> Result<Option<Stored>, IndexError> {
        match self {
            Self::Memory(messages) => Ok(messages.next().map(|(_, (stored, _))| stored.clone())),
            Self::Keys(ids) => Ok(ids.stored(id)?.map(|(stored, _)| stored)),
            Self::Summaries(run, _) => Ok(run.find(id)?.map(|found| found.stored(id)).transpose()?.map(|(stored, _)| stored)),
        }
    }
}
