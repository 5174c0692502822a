//! How much of the log still counts, which segment should go next, and how fast. Pure, but for the time that is handed in.
//!
//! The bound: the spool's disk use stays under twice what lives plus two segments. The log has 2 × live + 2 segments to itself,
//! and of that: half a segment may be dead before anything is copied, a whole one may stand on disk twice while it is copied, an
//! eighth is reserved ahead of the open segment's end, the rest and a quarter of what lives is for what arrives meanwhile and for
//! the index.
//!
//! Only the oldest segment can go, and what is dead often lies behind much that lives: all of that has to be copied before any room comes
//! back. So copying begins the earlier the longer it will take, and the faster the log comes near its bound (`Flow`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::flow::{Counts, Flow};
use super::index::Place;
use super::segment::spare_size;

/// Copying begins early enough for things to go so many quarters as fast as they do,
const BEGIN_HASTE: u64 = 8;
/// and is as fast as it can once they could go only so many quarters as fast.
const PRESS_HASTE: u64 = 6;

/// How much of a segment still counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Bytes of records.
    pub(crate) used: u64,
    /// Bytes of Accept records of living messages.
    pub(crate) live_bytes: u64,
    /// Living messages.
    pub(crate) live: u64,
}

/// All segments, the oldest first, and their sums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    by_number: BTreeMap<u64, Use>,
    total: Use,
    /// Bytes of records ever written, and of survivors' among them.
    written: u64,
    copied: u64,
    flow: Flow,
    /// Bytes of disk that the index takes.
    index: u64,
}

impl Segments {
    pub(crate) fn new(by_number: BTreeMap<u64, Use>) -> Self {
        let total = by_number.values().fold(Use::default(), |sum, segment| Use {
            used: sum.used + segment.used,
            live_bytes: sum.live_bytes + segment.live_bytes,
            live: sum.live + segment.live,
        });
        Self { by_number, total, ..Self::default() }
    }

    /// The sums.
    pub(crate) fn total(&self) -> Use {
        self.total
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// What one is used for; nothing if there is none of the number.
    pub(crate) fn of(&self, number: u64) -> Use {
        self.by_number.get(&number).copied().unwrap_or_default()
    }

    /// So many bytes were written to one, which perhaps is new.
    pub(crate) fn grow(&mut self, number: u64, bytes: u64) {
        self.by_number.entry(number).or_default().used += bytes;
        self.total.used += bytes;
        self.written += bytes;
    }

    /// An Accept record has become durable for a living message, or no longer counts.
    pub(crate) fn count_live(&mut self, place: Place, living: bool) {
        let Some(segment) = self.by_number.get_mut(&place.segment) else { return };
        let length = u64::from(place.length);
        for sum in [segment, &mut self.total] {
            if living {
                sum.live += 1;
                sum.live_bytes += length;
            } else {
                sum.live = sum.live.saturating_sub(1);
                sum.live_bytes = sum.live_bytes.saturating_sub(length);
            }
        }
    }

    /// A survivor has become durable at another place.
    pub(crate) fn move_live(&mut self, from: Place, to: Place) {
        self.count_live(from, false);
        self.count_live(to, true);
        self.copied += u64::from(to.length);
    }

    /// Takes the time for the rates at which things go.
    pub(crate) fn look(&mut self, now: Duration) {
        self.flow.look(now, Counts { written: self.written, copied: self.copied, live: self.total.live_bytes });
    }

    /// So much was copied within that time, as fast as it could be.
    pub(crate) fn note_copied(&mut self, bytes: u64, took: Duration) {
        self.flow.note_copied(bytes, took);
    }

    /// A segment in which nothing lived took so long to go.
    pub(crate) fn note_released(&mut self, took: Duration) {
        self.flow.note_released(took);
    }

    /// The index takes so much of the disk.
    pub(crate) fn set_index(&mut self, bytes: u64) {
        self.index = bytes;
    }

    /// One is gone.
    pub(crate) fn remove(&mut self, number: u64) {
        if let Some(gone) = self.by_number.remove(&number) {
            self.total.used = self.total.used.saturating_sub(gone.used);
            self.total.live_bytes = self.total.live_bytes.saturating_sub(gone.live_bytes);
            self.total.live = self.total.live.saturating_sub(gone.live);
        }
    }

    /// The oldest segment, if it should go: nothing in it lives, or little, or the whole log has too much that is dead. `open` is
    /// being written.
    pub(crate) fn candidate(&self, segment_size: u64, open: u64) -> Option<u64> {
        let (oldest, segment) = self.by_number.first_key_value()?;
        if *oldest == open {
            return None;
        }
        let sparse = segment.live_bytes * 4 < segment.used;
        let bloated = || self.total.used > self.tolerated(segment_size) || self.is_late(segment_size, open, BEGIN_HASTE);
        (segment.live == 0 || sparse || bloated()).then_some(*oldest)
    }

    /// The oldest segment, which goes, and those behind it up to the first in which something lives. Not the open one: what is in it may
    /// live a moment later.
    pub(crate) fn dead_from(&self, going: u64, open: u64) -> Vec<u64> {
        let goes = |(number, segment): &(&u64, &Use)| **number == going || segment.live == 0;
        self.by_number.range(going..open).take_while(goes).map(|(number, _)| *number).collect()
    }

    /// So many bytes may be used before segments are copied that are mostly alive.
    fn tolerated(&self, segment_size: u64) -> u64 {
        // However much the index takes: of a log without much that is dead nothing comes back.
        self.share().max(self.total.live_bytes / 4 * 5) + segment_size / 2
    }

    /// What the log may take of twice what lives: a quarter of what lives is left for the index, or as much as it needs.
    fn share(&self) -> u64 {
        (2 * self.total.live_bytes).saturating_sub(self.merged().max(self.total.live_bytes / 4))
    }

    /// What the index takes while it is merged: it stands beside what replaces it.
    fn merged(&self) -> u64 {
        2 * self.index
    }

    /// Whether the log passes its bound before what is dead has come back, if all that lives in front of it is copied from now on, while
    /// things go so many quarters as fast as they do.
    fn is_late(&self, segment_size: u64, open: u64, haste: u64) -> bool {
        let Use { used, live_bytes, .. } = self.total;
        if used < live_bytes + live_bytes / 4 + segment_size / 2 {
            return false;
        }
        let index = self.merged().max(live_bytes / 8);
        let bound = (2 * live_bytes + 2 * segment_size).saturating_sub(index + segment_size / 4);
        let (mut time, mut freed) = (Duration::ZERO, 0);
        for (_, segment) in self.by_number.range(..open) {
            time = time.saturating_add(self.flow.release(segment.live_bytes));
            let nearer = self.flow.approach(time).saturating_mul(haste) / 4;
            // A segment stands on disk twice while it is copied.
            if used.saturating_add(segment.live_bytes).saturating_add(nearer) > bound + freed {
                return true;
            }
            freed += segment.used.saturating_sub(segment.live_bytes);
            if freed > nearer + segment_size {
                // From here on more comes back than is added.
                return false;
            }
        }
        false
    }

    /// Whether the log has come up to its bound, beside the room reserved ahead of its end and so much more.
    pub(crate) fn is_at_bound(&self, segment_size: u64, reserve: u64) -> bool {
        let Use { used, live_bytes, .. } = self.total;
        let share = (2 * live_bytes).saturating_sub(self.index).max(live_bytes / 4 * 5);
        used > (share + 2 * segment_size).saturating_sub(reserve + segment_size / 8)
    }

    /// How many spare segments there is room for beside the open one, if one more goes: with them the log stays within its bound.
    pub(crate) fn room_for_spares(&self, segment_size: u64, open: u64, going: Option<u64>) -> u64 {
        self.room(segment_size, open, going).unwrap_or(0) / spare_size(segment_size).max(1)
    }

    /// Whether the open segment may take all of its room at once, beside so many spares.
    pub(crate) fn may_fill(&self, segment_size: u64, open: u64, spares: u64) -> bool {
        self.room(segment_size, open, None).is_some_and(|room| room >= spares * spare_size(segment_size))
    }

    /// What is left of the bound beside the open segment, whole, and the others but one that goes; none if they pass it.
    fn room(&self, segment_size: u64, open: u64, going: Option<u64>) -> Option<u64> {
        let going = going.map_or(0, |going| self.of(going).used);
        let others = self.total.used.saturating_sub(self.of(open).used + going);
        let bound = self.share() + 2 * segment_size;
        bound.checked_sub(others + segment_size)
    }

    /// Whether the log comes so near to its bound that copying must be as fast as it can.
    pub(crate) fn is_pressing(&self, segment_size: u64, open: u64) -> bool {
        self.total.used > self.tolerated(segment_size) + segment_size / 4 || self.is_late(segment_size, open, PRESS_HASTE)
    }
}

/// Spreads copying over time.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    next: Duration,
}

/// What is copied may be ahead of its time by so much: few long waits instead of many short ones.
const AHEAD: Duration = Duration::from_millis(50);

impl Pace {
    /// So many bytes a second.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Duration::ZERO }
    }

    /// So much was copied.
    pub(crate) fn copied(&mut self, bytes: u64, now: Duration) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        self.next = self.next.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    /// How long to wait before more is copied.
    pub(crate) fn wait(&self, now: Duration) -> Duration {
        Some(self.next.saturating_sub(now)).filter(|wait| *wait > AHEAD).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(uses: &[(u64, u64)]) -> Segments {
        let uses =
            uses.iter().map(|(used, live_bytes)| Use { used: *used, live_bytes: *live_bytes, live: live_bytes.div_ceil(100) });
        Segments::new((1..).zip(uses).collect())
    }

    #[test]
    fn the_oldest_goes_when_it_is_dead_or_sparse_or_the_log_is_bloated() {
        let go = |uses: &[(u64, u64)]| segments(uses).candidate(1000, uses.len() as u64);
        assert_eq!(go(&[]), None);
        assert_eq!(go(&[(900, 0)]), None, "it is open");
        assert_eq!(go(&[(900, 0), (0, 0)]), Some(1));
        assert_eq!(go(&[(900, 200), (0, 0)]), Some(1), "less than a quarter");
        assert_eq!(go(&[(900, 300), (0, 0)]), None);
        assert_eq!(go(&[(900, 900), (900, 0), (300, 0)]), Some(1), "2100 used, 900 live");
        assert_eq!(go(&[(900, 900), (900, 0), (200, 0)]), None);
        // Full of what lives: copying would win nothing.
        assert_eq!(go(&[(900, 900); 50]), None);
    }

    #[test]
    fn those_that_are_dead_behind_the_oldest_go_with_it_but_never_the_open_one() {
        let dead = |uses: &[(u64, u64)]| segments(uses).dead_from(1, uses.len() as u64);
        assert_eq!(dead(&[(900, 0), (900, 0), (900, 100), (900, 0), (0, 0)]), [1, 2]);
        assert_eq!(dead(&[(900, 0), (900, 0), (500, 0)]), [1, 2]);
    }

    #[test]
    fn what_is_counted_as_dead_or_gone_no_longer_counts() {
        let mut segments = segments(&[(900, 300), (0, 0)]);
        assert_eq!(segments.candidate(1000, 2), None);
        segments.count_live(Place { segment: 1, offset: 0, length: 100 }, false);
        assert_eq!((segments.candidate(1000, 2), segments.of(1).live), (Some(1), 2));
        segments.remove(1);
        assert_eq!((segments.total(), segments.len()), (Use::default(), 1));
    }

    #[test]
    fn spares_take_what_the_bound_leaves_beside_the_open_segment() {
        let room = |uses: &[(u64, u64)], going| segments(uses).room_for_spares(1000, uses.len() as u64, going);
        // Of two segments one is open, and three quarters of one is a spare.
        assert_eq!(room(&[(900, 0)], None), 1);
        assert_eq!(room(&[(251, 0), (0, 0)], None), 0, "something dead stands yet");
        assert_eq!(room(&[(1000, 0), (0, 0)], Some(1)), 1, "it goes");
        // Of what lives, three quarters are room once more.
        assert_eq!(room(&[(1000, 1000), (1000, 1000), (0, 0)], None), 3);
        assert_eq!(room(&[(1000, 1000), (1000, 0), (1000, 0), (0, 0)], None), 0);
        let fill = |uses: &[(u64, u64)], spares| segments(uses).may_fill(1000, uses.len() as u64, spares);
        assert!(fill(&[(900, 0)], 1) && !fill(&[(900, 0)], 2) && !fill(&[(1001, 0), (0, 0)], 0) && fill(&[(1000, 0), (0, 0)], 0));
    }

    #[test]
    fn the_room_that_the_index_takes_is_none_for_the_log() {
        let mut all = segments(&[(1000, 1000), (1000, 1000), (1000, 0), (700, 0), (0, 0)]);
        assert_eq!((all.candidate(1000, 5), all.room_for_spares(1000, 5, None)), (None, 1));
        all.set_index(250);
        assert_eq!(
            (all.candidate(1000, 5), all.room_for_spares(1000, 5, None)),
            (None, 1),
            "a quarter of what lives was left for it and what replaces it"
        );
        all.set_index(450);
        assert_eq!((all.candidate(1000, 5), all.room_for_spares(1000, 5, None)), (Some(1), 0));
        // Copying what lives makes no room beside an index that is too large.
        let mut full = segments(&[(1000, 1000), (1000, 1000), (900, 0), (0, 0)]);
        full.set_index(100_000);
        assert_eq!(full.candidate(1000, 4), None);
    }

    #[test]
    fn copying_keeps_to_its_rate_and_never_saves_time_up() {
        let mut pace = Pace::new(1000);
        let second = Duration::from_secs(1);
        assert_eq!(pace.wait(Duration::ZERO), Duration::ZERO);
        pace.copied(500, second * 100);
        pace.copied(1500, second * 100);
        assert_eq!((pace.wait(second * 100), pace.wait(second * 101)), (second * 2, second));
        assert_eq!(pace.wait(second * 500), Duration::ZERO);
    }
}
