//! What waits in memory because the index is slow, or can't be written: about how much it is, and whether it is so much that no new mail
//! is taken. State: what the index said last, and whether it was too much.

use super::SpoolError;
use super::shared::{Shared, State};

/// What a message takes that is gone, until the index knows it; bytes.
const DYING_SIZE: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// What the index has in memory; bytes.
    in_index: usize,
    is_over: bool,
}

impl Backlog {
    /// The index has so much in memory.
    pub(crate) fn note(&mut self, in_index: usize) {
        self.in_index = in_index;
    }
}

impl State {
    /// About how many bytes wait in memory for the index.
    pub(crate) fn backlog(&self) -> usize {
        self.parking.size() + self.dying.len() * DYING_SIZE + self.backlog.in_index
    }

    /// Whether that is too much: from `max` on, until it is half of it, so that it doesn't change all the time.
    pub(crate) fn is_behind(&mut self, max: u64) -> bool {
        let bound = if self.backlog.is_over { max / 2 } else { max };
        self.backlog.is_over = self.backlog() as u64 >= bound;
        self.backlog.is_over
    }
}

impl Shared {
    /// Whether there is memory for more that waits for the index.
    pub(crate) fn memory(&self) -> Result<(), SpoolError> {
        if self.lock().is_behind(self.options.backlog_max) { Err(SpoolError::Behind) } else { Ok(()) }
    }
}
