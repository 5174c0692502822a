//! Messages on their way into the index: in memory until it has them. Found by id and by due time, without a look at the others; knows
//! about how much memory they take.

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::index::size_of;
use super::shared::Entry;
use crate::mail::{QueueId, Timestamp};

/// A message on its way into the index.
#[derive(Debug)]
pub(crate) struct Parking {
    pub(crate) entry: Entry,
    pub(crate) due: Timestamp,
    /// Which of the operations that park it is the valid one.
    pub(crate) generation: u64,
    /// What it was counted for, bytes.
    size: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    by_id: BTreeMap<QueueId, Parking>,
    by_due: BTreeSet<(Timestamp, QueueId)>,
    size: usize,
}

impl Parked {
    /// Puts one in, or replaces it. Generation 0 is nobody's: it stays until it is renewed.
    pub(crate) fn insert(&mut self, entry: Entry, due: Timestamp, generation: u64) {
        let id = entry.stored.message.id;
        self.remove(id);
        let size = size_of(&entry.stored);
        self.size += size;
        self.by_due.insert((due, id));
        self.by_id.insert(id, Parking { entry, due, generation, size });
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: QueueId) -> Option<Parking> {
        let parking = self.by_id.remove(&id)?;
        self.by_due.remove(&(parking.due, id));
        self.size -= parking.size;
        Some(parking)
    }

    /// Another operation is the one that parks it; false if it isn't here.
    pub(crate) fn renew(&mut self, id: QueueId, generation: u64) -> bool {
        let parking = self.by_id.get_mut(&id);
        parking.map(|parking| parking.generation = generation).is_some()
    }

    pub(crate) fn get(&self, id: QueueId) -> Option<&Parking> {
        self.by_id.get(&id)
    }

    pub(crate) fn entry_mut(&mut self, id: QueueId) -> Option<&mut Entry> {
        self.by_id.get_mut(&id).map(|parking| &mut parking.entry)
    }

    pub(crate) fn contains(&self, id: QueueId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Those that are due, the earliest first; at most so many.
    pub(crate) fn ready(&self, now: Timestamp, count_max: usize) -> Vec<QueueId> {
        self.by_due.iter().take_while(|(due, _)| *due <= now).take(count_max).map(|(_, id)| *id).collect()
    }

    /// When the first of them is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// By id.
    pub(crate) fn range(&self, range: (Bound<QueueId>, Bound<QueueId>)) -> Range<'_, QueueId, Parking> {
        self.by_id.range(range)
    }

    pub(crate) fn ids(&self) -> Vec<QueueId> {
        self.by_id.keys().copied().collect()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_id.values().map(|parking| &parking.entry)
    }

    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.by_id.values_mut().map(|parking| &mut parking.entry)
    }

    /// About what they take in memory; bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mail::{BodyType, Message, ReversePath};
    use crate::spool::index::{Place, Stored};

    fn entry(id: u64) -> Entry {
        let message = Message {
            id: QueueId(id),
            arrived: Timestamp::ZERO,
            size: 1,
            reverse_path: ReversePath::Null,
            body: BodyType::SevenBit,
            request: None,
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients: Vec::new(),
        };
        Entry::indexed(Stored { message: Arc::new(message), place: Place::default(), file: None })
    }

    #[test]
    fn they_are_found_by_due_time_and_what_they_take_is_given_back() {
        let at = Timestamp::from_millis;
        let mut parked = Parked::default();
        for (id, due) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
            parked.insert(entry(id), at(due), 1);
        }
        let ids = |ready: Vec<QueueId>| ready.iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!((ids(parked.ready(at(20), 9)), ids(parked.ready(at(20), 2))), (vec![2, 4, 3], vec![2, 4]));
        let size = parked.size();
        parked.insert(entry(2), at(40), 2);
        assert_eq!((parked.size(), parked.next_due(), ids(parked.ready(at(20), 9))), (size, Some(at(10)), vec![4, 3]));
        assert!(parked.renew(QueueId(2), 5) && !parked.renew(QueueId(9), 5));
        assert_eq!(parked.get(QueueId(2)).map(|parking| (parking.due, parking.generation)), Some((at(40), 5)));
        (1..5).for_each(|id| drop(parked.remove(QueueId(id))));
        assert_eq!((parked.size(), parked.next_due(), parked.remove(QueueId(1)).is_none()), (0, None, true));
    }
}
