//! An index that fails as long as it is told to. Owns the switches.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use posthouse::mail::{QueueId, Timestamp};
use posthouse::spool::index::{Index, IndexError, IndexFactory, Mark, MemoryIndexFactory, Page, Resident, Stored};
use posthouse::spool::{Filter, Stats};

/// An index that fails as long as it is told to.
#[derive(Clone, Default)]
pub(crate) struct Failing {
    inner: MemoryIndexFactory,
    /// Whether it fails.
    pub(crate) broken: Arc<AtomicBool>,
    /// What marking it comes to.
    pub(crate) marks: Arc<Mutex<Option<IndexError>>>,
    /// Whether nothing can be removed from it.
    pub(crate) clings: Arc<AtomicBool>,
    /// Whether nothing can be taken out of it to be tried.
    pub(crate) stuck: Arc<AtomicBool>,
}

struct FailingIndex {
    inner: Box<dyn Index>,
    broken: Arc<AtomicBool>,
    marks: Arc<Mutex<Option<IndexError>>>,
    clings: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
}

fn check(broken: &AtomicBool) -> Result<(), IndexError> {
    if broken.load(Ordering::Relaxed) { Err(IndexError::Damaged("no space".to_owned())) } else { Ok(()) }
}

impl IndexFactory for Failing {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        check(&self.broken)?;
        let Self { broken, marks, clings, stuck, .. } = self.clone();
        Ok(Box::new(FailingIndex { inner: self.inner.open()?, broken, marks, clings, stuck }))
    }

    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        self.inner.set_aside(now)
    }

    fn discard(&self) -> Result<(), IndexError> {
        self.inner.discard()
    }
}

impl Index for FailingIndex {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        self.inner.mark()
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        check(&self.broken)?;
        if let Some(error) = self.marks.lock().unwrap().clone() {
            return Err(error);
        }
        self.inner.set_mark(mark)
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        check(&self.broken)?;
        self.inner.insert(stored, due)
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(IndexError::Unwritable("no space".to_owned()));
        }
        check(&self.broken)?;
        self.inner.set_due(id, due)
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        if self.clings.load(Ordering::Relaxed) {
            return Err(IndexError::Unwritable("no space".to_owned()));
        }
        check(&self.broken)?;
        self.inner.remove(id)
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        check(&self.broken)?;
        self.inner.get(id)
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        check(&self.broken)?;
        self.inner.due(from, to, count_max)
    }

    fn due_in_memory(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        check(&self.broken)?;
        self.inner.due_in_memory(from, to, count_max)
    }

    fn in_memory(&self) -> usize {
        self.inner.in_memory()
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        check(&self.broken)?;
        self.inner.page(filter, count_max)
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        check(&self.broken)?;
        self.inner.visit(visit)
    }

    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError> {
        check(&self.broken)?;
        self.inner.residents(visit)
    }

    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError> {
        check(&self.broken)?;
        self.inner.count(leave_out, stats)
    }
}
