//! Whether anything is attempted at all. State: the scheduler's.

use super::scheduler::Scheduler;
use super::state::Why;
use crate::mail::Timestamp;

impl Scheduler {
    /// What attempts come to can't be recorded, or can again: until then none begins, and nothing is called from disk. Those in flight
    /// come to their ends.
    pub fn stall(&mut self, now: Timestamp, stalled: bool) {
        let ends = self.stalled && !stalled;
        self.stalled = stalled;
        if ends {
            self.go_on(now);
        }
    }

    /// Nothing could be attempted for a while, of which the scheduler knows nothing else: who outlived his lifetime meanwhile has a last chance.
    pub fn go_on(&mut self, now: Timestamp) {
        self.since = now;
        self.entries.values_mut().for_each(|entry| entry.since = now);
        self.refresh_all(now);
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
