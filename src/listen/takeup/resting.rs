//! Files in the drop folder that aren't looked at now: they stay where they lie, or are tried again in a while. Owns their names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Names that are remembered of each kind.
const NAMES_MAX: usize = 10_000;

/// See the module. Times are monotonic.
#[derive(Default)]
pub(super) struct Resting {
    /// Files that are left where they lie; each is told of once.
    left: BTreeSet<String>,
    /// Files that couldn't be read, each told of once too, and when each is tried again.
    unread: BTreeMap<String, Duration>,
}

impl Resting {
    /// Remembers a file that stays where it is.
    pub(super) fn leave(&mut self, name: &str) {
        if self.left.len() >= NAMES_MAX {
            self.left.clear();
        }
        self.left.insert(name.to_owned());
    }

    /// Has a file that can't be read rest until `again`: it may be no fault of its own. Whether that is new.
    pub(super) fn put_off(&mut self, name: &str, again: Duration) -> bool {
        if self.unread.len() >= NAMES_MAX {
            self.unread.clear();
        }
        self.unread.insert(name.to_owned(), again).is_none()
    }

    /// A file could be read.
    pub(super) fn was_read(&mut self, name: &str) {
        self.unread.remove(name);
    }

    /// Whether a file isn't to be looked at now.
    pub(super) fn has(&self, name: &str, now: Duration) -> bool {
        self.left.contains(name) || self.unread.get(name).is_some_and(|again| now < *again)
    }
}
