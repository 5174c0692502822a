//! The spool: keeps accepted mail until nothing remains to be done for it. The log is the truth, the index a rebuildable view
//! of what waits; docs/spool.md describes both byte by byte.
//!
//! Messages in memory are *active*: somebody works on them. The others are *parked*: they lie in the index until they are due.

mod codec;
mod commit;
mod content;
mod error;
mod filter;
mod handle;
pub mod index;
mod keeper;
mod log;
mod options;
mod quarantine;
mod reader;
pub mod record;
mod recover;
mod release;
mod replay;
mod reserve;
mod scan;
mod segment;
mod shared;
mod stats;
mod tail;

pub use codec::{Change, Malformed};
pub use error::{Note, SpoolError};
pub use filter::Filter;
pub use handle::{Accept, Draft, Spool};
pub use options::{DueRule, Options, Reporter};
pub use reader::{StoppedSpool, read_stopped};
pub use segment::{HeaderFault, SegmentHeader};
pub use stats::{Count, Gauges, Stats};

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
