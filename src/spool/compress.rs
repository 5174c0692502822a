//! Compressed content: zstd in chunks that stand for themselves, so that any octet is reached with the memory of one chunk.
//! docs/spool.md has the table. Owns the compressors that wait for the next message.
//!
//! Whether a message is compressed is decided by its first chunk; a later chunk that doesn't shrink is stored as it is.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crc32fast::Hasher;

use super::codec::{Malformed, Reader};
use super::record::HEADER_SIZE;
use super::segment::read_full;
use crate::config;
use crate::system::{BoxFuture, Content, DiskFile, Turns};

/// Octets of content in every chunk but the last.
pub(crate) const CHUNK_SIZE: usize = 64 * 1024;
/// Bytes in front of each chunk: the length of what is stored, and whether that is compressed.
const HEAD_SIZE: usize = 4;
/// The bit of a head that says so.
const COMPRESSED: u32 = 1 << 31;
/// zstd's level: the higher ones cost more than they save on mail; docs/spool.md has the figures.
const LEVEL: i32 = 1;
/// Content of fewer octets isn't tried.
const TRY_SIZE_MIN: usize = 256;
/// Content of more octets is compressed on a thread that may wait; less is done at once, in the session's task.
pub(crate) const QUICK_SIZE_MAX: usize = 16 * 1024;
/// So many compressors (some 400 KiB each) work for those who may wait; a runtime's threads bound the others.
const PRESSES_MAX: usize = 4;

/// How content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Octet for octet.
    Plain,
    /// In compressed chunks.
    Chunks,
}

/// Compresses new content, if the settings say so.
#[derive(Default)]
pub(crate) struct Packer {
    on: bool,
    presses: Mutex<Presses>,
    /// One came back.
    back: Condvar,
}

#[derive(Default)]
struct Presses {
    spare: Vec<Press>,
    /// How many are at work.
    out: usize,
}

/// A compressor at work; it goes back when this is dropped.
struct Lease<'a> {
    packer: &'a Packer,
    press: Option<Press>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut presses = self.packer.presses.lock().unwrap_or_else(PoisonError::into_inner);
        presses.out -= 1;
        if presses.spare.len() < PRESSES_MAX {
            presses.spare.extend(self.press.take());
        }
        drop(presses);
        self.packer.back.notify_one();
    }
}

/// A compressor with room for a chunk.
struct Press {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(setting: config::Compression) -> Self {
        Self { on: setting == config::Compression::Zstd, ..Self::default() }
    }

    /// Whether content of so many octets is tried.
    pub(crate) fn tries(&self, size: usize) -> bool {
        self.on && size >= TRY_SIZE_MIN
    }

    /// Compresses the content in a draft, which has room for a record's header in front, where it lies.
    pub(crate) fn draft(&self, draft: &mut Vec<u8>) -> Form {
        let size = draft.len().saturating_sub(HEADER_SIZE);
        if !self.tries(size) {
            return Form::Plain;
        }
        self.with_press(size > QUICK_SIZE_MAX, |press| press.draft(draft)).unwrap_or(Form::Plain)
    }

    /// What is to be stored of a piece of content that begins where a chunk does; none: the piece as it is. The first piece of
    /// a message decides about the form.
    pub(crate) fn piece(&self, octets: &[u8], form: &mut Option<Form>) -> io::Result<Option<Vec<u8>>> {
        if *form == Some(Form::Plain) || (form.is_none() && !self.tries(octets.len())) {
            *form = Some(Form::Plain);
            return Ok(None);
        }
        match self.with_press(true, |press| press.piece(octets, form)) {
            Some(stored) => Ok(stored),
            None if form.is_none() => {
                *form = Some(Form::Plain);
                Ok(None)
            }
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// None: zstd has no memory.
    fn with_press<T>(&self, may_wait: bool, work: impl FnOnce(&mut Press) -> T) -> Option<T> {
        let mut presses = self.presses.lock().unwrap_or_else(PoisonError::into_inner);
        while may_wait && presses.out >= PRESSES_MAX {
            presses = self.back.wait(presses).unwrap_or_else(PoisonError::into_inner);
        }
        presses.out += 1;
        let mut lease = Lease { packer: self, press: presses.spare.pop() };
        drop(presses);
        if lease.press.is_none() {
            let compressor = zstd::bulk::Compressor::new(LEVEL).ok()?;
            lease.press = Some(Press { compressor, buffer: Vec::new() });
        }
        lease.press.as_mut().map(work)
    }
}

impl Press {
    /// A chunk's octets compressed; none if that saves nothing.
    fn chunk(&mut self, octets: &[u8]) -> Option<&[u8]> {
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(octets.len()));
        let length = self.compressor.compress_to_buffer(octets, &mut self.buffer).ok()?;
        (length < octets.len()).then_some(&self.buffer)
    }

    /// The first chunk, if it saves enough.
    fn first(&mut self, octets: &[u8]) -> Option<&[u8]> {
        self.chunk(octets).filter(|packed| (packed.len() + HEAD_SIZE) * 10 <= octets.len() * 9)
    }

    /// What is stored never gets ahead of what is read: the first chunk saves more than the heads of all the others take.
    fn draft(&mut self, draft: &mut Vec<u8>) -> Form {
        let (mut from, mut to) = (HEADER_SIZE, HEADER_SIZE);
        while from < draft.len() {
            let end = draft.len().min(from + CHUNK_SIZE);
            let octets = &draft[from..end];
            let packed = if from == HEADER_SIZE { self.first(octets) } else { self.chunk(octets) };
            let behind = to + HEAD_SIZE;
            let length = match packed {
                Some(packed) => {
                    draft[behind..behind + packed.len()].copy_from_slice(packed);
                    packed.len()
                }
                None if from == HEADER_SIZE => return Form::Plain,
                None => {
                    draft.copy_within(from..end, behind);
                    end - from
                }
            };
            let head = head(length, length < end - from);
            draft[to..behind].copy_from_slice(&head);
            (from, to) = (end, behind + length);
        }
        draft.truncate(to);
        Form::Chunks
    }

    fn piece(&mut self, octets: &[u8], form: &mut Option<Form>) -> Option<Vec<u8>> {
        let mut stored = Vec::new();
        for octets in octets.chunks(CHUNK_SIZE) {
            let packed = if form.is_none() { self.first(octets) } else { self.chunk(octets) };
            let (bytes, compressed) = packed.map_or((octets, false), |packed| (packed, true));
            if !compressed && form.is_none() {
                *form = Some(Form::Plain);
                return None;
            }
            *form = Some(Form::Chunks);
            stored.extend_from_slice(&head(bytes.len(), compressed));
            stored.extend_from_slice(bytes);
        }
        Some(stored)
    }
}

fn head(length: usize, compressed: bool) -> [u8; HEAD_SIZE] {
    (length as u32 | if compressed { COMPRESSED } else { 0 }).to_le_bytes()
}

/// What stands in front of a chunk.
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    compressed: bool,
}

impl Head {
    /// Reads the head of a chunk that is to give so many octets; what is compressed is shorter, what isn't has that length.
    fn parse(bytes: [u8; HEAD_SIZE], octets: usize) -> Result<Self, Malformed> {
        let word = u32::from_le_bytes(bytes);
        let (length, compressed) = ((word & !COMPRESSED) as usize, word & COMPRESSED != 0);
        let sound = if compressed { length > 0 && length < octets } else { length == octets };
        if sound { Ok(Self { length, compressed }) } else { Err(Malformed("chunk")) }
    }

    /// Bytes of the chunk, this head included.
    fn whole(self) -> u64 {
        (HEAD_SIZE + self.length) as u64
    }
}

/// How many octets the chunk with this number has, of content of this size; 0 behind the last.
fn chunk_size(size: u64, number: u64) -> usize {
    size.saturating_sub(number.saturating_mul(CHUNK_SIZE as u64)).min(CHUNK_SIZE as u64) as usize
}

/// Whether stored bytes are chunks of content of this size, as far as the heads tell.
pub(crate) fn check(stored: &[u8], size: u64) -> Result<(), Malformed> {
    let mut reader = Reader(stored);
    let mut number = 0;
    while chunk_size(size, number) > 0 {
        let head = Head::parse(reader.fixed("chunk")?, chunk_size(size, number))?;
        reader.bytes(head.length, "chunk")?;
        number += 1;
    }
    reader.end()
}

/// Where chunks lie.
pub(crate) enum Source {
    /// In memory; checked already.
    Memory(Vec<u8>),
    /// In a file, with the CRC-32 of all of it.
    File(Arc<dyn DiskFile>, u32),
}

impl Source {
    fn read(&self, offset: u64, length: usize) -> io::Result<Cow<'_, [u8]>> {
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the content is shorter than its message");
        match self {
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).map_err(|_| short())?;
                bytes.get(from..).and_then(|rest| rest.get(..length)).map(Cow::Borrowed).ok_or_else(short)
            }
            Self::File(file, _) => {
                let mut bytes = vec![0; length];
                let filled = read_full(&**file, offset, &mut bytes)?;
                if filled == length { Ok(Cow::Owned(bytes)) } else { Err(short()) }
            }
        }
    }
}

/// Compressed content, read back.
pub(crate) struct Packed {
    chunks: Arc<Chunks>,
    turns: Turns,
}

struct Chunks {
    source: Source,
    /// Bytes stored.
    length: u64,
    /// Octets of content.
    size: u64,
    walk: Mutex<Walk>,
}

/// How far the chunks are known.
struct Walk {
    /// Where each begins, as far as heads were read.
    starts: Vec<u64>,
    /// The one read last, if not to its end.
    last: Option<(u64, Vec<u8>)>,
    /// How many were read without a gap, and the checksum so far.
    hashed: u64,
    hasher: Hasher,
}

impl Packed {
    /// Content of `size` octets, stored in `length` bytes.
    pub(crate) fn new(source: Source, length: u64, size: u64, turns: Turns) -> Self {
        let walk = Walk { starts: vec![0], last: None, hashed: 0, hasher: Hasher::new() };
        Self { chunks: Arc::new(Chunks { source, length, size, walk: Mutex::new(walk) }), turns }
    }
}

impl Content for Packed {
    fn size(&self) -> u64 {
        self.chunks.size
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let chunks = self.chunks.clone();
        Box::pin(async move { self.turns.blocking(move || chunks.read(offset, size_max)).await })
    }
}

impl Chunks {
    fn read(&self, mut offset: u64, size_max: usize) -> io::Result<Vec<u8>> {
        let mut want = self.size.saturating_sub(offset).min(size_max as u64) as usize;
        let mut piece = Vec::new();
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        while want > 0 {
            let (number, from) = (offset / CHUNK_SIZE as u64, (offset % CHUNK_SIZE as u64) as usize);
            let chunk = self.chunk(&mut walk, number)?;
            let taken = want.min(chunk.len() - from);
            offset += taken as u64;
            want -= taken;
            if from + taken < chunk.len() {
                piece.extend_from_slice(&chunk[from..from + taken]);
                walk.last = Some((number, chunk));
            } else if piece.is_empty() && from == 0 {
                // The usual case: whoever reads chunk by chunk gets each as it is, and none is kept.
                piece = chunk;
            } else {
                piece.extend_from_slice(&chunk[from..]);
            }
        }
        Ok(piece)
    }

    /// The octets of a chunk, of which there are as many as `chunk_size` says.
    fn chunk(&self, walk: &mut Walk, number: u64) -> io::Result<Vec<u8>> {
        match walk.last.take() {
            Some((last, octets)) if last == number => Ok(octets),
            _ => self.load(walk, number),
        }
    }

    fn load(&self, walk: &mut Walk, number: u64) -> io::Result<Vec<u8>> {
        // Only the heads before it tell where it begins.
        while let known = walk.starts.len() as u64 - 1
            && known < number
        {
            let start = walk.starts[known as usize];
            let (_, head) = self.head(start, known)?;
            walk.starts.push(start + head.whole());
        }
        let start = walk.starts[number as usize];
        let (bytes, head) = self.head(start, number)?;
        let end = start + head.whole();
        if walk.starts.len() as u64 == number + 1 {
            walk.starts.push(end);
        }
        let stored = self.source.read(start + HEAD_SIZE as u64, head.length)?;
        self.check(walk, number, end, &bytes, &stored)?;
        expand(head, stored, chunk_size(self.size, number))
    }

    fn head(&self, start: u64, number: u64) -> io::Result<([u8; HEAD_SIZE], Head)> {
        let bytes = self.source.read(start, HEAD_SIZE)?;
        let bytes = bytes.as_ref().try_into().map_err(|_| damaged())?;
        Ok((bytes, Head::parse(bytes, chunk_size(self.size, number)).map_err(|_| damaged())?))
    }

    /// Whoever reads from the first octet to the last learns with the last piece whether all are what they were.
    fn check(&self, walk: &mut Walk, number: u64, end: u64, head: &[u8], stored: &[u8]) -> io::Result<()> {
        let is_last = chunk_size(self.size, number + 1) == 0;
        if is_last && end != self.length {
            return Err(damaged());
        }
        let Source::File(_, crc) = self.source else { return Ok(()) };
        if number == 0 {
            walk.hashed = 0;
            walk.hasher = Hasher::new();
        }
        if walk.hashed != number {
            return Ok(());
        }
        walk.hashed += 1;
        walk.hasher.update(head);
        walk.hasher.update(stored);
        if is_last && walk.hasher.clone().finalize() != crc { Err(damaged()) } else { Ok(()) }
    }
}

/// So many pieces of content are read at a time, and so many expanders kept for them.
pub(crate) const READS_MAX: usize = 8;

/// What expands, some 160 KiB each, waits here for the next chunk: made anew for each, it would be most of what a reader costs.
static EXPANDERS: Mutex<Vec<zstd::bulk::Decompressor<'static>>> = Mutex::new(Vec::new());

/// A chunk's octets: never more than it has to give.
fn expand(head: Head, stored: Cow<'_, [u8]>, octets: usize) -> io::Result<Vec<u8>> {
    if !head.compressed {
        return Ok(stored.into_owned());
    }
    let spare = EXPANDERS.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut expander = spare.map_or_else(zstd::bulk::Decompressor::new, Ok)?;
    let expanded = expander.decompress(&stored, octets).map_err(|_| damaged());
    let mut spares = EXPANDERS.lock().unwrap_or_else(PoisonError::into_inner);
    if spares.len() < READS_MAX {
        spares.push(expander);
    }
    drop(spares);
    let expanded = expanded?;
    if expanded.len() == octets { Ok(expanded) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the content is damaged")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;
    use crate::spool::record::Frame;
    use crate::system::sim::SimDisk;
    use crate::system::{Disk, OpenMode};

    /// Content in stretches that zstd likes (an octet again and again) or doesn't, about as long as chunks.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![0usize..2000, CHUNK_SIZE - 3..CHUNK_SIZE + 3, 0usize..3 * CHUNK_SIZE];
        prop::collection::vec((size, any::<u64>(), any::<bool>()), 0..4).prop_map(|stretches| {
            let mut content = Vec::new();
            for (size, mut state, noise) in stretches {
                content.extend((0..size).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(noise));
                    if noise { (state >> 33) as u8 } else { b'x' }
                }));
            }
            content
        })
    }

    fn at_once(content: &dyn Content, offset: u64, size_max: usize) -> io::Result<Vec<u8>> {
        let mut read = content.read_at(offset, size_max);
        match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => unreachable!("inline work has nothing to wait for"),
        }
    }

    /// The same bytes in memory and in a file.
    fn both(stored: &[u8], size: u64) -> [Packed; 2] {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("")).unwrap();
        disk.open(Path::new("f"), OpenMode::CreateNew).unwrap().write_at(0, stored).unwrap();
        let file = Arc::from(disk.open(Path::new("f"), OpenMode::Read).unwrap());
        let sources = [Source::Memory(stored.to_vec()), Source::File(file, crc32fast::hash(stored))];
        sources.map(|source| Packed::new(source, stored.len() as u64, size, Turns::inline()))
    }

    /// What is stored of content, in its form.
    fn pack(packer: &Packer, content: &[u8]) -> (Form, Vec<u8>) {
        let mut draft = Frame::draft();
        draft.extend_from_slice(content);
        let form = packer.draft(&mut draft);
        (form, draft.split_off(HEADER_SIZE))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_packed_is_read_anywhere(content in content(), reads in prop::collection::vec((any::<prop::sample::Index>(), 0usize..200_000), 1..8)) {
            let packer = Packer::new(config::Compression::Zstd);
            let (form, stored) = pack(&packer, &content);
            // In pieces it comes to the same.
            let (mut in_pieces, mut decided) = (Vec::new(), None);
            for piece in content.chunks(2 * CHUNK_SIZE) {
                let packed = packer.piece(piece, &mut decided).unwrap();
                in_pieces.extend(packed.unwrap_or_else(|| piece.to_vec()));
            }
            prop_assert!(in_pieces == stored && decided.unwrap_or(Form::Plain) == form);
            if form == Form::Plain {
                prop_assert!(stored == content);
                return Ok(());
            }
            prop_assert!(stored.len() < content.len());
            let size = content.len() as u64;
            prop_assert_eq!(check(&stored, size), Ok(()));
            for wrong in [size - 1, size + 1] {
                // Heads don't tell it of a compressed chunk, expanding does.
                let [memory, _] = both(&stored, wrong);
                prop_assert!(check(&stored, wrong).is_err() || at_once(&memory, 0, usize::MAX).is_err());
            }
            prop_assert!(check(&stored[..stored.len() - 1], size).is_err());
            for packed in both(&stored, size) {
                for (at, length) in &reads {
                    let from = at.index(content.len() + 10);
                    let expected = content.get(from..content.len().min(from + length)).unwrap_or(&[]);
                    prop_assert!(at_once(&packed, from as u64, *length).unwrap() == expected);
                }
                prop_assert!(at_once(&packed, 0, content.len()).unwrap() == content);
            }
        }

        #[test]
        fn damage_is_an_error_or_harmless_and_never_more_octets(content in content(), at: prop::sample::Index, to: u8) {
            let (form, stored) = pack(&Packer::new(config::Compression::Zstd), &content);
            if form == Form::Chunks {
                let mut bytes = stored.clone();
                bytes[at.index(stored.len())] = to;
                let [memory, file] = both(&bytes, content.len() as u64);
                if let Ok(read) = at_once(&memory, 0, usize::MAX) {
                    prop_assert_eq!(read.len(), content.len());
                }
                // The file's checksum is that of the damaged bytes: what it gives is no more either.
                if let Ok(read) = at_once(&file, 0, usize::MAX) {
                    prop_assert_eq!(read.len(), content.len());
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(stored in prop::collection::vec(any::<u8>(), 0..100), size in 0u64..1 << 20) {
            let _ = check(&stored, size);
            for packed in both(&stored, size) {
                let _ = at_once(&packed, 0, 1 << 20);
                let _ = at_once(&packed, size / 2, 10);
            }
        }
    }

    #[test]
    fn more_at_once_than_there_are_compressors_wait_for_one() {
        let packer = Packer::new(config::Compression::Zstd);
        let content = vec![b'x'; 3 * CHUNK_SIZE];
        std::thread::scope(|scope| {
            for _ in 0..3 * PRESSES_MAX {
                scope.spawn(|| (0..20).for_each(|_| assert_eq!(pack(&packer, &content).0, Form::Chunks)));
            }
        });
        let presses = packer.presses.lock().unwrap();
        assert!(presses.out == 0 && (1..=PRESSES_MAX).contains(&presses.spare.len()));
    }

    #[test]
    fn a_packer_that_is_off_leaves_all_as_it_is() {
        let content = vec![b'x'; 100_000];
        assert_eq!(pack(&Packer::new(config::Compression::None), &content), (Form::Plain, content));
    }

    #[test]
    fn a_frame_that_gives_more_than_its_chunk_is_damage() {
        let bomb = zstd::bulk::compress(&vec![0; 1 << 20], LEVEL).unwrap();
        let stored = [&head(bomb.len(), true)[..], &bomb].concat();
        for size in [bomb.len() as u64 + 1, CHUNK_SIZE as u64] {
            assert_eq!(check(&stored, size), Ok(()));
            for packed in both(&stored, size) {
                assert_eq!(at_once(&packed, 0, 1 << 20).unwrap_err().kind(), io::ErrorKind::InvalidData);
            }
        }
    }

    #[test]
    fn a_file_that_is_not_what_its_record_says_is_found_when_it_is_read_to_the_end() {
        let content = [vec![b'x'; CHUNK_SIZE], b"the end".to_vec()].concat();
        let (_, stored) = pack(&Packer::new(config::Compression::Zstd), &content);
        let [_, sound] = both(&stored, content.len() as u64);
        assert!(at_once(&sound, 0, usize::MAX).unwrap() == content);
        let mut other = stored.clone();
        let last = other.len() - 1;
        other[last] ^= 1;
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("")).unwrap();
        disk.open(Path::new("f"), OpenMode::CreateNew).unwrap().write_at(0, &other).unwrap();
        let file: Arc<dyn DiskFile> = Arc::from(disk.open(Path::new("f"), OpenMode::Read).unwrap());
        let crc = crc32fast::hash(&stored);
        let open = |length| Packed::new(Source::File(file.clone(), crc), length, content.len() as u64, Turns::inline());
        let packed = open(stored.len() as u64);
        assert!(at_once(&packed, 0, CHUNK_SIZE).unwrap() == content[..CHUNK_SIZE]);
        assert!(at_once(&packed, CHUNK_SIZE as u64, 100).is_err());
        // A file that goes on behind its last chunk, or whose record says so.
        assert!(at_once(&open(stored.len() as u64 + 1), CHUNK_SIZE as u64, 100).is_err());
    }
}
