//! Reads everything of a stopped server's spool, verifies every checksum, compares index and log, and changes nothing.
//!
//! The log is read into an empty index elsewhere, and a copy of the spool's index is brought up to the log as a start would do it:
//! then both must be equal. The copy, because whoever opens an index writes to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::content::Located;
use super::finding::{Finding, FindingKind as Kind, Level, Survey};
use super::index::{Index, IndexError, Position, Stored};
use super::progress::{Meter, Phase, Watcher};
use super::record::{HEADER_SIZE, Header};
use super::replay::{self, Replay, ReplayError, SegmentFile, known_end};
use super::segment::{self, BLOCK_SIZE, Layout, SegmentHeader};
use super::unreadable::Unreadable;
use super::whole::{Whole, read_through, same_bytes};
use super::{DueRule, Note, SpoolError, aside, content, options, reader, recover};
use crate::mail::QueueId;
use crate::system::{Disk, DiskLock, OpenMode};

/// Room beside the spool for what a check can't hold in memory.
pub trait Workbench {
    /// A new, empty index.
    fn empty(&self) -> Result<Box<dyn Index>, IndexError>;
    /// A copy of the spool's index; none if it has none. Asked while the spool is locked.
    fn copy(&self) -> Result<Option<Box<dyn Index>>, IndexError>;
}

/// Takes findings as they are made.
pub type Findings<'a> = &'a mut dyn FnMut(Finding);

/// Checks the spool below `path`. `Locked` if a server has it open.
pub fn check(
    path: &Path,
    disk: &Arc<dyn Disk>,
    workbench: &dyn Workbench,
    watcher: &Watcher,
    report: Findings<'_>,
) -> Result<Survey, SpoolError> {
    let opened = Opened::open(path, disk)?;
    Ok(examine(opened, workbench, watcher, report)?.survey)
}

/// A spool that is locked and listed.
pub(super) struct Opened {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) identity: u64,
    pub(super) files: Vec<SegmentFile>,
    /// What was set aside because it can't be read.
    pub(super) unreadable: Unreadable,
    /// None: there is no lock file, so no server ever had this copy of a spool open.
    #[allow(dead_code, reason = "held, not used")]
    lock: Option<Box<dyn DiskLock>>,
}

impl Opened {
    pub(super) fn open(path: &Path, disk: &Arc<dyn Disk>) -> Result<Self, SpoolError> {
        let layout = Layout::new(path);
        if !disk.exists(&layout.log) {
            return Err(SpoolError::Unusable(format!("{} is not a spool", path.display())));
        }
        let lock = if disk.exists(&layout.lock) { Some(reader::lock(&**disk, &layout)?) } else { None };
        let (files, identity) = reader::segments(&**disk, &layout)?;
        let (unreadable, _) = Unreadable::load(&**disk, &layout);
        Ok(Self { disk: disk.clone(), layout, identity, files, unreadable, lock })
    }

    /// Bytes of records in the log.
    pub(super) fn log_bytes(&self) -> u64 {
        replay::bytes_behind(&self.files, Position::default())
    }
}

/// A spool that was examined, still locked.
pub(super) struct Examined {
    pub(super) opened: Opened,
    pub(super) survey: Survey,
    /// What the log says.
    pub(super) log: Box<dyn Index>,
    /// What the index says, brought up to the log; none if it can't be used.
    pub(super) index: Option<Box<dyn Index>>,
}

pub(super) fn examine(
    opened: Opened,
    workbench: &dyn Workbench,
    watcher: &Watcher,
    report: Findings<'_>,
) -> Result<Examined, SpoolError> {
    let due = options::next_attempt();
    let mut survey = Survey::default();
    let (mut aside, mut log_damaged) = (BTreeSet::new(), false);
    let mut counted = |finding: Finding| {
        survey.count(finding.level);
        log_damaged |= finding.finding.is_log_damage();
        aside.extend(finding.set_aside.clone());
        report(finding);
    };
    let mut checker = Checker {
        opened: &opened,
        watcher,
        due: &due,
        report: &mut counted,
        bytes: 0,
        end: Position::default(),
        missing: BTreeSet::new(),
    };
    let mut log = workbench.empty().map_err(|error| SpoolError::Index(error.to_string()))?;
    checker.headers()?;
    let records = checker.log(&mut *log)?;
    let (messages, content_files) = checker.content(&*log)?;
    let index = checker.index(workbench, &*log, messages)?;
    let bytes = checker.bytes;
    let mut leftovers = Vec::new();
    let is_kept = log_damaged || aside::are_orphans_kept(&*opened.disk, &opened.layout);
    opened.orphans(&*log, is_kept, &mut leftovers)?;
    opened.set_aside(&aside, &mut leftovers)?;
    for finding in leftovers {
        survey.count(finding.level);
        report(finding);
    }
    survey = Survey { segments: opened.files.len() as u64, records, messages, content_files, bytes, ..survey };
    Ok(Examined { opened, survey, log, index })
}

struct Checker<'a> {
    opened: &'a Opened,
    watcher: &'a Watcher,
    due: &'a DueRule,
    report: Findings<'a>,
    bytes: u64,
    /// Where the log's records end.
    end: Position,
    /// Segments that were said to be missing.
    missing: BTreeSet<u64>,
}

/// Whether one copy of a header is sound, and where the other belongs nothing was ever written.
fn lacks_a_copy(block: &[u8]) -> bool {
    let lacking = SegmentHeader::mended(block);
    lacking.is_some_and(|(at, copy)| block.iter().skip(at as usize).take(copy.len()).all(|byte| *byte == 0))
}

fn broken(error: IndexError) -> SpoolError {
    SpoolError::Index(error.to_string())
}

impl Checker<'_> {
    /// The segments' headers, and which segments are missing.
    fn headers(&mut self) -> Result<(), SpoolError> {
        let Opened { disk, layout, files, .. } = self.opened;
        for file in files {
            let path = layout.segment(file.number);
            let block = segment::read_block(&**disk, &path).map_err(|error| SpoolError::io("can't read", &path, &error))?;
            self.bytes += block.len() as u64;
            let sound = SegmentHeader::sound_copies(&block);
            let finding = match sound.iter().filter(|sound| **sound).count() {
                2 => continue,
                // Nothing is written behind a header before that is durable.
                1 if file.length <= BLOCK_SIZE && lacks_a_copy(&block) => {
                    Finding::note(Kind::TornTail, "the segment was made, and its header not written whole")
                }
                1 => Finding::damage(Kind::HeaderCopyDamaged, "one copy of the header is damaged, the other serves"),
                // Made, and never written: the server takes it for empty.
                _ if file.length <= BLOCK_SIZE && block.iter().all(|byte| *byte == 0) => {
                    Finding::note(Kind::TornTail, "the segment was made, and nothing was written to it")
                }
                _ => self.unless_aside(
                    Finding::damage(Kind::HeaderDamaged, "both copies of the header are damaged"),
                    file.number,
                    0,
                    BLOCK_SIZE,
                )?,
            };
            (self.report)(finding.segment(file.number));
        }
        recover::gaps(files).into_iter().for_each(|segment| self.missing(segment));
        Ok(())
    }

    /// A segment should be there: says so once if it isn't.
    fn missing(&mut self, segment: u64) {
        if recover::is_there(&self.opened.files, segment) || !self.missing.insert(segment) {
            return;
        }
        let finding = Finding::damage(Kind::SegmentMissing, "the segment is missing: what only it had is lost").segment(segment);
        let known = aside::missing_name(segment);
        let is_known = self.opened.disk.exists(&self.opened.layout.quarantine.join(&known));
        (self.report)(if is_known { finding.known(&known) } else { finding });
    }

    /// The finding, or that it is known if the bytes were set aside before.
    fn unless_aside(&self, finding: Finding, segment: u64, offset: u64, bytes: u64) -> Result<Finding, SpoolError> {
        let Opened { disk, layout, .. } = self.opened;
        let name = aside::bytes_name(segment, offset);
        let copy = layout.quarantine.join(&name);
        if !disk.exists(&copy) {
            return Ok(finding);
        }
        let same = same_bytes(&**disk, &copy, &layout.segment(segment), offset, bytes);
        let same = same.map_err(|error| SpoolError::io("can't compare", &copy, &error))?;
        Ok(if same { finding.known(&name) } else { finding })
    }

    /// Every record of the log, into an index of its own; says how many there are.
    fn log(&mut self, index: &mut dyn Index) -> Result<u64, SpoolError> {
        let Opened { disk, layout, identity, files, .. } = self.opened;
        let replay = Replay::new(disk, layout, *identity, index, self.due, false);
        let mut replay = replay.watched_by(self.watcher, self.opened.log_bytes());
        for file in files {
            let before = replay.records;
            let end = replay.segment(file, BLOCK_SIZE).map_err(fatal)?;
            self.bytes += known_end(file) - BLOCK_SIZE;
            if replay.records > before || file.header.is_some() {
                self.end = Position { segment: file.number, offset: end };
            }
            for note in std::mem::take(&mut replay.notes) {
                let finding = match note {
                    Note::TailCut { segment, offset, bytes } => {
                        Finding::note(Kind::TornTail, "the last batch is torn; nobody was told that it was accepted")
                            .at(segment, offset, bytes)
                    }
                    Note::Quarantined { segment, offset, bytes, .. } => self.damaged(segment, offset, bytes)?,
                    _ => continue,
                };
                (self.report)(finding);
            }
        }
        replay.spill().map_err(broken)?;
        Ok(replay.records)
    }

    /// Says of damaged bytes what they were, if their header still tells.
    fn damaged(&self, segment: u64, offset: u64, bytes: u64) -> Result<Finding, SpoolError> {
        let Opened { disk, layout, identity, .. } = self.opened;
        let path = layout.segment(segment);
        let mut head = [0; HEADER_SIZE];
        let read = disk.open(&path, OpenMode::Read).and_then(|file| segment::read_full(&*file, offset, &mut head));
        read.map_err(|error| SpoolError::io("can't read", &path, &error))?;
        let finding = match Header::parse(*identity, &head).filter(|header| header.size() as u64 <= bytes) {
            Some(header) => {
                let what = format!("{} is damaged behind its header", header.kind_name());
                Finding::damage(Kind::RecordsDamaged, what).id(header.id)
            }
            None => Finding::damage(Kind::RecordsDamaged, "the bytes are no record"),
        };
        self.unless_aside(finding.at(segment, offset, bytes), segment, offset, bytes)
    }

    /// Reads the content files of all messages; says how many messages and how many such files there are.
    fn content(&mut self, log: &dyn Index) -> Result<(u64, u64), SpoolError> {
        let Opened { disk, layout, identity, unreadable, .. } = self.opened;
        let names = names(&**disk, &layout.content)?;
        let mut meter = Meter::new(self.watcher, Phase::Content, names.len() as u64);
        let (mut messages, mut failed) = (0, None);
        let visited = log.visit(&mut |stored, _| {
            messages += 1;
            if failed.is_some() || !content::is_apart(&stored) {
                return;
            }
            meter.add(1);
            match read_through(&**disk, layout, *identity, Located::new(&stored, unreadable)) {
                Ok(Whole::Sound) => self.bytes += stored.message.size,
                Ok(lost) => (self.report)(self.opened.lost_content(&stored, &lost)),
                Err(error) => failed = Some(error),
            }
        });
        visited.map_err(broken)?;
        failed.map_or(Ok((messages, names.len() as u64)), Err)
    }

    /// Compares the index with the log; gives it back if it can be used.
    fn index(&mut self, workbench: &dyn Workbench, log: &dyn Index, messages: u64) -> Result<Option<Box<dyn Index>>, SpoolError> {
        let opened = match workbench.copy() {
            Ok(Some(index)) => self.brought_up(index),
            Ok(None) => {
                if messages > 0 {
                    (self.report)(Finding::note(Kind::IndexMissing, "there is no index: the next start builds it").path("index"));
                }
                return Ok(None);
            }
            Err(error) => Err(ReplayError::Index(error)),
        };
        let compared = opened.and_then(|index| self.compare(&*index, log, messages).map(|()| index));
        match compared {
            Ok(index) => Ok(Some(index)),
            Err(ReplayError::Log(error)) => Err(error),
            Err(ReplayError::Index(error)) => {
                let reason = format!("the index can't be used: {error}");
                (self.report)(Finding::damage(Kind::IndexBroken, reason).path("index"));
                Ok(None)
            }
        }
    }

    /// Brings a copy of the index to where the log is.
    fn brought_up(&mut self, mut index: Box<dyn Index>) -> Result<Box<dyn Index>, ReplayError> {
        let Opened { disk, layout, identity, files, .. } = self.opened;
        let marked = index.mark()?.filter(|mark| mark.identity == *identity);
        marked.into_iter().for_each(|mark| self.missing(mark.position.segment));
        let from = match recover::fit(&*index, *identity, self.end) {
            Ok(mark) => mark.map_or(Position::default(), |mark| mark.position),
            Err(error) if index.mark()?.is_some_and(|mark| mark.identity == *identity) => {
                // It knows more than the log: what has become of that is said message by message.
                (self.report)(Finding::damage(Kind::IndexBroken, format!("the index doesn't fit: {error}")).path("index"));
                return Ok(index);
            }
            Err(error) => return Err(error.into()),
        };
        let mut replay = Replay::new(disk, layout, *identity, &mut *index, self.due, false);
        for file in files {
            if let Some(offset) = replay::first_offset(file, from) {
                replay.segment(file, offset)?;
            }
        }
        replay.spill()?;
        Ok(index)
    }

    fn compare(&mut self, index: &dyn Index, log: &dyn Index, messages: u64) -> Result<(), ReplayError> {
        let mut meter = Meter::new(self.watcher, Phase::Index, messages);
        let (mut both, mut failed) = (0, None);
        let mut lost = BTreeSet::new();
        index.visit(&mut |stored, _| {
            meter.add(1);
            let finding = match log.get(stored.message.id) {
                Ok(Some((known, _))) => {
                    both += 1;
                    differences(&known, &stored)
                        .map(|what| Finding::damage(Kind::IndexDiffers, what).message(&known).path("index"))
                }
                Ok(None) => {
                    lost.insert(stored.place.segment);
                    Some(self.opened.extra(&stored))
                }
                Err(error) => {
                    failed = Some(ReplayError::Log(broken(error)));
                    None
                }
            };
            finding.into_iter().for_each(&mut *self.report);
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        lost.into_iter().for_each(|segment| self.missing(segment));
        if both == messages {
            return Ok(());
        }
        let mut failed = None;
        let visited = log.visit(&mut |stored, _| match index.get(stored.message.id) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let lacks = Finding::damage(Kind::IndexLacks, "the index lacks the message");
                (self.report)(lacks.message(&stored).path("index"));
            }
            Err(error) => failed = Some(error),
        });
        visited.map_err(|error| ReplayError::Log(broken(error)))?;
        failed.map_or(Ok(()), |error| Err(ReplayError::Index(error)))
    }
}

impl Opened {
    /// Content files that no message names.
    fn orphans(&self, log: &dyn Index, is_kept: bool, found: &mut Vec<Finding>) -> Result<(), SpoolError> {
        for name in names(&*self.disk, &self.layout.content)? {
            let id: Option<QueueId> = name.parse().ok();
            let stored = id.map(|id| log.get(id)).transpose().map_err(broken)?.flatten();
            if stored.is_some_and(|(stored, _)| content::is_apart(&stored)) {
                continue;
            }
            let reason = match id {
                None => "it is no content file",
                Some(_) if is_kept => "no readable record names it: it may belong to a damaged one",
                Some(_) => "no message names it: the next start removes it",
            };
            let mut orphan = Finding::note(Kind::Orphan, reason).path(format!("content/{name}"));
            orphan.id = id;
            orphan.bytes = length(&*self.disk, &self.layout.content.join(&name));
            found.push(orphan);
        }
        Ok(())
    }

    /// What earlier repairs and starts set aside, but for what was named already.
    fn set_aside(&self, named: &BTreeSet<String>, found: &mut Vec<Finding>) -> Result<(), SpoolError> {
        for name in names(&*self.disk, &self.layout.quarantine)? {
            let path = format!("quarantine/{name}");
            if named.contains(&path) || name == aside::ORPHANS_KEPT {
                continue;
            }
            let mut finding = match name.strip_suffix(aside::UNFINISHED) {
                Some(id) => {
                    let finding = Finding::damage(Kind::RepairUnfinished, "a repair was interrupted: repeat it");
                    Finding { id: id.parse().ok(), ..finding }
                }
                None => Finding::note(Kind::Quarantined, "set aside earlier"),
            };
            finding.bytes = length(&*self.disk, &self.layout.quarantine.join(&name));
            found.push(finding.path(path));
        }
        for name in names(&*self.disk, &self.layout.root)?.into_iter().filter(|name| name.starts_with("index.bad-")) {
            let reason = "an index that was set aside; can be removed";
            found.push(Finding::note(Kind::IndexSetAside, reason).path(name));
        }
        Ok(())
    }

    /// A message whose content file isn't there or isn't sound.
    fn lost_content(&self, stored: &Stored, lost: &Whole) -> Finding {
        let id = stored.message.id;
        let finding = match lost {
            Whole::Unread(segment, why) => {
                let waits = Finding::new(Kind::ContentUnread, Level::Known, why).id(id).bytes(stored.message.size);
                return waits.segment(*segment).path(format!("unreadable/{}", segment::name(*segment)));
            }
            Whole::Damaged(why) => Finding::damage(Kind::ContentDamaged, why),
            _ => Finding::damage(Kind::ContentMissing, "the content file is missing"),
        };
        let finding = finding.id(id).bytes(stored.message.size).path(format!("content/{id}"));
        // Set aside: held, so that nobody tries to deliver it, and the envelope kept.
        let envelope = aside::envelope_name(id);
        let is_known = stored.message.held && self.disk.exists(&self.layout.quarantine.join(&envelope));
        if is_known && !matches!(lost, Whole::Damaged(_)) {
            let known = finding.known(&envelope);
            return Finding { reason: "the content is lost; the message is held".to_owned(), ..known };
        }
        finding
    }

    /// A message that the index has and the log hasn't.
    fn extra(&self, stored: &Stored) -> Finding {
        let read = content::read_record(
            &*self.disk,
            &self.layout.segment(stored.place.segment),
            self.identity,
            stored.message.id,
            stored.place,
        );
        let finding = match read {
            Ok(Some(_)) => Finding::damage(Kind::IndexExtra, "the index has a message that is done with"),
            _ => Finding::damage(Kind::RecordLost, "only the index knows the message: its record is damaged or gone"),
        };
        finding.message(stored)
    }
}

/// In what the index's idea of a message differs from the log's.
fn differences(log: &Stored, index: &Stored) -> Option<&'static str> {
    if log.place != index.place {
        Some("the index has the message at another place of the log")
    } else if log.message != index.message {
        Some("the index has the message in another state")
    } else if log != index {
        Some("the index has another content for the message")
    } else {
        None
    }
}

fn fatal(error: ReplayError) -> SpoolError {
    match error {
        ReplayError::Log(error) => error,
        ReplayError::Index(error) => broken(error),
    }
}

/// Names in a folder; none if it isn't there.
fn names(disk: &dyn Disk, folder: &Path) -> Result<Vec<String>, SpoolError> {
    if !disk.exists(folder) {
        return Ok(Vec::new());
    }
    disk.list(folder).map_err(|error| SpoolError::io("can't list", folder, &error))
}

fn length(disk: &dyn Disk, path: &Path) -> Option<u64> {
    disk.open(path, OpenMode::Read).and_then(|file| file.len()).ok()
}
