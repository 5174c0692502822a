//! Whether the log stands still: it can't be written, or a batch takes very long to become durable. What deliveries come to isn't on record
//! then, and they would be made again after a restart. Pure; the time is handed in, by the monotonic clock.

use std::time::Duration;

/// A batch that isn't durable after this time makes a standstill.
const BATCH_TIME_MAX: Duration = Duration::from_secs(2);
/// The same failure is told again after this time.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Standstill {
    /// Since when something that was taken to be written isn't durable.
    since: Option<Duration>,
    /// How the last try failed, if nothing was written since.
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    why: String,
    told: Duration,
}

impl Standstill {
    /// A batch is about to be written.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// It couldn't be. Says whether that is news.
    pub(crate) fn fail(&mut self, why: &str, now: Duration) -> bool {
        if self.failed.as_ref().is_some_and(|failed| failed.why == why && now < failed.told + TELL_EVERY) {
            return false;
        }
        self.failed = Some(Failed { why: why.to_owned(), told: now });
        true
    }

    /// All that was taken is durable.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    /// Whether the last try failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Why it stands still; none if it doesn't.
    pub(crate) fn why(&self, now: Duration) -> Option<String> {
        if let Some(failed) = &self.failed {
            return Some(format!("the log can't be written: {}", failed.why));
        }
        let time = now.saturating_sub(self.since?);
        (time > BATCH_TIME_MAX).then(|| format!("the disk hasn't made the log durable for {} seconds", time.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_failure_stands_until_something_is_written_and_is_told_once_a_minute() {
        let mut log = Standstill::default();
        log.begin(at(1));
        assert!(log.fail("EIO", at(1)) && !log.fail("EIO", at(2)) && log.fail("EROFS", at(3)));
        assert_eq!(log.why(at(3)).as_deref(), Some("the log can't be written: EROFS"));
        assert!(!log.fail("EROFS", at(62)) && log.fail("EROFS", at(63)) && log.has_failed());
        log.end();
        assert!(!log.has_failed() && log.why(at(100)).is_none() && log.fail("EROFS", at(64)));
    }

    #[test]
    fn a_batch_that_takes_long_is_a_standstill_too() {
        let mut log = Standstill::default();
        assert_eq!(log.why(at(9)), None);
        log.begin(at(10));
        log.begin(at(12));
        assert_eq!(log.why(at(12)), None);
        assert!(log.why(at(13)).is_some_and(|why| why.ends_with("for 3 seconds")));
        log.end();
        log.begin(at(14));
        assert_eq!(log.why(at(14)), None);
    }
}
