//! Sets damaged bytes of the log aside: a copy below `quarantine/`, which the server never removes.

use std::io;
use std::path::Path;

use super::Note;
use super::index::Place;
use super::segment::{self, Layout};
use super::shared::Shared;
use crate::system::{Disk, OpenMode};

/// Damaged bytes are copied in pieces of this size.
const PIECE: usize = 1 << 20;

/// The copy's name, below the spool folder.
pub(crate) fn name(segment: u64, offset: u64) -> String {
    format!("quarantine/{segment:08}-{offset}.bin")
}

/// Copies a part of a segment; `false` if that was done before.
pub(crate) fn keep(disk: &dyn Disk, layout: &Layout, segment: u64, offset: u64, bytes: u64) -> io::Result<bool> {
    let to = layout.root.join(name(segment, offset));
    if disk.exists(&to) {
        return Ok(false);
    }
    let kept = copy(disk, &layout.segment(segment), offset, bytes, &to);
    if kept.is_err() {
        // Half a copy would pass for one.
        let _ = disk.unlink(&to);
    }
    kept.and_then(|()| disk.sync_dir(&layout.quarantine)).map(|()| true)
}

fn copy(disk: &dyn Disk, from: &Path, offset: u64, bytes: u64, to: &Path) -> io::Result<()> {
    let from = disk.open(from, OpenMode::Read)?;
    let to = disk.open(to, OpenMode::CreateNew)?;
    let mut piece = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
    let mut copied = 0;
    while copied < bytes {
        let want = usize::try_from(bytes - copied).unwrap_or(PIECE).min(PIECE);
        let read = segment::read_full(&*from, offset + copied, &mut piece[..want])?;
        if read == 0 {
            break;
        }
        to.write_at(copied, &piece[..read])?;
        copied += read as u64;
    }
    to.sync_data()
}

/// A record that the index knows can't be read: copies it, and says so once.
pub(crate) fn keep_record(shared: &Shared, place: Place) {
    let Place { segment, offset, length } = place;
    let bytes = u64::from(length);
    let file = name(segment, offset);
    match keep(&*shared.disk, &shared.layout, segment, offset, bytes) {
        Ok(true) => shared.report(Note::Quarantined { segment, offset, bytes, file }),
        Ok(false) => {}
        Err(error) => shared.report(Note::Trouble(format!("can't copy damaged bytes to {file}: {error}"))),
    }
}
