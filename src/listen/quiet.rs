//! Keeps a flood out of the log: what a limit turned away is told once a second, the rest at a level that is mostly off.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::limits::Refusal;
use crate::event::{Event, Events};

/// A limit that was told of isn't told of again before this time is over.
const QUIET: Duration = Duration::from_secs(1);

/// When each limit was last told of.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// By the limit's name: a handful.
    told: Mutex<BTreeMap<&'static str, Duration>>,
}

impl Quiet {
    /// Tells that a limit was reached.
    pub(super) fn report(&self, events: &Events, now: Duration, client: Option<IpAddr>, refusal: Refusal) {
        let Refusal { limit, value } = refusal;
        let new = self.is_new(limit, now);
        events.report(if new { Event::Limited { client, limit, value } } else { Event::LimitedAgain { client, limit, value } });
    }

    /// Whether this is to be told, and wasn't in the last second.
    pub(super) fn is_new(&self, what: &'static str, now: Duration) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let new = told.get(what).is_none_or(|last| now.saturating_sub(*last) >= QUIET);
        if new {
            told.insert(what, now);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second() {
        let (quiet, events) = (Quiet::default(), Events::recording());
        for tenth in 0..25 {
            for limit in ["limits.connections", "limits.errors"] {
                quiet.report(&events, Duration::from_millis(tenth * 100), None, Refusal { limit, value: 1 });
            }
        }
        let count = |name| events.recorded().iter().filter(|event| event.name() == name).count();
        assert_eq!((count("limited"), count("limited-again")), (6, 44));
    }
}
