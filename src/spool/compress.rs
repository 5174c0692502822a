//! Compressed content: zstd in chunks that stand for themselves, so that any octet is reached with the memory of one chunk.
//! docs/spool.md has the table. Owns the compressors that wait for the next message.
//!
//! Whether a message is compressed is decided by its first chunk; a later chunk that doesn't shrink is stored as it is.

use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crc32fast::Hasher;

use super::codec::{Malformed, Reader};
use super::record::HEADER_SIZE;
use super::segment::read_full;
use crate::config;
use crate::system::{BoxFuture, Content, DiskFile, Workers};

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
/// So many compressors wait; more are made when more messages are compressed at the same moment.
const SPARE_MAX: usize = 4;

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
    spare: Mutex<Vec<Press>>,
}

/// A compressor with room for a chunk.
struct Press {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(setting: config::Compression) -> Self {
        Self { on: setting == config::Compression::Zstd, spare: Mutex::default() }
    }

    /// Whether content of so many octets is tried.
    pub(crate) fn tries(&self, size: usize) -> bool {
        self.on && size >= TRY_SIZE_MIN
    }

    /// Compresses the content in a draft, which has room for a record's header in front, where it lies.
    pub(crate) fn draft(&self, draft: &mut Vec<u8>) -> Form {
        if !self.tries(draft.len().saturating_sub(HEADER_SIZE)) {
            return Form::Plain;
        }
        self.with_press(|press| press.draft(draft)).unwrap_or(Form::Plain)
    }

    /// What is to be stored of a piece of content that begins where a chunk does; none: the piece as it is. The first piece of
    /// a message decides about the form.
    pub(crate) fn piece(&self, octets: &[u8], form: &mut Option<Form>) -> io::Result<Option<Vec<u8>>> {
        if *form == Some(Form::Plain) || (form.is_none() && !self.tries(octets.len())) {
            *form = Some(Form::Plain);
            return Ok(None);
        }
        match self.with_press(|press| press.piece(octets, form)) {
            Some(stored) => Ok(stored),
            None if form.is_none() => {
                *form = Some(Form::Plain);
                Ok(None)
            }
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// None: zstd has no memory.
    fn with_press<T>(&self, work: impl FnOnce(&mut Press) -> T) -> Option<T> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut press = match spare {
            Some(press) => press,
            None => Press { compressor: zstd::bulk::Compressor::new(LEVEL).ok()?, buffer: Vec::new() },
        };
        let done = work(&mut press);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(press);
        }
        Some(done)
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
    workers: Workers,
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
    /// The one read last.
    last: Option<(u64, Vec<u8>)>,
    /// How many were read without a gap, and the checksum so far.
    hashed: u64,
    hasher: Hasher,
}

impl Packed {
    /// Content of `size` octets, stored in `length` bytes.
    pub(crate) fn new(source: Source, length: u64, size: u64, workers: Workers) -> Self {
        let walk = Walk { starts: vec![0], last: None, hashed: 0, hasher: Hasher::new() };
        Self { chunks: Arc::new(Chunks { source, length, size, walk: Mutex::new(walk) }), workers }
    }
}

impl Content for Packed {
    fn size(&self) -> u64 {
        self.chunks.size
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let chunks = self.chunks.clone();
        Box::pin(async move { self.workers.blocking(move || chunks.read(offset, size_max)).await })
    }
}

impl Chunks {
    fn read(&self, mut offset: u64, size_max: usize) -> io::Result<Vec<u8>> {
        let mut want = self.size.saturating_sub(offset).min(size_max as u64) as usize;
        let mut piece = Vec::with_capacity(want);
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        while want > 0 {
            let chunk = self.chunk(&mut walk, offset / CHUNK_SIZE as u64)?;
            let rest = &chunk[(offset % CHUNK_SIZE as u64) as usize..];
            let taken = &rest[..rest.len().min(want)];
            piece.extend_from_slice(taken);
            offset += taken.len() as u64;
            want -= taken.len();
        }
        Ok(piece)
    }

    /// The octets of a chunk, of which there are as many as `chunk_size` says.
    fn chunk<'a>(&self, walk: &'a mut Walk, number: u64) -> io::Result<&'a [u8]> {
        let octets = match walk.last.take() {
            Some((last, octets)) if last == number => octets,
            _ => self.load(walk, number)?,
        };
        Ok(&walk.last.insert((number, octets)).1)
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

/// A chunk's octets: never more than it has to give.
fn expand(head: Head, stored: Cow<'_, [u8]>, octets: usize) -> io::Result<Vec<u8>> {
    if !head.compressed {
        return Ok(stored.into_owned());
    }
    let expanded = zstd::bulk::decompress(&stored, octets).map_err(|_| damaged())?;
    if expanded.len() == octets { Ok(expanded) } else { Err(damaged()) }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the content is damaged")
}
