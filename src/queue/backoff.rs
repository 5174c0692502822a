//! The waiting rule: how long a recipient waits after its n-th failed attempt.

use std::time::Duration;

use crate::config::Retry;

/// An attempt in doubt may have delivered: the next hop gets this many times the usual wait to show its duplicate filter.
const IN_DOUBT_FACTOR: f64 = 2.0;
/// So many attempts may be planned by what the remote says. One that says "in a minute" for days isn't asked each minute for days.
const HINTS_MAX: u32 = 12;

/// The wait after `attempts` ended attempts (1 for the first): `first`, each further one `factor` times the last, at the most
/// `max`, then plus or minus the jitter's share by `random` (0 to 1). `in_doubt` doubles it.
pub fn backoff(retry: &Retry, attempts: u32, in_doubt: bool, random: f64) -> Duration {
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = retry.first.as_secs_f64() * retry.factor.max(1.0).powi(exponent);
    let capped = grown.min(retry.max.as_secs_f64());
    let share = retry.jitter.clamp(0.0, 1.0) * (2.0 * random.clamp(0.0, 1.0) - 1.0);
    let wait = capped * (1.0 + share) * if in_doubt { IN_DOUBT_FACTOR } else { 1.0 };
    Duration::try_from_secs_f64(wait).unwrap_or(retry.max)
}

/// The wait that the remote asks for, within the bounds, plus up to the jitter's share: never sooner than it says. None where it doesn't
/// count: hints are turned off, or so many attempts came to nothing that the remote doesn't mean what it says.
pub(super) fn hinted(retry: &Retry, attempts: u32, hint: Duration, random: f64) -> Option<Duration> {
    if retry.hint_max.is_zero() || attempts > HINTS_MAX {
        return None;
    }
    let wait = hint.max(retry.hint_min).min(retry.hint_max);
    let share = 1.0 + retry.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0);
    Duration::try_from_secs_f64(wait.as_secs_f64() * share).ok()
}

/// The longest wait that `backoff` or `hinted` ever gives: whoever seems to wait longer was planned under another clock.
pub fn wait_max(retry: &Retry) -> Duration {
    let longest = (retry.max.as_secs_f64() * IN_DOUBT_FACTOR).max(retry.hint_max.as_secs_f64());
    let longest = longest * (1.0 + retry.jitter.clamp(0.0, 1.0));
    Duration::try_from_secs_f64(longest).unwrap_or(retry.max)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The defaults of the configuration.
    pub(crate) fn retry() -> Retry {
        Retry {
            first: Duration::from_secs(300),
            factor: 2.0,
            max: Duration::from_secs(4 * 3600),
            jitter: 0.1,
            lifetime: Duration::from_secs(5 * 86400),
            bounce_lifetime: Duration::from_secs(86400),
            delay_notice: vec![Duration::from_secs(4 * 3600)],
            hint_min: Duration::from_secs(30),
            hint_max: Duration::from_secs(4 * 3600),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<u64> = (1..=9).map(|n| backoff(&retry(), n, false, 0.5).as_secs()).collect();
        assert_eq!(waits, [300, 600, 1200, 2400, 4800, 9600, 14400, 14400, 14400]);
        assert_eq!(backoff(&retry(), u32::MAX, false, 0.5).as_secs(), 14400);
        assert_eq!(backoff(&retry(), 0, false, 0.5).as_secs(), 300);
    }

    #[test]
    fn jitter_stays_within_its_share_and_doubt_doubles() {
        assert_eq!(backoff(&retry(), 1, false, 0.0).as_secs(), 270);
        assert_eq!(backoff(&retry(), 1, false, 1.0).as_secs(), 330);
        assert_eq!(backoff(&retry(), 1, true, 0.5).as_secs(), 600);
        assert_eq!(backoff(&retry(), 1, false, 7.0).as_secs(), 330);
        assert!(backoff(&retry(), 99, true, 1.0) <= wait_max(&retry()));
    }

    #[test]
    fn a_hint_counts_within_its_bounds_and_never_sooner() {
        let seconds =
            |attempts, hint, random| hinted(&retry(), attempts, Duration::from_secs(hint), random).map(|wait| wait.as_secs());
        assert_eq!([seconds(1, 300, 0.0), seconds(1, 300, 0.5), seconds(1, 300, 1.0)], [Some(300), Some(315), Some(330)]);
        assert_eq!([seconds(1, 1, 0.0), seconds(1, 86_400, 0.0)], [Some(30), Some(14_400)]);
        assert_eq!([seconds(12, 60, 0.0), seconds(13, 60, 0.0)], [Some(60), None]);
        assert!(hinted(&retry(), 1, Duration::MAX, 1.0).unwrap() <= wait_max(&retry()));
        let off = Retry { hint_max: Duration::ZERO, ..retry() };
        assert_eq!(hinted(&off, 1, Duration::from_secs(300), 0.0), None);
        let long = Retry { max: Duration::from_secs(600), hint_max: Duration::from_secs(86_400), ..retry() };
        assert!(hinted(&long, 1, Duration::MAX, 1.0).unwrap() <= wait_max(&long));
    }

    #[test]
    fn odd_settings_give_sane_waits() {
        let odd = Retry { factor: 0.1, jitter: 5.0, ..retry() };
        assert_eq!(backoff(&odd, 3, false, 0.5).as_secs(), 300);
        assert_eq!(backoff(&odd, 3, false, 0.0).as_secs(), 0);
        let endless = Retry { max: Duration::MAX, factor: 1e300, ..retry() };
        assert!(backoff(&endless, 50, true, 1.0) > Duration::from_secs(1));
    }
}
