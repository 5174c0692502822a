//! A table on disk: pairs of key and value in the order of their keys, written once from the first to the last, then only read.
//!
//! Blocks of some 16 KiB, each with a checksum; within a block keys leave out what they share with the key before. The directory
//! of the blocks' first keys stands at the end and is what an open table keeps in memory. docs/spool.md has it byte by byte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::IndexError;
use super::cache::Cache;
use crate::spool::codec::{self, Malformed, Reader};
use crate::spool::segment::read_full;
use crate::system::{Disk, DiskFile, OpenMode};

/// A block is full with this many bytes.
const BLOCK_SIZE: usize = 16 << 10;
/// So much is written at a time; bytes.
const PIECE: usize = 256 << 10;
/// What is written is synced this often: a sync of a whole large table at its end would hold up the log's. Bytes.
const SYNC_EVERY: u64 = 8 << 20;
/// In front of each block: its length and its CRC-32.
const HEAD_SIZE: usize = 8;
/// At the end of the file.
const TRAILER_SIZE: usize = 32;
const MAGIC: [u8; 8] = *b"\xf5PHRUN\r\n";
const VERSION: u16 = 1;
/// The longest block or directory that is read; bytes.
const BLOCK_SIZE_MAX: u64 = 1 << 30;

/// Writes a table.
pub(crate) struct TableWriter {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// Where `pending` will be written.
    offset: u64,
    /// Whether it is synced while it is written.
    in_pieces: bool,
    /// Up to where it is durable.
    synced: u64,
    pending: Vec<u8>,
    block: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
    blocks: u64,
    directory: Vec<u8>,
}

impl TableWriter {
    /// A new file; `in_pieces`: made durable while it is written, else only by who syncs the file at its end.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, in_pieces: bool) -> Result<Self, IndexError> {
        let file = disk.open(path, OpenMode::CreateNew).map_err(unwritable("can't make", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            offset: 0,
            in_pieces,
            synced: 0,
            pending: Vec::with_capacity(PIECE + BLOCK_SIZE),
            block: Vec::with_capacity(BLOCK_SIZE + 1024),
            first: Vec::new(),
            last: Vec::new(),
            blocks: 0,
            directory: Vec::new(),
        })
    }

    /// Adds a pair; its key must be greater than all before.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        let shared = if self.block.is_empty() {
            self.first.clear();
            self.first.extend_from_slice(key);
            0
        } else {
            self.last.iter().zip(key).take_while(|(one, other)| one == other).count()
        };
        codec::put_number(&mut self.block, shared as u64);
        codec::put_number(&mut self.block, (key.len() - shared) as u64);
        codec::put_number(&mut self.block, value.len() as u64);
        self.block.extend_from_slice(&key[shared..]);
        self.block.extend_from_slice(value);
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
        if self.block.len() >= BLOCK_SIZE { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), IndexError> {
        if self.block.is_empty() {
            return Ok(());
        }
        codec::put_number(&mut self.directory, self.first.len() as u64);
        self.directory.extend_from_slice(&self.first);
        codec::put_number(&mut self.directory, self.offset + self.pending.len() as u64);
        codec::put_number(&mut self.directory, self.block.len() as u64);
        self.blocks += 1;
        put_block(&mut self.pending, &self.block);
        self.block.clear();
        if self.pending.len() >= PIECE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), IndexError> {
        self.file.write_at(self.offset, &self.pending).map_err(unwritable("can't write", &self.path))?;
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        if !self.in_pieces || self.offset - self.synced < SYNC_EVERY {
            return Ok(());
        }
        self.synced = self.offset;
        self.file.sync_data().map_err(unwritable("can't sync", &self.path))
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.offset + (self.pending.len() + self.block.len()) as u64
    }

    /// Ends the table; it isn't durable before its file is synced. `extra` is for the caller.
    pub(crate) fn finish(mut self, extra: &[u8]) -> Result<(), IndexError> {
        self.end_block()?;
        let directory_at = self.offset + self.pending.len() as u64;
        let mut directory = Vec::with_capacity(self.directory.len() + extra.len() + 16);
        codec::put_number(&mut directory, extra.len() as u64);
        directory.extend_from_slice(extra);
        codec::put_number(&mut directory, self.blocks);
        directory.extend_from_slice(&self.directory);
        put_block(&mut self.pending, &directory);
        let mut trailer = Vec::with_capacity(TRAILER_SIZE);
        trailer.extend_from_slice(&MAGIC);
        trailer.extend_from_slice(&VERSION.to_le_bytes());
        trailer.extend_from_slice(&[0; 2]);
        trailer.extend_from_slice(&directory_at.to_le_bytes());
        trailer.extend_from_slice(&(directory.len() as u64).to_le_bytes());
        trailer.extend_from_slice(&crc32fast::hash(&trailer).to_le_bytes());
        self.pending.extend_from_slice(&trailer);
        self.write()
    }
}

fn put_block(out: &mut Vec<u8>, block: &[u8]) {
    out.extend_from_slice(&(block.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
    out.extend_from_slice(block);
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> IndexError {
    let path = path.display().to_string();
    move |error| IndexError::Damaged(format!("{what} {path}: {error}"))
}

fn unwritable(what: &'static str, path: &Path) -> impl Fn(io::Error) -> IndexError {
    let path = path.display().to_string();
    move |error| IndexError::Unwritable(format!("{what} {path}: {error}"))
}

/// Where a block lies, and its first key.
struct BlockAt {
    first: Box<[u8]>,
    offset: u64,
    length: u32,
}

/// An open table.
pub(crate) struct Table {
    /// Tells it from others in the cache.
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    directory: Vec<BlockAt>,
    extra: Vec<u8>,
    fingerprint: u32,
    length: u64,
    cache: Arc<Cache>,
}

impl Table {
    /// Opens a table; an error if it is damaged or of another version.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, number: u64, cache: Arc<Cache>) -> Result<Self, IndexError> {
        let file = disk.open(path, OpenMode::Read).map_err(failed("can't read", path))?;
        let length = file.len().map_err(failed("can't read", path))?;
        let (path, directory, extra) = (path.to_owned(), Vec::new(), Vec::new());
        let mut table = Self { number, path, file, directory, extra, fingerprint: 0, length, cache };
        let trailer_at = length.checked_sub(TRAILER_SIZE as u64).ok_or_else(|| table.damaged("trailer"))?;
        let trailer = table.bytes(trailer_at, TRAILER_SIZE)?;
        let (fields, crc) = trailer.split_at(TRAILER_SIZE - 4);
        if fields[..8] != MAGIC || crc32fast::hash(fields).to_le_bytes() != *crc {
            return Err(table.damaged("trailer"));
        }
        let mut reader = Reader(&fields[8..]);
        if u16::from_le_bytes(reader.fixed("version")?) != VERSION {
            return Err(IndexError::Damaged("it is of another version".to_owned()));
        }
        reader.fixed::<2>("reserved")?;
        let at = u64::from_le_bytes(reader.fixed("directory")?);
        let directory = table.block_at(at, u64::from_le_bytes(reader.fixed("directory")?))?;
        table.fingerprint = crc32fast::hash(&directory);
        table.read_directory(&directory)?;
        Ok(table)
    }

    fn read_directory(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        let mut reader = Reader(bytes);
        let extra = reader.number("directory")?;
        self.extra = take(&mut reader, extra)?.to_vec();
        let blocks = usize::try_from(reader.number("directory")?).map_err(|_| Malformed("directory"))?;
        self.directory.reserve_exact(blocks.min(bytes.len() / 4));
        for _ in 0..blocks {
            let length = reader.number("directory")?;
            let first = take(&mut reader, length)?.into();
            self.directory.push(BlockAt { first, offset: reader.number("directory")?, length: reader.small("directory")? });
        }
        Ok(reader.end()?)
    }

    /// Makes it durable, name apart. After a failed sync no later one proves anything: the table can't be relied on.
    pub(crate) fn sync(&self) -> Result<(), IndexError> {
        self.file.sync_data().map_err(failed("can't sync", &self.path))
    }

    /// What the writer was given for it.
    pub(crate) fn extra(&self) -> &[u8] {
        &self.extra
    }

    /// CRC-32 of the directory: tells it from every other table.
    pub(crate) fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// Bytes of its file.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    fn damaged(&self, what: &str) -> IndexError {
        IndexError::Damaged(format!("{} has a damaged {what}", self.path.display()))
    }

    fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>, IndexError> {
        let mut bytes = vec![0; length];
        let filled = read_full(&*self.file, offset, &mut bytes).map_err(failed("can't read", &self.path))?;
        if filled == length { Ok(bytes) } else { Err(self.damaged("length")) }
    }

    /// A block, checked.
    fn block_at(&self, offset: u64, length: u64) -> Result<Arc<[u8]>, IndexError> {
        if length > BLOCK_SIZE_MAX {
            return Err(self.damaged("directory"));
        }
        let bytes = self.bytes(offset, HEAD_SIZE + length as usize)?;
        let (head, block) = bytes.split_at(HEAD_SIZE);
        let mut expected = (block.len() as u32).to_le_bytes().to_vec();
        expected.extend_from_slice(&crc32fast::hash(block).to_le_bytes());
        if head == expected { Ok(block.into()) } else { Err(self.damaged("block")) }
    }

    fn block(&self, number: usize, keep: bool) -> Result<Option<Arc<[u8]>>, IndexError> {
        let Some(at) = self.directory.get(number) else { return Ok(None) };
        if let Some(block) = self.cache.get(self.number, number) {
            return Ok(Some(block));
        }
        let block = self.block_at(at.offset, u64::from(at.length))?;
        if keep {
            self.cache.put(self.number, number, block.clone());
        }
        Ok(Some(block))
    }
}

fn take<'a>(reader: &mut Reader<'a>, length: u64) -> Result<&'a [u8], Malformed> {
    let length = usize::try_from(length).map_err(|_| Malformed("length"))?;
    let (taken, rest) = reader.0.split_at_checked(length).ok_or(Malformed("length"))?;
    reader.0 = rest;
    Ok(taken)
}

/// A place between two pairs of a table, which goes on from pair to pair.
pub(crate) struct Cursor {
    table: Arc<Table>,
    /// Whether blocks that it reads stay in the cache.
    keep: bool,
    number: usize,
    block: Option<Arc<[u8]>>,
    at: usize,
    key: Vec<u8>,
    value: std::ops::Range<usize>,
    /// `key` and `value` are what `next` is to give.
    ready: bool,
}

impl Cursor {
    /// In front of the first pair whose key isn't less than `from`. For looks here and there.
    pub(crate) fn seek(table: &Arc<Table>, from: &[u8]) -> Result<Self, IndexError> {
        Self::start(table, from, true)
    }

    /// The same for a reader who goes through everything once: the cache stays as it is.
    pub(crate) fn scan(table: &Arc<Table>, from: &[u8]) -> Result<Self, IndexError> {
        Self::start(table, from, false)
    }

    /// In front of the block that has the pair with this key, or the last one before it.
    pub(crate) fn near(table: &Arc<Table>, key: &[u8]) -> Result<Self, IndexError> {
        Self::block(table, key, false)
    }

    fn block(table: &Arc<Table>, key: &[u8], keep: bool) -> Result<Self, IndexError> {
        let number = table.directory.partition_point(|block| &*block.first <= key).saturating_sub(1);
        let block = table.block(number, keep)?;
        Ok(Self { table: table.clone(), keep, number, block, at: 0, key: Vec::new(), value: 0..0, ready: false })
    }

    fn start(table: &Arc<Table>, from: &[u8], keep: bool) -> Result<Self, IndexError> {
        let mut cursor = Self::block(table, from, keep)?;
        while cursor.next()? {
            if cursor.key() >= from {
                cursor.ready = true;
                break;
            }
        }
        Ok(cursor)
    }

    /// Goes on to the next pair; `false` at the end.
    pub(crate) fn next(&mut self) -> Result<bool, IndexError> {
        if std::mem::take(&mut self.ready) {
            return Ok(true);
        }
        loop {
            let Some(block) = &self.block else { return Ok(false) };
            if self.at < block.len() {
                let mut reader = Reader(&block[self.at..]);
                let shared = usize::try_from(reader.number("key")?).map_err(|_| Malformed("key"))?;
                let own = reader.number("key")?;
                let length = usize::try_from(reader.number("value")?).map_err(|_| Malformed("value"))?;
                let own = take(&mut reader, own)?;
                if shared > self.key.len() || length > reader.0.len() {
                    return Err(Malformed("key").into());
                }
                self.key.truncate(shared);
                self.key.extend_from_slice(own);
                let start = block.len() - reader.0.len();
                self.value = start..start + length;
                self.at = self.value.end;
                return Ok(true);
            }
            self.number += 1;
            self.at = 0;
            self.key.clear();
            self.block = self.table.block(self.number, self.keep)?;
        }
    }

    /// Goes on to the first pair whose key isn't less than `to`, and isn't before the one it is at; `false` at the end. Reads nothing between.
    pub(crate) fn forward(&mut self, to: &[u8]) -> Result<bool, IndexError> {
        if self.table.directory.partition_point(|block| &*block.first <= to).saturating_sub(1) > self.number {
            *self = Self::block(&self.table.clone(), to, self.keep)?;
        }
        while self.key.is_empty() || self.key() < to {
            if !self.next()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The key of the pair that `next` went to.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its value.
    pub(crate) fn value(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block[self.value.clone()])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::system::sim::SimDisk;

    fn written(pairs: &BTreeMap<Vec<u8>, Vec<u8>>) -> SimDisk {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("")).unwrap();
        let mut writer = TableWriter::create(&disk, Path::new("t"), false).unwrap();
        for (key, value) in pairs {
            writer.add(key, value).unwrap();
        }
        writer.finish(b"extra").unwrap();
        disk
    }

    fn open(disk: &SimDisk) -> Result<Arc<Table>, IndexError> {
        Table::open(disk, Path::new("t"), 1, Arc::new(Cache::new(64 << 10))).map(Arc::new)
    }

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(table: &Arc<Table>, from: &[u8]) -> Result<Pairs, IndexError> {
        let mut cursor = Cursor::seek(table, from)?;
        let mut pairs = Vec::new();
        while cursor.next()? {
            pairs.push((cursor.key().to_vec(), cursor.value().to_vec()));
        }
        Ok(pairs)
    }

    fn pairs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
        let key = prop_oneof![prop::collection::vec(0u8..3, 0..6), prop::collection::vec(any::<u8>(), 0..40)];
        let value = prop_oneof![prop::collection::vec(any::<u8>(), 0..8), (0usize..40_000).prop_map(|n| vec![7; n])];
        prop::collection::btree_map(key, value, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn what_was_written_is_read_from_any_key_on(pairs in pairs(), from in prop::collection::vec(any::<u8>(), 0..4)) {
            let table = open(&written(&pairs)).unwrap();
            prop_assert_eq!(table.extra(), b"extra");
            let behind: Vec<_> = pairs.range(from.clone()..).map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(read(&table, &from).unwrap(), behind);
        }

        #[test]
        fn a_flipped_bit_is_found_or_harmless(pairs in pairs(), at: prop::sample::Index) {
            let disk = written(&pairs);
            let length = disk.open(Path::new("t"), OpenMode::Read).unwrap().len().unwrap();
            disk.flip_bit(Path::new("t"), at.index(length as usize * 8) as u64).unwrap();
            let found = open(&disk).and_then(|table| read(&table, b""));
            prop_assert!(found.is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_cursor_goes_forward_to_any_key() {
        let pairs = (0..3000_u32).map(|number| ((number * 3).to_be_bytes().to_vec(), vec![1; 40])).collect();
        let table = open(&written(&pairs)).unwrap();
        for step in [1, 2, 3, 7, 1000, 4001] {
            let mut cursor = Cursor::scan(&table, &0_u32.to_be_bytes()).unwrap();
            for to in (0..9100_u32).step_by(step) {
                let expected = pairs.range(to.to_be_bytes().to_vec()..).next().map(|(key, _)| key.clone());
                let found = cursor.forward(&to.to_be_bytes()).unwrap().then(|| cursor.key().to_vec());
                assert_eq!(found, expected, "{to} in steps of {step}");
            }
        }
    }

    #[test]
    fn a_cut_table_does_not_open() {
        let disk = written(&BTreeMap::from([(b"k".to_vec(), b"v".to_vec())]));
        let file = disk.open(Path::new("t"), OpenMode::Write).unwrap();
        let length = file.len().unwrap();
        for cut in 0..length {
            file.set_len(length - 1 - cut).unwrap();
            assert!(open(&disk).is_err(), "{cut}");
        }
    }
}
