//! A fair queue: each origin's items in its own order, and turns between origins by their weights, whatever one of them piles up.
//!
//! Start-time fair queueing: an origin's turn has a virtual time, which grows by the inverse of its weight with each item; the
//! earliest is next. Who comes anew starts at the present, so a single letter waits for one item of each other origin at the most.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::{Origin, Timestamp};

/// Virtual time for an item of an origin with weight 1.
pub(super) const ITEM: u64 = 1 << 20;
/// Origins without items that are remembered.
const SPENT_MAX: usize = 64;

/// An origin's own order: the nearest deadline first, then first come, first served.
pub(super) type Rank = (Timestamp, u64);

/// See the module.
#[derive(Debug)]
pub(super) struct Fair<T> {
    flows: BTreeMap<Origin, Flow<T>>,
    /// Whose turn it is: virtual time, then who has waited longest.
    turns: BTreeSet<(u64, u64, Origin)>,
    /// Virtual times of origins that have no item left, but have had more than their part.
    spent: BTreeMap<Origin, u64>,
    /// The virtual time.
    time: u64,
    counter: u64,
    count: usize,
}

#[derive(Debug)]
struct Flow<T> {
    items: BTreeMap<Rank, T>,
    turn: (u64, u64),
    weight: u32,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        let (flows, turns, spent) = Default::default();
        Self { flows, turns, spent, time: 0, counter: 0, count: 0 }
    }
}

impl<T> Fair<T> {
    /// Items in it.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Those of one origin.
    pub(super) fn len_of(&self, origin: &Origin) -> usize {
        self.flows.get(origin).map_or(0, |flow| flow.items.len())
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts an item in; a rank that the origin has already replaces that item.
    pub(super) fn push(&mut self, origin: &Origin, weight: u32, rank: Rank, item: T) {
        let (time, spent) = (self.time, &mut self.spent);
        if !self.flows.contains_key(origin) {
            self.counter += 1;
            let turn = (spent.remove(origin).unwrap_or(0).max(time), self.counter);
            self.turns.insert((turn.0, turn.1, origin.clone()));
            self.flows.insert(origin.clone(), Flow { items: BTreeMap::new(), turn, weight });
        }
        if let Some(flow) = self.flows.get_mut(origin) {
            flow.weight = weight.max(1);
            self.count += usize::from(flow.items.insert(rank, item).is_none());
        }
    }

    /// Takes an item out that has not had its turn.
    pub(super) fn remove(&mut self, origin: &Origin, rank: Rank) -> Option<T> {
        let flow = self.flows.get_mut(origin)?;
        let item = flow.items.remove(&rank)?;
        self.count -= 1;
        if flow.items.is_empty() {
            self.drop_flow(origin);
        }
        Some(item)
    }

    /// Whose item is next.
    pub(super) fn first(&self) -> Option<&Origin> {
        self.turns.first().map(|(_, _, origin)| origin)
    }

    /// Takes the next item.
    pub(super) fn pop(&mut self) -> Option<(Origin, Rank, T)> {
        let (time, counter, origin) = self.turns.pop_first()?;
        self.time = time;
        let flow = self.flows.get_mut(&origin)?;
        let (rank, item) = flow.items.pop_first()?;
        self.count -= 1;
        self.counter += 1;
        flow.turn = (time + ITEM / u64::from(flow.weight), self.counter);
        if flow.items.is_empty() {
            flow.turn.1 = counter;
            self.drop_flow(&origin);
        } else {
            self.turns.insert((flow.turn.0, flow.turn.1, origin.clone()));
        }
        Some((origin, rank, item))
    }

    /// All items, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.flows.values().flat_map(|flow| flow.items.values())
    }

    /// An origin without items: what it has had beyond its part is remembered until the others have had theirs.
    fn drop_flow(&mut self, origin: &Origin) {
        let Some(flow) = self.flows.remove(origin) else { return };
        self.turns.remove(&(flow.turn.0, flow.turn.1, origin.clone()));
        if self.flows.is_empty() {
            // Nobody waits: all begin anew.
            self.spent.clear();
        } else if flow.turn.0 > self.time {
            self.spent.insert(origin.clone(), flow.turn.0);
        }
        if self.spent.len() > SPENT_MAX {
            let time = self.time;
            self.spent.retain(|_, spent| *spent > time);
        }
        if self.spent.len() > SPENT_MAX {
            self.spent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str) -> Origin {
        Origin::parse(&format!("domain:{name}.test")).unwrap()
    }

    fn push(fair: &mut Fair<u64>, name: &str, weight: u32, items: std::ops::Range<u64>) {
        for item in items {
            fair.push(&origin(name), weight, (Timestamp::NEVER, item), item);
        }
    }

    fn pop(fair: &mut Fair<u64>, count: usize) -> Vec<u64> {
        std::iter::from_fn(|| fair.pop()).map(|(_, _, item)| item).take(count).collect()
    }

    #[test]
    fn a_single_letter_goes_before_the_rest_of_the_bulk() {
        let mut fair = Fair::default();
        push(&mut fair, "bulk", 1, 0..1000);
        assert_eq!(pop(&mut fair, 3), [0, 1, 2]);
        push(&mut fair, "letter", 1, 5000..5001);
        assert_eq!(pop(&mut fair, 3), [5000, 3, 4]);
    }

    #[test]
    fn turns_are_by_weight() {
        let mut fair = Fair::default();
        push(&mut fair, "one", 1, 0..1000);
        push(&mut fair, "three", 3, 1000..2000);
        let taken = pop(&mut fair, 400);
        assert_eq!(taken.iter().filter(|item| **item >= 1000).count(), 300);
    }

    #[test]
    fn who_always_has_one_item_takes_turns_like_everybody() {
        let mut fair = Fair::default();
        push(&mut fair, "bulk", 1, 0..1000);
        let mut of_bulk = 0;
        for n in 0..100 {
            // Always there just in time.
            if fair.flows.len() == 1 {
                push(&mut fair, "steady", 1, 5000 + n..5001 + n);
            }
            of_bulk += usize::from(pop(&mut fair, 1)[0] < 1000);
        }
        assert!((45..=55).contains(&of_bulk), "{of_bulk}");
    }

    #[test]
    fn nearer_deadlines_first_within_an_origin() {
        let mut fair = Fair::default();
        for (millis, item) in [(9_000, 1), (3_000, 2), (6_000, 3)] {
            fair.push(&origin("a"), 1, (Timestamp::from_millis(millis), item), item);
        }
        assert_eq!(pop(&mut fair, 9), [2, 3, 1]);
    }

    #[test]
    fn what_is_taken_out_has_no_turn_and_the_memory_of_origins_is_bounded() {
        let mut fair = Fair::default();
        push(&mut fair, "a", 1, 0..2);
        assert_eq!(fair.remove(&origin("a"), (Timestamp::NEVER, 0)), Some(0));
        assert_eq!(fair.remove(&origin("b"), (Timestamp::NEVER, 0)), None);
        assert_eq!((pop(&mut fair, 9), fair.len(), fair.first()), (vec![1], 0, None));
        for n in 0..1000 {
            push(&mut fair, &format!("o{n}"), 1, n..n + 1);
            pop(&mut fair, 1);
        }
        assert!(fair.is_empty() && fair.turns.is_empty() && fair.flows.is_empty() && fair.spent.len() <= SPENT_MAX);
    }
}
