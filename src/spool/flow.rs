//! How fast the log grows, what lives in it leaves, and survivors are copied. Pure: time is handed in.

use std::time::Duration;

/// Rates are taken over at least this time.
const WINDOW: Duration = Duration::from_millis(500);
/// What is taken for the speed of copying before any was seen; bytes a second.
const COPYING: u64 = 24 << 20;
/// And for how long a released segment takes beside it.
const RELEASING: Duration = Duration::from_millis(200);

/// What is counted since the start; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Records written, survivors' too.
    pub(crate) written: u64,
    /// Survivors' records among them.
    pub(crate) copied: u64,
    /// What lives now.
    pub(crate) live: u64,
}

/// Rates; bytes a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow {
    last: Option<(Duration, Counts)>,
    /// Of new records.
    arriving: u64,
    /// At which what lives becomes less.
    leaving: u64,
    /// At which survivors are copied if nothing holds that up; none was seen yet.
    copying: Option<u64>,
    /// How long a released segment takes beside that: the index's mark, and its name.
    releasing: Option<Duration>,
}

/// So many bytes within that time, as a rate.
fn rate(bytes: u64, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// A rate that grows at once and falls slowly: who goes by it is ready in time.
fn follow(rate: u64, seen: u64) -> u64 {
    seen.max(rate / 4 * 3 + seen / 4)
}

impl Flow {
    /// So it stands now.
    pub(crate) fn look(&mut self, now: Duration, counts: Counts) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, counts));
            return;
        };
        let took = now.saturating_sub(then);
        if took < WINDOW {
            return;
        }
        let new = |counts: Counts| counts.written.saturating_sub(counts.copied);
        self.arriving = follow(self.arriving, rate(new(counts).saturating_sub(new(before)), took));
        self.leaving = follow(self.leaving, rate(before.live.saturating_sub(counts.live), took));
        self.last = Some((now, counts));
    }

    /// So much was copied within that time, as fast as it could be.
    pub(crate) fn note_copied(&mut self, bytes: u64, took: Duration) {
        let seen = rate(bytes, took);
        self.copying = Some(self.copying.map_or(seen, |rate| rate / 4 * 3 + seen / 4));
    }

    /// A segment in which nothing lived took so long to go.
    pub(crate) fn note_released(&mut self, took: Duration) {
        self.releasing = Some(self.releasing.map_or(took, |before| (before * 3 + took) / 4));
    }

    /// By how much the log comes nearer to its bound within this time: it grows, and the bound, twice what lives, falls.
    pub(crate) fn approach(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.arriving + 2 * self.leaving) * time.as_nanos() / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// How long a segment takes to go in which so much lives.
    pub(crate) fn release(&self, bytes: u64) -> Duration {
        let rate = self.copying.unwrap_or(COPYING).max(1);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_add(self.releasing.unwrap_or(RELEASING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rates_rise_at_once_and_fall_slowly() {
        let mut flow = Flow::default();
        flow.look(SECOND, Counts { written: 1000, copied: 0, live: 5000 });
        assert_eq!(flow.approach(SECOND), 0, "one look tells nothing");
        flow.look(SECOND * 2, Counts { written: 4000, copied: 1000, live: 4000 });
        // 2000 new, and the bound 2000 lower.
        assert_eq!(flow.approach(SECOND), 4000);
        assert_eq!(flow.approach(SECOND / 2), 2000);
        flow.look(SECOND * 2 + WINDOW / 2, Counts { written: 90_000, copied: 1000, live: 4000 });
        assert_eq!(flow.approach(SECOND), 4000, "too soon");
        flow.look(SECOND * 3, Counts { written: 4000, copied: 1000, live: 9000 });
        assert_eq!(flow.approach(SECOND), 3000, "nothing came, and more lives");
    }

    #[test]
    fn a_release_takes_what_it_took_of_late() {
        let mut flow = Flow::default();
        assert_eq!(flow.release(COPYING), SECOND + RELEASING);
        flow.note_released(Duration::ZERO);
        flow.note_copied(1000, SECOND);
        assert_eq!(flow.release(3000), SECOND * 3);
        flow.note_copied(5000, SECOND);
        flow.note_released(SECOND * 4);
        assert_eq!(flow.release(2000), SECOND * 2);
    }
}
