//! The log's writing end: appends a batch and makes it durable. Owns the open segment.

use std::io;
use std::sync::Arc;

use super::index::Position;
use super::record::Frame;
use super::segment::{self, BLOCK_SIZE, Layout, SegmentHeader};
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, DiskFile};

/// Where the next record goes, and how it is called.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    layout: Layout,
    identity: u64,
    segment_size: u64,
    file: Option<Box<dyn DiskFile>>,
    limit: u64,
    /// Where the durable records end: in the open segment, or in the last one if none is open.
    end: Position,
    /// The highest number ever tried for a segment.
    number: u64,
    sequence: u64,
    buffer: Vec<u8>,
}

/// A batch that didn't become durable.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The segment that was closed for it; none if it was a new one that couldn't be made.
    pub(crate) segment: Option<u64>,
    /// Whether the batch may be found by the next recovery all the same.
    pub(crate) in_doubt: bool,
    /// What the system said.
    pub(crate) error: io::Error,
}

/// What a recovery knows of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogEnd {
    pub(crate) identity: u64,
    /// Where the last segment's valid records end; segment 0 if there is none.
    pub(crate) end: Position,
    /// The highest segment number in use.
    pub(crate) number: u64,
    /// The next sequence number.
    pub(crate) sequence: u64,
}

impl Log {
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: Layout, segment_size: u64, at: LogEnd) -> Self {
        Self {
            disk,
            layout,
            identity: at.identity,
            segment_size,
            file: None,
            limit: 0,
            end: at.end,
            number: at.number,
            sequence: at.sequence,
            buffer: Vec::new(),
        }
    }

    /// Where the durable records end.
    pub(crate) fn end(&self) -> Position {
        self.end
    }

    /// The next sequence number.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends the frames and makes them durable; says where the first one lies. All or, as far as anyone may rely on it, none.
    pub(crate) fn append(&mut self, frames: &mut [&mut Frame], last_id: QueueId, now: Timestamp) -> Result<Position, Failure> {
        let total: u64 = frames.iter().map(|frame| frame.bytes().len() as u64).sum();
        let full = self.end.offset > BLOCK_SIZE && self.end.offset + total > self.limit;
        if self.file.is_none() || full {
            self.open_next(last_id, now).map_err(|error| Failure { segment: None, in_doubt: false, error })?;
        }
        let first = self.sequence;
        for (count, frame) in frames.iter_mut().enumerate() {
            frame.seal(self.identity, first + count as u64, count == 0);
        }
        self.sequence += frames.len() as u64;
        if let Err(error) = self.write(frames) {
            let segment = Some(self.end.segment);
            self.file = None;
            // The new segment's header says where this one ends: from then on the batch can't come back.
            let in_doubt = self.open_next(last_id, now).is_err();
            return Err(Failure { segment, in_doubt, error });
        }
        let start = self.end;
        self.end.offset += total;
        Ok(start)
    }

    fn write(&mut self, frames: &[&mut Frame]) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::Error::other("no segment is open")) };
        if let [frame] = frames {
            file.write_at(self.end.offset, frame.bytes())?;
        } else {
            self.buffer.clear();
            frames.iter().for_each(|frame| self.buffer.extend_from_slice(frame.bytes()));
            file.write_at(self.end.offset, &self.buffer)?;
        }
        file.sync_data()
    }

    /// Closes the open segment for good and begins the next.
    pub(crate) fn open_next(&mut self, last_id: QueueId, now: Timestamp) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            // Gives reserved space back; without it the segment is only larger than it need be.
            let _ = file.set_len(self.end.offset);
        }
        self.number += 1;
        let header = SegmentHeader {
            identity: self.identity,
            number: self.number,
            prior: self.end.segment,
            prior_end: self.end.offset,
            sequence: self.sequence,
            last_id,
            created: now,
        };
        let (file, limit) = segment::create(&*self.disk, &self.layout.log, &header, self.segment_size)?;
        self.file = Some(file);
        self.limit = limit;
        self.end = Position { segment: self.number, offset: BLOCK_SIZE };
        Ok(())
    }
}
