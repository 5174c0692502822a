//! A message's bytes: gathered in a draft, small in memory and large in a file of its own, and read back.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crc32fast::Hasher;

use super::SpoolError;
use super::compress::{CHUNK_SIZE, Form, Packed, Packer, QUICK_SIZE_MAX, Source};
use super::index::{Place, Stored};
use super::record::{self, AcceptContent, ContentFile, Frame, HEADER_SIZE, Header};
use super::segment::{Layout, read_full};
use super::shared::Shared;
use super::unreadable::Unreadable;
use crate::mail::QueueId;
use crate::system::{BoxFuture, Content, Disk, DiskFile, OpenMode, Turns, Workers};

/// A record is read so often before it counts as damaged: what went wrong on the way needn't be on the disk.
const READS: usize = 2;

/// Large content is written in pieces of this size: those that it is compressed in.
const PIECE: usize = CHUNK_SIZE;

/// Large content is synced whenever so much of it has been written: a file system's journal makes the log's next sync wait for what
/// a sync of it all at the end would bring at once.
const SYNC_SIZE: u64 = 256 * 1024;

/// Content on its way in.
pub(crate) enum Incoming {
    /// In memory, behind room for the record's header.
    Small(Vec<u8>),
    /// In its file, but for the last piece.
    Large(LargeFile),
    /// A write failed, or was given up half-way: this content can't be completed any more.
    Failed(SpoolError),
}

/// Content of more than `inline_max` octets, on its way into its file.
pub(crate) struct LargeFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    packer: Arc<Packer>,
    /// How it is stored; decided with the first piece.
    form: Option<Form>,
    /// What isn't in the file yet.
    piece: Vec<u8>,
    /// Octets before that.
    octets: u64,
    /// Bytes in the file.
    written: u64,
    /// Up to where it was synced.
    synced: u64,
    hasher: Hasher,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        Self::Small(Frame::draft())
    }

    /// Octets so far.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Small(draft) => (draft.len() - HEADER_SIZE) as u64,
            Self::Large(large) => large.octets + large.piece.len() as u64,
            Self::Failed(_) => 0,
        }
    }

    /// Whether so many octets more still fit into memory.
    pub(crate) fn stays_small(&self, more: usize, inline_max: usize) -> bool {
        matches!(self, Self::Small(draft) if draft.len() - HEADER_SIZE + more <= inline_max)
    }

    pub(crate) async fn write(&mut self, shared: &Arc<Shared>, id: QueueId, bytes: &[u8]) -> Result<(), SpoolError> {
        if self.stays_small(bytes.len(), shared.options.inline_max)
            && let Self::Small(draft) = self
        {
            draft.extend_from_slice(bytes);
            return Ok(());
        }
        let cancelled = Self::Failed(SpoolError::Io("the write before was given up".to_owned()));
        let written = match std::mem::replace(self, cancelled) {
            Self::Small(draft) => LargeFile::from_draft(shared, id, draft, bytes).await,
            Self::Large(large) => large.write(shared.workers, bytes).await,
            Self::Failed(error) => Err(error),
        };
        match written {
            Ok(large) => {
                *self = Self::Large(large);
                Ok(())
            }
            Err(error) => {
                *self = Self::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// Everything is durable but the record.
    pub(crate) async fn finish(self, shared: &Shared) -> Result<AcceptContent, SpoolError> {
        match self {
            Self::Small(draft) => compress(shared, draft).await,
            Self::Large(large) => large.finish(shared).await.map(AcceptContent::File),
            Self::Failed(error) => Err(error),
        }
    }
}

/// Compresses small content if that is wanted and saves enough.
async fn compress(shared: &Shared, mut draft: Vec<u8>) -> Result<AcceptContent, SpoolError> {
    let size = draft.len() - HEADER_SIZE;
    if size <= QUICK_SIZE_MAX || !shared.packer.tries(size) {
        let form = shared.packer.draft(&mut draft);
        return Ok(AcceptContent::Inline(draft, form));
    }
    let packer = shared.packer.clone();
    let packed = shared.workers.blocking(move || Ok((packer.draft(&mut draft), draft))).await;
    let (form, draft) = packed.map_err(|error| SpoolError::Io(format!("can't compress: {error}")))?;
    Ok(AcceptContent::Inline(draft, form))
}

/// A file that was just made. Removed if nobody takes it: the draft may be given up, and its file removed, before there is one.
struct NewFile {
    shared: Arc<Shared>,
    id: QueueId,
    file: Option<Box<dyn DiskFile>>,
}

impl NewFile {
    fn take(mut self) -> io::Result<Box<dyn DiskFile>> {
        self.file.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.shared.remove_content(self.id);
        }
    }
}

impl LargeFile {
    /// Content has become too large for memory.
    async fn from_draft(shared: &Arc<Shared>, id: QueueId, draft: Vec<u8>, more: &[u8]) -> Result<Self, SpoolError> {
        let path = shared.layout.content_file(id);
        let (maker, at) = (shared.clone(), path.clone());
        let make = move || Ok(NewFile { file: Some(maker.disk.open(&at, OpenMode::CreateNew)?), shared: maker, id });
        let made = shared.workers.blocking(make).await;
        let file = Arc::from(made.and_then(NewFile::take).map_err(|error| SpoolError::io("can't make", &path, &error))?);
        let (packer, piece) = (shared.packer.clone(), Vec::new());
        let mut large = Self { file, path, packer, form: None, piece, octets: 0, written: 0, synced: 0, hasher: Hasher::new() };
        let whole = HEADER_SIZE + (draft.len() - HEADER_SIZE) / PIECE * PIECE;
        let draft = large.add(shared.workers, draft, HEADER_SIZE..whole).await?;
        large.piece = Vec::with_capacity(PIECE);
        large.piece.extend_from_slice(&draft[whole..]);
        drop(draft);
        large.write(shared.workers, more).await
    }

    async fn write(mut self, workers: Workers, mut bytes: &[u8]) -> Result<Self, SpoolError> {
        while self.piece.len() + bytes.len() >= PIECE {
            let (now, later) = bytes.split_at(PIECE - self.piece.len());
            self.piece.extend_from_slice(now);
            bytes = later;
            let piece = std::mem::take(&mut self.piece);
            self.piece = self.add(workers, piece, 0..PIECE).await?;
            self.piece.clear();
        }
        self.piece.extend_from_slice(bytes);
        Ok(self)
    }

    /// Stores a part of a buffer, piece by piece: what compression makes of one is gone before the next. Gives the buffer back.
    async fn add(&mut self, workers: Workers, buffer: Vec<u8>, part: Range<usize>) -> Result<Vec<u8>, SpoolError> {
        let (file, packer, mut end) = (self.file.clone(), self.packer.clone(), self.written);
        let (mut form, mut hasher, mut synced) = (self.form, self.hasher.clone(), self.synced);
        self.octets += part.len() as u64;
        let write = move || {
            for piece in buffer[part].chunks(PIECE) {
                let packed = packer.piece(piece, &mut form)?;
                let stored = packed.as_deref().unwrap_or(piece);
                hasher.update(stored);
                file.write_at(end, stored)?;
                end += stored.len() as u64;
                if end - synced >= SYNC_SIZE {
                    file.sync_data()?;
                    synced = end;
                }
            }
            Ok((buffer, form, hasher, end, synced))
        };
        let written = workers.blocking(write).await;
        let failed = |error| SpoolError::io("can't write", &self.path, &error);
        let (buffer, form, hasher, end, synced) = written.map_err(failed)?;
        (self.form, self.hasher, self.written, self.synced) = (form, hasher, end, synced);
        Ok(buffer)
    }

    async fn finish(mut self, shared: &Shared) -> Result<ContentFile, SpoolError> {
        let piece = std::mem::take(&mut self.piece);
        let whole = 0..piece.len();
        self.add(shared.workers, piece, whole).await?;
        let (file, disk, folder) = (self.file.clone(), shared.disk.clone(), shared.layout.content.clone());
        let synced = shared.workers.blocking(move || file.sync_data().and_then(|()| disk.sync_dir(&folder))).await;
        synced.map_err(|error| SpoolError::io("can't sync", &self.path, &error))?;
        let compressed = (self.form == Some(Form::Chunks)).then_some(self.written);
        Ok(ContentFile { crc: self.hasher.finalize(), compressed })
    }
}

/// Content in a file of its own.
struct FileContent {
    file: Arc<dyn DiskFile>,
    size: u64,
    crc: u32,
    turns: Turns,
    /// Up to where the content was read without a gap, and the checksum so far.
    read: Mutex<(u64, Hasher)>,
}

impl Content for FileContent {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        Box::pin(async move {
            let want = self.size.saturating_sub(offset).min(size_max as u64) as usize;
            let file = self.file.clone();
            let piece = self.turns.blocking(move || read_piece(&*file, offset, want)).await?;
            self.check(offset, &piece)?;
            Ok(piece)
        })
    }
}

fn read_piece(file: &dyn DiskFile, offset: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; want];
    match read_full(file, offset, &mut piece)? {
        filled if filled == want => Ok(piece),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content file is shorter than its message")),
    }
}

impl FileContent {
    /// Whoever reads from the first octet to the last learns with the last piece whether all are what they were.
    fn check(&self, offset: u64, piece: &[u8]) -> io::Result<()> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == 0 {
            *read = (0, Hasher::new());
        }
        if read.0 != offset {
            return Ok(());
        }
        read.1.update(piece);
        read.0 += piece.len() as u64;
        if read.0 == self.size && read.1.clone().finalize() != self.crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the content file is damaged"));
        }
        Ok(())
    }
}

/// Where a message's content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    id: QueueId,
    size: u64,
    place: Place,
    file: Option<ContentFile>,
    /// The record that has it, in a segment that was set aside.
    aside: Option<Place>,
}

impl Located {
    /// Looks in the segments that can't be read, too, if it is nowhere else.
    pub(crate) fn new(stored: &Stored, unreadable: &Unreadable) -> Self {
        let (id, size) = (stored.message.id, stored.message.size);
        let aside = stored.file.filter(|file| *file == ContentFile::LOST).and_then(|_| unreadable.of(id));
        Self { id, size, place: stored.place, file: stored.file, aside }
    }

    /// Where its record lies, if it has the content and belongs to the log.
    pub(crate) fn in_log(&self) -> Option<Place> {
        self.file.is_none().then_some(self.place)
    }

    /// Where the content lies in a segment that was set aside.
    pub(crate) fn aside(&self) -> Option<Place> {
        self.aside
    }
}

/// Whether a message's content is checked only by reading it: it doesn't lie in its record under the record's checksum.
pub(crate) fn is_apart(stored: &Stored) -> bool {
    stored.file.is_some()
}

/// Opens a message's content. None: it doesn't lie there any more, look again where it does.
pub(crate) fn open(
    disk: &dyn Disk,
    layout: &Layout,
    identity: u64,
    located: Located,
    turns: &Turns,
) -> Result<Option<Arc<dyn Content>>, SpoolError> {
    let Located { id, size, place, file, aside } = located;
    match file.filter(|_| aside.is_none()) {
        Some(ContentFile { crc, compressed }) => {
            let path = layout.content_file(id);
            match disk.open(&path, OpenMode::Read) {
                Ok(file) => Ok(Some(match compressed {
                    Some(length) => Arc::new(Packed::new(Source::File(Arc::from(file), crc), length, size, turns.clone())),
                    None => {
                        let read = Mutex::new((0, Hasher::new()));
                        Arc::new(FileContent { file: Arc::from(file), size, crc, turns: turns.clone(), read })
                    }
                })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(SpoolError::io("can't read", &path, &error)),
            }
        }
        None => {
            let path = aside.map_or_else(|| layout.segment(place.segment), |place| layout.unreadable_segment(place.segment));
            let read = read_record(disk, &path, identity, id, aside.unwrap_or(place))?;
            Ok(read.map(|(header, mut record)| -> Arc<dyn Content> {
                // The record's buffer becomes the content.
                record.truncate(record::content_range(&header).end);
                record.drain(..HEADER_SIZE);
                match header.form() {
                    Form::Plain => Arc::new(record),
                    Form::Chunks => {
                        let length = record.len() as u64;
                        // What lies in memory is expanded where it is read: that is short work.
                        Arc::new(Packed::new(Source::Memory(record), length, size, Turns::inline()))
                    }
                }
            }))
        }
    }
}

/// The header and bytes of an Accept record in a segment, checked. None: the segment was released.
pub(crate) fn read_record(
    disk: &dyn Disk,
    path: &Path,
    identity: u64,
    id: QueueId,
    place: Place,
) -> Result<Option<(Header, Vec<u8>)>, SpoolError> {
    let file = open_segment(disk, path)?;
    file.map(|file| read_record_in(&*file, path, identity, id, place)).transpose()
}

/// A segment, to read from it. None: it was released.
pub(crate) fn open_segment(disk: &dyn Disk, path: &Path) -> Result<Option<Box<dyn DiskFile>>, SpoolError> {
    match disk.open(path, OpenMode::Read) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SpoolError::io("can't read", path, &error)),
    }
}

/// The header and bytes of an Accept record in a segment that is open at `path`, checked.
pub(crate) fn read_record_in(
    file: &dyn DiskFile,
    path: &Path,
    identity: u64,
    id: QueueId,
    place: Place,
) -> Result<(Header, Vec<u8>), SpoolError> {
    for _ in 0..READS {
        let mut bytes = vec![0; place.length as usize];
        let filled = read_full(file, place.offset, &mut bytes).map_err(|error| SpoolError::io("can't read", path, &error))?;
        let header = Header::parse(identity, &bytes[..filled]).filter(|header| header.id == id && header.size() == filled);
        if let Some(header) = header.filter(|header| record::check_payload(header, &bytes).is_ok()) {
            return Ok((header, bytes));
        }
    }
    Err(SpoolError::Damaged(id))
}
