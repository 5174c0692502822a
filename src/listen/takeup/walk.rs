//! The walk through the drop folder and `taken/` in it, in steps and on from scan to scan. Strangers fill the folder with what names they
//! like: however many there are, none is in another's way, and memory holds a step's. Owns the place that the walk has come to.

use std::io;

use crate::maildrop::Layout;
use crate::system::{Disk, Workers};

/// Names in a step.
const STEP: usize = 1000;

/// Where a file lies. In this order it is taken up: what was begun before comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In `taken/`.
    Taken,
    /// In the drop folder itself.
    Folder,
}

/// A walk that isn't over. What comes into a part of a folder that lies behind it, the next one meets.
pub(super) struct Walk(Box<dyn Iterator<Item = io::Result<(Place, String)>> + Send + Sync>);

/// Some names that a walk met, and how it goes on; none: it is over.
pub(super) type Stepped = (Vec<(Place, String)>, Option<Walk>);

impl Walk {
    /// Begins one.
    pub(super) fn begin(disk: &dyn Disk, layout: &Layout) -> io::Result<Self> {
        let in_place = |place| move |name: io::Result<String>| Ok((place, name?));
        let taken = disk.files(&layout.taken)?.map(in_place(Place::Taken));
        Ok(Self(Box::new(taken.chain(disk.files(&layout.folder)?.map(in_place(Place::Folder))))))
    }

    /// The next names: sorted, so in the order of their making as far as they are ours.
    pub(super) async fn step(mut self, workers: Workers) -> io::Result<Stepped> {
        let step = move || {
            let mut names = self.0.by_ref().take(STEP).collect::<io::Result<Vec<_>>>()?;
            names.sort();
            let is_over = names.len() < STEP;
            Ok((names, (!is_over).then_some(self)))
        };
        workers.blocking(step).await
    }
}
