//! What can go wrong in the spool, and what it has to say about itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::mail::QueueId;

/// Why the spool can't do what it was asked. Reception answers `Full` and `Behind` with 452 4.3.1 and everything else with 451 4.3.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolError {
    /// The disk has less than `min_free` left, or the system says that it is full.
    Full,
    /// Too much waits in memory because the index is slow, or can't be written.
    Behind,
    /// Another process has the spool open.
    Locked(PathBuf),
    /// A file operation failed; says which, on what, and the system's words.
    Io(String),
    /// What lies there is no spool that this version can use; says what and what to do.
    Unusable(String),
    /// The index failed; the log still has everything.
    Index(String),
    /// No such message.
    Unknown(QueueId),
    /// The message's content is damaged on disk.
    Damaged(QueueId),
    /// The spool is closed.
    Closed,
}

impl SpoolError {
    /// A failed file operation; a full disk has its own variant.
    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        if is_full(error) { Self::Full } else { Self::Io(format!("{what} {}: {error}", path.display())) }
    }
}

/// Whether there is no more room: on the disk, or of it for us.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the spool's disk is full"),
            Self::Behind => f.write_str("too much waits in memory for the spool's index, which is slow or can't be written"),
            Self::Locked(path) => write!(f, "{} is in use by a running server", path.display()),
            Self::Io(what) | Self::Unusable(what) => f.write_str(what),
            Self::Index(what) => write!(f, "the spool's index failed: {what}"),
            Self::Unknown(id) => write!(f, "no message {id} in the spool"),
            Self::Damaged(id) => write!(f, "the content of {id} is damaged on disk"),
            Self::Closed => f.write_str("the spool is closed"),
        }
    }
}

impl std::error::Error for SpoolError {}

/// Something that the spool found or did, and that an admin should read: a line in the mail log each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A power cut or kill tore the last batch: nothing in it was confirmed.
    TailCut {
        /// Number of the log segment.
        segment: u64,
        /// Where its last whole record ends.
        offset: u64,
        /// How many bytes behind that don't count.
        bytes: u64,
    },
    /// Confirmed bytes of a segment can't be read as records; a copy lies in the file named.
    Quarantined {
        /// Number of the log segment.
        segment: u64,
        /// Where the damage begins.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// The copy, below the spool folder.
        file: String,
    },
    /// A segment that its successor names isn't there, or that the index knows to be needed still.
    SegmentMissing {
        /// Its number.
        segment: u64,
    },
    /// The index was missing, broken, or didn't fit the log: it is built anew from the log.
    IndexRebuilt {
        /// Why.
        why: String,
        /// Where the old one was put, if there was one.
        set_aside: Option<String>,
    },
    /// A message's content is lost: its file isn't there, or its record is damaged. The message stays in the queue.
    ContentMissing {
        /// The message.
        id: QueueId,
    },
    /// The disk can't read a segment where messages have their content. It left the log, and is kept and tried again.
    SegmentUnreadable {
        /// Its number.
        segment: u64,
        /// How many messages wait for their content.
        messages: u64,
        /// What the system said.
        error: String,
    },
    /// Messages have their content back that lay in such a segment.
    SegmentReadable {
        /// Its number.
        segment: u64,
        /// How many.
        messages: u64,
    },
    /// Content files that no record names (their acceptance was never confirmed) were removed.
    OrphansRemoved {
        /// How many.
        count: u64,
    },
    /// The log couldn't be written: the segment was closed for good. What waited for confirmation was told no.
    WriteFailed {
        /// Number of the log segment; none if there was no room for a new one.
        segment: Option<u64>,
        /// What the system said.
        error: String,
    },
    /// The log has come up to its bound on disk use: new messages wait a moment for room to come back.
    RoomAwaited,
    /// Something else failed without harm to mail: an unlink, a look at free space, a flush of the index.
    Trouble(
        /// What, on what, and the system's words.
        String,
    ),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TailCut { segment, offset, bytes } => {
                write!(f, "segment {segment}: {bytes} unconfirmed bytes at {offset} don't count")
            }
            Self::Quarantined { segment, offset, bytes, file } => {
                write!(f, "segment {segment}: {bytes} damaged bytes at {offset} copied to {file}")
            }
            Self::SegmentMissing { segment } => write!(f, "segment {segment} is missing"),
            Self::IndexRebuilt { why, set_aside: None } => write!(f, "index built from the log: {why}"),
            Self::IndexRebuilt { why, set_aside: Some(path) } => {
                write!(f, "index built from the log: {why}; the old one is kept as {path}")
            }
            Self::ContentMissing { id } => write!(f, "the content of {id} is lost"),
            Self::SegmentUnreadable { segment, messages, error } => {
                write!(f, "segment {segment} is kept in unreadable/ for the content of {messages} messages: {error}")
            }
            Self::SegmentReadable { segment, messages } => {
                write!(f, "segment {segment} could be read: {messages} messages have their content back")
            }
            Self::OrphansRemoved { count } => write!(f, "{count} content files of unconfirmed messages removed"),
            Self::WriteFailed { segment: Some(segment), error } => write!(f, "segment {segment} closed for good: {error}"),
            Self::WriteFailed { segment: None, error } => write!(f, "no new segment: {error}"),
            Self::RoomAwaited => f.write_str(
                "mail comes faster than room is given back: new messages wait a moment, so that the spool keeps to its bound",
            ),
            Self::Trouble(what) => f.write_str(what),
        }
    }
}
