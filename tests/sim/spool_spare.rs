//! Blocks that are written before they are used: a reader that has a segment open while it is recycled and written anew, and zeros while the
//! log is idle.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use posthouse::mail::{Address, BodyType, Message, Recipient, ReversePath, Timestamp};
use posthouse::spool::index::MemoryIndexFactory;
use posthouse::spool::{Accept, Options, Spool};
use posthouse::system::sim::{OperationKind, SimDisk};
use posthouse::system::{Disk, DiskFile, DiskLock, DiskSyncer, OpenMode, Workers};

use crate::spool_world::{START, options, run, simulated, system};

/// A disk on which the next reading of a segment's first record can be held up.
struct Slow {
    disk: SimDisk,
    armed: Arc<AtomicBool>,
    reached: Mutex<mpsc::Sender<()>>,
    go_on: Arc<Mutex<mpsc::Receiver<()>>>,
    /// Spares that were segments and became segments again.
    reused: AtomicU64,
    retired: Mutex<Vec<PathBuf>>,
}

/// Who is told that a reading begins, and who lets it go on.
type Held = (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>);

struct SlowFile {
    file: Box<dyn DiskFile>,
    /// At its first reading.
    held: Mutex<Option<Held>>,
}

impl DiskFile for SlowFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some((reached, go_on)) = self.held.lock().unwrap().take() {
            let _ = reached.send(());
            let _ = go_on.lock().unwrap().recv();
        }
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl Disk for Slow {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        let held = is_segment && mode == OpenMode::Read && self.armed.swap(false, Ordering::SeqCst);
        let held = held.then(|| (self.reached.lock().unwrap().clone(), self.go_on.clone()));
        Ok(Box::new(SlowFile { file, held: Mutex::new(held) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut retired = self.retired.lock().unwrap();
        if to.extension().is_some_and(|extension| extension == "spare") {
            retired.push(to.to_owned());
        } else if retired.iter().any(|spare| spare == from) {
            self.reused.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn syncer(&self, path: &Path) -> io::Result<Box<dyn DiskSyncer>> {
        self.disk.syncer(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.disk.exists(path)
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        self.disk.available(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}

async fn accept(spool: &Spool, content: &[u8]) -> Arc<Message> {
    let mut draft = spool.begin().unwrap();
    draft.write(content).await.unwrap();
    let to = Recipient::new(Address::parse("ann@example.test").unwrap(), None, START);
    let reverse_path = ReversePath::Null;
    let body = BodyType::SevenBit;
    let accept =
        Accept { arrived: START, reverse_path, body, request: None, recipients: vec![to], updates: Vec::new(), origin: None };
    draft.commit(accept).await.unwrap()
}

#[test]
fn whoever_reads_a_segment_while_it_is_written_anew_finds_the_message_where_it_lies_now() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (reached, was_reached) = mpsc::channel();
        let (let_go, go_on) = mpsc::channel();
        let disk = Arc::new(Slow {
            disk: SimDisk::new(),
            armed: Arc::default(),
            reached: Mutex::new(reached),
            go_on: Arc::new(Mutex::new(go_on)),
            reused: AtomicU64::new(0),
            retired: Mutex::default(),
        });
        let system = system(disk.clone(), 1, Workers::Threads);
        let options = Options { segment_size: 24 * 1024, spares: 1, ..options("/spool") };
        let (spool, _) = Spool::open(options, &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        let kept = accept(&spool, b"to be kept").await;
        // What waits is read from the log.
        spool.park(kept.id, Timestamp::NEVER);
        spool.flush().await.unwrap();
        disk.armed.store(true, Ordering::SeqCst);
        let reader = tokio::spawn({
            let (spool, id) = (spool.clone(), kept.id);
            async move { spool.content(id).await }
        });
        was_reached.recv().unwrap();
        // Meanwhile its segment goes, and comes again with other records.
        let before = disk.reused.load(Ordering::SeqCst);
        while disk.reused.load(Ordering::SeqCst) < before + 2 {
            let other = accept(&spool, &[b'x'; 1500]).await;
            spool.done(other.id);
            spool.flush().await.unwrap();
        }
        let_go.send(()).unwrap();
        let content = reader.await.unwrap().unwrap();
        assert_eq!(content.read_at(0, 100).await.unwrap(), b"to be kept");
        spool.close().await.unwrap();
    });
}

/// Bytes of zeros written in segments, and of other things, as the disk sees them.
#[derive(Default)]
struct Written {
    zeros: u64,
    records: u64,
}

#[test]
fn an_idle_log_is_written_with_zeros_and_then_takes_mail_without_any() {
    run(async {
        let disk = SimDisk::new();
        let options = Options { segment_size: 256 << 10, zeros_ahead: 16 << 10, ..options("/spool") };
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(MemoryIndexFactory::default())).await.unwrap();
        let written = Arc::new(Mutex::new(Written::default()));
        let seen = written.clone();
        disk.watch(move |operation| {
            if operation.kind == OperationKind::Write && operation.path.starts_with("/spool/log") {
                let mut seen = seen.lock().unwrap();
                let zeros = operation.bytes.iter().all(|octet| *octet == 0);
                *if zeros { &mut seen.zeros } else { &mut seen.records } += operation.bytes.len() as u64;
            }
        });
        // Nothing lives: the bound leaves room for the whole of the open segment.
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert_eq!(written.lock().unwrap().zeros, 0, "so soon");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let filled = written.lock().unwrap().zeros;
        assert!((240 << 10..256 << 10).contains(&filled), "{filled}");
        for _ in 0..100 {
            accept(&spool, &[b'x'; 1500]).await;
        }
        let written = std::mem::take(&mut *written.lock().unwrap());
        assert_eq!(written.zeros, filled);
        assert!(written.records > 150_000 && written.records < 180_000, "{}", written.records);
        spool.close().await.unwrap();
    });
}
