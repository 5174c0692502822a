//! Start-up: finds what the log has, brings the index to it, counts what lives, begins a new segment.
//!
//! No record of an old segment is changed: what doesn't count of the last one is said in the header of the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::index::{Index, IndexError, IndexFactory, Mark, Place, Position, Resident};
use super::log::{self, Log};
use super::replay::{self, Replay, ReplayError, SegmentFile, due_after, known_end};
use super::reserve::Reserve;
use super::segment::{BLOCK_SIZE, Layout};
use super::shared::State;
use super::space::Use;
use super::spare::Spares;
use super::tail::Tail;
use super::unreadable::{self, Unreadable};
use super::{Filter, Note, Options, Recovery, SpoolError, aside, orphaned};
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, Workers, is_not_ours, or_here};

/// What start-up hands to the loops.
pub(crate) struct Recovered {
    pub(crate) identity: u64,
    pub(crate) spares: Arc<Spares>,
    pub(crate) unreadable: Unreadable,
    pub(crate) state: State,
    pub(crate) log: Log,
    pub(crate) index: Box<dyn Index>,
    pub(crate) factory: Box<dyn IndexFactory>,
    pub(crate) recovery: Recovery,
}

/// What start-up needs.
pub(crate) struct Start {
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) factory: Box<dyn IndexFactory>,
    pub(crate) now: Timestamp,
    pub(crate) workers: Workers,
    /// The identity, should this be a new spool.
    pub(crate) random: u64,
}

/// Makes the folders that aren't there, and all names on the way to them durable. Also of those that were made before: perhaps whoever made
/// them was killed before the sync.
pub(crate) fn make_folders(disk: &dyn Disk, layout: &Layout) -> Result<(), SpoolError> {
    let cant = |what: &'static str, folder: &Path, error: &io::Error| SpoolError::io(what, folder, error);
    let on_the_way = layout.root.ancestors().filter(|folder| !folder.as_os_str().is_empty());
    let above: Vec<(&Path, bool)> = on_the_way.filter_map(|folder| Some((folder.parent()?, disk.exists(folder)))).collect();
    for folder in [&layout.log, &layout.content, &layout.quarantine] {
        disk.create_dir_all(folder).map_err(|error| cant("can't make", folder, &error))?;
    }
    for (parent, had_it) in above {
        let parent = or_here(parent);
        match disk.sync_dir(parent) {
            // Not ours to write to, so not ours to have been made in.
            Err(error) if had_it && is_not_ours(&error) => {}
            synced => synced.map_err(|error| cant("can't sync", parent, &error))?,
        }
    }
    disk.sync_dir(&layout.root).map_err(|error| cant("can't sync", &layout.root, &error))
}

/// Recovers. Blocking; the folders exist and the lock is held.
pub(crate) fn recover(start: Start) -> Result<Recovered, SpoolError> {
    let layout = Layout::new(&start.options.path);
    let Options { segment_size, zeros_ahead, .. } = start.options;
    let spares = Arc::new(Spares::new(start.disk.clone(), layout.clone(), segment_size));
    spares.clear()?;
    let (mut files, identity) = replay::list(&*start.disk, &layout.log)?;
    let reserve = Reserve::new(start.disk.clone(), &layout, start.options.reserve);
    reserve.prepare();
    let opened = start.factory.open();
    let marked = opened.as_ref().ok().and_then(|index| index.mark().ok().flatten());
    let old = has_bytes(&files);
    let identity = match identity.or(marked.filter(|_| old).map(|mark| mark.identity)) {
        Some(identity) => identity,
        None if old => {
            let folder = layout.log.display();
            return Err(SpoolError::Unusable(format!("no segment in {folder} has a readable header: restore or move them away")));
        }
        None => start.random,
    };
    // First the log: nothing goes into the index that isn't durable.
    let mut tail = Tail::find(&*start.disk, &layout, identity, &files)?;
    let mut notes: Vec<Note> = tail.note.take().into_iter().collect();
    let end = tail.end;
    // An index that knows more than the log.
    let cut = marked.is_some_and(|mark| mark.identity != identity || mark.position > end);
    let marked = marked.filter(|mark| mark.identity == identity || !old);
    let sequence = (tail.sequence + 1).max(marked.map_or(0, |mark| mark.sequence));
    tail.last_id = tail.last_id.max(marked.map_or(QueueId(0), |mark| mark.last_id));
    let number = files.last().map_or(0, |file| file.number);
    let place = log::Place {
        disk: start.disk.clone(),
        layout: layout.clone(),
        segment_size,
        zeros_ahead,
        spares: spares.clone(),
        reserve,
    };
    let log = Log::new(place, identity, number, sequence);
    let mut log = tail.begin(&start.disk, &layout, log, start.now, &mut files)?;
    let known = Known { identity, files: &files, end, old };
    let (mut index, read, mut books) = bring_up_some_index(&start, &layout, &known, opened, &mut notes)?;
    notes.extend(read.notes);
    let orphaned = std::mem::take(&mut books.orphaned);
    notes.extend(missing(&files, marked, &orphaned));
    // A content file that no record names may belong to a record that can't be read.
    let damaged = cut
        || aside::are_orphans_kept(&*start.disk, &layout)
        || notes.iter().any(|note| matches!(note, Note::Quarantined { .. } | Note::SegmentMissing { .. }));
    let again = orphaned::accept_again(&mut *index, &mut log, orphaned, read.last_id, start.now)?;
    books.add(again.messages, &mut log);
    notes.extend(again.note);
    unreadable::remove_leftovers(&*start.disk, &layout);
    let (unreadable, troubles) = Unreadable::load(&*start.disk, &layout);
    notes.extend(troubles.into_iter().map(Note::Trouble));
    tidy_content(&*start.disk, &layout, &books.files, damaged, &mut notes);
    // What waits for a segment that can't be read isn't lost.
    notes.retain(|note| !matches!(note, Note::ContentMissing { id } if unreadable.of(*id).is_some()));
    let mut state = State::new(books.segments, read.last_id);
    state.end = log.durable();
    state.sequence = log.sequence();
    if let Err(error) = index.set_mark(state.mark(identity)) {
        notes.push(Note::Trouble(format!("can't mark the index: {error}")));
    }
    let recovery = Recovery { messages: books.messages, segments: state.segments.len() as u64, records: read.records, notes };
    Ok(Recovered { identity, spares, unreadable, state, log, index, factory: start.factory, recovery })
}

/// What is known of the log once its end is in order.
struct Known<'a> {
    identity: u64,
    /// The new segment included.
    files: &'a [SegmentFile],
    /// Where it ended before.
    end: Position,
    /// Whether there was anything in it.
    old: bool,
}

/// Brings the index up to the log; if it doesn't fit or fails, a new one.
fn bring_up_some_index(
    start: &Start,
    layout: &Layout,
    known: &Known<'_>,
    mut opened: Result<Box<dyn Index>, IndexError>,
    notes: &mut Vec<Note>,
) -> Result<(Box<dyn Index>, ReadLog, Books), SpoolError> {
    let mut rebuilt = false;
    loop {
        let fitting = opened.and_then(|index| fit(&*index, known.identity, known.end).map(|mark| (index, mark)));
        let brought = fitting.map_err(ReplayError::Index).and_then(|(mut index, mark)| {
            if mark.is_none() && !rebuilt && known.old {
                notes.push(Note::IndexRebuilt { why: "there was none".to_owned(), set_aside: None });
            }
            let (read, books) = bring_up(start, layout, known, &mut *index, mark)?;
            Ok((index, read, books))
        });
        match brought {
            Ok(brought) => return Ok(brought),
            Err(ReplayError::Log(error)) => return Err(error),
            Err(ReplayError::Index(error)) if rebuilt => return Err(SpoolError::Index(error.to_string())),
            Err(ReplayError::Index(error)) => {
                let set_aside = start.factory.set_aside(start.now).map_err(|error| SpoolError::Index(error.to_string()))?;
                notes.push(Note::IndexRebuilt { why: error.to_string(), set_aside });
                rebuilt = true;
                opened = start.factory.open();
            }
        }
    }
}

/// Segments that their successor speaks of, and that aren't there. The ones before the oldest were released.
pub(crate) fn gaps(files: &[SegmentFile]) -> BTreeSet<u64> {
    let pairs = files.iter().zip(files.iter().skip(1));
    pairs.filter_map(|(before, file)| file.header.map(|header| header.prior).filter(|prior| *prior > before.number)).collect()
}

/// Whether a segment is among the files.
pub(crate) fn is_there(files: &[SegmentFile], segment: u64) -> bool {
    files.binary_search_by_key(&segment, |file| file.number).is_ok()
}

/// All segments that are known to be missing. None goes from the index's mark on, nor one with messages in it, as these have their records.
fn missing(files: &[SegmentFile], marked: Option<Mark>, orphaned: &[Resident]) -> Vec<Note> {
    let known = marked.map(|mark| mark.position.segment).into_iter().chain(orphaned.iter().map(|one| one.place.segment));
    let mut missing = gaps(files);
    missing.extend(known.filter(|segment| !is_there(files, *segment)));
    missing.into_iter().map(|segment| Note::SegmentMissing { segment }).collect()
}

fn has_bytes(files: &[SegmentFile]) -> bool {
    files.iter().any(|file| file.length > BLOCK_SIZE)
}

/// Whether an index belongs to this log, and where it left off. None: it is new and empty.
pub(crate) fn fit(index: &dyn Index, identity: u64, end: Position) -> Result<Option<Mark>, IndexError> {
    let Some(mark) = index.mark()? else {
        let empty = index.page(&Filter::default(), 1)?.found.is_empty();
        return if empty { Ok(None) } else { Err(IndexError::Damaged("it was never finished".to_owned())) };
    };
    if mark.identity != identity {
        Err(IndexError::Damaged("it belongs to another spool".to_owned()))
    } else if mark.position > end {
        Err(IndexError::Damaged("it knows more than the log".to_owned()))
    } else {
        Ok(Some(mark))
    }
}

/// What reading the log gave.
struct ReadLog {
    last_id: QueueId,
    records: u64,
    notes: Vec<Note>,
}

/// What lives, by segment.
#[derive(Default)]
struct Books {
    messages: u64,
    segments: BTreeMap<u64, Use>,
    /// Messages whose content lies in a file, in order.
    files: Vec<QueueId>,
    /// Messages that only the index has: their records are gone.
    orphaned: Vec<Resident>,
}

impl Books {
    /// Counts those that were orphaned, where they lie now, and what was written for it.
    fn add(&mut self, orphaned: Vec<Resident>, log: &mut Log) {
        let first = self.segments.keys().last().copied().unwrap_or(0);
        let new = (first..=log.durable().segment).chain(log.take_stillborn());
        new.for_each(|number| _ = self.segments.entry(number).or_default());
        for Resident { id, place, file, .. } in orphaned {
            self.messages += 1;
            if file {
                self.files.push(id);
            }
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.used += if place.segment < first { 0 } else { u64::from(place.length) };
                segment.live += 1;
                segment.live_bytes += u64::from(place.length);
            }
        }
        self.files.sort_unstable();
    }
}

/// Reads the log from the index's mark on, and makes the index agree with it.
fn bring_up(
    start: &Start,
    layout: &Layout,
    known: &Known<'_>,
    index: &mut dyn Index,
    mark: Option<Mark>,
) -> Result<(ReadLog, Books), ReplayError> {
    let from = mark.map_or(Position::default(), |mark| mark.position);
    let replay = Replay::new(&start.disk, layout, known.identity, index, &start.options.due, true);
    let mut replay = replay.with(start.workers).watched_by(&start.options.progress, replay::bytes_behind(known.files, from));
    let mut segments = BTreeMap::new();
    for file in known.files {
        let end = match replay::first_offset(file, from) {
            None => known_end(file),
            Some(offset) => replay.segment(file, offset)?,
        };
        segments.insert(file.number, Use { used: end - BLOCK_SIZE, ..Use::default() });
    }
    replay.spill()?;
    let read = ReadLog {
        last_id: replay.last_id.max(mark.map_or(QueueId(0), |mark| mark.last_id)),
        records: replay.records,
        notes: std::mem::take(&mut replay.notes),
    };
    Ok(count(index, &start.options, Books { segments, ..Books::default() }, read)?)
}

/// Goes through the index once: counts what lives, lets go of what was taken, finds whom the log no longer has.
fn count(index: &mut dyn Index, options: &Options, mut books: Books, mut read: ReadLog) -> Result<(ReadLog, Books), IndexError> {
    let mut taken = Vec::new();
    index.residents(&mut |resident| {
        let Resident { id, place: Place { segment, offset, length }, file, taken: is_taken } = resident;
        read.last_id = read.last_id.max(id);
        if is_taken {
            taken.push(id);
        }
        let record_end = (offset + u64::from(length)).saturating_sub(BLOCK_SIZE);
        let Some(segment) = books.segments.get_mut(&segment).filter(|segment| record_end <= segment.used) else {
            books.orphaned.push(resident);
            return;
        };
        segment.live += 1;
        segment.live_bytes += u64::from(length);
        books.messages += 1;
        if file {
            books.files.push(id);
        }
    })?;
    books.files.sort_unstable();
    books.orphaned.sort_unstable();
    for id in taken {
        if let Some((stored, due)) = index.get(id)? {
            index.set_due(id, due_after(&stored, due, &options.due))?;
        }
    }
    Ok((read, books))
}

/// Removes content files that no message names (sets them aside if the log is damaged), and notes those that are missing. Opens none:
/// they may be many, and whoever reads one finds out whether it is whole.
fn tidy_content(disk: &dyn Disk, layout: &Layout, files: &[QueueId], damaged: bool, notes: &mut Vec<Note>) {
    let tidied = remove_orphans(disk, layout, files, damaged, notes);
    let noted = match (damaged, tidied) {
        // The next start may know of no damage any more.
        (true, false) => aside::keep_orphans(disk, layout),
        (true, true) => aside::orphans_are_moved(disk, layout),
        (false, _) => Ok(()),
    };
    notes.extend(noted.err().map(|error| Note::Trouble(error.to_string())));
}

/// Says whether all are gone from there.
fn remove_orphans(disk: &dyn Disk, layout: &Layout, files: &[QueueId], damaged: bool, notes: &mut Vec<Note>) -> bool {
    let names = match disk.list(&layout.content) {
        Ok(names) => names,
        Err(error) => {
            notes.push(Note::Trouble(format!("can't list {}: {error}", layout.content.display())));
            return false;
        }
    };
    let mut present: Vec<QueueId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    drop(names);
    present.sort_unstable();
    let (mut count, mut all) = (0, true);
    for id in present.iter().filter(|id| files.binary_search(id).is_err()) {
        let path = layout.content_file(*id);
        let gone = if damaged { aside::move_content(disk, layout, *id).map(Some) } else { disk.unlink(&path).map(|()| None) };
        match gone {
            Ok(None) => count += 1,
            Ok(Some(to)) => {
                notes.push(Note::Trouble(format!("no readable record has the content of {id}: it was moved to {to}")))
            }
            Err(error) => {
                all = false;
                notes.push(Note::Trouble(format!("can't remove {}: {error}", path.display())));
            }
        }
    }
    if count > 0 {
        notes.push(Note::OrphansRemoved { count });
    }
    let missing = files.iter().filter(|id| present.binary_search(id).is_err());
    notes.extend(missing.map(|id| Note::ContentMissing { id: *id }));
    all
}
