//! The drop folder: where `posthouse sendmail` leaves mail, for the server to take up now or when it runs again.
//!
//! Owns the layout and the form of the files, nothing in memory. Who takes them up is `listen`; docs/sendmail.md explains the
//! rights on the folder.
//!
//! ```text
//! drop/new-…        is being written, or was given up
//! drop/mail-…       whole and durable: the server's to take up
//! drop/taken/ID.…   about to be committed under this id
//! drop/taken/ID.….refused   can't be taken up; the notice of it is about to be committed under this id
//! drop/refused/…    can't be taken up, and that was told; for the admin to look at
//! ```

mod file;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use crate::mail::QueueId;
use crate::system::{Disk, sync_above};

pub use file::{Dropped, OpenError};
pub use writer::{DropError, Writer};

/// Begins the name of a file that is being written.
const UNFINISHED: &str = "new-";
/// Begins the name of a whole one.
const WHOLE: &str = "mail-";
/// Ends the name of a file that is about to be refused: a plain name has no dot.
const REFUSAL: &str = ".refused";
/// Longest name that is looked at, octets.
const NAME_SIZE_MAX: usize = 64;

/// What a name in the drop folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A message.
    Whole,
    /// A message that is being written, or was given up.
    Unfinished,
    /// Nothing of ours.
    Foreign,
}

/// What a name stands for. Strangers choose names as they like: only plain ones are taken for ours.
pub fn named(name: &str) -> Named {
    let plain = name.len() <= NAME_SIZE_MAX && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    match plain {
        true if name.starts_with(WHOLE) => Named::Whole,
        true if name.starts_with(UNFINISHED) => Named::Unfinished,
        _ => Named::Foreign,
    }
}

/// The folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The drop folder.
    pub folder: PathBuf,
    /// What is about to be committed.
    pub taken: PathBuf,
    /// What can't be taken up.
    pub refused: PathBuf,
}

impl Layout {
    /// The folders below this one.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), taken: folder.join("taken"), refused: folder.join("refused") }
    }

    /// Makes the folders, durably; the server's part. `Err` also if the rights can't be given: see [`Layout::share`].
    pub fn make(&self, disk: &dyn Disk) -> io::Result<()> {
        // Before strangers may write: nobody else makes these two.
        for folder in [&self.taken, &self.refused] {
            disk.create_dir_all(folder)?;
        }
        disk.sync_dir(&self.folder)?;
        sync_above(disk, &self.folder)
    }

    /// Lets every user of the machine put mail into the folder. Where it lies in the spool, they must get through that.
    pub fn share(&self, disk: &dyn Disk, spool: &Path) -> io::Result<()> {
        disk.share_folder(&self.folder)?;
        if self.folder.parent() == Some(spool) { disk.let_pass(spool) } else { Ok(()) }
    }

    /// Where a file lies while its message, or the notice that it is refused, is committed under this id.
    pub fn taken_file(&self, id: QueueId, name: &str, end: End) -> PathBuf {
        let ending = match end {
            End::Kept => "",
            End::Refused => REFUSAL,
        };
        self.taken.join(format!("{id}.{name}{ending}"))
    }
}

/// What becomes of a file, by what is committed under the id that it has in `taken/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its message: it goes.
    Kept,
    /// A notice that it is refused: it is kept in `refused/`.
    Refused,
}

/// What the name of a file in `taken/` says: the id, the file's first name, and how it ends.
pub fn taken_name(file: &str) -> Option<(QueueId, &str, End)> {
    let (id, name) = file.split_once('.')?;
    let (name, end) = match name.strip_suffix(REFUSAL) {
        Some(name) => (name, End::Refused),
        None => (name, End::Kept),
    };
    Some((id.parse().ok()?, name, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::sim::SimDisk;

    #[test]
    fn a_new_folder_survives_a_power_cut_and_so_do_those_above_it() {
        for failing in 0..8 {
            let disk = SimDisk::new();
            let layout = Layout::new(Path::new("/srv/posthouse/drop"));
            disk.fail_naming(failing);
            let made = layout.make(&disk).or_else(|_| layout.make(&disk));
            made.unwrap_or_else(|error| panic!("two operations failed: {error}"));
            for seed in 0..10 {
                assert!(disk.crashed(seed).exists(&layout.taken), "after failure {failing}");
            }
        }
    }

    #[test]
    fn only_plain_names_are_ours() {
        for (name, expected) in [
            ("mail-1M80ZJ5661PNF-00ff", Named::Whole),
            ("new-00ff", Named::Unfinished),
            ("mail-a.b", Named::Foreign),
            ("mail-ü", Named::Foreign),
            ("mail-\n", Named::Foreign),
            ("core", Named::Foreign),
            ("taken", Named::Foreign),
            (&format!("mail-{}", "x".repeat(60)), Named::Foreign),
        ] {
            assert_eq!(named(name), expected, "{name}");
        }
        let layout = Layout::new(Path::new("drop"));
        for (end, file) in [(End::Kept, "0000000000007.mail-x"), (End::Refused, "0000000000007.mail-x.refused")] {
            assert_eq!(layout.taken_file(QueueId(7), "mail-x", end), Path::new("drop/taken").join(file));
            assert_eq!(taken_name(file), Some((QueueId(7), "mail-x", end)));
        }
        assert_eq!(taken_name("mail-x"), None);
    }
}
