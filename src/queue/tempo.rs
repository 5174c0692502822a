//! How many attempts at a time are of use at a site. State: how long they take, alone and now.
//!
//! More at a time make more go only while they don't wait for each other, here or there. Where attempts are short, and take much longer
//! than they did alone, it is for each other that they wait, and so would another sender's single letter: then fewer are made at a time.

use std::time::Duration;

use crate::mail::Timestamp;

/// Attempts at a time at a site that was not reached yet: a black hole holds no more than these.
const UNKNOWN: usize = 2;
/// Attempts at a time once it was.
const KNOWN: usize = 5;
/// What attempts take alone is measured with so many at a time,
const ALONE: usize = 2;
/// over so many,
const MEASURED: usize = 16;
/// and for no longer than this,
const MEASURING: Duration = Duration::from_secs(1);
/// and anew after this time.
const FRESH: Duration = Duration::from_secs(10);
/// Attempts that take longer wait for the other side, and may do so side by side.
const SHORT: Duration = Duration::from_millis(20);
/// So many attempts may wait for others: fewer, and there may be one more; more, and there is one less.
const WAITING: std::ops::RangeInclusive<f64> = 2.0..=3.0;
/// Never fewer than these for that reason.
const LEAST: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Tempo {
    /// How many at a time.
    limit: usize,
    phase: Phase,
    /// How long one takes alone, if that is short, and when that was measured.
    alone: Option<(Duration, Timestamp)>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was reached yet.
    Unknown,
    /// The first `skip` began among more; those behind them count. `limit` holds again afterwards.
    Alone { skip: usize, times: Vec<Duration>, limit: usize, until: Timestamp },
    /// A round of as many as there may be at a time.
    Round { times: Vec<Duration> },
}

impl Tempo {
    pub(super) fn new() -> Self {
        Self { limit: UNKNOWN, phase: Phase::Unknown, alone: None }
    }

    pub(super) fn limit(&self, now: Timestamp) -> usize {
        match self.phase {
            Phase::Alone { limit, until, .. } if until <= now => limit,
            _ => self.limit,
        }
    }

    /// When there may be more though no attempt ends: those that are measured don't hold others up for long.
    pub(super) fn measures_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.phase {
            Phase::Alone { until, .. } if until > now => Some(until),
            _ => None,
        }
    }

    /// Whether attempts there are short.
    pub(super) fn is_near(&self) -> bool {
        self.alone.is_some() || matches!(self.phase, Phase::Alone { .. })
    }

    /// An attempt didn't reach it.
    pub(super) fn unreached(&mut self) {
        if let Phase::Alone { limit, .. } = self.phase {
            self.limit = limit;
        }
        self.limit = (self.limit / 2).max(1);
        if !matches!(self.phase, Phase::Unknown) {
            self.phase = Phase::round();
        }
    }

    /// One reached it, and took so long; `in_flight` others still do.
    pub(super) fn reached(&mut self, now: Timestamp, took: Option<Duration>, in_flight: usize, limit_max: usize) {
        let took = took.unwrap_or(SHORT);
        match &mut self.phase {
            Phase::Unknown if took < SHORT => self.measure(now, KNOWN, in_flight),
            Phase::Unknown => (self.limit, self.phase) = (KNOWN, Phase::round()),
            // What takes so long isn't measured.
            Phase::Alone { limit, until, .. } if took >= SHORT || *until <= now => {
                (self.limit, self.phase, self.alone) = (*limit, Phase::round(), None);
            }
            Phase::Alone { skip: skip @ 1.., .. } => *skip -= 1,
            Phase::Alone { times, limit, .. } => {
                times.push(took);
                if times.len() >= MEASURED {
                    self.alone = Some((median(times), now));
                    (self.limit, self.phase) = (*limit, Phase::round());
                }
            }
            Phase::Round { times } => {
                times.push(took);
                if times.len() >= self.limit {
                    let usual = median(times);
                    self.phase = Phase::round();
                    self.learn(now, usual, in_flight, limit_max);
                }
            }
        }
    }

    /// What a round says.
    fn learn(&mut self, now: Timestamp, usual: Duration, in_flight: usize, limit_max: usize) {
        if usual >= SHORT {
            self.alone = None;
        }
        let waiting = match self.alone {
            _ if usual >= SHORT => 0.0,
            Some((alone, at)) if at.plus(FRESH) > now && at <= now => {
                self.limit as f64 * (1.0 - alone.as_secs_f64() / usual.max(Duration::from_nanos(1)).as_secs_f64())
            }
            _ => return self.measure(now, self.limit, in_flight),
        };
        if waiting < *WAITING.start() && self.limit < limit_max {
            self.limit += 1;
        } else if waiting > *WAITING.end() {
            self.limit = (self.limit - 1).max(LEAST);
        }
    }

    fn measure(&mut self, now: Timestamp, limit: usize, in_flight: usize) {
        self.phase = Phase::Alone { skip: in_flight, times: Vec::new(), limit, until: now.plus(MEASURING) };
        self.limit = ALONE.min(limit);
    }
}

impl Phase {
    fn round() -> Self {
        Self::Round { times: Vec::new() }
    }
}

/// What most were near to: a few that met with something else don't count.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts that take so long with so many at a time, always as many as there may be; the limits that they came to.
    fn play(tempo: &mut Tempo, count: usize, took: impl Fn(usize) -> Duration) -> Vec<usize> {
        let mut limits = Vec::new();
        let mut now = Duration::from_secs(1_000_000);
        for _ in 0..count {
            let limit = tempo.limit(Timestamp::ZERO.plus(now));
            now += took(limit) / limit as u32;
            tempo.reached(Timestamp::ZERO.plus(now), Some(took(limit)), limit - 1, 20);
            limits.push(tempo.limit(Timestamp::ZERO.plus(now)));
        }
        limits
    }

    #[test]
    fn a_distant_host_gets_as_many_as_are_allowed_and_soon() {
        let limits = play(&mut Tempo::new(), 300, |_| Duration::from_millis(100));
        assert_eq!((limits[0], limits[5], limits[250]), (5, 6, 20));
    }

    #[test]
    fn a_near_host_gets_as_many_as_it_takes_side_by_side() {
        let limits = play(&mut Tempo::new(), 1000, |_| Duration::from_millis(2));
        assert_eq!((limits[0], limits[20], limits[999]), (2, 5, 20));
    }

    #[test]
    fn where_attempts_wait_for_each_other_there_are_few() {
        // One core does all the work: so many at a time take so many times as long.
        let limits = play(&mut Tempo::new(), 5000, |limit| Duration::from_micros(200) * (limit.max(2) as u32) / 2);
        assert!(limits[100..].iter().all(|limit| (2..=6).contains(limit)), "{:?}", &limits[100..]);
        assert_eq!(limits.iter().filter(|limit| **limit == ALONE).count() / 100, 0, "hardly ever measured");
    }

    #[test]
    fn a_change_for_the_slower_is_not_taken_for_a_queue_for_long() {
        let mut tempo = Tempo::new();
        play(&mut tempo, 1000, |_| Duration::from_millis(1));
        let limits = play(&mut tempo, 5000, |_| Duration::from_millis(10));
        assert_eq!(limits.last(), Some(&20));
    }

    #[test]
    fn attempts_that_hang_while_they_are_measured_hold_nobody_up_for_long() {
        let (mut tempo, at) = (Tempo::new(), |millis: u64| Timestamp::from_millis(1_000_000 + millis));
        tempo.reached(at(0), Some(Duration::ZERO), 0, 20);
        assert_eq!((tempo.limit(at(999)), tempo.measures_until(at(999))), (2, Some(at(1000))));
        assert_eq!((tempo.limit(at(1000)), tempo.measures_until(at(1000))), (5, None));
        tempo.reached(at(5000), Some(Duration::from_secs(5)), 4, 20);
        assert_eq!(tempo.limit(at(5000)), 5);
    }

    #[test]
    fn failures_halve_and_success_brings_it_back() {
        let mut tempo = Tempo::new();
        play(&mut tempo, 300, |_| Duration::from_millis(100));
        for expected in [10, 5, 2, 1, 1] {
            tempo.unreached();
            assert_eq!(tempo.limit(Timestamp::ZERO), expected);
        }
        assert_eq!(play(&mut tempo, 300, |_| Duration::from_millis(100)).last(), Some(&20));
    }
}
