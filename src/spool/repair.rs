//! Repairs a stopped server's spool: sets aside what is damaged, keeps every message whose envelope is known, builds the index anew.
//!
//! Segments are never rewritten, but for a header copy that is put back from the other. Nothing is deleted. A repair that is
//! interrupted is finished by the next.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::aside::{self, UNFINISHED, envelope_name, free_name, missing_name};
use super::check::{Examined, Findings, Opened, Workbench, examine};
use super::content::Located;
use super::finding::{Finding, FindingKind as Kind, Level, Survey};
use super::index::{Index, IndexFactory, Stored};
use super::record::RECORD_SIZE_MAX;
use super::segment::{self, BLOCK_SIZE, Layout, SegmentHeader};
use super::transfer::CONTENT;
use super::whole::each_piece;
use super::{Options, Spool, SpoolError, content, envelope};
use crate::mail::{Message, QueueId, Update};
use crate::system::{Disk, OpenMode, System, Turns};

/// Content is copied in pieces of this many octets.
const PIECE: usize = 64 * 1024;

/// What a repair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Damaged bytes, or a damaged content file, lie in `quarantine/` now.
    SetAside,
    /// A header's damaged copy was put back from the sound one.
    HeaderMended,
    /// The loss of a segment is noted in `quarantine/`, so that no check reports it again.
    LossNoted,
    /// The envelope of a message without content lies in `quarantine/`.
    EnvelopeKept,
    /// A message whose record was damaged is in the log again, with its content.
    Restored,
    /// A message without content is held: nobody tries to deliver it, `queue bounce` tells its sender.
    Held,
    /// The old index was set aside.
    IndexSetAside,
    /// The index was built from the log.
    IndexRebuilt,
}

/// One step of a repair. What doesn't apply is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was done.
    pub done: StepKind,
    /// The segment's number.
    pub segment: Option<u64>,
    /// The message.
    pub id: Option<QueueId>,
    /// The file, below the spool folder.
    pub path: Option<String>,
}

impl Step {
    fn new(done: StepKind) -> Self {
        Self { done, segment: None, id: None, path: None }
    }

    fn path(self, path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..self }
    }
}

/// Takes steps as they are done.
pub type Steps<'a> = &'a mut dyn FnMut(Step);

/// Checks a spool, and repairs what is damaged. Blocking but for the last part; nothing is changed if nothing is damaged.
pub async fn repair(
    options: Options,
    system: &System,
    factory: Box<dyn IndexFactory>,
    workbench: &dyn Workbench,
    report: Findings<'_>,
    did: Steps<'_>,
) -> Result<Survey, SpoolError> {
    let mut found = Vec::new();
    let (mut rebuild, mut log_damaged) = (false, false);
    let mut keep = |finding: Finding| {
        rebuild |= finding.level == Level::Damage || finding.finding == Kind::IndexMissing;
        log_damaged |= finding.finding.is_log_damage();
        // Orphans come last: the message that one belongs to may be in a damaged record.
        let is_lost = finding.finding == Kind::Orphan && finding.id.is_some() && log_damaged;
        if is_lost || finding.level == Level::Damage && is_worked_on(finding.finding) {
            found.push(finding.clone());
        }
        report(finding);
    };
    let disk = system.disk.clone();
    let examined = examine(Opened::open(&options.path, &disk)?, workbench, &options.progress, &mut keep)?;
    let survey = examined.survey;
    if !rebuild {
        return Ok(survey);
    }
    let lost = set_aside(&examined, &found, did)?;
    // Whoever opens the spool takes the lock himself.
    drop(examined);
    let old = factory.set_aside(system.clock.now()).map_err(|error| SpoolError::Index(error.to_string()))?;
    if let Some(path) = old {
        let name = Path::new(&path).file_name().map_or(path.clone(), |name| name.to_string_lossy().into_owned());
        did(Step::new(StepKind::IndexSetAside).path(name));
    }
    let layout = Layout::new(&options.path);
    let (spool, _) = Spool::open(options, system, factory).await?;
    did(Step::new(StepKind::IndexRebuilt).path("index"));
    let held = hold(&spool, &disk, &layout, &lost, did).await;
    let closed = spool.close().await;
    held.and(closed).map(|()| survey)
}

/// Whether something is done about a finding beyond building the index.
fn is_worked_on(kind: Kind) -> bool {
    use Kind::{ContentDamaged, ContentMissing, HeaderCopyDamaged, HeaderDamaged, RecordLost, RecordsDamaged, SegmentMissing};
    matches!(
        kind,
        HeaderCopyDamaged | HeaderDamaged | SegmentMissing | RecordsDamaged | RecordLost | ContentMissing | ContentDamaged
    )
}

/// Copies and moves what is damaged to `quarantine/`; says which messages of the log have no content any more.
fn set_aside(examined: &Examined, found: &[Finding], did: Steps<'_>) -> Result<Vec<QueueId>, SpoolError> {
    let Opened { disk, layout, .. } = &examined.opened;
    let disk = &**disk;
    disk.create_dir_all(&layout.quarantine).map_err(|error| SpoolError::io("can't make", &layout.quarantine, &error))?;
    sync(disk, &layout.root)?;
    let mut lost = Vec::new();
    for finding in found {
        let segment = finding.segment.unwrap_or(0);
        let step = |done| Step { segment: finding.segment, id: finding.id, ..Step::new(done) };
        match (finding.finding, finding.id) {
            (Kind::HeaderCopyDamaged, _) => {
                mend_header(disk, &layout.segment(segment))?;
                did(step(StepKind::HeaderMended));
            }
            (Kind::HeaderDamaged | Kind::RecordsDamaged, _) => {
                let (offset, bytes) = (finding.offset.unwrap_or(0), finding.bytes.unwrap_or(BLOCK_SIZE));
                let path = copy_anew(disk, layout, segment, offset, bytes)?;
                did(step(StepKind::SetAside).path(path));
            }
            (Kind::SegmentMissing, _) => {
                let name = missing_name(segment);
                put(disk, layout, &name, b"")?;
                did(step(StepKind::LossNoted).path(format!("quarantine/{name}")));
            }
            (Kind::RecordLost, Some(id)) => {
                // Only the index knows it, which is about to go: kept until it is in the log again.
                let Some(stored) = known(examined.index.as_deref(), id)? else { continue };
                keep_content(&examined.opened, &stored)?;
                put(disk, layout, &format!("{id}{UNFINISHED}"), &envelope::write(&stored.message))?;
            }
            (Kind::ContentMissing | Kind::ContentDamaged, Some(id)) => {
                let Some(stored) = known(Some(&*examined.log), id)? else { continue };
                let name = envelope_name(id);
                put(disk, layout, &name, &envelope::write(&stored.message))?;
                did(step(StepKind::EnvelopeKept).path(format!("quarantine/{name}")));
                if finding.finding == Kind::ContentDamaged {
                    let path = move_content(disk, layout, id)?;
                    did(step(StepKind::SetAside).path(path));
                }
                lost.push(id);
            }
            (Kind::Orphan, Some(id)) if disk.exists(&layout.quarantine.join(format!("{id}{CONTENT}"))) => {
                // Its message comes back from the copy.
                let path = layout.content_file(id);
                disk.unlink(&path).map_err(|error| SpoolError::io("can't remove", &path, &error))?;
            }
            (Kind::Orphan, Some(id)) => {
                let path = move_content(disk, layout, id)?;
                did(step(StepKind::SetAside).path(path));
            }
            _ => {}
        }
    }
    Ok(lost)
}

fn known(index: Option<&dyn Index>, id: QueueId) -> Result<Option<Stored>, SpoolError> {
    let found = index.map(|index| index.get(id)).transpose().map_err(|error| SpoolError::Index(error.to_string()))?;
    Ok(found.flatten().map(|(stored, _)| stored))
}

/// Keeps the content of a message whose record is damaged, if it lies apart from that and is sound, as `quarantine/ID.eml`.
fn keep_content(opened: &Opened, stored: &Stored) -> Result<(), SpoolError> {
    let id = stored.message.id;
    let Ok(Some(content)) =
        content::open(&*opened.disk, &opened.layout, opened.identity, Located::new(stored, &opened.unreadable), &Turns::inline())
    else {
        return Ok(());
    };
    let path = opened.layout.quarantine.join(format!("{id}{CONTENT}"));
    if opened.disk.exists(&path) {
        let old = free_name(&*opened.disk, &opened.layout.quarantine, &format!("{id}{CONTENT}"));
        opened.disk.rename(&path, &old).map_err(|error| SpoolError::io("can't rename", &path, &error))?;
    }
    let kept = opened.disk.open(&path, OpenMode::CreateNew).and_then(|file| {
        let mut at = 0;
        each_piece(&*content, &mut |piece| {
            file.write_at(at, piece)?;
            at += piece.len() as u64;
            Ok(())
        })?;
        file.sync_data()
    });
    if kept.is_err() && opened.disk.exists(&path) {
        // Not sound: what there is of it lies in the content file still.
        opened.disk.unlink(&path).map_err(|error| SpoolError::io("can't remove", &path, &error))?;
    }
    sync(&*opened.disk, &opened.layout.quarantine)
}

/// Writes the sound copy of a header over the damaged one.
fn mend_header(disk: &dyn Disk, path: &Path) -> Result<(), SpoolError> {
    let mended = segment::read_block(disk, path).and_then(|block| {
        let file = disk.open(path, OpenMode::Write)?;
        if let Some((offset, copy)) = SegmentHeader::mended(&block) {
            file.write_at(offset, copy)?;
        }
        file.sync_data()
    });
    mended.map_err(|error| SpoolError::io("can't mend the header of", path, &error))
}

/// A copy of bytes of a segment. An older copy of other bytes at that place makes room.
fn copy_anew(disk: &dyn Disk, layout: &Layout, segment: u64, offset: u64, bytes: u64) -> Result<String, SpoolError> {
    let name = aside::bytes_name(segment, offset);
    let path = layout.quarantine.join(&name);
    if disk.exists(&path) {
        // It isn't this damage, or it would be known.
        let old = free_name(disk, &layout.quarantine, &name);
        disk.rename(&path, &old).map_err(|error| SpoolError::io("can't rename", &path, &error))?;
    }
    let copied = aside::copy_bytes(disk, layout, &layout.segment(segment), offset, bytes, &name);
    copied.map_err(|error| SpoolError::io("can't copy damaged bytes to", &path, &error))?;
    Ok(format!("quarantine/{name}"))
}

fn move_content(disk: &dyn Disk, layout: &Layout, id: QueueId) -> Result<String, SpoolError> {
    let moved = aside::move_content(disk, layout, id);
    moved.map_err(|error| SpoolError::io("can't move", &layout.content_file(id), &error))
}

/// Writes a small file in `quarantine/`, durably.
fn put(disk: &dyn Disk, layout: &Layout, name: &str, bytes: &[u8]) -> Result<(), SpoolError> {
    let path = layout.quarantine.join(name);
    disk.replace(&path, bytes).map_err(|error| SpoolError::io("can't write", &path, &error))
}

fn sync(disk: &dyn Disk, folder: &Path) -> Result<(), SpoolError> {
    disk.sync_dir(folder).map_err(|error| SpoolError::io("can't sync", folder, &error))
}

/// Holds the messages without content; those that only the index knew are taken up again.
async fn hold(spool: &Spool, disk: &Arc<dyn Disk>, layout: &Layout, lost: &[QueueId], did: Steps<'_>) -> Result<(), SpoolError> {
    for id in lost {
        spool.update(Update { held: Some(true), ..Update::new(*id) });
    }
    let names = disk.list(&layout.quarantine).map_err(|error| SpoolError::io("can't list", &layout.quarantine, &error))?;
    let unfinished: Vec<String> = names.into_iter().filter(|name| name.ends_with(UNFINISHED)).collect();
    for name in &unfinished {
        let path = layout.quarantine.join(name);
        let bytes = disk.read(&path, RECORD_SIZE_MAX as u64).map_err(|error| SpoolError::io("can't read", &path, &error))?;
        let message = envelope::read(&bytes).map_err(|what| SpoolError::Io(format!("{}: {what}", path.display())))?;
        let id = message.id;
        let step = |done| Step { id: Some(id), ..Step::new(done) };
        let content = layout.quarantine.join(format!("{id}{CONTENT}"));
        if disk.exists(&content) {
            restore(spool, &**disk, &content, message).await?;
            // First the envelope: without it the content says nothing to the next repair.
            for path in [&path, &content] {
                disk.unlink(path).map_err(|error| SpoolError::io("can't remove", path, &error))?;
            }
            did(step(StepKind::Restored));
            continue;
        }
        spool.restore_without_content(Message { held: true, ..message }).await?;
        spool.flush().await?;
        let kept = envelope_name(id);
        disk.rename(&path, &layout.quarantine.join(&kept)).map_err(|error| SpoolError::io("can't rename", &path, &error))?;
        did(step(StepKind::EnvelopeKept).path(format!("quarantine/{kept}")));
        did(step(StepKind::Held));
    }
    spool.flush().await?;
    for id in lost {
        did(Step { id: Some(*id), ..Step::new(StepKind::Held) });
    }
    if unfinished.is_empty() { Ok(()) } else { sync(&**disk, &layout.quarantine) }
}

/// Takes a message up again whose content was kept.
async fn restore(spool: &Spool, disk: &dyn Disk, content: &Path, message: Message) -> Result<(), SpoolError> {
    let Some(mut draft) = spool.begin_again(message.id).await? else { return Ok(()) };
    let failed = |error: std::io::Error| SpoolError::io("can't read", content, &error);
    let file = disk.open(content, OpenMode::Read).map_err(failed)?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read_at(draft.size(), &mut piece).map_err(failed)?;
        if read == 0 {
            break;
        }
        draft.write(&piece[..read]).await?;
    }
    draft.restore(message).await?;
    spool.flush().await
}
