//! What each origin has of the queue and of the attempts. State: that, for origins that have something, or had more than their part.

use std::collections::BTreeMap;

use super::fair::ITEM;
use crate::config;
use crate::mail::Origin;

/// Origins with nothing here that are remembered.
const SPENT_MAX: usize = 1024;

#[derive(Debug)]
struct Share {
    weight: u32,
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
    weights: Vec<config::Share>,
}

impl Shares {
    pub(super) fn new(weights: Vec<config::Share>) -> Self {
        Self { weights, ..Self::default() }
    }

    /// Other weights.
    pub(super) fn reweigh(&mut self, weights: Vec<config::Share>) {
        self.weights = weights;
        for (origin, share) in &mut self.shares {
            share.weight = weight(&self.weights, origin);
        }
    }

    /// One more waits. The origin's weight.
    pub(super) fn join(&mut self, origin: &Origin) -> u32 {
        let share = self.share(origin);
        share.waiting += 1;
        share.weight
    }

    /// How many wait.
    pub(super) fn waiting(&self, origin: &Origin) -> usize {
        self.shares.get(origin).map_or(0, |share| share.waiting)
    }

    fn share(&mut self, origin: &Origin) -> &mut Share {
        let weights = &self.weights;
        let new = || Share { weight: weight(weights, origin), waiting: 0, in_flight: 0, time: 0 };
        self.shares.entry(origin.clone()).or_insert_with(new)
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
        let present = self.time;
        let share = self.share(origin);
        let time = share.time.max(present);
        share.time = time + ITEM / u64::from(share.weight);
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

fn weight(weights: &[config::Share], origin: &Origin) -> u32 {
    weights.iter().find(|share| share.sender.matches(origin)).map_or(1, |share| share.weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Share, ShareOf};

    #[test]
    fn turns_are_by_weight_and_a_newcomer_begins_at_the_present() {
        let heavy = Share { sender: ShareOf::Client("192.0.2.0/24".parse().unwrap()), weight: 4 };
        let mut shares = Shares::new(vec![heavy]);
        let (four, one) = (Origin::parse("client:192.0.2.0/24").unwrap(), Origin::parse("domain:x.test").unwrap());
        assert_eq!((shares.join(&four), shares.join(&one)), (4, 1));
        let mut turns: Vec<(u64, u8)> = (0..40).map(|_| (shares.stamp(&four), 4)).collect();
        turns.extend((0..40).map(|_| (shares.stamp(&one), 1)));
        turns.sort();
        assert_eq!(turns[..20].iter().filter(|(_, weight)| *weight == 4).count(), 16);
        shares.served(turns[20].0);
        assert_eq!(shares.stamp(&Origin::parse("domain:new.test").unwrap()), turns[20].0);
    }

    #[test]
    fn the_memory_of_origins_is_bounded() {
        let mut shares = Shares::default();
        for n in 0..10 * SPENT_MAX {
            let origin = Origin::parse(&format!("domain:d{n}.test")).unwrap();
            shares.join(&origin);
            let time = shares.stamp(&origin);
            shares.served(time);
            shares.start(&origin);
            shares.end(&origin);
        }
        assert!(shares.shares.len() <= 2 * SPENT_MAX, "{}", shares.shares.len());
    }
}
