//! Reads a stopped server's spool, from the log alone, and changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::content::{self, Located};
use super::index::{Index, MemoryIndex};
use super::replay::{self, Replay, ReplayError, SegmentFile};
use super::segment::{BLOCK_SIZE, Layout};
use super::unreadable::Unreadable;
use super::{Filter, Note, SpoolError, Stats};
use crate::mail::{Message, QueueId};
use crate::system::{Content, Disk, Turns};

/// A listing is read in pages of this many messages.
const PAGE: usize = 1000;

/// What a stopped server's log says.
pub struct StoppedSpool {
    disk: Arc<dyn Disk>,
    layout: Layout,
    identity: u64,
    unreadable: Unreadable,
    index: MemoryIndex,
    notes: Vec<Note>,
}

/// Reads the log below `path`. `Locked` if a server has the spool open.
pub fn read_stopped(path: &Path, disk: &Arc<dyn Disk>) -> Result<StoppedSpool, SpoolError> {
    let layout = Layout::new(path);
    if !disk.exists(&layout.log) {
        return Err(SpoolError::Unusable(format!("{} is not a spool", path.display())));
    }
    // Held while reading, so that a server that starts meanwhile doesn't take segments away.
    let _lock = lock(&**disk, &layout)?;
    let (files, identity) = segments(&**disk, &layout)?;
    let mut index = MemoryIndex::default();
    let due = super::options::next_attempt();
    let mut replay = Replay::new(disk, &layout, identity, &mut index, &due, false);
    let read = files.iter().try_for_each(|file| replay.segment(file, BLOCK_SIZE).map(|_| ()));
    let mut notes = std::mem::take(&mut replay.notes);
    let read = read.and_then(|()| replay.spill().map_err(ReplayError::Index));
    match read {
        Ok(()) => {
            let (unreadable, troubles) = Unreadable::load(&**disk, &layout);
            notes.extend(troubles.into_iter().map(Note::Trouble));
            Ok(StoppedSpool { disk: disk.clone(), layout, identity, unreadable, index, notes })
        }
        Err(ReplayError::Log(error)) => Err(error),
        Err(ReplayError::Index(error)) => Err(SpoolError::Index(error.to_string())),
    }
}

/// The segments of a spool that is only read, and its identity: zero if there is nothing in it.
pub(crate) fn segments(disk: &dyn Disk, layout: &Layout) -> Result<(Vec<SegmentFile>, u64), SpoolError> {
    let (files, identity) = replay::list(disk, &layout.log)?;
    match identity {
        Some(identity) => Ok((files, identity)),
        None if files.iter().all(|file| file.length <= BLOCK_SIZE) => Ok((files, 0)),
        None => {
            let log = layout.log.display();
            Err(SpoolError::Unusable(format!("no segment in {log} has a readable header")))
        }
    }
}

/// Locks a spool for this process.
pub(crate) fn lock(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn crate::system::DiskLock>, SpoolError> {
    disk.lock(&layout.lock).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => SpoolError::Locked(layout.root.clone()),
        _ => SpoolError::io("can't lock", &layout.lock, &error),
    })
}

impl StoppedSpool {
    /// Messages that match, ordered by id.
    pub fn list(&self, filter: &Filter) -> Vec<Message> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let mut filter = filter.clone();
        let mut messages = Vec::new();
        while messages.len() < limit {
            // The index in memory can't fail.
            let Ok(page) = self.index.page(&filter, PAGE.min(limit - messages.len())) else { break };
            messages.extend(page.found.into_iter().map(|stored| Arc::unwrap_or_clone(stored.message)));
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        messages
    }

    /// One message.
    pub fn message(&self, id: QueueId) -> Option<Message> {
        self.index.get(id).ok().flatten().map(|(stored, _)| Arc::unwrap_or_clone(stored.message))
    }

    /// A message's content.
    pub fn content(&self, id: QueueId) -> Result<Arc<dyn Content>, SpoolError> {
        let (stored, _) = self.index.get(id).ok().flatten().ok_or(SpoolError::Unknown(id))?;
        let located = Located::new(&stored, &self.unreadable);
        let content = content::open(&*self.disk, &self.layout, self.identity, located, &Turns::inline())?;
        content.ok_or(SpoolError::Damaged(id))
    }

    /// Counts the queue.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        // The index in memory can't fail.
        let _ = self.index.visit(&mut |stored, _| stats.add(&stored.message));
        stats
    }

    /// Damage that was met: a torn tail, unreadable records.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}
