//! The index on disk: new parked messages in memory, the others in runs; a message lives in one of these places, never in two.
//!
//! On disk it is always as it was when it was marked last: runs are never changed, and the catalogue changes with the mark. What was
//! done since is read from the log again. So memory is bounded by what a run begins with, whatever the queue's length.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;

use super::cache::Cache;
use super::catalogue::{Ledger, PairChange, dead_key, run_key};
use super::entry::{MESSAGE, prefix};
use super::merge::{Merge, mergeable};
use super::recent::{self, Recent};
use super::run::{Due, FoundIn, Ids, Run, RunWriter, write};
use super::source::Source;
use super::{Index, IndexError, LOOK_MAX, Mark, Page, Resident, Stored};
use crate::mail::{QueueId, Timestamp};
use crate::spool::codec::Malformed;
use crate::spool::stats::Count;
use crate::spool::{Filter, Stats};
use crate::system::Disk;

/// So many runs are merged at once, before there are more: each is an open file, and one more place to look.
const RUNS_MAX: usize = 64;
/// After a merge the disk must have so much room left; bytes.
const ROOM_MIN: u64 = 64 << 20;
/// When what is in memory can't be written, it is tried again after so many bytes more.
const RECENT_STEP: usize = 1 << 20;
/// A page looks at so many summaries at the most.
const SUMMARIES_MAX: usize = 200_000;
/// The earliest due time of a message that waits.
const FIRST: Timestamp = Timestamp::from_millis(1);

/// Parked messages in runs.
pub struct RunIndex {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    cache: Arc<Cache>,
    ledger: Ledger,
    recent: Recent,
    recent_size_max: usize,
    /// What is in memory goes into a run when it takes so much: more than usual after that has failed.
    spill_at: usize,
    runs: BTreeMap<u64, Run>,
    merge: Option<Merge>,
    last_number: u64,
    /// Runs that no longer count, but that the catalogue on disk may still name,
    obsolete: Vec<u64>,
    /// and the bytes that they take until then.
    obsolete_size: u64,
}

/// What an index consists of when it is opened.
pub(super) struct Parts {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) cache: Arc<Cache>,
    pub(super) ledger: Ledger,
    pub(super) runs: BTreeMap<u64, Run>,
    /// The highest number of a run that ever lay there.
    pub(super) last_number: u64,
}

/// A run's file.
pub(super) fn name(number: u64) -> String {
    format!("{number:08}.run")
}

impl RunIndex {
    pub(super) fn new(parts: Parts, recent_size_max: usize) -> Self {
        let Parts { disk, folder, cache, ledger, runs, last_number } = parts;
        Self {
            disk,
            folder,
            cache,
            ledger,
            recent: Recent::default(),
            recent_size_max,
            spill_at: recent_size_max,
            runs,
            merge: None,
            last_number,
            obsolete: Vec::new(),
            obsolete_size: 0,
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(name(number))
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The run that a message lives in.
    fn find(&self, id: QueueId) -> Result<Option<(u64, FoundIn)>, IndexError> {
        for (number, run) in self.runs.iter().rev() {
            if let Some(found) = run.find(id)? {
                return Ok(Some((*number, found)));
            }
        }
        Ok(None)
    }

    /// The message in a run doesn't count any longer.
    fn strike(&mut self, number: u64, ordinal: u32) {
        if let Some(merge) = &mut self.merge {
            merge.strike(number, ordinal);
        }
        let Some(run) = self.runs.get_mut(&number) else { return };
        run.dead.insert(ordinal);
        if run.living() == 0 && self.merge.as_ref().is_none_or(|merge| !merge.sources().contains(&number)) {
            self.drop_run(number);
        }
    }

    fn drop_run(&mut self, number: u64) {
        self.obsolete_size += self.runs.remove(&number).map_or(0, |run| run.table.length());
        self.cache.forget(number);
        self.obsolete.push(number);
    }

    /// What is in memory becomes a run.
    fn spill(&mut self) -> Result<(), IndexError> {
        self.spill_at = self.recent_size_max;
        if self.recent.messages().is_empty() {
            return Ok(());
        }
        let messages = std::mem::take(&mut self.recent);
        match self.make_run(messages.messages().values().map(|(stored, due)| (stored, *due))) {
            Ok(run) => {
                for (ordinal, id) in messages.messages().keys().enumerate() {
                    if messages.is_taken(*id) {
                        run.taken.insert(ordinal as u32);
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.recent = messages;
                self.spill_at = self.recent.size() + RECENT_STEP;
                Err(error)
            }
        }
    }

    fn make_run<'a>(&mut self, messages: impl Iterator<Item = (&'a Stored, Timestamp)>) -> Result<&mut Run, IndexError> {
        let number = self.next_number();
        let path = self.path(number);
        let made = write(&*self.disk, &path, messages);
        let made = made.and_then(|()| Run::open(&*self.disk, &path, number, self.cache.clone()));
        match made {
            Ok(run) => Ok(self.runs.entry(number).insert_entry(run).into_mut()),
            Err(error) => {
                // If it stays, it is removed when the index is opened the next time.
                let _ = self.disk.unlink(&path);
                Err(error)
            }
        }
    }

    fn begin_merge(&mut self) -> Result<bool, IndexError> {
        let numbers = mergeable(&self.runs);
        if numbers.is_empty() {
            return Ok(false);
        }
        let size: u64 = numbers.iter().filter_map(|number| self.runs.get(number)).map(|run| run.size).sum();
        let room = self.disk.available(&self.folder).unwrap_or(u64::MAX);
        if room < 2 * size + ROOM_MIN {
            return Ok(false);
        }
        let number = self.next_number();
        let writer = RunWriter::create(&*self.disk, &self.path(number), true)?;
        let runs: Vec<(u64, &Run)> = numbers.iter().filter_map(|number| Some((*number, self.runs.get(number)?))).collect();
        self.merge = Some(Merge::begin(number, writer, &runs)?);
        Ok(true)
    }

    fn end_merge(&mut self, merge: Merge) -> Result<(), IndexError> {
        let (number, sources) = (merge.number, merge.sources());
        let (messages, dead, taken) = merge.finish()?;
        if messages > 0 {
            let mut run = Run::open(&*self.disk, &self.path(number), number, self.cache.clone())?;
            run.dead = dead;
            run.taken = taken;
            self.runs.insert(number, run);
        } else {
            self.obsolete.push(number);
        }
        sources.into_iter().for_each(|number| self.drop_run(number));
        if self.runs.get(&number).is_some_and(|run| run.living() == 0) {
            self.drop_run(number);
        }
        Ok(())
    }

    /// What the catalogue must be told.
    fn changes(&self) -> Vec<PairChange> {
        let all = self.ledger.needs_all();
        let mut changes = Vec::new();
        for (number, run) in &self.runs {
            if all || !self.ledger.has(*number) {
                changes.push((run_key(*number), Some(run.table.fingerprint().to_le_bytes().to_vec())));
            }
            let dead: Vec<(u32, Vec<u8>)> = if all { run.dead.all().collect() } else { run.dead.changed().collect() };
            changes.extend(dead.into_iter().map(|(chunk, bytes)| (dead_key(*number, chunk), Some(bytes))));
        }
        for number in &self.obsolete {
            changes.extend(self.ledger.keys_of(*number).into_iter().map(|key| (key, None)));
        }
        changes
    }

    /// Places to look for messages that may meet a filter, each in the order of ids.
    fn sources(&self, filter: &Filter) -> Result<Vec<Source<'_>>, IndexError> {
        let Some(from) = filter.after.map_or(Some(0), |after| after.0.checked_add(1)).map(QueueId) else { return Ok(Vec::new()) };
        let prefix = prefix(filter);
        let summaries = prefix == [MESSAGE] && (filter.state.is_some() || filter.arrived_before.is_some());
        let mut sources = vec![Source::Memory(self.recent.messages().range(from..))];
        for run in self.runs.values() {
            sources.push(if summaries {
                Source::Summaries(run, run.summaries(filter, from)?)
            } else {
                Source::Keys(run.ids(&prefix, from)?)
            });
        }
        Ok(sources)
    }
}

impl Index for RunIndex {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        Ok(self.ledger.mark())
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        self.spill()?;
        for run in self.runs.values_mut().filter(|run| !run.synced) {
            run.table.sync()?;
            run.synced = true;
        }
        // And their names.
        let folder = self.folder.display().to_string();
        self.disk.sync_dir(&self.folder).map_err(|error| IndexError::Unwritable(format!("can't sync {folder}: {error}")))?;
        self.ledger.save(self.changes(), mark)?;
        self.runs.values_mut().for_each(|run| run.dead.saved());
        self.obsolete_size = 0;
        for number in std::mem::take(&mut self.obsolete) {
            // If it stays, it is removed when the index is opened the next time.
            let _ = self.disk.unlink(&self.path(number));
        }
        Ok(())
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        let id = stored.message.id;
        if self.recent.get(id).is_none()
            && let Some((number, found)) = self.find(id)?
        {
            self.strike(number, found.ordinal);
        }
        self.recent.put(id, Some((stored.clone(), due)));
        if self.recent.size() <= self.spill_at {
            return Ok(());
        }
        match self.spill() {
            // It stays in memory; whoever marks the index hears of it.
            Err(IndexError::Unwritable(_)) => Ok(()),
            spilled => spilled,
        }
    }

    fn insert_many(&mut self, batch: BTreeMap<QueueId, (Stored, Timestamp)>) -> Result<(), IndexError> {
        let size: usize = batch.values().map(|(stored, _)| recent::size(stored)).sum();
        if size < self.recent_size_max / 2 {
            return batch.values().try_for_each(|(stored, due)| self.insert(stored, *due));
        }
        for id in batch.keys() {
            self.recent.put(*id, None);
            if let Some((number, found)) = self.find(*id)? {
                self.strike(number, found.ordinal);
            }
        }
        self.make_run(batch.values().map(|(stored, due)| (stored, *due)))?;
        while self.runs.len() > RUNS_MAX && self.work()? {}
        Ok(())
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        if self.recent.set_due(id, due) {
            return Ok(());
        }
        let Some((number, found)) = self.find(id)? else { return Ok(()) };
        if due == Timestamp::ZERO {
            if let Some(merge) = &mut self.merge {
                merge.take(number, found.ordinal);
            }
            if let Some(run) = self.runs.get_mut(&number) {
                run.taken.insert(found.ordinal);
            }
            return Ok(());
        }
        let (stored, _) = found.stored(id)?;
        self.insert(&stored, due)
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        if self.recent.put(id, None).is_none()
            && let Some((number, found)) = self.find(id)?
        {
            self.strike(number, found.ordinal);
        }
        Ok(())
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        if let Some((stored, due)) = self.recent.get(id) {
            return Ok(Some((stored.clone(), due)));
        }
        Ok(self.find(id)?.map(|(_, found)| found.stored(id)).transpose()?)
    }

    fn get_all(&self, ids: &BTreeSet<QueueId>, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        let mut elsewhere = Vec::new();
        for id in ids {
            match self.recent.get(*id) {
                Some((stored, due)) => visit(stored.clone(), due),
                None => elsewhere.push(*id),
            }
        }
        for run in self.runs.values() {
            run.find_all(&elsewhere, |id, found| {
                let (stored, due) = found.stored(id)?;
                visit(stored, due);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn disk_size(&self) -> u64 {
        let runs: u64 = self.runs.values().map(|run| run.table.length()).sum();
        runs + self.obsolete_size + self.merge.as_ref().map_or(0, Merge::length)
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        let from = from.max(FIRST);
        let mut sources: Vec<Due<'_>> = self.runs.values().map(|run| run.due(from)).collect::<Result<_, _>>()?;
        let mut recent = self.recent.due().range((from, QueueId(0))..).copied();
        let memory = sources.len();
        let mut heads = BinaryHeap::new();
        let mut next = |source: usize| match sources.get_mut(source) {
            Some(run) => run.next(),
            None => Ok(recent.next()),
        };
        for source in 0..=memory {
            heads.extend(next(source)?.map(|(due, id)| Reverse((due, id, source))));
        }
        let mut due = Vec::new();
        while due.len() < count_max
            && let Some(Reverse((time, id, source))) = heads.pop()
            && time <= to
        {
            due.push((time, id));
            heads.extend(next(source)?.map(|(due, id)| Reverse((due, id, source))));
        }
        Ok(due)
    }

    fn due_in_memory(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        Ok(self.recent.due_within(from, to, count_max))
    }

    fn in_memory(&self) -> usize {
        self.recent.size()
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        let mut sources = self.sources(filter)?;
        // Summaries are looked at many times faster than messages.
        let look_max = if sources.iter().any(Source::is_summaries) { SUMMARIES_MAX } else { LOOK_MAX };
        let mut heads = BinaryHeap::new();
        for (number, source) in sources.iter_mut().enumerate() {
            heads.extend(source.next()?.map(|(id, meets)| Reverse((id, number, meets))));
        }
        let mut page = Page::default();
        let mut looked = 0;
        while let Some(Reverse((id, number, meets))) = heads.pop() {
            if meets {
                let found = sources[number].stored(id)?;
                page.found.extend(found.filter(|stored| filter.matches(&stored.message)));
            }
            looked += 1;
            if page.found.len() >= count_max || looked >= look_max {
                page.next = Some(id);
                break;
            }
            heads.extend(sources[number].next()?.map(|(id, meets)| Reverse((id, number, meets))));
        }
        Ok(page)
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        let mut sources: Vec<Ids<'_>> = self.runs.values().map(Run::all).collect::<Result<_, _>>()?;
        let mut heads = BinaryHeap::new();
        for (number, source) in sources.iter_mut().enumerate() {
            heads.extend(source.next()?.map(|id| Reverse((id, number))));
        }
        let mut recent = self.recent.iter().peekable();
        while let Some(Reverse((id, number))) = heads.pop() {
            while let Some((_, stored, due)) = recent.next_if(|(recent, _, _)| *recent < id) {
                visit(stored.clone(), due);
            }
            if let Some((stored, due)) = sources[number].stored(id)? {
                visit(stored, due);
            }
            heads.extend(sources[number].next()?.map(|id| Reverse((id, number))));
        }
        recent.for_each(|(_, stored, due)| visit(stored.clone(), due));
        Ok(())
    }

    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError> {
        for run in self.runs.values() {
            run.survey(|summary| visit((&summary).into()), |_| Ok(()))?;
        }
        self.recent.iter().for_each(|(_, stored, due)| visit(Resident::new(stored, due)));
        Ok(())
    }

    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError> {
        for run in self.runs.values() {
            // By number of name, until the names are known.
            let counts = std::cell::RefCell::new(Vec::<Count>::new());
            let states = std::cell::RefCell::new(&mut *stats);
            run.survey(
                |summary| {
                    if leave_out.contains(&summary.id) {
                        return;
                    }
                    let mut counts = counts.borrow_mut();
                    let one = Count { messages: 1, recipients: 0, bytes: summary.size, oldest: Some(summary.arrived) };
                    let mut recipients = 0;
                    for (name, open) in summary.domains {
                        let name = *name as usize;
                        if counts.len() <= name {
                            counts.resize(name + 1, Count::default());
                        }
                        counts[name].join(&Count { recipients: u64::from(*open), ..one });
                        recipients += u64::from(*open);
                    }
                    states.borrow_mut().states.entry(summary.state).or_default().join(&Count { recipients, ..one });
                },
                |names| {
                    for (name, count) in names.iter().zip(counts.borrow_mut().drain(..)) {
                        states.borrow_mut().join_domain(name, &count).ok_or(Malformed("name"))?;
                    }
                    Ok(())
                },
            )?;
        }
        let recent = self.recent.messages().values().map(|(stored, _)| &stored.message);
        recent.filter(|message| !leave_out.contains(&message.id)).for_each(|message| stats.add(message));
        Ok(())
    }

    fn work(&mut self) -> Result<bool, IndexError> {
        let Some(mut merge) = self.merge.take() else { return self.begin_merge() };
        let number = merge.number;
        let worked = match merge.step(|number| self.runs.get(&number)) {
            Ok(true) => {
                self.merge = Some(merge);
                return Ok(true);
            }
            Ok(false) => self.end_merge(merge),
            Err(error) => Err(error),
        };
        if worked.is_err() {
            // The runs that it was made of are as they were.
            let _ = self.disk.unlink(&self.path(number));
        }
        worked.map(|()| true)
    }
}
