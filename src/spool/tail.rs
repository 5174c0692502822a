//! Puts the log's end in order at start-up: finds where it ends, and begins a new segment with what can't be relied on yet.
//!
//! Only the batch behind it proves a batch durable. After a kill, or a sync that failed, the last one may lie nowhere but in the
//! machine's memory, even if it can be read: so it is written again at the head of the new segment, and doesn't count any longer
//! where it was.

use std::sync::Arc;

use super::index::Position;
use super::log::{Log, Room};
use super::record::{Frame, Header};
use super::replay::SegmentFile;
use super::scan::{Found, Scan};
use super::segment::{BLOCK_SIZE, Layout, read_full};
use super::{Note, SpoolError};
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, OpenMode};

/// The log's end as found.
pub(crate) struct Tail {
    /// Behind the last whole record.
    pub(crate) end: Position,
    /// Where the last batch begins.
    certain: u64,
    /// What the new segment names as the one before, and as its end.
    follows: Position,
    /// The last batch.
    carry: Vec<Frame>,
    /// The highest sequence number.
    pub(crate) sequence: u64,
    /// The greatest id.
    pub(crate) last_id: QueueId,
    /// What was cut off.
    pub(crate) note: Option<Note>,
}

impl Tail {
    /// The end of an empty log.
    fn none() -> Self {
        Self {
            end: Position::default(),
            certain: 0,
            follows: Position::default(),
            carry: Vec::new(),
            sequence: 0,
            last_id: QueueId(0),
            note: None,
        }
    }

    /// Looks for the end in the last segment that ever held anything: those behind it were never born.
    pub(crate) fn find(disk: &dyn Disk, layout: &Layout, identity: u64, files: &[SegmentFile]) -> Result<Self, SpoolError> {
        for file in files.iter().rev() {
            let mut tail = Self::none();
            // What an earlier life of the file left is older than every segment before it, whose headers say how old that is.
            let before = files.iter().filter(|other| other.number < file.number).filter_map(|other| other.header);
            tail.sequence = before.map(|header| header.sequence.saturating_sub(1)).max().unwrap_or(0);
            let any = tail.scan(disk, layout, identity, file)?;
            if any || file.header.is_some() {
                // Its header says where the one before ends; after a kill it too may lie only in memory. And room may still be
                // reserved behind its end, or written before: that is given back. What is torn stays.
                let path = layout.segment(file.number);
                let torn = match tail.note {
                    Some(Note::TailCut { offset, bytes, .. }) => offset + bytes,
                    _ => tail.end.offset,
                };
                let length = torn.min(file.length);
                let synced = disk.open(&path, OpenMode::Write).and_then(|open| {
                    let _ = open.set_len(length);
                    open.sync_data()
                });
                let synced = synced.and_then(|()| disk.sync_dir(&layout.log));
                synced.map_err(|error| SpoolError::io("can't sync", &path, &error))?;
                return Ok(tail);
            }
        }
        Ok(Self::none())
    }

    /// Scans a segment; says whether it has any record.
    fn scan(&mut self, disk: &dyn Disk, layout: &Layout, identity: u64, file: &SegmentFile) -> Result<bool, SpoolError> {
        let path = layout.segment(file.number);
        let failed = |error| SpoolError::io("can't read", &path, &error);
        if let Some(header) = &file.header {
            self.sequence = header.sequence.saturating_sub(1);
            self.last_id = header.last_id;
        }
        self.end = Position { segment: file.number, offset: BLOCK_SIZE };
        self.certain = BLOCK_SIZE;
        let opened = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let mut scan = Scan::new(opened, identity, BLOCK_SIZE, file.length, false, self.sequence).reused(file.is_reused());
        let mut any = false;
        while let Some(found) = scan.next().map_err(failed)? {
            match found {
                Found::Record { record, offset, .. } => {
                    any = true;
                    if record.batch {
                        self.certain = offset;
                    }
                    self.last_id = self.last_id.max(record.id);
                    self.sequence = record.sequence;
                    self.end.offset = scan.offset();
                }
                Found::Damage { .. } => self.end.offset = scan.offset(),
                Found::Tail { offset, length } => {
                    self.note = Some(Note::TailCut { segment: file.number, offset, bytes: length });
                }
            }
        }
        let mut batch = vec![0; usize::try_from(self.end.offset - self.certain).unwrap_or(0)];
        let opened = disk.open(&path, OpenMode::Read).map_err(failed)?;
        let filled = read_full(&*opened, self.certain, &mut batch).map_err(failed)?;
        self.carry = frames(identity, &batch[..filled]);
        self.follows = match &file.header {
            // Nothing proves that its header is durable, and that alone says where the one before ends: the new one says it again.
            Some(header) if !any && header.prior > 0 => Position { segment: header.prior, offset: header.prior_end },
            _ => Position { segment: file.number, offset: self.certain },
        };
        Ok(any)
    }

    /// Begins a new segment with the last batch in it, and says so in the list of segments.
    pub(crate) fn begin(
        mut self,
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        mut log: Log,
        now: Timestamp,
        files: &mut Vec<SegmentFile>,
    ) -> Result<Log, SpoolError> {
        log.go_on_after(self.follows);
        let mut carry: Vec<&mut Frame> = self.carry.iter_mut().collect();
        let begun = log.open_next(&mut carry, Room::NONE, self.last_id, now);
        begun.map_err(|error| SpoolError::io("can't begin a segment in", &layout.log, &error))?;
        if let Some(last) = files.iter_mut().find(|file| file.number == self.end.segment) {
            last.end = Some(self.certain);
        }
        let Position { segment: number, offset: end } = log.durable();
        let path = layout.segment(number);
        let header = disk.open(&path, OpenMode::Read).and_then(|file| super::segment::read_header(&*file));
        let (header, length) = header.map_err(|error| SpoolError::io("can't read", &path, &error))?;
        files.push(SegmentFile { number, header: header.ok(), length, end: Some(end) });
        Ok(log)
    }
}

/// The records of a batch that was scanned before.
fn frames(identity: u64, mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((record, rest)) = Header::parse(identity, bytes).and_then(|header| bytes.split_at_checked(header.size())) {
        frames.push(Frame::again(record.to_vec()));
        bytes = rest;
    }
    frames
}
