//! What the attempts at a site say of it: whether it can be reached. State: the sites that could not be, of late.
//!
//! A site that several attempts in a row could not reach is down. Its mail then waits without attempts of its own; when the
//! time has come one attempt is made, the probe, and its result counts for all.

use std::collections::BTreeMap;

use super::backoff::{backoff, hinted};
use crate::config::Retry;
use crate::mail::{Cause, Diagnosis, Outcome, Site, Timestamp};

/// So many attempts in a row that didn't reach it make a site down. Several may be in flight when it goes, so that this is
/// no sign of a long outage yet.
const FAILURES_MIN: u32 = 3;
/// Sites that are remembered; what can't be remembered counts as up.
const REMEMBERED_MAX: usize = 20_000;

/// A site that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// When the next attempt is made.
    pub until: Timestamp,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// How the last one did.
    pub why: Diagnosis,
}

/// What an attempt's end says of its site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It was reached; whatever it said.
    Reached,
    /// It could not be.
    Unreached(Diagnosis),
    /// Nothing: it never came to that.
    Nothing,
}

impl News {
    /// What the outcomes of an attempt say.
    pub(super) fn of(outcomes: &[(u32, Outcome)]) -> Self {
        let unreached = |outcome: &Outcome| match outcome {
            Outcome::Deferred(found) => found.turned_away || matches!(found.cause, Cause::Connection | Cause::Dns),
            _ => false,
        };
        let local = |outcome: &Outcome| outcome.diagnosis().cause == Cause::Local;
        match outcomes.first() {
            Some((_, first)) if outcomes.iter().all(|(_, outcome)| unreached(outcome)) => {
                Self::Unreached(first.diagnosis().clone())
            }
            Some(_) if !outcomes.iter().all(|(_, outcome)| local(outcome)) => Self::Reached,
            _ => Self::Nothing,
        }
    }
}

/// The sites that failed of late.
#[derive(Debug, Default)]
pub(super) struct Health {
    failing: BTreeMap<Site, Down>,
}

impl Health {
    /// Whether the site is down, and not to be tried now.
    pub(super) fn down(&self, now: Timestamp, site: &Site) -> Option<&Down> {
        self.failing.get(site).filter(|down| down.failures >= FAILURES_MIN && down.until > now)
    }

    /// Sites that are down, or may soon be.
    pub(super) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.failing.keys()
    }

    /// The same, from this one on.
    pub(super) fn from(&self, first: Site) -> impl Iterator<Item = &Site> {
        self.failing.range(first..).map(|(site, _)| site)
    }

    /// Whether only one attempt at a time is of use: the site was down, and nobody has reached it since.
    pub(super) fn is_probed(&self, site: &Site) -> bool {
        self.failing.get(site).is_some_and(|down| down.failures >= FAILURES_MIN)
    }

    /// An attempt didn't reach it. The state of things if that makes it down, or keeps it so.
    pub(super) fn failed(&mut self, now: Timestamp, site: &Site, why: Diagnosis, retry: &Retry, random: f64) -> Option<Down> {
        if !self.failing.contains_key(site) && self.failing.len() >= REMEMBERED_MAX {
            self.failing.retain(|_, down| down.until > now);
            if self.failing.len() >= REMEMBERED_MAX {
                return None;
            }
        }
        let fresh = Down { until: now, failures: 0, why: why.clone() };
        let down = self.failing.entry(site.clone()).or_insert(fresh);
        down.why = why;
        // Those that were in flight beside the one that made it down add nothing to what is known.
        if down.failures >= FAILURES_MIN && down.until > now {
            return None;
        }
        down.failures = down.failures.saturating_add(1);
        let probes = down.failures.saturating_sub(FAILURES_MIN) + 1;
        let hinted = down.why.wait.and_then(|wait| hinted(retry, probes, wait, random));
        down.until = now.plus(hinted.unwrap_or_else(|| backoff(retry, probes, false, random)));
        (down.failures >= FAILURES_MIN).then(|| down.clone())
    }

    /// It was reached. What was known if it was down.
    pub(super) fn reached(&mut self, site: &Site) -> Option<Down> {
        self.failing.remove(site).filter(|down| down.failures >= FAILURES_MIN)
    }

    /// The next attempt is made at once.
    pub(super) fn forgive(&mut self, site: &Site) {
        self.failing.remove(site);
    }

    /// A clock that was set back: nothing is put off beyond `latest`.
    pub(super) fn clamp(&mut self, latest: Timestamp) {
        self.failing.values_mut().for_each(|down| down.until = down.until.min(latest));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::backoff::tests::retry;
    use super::*;
    use crate::mail::{Destination, Domain, EnhancedCode};

    fn mx() -> Site {
        Site::Own(Destination::Mx(Domain::parse("a.test").unwrap()))
    }

    fn found(cause: Cause) -> Diagnosis {
        Diagnosis::new(EnhancedCode(4, 4, 1), cause, "Connection refused")
    }

    fn fail(health: &mut Health, seconds: u64) -> Option<u64> {
        let now = Timestamp::from_millis(seconds * 1000);
        health.failed(now, &mx(), found(Cause::Connection), &retry(), 0.5).map(|down| down.until.as_millis() / 1000)
    }

    #[test]
    fn three_failures_in_a_row_make_it_down_and_each_probe_that_fails_doubles_the_wait() {
        let mut health = Health::default();
        assert_eq!([fail(&mut health, 0), fail(&mut health, 1)], [None, None]);
        assert!(!health.is_probed(&mx()));
        assert_eq!(fail(&mut health, 2), Some(302));
        assert_eq!(fail(&mut health, 3), None, "it was in flight before");
        assert!(health.is_probed(&mx()));
        let down = |health: &Health, seconds: u64| health.down(Timestamp::from_millis(seconds * 1000), &mx()).is_some();
        assert!(down(&health, 301) && !down(&health, 302));
        assert_eq!(fail(&mut health, 302), Some(902));
        assert_eq!(fail(&mut health, 902), Some(2102));
        assert_eq!(health.reached(&mx()).unwrap().failures, 5);
        assert!(!health.is_probed(&mx()) && !down(&health, 903));
        assert_eq!(health.reached(&mx()), None);
    }

    #[test]
    fn a_host_that_says_when_to_come_back_is_probed_then() {
        let (mut health, site, retry) = (Health::default(), mx(), Retry { jitter: 0.0, ..retry() });
        let busy = Diagnosis { turned_away: true, wait: Some(Duration::from_secs(1200)), ..found(Cause::Remote) };
        let mut fail = |at: u64| health.failed(Timestamp::from_millis(at * 1000), &site, busy.clone(), &retry, 0.5);
        assert_eq!([fail(0), fail(0)], [None, None]);
        assert_eq!(fail(0).unwrap().until, Timestamp::from_millis(1_200_000));
        assert_eq!(fail(1200).unwrap().until, Timestamp::from_millis(2_400_000));
    }

    #[test]
    fn whoever_answers_is_reached_whatever_it_says() {
        let news = |outcomes: Vec<Outcome>| News::of(&(0..).zip(outcomes).collect::<Vec<_>>());
        let (cut, says, ours) = (found(Cause::Connection), found(Cause::Remote), found(Cause::Local));
        assert_eq!(news(vec![Outcome::Deferred(cut.clone()), Outcome::Deferred(cut.clone())]), News::Unreached(cut.clone()));
        assert_eq!(news(vec![Outcome::Deferred(cut.clone()), Outcome::Delivered(says.clone())]), News::Reached);
        assert_eq!(news(vec![Outcome::Deferred(says)]), News::Reached);
        let away = Diagnosis { turned_away: true, ..found(Cause::Remote) };
        assert_eq!(news(vec![Outcome::Deferred(away.clone())]), News::Unreached(away));
        assert_eq!(news(vec![Outcome::InDoubt(cut)]), News::Reached, "it took all of the message");
        assert_eq!(news(vec![Outcome::Deferred(ours)]), News::Nothing);
        assert_eq!(news(vec![]), News::Nothing);
    }
}
