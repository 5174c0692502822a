//! Whether anything is attempted at all. State: the scheduler's.

use super::scheduler::Scheduler;
use super::state::Why;

impl Scheduler {
    /// What attempts come to can't be recorded, or can again: until then none begins, and nothing is called from disk. Those in flight
    /// come to their ends.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Whether no attempt begins anywhere: all is paused, or stalled.
    pub fn is_still(&self) -> bool {
        self.why_still().is_some()
    }

    /// Why no attempt begins anywhere.
    pub(super) fn why_still(&self) -> Option<Why> {
        if self.stalled { Some(Why::Log) } else { self.paused.then_some(Why::Paused) }
    }
}
