//! Reads the log and brings the index to where the log is. Memory stays bounded: what has been read goes into the index.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::codec::Change;
use super::index::{self, Index, IndexError, Place, Position, Stored};
use super::progress::{Meter, Phase, Watcher, unwatched};
use super::record::{self, Body, ContentAt, Record};
use super::scan::{Found, Scan};
use super::segment::{self, BLOCK_SIZE, HeaderFault, Layout, SegmentHeader};
use super::shared::Shared;
use super::{DueRule, Note, SpoolError, aside};
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, OpenMode, Workers};

/// What has been read goes into the index when it takes so many bytes of memory.
const RECENT_SIZE_MAX: usize = 24 << 20;
/// Records with so many recipients are handed over at a time,
const PIECE: usize = 512;
/// and so many times that may wait.
const AHEAD: usize = 8;

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

impl SegmentFile {
    /// Whether old records may lie behind its own. A header that can't be read doesn't say.
    pub(crate) fn is_reused(&self) -> bool {
        self.header.is_none_or(|header| header.reused)
    }
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
            Ok((Err(HeaderFault::Version(version)), _)) => {
                let (path, newest) = (path.display(), record::VERSION);
                let which = if version > u16::from(newest) { "a newer" } else { "an older" };
                return Err(SpoolError::Unusable(format!("{path} has format version {version}: use {which} posthouse")));
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

/// Where a segment's records end, as far as names and headers tell.
pub(crate) fn known_end(file: &SegmentFile) -> u64 {
    file.end.unwrap_or(file.length).max(BLOCK_SIZE)
}

/// Where reading a segment begins if everything before a position is known already; none: nothing of it needs to be read.
pub(crate) fn first_offset(file: &SegmentFile, from: Position) -> Option<u64> {
    match file.number.cmp(&from.segment) {
        Ordering::Less => None,
        Ordering::Equal => Some(from.offset.clamp(BLOCK_SIZE, known_end(file))),
        Ordering::Greater => Some(BLOCK_SIZE),
    }
}

/// Bytes of records behind a position.
pub(crate) fn bytes_behind(files: &[SegmentFile], from: Position) -> u64 {
    files.iter().filter_map(|file| first_offset(file, from).map(|offset| known_end(file) - offset)).sum()
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
    /// Where reading goes on while the books are kept.
    workers: Workers,
    /// Counts the bytes that are read.
    pub(crate) meter: Meter,
    /// Messages met, with the due time that the index has for them.
    recent: BTreeMap<QueueId, (Stored, Timestamp)>,
    /// What they take in memory, about; bytes.
    recent_size: usize,
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
            workers: Workers::Inline,
            meter: Meter::new(&unwatched(), Phase::Log, 0),
            recent: BTreeMap::new(),
            recent_size: 0,
            last_id: QueueId(0),
            last_sequence: 0,
            records: 0,
            notes: Vec::new(),
        }
    }

    /// Tells somebody how far it has come with so many bytes.
    pub(crate) fn watched_by(mut self, watcher: &Watcher, bytes: u64) -> Self {
        self.meter = Meter::new(watcher, Phase::Log, bytes);
        self
    }

    /// Reads beside keeping the books, if there are threads for it.
    pub(crate) fn with(mut self, workers: Workers) -> Self {
        self.workers = workers;
        self
    }

    /// Fills an empty index while the spool runs, with what was durable when this began. No segment goes meanwhile: for that the
    /// index loop would be asked.
    pub(crate) fn rebuild(shared: &Shared, index: &mut dyn Index) -> Result<(), IndexError> {
        let end = {
            let mut state = shared.lock();
            // The new index has them all: at their end they must be taken out of it.
            state.active.values_mut().for_each(|entry| entry.indexed = true);
            state.parking.entries_mut().for_each(|entry| entry.indexed = true);
            state.dying.values_mut().for_each(|dying| dying.indexed = true);
            state.end
        };
        let (files, _) = list(&*shared.disk, &shared.layout.log).map_err(|error| IndexError::Damaged(error.to_string()))?;
        let replay = Replay::new(&shared.disk, &shared.layout, shared.identity, index, &shared.options.due, true);
        let mut replay = replay.with(shared.workers);
        for mut file in files.into_iter().filter(|file| file.number <= end.segment) {
            if file.number == end.segment {
                file.end = Some(end.offset);
            }
            match replay.segment(&file, BLOCK_SIZE) {
                Ok(_) => {}
                Err(ReplayError::Index(error)) => return Err(error),
                Err(ReplayError::Log(error)) => return Err(IndexError::Damaged(error.to_string())),
            }
        }
        replay.spill()?;
        // Whom damaged bytes spoke of is lost with the old index; but not its content, if that lies in a file.
        let notes = std::mem::take(&mut replay.notes).into_iter();
        let damage: Vec<Note> = notes.filter(|note| matches!(note, Note::Quarantined { .. })).collect();
        if !damage.is_empty() {
            aside::keep_orphans(&*shared.disk, &shared.layout).map_err(|error| IndexError::Damaged(error.to_string()))?;
        }
        damage.into_iter().for_each(|note| shared.report(note));
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
        let scan = Scan::new(opened, self.identity, from, end, file.end.is_some(), self.last_sequence).reused(file.is_reused());
        let mut reached = Ok(scan.offset());
        // Reading and checking takes as long as keeping the books: they go on at the same time.
        self.workers.beside(
            AHEAD,
            |give| read_pieces(scan, give),
            |piece| {
                let done = piece.map_err(&failed).and_then(|piece| {
                    piece.into_iter().try_for_each(|found| {
                        if let Some(whole) = self.found(number, found)? {
                            reached = Ok(whole);
                        }
                        Ok(())
                    })
                });
                if let Err(error) = done {
                    reached = Err(error);
                }
                reached.is_ok()
            },
        );
        reached
    }

    /// Notes what lies in a segment; says where it ends, unless it doesn't count.
    fn found(&mut self, segment: u64, found: Found) -> Result<Option<u64>, ReplayError> {
        match found {
            Found::Record { record, offset, length } => {
                self.meter.add(u64::from(length));
                self.last_sequence = record.sequence;
                self.record(record, Place { segment, offset, length })?;
                Ok(Some(offset + u64::from(length)))
            }
            Found::Damage { offset, length } => {
                self.meter.add(length);
                self.damage(segment, offset, length);
                Ok(Some(offset + length))
            }
            Found::Tail { offset, length } => {
                self.meter.add(length);
                self.notes.push(Note::TailCut { segment, offset, bytes: length });
                Ok(None)
            }
        }
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
                    ContentAt::Inline(..) => None,
                    ContentAt::File(file) => Some(file),
                };
                self.keep(Stored { message: Arc::new(message), place, file }, due);
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
        if self.recent_size >= RECENT_SIZE_MAX {
            self.spill()?;
        }
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), ReplayError> {
        if let Some((stored, _)) = self.load(change.update.id)? {
            let before = index::size_of(stored);
            // A change that speaks of recipients whose own record is damaged is left out; the attempt is made again.
            change.apply(Arc::make_mut(&mut stored.message));
            let after = index::size_of(stored);
            self.recent_size = (self.recent_size + after).saturating_sub(before);
        }
        Ok(())
    }

    fn load(&mut self, id: QueueId) -> Result<Option<&mut (Stored, Timestamp)>, IndexError> {
        if !self.recent.contains_key(&id)
            && let Some((stored, due)) = self.index.get(id)?
        {
            self.keep(stored, due);
        }
        Ok(self.recent.get_mut(&id))
    }

    fn keep(&mut self, stored: Stored, due: Timestamp) {
        self.recent_size += index::size_of(&stored);
        self.recent.insert(stored.message.id, (stored, due));
    }

    /// Everything met goes into the index.
    pub(crate) fn spill(&mut self) -> Result<(), IndexError> {
        self.recent_size = 0;
        let mut recent = std::mem::take(&mut self.recent);
        recent.values_mut().for_each(|(stored, due)| *due = due_after(stored, *due, self.due));
        self.index.insert_many(recent)
    }

    fn damage(&mut self, segment: u64, offset: u64, bytes: u64) {
        let name = aside::bytes_name(segment, offset);
        let file = format!("quarantine/{name}");
        if self.quarantine
            && let Err(error) = aside::copy_bytes(&**self.disk, self.layout, &self.layout.segment(segment), offset, bytes, &name)
        {
            self.notes.push(Note::Trouble(format!("can't copy damaged bytes to {file}: {error}")));
        }
        self.notes.push(Note::Quarantined { segment, offset, bytes, file });
    }
}

/// Reads a segment and hands over what it finds, some at a time.
fn read_pieces(mut scan: Scan, give: &mut dyn FnMut(io::Result<Vec<Found>>) -> bool) {
    loop {
        let mut piece = Vec::new();
        let mut recipients = 0;
        let read = loop {
            match scan.next() {
                Ok(Some(found)) => {
                    recipients += weight(&found);
                    piece.push(found);
                }
                other => break other.map(|_| false),
            }
            if recipients >= PIECE {
                break Ok(true);
            }
        };
        match (give(Ok(piece)), read) {
            (true, Ok(true)) => {}
            (true, Err(error)) => {
                give(Err(error));
                return;
            }
            _ => return,
        }
    }
}

/// What something found takes in memory, in recipients.
fn weight(found: &Found) -> usize {
    match found {
        Found::Record { record: Record { body: Body::Accept { message, changes, .. }, .. }, .. } => {
            1 + message.recipients.len() + changes.iter().map(weight_of_change).sum::<usize>()
        }
        Found::Record { record: Record { body: Body::State(change), .. }, .. } => weight_of_change(change),
        _ => 1,
    }
}

fn weight_of_change(change: &Change) -> usize {
    1 + change.update.statuses.len() + change.update.added.len()
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
