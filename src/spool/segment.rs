//! Segments: the files of the log. A header block that says what belongs before, then records, one behind the other.

use std::io;
use std::path::{Path, PathBuf};

use super::codec::{Malformed, Reader};
use super::error::is_full;
use super::record;
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, DiskFile, OpenMode};

/// Bytes in front of the first record.
pub(crate) const BLOCK_SIZE: u64 = 4096;
/// A second copy of the header lies here, in a disk sector of its own.
const COPY_AT: usize = 2048;
const MAGIC: [u8; 8] = *b"\xf5PHSEG\r\n";
/// The version of segments that is written, the same as that of the records in it.
const VERSION: u16 = record::VERSION as u16;
/// The oldest that is read.
const VERSION_OLDEST: u16 = record::VERSION_OLDEST as u16;
const FIELDS_SIZE: usize = 72;
/// When the disk has no room for a whole segment, a smaller one takes what must be written; not smaller than this.
pub(crate) const SIZE_MIN: u64 = 64 * 1024;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The spool that it belongs to: a random number, the same in all its segments.
    pub identity: u64,
    /// Its number, as in its name.
    pub number: u64,
    /// The number of the segment before; 0 if it is the first.
    pub prior: u64,
    /// Where that one ends: bytes behind were never confirmed and don't count.
    pub prior_end: u64,
    /// Sequence numbers of its records are not below this.
    pub sequence: u64,
    /// No id up to this may be given out again.
    pub last_id: QueueId,
    /// When it was begun.
    pub created: Timestamp,
    /// Whether the file had another life: behind what is written there may be old records.
    pub reused: bool,
}

/// Flag: the file had another life.
const FLAG_REUSED: u16 = 1;

/// Why a header block doesn't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Neither copy is sound.
    Broken,
    /// Sound, but of this version, which is newer than this program or too old for it.
    Version(u16),
}

impl SegmentHeader {
    /// The header block.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(FIELDS_SIZE);
        fields.extend_from_slice(&MAGIC);
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&(if self.reused { FLAG_REUSED } else { 0 }).to_le_bytes());
        for number in
            [self.identity, self.number, self.prior, self.prior_end, self.sequence, self.last_id.0, self.created.as_millis()]
        {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        fields.extend_from_slice(&crc32fast::hash(&fields).to_le_bytes());
        let mut block = vec![0; BLOCK_SIZE as usize];
        block[..fields.len()].copy_from_slice(&fields);
        block[COPY_AT..COPY_AT + fields.len()].copy_from_slice(&fields);
        block
    }

    /// Reads a header block; one sound copy is enough.
    pub fn parse(block: &[u8]) -> Result<Self, HeaderFault> {
        let mut fault = HeaderFault::Broken;
        for copy in [block.get(..FIELDS_SIZE), block.get(COPY_AT..COPY_AT + FIELDS_SIZE)].into_iter().flatten() {
            match Self::parse_copy(copy) {
                Ok(Ok(header)) => return Ok(header),
                Ok(Err(version)) => fault = HeaderFault::Version(version),
                Err(_) => {}
            }
        }
        Err(fault)
    }

    /// Which of the two copies are sound, whatever their version.
    pub(crate) fn sound_copies(block: &[u8]) -> [bool; 2] {
        [0, COPY_AT].map(|at| block.get(at..at + FIELDS_SIZE).is_some_and(|copy| Self::parse_copy(copy).is_ok()))
    }

    /// If one copy alone is sound: where the other one lies, and what should stand there.
    pub(crate) fn mended(block: &[u8]) -> Option<(u64, &[u8])> {
        let (damaged, sound) = match Self::sound_copies(block) {
            [true, false] => (COPY_AT, 0),
            [false, true] => (0, COPY_AT),
            _ => return None,
        };
        block.get(sound..sound + FIELDS_SIZE).map(|copy| (damaged as u64, copy))
    }

    fn parse_copy(copy: &[u8]) -> Result<Result<Self, u16>, Malformed> {
        let mut reader = Reader(copy);
        let magic = reader.fixed::<8>("magic")?;
        let version = u16::from_le_bytes(reader.fixed("version")?);
        let flags = u16::from_le_bytes(reader.fixed("flags")?);
        let mut number = || reader.fixed("number").map(u64::from_le_bytes);
        let header = Self {
            identity: number()?,
            number: number()?,
            prior: number()?,
            prior_end: number()?,
            sequence: number()?,
            last_id: QueueId(number()?),
            created: Timestamp::from_millis(number()?),
            reused: flags & FLAG_REUSED != 0,
        };
        let crc = u32::from_le_bytes(reader.fixed("checksum")?);
        if magic != MAGIC || crc32fast::hash(&copy[..FIELDS_SIZE - 4]) != crc {
            return Err(Malformed("header"));
        }
        Ok(if (VERSION_OLDEST..=VERSION).contains(&version) { Ok(header) } else { Err(version) })
    }
}

/// `NNNNNNNN.seg`.
pub(crate) fn name(number: u64) -> String {
    format!("{number:08}.seg")
}

/// What files are called that will become segments.
pub(crate) const SPARE: &str = ".spare";

/// `N.spare`.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number}{SPARE}")
}

/// The number in a segment's name.
pub(crate) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Room on disk is reserved ahead of what is written in steps of this size.
pub(crate) fn reserve_step(segment_size: u64) -> u64 {
    (segment_size / 8).max(SIZE_MIN).min(segment_size)
}

/// Bytes of a file that is written again as a segment. Less than of a fresh one, so that one in use, one in reserve, and what else lies on
/// disk stay within two segments.
pub(crate) fn spare_size(segment_size: u64) -> u64 {
    segment_size / 4 * 3
}

/// A segment that couldn't be begun.
#[derive(Debug)]
pub(crate) struct NotBegun {
    pub(crate) error: io::Error,
    /// Whether there may be a file of its name.
    pub(crate) is_left: bool,
}

impl NotBegun {
    /// Its file couldn't be made.
    fn at_once(error: io::Error) -> Self {
        Self { is_left: error.kind() == io::ErrorKind::AlreadyExists, error }
    }

    fn later(error: io::Error) -> Self {
        Self { error, is_left: true }
    }
}

/// A new segment with its first records, durable, name and all; and up to which length there is room
/// reserved for it. On a full disk that is less than usual, but not less than `room` for what comes next.
pub(crate) fn create(
    disk: &dyn Disk,
    folder: &Path,
    header: &SegmentHeader,
    records: &[u8],
    size: u64,
    room: u64,
) -> Result<(Box<dyn DiskFile>, u64), NotBegun> {
    let path = folder.join(name(header.number));
    if records.is_empty() {
        let file = disk.open(&path, OpenMode::CreateNew).map_err(NotBegun::at_once)?;
        let begun = begin(&*file, header, records, size, room).and_then(|reserved| disk.sync_dir(folder).map(|()| reserved));
        // The name must not stay: it would look like a segment that lost everything.
        return begun.map(|reserved| (file, reserved)).inspect_err(|_| _ = disk.unlink(&path)).map_err(NotBegun::later);
    }
    // What start-up carries over counts where it was until the header says otherwise: whoever finds the name must find all of it.
    let spare = folder.join(spare_name(header.number));
    let file = disk.open(&spare, OpenMode::CreateNew).map_err(NotBegun::at_once)?;
    let begun =
        begin(&*file, header, records, size, room).and_then(|reserved| Ok((take_over(disk, folder, &spare, &path)?, reserved)));
    begun.map_err(NotBegun::later).inspect_err(|_| {
        // Without a sync: nothing is written elsewhere before the next segment has its name, and with that the removal is durable. A power cut
        // before brings back a segment that says once more what the one before ends with.
        let _ = disk.unlink(&spare);
        let _ = disk.unlink(&path);
    })
}

/// Gives a file that is durable the name of a segment.
fn take_over(disk: &dyn Disk, folder: &Path, spare: &Path, path: &Path) -> io::Result<Box<dyn DiskFile>> {
    disk.rename(spare, path)?;
    disk.sync_dir(folder)?;
    disk.open(path, OpenMode::Write)
}

fn begin(file: &dyn DiskFile, header: &SegmentHeader, records: &[u8], size: u64, room: u64) -> io::Result<u64> {
    let least = size.min(SIZE_MIN).max(BLOCK_SIZE + records.len() as u64 + room);
    let mut reserved = reserve_step(size).max(least);
    while let Err(error) = file.allocate(reserved) {
        if !is_full(&error) || reserved == least {
            return Err(error);
        }
        reserved = (reserved / 4).max(least);
    }
    if !records.is_empty() {
        file.write_at(BLOCK_SIZE, records)?;
    }
    file.write_at(0, &header.encode())?;
    file.sync_data()?;
    Ok(reserved)
}

/// Makes a spare file the next segment, with its first records, durable, name and all; and says how long it is. The name comes last:
/// whoever finds it finds everything.
pub(crate) fn adopt(
    disk: &dyn Disk,
    folder: &Path,
    spare: &Path,
    header: &SegmentHeader,
    records: &[u8],
) -> io::Result<(Box<dyn DiskFile>, u64)> {
    let path = folder.join(name(header.number));
    let begin = || {
        let file = disk.open(spare, OpenMode::Write)?;
        if !records.is_empty() {
            file.write_at(BLOCK_SIZE, records)?;
        }
        file.write_at(0, &header.encode())?;
        file.sync_data()?;
        let file = take_over(disk, folder, spare, &path)?;
        let length = file.len()?;
        Ok((file, length))
    };
    begin().inspect_err(|_| {
        // Nothing has been told yet of what is in it.
        let _ = disk.unlink(spare);
        let _ = disk.unlink(&path);
    })
}

/// The block that a segment begins with, as much of it as there is.
pub(crate) fn read_block(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK_SIZE as usize];
    let filled = read_full(&*disk.open(path, OpenMode::Read)?, 0, &mut block)?;
    block.truncate(filled);
    Ok(block)
}

/// A segment's header block and length.
pub(crate) fn read_header(file: &dyn DiskFile) -> io::Result<(Result<SegmentHeader, HeaderFault>, u64)> {
    let mut block = vec![0; BLOCK_SIZE as usize];
    let filled = read_full(file, 0, &mut block)?;
    Ok((SegmentHeader::parse(&block[..filled]), file.len()?))
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// The folders and files of a spool.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) content: PathBuf,
    pub(crate) quarantine: PathBuf,
    pub(crate) unreadable: PathBuf,
    pub(crate) lock: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            log: root.join("log"),
            content: root.join("content"),
            quarantine: root.join("quarantine"),
            unreadable: root.join("unreadable"),
            lock: root.join("lock"),
        }
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.log.join(name(number))
    }

    /// Where a segment lies that left the log because it can't be read.
    pub(crate) fn unreadable_segment(&self, number: u64) -> PathBuf {
        self.unreadable.join(name(number))
    }

    pub(crate) fn content_file(&self, id: QueueId) -> PathBuf {
        self.content.join(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_loss_of_one_copy() {
        let header = SegmentHeader {
            identity: 7,
            number: 3,
            prior: 2,
            prior_end: 9000,
            sequence: 77,
            last_id: QueueId(5),
            created: Timestamp::from_millis(1),
            reused: true,
        };
        let block = header.encode();
        assert_eq!(SegmentHeader::parse(&block), Ok(header));
        for at in [20, COPY_AT + 20] {
            let mut block = block.clone();
            block[at] ^= 1;
            assert_eq!(SegmentHeader::parse(&block), Ok(header));
            block[(at + COPY_AT) % BLOCK_SIZE as usize] ^= 1;
            assert_eq!(SegmentHeader::parse(&block), Err(HeaderFault::Broken));
        }
        assert_eq!(SegmentHeader::parse(&[]), Err(HeaderFault::Broken));
    }

    #[test]
    fn names_are_numbers_and_nothing_else() {
        assert_eq!(number(&name(12)), Some(12));
        assert_eq!(number(&name(123_456_789)), Some(123_456_789));
        for wrong in ["1.seg", "00000001.seg.new", "0000000x.seg", "lock"] {
            assert_eq!(number(wrong), None);
        }
    }
}
