//! What each origin has of the queue and of the attempts. State: that, for origins that have something, or had more than their part.

use std::collections::BTreeMap;

use super::fair::ITEM;
use crate::mail::Origin;

/// Origins with nothing here that are remembered.
const SPENT_MAX: usize = 1024;

#[derive(Clone, Debug, Default)]
struct Share {
    /// Messages that wait in lines, once for each.
    waiting: usize,
    /// Attempts.
    in_flight: usize,
    /// The virtual time of its next turn.
    time: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shares {
    shares: BTreeMap<Origin, Share>,
    /// The virtual time: that of the last turn.
    time: u64,
    /// How many were kept without anything here.
    idle: usize,
}

impl Shares {
    /// One more waits. The origin's weight.
    pub(super) fn join(&mut self, origin: &Origin) -> u32 {
        self.shares.entry(origin.clone()).or_default().waiting += 1;
        1
    }

    /// One less waits.
    pub(super) fn leave(&mut self, origin: &Origin) {
        if let Some(share) = self.shares.get_mut(origin) {
            share.waiting = share.waiting.saturating_sub(1);
            self.drop(origin);
        }
    }

    /// One that waited is attempted.
    pub(super) fn start(&mut self, origin: &Origin) {
        if let Some(share) = self.shares.get_mut(origin) {
            share.waiting = share.waiting.saturating_sub(1);
            share.in_flight += 1;
        }
    }

    /// An attempt has ended.
    pub(super) fn end(&mut self, origin: &Origin) {
        if let Some(share) = self.shares.get_mut(origin) {
            share.in_flight = share.in_flight.saturating_sub(1);
            self.drop(origin);
        }
    }

    /// Its attempts under way.
    pub(super) fn in_flight(&self, origin: &Origin) -> usize {
        self.shares.get(origin).map_or(0, |share| share.in_flight)
    }

    /// The virtual time of a turn that it takes up.
    pub(super) fn stamp(&mut self, origin: &Origin) -> u64 {
        let now = self.time;
        let share = self.shares.entry(origin.clone()).or_default();
        let time = share.time.max(now);
        share.time = time + ITEM;
        time
    }

    /// A turn of this time was had.
    pub(super) fn served(&mut self, time: u64) {
        self.time = self.time.max(time);
    }

    /// Forgets origins with nothing here, once they have had no more than the others, or when there are too many of them.
    fn drop(&mut self, origin: &Origin) {
        let idle = |share: &Share| share.waiting == 0 && share.in_flight == 0;
        match self.shares.get(origin) {
            Some(share) if idle(share) && share.time <= self.time => _ = self.shares.remove(origin),
            Some(share) if idle(share) => self.idle += 1,
            _ => {}
        }
        // Those that came back meanwhile are counted too: no matter.
        if self.idle > SPENT_MAX {
            self.idle = 0;
            self.shares.retain(|_, share| !idle(share));
        }
    }
}
