//! The index of a simulated spool: breaks when it is told to, counts its changes, and comes back after a crash as one on disk might.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use posthouse::mail::{QueueId, Timestamp};
use posthouse::spool::index::{Index, IndexError, IndexFactory, Mark, MemoryIndex, MemoryIndexFactory, Page, Resident, Stored};
use posthouse::spool::{Filter, Stats};
use posthouse::system::sim::SimRandom;

/// An index and its factory; clones share it.
#[derive(Clone)]
pub(crate) struct SimIndex {
    inner: MemoryIndexFactory,
    /// Calls until it breaks; 0: never.
    breaks: Arc<AtomicU64>,
    changes: Arc<AtomicU64>,
    marks: Arc<AtomicU64>,
}

impl SimIndex {
    /// Whether it keeps anything on the simulated disk.
    pub(crate) const WRITES: bool = false;

    /// An empty one.
    pub(crate) fn new() -> Self {
        Self::of(MemoryIndex::forgetful())
    }

    fn of(inner: MemoryIndex) -> Self {
        Self { inner: MemoryIndexFactory(inner), breaks: Arc::default(), changes: Arc::default(), marks: Arc::default() }
    }

    /// A copy of its own.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.inner.0.without_last(0))
    }

    /// A copy as a power cut leaves it: what came after the last mark is there up to some point.
    pub(crate) fn crashed(&self, random: &mut SimRandom) -> Self {
        Self::of(self.inner.0.without_last(random.below(self.unmarked() + 1) as usize))
    }

    /// Whether a rebuild is due.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.open().is_ok_and(|index| index.mark().is_ok_and(|mark| mark.is_none()))
    }

    /// Changes since the last mark.
    pub(crate) fn unmarked(&self) -> u64 {
        self.inner.0.unmarked() as u64
    }

    /// Changes and marks ever: while they are the same, so is what is in it.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Marks ever.
    pub(crate) fn marks(&self) -> u64 {
        self.marks.load(Ordering::Relaxed)
    }

    /// The `count`-th call from now that could change or find something fails, once.
    pub(crate) fn break_in(&self, count: u64) {
        self.breaks.store(count + 1, Ordering::Relaxed);
    }

    fn call(&self) -> Result<(), IndexError> {
        let before = self.breaks.load(Ordering::Relaxed);
        self.breaks.store(before.saturating_sub(1), Ordering::Relaxed);
        if before == 1 { Err(IndexError("broken".to_owned())) } else { Ok(()) }
    }

    fn change(&self) -> Result<(), IndexError> {
        self.call()?;
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl IndexFactory for SimIndex {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(Open { inner: self.inner.open()?, index: self.clone() }))
    }

    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.inner.set_aside(now)
    }

    fn discard(&self) -> Result<(), IndexError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.inner.discard()
    }
}

struct Open {
    inner: Box<dyn Index>,
    index: SimIndex,
}

impl Index for Open {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        self.inner.mark()
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        self.index.change()?;
        self.index.marks.fetch_add(1, Ordering::Relaxed);
        self.inner.set_mark(mark)
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        self.index.change()?;
        self.inner.insert(stored, due)
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        self.index.change()?;
        self.inner.set_due(id, due)
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        self.index.change()?;
        self.inner.remove(id)
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        self.index.call()?;
        self.inner.get(id)
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        self.index.call()?;
        self.inner.due(from, to, count_max)
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        self.index.call()?;
        self.inner.page(filter, count_max)
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        self.inner.visit(visit)
    }

    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError> {
        self.inner.residents(visit)
    }

    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError> {
        self.index.call()?;
        self.inner.count(leave_out, stats)
    }
}
