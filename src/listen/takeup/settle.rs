//! Clears up behind a crash: of each file one name is left, and none in `taken/` if what was committed for it is in the spool.

use std::collections::BTreeMap;
use std::io;

use crate::mail::QueueId;
use crate::maildrop::{End, Layout, taken_name};
use crate::spool::Spool;
use crate::system::Disk;

/// To be done before anything is delivered: what is delivered leaves the spool, and its file would then count as new mail.
pub(super) async fn settle(disk: &dyn Disk, layout: &Layout, spool: &Spool) -> io::Result<()> {
    let mut files: BTreeMap<String, Vec<(QueueId, End)>> = BTreeMap::new();
    let taken = match disk.list(&layout.taken) {
        // There is no such folder yet, nor ever was.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        taken => taken?,
    };
    for file in taken {
        if let Some((id, name, end)) = taken_name(&file) {
            files.entry(name.to_owned()).or_default().push((id, end));
        }
    }
    for (name, takings) in files {
        let mut ended = None;
        for (id, end) in &takings {
            let message = spool.message(*id).await.map_err(|error| io::Error::other(error.to_string()))?;
            ended = message.map(|_| *end).or(ended);
        }
        let mut takings = takings.into_iter().map(|(id, end)| layout.taken_file(id, &name, end));
        match (ended, takings.next()) {
            (Some(End::Kept), Some(file)) => disk.unlink(&file)?,
            (Some(End::Refused), Some(file)) => disk.rename(&file, &layout.refused.join(&name))?,
            (None, _) | (_, None) => {}
        }
        takings.try_for_each(|file| disk.unlink(&file))?;
        // A crash may have left both names of one file.
        let first = layout.folder.join(&name);
        if disk.exists(&first) {
            disk.unlink(&first)?;
        }
    }
    disk.sync_dir(&layout.refused)?;
    disk.sync_dir(&layout.taken)?;
    disk.sync_dir(&layout.folder)
}
