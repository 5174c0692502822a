//! Spare segments: released ones that are written again. Their blocks have been written, so a sync of what is appended changes no books of
//! the file system: one flush of the disk instead of two, and no journal. Owns their names, and which segments may become one.
//!
//! Only segments of this run that never failed do: the old records in them have lower sequence numbers than any that will be written
//! over them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SpoolError;
use super::segment::{self, Layout, SPARE, spare_size};
use super::shared::{Shared, State};
use crate::system::{Disk, OpenMode};

/// The spare segments of a running spool.
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    layout: Layout,
    /// Bytes of a spare.
    size: u64,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    ready: Vec<PathBuf>,
    /// Segments of this run that were sealed and never failed.
    sound: BTreeSet<u64>,
    /// How many were made so far: their names.
    made: u64,
}

impl Spares {
    /// There are none yet.
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: Layout, segment_size: u64) -> Self {
        Self { disk, layout, size: spare_size(segment_size), pool: Mutex::default() }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At start-up: removes what an earlier run left. Its sequence numbers mean nothing now.
    pub(crate) fn clear(&self) -> Result<(), SpoolError> {
        let folder = &self.layout.log;
        let names = self.disk.list(folder).map_err(|error| SpoolError::io("can't list", folder, &error))?;
        for path in names.iter().filter(|name| name.ends_with(SPARE)).map(|name| folder.join(name)) {
            self.disk.unlink(&path).map_err(|error| SpoolError::io("can't remove", &path, &error))?;
        }
        Ok(())
    }

    /// A segment was written to its end without any failure.
    pub(crate) fn sealed(&self, segment: u64) {
        self.pool().sound.insert(segment);
    }

    /// How many are ready.
    pub(crate) fn count(&self) -> usize {
        self.pool().ready.len()
    }

    /// Takes one.
    pub(crate) fn take(&self) -> Option<PathBuf> {
        self.pool().ready.pop()
    }

    /// Gives back the room of all but so many; `false` if there was none to give.
    pub(crate) fn keep(&self, most: usize) -> bool {
        let mut pool = self.pool();
        let from = most.min(pool.ready.len());
        let given = pool.ready.split_off(from);
        drop(pool);
        given.iter().for_each(|path| self.abandon(path));
        !given.is_empty()
    }

    /// Removes one that isn't ready. A name that stays is removed at the next start.
    pub(crate) fn abandon(&self, path: &Path) {
        let _ = self.disk.unlink(path);
    }

    /// Gives a segment in which nothing lives another name, in place of its removal; none if that isn't wanted, or it can't be trusted, or is too
    /// short to be of use. It must not be written before that name is durable and nobody reads it any longer.
    pub(crate) fn retire(&self, segment: u64, wanted: bool) -> Option<PathBuf> {
        let from = self.layout.segment(segment);
        let number = {
            let mut pool = self.pool();
            if !pool.sound.remove(&segment) || !wanted {
                return None;
            }
            pool.made += 1;
            pool.made
        };
        let length = self.disk.open(&from, OpenMode::Read).and_then(|file| file.len()).ok()?;
        let path = self.layout.log.join(segment::spare_name(number));
        let renamed = length >= self.size / 2 && self.disk.rename(&from, &path).is_ok();
        renamed.then_some(path)
    }

    /// From now on it may be written.
    pub(crate) fn add(&self, path: PathBuf) {
        let cut = self.disk.open(&path, OpenMode::Write).and_then(|file| match file.len()? > self.size {
            true => file.set_len(self.size),
            false => Ok(()),
        });
        match cut {
            Ok(()) => self.pool().ready.push(path),
            Err(_) => self.abandon(&path),
        }
    }
}

impl Shared {
    /// How many spare segments there may be, if one more goes.
    pub(crate) fn spares_max(&self, state: &State, going: Option<u64>) -> usize {
        if state.closing || self.free() < self.free_for_spares() {
            return 0;
        }
        let room = state.segments.room_for_spares(self.options.segment_size, state.end.segment, going);
        self.options.spares.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Whether the open segment, of which so much isn't written, may be filled.
    pub(crate) fn may_fill(&self, unwritten: u64) -> bool {
        let state = self.lock();
        let (size, spares) = (self.options.segment_size, self.spares.count() as u64);
        let free = self.free() >= self.free_for_spares().saturating_add(unwritten);
        free && !state.closing && state.segments.may_fill(size, state.end.segment, spares)
    }

    /// Free bytes that others find beside spares, at least.
    pub(crate) fn free_for_spares(&self) -> u64 {
        self.options.min_free.saturating_mul(2)
    }
}
