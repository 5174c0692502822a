//! The index in memory: the twin that the sled index is tested against, and the one that simulations crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Index, IndexError, IndexFactory, Mark, Stored};
use crate::mail::{QueueId, Timestamp};
use crate::spool::Filter;

/// Parked messages in maps; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex(Arc<Mutex<Tables>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables {
    messages: BTreeMap<QueueId, (Stored, Timestamp)>,
    due: BTreeSet<(Timestamp, QueueId)>,
    mark: Option<Mark>,
    /// The tables as they were after each change since the last mark, while `remember` asks for it.
    past: Option<Vec<Tables>>,
}

/// Hands out one and the same memory index: "reopening" it finds what the last user left.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndexFactory(pub MemoryIndex);

impl MemoryIndex {
    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn put(&mut self, stored: Stored, due: Timestamp) {
        let id = stored.message.id;
        if let Some((_, old)) = self.messages.insert(id, (stored, due)) {
            self.due.remove(&(old, id));
        }
        self.due.insert((due, id));
    }
}

impl Index for MemoryIndex {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        Ok(self.tables().mark)
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        self.tables().mark = Some(mark);
        Ok(())
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        self.tables().put(stored.clone(), due);
        Ok(())
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        let mut tables = self.tables();
        let tables = &mut *tables;
        if let Some((_, old)) = tables.messages.get_mut(&id) {
            tables.due.remove(&(*old, id));
            *old = due;
            tables.due.insert((due, id));
        }
        Ok(())
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        let mut tables = self.tables();
        if let Some((_, due)) = tables.messages.remove(&id) {
            tables.due.remove(&(due, id));
        }
        Ok(())
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        Ok(self.tables().messages.get(&id).cloned())
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        if from > to {
            return Ok(Vec::new());
        }
        let range = (from, QueueId(0))..=(to, QueueId(u64::MAX));
        Ok(self.tables().due.range(range).take(count_max).copied().collect())
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Vec<Stored>, IndexError> {
        let tables = self.tables();
        let from = QueueId(filter.after.map_or(0, |after| after.0.saturating_add(1)));
        let matching = tables.messages.range(from..).map(|(_, (stored, _))| stored);
        Ok(matching.filter(|stored| filter.matches(&stored.message)).take(count_max).cloned().collect())
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        let tables = self.tables().clone();
        tables.messages.into_values().for_each(|(stored, due)| visit(stored, due));
        Ok(())
    }
}

impl IndexFactory for MemoryIndexFactory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(self.0.clone()))
    }

    fn set_aside(&self, _: Timestamp) -> Result<Option<String>, IndexError> {
        let old = std::mem::take(&mut *self.0.tables());
        Ok((old != Tables::default()).then(|| "nowhere".to_owned()))
    }
}
