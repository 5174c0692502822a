//! Whether anything is attempted at all. State: the scheduler's.

use std::collections::BTreeSet;

use super::scheduler::Scheduler;
use super::state::Why;
use crate::mail::{Domain, Timestamp};

impl Scheduler {
    /// Stops new attempts, all or those for recipients of one domain. With all of them, notices and expiry wait, too.
    pub fn pause(&mut self, now: Timestamp, domain: Option<Domain>) {
        match domain {
            None => self.paused = true,
            Some(domain) => {
                self.paused_domains.insert(domain);
                self.refresh_all(now);
            }
        }
    }

    /// Ends one domain's pause, or every pause. Mail that was parked meanwhile is called back.
    pub fn resume(&mut self, now: Timestamp, domain: Option<Domain>) {
        self.lines.away.resume(domain.as_ref());
        match domain {
            None => {
                self.paused = false;
                self.paused_domains.clear();
            }
            Some(domain) => {
                self.paused_domains.remove(&domain);
            }
        }
        self.go_on(now);
    }

    /// Whether everything is paused, and which domains are.
    pub fn paused(&self) -> (bool, &BTreeSet<Domain>) {
        (self.paused, &self.paused_domains)
    }

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
