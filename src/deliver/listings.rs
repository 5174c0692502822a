//! Which messages of ours a mailbox has had: one look at its folders serves all messages that may have been delivered there by an earlier
//! try. State: the names that were found, and those given since.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names that are remembered, of all mailboxes together; a mailbox with more is looked at for each message.
const NAMES_MAX: usize = 200_000;

/// See the module. Only those wait for a look who ask for the same mailbox.
#[derive(Default)]
pub(super) struct Listings(Mutex<Seen>);

/// What a mailbox has had; none: nobody has looked yet.
type Mailbox = Arc<Mutex<Option<BTreeSet<String>>>>;

#[derive(Default)]
struct Seen {
    folders: BTreeMap<PathBuf, Mailbox>,
    /// Names, and mailboxes.
    count: usize,
}

impl Listings {
    /// Whether the file of this name may be in the mailbox, under new/ or, with flags, under cur/. If not, it surely isn't: what was there
    /// when the mailbox was looked at is remembered wherever readers move it, and so is what came since.
    pub(super) fn may_have(
        &self,
        list: impl Fn(&Path) -> io::Result<Vec<String>>,
        folder: &Path,
        name: &str,
    ) -> io::Result<bool> {
        let mailbox = locked(&self.0).mailbox(folder);
        let mut names = locked(&mailbox);
        if let Some(names) = &*names {
            return Ok(has(names, name));
        }
        // In this order: what a reader moves meanwhile is seen twice rather than never.
        let new = there(list(&folder.join("new")))?;
        let listed: BTreeSet<String> = new.into_iter().chain(there(list(&folder.join("cur")))?).collect();
        let found = has(&listed, name);
        if listed.len() <= NAMES_MAX && locked(&self.0).keeps(folder, &mailbox, listed.len()) {
            *names = Some(listed);
        }
        Ok(found)
    }

    /// A file was given this name.
    pub(super) fn add(&self, folder: &Path, name: &str) {
        let Some(mailbox) = locked(&self.0).folders.get(folder).cloned() else { return };
        let mut names = locked(&mailbox);
        if let Some(names) = &mut *names
            && names.insert(name.to_owned())
        {
            locked(&self.0).keeps(folder, &mailbox, 1);
        }
    }
}

impl Seen {
    fn mailbox(&mut self, folder: &Path) -> Mailbox {
        if let Some(mailbox) = self.folders.get(folder) {
            return mailbox.clone();
        }
        if self.count >= NAMES_MAX {
            *self = Self::default();
        }
        self.count += 1;
        self.folders.entry(folder.to_owned()).or_default().clone()
    }

    /// Counts more names of a mailbox, unless there are too many: then all are forgotten. `false` if the mailbox is, now or before: names may
    /// have been given since that nobody told it.
    fn keeps(&mut self, folder: &Path, mailbox: &Mailbox, more: usize) -> bool {
        if !self.folders.get(folder).is_some_and(|known| Arc::ptr_eq(known, mailbox)) {
            return false;
        }
        self.count += more;
        if self.count > NAMES_MAX {
            *self = Self::default();
            return false;
        }
        true
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before the lock is released.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file has a name, as we gave it or with what readers append.
pub(super) fn is_named(file: &str, name: &str) -> bool {
    file.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn has(names: &BTreeSet<String>, name: &str) -> bool {
    names.range(name.to_owned()..).take_while(|file| file.starts_with(name)).any(|file| is_named(file, name))
}

/// What a folder has; one that isn't there has nothing.
fn there(listed: io::Result<Vec<String>>) -> io::Result<Vec<String>> {
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Disk, SystemDisk};

    fn list(folder: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(folder)
    }

    #[test]
    fn one_look_serves_all_messages_and_what_was_given_since_is_known() {
        let home = tempfile::tempdir().unwrap();
        let (folder, listings) = (home.path().join("ann"), Listings::default());
        let may_have = |name: &str| listings.may_have(list, &folder, name).unwrap();
        let touch = |path: &str| std::fs::write(folder.join(path), "").unwrap();
        std::fs::create_dir_all(folder.join("new")).unwrap();
        touch("new/1.M2_AR0.h,S=3");
        std::fs::create_dir(folder.join("cur")).unwrap();
        touch("cur/1.M2_BR0.h,S=3:2,S");
        touch("cur/1.M2_CR0.h,S=34:2,S");
        let found = ["1.M2_AR0.h,S=3", "1.M2_BR0.h,S=3", "1.M2_CR0.h,S=3", "1.M2_DR0.h,S=3"].map(may_have);
        assert_eq!(found, [true, true, false, false]);
        // It isn't looked at again, wherever readers move what was there.
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(may_have("1.M2_AR0.h,S=3") && !may_have("1.M2_DR0.h,S=3"));
        listings.add(&folder, "1.M2_DR0.h,S=3");
        assert!(may_have("1.M2_DR0.h,S=3"));
    }

    #[test]
    fn no_more_names_are_remembered_than_there_is_memory_for() {
        let home = tempfile::tempdir().unwrap();
        let listings = Listings::default();
        assert!(!listings.may_have(list, home.path(), "x").unwrap());
        for number in 0..=NAMES_MAX {
            listings.add(home.path(), &number.to_string());
        }
        let left = |listings: &Listings| {
            let seen = locked(&listings.0);
            (seen.count, seen.folders.len())
        };
        assert_eq!(left(&listings), (0, 0), "all are forgotten, and the next look finds them");
        listings.add(home.path(), "unheard of");
        assert_eq!(left(&listings), (0, 0));
        for number in 0..=NAMES_MAX {
            locked(&listings.0).mailbox(&home.path().join(number.to_string()));
        }
        assert_eq!(left(&listings), (1, 1), "and empty mailboxes count, too");
    }

    #[test]
    fn a_mailbox_that_takes_long_to_look_at_keeps_no_other_waiting() {
        let listings = Listings::default();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let listings = &listings;
            let slow = scope.spawn(move || {
                let list = |_: &Path| {
                    let _ = begun.send(());
                    may_end.recv_timeout(std::time::Duration::from_secs(60)).map(|()| Vec::new()).map_err(io::Error::other)
                };
                listings.may_have(list, Path::new("/mail/slow"), "x")
            });
            has_begun.recv().unwrap();
            assert!(!listings.may_have(|_| Ok(Vec::new()), Path::new("/mail/quick"), "x").unwrap());
            listings.add(Path::new("/mail/quick"), "y");
            let _ = (end.send(()), end.send(()));
            assert!(!slow.join().unwrap().expect("the other one was looked at meanwhile"));
        });
    }

    #[test]
    fn what_came_while_a_mailbox_was_forgotten_is_looked_for_again() {
        let listings = Listings::default();
        let folder = Path::new("/mail/ann");
        let forgets = |_: &Path| {
            *locked(&listings.0) = Seen::default();
            listings.add(folder, "x");
            Ok(Vec::new())
        };
        assert!(!listings.may_have(forgets, folder, "y").unwrap());
        assert!(listings.may_have(|_| Ok(vec!["x".to_owned()]), folder, "x").unwrap());
    }
}
