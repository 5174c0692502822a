//! Reads a segment's records one after the other, and finds the way again behind bytes that are none.

use std::io;

use super::record::{self, Fault, HEADER_SIZE, Header, MAGIC, Record};
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
    /// Bytes of the last batch, which was never confirmed; nothing behind counts. What was there before the batch isn't in it, as far as
    /// that can be told apart: room, and records of an earlier life of the file.
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
    /// Whether there may be records of an earlier life of the file.
    reused: bool,
    last_sequence: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Scan {
    /// From `offset` to `end` of a segment; records up to `last_sequence` are no longer valid ones.
    pub(crate) fn new(file: Box<dyn DiskFile>, identity: u64, offset: u64, end: u64, sealed: bool, last_sequence: u64) -> Self {
        Self { file, identity, offset, end, sealed, reused: false, last_sequence, window: Vec::new(), window_at: 0 }
    }

    /// Says whether there may be records of an earlier life of the file.
    pub(crate) fn reused(self, reused: bool) -> Self {
        Self { reused, ..self }
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
            Err(fault) => self.skip(fault),
        }
    }

    /// Steps over what is no record; none if nothing was ever begun here.
    fn skip(&mut self, fault: Fault) -> io::Result<Option<Found>> {
        let offset = self.offset;
        let (from, begun) = match fault {
            // Its header is sound, and no old one.
            Fault::Short(size) => (offset + 1, offset + size as u64),
            Fault::Checksum(size) | Fault::Malformed(size, _) => (offset + size as u64, offset + size as u64),
            Fault::NoHeader => (offset + 1, self.torn_header()?),
        };
        let next = self.find(from)?;
        // Bytes that nothing confirmed are a torn tail, and what stands behind them in the same batch goes with them.
        let mut confirmed = self.sealed;
        let (mut look, mut torn) = (next, begun.min(self.end));
        while !confirmed && let Some((at, length, batch)) = look {
            confirmed = batch;
            torn = torn.max(at + length);
            look = self.find(at + length)?;
        }
        if confirmed {
            let to = next.map_or(self.end, |(at, _, _)| at);
            self.offset = to;
            return Ok(Some(Found::Damage { offset, length: to - offset }));
        }
        self.offset = self.end;
        if !self.reused {
            torn = torn.max(self.last_octet(offset)?);
        }
        Ok((torn > offset).then(|| Found::Tail { offset, length: torn - offset }))
    }

    /// Where a header ends that was begun at this place and isn't whole: if it were an old one, it would be.
    fn torn_header(&mut self) -> io::Result<u64> {
        self.fill(self.offset, HEADER_SIZE)?;
        let view = self.view(self.offset);
        let begun = view.starts_with(&MAGIC) && Header::parse(self.identity, view).is_none();
        Ok(self.offset + if begun { HEADER_SIZE as u64 } else { 0 })
    }

    /// Behind the last octet from a place on that isn't zero. What is zero is room that was written ahead.
    fn last_octet(&mut self, from: u64) -> io::Result<u64> {
        let (mut at, mut last) = (from, from);
        while at < self.end {
            self.fill(at, 1)?;
            let view = self.view(at);
            if view.is_empty() {
                break;
            }
            if let Some(octet) = view.iter().rposition(|octet| *octet != 0) {
                last = at + octet as u64 + 1;
            }
            at += view.len() as u64;
        }
        Ok(last)
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
            match memchr::memchr(MAGIC[0], &view[..starts]) {
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
        let Some(header) = Header::parse(self.identity, self.view(offset)) else { return Ok(Err(Fault::NoHeader)) };
        if header.sequence <= self.last_sequence {
            // An old sequence number: bytes from an earlier life of the file, or of the disk's blocks.
            return Ok(Err(Fault::NoHeader));
        }
        if offset + header.size() as u64 <= self.end {
            self.fill(offset, header.size())?;
        }
        Ok(record::parse_behind(&header, self.view(offset)))
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
        found(bytes, sealed, None)
    }

    /// The same, in a file that had another life with sequence numbers up to the last one given.
    fn found(bytes: &[u8], sealed: bool, old: Option<u64>) -> Vec<String> {
        let disk = SimDisk::new();
        let path = Path::new("f");
        disk.create_dir_all(Path::new("")).unwrap();
        disk.open(path, OpenMode::CreateNew).unwrap().write_at(0, bytes).unwrap();
        let file = disk.open(path, OpenMode::Read).unwrap();
        let mut scan = Scan::new(file, IDENTITY, 0, bytes.len() as u64, sealed, old.unwrap_or(0)).reused(old.is_some());
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
            assert_eq!(scan(&[accept(5, true, b"a"), torn].concat(), false), ["5", &format!("T{}", at + 1)], "{at}");
        }
        // Where all was confirmed, zeros are damage.
        assert_eq!(scan(&[accept(5, true, b"a"), vec![0; 5000]].concat(), true), ["5", "D5000"]);
    }

    #[test]
    fn old_records_are_a_torn_tail() {
        let old = accept(4, true, b"old");
        let length = old.iter().rposition(|octet| *octet != 0).unwrap() + 1;
        assert_eq!(scan(&[accept(5, true, b"a"), old].concat(), false), ["5", &format!("T{length}")]);
        // In a file that had another life they are nothing.
        let old = accept(4, true, b"old");
        assert_eq!(found(&[accept(5, true, b"a"), old].concat(), false, Some(4)), ["5"]);
    }

    #[test]
    fn old_records_never_come_back_wherever_new_ones_end() {
        let old: Vec<u8> = (1..40).flat_map(|number| accept(number, number % 3 == 1, &[b'o'; 30])).collect();
        let new = [accept(50, true, b"new"), accept(51, true, &[b'n'; 77]), accept(52, false, b"third")];
        for count in 0..3 {
            let written = new[..count].concat();
            let sequences: Vec<String> = (50..50 + count).map(|number| number.to_string()).collect();
            // Whatever lies behind: an old record's middle, or its beginning.
            for behind in 0..old.len() - written.len() {
                let bytes = [&written[..], &old[behind..]].concat();
                assert_eq!(found(&bytes, false, Some(49)), sequences, "{count} {behind}");
            }
        }
    }

    #[test]
    fn a_batch_torn_over_old_records_is_cut_and_nothing_else_is_noted() {
        let old: Vec<u8> = (1..100).flat_map(|number| accept(number, true, &[b'o'; 200])).collect();
        let first = accept(500, true, b"first");
        let batch = [accept(501, true, &[b'n'; 900]), accept(502, false, &[b'n'; 900]), accept(503, false, b"last")].concat();
        // Each sector of the new batch is there or not.
        let sectors: Vec<usize> = (0..batch.len()).step_by(512).collect();
        for kept in 0..1_u32 << sectors.len() {
            let mut bytes = old.clone();
            bytes[..first.len()].copy_from_slice(&first);
            for (_, from) in sectors.iter().enumerate().filter(|(number, _)| kept & 1 << number != 0) {
                let to = (from + 512).min(batch.len());
                bytes[first.len() + from..first.len() + to].copy_from_slice(&batch[*from..to]);
            }
            let found = found(&bytes, false, Some(499));
            let whole = found.iter().filter(|found| !found.starts_with('T')).count();
            let wanted: Vec<String> = (500..500 + whole).map(|number| number.to_string()).collect();
            assert_eq!(found[..whole], wanted, "{kept:b}: {found:?}");
            assert!(found.len() <= whole + 1, "{kept:b}: {found:?}");
            // The first sector has the first record's header, and its payload goes on in the next.
            let (begun, all) = (kept & 1 != 0, kept + 1 == 1 << sectors.len());
            assert_eq!(found.len() > whole, !all && (begun || found.len() > 1), "{kept:b}: {found:?}");
            assert_eq!(all, whole == 4);
            if let Some(torn) = found[whole..].first() {
                assert!(torn[1..].parse::<usize>().unwrap() <= batch.len(), "{kept:b}: {found:?}");
            }
        }
    }

    #[test]
    fn a_torn_header_where_the_next_record_would_begin_is_noted() {
        let mut torn = accept(51, true, b"x");
        torn[20] ^= 1;
        let old: Vec<u8> = (1..40).flat_map(|number| accept(number, true, &[b'o'; 30])).collect();
        let bytes = [accept(50, true, b"a"), torn, old].concat();
        assert_eq!(found(&bytes, false, Some(49)), ["50", "T40"]);
    }

    #[test]
    fn damage_among_new_records_over_old_ones_is_set_aside_alone() {
        let old: Vec<u8> = (1..40).flat_map(|number| accept(number, true, &[b'o'; 30])).collect();
        let records = [accept(51, true, b"a"), accept(52, true, b"b"), accept(53, true, b"c")];
        let mut bytes = [records.concat(), old].concat();
        bytes[records[0].len() + HEADER_SIZE] ^= 1;
        assert_eq!(found(&bytes, false, Some(50)), ["51", &format!("D{}", records[1].len()), "53"]);
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
