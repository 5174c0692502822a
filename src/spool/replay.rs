//! Reads the log and brings the index to where the log is. Memory stays bounded: what has been read goes into the index.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::codec::Change;
use super::index::{Index, IndexError, Place, Stored};
use super::record::{Body, ContentAt, Record};
use super::scan::{Found, Scan};
use super::segment::{self, BLOCK_SIZE, HeaderFault, Layout, SegmentHeader};
use super::shared::Shared;
use super::{DueRule, Note, SpoolError, quarantine};
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, OpenMode};

/// So many messages are kept in memory before they go into the index.
const RECENT_MAX: usize = 20_000;

/// A segment as found on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) number: u64,
    /// None: the header block is broken.
    pub(crate) header: Option<SegmentHeader>,
    /// The file's length.
    pub(crate) length: u64,
    /// Where its records end, if its successor says so.
    pub(crate) end: Option<u64>,
}

/// The segments, the oldest first, and the identity of the spool if any header tells it. Segments that vanish while they are
/// being listed were released and are left out.
pub(crate) fn list(disk: &dyn Disk, folder: &Path) -> Result<(Vec<SegmentFile>, Option<u64>), SpoolError> {
    let names = disk.list(folder).map_err(|error| SpoolError::io("can't list", folder, &error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
    numbers.sort_unstable();
    let mut files: Vec<SegmentFile> = Vec::new();
    let mut identity = None;
    for number in numbers {
        let path = folder.join(segment::name(number));
        let read = disk.open(&path, OpenMode::Read).and_then(|file| segment::read_header(&*file));
        let (header, length) = match read {
            Ok((Err(HeaderFault::Newer(version)), _)) => {
                let path = path.display();
                return Err(SpoolError::Unusable(format!("{path} has format version {version}: use a newer posthouse")));
            }
            Ok((header, length)) => (header.ok(), length),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(SpoolError::io("can't read", &path, &error)),
        };
        if let Some(header) = header {
            if identity.is_some_and(|identity| identity != header.identity) {
                let path = path.display();
                return Err(SpoolError::Unusable(format!("{path} belongs to another spool: move it away")));
            }
            identity = Some(header.identity);
            if let Some(prior) = files.iter_mut().find(|file| file.number == header.prior) {
                prior.end = Some(header.prior_end);
            }
        }
        files.push(SegmentFile { number, header, length, end: None });
    }
    Ok((files, identity))
}

/// Reads records and keeps the books.
pub(crate) struct Replay<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) layout: &'a Layout,
    pub(crate) identity: u64,
    pub(crate) index: &'a mut dyn Index,
    pub(crate) due: &'a DueRule,
    /// Whether damaged bytes are copied to the quarantine folder.
    pub(crate) quarantine: bool,
    /// Messages met, with the due time that the index has for them.
    recent: BTreeMap<QueueId, (Stored, Timestamp)>,
    pub(crate) last_id: QueueId,
    pub(crate) last_sequence: u64,
    pub(crate) records: u64,
    pub(crate) notes: Vec<Note>,
}

/// Reading stopped: the log can't be read, or the index can't be written.
#[derive(Debug)]
pub(crate) enum ReplayError {
    Log(SpoolError),
    Index(IndexError),
}

impl From<IndexError> for ReplayError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl<'a> Replay<'a> {
    pub(crate) fn new(
        disk: &'a Arc<dyn Disk>,
        layout: &'a Layout,
        identity: u64,
        index: &'a mut dyn Index,
        due: &'a DueRule,
        quarantine: bool,
    ) -> Self {
        Self {
            disk,
            layout,
            identity,
            index,
            due,
            quarantine,
            recent: BTreeMap::new(),
            last_id: QueueId(0),
            last_sequence: 0,
            records: 0,
            notes: Vec::new(),
        }
    }

    /// Fills an empty index while the spool runs, with what was durable when this began. No segment goes meanwhile: for that the
    /// index loop would be asked.
    pub(crate) fn rebuild(shared: &Shared, index: &mut dyn Index) -> Result<(), IndexError> {
        let end = {
            let mut state = shared.lock();
            // The new index has them all: at their end they must be taken out of it.
            state.active.values_mut().for_each(|entry| entry.indexed = true);
            state.parking.values_mut().for_each(|parking| parking.entry.indexed = true);
            state.dying.values_mut().for_each(|dying| dying.indexed = true);
            state.end
        };
        let (files, _) = list(&*shared.disk, &shared.layout.log).map_err(|error| IndexError(error.to_string()))?;
        let mut replay = Replay::new(&shared.disk, &shared.layout, shared.identity, index, &shared.options.due, false);
        for mut file in files.into_iter().filter(|file| file.number <= end.segment) {
            if file.number == end.segment {
                file.end = Some(end.offset);
            }
            match replay.segment(&file, BLOCK_SIZE) {
                Ok(_) => {}
                Err(ReplayError::Index(error)) => return Err(error),
                Err(ReplayError::Log(error)) => return Err(IndexError(error.to_string())),
            }
        }
        replay.spill()?;
        // Somebody works on what is active.
        let active: Vec<QueueId> = shared.lock().active.keys().copied().collect();
        active.into_iter().try_for_each(|id| index.set_due(id, Timestamp::ZERO))
    }

    /// Reads a segment from an offset on; says where its records end.
    pub(crate) fn segment(&mut self, file: &SegmentFile, from: u64) -> Result<u64, ReplayError> {
        let number = file.number;
        let path = self.layout.segment(number);
        let failed = |error: io::Error| ReplayError::Log(SpoolError::io("can't read", &path, &error));
        let opened = match self.disk.open(&path, OpenMode::Read) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BLOCK_SIZE),
            Err(error) => return Err(failed(error)),
        };
        if let Some(header) = &file.header {
            self.last_id = self.last_id.max(header.last_id);
            self.last_sequence = self.last_sequence.max(header.sequence.saturating_sub(1));
        }
        let end = file.end.unwrap_or(file.length).max(BLOCK_SIZE);
        let mut scan = Scan::new(opened, self.identity, from, end, file.end.is_some(), self.last_sequence);
        let mut whole = scan.offset();
        while let Some(found) = scan.next().map_err(failed)? {
            match found {
                Found::Record { record, offset, length } => {
                    self.last_sequence = scan.last_sequence();
                    self.record(record, Place { segment: number, offset, length })?;
                    whole = scan.offset();
                }
                Found::Damage { offset, length } => {
                    self.damage(number, offset, length);
                    whole = scan.offset();
                }
                Found::Tail { offset, length } => {
                    self.notes.push(Note::TailCut { segment: number, offset, bytes: length });
                }
            }
        }
        Ok(whole)
    }

    fn record(&mut self, record: Record, place: Place) -> Result<(), ReplayError> {
        self.records += 1;
        self.last_id = self.last_id.max(record.id);
        match record.body {
            Body::Accept { message, content, changes } => {
                let due = match self.load(record.id)? {
                    Some((_, due)) => *due,
                    None => Timestamp::ZERO,
                };
                let file = match content {
                    ContentAt::Inline(_) => None,
                    ContentAt::File(crc) => Some(crc),
                };
                self.recent.insert(record.id, (Stored { message, place, file }, due));
                for change in changes {
                    self.change(&change)?;
                }
            }
            Body::State(change) => self.change(&change)?,
            Body::Done => {
                self.recent.remove(&record.id);
                self.index.remove(record.id)?;
            }
        }
        if self.recent.len() >= RECENT_MAX {
            self.spill()?;
        }
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), ReplayError> {
        if let Some((stored, _)) = self.load(change.update.id)? {
            // A change that speaks of recipients whose own record is damaged is left out; the attempt is made again.
            change.apply(&mut stored.message);
        }
        Ok(())
    }

    fn load(&mut self, id: QueueId) -> Result<Option<&mut (Stored, Timestamp)>, IndexError> {
        if !self.recent.contains_key(&id)
            && let Some(known) = self.index.get(id)?
        {
            self.recent.insert(id, known);
        }
        Ok(self.recent.get_mut(&id))
    }

    /// Everything met goes into the index.
    pub(crate) fn spill(&mut self) -> Result<(), IndexError> {
        let mut recent = std::mem::take(&mut self.recent);
        recent.values_mut().for_each(|(stored, due)| *due = due_after(stored, *due, self.due));
        self.index.insert_many(recent)
    }

    fn damage(&mut self, segment: u64, offset: u64, bytes: u64) {
        let file = quarantine::name(segment, offset);
        if self.quarantine
            && let Err(error) = quarantine::keep(&**self.disk, self.layout, segment, offset, bytes)
        {
            self.notes.push(Note::Trouble(format!("can't copy damaged bytes to {file}: {error}")));
        }
        self.notes.push(Note::Quarantined { segment, offset, bytes, file });
    }
}

/// When a message found at start-up is due: not later than the index said, if it waited there; and at once if only its Done record
/// is missing.
pub(crate) fn due_after(stored: &Stored, known: Timestamp, rule: &DueRule) -> Timestamp {
    let first = Timestamp::from_millis(1);
    if stored.message.is_done() {
        return first;
    }
    let ruled = rule(&stored.message).max(first);
    if known == Timestamp::ZERO { ruled } else { known.min(ruled) }
}
