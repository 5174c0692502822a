//! The index of a simulated spool: breaks when it is told to, counts its changes, and comes back after a crash as one on disk might.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use posthouse::mail::{QueueId, Timestamp};
use posthouse::spool::index::{
    Catalogue, Index, IndexError, IndexFactory, Mark, MemoryCatalogue, MemoryIndex, MemoryIndexFactory, Page, Resident,
    RunIndexFactory, Stored,
};
use posthouse::spool::{Filter, Stats};
use posthouse::system::sim::{SimDisk, SimRandom};

use crate::spool_gates::Gates;
use crate::spool_story::ROOT;

/// Bytes of new messages in memory before they become a run.
const RECENT_SIZE_MAX: usize = 3000;

/// An index; clones share it. `on` makes it the factory of one that works on a disk.
#[derive(Clone)]
pub(crate) struct SimIndex {
    kept: Kept,
    /// Calls until it breaks; 0: never.
    breaks: Arc<AtomicU64>,
    changes: Arc<AtomicU64>,
    marks: Arc<AtomicU64>,
    unmarked: Arc<AtomicU64>,
    /// Who calls it may be held up.
    gates: Option<Arc<Gates>>,
}

/// What isn't on the simulated disk.
#[derive(Clone)]
enum Kept {
    /// All of it.
    Memory(MemoryIndex),
    /// The catalogue of the runs that lie there.
    Catalogue(MemoryCatalogue),
}

impl SimIndex {
    /// An empty one: in runs on the disk, or in memory.
    pub(crate) fn new(in_runs: bool) -> Self {
        if in_runs {
            Self::of(Kept::Catalogue(MemoryCatalogue::default()), 0)
        } else {
            Self::of(Kept::Memory(MemoryIndex::forgetful()), 0)
        }
    }

    fn of(kept: Kept, unmarked: u64) -> Self {
        Self {
            kept,
            breaks: Arc::default(),
            changes: Arc::default(),
            marks: Arc::default(),
            unmarked: Arc::new(AtomicU64::new(unmarked)),
            gates: None,
        }
    }

    /// Behind gates.
    pub(crate) fn behind(self, gates: Option<Arc<Gates>>) -> Self {
        Self { gates, ..self }
    }

    /// What holds up those who call it.
    pub(crate) fn gates(&self) -> Option<Arc<Gates>> {
        self.gates.clone()
    }

    /// A copy of its own.
    pub(crate) fn copy(&self) -> Self {
        let kept = match &self.kept {
            Kept::Memory(index) => Kept::Memory(index.without_last(0)),
            Kept::Catalogue(catalogue) => Kept::Catalogue(catalogue.copy()),
        };
        Self::of(kept, self.unmarked())
    }

    /// A copy as a power cut leaves it: what came after the last mark is there up to some point, or in what the disk still has.
    pub(crate) fn crashed(&self, random: &mut SimRandom) -> Self {
        match &self.kept {
            Kept::Memory(index) => {
                let lost = random.below(self.unmarked() + 1);
                Self::of(Kept::Memory(index.without_last(lost as usize)), self.unmarked() - lost)
            }
            Kept::Catalogue(_) => self.copy(),
        }
    }

    /// An empty one of the same kind.
    pub(crate) fn lost(&self) -> Self {
        Self::new(matches!(self.kept, Kept::Catalogue(_)))
    }

    /// Whether a rebuild is due.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.kept {
            Kept::Memory(index) => index.mark().is_ok_and(|mark| mark.is_none()),
            Kept::Catalogue(catalogue) => catalogue.load().is_ok_and(|pairs| pairs.is_empty()),
        }
    }

    /// What opens it.
    pub(crate) fn on(&self, disk: &SimDisk) -> Box<dyn IndexFactory> {
        let inner: Box<dyn IndexFactory> = match &self.kept {
            Kept::Memory(index) => Box::new(MemoryIndexFactory(index.clone())),
            Kept::Catalogue(catalogue) => Box::new(RunIndexFactory {
                path: Path::new(ROOT).join("index"),
                disk: Arc::new(disk.clone()),
                catalogue: Box::new(catalogue.clone()),
                cache: 1 << 16,
                recent_size_max: RECENT_SIZE_MAX,
            }),
        };
        Box::new(Factory { inner, index: self.clone() })
    }

    /// Changes since the last mark.
    pub(crate) fn unmarked(&self) -> u64 {
        match &self.kept {
            Kept::Memory(index) => index.unmarked() as u64,
            Kept::Catalogue(_) => self.unmarked.load(Ordering::Relaxed),
        }
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
        self.gates.iter().for_each(|gates| gates.pass());
        let before = self.breaks.load(Ordering::Relaxed);
        self.breaks.store(before.saturating_sub(1), Ordering::Relaxed);
        if before == 1 { Err(IndexError::Damaged("broken".to_owned())) } else { Ok(()) }
    }

    fn change(&self) -> Result<(), IndexError> {
        self.call()?;
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.unmarked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Factory {
    inner: Box<dyn IndexFactory>,
    index: SimIndex,
}

impl IndexFactory for Factory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(Open { inner: self.inner.open()?, index: self.index.clone() }))
    }

    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        self.index.changes.fetch_add(1, Ordering::Relaxed);
        self.inner.set_aside(now)
    }

    fn discard(&self) -> Result<(), IndexError> {
        self.index.changes.fetch_add(1, Ordering::Relaxed);
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
        self.inner.set_mark(mark)?;
        // What a cut within this kept is the index before it.
        self.index.changes.fetch_add(1, Ordering::Relaxed);
        self.index.unmarked.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        self.index.change()?;
        self.inner.insert(stored, due)
    }

    fn insert_many(&mut self, batch: BTreeMap<QueueId, (Stored, Timestamp)>) -> Result<(), IndexError> {
        self.index.change()?;
        self.inner.insert_many(batch)
    }

    fn work(&mut self) -> Result<bool, IndexError> {
        self.index.change()?;
        self.inner.work()
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

    fn get_all(&self, ids: &BTreeSet<QueueId>, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        self.index.call()?;
        self.inner.get_all(ids, visit)
    }

    fn disk_size(&self) -> u64 {
        self.inner.disk_size()
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
