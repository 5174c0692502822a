//! RCPT TO a mailbox that is full: better told now than by a notice later. State: what was seen of mailboxes a moment ago.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Client, Policy};
use crate::directory::quota::{Quotas, Usage};
use crate::mail::{Address, EnhancedCode, Reply, Service};
use crate::system::System;

/// What was seen of a mailbox counts for so long.
const SEEN_FOR: Duration = Duration::from_secs(10);
/// Mailboxes that are remembered; beyond that all are forgotten, which only costs another look.
const SEEN_MAX: usize = 16 * 1024;

/// What is known of mailboxes that have a quota.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    quotas: Arc<Quotas>,
    seen: Mutex<BTreeMap<PathBuf, Seen>>,
}

/// What was found: octets that fit, and octets that didn't.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Duration,
    fits: Option<u64>,
    too_much: Option<u64>,
}

impl Seen {
    fn new(at: Duration) -> Self {
        Self { at, fits: None, too_much: None }
    }

    /// Whether so much doesn't fit, if that follows from what was seen.
    fn is_full(&self, octets: u64) -> Option<bool> {
        match (self.fits, self.too_much) {
            (Some(fits), _) if octets <= fits => Some(false),
            (_, Some(too_much)) if octets >= too_much => Some(true),
            _ => None,
        }
    }

    fn add(&mut self, octets: u64, is_full: bool) {
        let known = if is_full { &mut self.too_much } else { &mut self.fits };
        *known = Some(octets);
    }
}

impl Rooms {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen of a mailbox within the last moment.
    fn recall(&self, folder: &Path, now: Duration) -> Option<Seen> {
        self.seen().get(folder).copied().filter(|seen| now.saturating_sub(seen.at) < SEEN_FOR)
    }

    fn remember(&self, folder: PathBuf, seen: Seen) {
        let mut all = self.seen();
        if all.len() >= SEEN_MAX {
            all.clear();
        }
        all.insert(folder, seen);
    }
}

impl Policy {
    /// Whether the mailbox of a recipient has room for a message: of the size that was declared, or of any. What an alias leads to is
    /// found out at delivery, and so is what can't be found out here.
    pub async fn room(&self, client: &Client, system: &System, address: &Address, size: Option<u64>) -> Result<(), Reply> {
        if client.service == Service::Local {
            return Ok(());
        }
        let Some((folder, quota)) = self.directory.quota(address) else { return Ok(()) };
        let (octets, now) = (size.unwrap_or(0).max(1), system.clock.monotonic());
        let mut seen = self.rooms.recall(&folder, now).unwrap_or_else(|| Seen::new(now));
        let is_full = match seen.is_full(octets) {
            Some(is_full) => is_full,
            None => {
                let (quotas, disk, path, time) =
                    (Arc::clone(&self.rooms.quotas), Arc::clone(&system.disk), folder.clone(), system.clock.now());
                let look = move || quotas.is_full(&*disk, &path, time, quota, Usage::of(octets));
                let Ok(is_full) = system.workers.blocking(look).await else { return Ok(()) };
                seen.add(octets, is_full);
                self.rooms.remember(folder, seen);
                is_full
            }
        };
        match (is_full, quota.bounce) {
            (false, _) => Ok(()),
            (true, true) => {
                Err(Reply::new(552, EnhancedCode(5, 2, 2), format!("<{address}>: no room for the message in the mailbox")))
            }
            (true, false) => {
                let text = format!("<{address}>: no room for the message in the mailbox now, try again later");
                Err(Reply::new(452, EnhancedCode(4, 2, 2), text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_answers_for_less_that_fits_and_more_that_does_not() {
        let mut seen = Seen::new(Duration::ZERO);
        assert_eq!(seen.is_full(1), None);
        seen.add(1000, false);
        seen.add(5000, true);
        let known = [1, 1000, 1001, 4999, 5000, u64::MAX].map(|octets| seen.is_full(octets));
        assert_eq!(known, [Some(false), Some(false), None, None, Some(true), Some(true)]);
        let rooms = Rooms::default();
        rooms.remember("a".into(), seen);
        assert!(rooms.recall(Path::new("a"), SEEN_FOR).is_none() && rooms.recall(Path::new("b"), Duration::ZERO).is_none());
        assert!(rooms.recall(Path::new("a"), SEEN_FOR / 2).is_some());
        for n in 0..SEEN_MAX * 2 {
            rooms.remember(format!("{n}").into(), seen);
        }
        assert!(rooms.seen().len() <= SEEN_MAX);
    }
}
