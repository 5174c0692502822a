//! Files in the drop folder that aren't looked at now: they stay where they lie, or are tried again in a while. Owns their names.

use std::collections::BTreeMap;
use std::time::Duration;

/// Names that are remembered of each kind. Further files are looked at in each walk, and nobody is told of them.
const NAMES_MAX: usize = 10_000;

/// See the module. Times are monotonic.
#[derive(Default)]
pub(super) struct Resting {
    /// Files that are left where they lie; each is told of once. With the walk that met them last.
    left: BTreeMap<String, u64>,
    /// Files that couldn't be read, each told of once too, when each is tried again, and the walk that met them last.
    unread: BTreeMap<String, (Duration, u64)>,
    /// The walk under way.
    walk: u64,
}

impl Resting {
    /// A walk through the folder is over, and another one begins. What it didn't meet isn't there any more.
    pub(super) fn walked(&mut self) {
        let walk = self.walk;
        self.left.retain(|_, met| *met == walk);
        self.unread.retain(|_, (_, met)| *met == walk);
        self.walk += 1;
    }

    /// Remembers a file that stays where it is. Whether that is to be told.
    pub(super) fn leave(&mut self, name: &str) -> bool {
        let has_room = self.left.len() < NAMES_MAX;
        if has_room {
            self.left.insert(name.to_owned(), self.walk);
        }
        has_room
    }

    /// Has a file that can't be read rest until `again`: it may be no fault of its own. Whether that is new, and to be told.
    pub(super) fn put_off(&mut self, name: &str, again: Duration) -> bool {
        let is_new = !self.unread.contains_key(name);
        if is_new && self.unread.len() >= NAMES_MAX {
            return false;
        }
        self.unread.insert(name.to_owned(), (again, self.walk));
        is_new
    }

    /// A file could be read.
    pub(super) fn was_read(&mut self, name: &str) {
        self.unread.remove(name);
    }

    /// Whether a file that the walk meets isn't to be looked at now.
    pub(super) fn has(&mut self, name: &str, now: Duration) -> bool {
        let walk = self.walk;
        let met = |last: &mut u64| *last = walk;
        let waits = self.unread.get_mut(name).is_some_and(|(again, last)| {
            met(last);
            now < *again
        });
        self.left.get_mut(name).map(met).is_some() || waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const AGAIN: Duration = Duration::from_secs(130);

    #[test]
    fn each_file_is_told_of_once_and_more_than_can_be_remembered_of_never() {
        let mut resting = Resting::default();
        let names: Vec<String> = (0..NAMES_MAX + 100).map(|number| number.to_string()).collect();
        let walk = |resting: &mut Resting| {
            let mut told = 0;
            for name in &names {
                if !resting.has(name, NOW) {
                    told += usize::from(if name.len() % 2 == 0 { resting.leave(name) } else { resting.put_off(name, NOW) });
                }
            }
            resting.walked();
            told
        };
        assert_eq!(walk(&mut resting), NAMES_MAX + 100);
        assert_eq!(walk(&mut resting), 0);

        let mut full = Resting::default();
        let told =
            names.iter().filter(|name| full.leave(name)).count() + names.iter().filter(|name| full.put_off(name, NOW)).count();
        assert_eq!(told, 2 * NAMES_MAX);
        for _ in 0..2 {
            full.walked();
            let unknown: Vec<&String> = names.iter().filter(|name| !full.has(name, NOW)).collect();
            assert_eq!(unknown.len(), 100);
            assert!(unknown.into_iter().all(|name| !full.leave(name) && !full.put_off(name, AGAIN)));
        }
    }

    #[test]
    fn what_a_walk_did_not_meet_is_forgotten() {
        let mut resting = Resting::default();
        assert!(resting.leave("stays") && resting.leave("goes") && resting.put_off("comes back", AGAIN));
        resting.walked();
        assert!(resting.has("stays", NOW) && resting.has("comes back", NOW) && !resting.has("comes back", AGAIN));
        resting.walked();
        assert!(resting.leave("goes"), "that is another file of the name");
        assert!(resting.has("stays", NOW) && !resting.put_off("comes back", AGAIN));
        resting.was_read("comes back");
        assert!(!resting.has("comes back", NOW) && resting.put_off("comes back", AGAIN));
    }
}
