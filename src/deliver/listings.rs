//! Which messages of ours a mailbox has had: one look at its folders serves all messages that may have been delivered there by an earlier
//! try. State: the names that were found, and those given since.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::system::Disk;

/// Names that are remembered, of all mailboxes together; a mailbox with more is looked at for each message.
const NAMES_MAX: usize = 200_000;

/// See the module.
#[derive(Default)]
pub(super) struct Listings(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    folders: BTreeMap<PathBuf, BTreeSet<String>>,
    count: usize,
}

impl Listings {
    /// Whether the file of this name may be in the mailbox, under new/ or, with flags, under cur/. If not, it surely isn't: what was there
    /// when the mailbox was looked at is remembered wherever readers move it, and so is what came since.
    pub(super) fn may_have(&self, disk: &dyn Disk, folder: &Path, name: &str) -> io::Result<bool> {
        let mut seen = self.seen();
        if let Some(names) = seen.folders.get(folder) {
            return Ok(has(names, name));
        }
        // In this order: what a reader moves meanwhile is seen twice rather than never.
        let names: BTreeSet<String> =
            list(disk, &folder.join("new"))?.into_iter().chain(list(disk, &folder.join("cur"))?).collect();
        let found = has(&names, name);
        if names.len() <= NAMES_MAX {
            if seen.count + names.len() > NAMES_MAX {
                *seen = Seen::default();
            }
            seen.count += names.len();
            seen.folders.insert(folder.to_owned(), names);
        }
        Ok(found)
    }

    /// A file was given this name.
    pub(super) fn add(&self, folder: &Path, name: &str) {
        let mut seen = self.seen();
        let Seen { folders, count } = &mut *seen;
        if let Some(names) = folders.get_mut(folder) {
            *count += usize::from(names.insert(name.to_owned()));
        }
        if *count > NAMES_MAX {
            *seen = Seen::default();
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Every change is complete before the lock is released.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file has a name, as we gave it or with what readers append.
pub(super) fn is_named(file: &str, name: &str) -> bool {
    file.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn has(names: &BTreeSet<String>, name: &str) -> bool {
    names.range(name.to_owned()..).take_while(|file| file.starts_with(name)).any(|file| is_named(file, name))
}

fn list(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<String>> {
    match disk.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemDisk;

    #[test]
    fn one_look_serves_all_messages_and_what_was_given_since_is_known() {
        let home = tempfile::tempdir().unwrap();
        let (folder, listings) = (home.path().join("ann"), Listings::default());
        let may_have = |name: &str| listings.may_have(&SystemDisk, &folder, name).unwrap();
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
        assert!(!listings.may_have(&SystemDisk, home.path(), "x").unwrap());
        for number in 0..=NAMES_MAX {
            listings.add(home.path(), &number.to_string());
        }
        assert_eq!(listings.seen().count, 0, "all are forgotten, and the next look finds them");
        listings.add(home.path(), "unheard of");
        assert_eq!(listings.seen().folders.len(), 0);
    }
}
