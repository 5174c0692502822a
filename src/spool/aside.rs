//! What is set aside in `quarantine/`: its names, and how it gets there without being lost on the way.

use std::io;
use std::path::{Path, PathBuf};

use super::index::Place;
use super::segment::{self, Layout};
use super::shared::Shared;
use super::{Note, SpoolError};
use crate::mail::QueueId;
use crate::system::{Disk, OpenMode};

/// Damaged bytes are copied in pieces of this size.
const PIECE: usize = 1 << 20;
/// Ends the name of an envelope that a repair has not yet put back.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// An empty file of this name says that an index was built anew without the messages of damaged records: what lies in `content/` and no
/// message names may be theirs.
pub(crate) const ORPHANS_KEPT: &str = "keep-orphans";

/// Where damaged bytes of a segment lie.
pub(crate) fn bytes_name(segment: u64, offset: u64) -> String {
    format!("{segment:08}-{offset}.bin")
}

/// An empty file of this name says that the loss of a segment is known.
pub(crate) fn missing_name(segment: u64) -> String {
    format!("{segment:08}-missing")
}

/// Where the envelope of a message without content lies.
pub(crate) fn envelope_name(id: QueueId) -> String {
    format!("{id}.json")
}

/// Where a content file lies that is damaged, or belongs to nothing.
pub(crate) fn content_name(id: QueueId) -> String {
    format!("{id}.content")
}

/// Copies damaged bytes of a segment to a new file, durably; nothing happens if it is there already.
pub(crate) fn copy_bytes(disk: &dyn Disk, layout: &Layout, from: &Path, offset: u64, bytes: u64, name: &str) -> io::Result<()> {
    let to = layout.quarantine.join(name);
    if disk.exists(&to) {
        return Ok(());
    }
    let copied = copy(disk, from, offset, bytes, &to);
    if copied.is_err() {
        // Half a copy would pass for one.
        let _ = disk.unlink(&to);
    }
    copied.and_then(|()| disk.sync_dir(&layout.quarantine))
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

/// A record that lies in this segment is damaged: copies it, and says so, unless that was done before.
pub(crate) fn keep_record(shared: &Shared, from: &Path, place: Place) -> Result<(), SpoolError> {
    let Place { segment, offset, length } = place;
    let (bytes, name) = (u64::from(length), bytes_name(segment, offset));
    let to = shared.layout.quarantine.join(&name);
    if !shared.disk.exists(&to) {
        let copied = copy_bytes(&*shared.disk, &shared.layout, from, offset, bytes, &name);
        copied.map_err(|error| SpoolError::io("can't copy damaged bytes to", &to, &error))?;
        shared.report(Note::Quarantined { segment, offset, bytes, file: format!("quarantine/{name}") });
    }
    Ok(())
}

/// Moves a content file out of the way, durably: at every moment it has a name. Says its new one.
pub(crate) fn move_content(disk: &dyn Disk, layout: &Layout, id: QueueId) -> io::Result<String> {
    let from = layout.content_file(id);
    let to = free_name(disk, &layout.quarantine, &content_name(id));
    disk.link(&from, &to)?;
    disk.sync_dir(&layout.quarantine)?;
    disk.unlink(&from)?;
    disk.sync_dir(&layout.content)?;
    Ok(format!("quarantine/{}", to.file_name().unwrap_or_default().to_string_lossy()))
}

/// Has the next start keep the content files that no message names, if there are any files.
pub(crate) fn keep_orphans(disk: &dyn Disk, layout: &Layout) -> Result<(), SpoolError> {
    if disk.list(&layout.content).is_ok_and(|names| names.is_empty()) {
        return Ok(());
    }
    let path = layout.quarantine.join(ORPHANS_KEPT);
    disk.replace(&path, b"").map_err(|error| SpoolError::io("can't write", &path, &error))
}

/// Whether it shall.
pub(crate) fn are_orphans_kept(disk: &dyn Disk, layout: &Layout) -> bool {
    disk.exists(&layout.quarantine.join(ORPHANS_KEPT))
}

/// They were moved. If a power cut brings the name back, the next ones are kept as well.
pub(crate) fn orphans_are_moved(disk: &dyn Disk, layout: &Layout) -> Result<(), SpoolError> {
    let path = layout.quarantine.join(ORPHANS_KEPT);
    if disk.exists(&path) { disk.unlink(&path).map_err(|error| SpoolError::io("can't remove", &path, &error)) } else { Ok(()) }
}

/// The name, or the name and a number, so that nothing is overwritten.
pub(crate) fn free_name(disk: &dyn Disk, folder: &Path, name: &str) -> PathBuf {
    let mut free = folder.join(name);
    let mut number = 1;
    while disk.exists(&free) {
        number += 1;
        free = folder.join(format!("{name}.{number}"));
    }
    free
}
