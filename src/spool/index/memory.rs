//! The index in memory: the twin that the index on disk is tested against, and the one that simulations crash.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::recent::{Parked, Recent};
use super::{Index, IndexError, IndexFactory, LOOK_MAX, Mark, Page, Resident, Stored};
use crate::mail::{QueueId, Timestamp};
use crate::spool::{Filter, Stats};

/// Parked messages in maps; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    parked: Recent,
    mark: Option<Mark>,
    /// What each change since the last mark replaced, if that is to be remembered.
    undo: Option<Vec<(QueueId, Option<Parked>)>>,
}

/// Hands out one and the same memory index: "reopening" it finds what the last user left.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndexFactory(pub MemoryIndex);

impl MemoryIndex {
    /// One whose last changes can be taken back, as a power cut does with an index on disk.
    pub fn forgetful() -> Self {
        let index = Self::default();
        index.tables().undo = Some(Vec::new());
        index
    }

    /// How many changes were made since the last mark.
    pub fn unmarked(&self) -> usize {
        self.tables().undo.as_ref().map_or(0, Vec::len)
    }

    /// A copy of its own, without the last `count` changes since the mark.
    pub fn without_last(&self, count: usize) -> Self {
        let tables = self.tables();
        let mut undo = tables.undo.clone().unwrap_or_default();
        let mut copy = Tables { parked: tables.parked.clone(), mark: tables.mark, undo: None };
        for _ in 0..count {
            match undo.pop() {
                Some((id, Some((stored, due)))) => copy.put(id, Some((stored, due))),
                Some((id, None)) => copy.put(id, None),
                None => break,
            }
        }
        copy.undo = Some(undo);
        Self(Arc::new(Mutex::new(copy)))
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn put(&mut self, id: QueueId, new: Option<Parked>) {
        let old = self.parked.put(id, new);
        if let Some(undo) = &mut self.undo {
            undo.push((id, old));
        }
    }
}

impl Index for MemoryIndex {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        Ok(self.tables().mark)
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        let mut tables = self.tables();
        tables.mark = Some(mark);
        if let Some(undo) = &mut tables.undo {
            undo.clear();
        }
        Ok(())
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        self.tables().put(stored.message.id, Some((stored.clone(), due)));
        Ok(())
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        let mut tables = self.tables();
        let old = tables.parked.messages().get(&id).cloned();
        if tables.parked.set_due(id, due)
            && let Some(undo) = &mut tables.undo
        {
            undo.push((id, old));
        }
        Ok(())
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        let mut tables = self.tables();
        if tables.parked.get(id).is_some() {
            tables.put(id, None);
        }
        Ok(())
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        Ok(self.tables().parked.get(id).map(|(stored, due)| (stored.clone(), due)))
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        Ok(self.tables().parked.due_within(from, to, count_max))
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        let tables = self.tables();
        let from = match filter.after {
            None => Bound::Unbounded,
            Some(after) => Bound::Excluded(after),
        };
        let mut page = Page::default();
        for (looked, (id, (stored, _))) in tables.parked.messages().range((from, Bound::Unbounded)).enumerate() {
            if filter.matches(&stored.message) {
                page.found.push(stored.clone());
            }
            if page.found.len() >= count_max || looked + 1 >= LOOK_MAX {
                page.next = Some(*id);
                break;
            }
        }
        Ok(page)
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        let parked = self.tables().parked.clone();
        parked.iter().for_each(|(_, stored, due)| visit(stored.clone(), due));
        Ok(())
    }

    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError> {
        self.tables().parked.iter().for_each(|(_, stored, due)| visit(Resident::new(stored, due)));
        Ok(())
    }

    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError> {
        let tables = self.tables();
        let messages = tables.parked.messages().values().map(|(stored, _)| &stored.message);
        messages.filter(|message| !leave_out.contains(&message.id)).for_each(|message| stats.add(message));
        Ok(())
    }
}

impl IndexFactory for MemoryIndexFactory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(self.0.clone()))
    }

    fn set_aside(&self, _: Timestamp) -> Result<Option<String>, IndexError> {
        let mut tables = self.0.tables();
        let undo = tables.undo.as_ref().map(|_| Vec::new());
        let old = std::mem::replace(&mut *tables, Tables { undo, ..Tables::default() });
        Ok((!old.parked.messages().is_empty() || old.mark.is_some()).then(|| "nowhere".to_owned()))
    }

    fn discard(&self) -> Result<(), IndexError> {
        self.set_aside(Timestamp::ZERO).map(|_| ())
    }
}
