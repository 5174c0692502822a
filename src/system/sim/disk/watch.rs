//! Watching a simulated disk: every operation is told to whoever asked, with the disk as a power cut at it would find it.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{SimDisk, World};

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Bytes are written.
    Write,
    /// A file is synced.
    Sync,
    /// Space is reserved up to `offset`.
    Allocate,
    /// A file is cut or extended to `offset`.
    Length,
    /// A name is given to a file, new or linked.
    Create,
    /// A file gets another name, this one.
    Rename,
    /// A name goes.
    Unlink,
    /// A folder is made.
    CreateFolder,
    /// A folder is synced.
    SyncFolder,
}

/// One operation that changes something or syncs it: told when it has been done, syncs just before.
pub struct Operation<'a> {
    /// How many there were before it on this disk.
    pub number: u64,
    /// What it is.
    pub kind: OperationKind,
    /// The file or folder, as it was opened or named.
    pub path: &'a Path,
    /// Where bytes are written, or the length.
    pub offset: u64,
    /// What is written.
    pub bytes: &'a [u8],
    /// How it fails, if it does.
    pub failed: Option<io::ErrorKind>,
    pub(super) world: &'a World,
}

impl Operation<'_> {
    /// A copy of the disk with what is certain and what isn't, as a power cut at this operation finds it. Without faults.
    pub fn disk(&self) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(self.world.snapshot())))
    }

    /// Bytes in use, as `SimDisk::used`.
    pub fn used(&self) -> u64 {
        self.world.used()
    }
}

/// Who is told.
#[derive(Clone)]
pub(super) struct Watcher(Arc<dyn Fn(&Operation<'_>) + Send + Sync>);

impl Watcher {
    pub(super) fn call(&self, operation: &Operation<'_>) {
        (self.0)(operation);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

impl SimDisk {
    /// Tells every operation from now on; the watcher must not use this disk itself. Copies of the disk tell nobody.
    pub fn watch(&self, watcher: impl Fn(&Operation<'_>) + Send + Sync + 'static) {
        self.world().watcher = Some(Watcher(Arc::new(watcher)));
    }
}
