//! Listings and counts of the queue: what the index has, and what memory knows better.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::index::{Index, IndexError};
use super::keeper::Keeper;
use super::{Filter, Stats};
use crate::mail::{Message, QueueId};

/// A count goes through so many messages in memory at a time.
const COUNT_STEP: usize = 1024;

/// A page of a listing.
pub(crate) struct Listing {
    /// Ordered by id.
    pub(crate) messages: Vec<Message>,
    /// Where the next page begins behind; none: that was all.
    pub(crate) next: Option<QueueId>,
}

impl Keeper {
    pub(super) fn page(&self, index: &mut dyn Index, filter: &Filter, count_max: usize) -> Result<Listing, IndexError> {
        let page = index.page(filter, count_max)?;
        let state = self.shared.lock();
        let parked = page.found.into_iter().map(|stored| stored.message).filter(|message| !state.overrides(message.id));
        let mut messages: Vec<Message> = parked.map(Arc::unwrap_or_clone).collect();
        let after = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = page.next.map_or(Bound::Unbounded, Bound::Included);
        if filter.after.is_none_or(|after| page.next.is_none_or(|to| after < to)) {
            let active = state.active.range((after, to)).map(|(_, entry)| &*entry.stored.message);
            let parking = state.parking.range((after, to)).map(|(_, parking)| &*parking.entry.stored.message);
            let matching = |message: &&Message| filter.matches(message);
            // More than this many of either can't be on the page.
            messages.extend(active.filter(matching).take(count_max).cloned());
            messages.extend(parking.filter(matching).take(count_max).cloned());
        }
        drop(state);
        messages.sort_by_key(|message| message.id);
        let mut next = page.next;
        if messages.len() > count_max {
            messages.truncate(count_max);
            next = messages.last().map(|message| message.id);
        }
        Ok(Listing { messages, next })
    }

    pub(super) fn count(&self, index: &mut dyn Index) -> Result<Stats, IndexError> {
        let mut stats = Stats::default();
        let mut here = BTreeSet::new();
        let mut from = Bound::Unbounded;
        loop {
            let state = self.shared.lock();
            let active = state.active.range((from, Bound::Unbounded)).take(COUNT_STEP);
            let last = active.map(|(id, _)| *id).nth(COUNT_STEP - 1);
            let range = (from, last.map_or(Bound::Unbounded, Bound::Included));
            let active = state.active.range(range).map(|(_, entry)| entry);
            for entry in active.chain(state.parking.range(range).map(|(_, parking)| &parking.entry)) {
                stats.add(&entry.stored.message);
                here.extend(entry.indexed.then_some(entry.stored.message.id));
            }
            here.extend(state.dying.range(range).map(|(id, _)| *id));
            drop(state);
            let Some(last) = last else { break };
            from = Bound::Excluded(last);
        }
        index.count(&here, &mut stats)?;
        Ok(stats)
    }
}
