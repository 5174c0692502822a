//! Reads a segment's records one after the other, and finds the way again behind bytes that are none.

use std::io;

use super::record::{self, Fault, HEADER_SIZE, MAGIC, RECORD_SIZE_MAX, Record};
use super::segment::read_full;
use crate::system::DiskFile;

/// How much is read at a time; bytes.
const WINDOW: usize = 1 << 20;

/// What lies at a place in a segment.
#[derive(Debug)]
pub(crate) enum Found {
    /// A record; inline content is left out.
    Record { record: Record, offset: u64, length: u32 },
    /// Confirmed bytes that are no record any more.
    Damage { offset: u64, length: u64 },
    /// Bytes of the last batch, which was never confirmed; nothing behind counts.
    Tail { offset: u64, length: u64 },
}

/// Goes through a segment.
pub(crate) struct Scan {
    file: Box<dyn DiskFile>,
    identity: u64,
    offset: u64,
    end: u64,
    /// Whether everything up to `end` was confirmed: then what can't be read is damage, never a torn tail.
    sealed: bool,
    last_sequence: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Scan {
    /// From `offset` to `end` of a segment; records up to `last_sequence` are no longer valid ones.
    pub(crate) fn new(file: Box<dyn DiskFile>, identity: u64, offset: u64, end: u64, sealed: bool, last_sequence: u64) -> Self {
        Self { file, identity, offset, end, sealed, last_sequence, window: Vec::new(), window_at: 0 }
    }

    /// Where the next record begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// What comes next; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let offset = self.offset;
        match self.try_at(offset)? {
            Ok((record, length)) => {
                self.last_sequence = record.sequence;
                self.offset += length as u64;
                Ok(Some(Found::Record { record, offset, length: length as u32 }))
            }
            Err(_) if !self.sealed && self.is_room()? => {
                self.end = offset;
                Ok(None)
            }
            Err(fault) => self.skip(fault).map(Some),
        }
    }

    /// Whether there is nothing but zeros from here on: written ahead, and never used.
    fn is_room(&mut self) -> io::Result<bool> {
        let mut at = self.offset;
        while at < self.end {
            self.fill(at, 1)?;
            let view = self.view(at);
            if view.is_empty() || view.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += view.len() as u64;
        }
        Ok(true)
    }

    /// Steps over what is no record.
    fn skip(&mut self, fault: Fault) -> io::Result<Found> {
        let offset = self.offset;
        let from = match fault {
            Fault::Checksum(size) | Fault::Malformed(size, _) => offset + size as u64,
            Fault::NoHeader | Fault::Short(_) => offset + 1,
        };
        let mut next = self.find(from)?;
        // Bytes that nothing confirmed are a torn tail, and what stands behind them in the same batch goes with them.
        let mut confirmed = self.sealed;
        let mut look = next;
        while !confirmed && let Some((at, length, batch)) = look {
            confirmed = batch;
            look = self.find(at + length)?;
        }
        if !confirmed {
            next = None;
        }
        let to = next.map_or(self.end, |(at, _, _)| at);
        self.offset = to;
        let length = to - offset;
        Ok(if confirmed { Found::Damage { offset, length } } else { Found::Tail { offset, length } })
    }

    /// The first whole record at `from` or behind: its offset, length, and whether it begins a batch.
    fn find(&mut self, from: u64) -> io::Result<Option<(u64, u64, bool)>> {
        let mut at = from;
        while at + HEADER_SIZE as u64 <= self.end {
            self.fill(at, HEADER_SIZE)?;
            let view = self.view(at);
            if view.len() < HEADER_SIZE {
                return Ok(None);
            }
            let starts = view.len() - HEADER_SIZE + 1;
            match view[..starts].iter().position(|byte| *byte == MAGIC[0]) {
                None => at += starts as u64,
                Some(skipped) => {
                    at += skipped as u64;
                    if let Ok((record, length)) = self.try_at(at)? {
                        return Ok(Some((at, length as u64, record.batch)));
                    }
                    at += 1;
                }
            }
        }
        Ok(None)
    }

    fn try_at(&mut self, offset: u64) -> io::Result<Result<(Record, usize), Fault>> {
        self.fill(offset, HEADER_SIZE)?;
        let mut parsed = record::parse_without_content(self.identity, self.view(offset));
        if let Err(Fault::Short(size)) = parsed
            && size <= RECORD_SIZE_MAX
            && offset + size as u64 <= self.end
        {
            self.fill(offset, size)?;
            parsed = record::parse_without_content(self.identity, self.view(offset));
        }
        Ok(match parsed {
            // An old sequence number: bytes from an earlier life of the disk's blocks.
            Ok((record, _)) if record.sequence <= self.last_sequence => Err(Fault::NoHeader),
            parsed => parsed,
        })
    }

    /// Brings `length` bytes from `offset` on into the window, as far as the segment has them.
    fn fill(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let length = (length as u64).min(self.end.saturating_sub(offset));
        let window_end = self.window_at + self.window.len() as u64;
        if offset >= self.window_at && offset + length <= window_end {
            return Ok(());
        }
        let want = length.max(WINDOW as u64).min(self.end - offset);
        self.window.resize(want as usize, 0);
        self.window_at = offset;
        let filled = read_full(&*self.file, offset, &mut self.window)?;
        self.window.truncate(filled);
        Ok(())
    }

    fn view(&self, offset: u64) -> &[u8] {
        let skip = usize::try_from(offset.saturating_sub(self.window_at)).unwrap_or(usize::MAX);
        self.window.get(skip..).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::mail::{BodyType, Message, QueueId, ReversePath, Timestamp};
    use crate::spool::compress::Form;
    use crate::spool::record::{Body, ContentAt, encode};
    use crate::system::sim::SimDisk;
    use crate::system::{Disk, OpenMode};

    const IDENTITY: u64 = 42;

    fn accept(sequence: u64, batch: bool, content: &[u8]) -> Vec<u8> {
        let message = Message {
            id: QueueId(sequence),
            arrived: Timestamp::from_millis(1),
            size: content.len() as u64,
            reverse_path: ReversePath::Null,
            body: BodyType::SevenBit,
            request: None,
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients: Vec::new(),
        };
        let body = Body::Accept { message, content: ContentAt::Inline(content.to_vec(), Form::Plain), changes: Vec::new() };
        encode(IDENTITY, &Record { sequence, batch, id: QueueId(sequence), body })
    }

    /// What a scan finds: sequence numbers, and `D` or `T` with a length.
    fn scan(bytes: &[u8], sealed: bool) -> Vec<String> {
        let disk = SimDisk::new();
        let path = Path::new("f");
        disk.create_dir_all(Path::new("")).unwrap();
        disk.open(path, OpenMode::CreateNew).unwrap().write_at(0, bytes).unwrap();
        let file = disk.open(path, OpenMode::Read).unwrap();
        let mut scan = Scan::new(file, IDENTITY, 0, bytes.len() as u64, sealed, 0);
        let mut found = Vec::new();
        while let Some(next) = scan.next().unwrap() {
            found.push(match next {
                Found::Record { record, .. } => record.sequence.to_string(),
                Found::Damage { length, .. } => format!("D{length}"),
                Found::Tail { length, .. } => format!("T{length}"),
            });
        }
        found
    }

    #[test]
    fn a_torn_tail_takes_its_whole_batch_end_with_it() {
        let records = [accept(1, true, b"a"), accept(2, true, b"b"), accept(3, false, b"c"), accept(4, false, b"d")];
        let mut bytes = records.concat();
        assert_eq!(scan(&bytes, false), ["1", "2", "3", "4"]);
        let third = records[0].len() + records[1].len();
        bytes[third + HEADER_SIZE] ^= 1;
        let rest = bytes.len() - third;
        assert_eq!(scan(&bytes, false), ["1", "2", &format!("T{rest}")]);
        assert_eq!(scan(&bytes, true), ["1", "2", &format!("D{}", records[2].len()), "4"]);
    }

    #[test]
    fn damage_before_a_later_batch_is_set_aside_alone() {
        let records = [accept(1, true, b"a"), accept(2, false, b"b"), accept(3, true, b"c")];
        for at in [0, 5, 20, HEADER_SIZE, HEADER_SIZE + 3] {
            let mut bytes = records.concat();
            bytes[records[0].len() + at] ^= 0x10;
            let damage = format!("D{}", records[1].len());
            assert_eq!(scan(&bytes, false), ["1", &damage, "3"], "byte {at}");
        }
    }

    #[test]
    fn zeros_at_the_end_are_room_and_zeros_in_front_of_something_a_torn_tail() {
        let room = vec![0; 2 * WINDOW];
        assert_eq!(scan(&[accept(5, true, b"a"), room.clone()].concat(), false), ["5"]);
        assert_eq!(scan(&room, false), [""; 0]);
        for at in [0, 1, WINDOW, 2 * WINDOW - 1] {
            let mut torn = room.clone();
            torn[at] = 1;
            assert_eq!(scan(&[accept(5, true, b"a"), torn].concat(), false), ["5", &format!("T{}", room.len())], "{at}");
        }
        // Where all was confirmed, zeros are damage.
        assert_eq!(scan(&[accept(5, true, b"a"), vec![0; 5000]].concat(), true), ["5", "D5000"]);
    }

    #[test]
    fn old_records_are_a_torn_tail() {
        let old = accept(4, true, b"old");
        assert_eq!(scan(&[accept(5, true, b"a"), old.clone()].concat(), false), ["5", &format!("T{}", old.len())]);
    }

    #[test]
    fn records_hidden_in_content_are_never_found() {
        // An attacker knows the format, but not the spool's identity.
        let forged = encode(IDENTITY + 1, &Record { sequence: 9, batch: true, id: QueueId(1), body: Body::Done });
        let records = [accept(1, true, b"a"), accept(2, true, &forged.repeat(20)), accept(10, true, b"c")];
        let mut bytes = records.concat();
        bytes[records[0].len() + 8] ^= 1;
        assert_eq!(scan(&bytes, true), ["1", &format!("D{}", records[1].len()), "10"]);
    }

    #[test]
    fn a_record_longer_than_the_window_is_read() {
        let long = accept(2, true, &vec![b'x'; 3 * WINDOW]);
        assert_eq!(scan(&[accept(1, true, b"a"), long, accept(3, true, b"c")].concat(), false), ["1", "2", "3"]);
    }
}
