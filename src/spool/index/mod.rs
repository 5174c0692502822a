//! The index: parked messages by id, due time, destination and sender. Never the promise: all of it can be rebuilt from the log.

mod memory;
mod sled;

pub use self::memory::{MemoryIndex, MemoryIndexFactory};
pub use self::sled::{SledIndex, SledIndexFactory};

use std::fmt;

use crate::mail::{Message, QueueId, Timestamp};
use crate::spool::Filter;

/// Where a record lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Offset of the record's first byte.
    pub offset: u64,
    /// The record's length in bytes.
    pub length: u32,
}

/// Where in the log something begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
}

/// A message with where its Accept record and its content lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The message as it now is.
    pub message: Message,
    /// Its Accept record.
    pub place: Place,
    /// CRC-32 of the content if that lies in a file of its own; none if it lies in the record.
    pub file: Option<u32>,
}

/// What the index stores about itself: which log it belongs to, and up to where it reflects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The spool's identity, as in every segment header.
    pub identity: u64,
    /// Every record before this is reflected in the index.
    pub position: Position,
    /// Sequence numbers from here on were unused when the mark was made, or belong to records behind the position.
    pub sequence: u64,
    /// No id up to this may be given out again.
    pub last_id: QueueId,
}

/// A page of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ordered by id.
    pub found: Vec<Stored>,
    /// The last id that was looked at, if there may be more behind it.
    pub next: Option<QueueId>,
}

/// A page looks at so many messages at the most.
const LOOK_MAX: usize = 4096;

/// The index can't do what it was asked; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexError(pub String);

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for IndexError {}

/// Parked messages. One thread calls it. Each changing call is one atomic change.
pub trait Index: Send {
    /// What it was last marked with; none if never.
    fn mark(&self) -> Result<Option<Mark>, IndexError>;
    /// Makes everything so far durable, and then the mark.
    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError>;
    /// Puts a message in, or replaces it. `Timestamp::ZERO` as due time means taken: somebody works on it.
    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError>;
    /// Changes only the due time; nothing happens if the message isn't there.
    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError>;
    /// Takes a message out; fine if it isn't there.
    fn remove(&mut self, id: QueueId) -> Result<(), IndexError>;
    /// One message and its due time.
    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError>;
    /// At most `count_max` messages with due times from `from` to `to` inclusive, the earliest first.
    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError>;
    /// At most `count_max` messages that match, ordered by id, beginning behind `filter.after`; a bounded piece of work.
    /// `filter.limit` is the caller's business.
    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError>;
    /// Every message, ordered by id.
    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError>;
}

/// Opens an index; asked again after `set_aside` when the first didn't open or fit.
pub trait IndexFactory: Send {
    /// Opens what is there, or a new empty one.
    fn open(&self) -> Result<Box<dyn Index>, IndexError>;
    /// Puts what is there out of the way (`now` becomes part of its name) and says where; none if there was nothing.
    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError>;
}
