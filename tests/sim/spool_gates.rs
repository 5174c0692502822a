//! Gates in front of every call of the disk and of the index: at some of them a thread stands still while the others go on, so that they meet
//! in ways that they seldom would.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use posthouse::system::sim::{SimDisk, SimRandom};
use posthouse::system::{Disk, DiskFile, DiskLock, DiskSyncer, OpenMode};

/// Nobody stands still for longer, should all the others wait for him,
const LONGEST: Duration = Duration::from_millis(4);
/// but some for so long.
const VERY_LONG: Duration = Duration::from_millis(40);

/// The gates of a story.
pub(crate) struct Gates {
    random: Mutex<SimRandom>,
    /// Calls so far.
    calls: Mutex<u64>,
    called: Condvar,
}

impl Gates {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { random: Mutex::new(SimRandom::new(seed)), calls: Mutex::default(), called: Condvar::new() })
    }

    /// A call begins: one in six waits until others have made some more, now and then many.
    pub(crate) fn pass(&self) {
        let (stays, longest) = {
            let mut random = self.random.lock().unwrap();
            match random.below(120) {
                0 => (50 + random.below(200), VERY_LONG),
                1..20 => (1 + random.below(20), LONGEST),
                _ => (0, Duration::ZERO),
            }
        };
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        let until = *calls + stays;
        self.called.notify_all();
        if stays > 0 {
            drop(self.called.wait_timeout_while(calls, longest, |calls| *calls < until).unwrap());
        }
    }
}

/// A disk behind gates.
pub(crate) struct GatedDisk {
    pub(crate) disk: SimDisk,
    pub(crate) gates: Arc<Gates>,
}

struct GatedFile {
    file: Box<dyn DiskFile>,
    gates: Arc<Gates>,
}

impl DiskFile for GatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.gates.pass();
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.gates.pass();
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gates.pass();
        let synced = self.file.sync_data();
        // Durable, and nobody knows it yet.
        self.gates.pass();
        synced
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.gates.pass();
        self.file.allocate(length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.gates.pass();
        self.file.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.gates.pass();
        let file = self.disk.open(path, mode)?;
        Ok(Box::new(GatedFile { file, gates: self.gates.clone() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.gates.pass();
        self.disk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.gates.pass();
        self.disk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.gates.pass();
        self.disk.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.gates.pass();
        self.disk.unlink(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.gates.pass();
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
