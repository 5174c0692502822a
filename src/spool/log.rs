//! The log's writing end: appends records and makes them durable. Owns the open segment.
//!
//! A batch is what one sync makes durable; it may be written in several pieces. Its first record says that everything before is
//! durable.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::is_full;
use super::index::Position;
use super::record::Frame;
use super::reserve::Reserve;
use super::segment::{self, BLOCK_SIZE, Layout, NotBegun, SegmentHeader};
use super::spare::Spares;
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, DiskFile};

/// Where the next record goes, and how it is called.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    layout: Layout,
    identity: u64,
    segment_size: u64,
    spares: Arc<Spares>,
    reserve: Reserve,
    file: Option<Box<dyn DiskFile>>,
    /// Up to where the open segment should be written,
    limit: u64,
    /// and up to where the disk has room reserved for it.
    reserved: u64,
    /// Up to where its blocks have been written, if only with zeros.
    written: u64,
    /// So many of them at a time.
    zeros: Vec<u8>,
    /// What a sync made durable of late, on average; bytes.
    synced: u64,
    /// Where the durable records end: in the open segment, or in the last one if none is open.
    durable: Position,
    /// Bytes written behind that.
    unsynced: u64,
    /// The highest number ever tried for a segment.
    number: u64,
    /// Segments that couldn't be begun, and perhaps left a file.
    stillborn: Vec<u64>,
    sequence: u64,
    buffer: Vec<u8>,
}

/// Where a log is written.
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) layout: Layout,
    pub(crate) segment_size: u64,
    pub(crate) zeros_ahead: u64,
    pub(crate) spares: Arc<Spares>,
    pub(crate) reserve: Reserve,
}

/// What a new segment must have room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes of records to come.
    pub(crate) bytes: u64,
    /// Whether the reserve may be given up for it.
    pub(crate) from_reserve: bool,
}

impl Room {
    /// For nothing in particular; but there must be a segment.
    pub(crate) const NONE: Self = Self { bytes: 0, from_reserve: true };
}

/// What the file system's journal takes for a sync into blocks that were only reserved; bytes. Measured on ext4: a descriptor, the inode,
/// a commit.
const JOURNAL: u64 = 12 << 10;

/// While nothing else is to be written: so many times as many zeros as are written ahead are made durable at once.
const FILLED_AT_ONCE: u64 = 4;

/// Whether zeros ahead save more than they cost, if syncs make so many bytes durable on average: they are as many bytes as the records
/// that come into their place.
fn zeros_pay(synced: u64) -> bool {
    synced < JOURNAL
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

impl Log {
    /// A log that no segment is open of; `number` is the highest in use, `sequence` the next sequence number.
    pub(crate) fn new(place: Place, identity: u64, number: u64, sequence: u64) -> Self {
        let Place { disk, layout, segment_size, zeros_ahead, spares, reserve } = place;
        Self {
            disk,
            layout,
            identity,
            segment_size,
            spares,
            reserve,
            file: None,
            limit: 0,
            reserved: 0,
            written: 0,
            // Never touched: the system lends one page of zeros for all of them.
            zeros: vec![0; zeros_ahead.min(segment_size) as usize],
            synced: 0,
            durable: Position::default(),
            unsynced: 0,
            number,
            stillborn: Vec::new(),
            sequence,
            buffer: Vec::new(),
        }
    }

    /// The durable records end here: what the next segment says of the one before.
    pub(crate) fn go_on_after(&mut self, end: Position) {
        self.durable = end;
    }

    /// Where the durable records end.
    pub(crate) fn durable(&self) -> Position {
        self.durable
    }

    /// Segments that couldn't be begun since this was asked last: what they left must go before those behind them.
    pub(crate) fn take_stillborn(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.stillborn)
    }

    /// Whether a segment is open: its header says of all that failed before that it doesn't count.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// The next sequence number.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether so many bytes are but one write: no other segment is begun for them, and no room reserved.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.file.is_some() && self.durable.offset + self.unsynced + bytes <= self.limit.min(self.reserved)
    }

    /// Appends the frames; says where the first one lies. After a failure nothing counts that was appended since the last sync.
    /// `new_mail`: the reserve isn't for these.
    pub(crate) fn append(
        &mut self,
        frames: &mut [&mut Frame],
        new_mail: bool,
        last_id: QueueId,
        now: Timestamp,
    ) -> Result<Position, Failure> {
        let total: u64 = frames.iter().map(|frame| frame.bytes().len() as u64).sum();
        let at = self.durable.offset + self.unsynced;
        let full = at > BLOCK_SIZE && at + total > self.limit;
        if full {
            self.sync(last_id, now)?;
        }
        if full || self.file.is_none() {
            let opened = self.open_next(&mut [], Room { bytes: total, from_reserve: !new_mail }, last_id, now);
            opened.map_err(|error| Failure { segment: None, in_doubt: false, error })?;
        }
        self.make_room(self.durable.offset + self.unsynced + total, new_mail, last_id, now)?;
        self.seal(frames);
        let start = Position { offset: self.durable.offset + self.unsynced, ..self.durable };
        self.write(start.offset, frames).map_err(|error| self.fail(error, last_id, now))?;
        self.unsynced += total;
        self.write_ahead().map_err(|error| self.fail(error, last_id, now))?;
        Ok(start)
    }

    /// Writes zeros behind the records once they have come to the end of the last ones. Blocks that were only reserved have to be entered
    /// in the file system's journal when they are written first; the syncs of what comes into these don't need a second flush for that.
    fn write_ahead(&mut self) -> io::Result<()> {
        let end = self.durable.offset + self.unsynced;
        if end <= self.written || !zeros_pay(self.synced) {
            return Ok(());
        }
        let to = (end + self.zeros.len() as u64).min(self.reserved).max(end);
        if let Some(file) = self.file.as_ref().filter(|_| to > end) {
            file.write_at(end, &self.zeros[..(to - end) as usize])?;
        }
        self.written = to;
        Ok(())
    }

    /// How much of the open segment wasn't written yet, if only with zeros. None is if something isn't durable, or zeros aren't wanted.
    pub(crate) fn unwritten(&self) -> u64 {
        let wanted = self.file.is_some() && self.unsynced == 0 && !self.zeros.is_empty();
        if wanted { self.limit.saturating_sub(self.written.max(self.durable.offset)) } else { 0 }
    }

    /// Writes the next zeros into the open segment, and makes them durable: what comes into their place needs no journal. `false` if there
    /// is nothing more to write, or no room for it.
    pub(crate) fn fill(&mut self, last_id: QueueId, now: Timestamp) -> Result<bool, Failure> {
        let piece = self.zeros.len() as u64;
        let length = self.unwritten().min(FILLED_AT_ONCE * piece);
        let Some(file) = self.file.as_ref().filter(|_| length > 0) else { return Ok(false) };
        let from = self.written.max(self.durable.offset);
        let to = from + length;
        if to > self.reserved {
            let wanted = to.max((self.reserved + segment::reserve_step(self.segment_size)).min(self.limit));
            if file.allocate(wanted).is_err() {
                return Ok(false);
            }
            self.reserved = wanted;
        }
        let mut places = (from..to).step_by(self.zeros.len());
        let written = places.try_for_each(|at| file.write_at(at, &self.zeros[..(to - at).min(piece) as usize]));
        let written = written.and_then(|()| file.sync_data());
        written.map_err(|error| self.fail(error, last_id, now))?;
        self.written = to;
        Ok(true)
    }

    /// Reserves room for more of the open segment if it must have more. Without it nothing is written, and the segment stays open.
    fn make_room(&mut self, length: u64, new_mail: bool, last_id: QueueId, now: Timestamp) -> Result<(), Failure> {
        if length <= self.reserved {
            return Ok(());
        }
        let Some(file) = &self.file else { return Ok(()) };
        let wanted = length.max((self.reserved + segment::reserve_step(self.segment_size)).min(self.limit));
        // A whole step, or as much as must be.
        let allocated = file.allocate(wanted).map(|()| wanted).or_else(|_| file.allocate(length).map(|()| length));
        let allocated = allocated.or_else(|error| {
            let given = is_full(&error) && (self.spares.keep(0) || !new_mail && self.reserve.give(length - self.reserved));
            if given { file.allocate(length).map(|()| length) } else { Err(error) }
        });
        match allocated {
            Ok(reserved) => {
                self.reserved = reserved;
                Ok(())
            }
            Err(error) => {
                self.sync(last_id, now)?;
                Err(Failure { segment: None, in_doubt: false, error })
            }
        }
    }

    /// Makes everything appended durable.
    pub(crate) fn sync(&mut self, last_id: QueueId, now: Timestamp) -> Result<(), Failure> {
        if self.unsynced > 0 {
            let synced = self.file.as_ref().map_or_else(|| Err(no_segment()), |file| file.sync_data());
            synced.map_err(|error| self.fail(error, last_id, now))?;
            self.synced = (self.synced * 7 + self.unsynced) / 8;
            self.durable.offset += std::mem::take(&mut self.unsynced);
        }
        Ok(())
    }

    /// The open segment is never written again. The new one's header says where it ends: from then on what is behind can't come back.
    fn fail(&mut self, error: io::Error, last_id: QueueId, now: Timestamp) -> Failure {
        let segment = Some(self.durable.segment);
        self.file = None;
        self.unsynced = 0;
        Failure { segment, in_doubt: self.open_next(&mut [], Room::NONE, last_id, now).is_err(), error }
    }

    fn seal(&mut self, frames: &mut [&mut Frame]) {
        for (count, frame) in frames.iter_mut().enumerate() {
            frame.seal(self.identity, self.sequence, count == 0 && self.unsynced == 0);
            self.sequence += 1;
        }
    }

    fn write(&mut self, offset: u64, frames: &[&mut Frame]) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(no_segment()) };
        if let [frame] = frames {
            return file.write_at(offset, frame.bytes());
        }
        self.buffer.clear();
        frames.iter().for_each(|frame| self.buffer.extend_from_slice(frame.bytes()));
        file.write_at(offset, &self.buffer)
    }

    /// Closes the open segment for good. What was appended since the last sync doesn't count.
    pub(crate) fn close(&mut self) {
        if let Some(file) = self.file.take() {
            // Gives reserved space back; without it the segment is only larger than it need be, and not trusted to become a spare.
            if file.set_len(self.durable.offset).is_ok() {
                self.spares.sealed(self.durable.segment);
            }
        }
    }

    /// Closes the open segment for good and begins the next, with some records in it and room for more: in a spare, or if there is none
    /// in a new file.
    pub(crate) fn open_next(&mut self, first: &mut [&mut Frame], room: Room, last_id: QueueId, now: Timestamp) -> io::Result<()> {
        self.close();
        if let Some(spare) = self.spares.take()
            && self.reuse(&spare, first, last_id, now).is_ok()
        {
            return Ok(());
        }
        let written: u64 = first.iter().map(|frame| frame.bytes().len() as u64).sum();
        match self.try_next(first, room, last_id, now) {
            Err(error)
                if is_full(&error)
                    && (self.spares.keep(0)
                        || room.from_reserve
                            && self.reserve.give(segment::SIZE_MIN.max(2 * BLOCK_SIZE + written + room.bytes))) =>
            {
                self.try_next(first, room, last_id, now)
            }
            tried => tried,
        }
    }

    fn try_next(&mut self, first: &mut [&mut Frame], room: Room, last_id: QueueId, now: Timestamp) -> io::Result<()> {
        let (header, records) = self.next_header(first, false, last_id, now);
        let size = self.segment_size;
        let created = segment::create(&*self.disk, &self.layout.log, &header, &records, size, room.bytes);
        let (file, reserved) = created.map_err(|NotBegun { error, is_left }| {
            // A disk that takes nothing for days must not make numbers without end.
            if is_left {
                self.stillborn.push(self.number)
            } else {
                self.number -= 1
            }
            error
        })?;
        // If the disk is too full for a first step, this segment stays small.
        let limit = if reserved < segment::reserve_step(size) { reserved } else { size.max(reserved) };
        self.opened(file, reserved, limit, &records);
        Ok(())
    }

    fn reuse(&mut self, spare: &Path, first: &mut [&mut Frame], last_id: QueueId, now: Timestamp) -> io::Result<()> {
        let (header, records) = self.next_header(first, true, last_id, now);
        let adopted = segment::adopt(&*self.disk, &self.layout.log, spare, &header, &records);
        let (file, length) = adopted.inspect_err(|_| self.stillborn.push(self.number))?;
        self.opened(file, length, segment::spare_size(self.segment_size).max(length), &records);
        self.written = length;
        Ok(())
    }

    fn next_header(
        &mut self,
        first: &mut [&mut Frame],
        reused: bool,
        last_id: QueueId,
        created: Timestamp,
    ) -> (SegmentHeader, Vec<u8>) {
        self.number += 1;
        let header = SegmentHeader {
            identity: self.identity,
            number: self.number,
            prior: self.durable.segment,
            prior_end: self.durable.offset,
            sequence: self.sequence,
            last_id,
            created,
            reused,
        };
        self.seal(first);
        let records = first.iter().flat_map(|frame| frame.bytes()).copied().collect();
        (header, records)
    }

    fn opened(&mut self, file: Box<dyn DiskFile>, reserved: u64, limit: u64, records: &[u8]) {
        self.file = Some(file);
        (self.reserved, self.limit, self.written) = (reserved, limit, 0);
        self.durable = Position { segment: self.number, offset: BLOCK_SIZE + records.len() as u64 };
    }
}

fn no_segment() -> io::Error {
    io::Error::other("no segment is open")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::system::sim::{OperationKind, SimDisk};

    const SEGMENT: u64 = 1 << 20;
    const ZEROS: u64 = 4096;

    fn log(disk: &SimDisk, zeros_ahead: u64) -> Log {
        let layout = Layout::new(Path::new("/spool"));
        disk.create_dir_all(&layout.log).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let reserve = Reserve::new(disk.clone(), &layout, 0);
        let spares = Arc::new(Spares::new(disk.clone(), layout.clone(), SEGMENT));
        Log::new(Place { disk, layout, segment_size: SEGMENT, zeros_ahead, spares, reserve }, 7, 0, 0)
    }

    fn append(log: &mut Log) -> Result<Position, Failure> {
        let now = Timestamp::ZERO;
        let start = log.append(&mut [&mut Frame::done(QueueId(1))], false, QueueId(1), now)?;
        log.sync(QueueId(1), now).map(|()| start)
    }

    /// How many zeros were written behind records, each time, while 200 were appended; the disk is nearly full if that is wanted.
    fn zeros_written(zeros_ahead: u64, full: bool) -> Vec<u64> {
        let disk = SimDisk::new();
        let mut log = log(&disk, zeros_ahead);
        append(&mut log).unwrap();
        if full {
            disk.set_capacity(Some(disk.used()));
        }
        let zeros = Arc::new(Mutex::new(Vec::new()));
        let seen = zeros.clone();
        disk.watch(move |operation| {
            if operation.kind == OperationKind::Write && operation.bytes.iter().all(|byte| *byte == 0) {
                seen.lock().unwrap().push(operation.bytes.len() as u64);
            }
        });
        let places: Vec<Position> = (0..200).map(|_| append(&mut log).unwrap()).collect();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1] && pair[0].segment == pair[1].segment));
        zeros.lock().unwrap().clone()
    }

    #[test]
    fn zeros_are_written_ahead_whenever_records_have_come_to_their_end() {
        let length = Frame::done(QueueId(1)).bytes().len() as u64;
        let times = 200 * length / (ZEROS + length);
        assert!(times >= 1);
        let written = zeros_written(ZEROS, false);
        assert!(
            (times..=times + 1).contains(&(written.len() as u64)) && written.iter().all(|zeros| *zeros == ZEROS),
            "{written:?}"
        );
        assert!(zeros_written(0, false).is_empty());
    }

    #[test]
    fn zeros_are_written_only_where_they_save_more_than_they_cost() {
        assert!(zeros_pay(0) && zeros_pay(4204) && zeros_pay(2 * 4204) && !zeros_pay(3 * 4204));
        let disk = SimDisk::new();
        let mut log = log(&disk, ZEROS);
        let sync = |log: &mut Log, count: u64| {
            let mut frames: Vec<Frame> = (0..count).map(|id| Frame::done(QueueId(id))).collect();
            log.append(&mut frames.iter_mut().collect::<Vec<_>>(), false, QueueId(1), Timestamp::ZERO).unwrap();
            log.sync(QueueId(1), Timestamp::ZERO).unwrap();
            log.written > log.durable.offset
        };
        assert!(sync(&mut log, 1));
        // 16 KB each: after some of them they are what is expected.
        let large: Vec<bool> = (0..20).map(|_| sync(&mut log, 400)).collect();
        assert!(large[0] && !large[19], "{large:?}");
        // And small ones again.
        assert!((0..20).any(|_| sync(&mut log, 1)));
    }

    #[test]
    fn a_segment_is_filled_with_zeros_to_its_end_and_no_further() {
        let disk = SimDisk::new();
        let mut log = log(&disk, ZEROS);
        let fill = |log: &mut Log| log.fill(QueueId(1), Timestamp::ZERO).unwrap();
        assert!(!fill(&mut log), "no segment is open");
        let first = append(&mut log).unwrap();
        let mut pieces = 0;
        while fill(&mut log) {
            pieces += 1;
        }
        assert_eq!(pieces, SEGMENT / ZEROS / FILLED_AT_ONCE);
        assert_eq!((log.unwritten(), log.durable().segment), (0, first.segment));
        assert_eq!(append(&mut log).unwrap().offset, first.offset + Frame::done(QueueId(1)).bytes().len() as u64);
    }

    #[test]
    fn zeros_that_fail_close_the_segment_and_a_full_disk_ends_them() {
        let disk = SimDisk::new();
        let mut log = log(&disk, ZEROS);
        let first = append(&mut log).unwrap();
        disk.fail_write(0);
        let failure = log.fill(QueueId(1), Timestamp::ZERO).unwrap_err();
        assert_eq!((failure.segment, failure.in_doubt), (Some(first.segment), false));
        disk.set_capacity(Some(disk.used()));
        while log.fill(QueueId(1), Timestamp::ZERO).unwrap() {}
        assert!(log.unwritten() > 0);
    }

    #[test]
    fn zeros_take_no_room_that_is_not_reserved() {
        assert_eq!(zeros_written(ZEROS, true), zeros_written(ZEROS, false));
    }

    #[test]
    fn zeros_that_cannot_be_written_close_the_segment_and_nothing_is_confirmed() {
        let disk = SimDisk::new();
        let mut log = log(&disk, ZEROS);
        append(&mut log).unwrap();
        let end = log.durable();
        // The record's own write, then that of the zeros.
        while log.durable().offset + Frame::done(QueueId(1)).bytes().len() as u64 <= log.written {
            append(&mut log).unwrap();
        }
        disk.fail_write(1);
        let failure = append(&mut log).unwrap_err();
        assert_eq!((failure.segment, failure.in_doubt), (Some(end.segment), false));
        assert!(log.durable().segment > end.segment);
        append(&mut log).unwrap();
    }
}
