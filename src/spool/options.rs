//! How a spool is set up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Note;
use super::progress::{Watcher, unwatched};
use crate::config;
use crate::mail::{Message, Timestamp};

/// When a message found at start-up is due: by default when its next attempt is.
pub type DueRule = Arc<dyn Fn(&Message) -> Timestamp + Send + Sync>;
/// Takes what the spool has to say while it runs. Called with no lock held; must not block.
pub type Reporter = Arc<dyn Fn(Note) + Send + Sync>;

/// Settings of a spool.
#[derive(Clone)]
pub struct Options {
    /// The spool folder; made if it isn't there.
    pub path: PathBuf,
    /// With less than this many bytes free on its disk no message is begun.
    pub min_free: u64,
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// Bytes of zeros written ahead of the log's end, and again when records have come up to there; 0 for none.
    pub zeros_ahead: u64,
    /// Released segments that are kept to be written again, at the most; fewer where there is no room.
    pub spares: usize,
    /// Bytes of disk kept in reserve for the records of outcomes; see docs/spool.md.
    pub reserve: u64,
    /// Bytes a second that are copied to give space back, unless room is needed.
    pub compaction_rate: u64,
    /// Bytes that may wait in memory for the index, about: with more no message is begun.
    pub backlog_max: u64,
    /// Content of more than this many octets lies in a file of its own.
    pub inline_max: usize,
    /// How new content is stored.
    pub compression: config::Compression,
    /// When messages found at start-up are due.
    pub due: DueRule,
    /// Where notes go once the spool runs; those of the start are in `Recovery`.
    pub report: Reporter,
    /// Is told how far the recovery has come.
    pub progress: Watcher,
}

impl Options {
    /// Octets up to which content lies in its log record.
    pub const INLINE_MAX: usize = 128 * 1024;

    /// Bytes kept in reserve: enough for the largest batch, which start-up writes again, and for outcomes without end.
    pub const RESERVE: u64 = 8 << 20;

    /// However small the index's cache is, so many bytes may wait in memory for the index: it always has some that aren't on disk yet.
    pub const BACKLOG_MIN: u64 = 32 << 20;

    /// Bytes of zeros written ahead: so few that the sync which has them to write, too, doesn't take long.
    pub const ZEROS_AHEAD: u64 = 256 << 10;

    /// From the configuration, with the usual rules.
    pub fn new(config: &config::Spool) -> Self {
        Self {
            path: config.path.clone(),
            min_free: config.min_free,
            segment_size: config.segment_size,
            zeros_ahead: if config.zeros_ahead { Self::ZEROS_AHEAD } else { 0 },
            spares: config.spares,
            reserve: Self::RESERVE,
            compaction_rate: config.compaction_rate,
            backlog_max: config.index_cache.saturating_mul(2).saturating_add(Self::BACKLOG_MIN),
            inline_max: Self::INLINE_MAX,
            compression: config.compression,
            due: next_attempt(),
            report: Arc::new(|_| {}),
            progress: unwatched(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("path", &self.path)
            .field("min_free", &self.min_free)
            .field("segment_size", &self.segment_size)
            .field("spares", &self.spares)
            .field("reserve", &self.reserve)
            .field("inline_max", &self.inline_max)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

/// The usual rule.
pub(super) fn next_attempt() -> DueRule {
    Arc::new(Message::next_attempt)
}
