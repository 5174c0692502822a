//! Power cuts: what disk, index and story were at every operation of a story, and what the spool was doing there.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthouse::mail::QueueId;
use posthouse::spool::record::{HEADER_SIZE, MAGIC};
use posthouse::system::sim::{Operation, OperationKind, SimDisk};

use crate::spool_index::SimIndex;
use crate::spool_model::{Model, Standing};

/// Records begin here in a segment.
const RECORDS_AT: u64 = 4096;

/// What a crash can fall into. `NAMES` has the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Accept,
    Group,
    AcceptSync,
    Notice,
    Riders,
    RiderSync,
    Survivor,
    SurvivorSync,
    Compacting,
    SegmentBegun,
    SegmentHeader,
    SegmentUnlinked,
    ContentWrite,
    ContentSync,
    ContentUnlinked,
    Marked,
    IndexBehind,
    IndexWrite,
    AfterRebuild,
    Failed,
    FailedSync,
    AfterFailure,
    Full,
    Opening,
    Closing,
    Unsynced,
    Killed,
    LostIndex,
    SecondCrash,
    SecondInRebuild,
    FaultInRecovery,
    LaterLife,
    SpareRetired,
    SpareCut,
    SpareAdopted,
    SpareDropped,
    Compressed,
    Reserved,
}

/// Each with its words, in the order of `At`.
const NAMES: [&str; 38] = [
    "an Accept record being written",
    "a batch of several Accept records",
    "the sync of Accept records",
    "a notice with its change",
    "states and ends alone",
    "their sync",
    "a survivor being copied",
    "the sync of survivors",
    "a segment half copied",
    "a segment being made",
    "a segment's header or first batch",
    "a segment's unlink",
    "content being written to its file",
    "the sync of a content file or its folder",
    "a content file's unlink",
    "the first operation behind an index mark",
    "an index behind the log",
    "an operation on the index's own files",
    "after a rebuild of the index",
    "a failing operation",
    "a failing sync",
    "between a failure and the next success",
    "a full disk",
    "an opening of the spool",
    "a closing of the spool",
    "writes or names not yet synced",
    "a kill with the power on",
    "a crash that lost the whole index",
    "a second crash while recovering",
    "a second crash while rebuilding the index",
    "a failing disk while recovering",
    "a second or third life of a spool",
    "a segment becoming a spare",
    "a spare being cut to its length",
    "a spare becoming a segment",
    "a spare's removal",
    "a compressed record being written",
    "more room being reserved for a segment",
];

/// A set of `At`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places(u64);

impl Places {
    pub(crate) fn add(&mut self, at: At) {
        self.0 |= 1 << at as u64;
    }

    pub(crate) fn add_if(&mut self, so: bool, at: At) {
        self.0 |= u64::from(so) << at as u64;
    }

    fn words(self) -> String {
        let names = NAMES.iter().enumerate().filter(|(at, _)| self.0 & (1 << at) != 0);
        names.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }

    fn has(self, at: At) -> bool {
        self.0 & (1 << at as u64) != 0
    }
}

/// How many crashes fell where.
pub(crate) struct Coverage([u64; NAMES.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; NAMES.len()])
    }
}

impl Coverage {
    pub(crate) fn add(&mut self, places: Places) {
        for (at, count) in self.0.iter_mut().enumerate() {
            *count += (places.0 >> at) & 1;
        }
    }

    /// What no crash fell into.
    pub(crate) fn missed(&self) -> Vec<&'static str> {
        NAMES.iter().zip(self.0).filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect()
    }

    pub(crate) fn print(&self) {
        for (name, count) in NAMES.iter().zip(self.0) {
            println!("{count:>10}  {name}");
        }
    }
}

/// One operation of a story, as a power cut finds it.
pub(crate) struct Cut {
    /// Counted over all lives of the story.
    pub(crate) number: u64,
    pub(crate) disk: SimDisk,
    pub(crate) index: Arc<SimIndex>,
    pub(crate) model: Model,
    pub(crate) places: Places,
}

/// What the story and those who watch its disk share.
#[derive(Default)]
pub(crate) struct Scene {
    pub(crate) model: Model,
    pub(crate) opening: bool,
    pub(crate) closing: bool,
    pub(crate) rebuilt: bool,
    pub(crate) later_life: bool,
    /// What the spool said and should not have.
    pub(crate) odd: Vec<String>,
    pub(crate) cuts: Vec<Cut>,
    /// Which cuts are kept; none: all.
    pub(crate) only: Option<u64>,
    /// Whether what is done before that is printed.
    pub(crate) told: bool,
    operations: u64,
    /// What the log has written and not synced.
    unsynced: Places,
    /// A segment was made, and nothing written to it yet.
    begun: bool,
    compacting: bool,
    failed: bool,
    full: bool,
    marks: u64,
    copy: Option<(u64, Arc<SimIndex>)>,
}

#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<Mutex<Scene>>);

impl Stage {
    pub(crate) fn scene(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps every operation of a disk from now on.
    pub(crate) fn watch(&self, disk: &SimDisk, index: &SimIndex) {
        let (stage, index) = (self.clone(), index.clone());
        self.scene().marks = index.marks();
        self.scene().copy = None;
        disk.watch(move |operation| stage.scene().cut(operation, &index));
    }
}

impl Scene {
    fn cut(&mut self, operation: &Operation<'_>, index: &SimIndex) {
        let places = self.places(operation, index);
        let number = self.operations;
        self.operations += 1;
        if self.told && self.only.is_some_and(|only| number <= only) {
            let failed = operation.failed.map_or(String::new(), |error| format!(", which fails: {error}"));
            let Operation { kind, path, offset, bytes, .. } = operation;
            println!("{number:>6} {kind:?} {} at {offset}, {} bytes{failed}; {}", path.display(), bytes.len(), places.words());
        }
        if self.only.is_some_and(|only| only != number) {
            return;
        }
        let changes = index.changes();
        let copy = match &self.copy {
            // Not where it is changed at the same time by another thread.
            Some((at, copy)) if *at == changes && index.gates().is_none() => copy.clone(),
            _ => Arc::new(index.copy()),
        };
        self.copy = Some((changes, copy.clone()));
        self.cuts.push(Cut { number, disk: operation.disk(), index: copy, model: self.model.clone(), places });
    }

    /// What the spool is doing.
    fn places(&mut self, operation: &Operation<'_>, index: &SimIndex) -> Places {
        let mut places = match operation.path.components().nth(2).map(|part| part.as_os_str().to_string_lossy()).as_deref() {
            Some("log") => self.log(operation),
            Some("content") => content(operation),
            Some("index") => {
                let mut places = Places::default();
                places.add(At::IndexWrite);
                places
            }
            _ => Places::default(),
        };
        let syncs = matches!(operation.kind, OperationKind::Sync | OperationKind::SyncFolder);
        match operation.failed {
            Some(std::io::ErrorKind::StorageFull) => (self.full, self.failed) = (true, true),
            Some(_) => self.failed = true,
            None => {}
        }
        places.add_if(operation.failed.is_some(), At::Failed);
        places.add_if(operation.failed.is_some() && syncs, At::FailedSync);
        places.add_if(self.failed && operation.failed.is_none(), At::AfterFailure);
        places.add_if(self.full, At::Full);
        places.add_if(index.marks() != std::mem::replace(&mut self.marks, index.marks()), At::Marked);
        places.add_if(self.compacting, At::Compacting);
        places.add_if(self.opening, At::Opening);
        places.add_if(self.closing, At::Closing);
        places.add_if(self.rebuilt, At::AfterRebuild);
        places.add_if(self.later_life, At::LaterLife);
        places
    }

    fn log(&mut self, operation: &Operation<'_>) -> Places {
        let mut places = Places::default();
        if operation.path.extension().is_some_and(|extension| extension == "spare") {
            places.add(match operation.kind {
                OperationKind::Rename => At::SpareRetired,
                OperationKind::Unlink => At::SpareDropped,
                OperationKind::Length => At::SpareCut,
                _ => At::SpareAdopted,
            });
            return places;
        }
        match operation.kind {
            OperationKind::Write if operation.offset >= RECORDS_AT => {
                places = self.records(operation.bytes);
                self.unsynced.0 |= places.0;
                self.compacting |= places.has(At::Survivor);
            }
            OperationKind::Sync => {
                places.add_if(self.unsynced.has(At::Accept), At::AcceptSync);
                places.add_if(self.unsynced.has(At::Notice), At::Notice);
                places.add_if(self.unsynced.has(At::Survivor), At::SurvivorSync);
                places.add_if(self.unsynced == Places(1 << At::Riders as u64), At::RiderSync);
                if operation.failed.is_none() {
                    self.failed &= self.unsynced == Places::default();
                }
                self.unsynced = Places::default();
            }
            OperationKind::Write | OperationKind::Length => places.add(At::SegmentHeader),
            OperationKind::Allocate if !self.begun => places.add(At::Reserved),
            OperationKind::Create | OperationKind::Allocate | OperationKind::SyncFolder => places.add(At::SegmentBegun),
            OperationKind::Unlink => {
                places.add(At::SegmentUnlinked);
                self.compacting = false;
            }
            OperationKind::Rename => places.add(At::SpareAdopted),
            OperationKind::CreateFolder => {}
        }
        self.begun = operation.kind == OperationKind::Create || (self.begun && operation.kind == OperationKind::Allocate);
        places
    }

    /// What is written, by docs/spool.md: kind at 5, lengths at 8 and 12, queue id at 24.
    fn records(&self, mut bytes: &[u8]) -> Places {
        let mut places = Places::default();
        let mut accepts = 0;
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
        while bytes.len() >= HEADER_SIZE && bytes[..4] == MAGIC {
            let id = QueueId(u64::from_le_bytes(bytes[24..32].try_into().unwrap()));
            match bytes[5] {
                1 if self.opening => places.add(At::SegmentHeader),
                1 if self.model.contains(id, &[Standing::InDoubt]) => {
                    accepts += 1;
                    places.add(At::Accept);
                    places.add_if(self.model.of(id).notice_of.is_some(), At::Notice);
                }
                1 => places.add(At::Survivor),
                _ => places.add(At::Riders),
            }
            // Flag 4: see "Compression" there.
            places.add_if(bytes[5] == 1 && bytes[6] & 4 != 0, At::Compressed);
            let length = HEADER_SIZE + number(&bytes[8..12]) + number(&bytes[12..16]);
            bytes = bytes.get(length..).unwrap_or_default();
        }
        places.add_if(accepts > 1, At::Group);
        places
    }
}

fn content(operation: &Operation<'_>) -> Places {
    let mut places = Places::default();
    let is_folder = operation.path.ends_with(Path::new("content"));
    places.add(match operation.kind {
        OperationKind::Unlink => At::ContentUnlinked,
        OperationKind::Sync => At::ContentSync,
        OperationKind::SyncFolder if is_folder => At::ContentSync,
        _ => At::ContentWrite,
    });
    places
}
