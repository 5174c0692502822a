//! The spool: keeps accepted mail until nothing remains to be done for it. The log is the truth, the index a rebuildable view
//! of what waits; docs/spool.md describes both byte by byte.
//!
//! Messages in memory are *active*: somebody works on them. The others are *parked*: they lie in the index until they are due.

mod answer;
mod aside;
mod asked;
mod backlog;
mod check;
mod codec;
mod commit;
mod compress;
mod content;
mod draft;
mod dwellers;
mod envelope;
mod error;
mod export;
mod filter;
mod finding;
mod flow;
mod gather;
mod handle;
mod import;
pub mod index;
mod keeper;
mod listing;
mod log;
mod mend;
mod op;
mod options;
mod orphaned;
mod parking;
mod progress;
mod reader;
mod recent;
pub mod record;
mod recover;
mod release;
mod repair;
mod replay;
mod reread;
mod reserve;
mod room;
mod scan;
mod segment;
mod settle;
mod shared;
mod space;
mod spare;
mod standstill;
mod stats;
mod survivors;
mod tail;
#[cfg(test)]
mod tests;
mod transfer;
mod unlink;
mod unreadable;
mod waits;
mod whole;

pub use check::{Findings, Workbench, check};
pub use codec::{Change, Malformed};
pub use compress::Form;
pub use draft::{Accept, Draft};
pub use error::{Note, SpoolError};
pub use export::export;
pub use filter::Filter;
pub use finding::{Finding, FindingKind, Level, Survey};
pub use handle::Spool;
pub use import::import;
pub use options::{DueRule, Options, Reporter};
pub use progress::{Phase, Progress, Watcher};
pub use reader::{StoppedSpool, read_stopped};
pub use repair::{Step, StepKind, Steps, repair};
pub use segment::{HeaderFault, SegmentHeader};
pub use stats::{Count, Gauges, Stats};
pub use transfer::{Gravity, Remark, Transfer};

/// What `Spool::open` found and did.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Messages that live in the spool.
    pub messages: u64,
    /// Log segments on disk, the new one included.
    pub segments: u64,
    /// Records read from the log: all of them if the index was rebuilt, else those behind its position.
    pub records: u64,
    /// What needs to be said: each a line in the mail log.
    pub notes: Vec<Note>,
}
