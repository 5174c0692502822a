//! Writes every message of a stopped server's spool to a folder: the content byte for byte as `ID.eml`, the envelope as `ID.json`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::check::{Opened, Workbench};
use super::content::Located;
use super::index::{Index, Stored};
use super::progress::{Meter, Phase, Watcher};
use super::replay::{Replay, ReplayError};
use super::segment::BLOCK_SIZE;
use super::transfer::{CONTENT, ENVELOPE, Remark, Transfer, make_folder};
use super::whole::each_piece;
use super::{Note, SpoolError, aside, content, envelope, options, recover};
use crate::system::{Disk, DiskFile, OpenMode, Turns};

/// Exports the spool below `path` to the folder `to`, which is made if it isn't there; what lies there is never overwritten. When
/// this returns, everything that it counts is durable. A message whose content is damaged is left out and remarked on.
pub fn export(
    path: &Path,
    to: &Path,
    disk: &Arc<dyn Disk>,
    workbench: &dyn Workbench,
    watcher: &Watcher,
    remark: &mut dyn FnMut(Remark),
) -> Result<Transfer, SpoolError> {
    let opened = Opened::open(path, disk)?;
    let mut done = Transfer::default();
    let mut counted = |done: &mut Transfer, told: Remark| {
        done.count(&told);
        remark(told);
    };
    let mut log = workbench.empty().map_err(|error| SpoolError::Index(error.to_string()))?;
    let (messages, notes) = read_log(&opened, &mut *log, watcher)?;
    notes.into_iter().for_each(|note| counted(&mut done, Remark::failed("log", note)));
    make_folder(&**disk, to)?;
    let mut meter = Meter::new(watcher, Phase::Export, messages);
    let failed = |error| SpoolError::io("can't sync", to, &error);
    // One sync of the disk at the end, where there is such a thing, not one for each file: that would take hours for a million messages.
    let syncer = match disk.syncer(to) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
        syncer => Some(syncer.map_err(failed)?),
    };
    let writer = Writer { disk, to, syncs_each: syncer.is_none() };
    let mut stopped = None;
    let visited = log.visit(&mut |stored, _| {
        if stopped.is_some() {
            return;
        }
        meter.add(1);
        match writer.message(&opened, &stored) {
            Ok(None) => {
                done.messages += 1;
                done.bytes += stored.message.size;
            }
            Ok(Some(why)) => counted(&mut done, Remark::failed(stored.message.id.to_string(), why)),
            Err(error) => stopped = Some(error),
        }
    });
    visited.map_err(|error| SpoolError::Index(error.to_string()))?;
    stopped.map_or(Ok(()), Err)?;
    meter.end();
    syncer.map_or_else(|| disk.sync_dir(to), |syncer| syncer.sync()).map_err(failed)?;
    Ok(done)
}

/// Reads the log into an index; says how many messages it has, and what is damaged.
fn read_log(opened: &Opened, index: &mut dyn Index, watcher: &Watcher) -> Result<(u64, Vec<String>), SpoolError> {
    let due = options::next_attempt();
    let replay = Replay::new(&opened.disk, &opened.layout, opened.identity, index, &due, false);
    let mut replay = replay.watched_by(watcher, opened.log_bytes());
    let read = opened.files.iter().try_for_each(|file| replay.segment(file, BLOCK_SIZE).map(|_| ()));
    let read = read.and_then(|()| replay.spill().map_err(ReplayError::Index));
    let notes = std::mem::take(&mut replay.notes);
    read.map_err(|error| match error {
        ReplayError::Log(error) => error,
        ReplayError::Index(error) => SpoolError::Index(error.to_string()),
    })?;
    let mut messages = 0;
    index.visit(&mut |_, _| messages += 1).map_err(|error| SpoolError::Index(error.to_string()))?;
    // A torn tail was never confirmed to anybody: it isn't missing. What was set aside before is known.
    let damage = notes.iter().filter_map(|note| match note {
        Note::Quarantined { segment, offset, bytes, .. }
            if !opened.disk.exists(&opened.layout.quarantine.join(aside::bytes_name(*segment, *offset))) =>
        {
            Some(format!("segment {segment} has {bytes} damaged bytes at {offset}: `posthouse spool check` says more"))
        }
        _ => None,
    });
    let missing = recover::gaps(&opened.files).into_iter().map(|segment| Note::SegmentMissing { segment }.to_string());
    Ok((messages, damage.chain(missing).collect()))
}

struct Writer<'a> {
    disk: &'a Arc<dyn Disk>,
    to: &'a Path,
    syncs_each: bool,
}

impl Writer<'_> {
    /// Writes both files; says why, if the message's content can't be had.
    fn message(&self, opened: &Opened, stored: &Stored) -> Result<Option<String>, SpoolError> {
        let id = stored.message.id;
        let located = Located::new(stored, &opened.unreadable);
        let content = match content::open(&**self.disk, &opened.layout, opened.identity, located, &Turns::inline()) {
            Ok(Some(content)) => content,
            Ok(None) => return Ok(Some("its content is missing".to_owned())),
            Err(SpoolError::Damaged(_)) => return Ok(Some("its content is damaged".to_owned())),
            Err(SpoolError::Io(why)) => return Ok(Some(why)),
            Err(error) => return Err(error),
        };
        let path = self.to.join(format!("{id}{CONTENT}"));
        let file = self.create(&path)?;
        let (mut at, mut unwritten) = (0, None);
        let read = each_piece(&*content, &mut |piece| {
            let written = file.write_at(at, piece);
            at += piece.len() as u64;
            written.map_err(|error| {
                unwritten = Some(SpoolError::io("can't write", &path, &error));
                io::Error::other("not written")
            })
        });
        if let Some(error) = unwritten {
            return Err(error);
        }
        if let Err(error) = read {
            // Half a message is none.
            drop(file);
            self.disk.unlink(&path).map_err(|error| SpoolError::io("can't remove", &path, &error))?;
            return Ok(Some(error.to_string()));
        }
        self.written(&*file, &path)?;
        let path = self.to.join(format!("{id}{ENVELOPE}"));
        let file = self.create(&path)?;
        file.write_at(0, &envelope::write(&stored.message)).map_err(|error| SpoolError::io("can't write", &path, &error))?;
        self.written(&*file, &path)?;
        Ok(None)
    }

    fn written(&self, file: &dyn DiskFile, path: &Path) -> Result<(), SpoolError> {
        let synced = if self.syncs_each { file.sync_data() } else { Ok(()) };
        synced.map_err(|error| SpoolError::io("can't sync", path, &error))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, SpoolError> {
        self.disk.open(path, OpenMode::CreateNew).map_err(|error| SpoolError::io("can't make", path, &error))
    }
}
