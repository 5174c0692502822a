//! The format of the spool on disk: what older versions wrote is read as it was meant, newer ones are refused, and compressed
//! content comes out octet for octet.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posthouse::config::{self, Compression};
use posthouse::mail::{
    Address, BodyType, DsnRequest, Message, Notify, QueueId, Recipient, RecipientStatus, Request, ReversePath, Timestamp, Update,
};
use posthouse::spool::index::MemoryIndexFactory;
use posthouse::spool::record::{self, Body, ContentAt, HEADER_SIZE, MAGIC};
use posthouse::spool::{
    Accept, Change, Filter, Form, Note, Options, SegmentHeader, Spool, SpoolError, StoppedSpool, read_stopped,
};
use posthouse::system::{Content, Disk, System};
use tempfile::TempDir;

/// The older versions that are read.
const OLD: std::ops::Range<u16> = record::VERSION_OLDEST as u16..record::VERSION as u16;

/// Written in an older version of the format; what is in it, its README tells.
fn golden(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/spool-v{version}"))
}

/// A copy of its log and content that may be changed.
fn copy(version: u16) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["log", "content"] {
        fs::create_dir(folder.path().join(part)).unwrap();
        for (name, bytes) in files(&golden(version).join(part)) {
            fs::write(folder.path().join(part).join(name), bytes).unwrap();
        }
    }
    folder
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    loop {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let read = entries.map(|entry| Ok((entry.file_name().into_string().unwrap(), fs::read(entry.path())?)));
        match read.collect::<io::Result<_>>() {
            Ok(files) => return files,
            // A running spool renames and removes files: another look finds where what was in them is now.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }
}

fn system() -> System {
    System::real(&["127.0.0.1:53".parse().unwrap()], Duration::from_secs(1)).unwrap()
}

fn options(path: &Path, compression: Compression) -> Options {
    let config = config::Spool {
        path: path.to_owned(),
        min_free: 0,
        segment_size: 8192,
        zeros_ahead: true,
        spares: 4,
        compaction_rate: 1 << 20,
        index_cache: 1 << 20,
        compression,
    };
    Options { inline_max: 1000, ..Options::new(&config) }
}

async fn open(options: Options) -> Result<Spool, SpoolError> {
    Spool::open(options, &system(), Box::new(MemoryIndexFactory::default())).await.map(|(spool, _)| spool)
}

fn stopped(path: &Path) -> Result<StoppedSpool, SpoolError> {
    let disk: Arc<dyn Disk> = system().disk;
    read_stopped(path, &disk)
}

/// Everything that the spool says of a message: one line for it and one a recipient.
fn describe(message: &Message) -> String {
    let mut text = String::new();
    let m = message;
    let (id, arrived, path) = (m.id, m.arrived.as_millis(), &m.reverse_path);
    writeln!(text, "{id} {arrived} <{path}> size {} {:?} held {} noticed {}", m.size, m.body, m.held, m.delays_noticed).unwrap();
    for recipient in &m.recipients {
        let RecipientStatus { state, attempts, next_attempt, last_status, last_cause, last_reply, next_hop } = &recipient.status;
        let next = next_attempt.as_millis();
        let original = recipient.original.as_ref().map_or("-".to_owned(), ToString::to_string);
        let status = last_status.map_or("-".to_owned(), |status| status.to_string());
        let cause = last_cause.map_or("-".to_owned(), |cause| format!("{cause:?}"));
        let to = &recipient.address;
        writeln!(text, "  <{to}> from {original}: {state:?} {attempts} {next} {status} {cause} {last_reply:?} {next_hop:?}")
            .unwrap();
    }
    text
}

/// All of it, in pieces of a size that fits no chunk.
async fn read(content: &dyn Content) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let piece = content.read_at(whole.len() as u64, 50_001).await.unwrap();
        if piece.is_empty() {
            assert_eq!(whole.len() as u64, content.size());
            return whole;
        }
        whole.extend(piece);
    }
}

/// What is in a stopped spool is what was in the golden one of this version.
async fn assert_golden(version: u16, path: &Path) -> StoppedSpool {
    let spool = stopped(path).unwrap();
    let messages = spool.list(&Filter::default());
    let found: String = messages.iter().map(describe).collect();
    assert_eq!(found, fs::read_to_string(golden(version).join("list.txt")).unwrap());
    let contents = files(&golden(version).join("messages"));
    assert_eq!(contents.len(), messages.len());
    for message in messages {
        let content = read(&*spool.content(message.id).unwrap()).await;
        assert!(content == contents[&format!("{}.eml", message.id)], "{}", message.id);
    }
    spool
}

/// The format version in a segment's header.
fn version(segment: &[u8]) -> u16 {
    u16::from_le_bytes(segment[8..10].try_into().unwrap())
}

#[tokio::test]
async fn a_spool_of_an_older_version_says_what_it_said() {
    for version in OLD {
        let spool = assert_golden(version, &golden(version)).await;
        assert_eq!(spool.notes(), [], "version {version}");
    }
}

#[tokio::test]
async fn a_spool_of_an_older_version_goes_on_in_the_present_one() {
    for version in OLD {
        goes_on(version).await;
    }
}

async fn goes_on(old_version: u16) {
    let folder = copy(old_version);
    let old = files(&folder.path().join("log"));
    assert!(old.values().all(|segment| version(segment) == old_version));
    for round in 0..3 {
        open(options(folder.path(), Compression::Zstd)).await.unwrap().close().await.unwrap();
        let log = files(&folder.path().join("log"));
        for (name, segment) in &log {
            let expected = if old.contains_key(name) { old_version } else { record::VERSION.into() };
            assert_eq!(version(segment), expected, "{name}");
            // The records at its head, copied from the last batch, are of its version too.
            let first = &segment[4096..];
            assert!(first.is_empty() || first[0] == 0 || (first[..4] == MAGIC && u16::from(first[4]) == expected), "{name}");
        }
        assert!(log.keys().any(|name| !old.contains_key(name)));
        let spool = assert_golden(old_version, folder.path()).await;
        assert_eq!(spool.notes(), [], "round {round}");
    }
}

#[tokio::test]
async fn a_torn_tail_of_version_1_is_cut_as_ever() {
    let folder = copy(1);
    let last = folder.path().join("log/00000005.seg");
    let mut segment = fs::read(&last).unwrap();
    segment.extend_from_slice(&MAGIC);
    segment.extend_from_slice(&[1; 50]);
    fs::write(&last, segment).unwrap();
    let spool = assert_golden(1, folder.path()).await;
    assert_eq!(spool.notes(), [Note::TailCut { segment: 5, offset: 4232, bytes: 54 }]);
}

/// Gives both copies of a segment's header another version, and the checksum that belongs to it.
fn set_version(segment: &mut [u8], version: u16) {
    for at in [0, 2048] {
        segment[at + 8..at + 10].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&segment[at..at + 68]);
        segment[at + 68..at + 72].copy_from_slice(&crc.to_le_bytes());
    }
}

#[tokio::test]
async fn a_version_that_is_not_known_is_refused_and_nothing_is_changed() {
    for (unknown, which) in [(record::VERSION + 1, "a newer"), (record::VERSION_OLDEST - 1, "an older")] {
        let folder = copy(1);
        let segment = folder.path().join("log/00000002.seg");
        let mut bytes = fs::read(&segment).unwrap();
        set_version(&mut bytes, unknown.into());
        fs::write(&segment, bytes).unwrap();
        let before = files(&folder.path().join("log"));
        let said = format!("{} has format version {unknown}: use {which} posthouse", segment.display());
        assert_eq!(stopped(folder.path()).err(), Some(SpoolError::Unusable(said.clone())));
        assert_eq!(open(options(folder.path(), Compression::None)).await.err(), Some(SpoolError::Unusable(said)));
        assert!(before == files(&folder.path().join("log")));
    }
}

/// Octets that zstd can do nothing with.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn text(size: usize) -> Vec<u8> {
    b"To whom it may concern: the quick brown fox jumps over the lazy dog.\r\n".iter().copied().cycle().take(size).collect()
}

async fn accept(spool: &Spool, content: &[u8], piece: usize) -> QueueId {
    let mut draft = spool.begin().unwrap();
    for piece in content.chunks(piece) {
        draft.write(piece).await.unwrap();
    }
    assert_eq!(draft.size(), content.len() as u64);
    let now = Timestamp::from_millis(1_800_000_000_000);
    let to = Recipient::new(Address::parse("ann@example.test").unwrap(), None, now);
    let body = BodyType::EightBitMime;
    let accept = Accept {
        arrived: now,
        reverse_path: ReversePath::Null,
        body,
        request: None,
        recipients: vec![to],
        updates: Vec::new(),
        origin: None,
    };
    draft.commit(accept).await.unwrap().id
}

const CHUNK: usize = 64 * 1024;

/// Contents of every kind and of sizes around every border: they come out as they went in, from a running spool, from a stopped
/// one, and after their segments were released.
#[tokio::test]
async fn compressed_content_comes_out_octet_for_octet() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { inline_max: Options::INLINE_MAX, ..options(folder.path(), Compression::Zstd) };
    let spool = open(options.clone()).await.unwrap();
    let mut contents = BTreeMap::new();
    for border in [0, 256, CHUNK, 2 * CHUNK, Options::INLINE_MAX, 5 * CHUNK] {
        for size in [border.saturating_sub(1), border, border + 1] {
            let half = size / 2;
            let kinds =
                [text(size), noise(size), [text(half), noise(size - half)].concat(), [noise(half), text(size - half)].concat()];
            for content in kinds {
                let id = accept(&spool, &content, 30_000).await;
                assert!(read(&*spool.content(id).await.unwrap()).await == content, "{size}");
                contents.insert(id, content);
            }
        }
    }
    for id in contents.keys() {
        spool.park(*id, Timestamp::NEVER);
    }
    spool.close().await.unwrap();
    // The setting is for new mail only.
    let spool = open(Options { compression: Compression::None, ..options }).await.unwrap();
    let plain = accept(&spool, &text(300_000), 300_000).await;
    spool.park(plain, Timestamp::NEVER);
    contents.insert(plain, text(300_000));
    assert_eq!(fs::metadata(folder.path().join(format!("content/{plain}"))).unwrap().len(), 300_000);
    spool.close().await.unwrap();
    let spool = stopped(folder.path()).unwrap();
    assert_eq!(spool.notes(), []);
    for (id, content) in &contents {
        let stored = spool.content(*id).unwrap();
        assert!(read(&*stored).await == *content, "{id}");
        // Anywhere, backwards and beyond the end.
        for offset in (0..content.len() + CHUNK).step_by(40_000).rev() {
            let end = content.len().min(offset + 70_000);
            let expected = content.get(offset..end).unwrap_or(&[]);
            assert!(stored.read_at(offset as u64, 70_000).await.unwrap() == expected, "{id} at {offset}");
        }
    }
}

/// The Accept records of a log, in its order.
fn accepts(folder: &Path) -> Vec<(Message, ContentAt)> {
    let mut found = Vec::new();
    for (_, segment) in files(&folder.join("log")).iter().filter(|(name, _)| name.ends_with(".seg")) {
        let identity = SegmentHeader::parse(segment).unwrap().identity;
        let mut rest = &segment[4096..];
        while let Ok((record, length)) = record::parse(identity, rest) {
            if let Body::Accept { message, content, .. } = record.body {
                found.push((message, content));
            }
            rest = &rest[length..];
        }
    }
    found
}

#[tokio::test]
async fn what_would_save_little_is_stored_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { inline_max: Options::INLINE_MAX, segment_size: 1 << 20, ..options(folder.path(), Compression::Zstd) };
    let spool = open(options).await.unwrap();
    let tiny = accept(&spool, &text(200), 200).await;
    let small = accept(&spool, &text(4096), 4096).await;
    let noisy = accept(&spool, &noise(200_000), 4096).await;
    let file = accept(&spool, &text(1_000_000), 4096).await;
    let noisy_file = accept(&spool, &noise(1_000_000), 4096).await;
    let mixed = accept(&spool, &[text(CHUNK), noise(CHUNK), text(CHUNK)].concat(), 4096).await;
    let forms: BTreeMap<QueueId, (Form, usize)> = accepts(folder.path())
        .into_iter()
        .map(|(message, content)| {
            let stored = match content {
                ContentAt::Inline(stored, form) => (form, stored.len()),
                ContentAt::File(file) => {
                    let bytes = fs::read(folder.path().join(format!("content/{}", message.id))).unwrap();
                    assert_eq!((bytes.len() as u64, crc32fast::hash(&bytes)), (file.length(message.size), file.crc));
                    (if file.compressed.is_some() { Form::Chunks } else { Form::Plain }, bytes.len())
                }
            };
            (message.id, stored)
        })
        .collect();
    assert_eq!(forms[&tiny], (Form::Plain, 200));
    assert_eq!(forms[&noisy], (Form::Plain, 200_000));
    assert_eq!(forms[&noisy_file], (Form::Plain, 1_000_000));
    for (id, least, most) in [(small, 50, 400), (file, 1000, 20_000), (mixed, CHUNK + 4, CHUNK + 1000)] {
        assert!(forms[&id].0 == Form::Chunks && (least..most).contains(&forms[&id].1), "{:?}", forms[&id]);
    }
    spool.close().await.unwrap();
}

/// What lives in a segment that is released is copied as it is stored, whatever the setting says by then.
#[tokio::test]
async fn what_is_released_stays_as_it_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(options(folder.path(), Compression::Zstd)).await.unwrap();
    let contents = [text(900), text(200_000), noise(900), noise(2000)];
    let mut ids = Vec::new();
    for content in &contents {
        ids.push(accept(&spool, content, 30_000).await);
        spool.park(ids[ids.len() - 1], Timestamp::NEVER);
    }
    let stored = |id: &QueueId| {
        let found = accepts(folder.path()).into_iter().filter(|(message, _)| message.id == *id).map(|(_, content)| content);
        found.collect::<Vec<_>>().pop().unwrap()
    };
    let before: Vec<ContentAt> = ids.iter().map(stored).collect();
    spool.close().await.unwrap();
    let system = system();
    let index = Box::new(MemoryIndexFactory::default());
    let (spool, recovery) = Spool::open(options(folder.path(), Compression::None), &system, index).await.unwrap();
    let odd: Vec<_> = recovery.notes.iter().filter(|note| !matches!(note, Note::IndexRebuilt { .. })).collect();
    assert!(odd.is_empty(), "{odd:?}");
    let released = async {
        while folder.path().join("log/00000001.seg").exists() || folder.path().join("log/00000002.seg").exists() {
            let id = accept(&spool, &noise(900), 900).await;
            spool.done(id);
            spool.flush().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), released).await.expect("the first segments go");
    assert_eq!(ids.iter().map(stored).collect::<Vec<_>>(), before);
    for (id, content) in ids.iter().zip(&contents) {
        assert!(read(&*spool.content(*id).await.unwrap()).await == *content);
    }
    spool.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_of_chunks_gives_an_error_and_never_more_than_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(options(folder.path(), Compression::Zstd)).await.unwrap();
    let content = [text(CHUNK), noise(CHUNK), text(1000)].concat();
    let id = accept(&spool, &content, 9000).await;
    let path = folder.path().join(format!("content/{id}"));
    let sound = fs::read(&path).unwrap();
    assert!(sound.len() < content.len());
    for at in (0..sound.len()).step_by(997).chain(0..8).chain(sound.len() - 20..sound.len()) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x20;
        fs::write(&path, bytes).unwrap();
        let stored = spool.content(id).await.unwrap();
        let mut got = Vec::new();
        let failed = loop {
            match stored.read_at(got.len() as u64, 10_000).await {
                Ok(piece) if piece.is_empty() => break false,
                Ok(piece) => got.extend(piece),
                Err(_) => break true,
            }
        };
        assert!(failed && got.len() < content.len(), "byte {at}");
    }
    for cut in [0, 3, 4, 100, sound.len() - 1] {
        fs::write(&path, &sound[..cut]).unwrap();
        let stored = spool.content(id).await.unwrap();
        assert!(stored.read_at(content.len() as u64 - 1, 1).await.is_err(), "cut to {cut}");
    }
    fs::write(&path, &sound).unwrap();
    assert!(read(&*spool.content(id).await.unwrap()).await == content);
    spool.close().await.unwrap();
}

/// A record that claims to give very much is refused before anything is expanded.
#[test]
fn a_record_whose_chunks_give_another_size_is_malformed() {
    let message = |size| Message {
        id: QueueId(1),
        arrived: Timestamp::ZERO,
        size,
        reverse_path: ReversePath::Null,
        body: BodyType::SevenBit,
        request: None,
        held: false,
        delays_noticed: 0,
        origin: None,
        recipients: Vec::new(),
    };
    let parse = |size, stored: &[u8]| {
        let content = ContentAt::Inline(stored.to_vec(), Form::Chunks);
        let body = Body::Accept { message: message(size), content, changes: Vec::new() };
        let bytes = record::encode(7, &record::Record { sequence: 1, batch: true, id: QueueId(1), body });
        (record::parse(7, &bytes).is_ok(), bytes)
    };
    let plain = [&3u32.to_le_bytes()[..], b"abc"].concat();
    let packed = [&(2u32 | 1 << 31).to_le_bytes()[..], b"xx"].concat();
    assert!(parse(3, &plain).0 && parse(3, &packed).0 && parse(0, b"").0 && parse(60_000, &packed).0);
    for (size, stored) in [(4, &plain), (2, &plain), (0, &plain), (2, &packed), (CHUNK as u64 + 1, &packed), (u64::MAX, &packed)]
    {
        assert!(!parse(size, stored).0, "{size}");
    }
    // The flag is new in version 2.
    let (_, mut bytes) = parse(3, &packed);
    for version in 0..5 {
        bytes[4] = version;
        let crc = crc32fast::hash(&[&7u64.to_le_bytes(), &bytes[..36]].concat());
        bytes[36..HEADER_SIZE].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(record::parse(7, &bytes).is_ok(), matches!(version, 2 | 3), "version {version}");
    }
}

/// What senders ask for is new in version 3.
#[test]
fn a_record_of_an_older_version_asks_for_nothing() {
    let to = || Recipient::new(Address::parse("ann@example.test").unwrap(), None, Timestamp::ZERO);
    let message = |body, request: Request, dsn: DsnRequest| Message {
        id: QueueId(1),
        arrived: Timestamp::ZERO,
        size: 0,
        reverse_path: ReversePath::Null,
        body,
        request: request.boxed(),
        held: false,
        delays_noticed: 0,
        origin: None,
        recipients: vec![Recipient { dsn: dsn.boxed(), ..to() }],
    };
    let (nothing, never) = (DsnRequest::default(), DsnRequest { notify: Some(Notify::NEVER), orcpt: None });
    let plain = message(BodyType::EightBitMime, Request::default(), nothing.clone());
    let accept = |message| Body::Accept { message, content: ContentAt::Inline(Vec::new(), Form::Plain), changes: Vec::new() };
    let told = Update { deadline_told: true, ..Update::new(QueueId(1)) };
    for (body, old) in [
        (accept(plain), true),
        (accept(message(BodyType::BinaryMime, Request::default(), nothing.clone())), false),
        (accept(message(BodyType::SevenBit, Request { smtputf8: true, ..Request::default() }, nothing)), false),
        (accept(message(BodyType::SevenBit, Request::default(), never)), false),
        (Body::State(Change { update: Update::new(QueueId(1)), base: 1 }), true),
        (Body::State(Change { update: told, base: 1 }), false),
    ] {
        let mut bytes = record::encode(7, &record::Record { sequence: 1, batch: true, id: QueueId(1), body });
        for version in record::VERSION_OLDEST..=record::VERSION {
            bytes[4] = version;
            let crc = crc32fast::hash(&[&7u64.to_le_bytes(), &bytes[..36]].concat());
            bytes[36..HEADER_SIZE].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(record::parse(7, &bytes).is_ok(), old || version == 3, "version {version}");
        }
    }
}
