//! The release loop: gives the log's space back. Only the oldest segment ever goes; what still lives in it is accepted again at
//! the log's end first, so no record outlives or predeceases what it speaks of.
//!
//! Works in steps of bounded size beside reception, on a thread that may block.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::content;
use super::index::Place;
use super::keeper::Command;
use super::op::Op;
use super::record::{self, AcceptContent, Body, ContentAt, ContentFile, Frame};
use super::scan::{Found, Scan};
use super::segment::BLOCK_SIZE;
use super::shared::{Shared, State};
use super::space::{Pace, Use};
use super::{Note, SpoolError, aside};
use crate::mail::QueueId;
use crate::system::OpenMode;

/// A step looks at so many records,
const STEP_RECORDS: usize = 256;
/// and copies so many bytes before it waits for them to be durable.
const STEP_BYTES: u64 = 256 * 1024;
/// Survivors with a change under way are asked again so often.
const TRIES: usize = 3;
/// A release that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// While copying waits for its turn: how often it looks whether room is needed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The reserve is looked after this often, while there is work.
const REFILL_EVERY: Duration = Duration::from_secs(1);

/// Closes the spool when the loop has ended.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended("spool-release");
    }
}

/// Runs until the spool is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let _ending = Ending(shared.clone());
    let mut looked = shared.clock.monotonic();
    let mut pace = Pace::new(shared.options.compaction_rate);
    loop {
        unlink_content(&shared);
        shared.limit_spares();
        let mut failed = false;
        while !failed && let Some(oldest) = shared.oldest_to_go() {
            let released = release(&shared, oldest, &mut pace).await;
            if let Err(error) = released {
                if error != SpoolError::Closed {
                    shared.report(Note::Trouble(format!("segment {oldest} isn't released yet: {error}")));
                }
                failed = true;
            }
            unlink_content(&shared);
        }
        if failed {
            rest(&shared, RETRY).await;
        }
        let now = shared.clock.monotonic();
        if now.saturating_sub(looked) >= REFILL_EVERY {
            looked = now;
            shared.reserve.refill();
        }
        if shared.lock().closing {
            break;
        }
        if shared.oldest_to_go().is_none() {
            shared.sweep.notified().await;
        }
    }
    unlink_content(&shared);
    shared.spares.keep(0);
}

impl Shared {
    /// Gives up spare segments that there is no room for any longer.
    fn limit_spares(&self) {
        let most = self.spares_max(&self.lock(), None);
        self.spares.keep(most);
    }

    fn oldest_to_go(&self) -> Option<u64> {
        self.candidate(&self.lock())
    }

    /// The segment that should go next.
    pub(crate) fn candidate(&self, state: &State) -> Option<u64> {
        let open = state.end.segment;
        if state.closing { None } else { state.segments.candidate(self.options.segment_size, open) }
    }

    /// Whether room is needed: then what would go in the way of reception may do so.
    fn is_pressed(&self) -> bool {
        let pressing = self.lock().segments.is_pressing(self.options.segment_size);
        pressing || self.space().is_err()
    }
}

/// Waits, but for the removal of content, which nothing holds up, and the end of the spool.
async fn rest(shared: &Shared, time: Duration) {
    let end = shared.clock.monotonic() + time;
    while !shared.lock().closing {
        let left = end.saturating_sub(shared.clock.monotonic());
        if left.is_zero() || tokio::time::timeout(left, shared.sweep.notified()).await.is_err() {
            break;
        }
        unlink_content(shared);
    }
}

/// Waits until more may be copied.
async fn keep_pace(shared: &Shared, pace: &Pace) {
    loop {
        let left = pace.wait(shared.clock.monotonic());
        if left.is_zero() || shared.is_pressed() || shared.lock().closing {
            return;
        }
        // Looks again now and then: mail that arrives meanwhile may press.
        let _ = tokio::time::timeout(left.min(LOOK_EVERY), shared.sweep.notified()).await;
        unlink_content(shared);
    }
}

/// Copies the survivors, then removes the segment.
async fn release(shared: &Arc<Shared>, number: u64, pace: &mut Pace) -> Result<(), SpoolError> {
    for tries in 0..TRIES {
        let Use { live, used, .. } = shared.lock().segments.of(number);
        if live == 0 {
            return remove(shared, number).await;
        }
        if tries == 0 {
            copy_survivors(shared, number, BLOCK_SIZE + used, pace).await?;
        } else if copy_hidden(shared, number, live, pace).await? == 0 {
            // The index was built anew, and what can't be read isn't in it any more: that is set aside.
            return remove(shared, number).await;
        }
        // A survivor with a change under way has it behind it then.
        shared.barrier().await?;
    }
    match shared.lock().segments.of(number).live {
        0 => Ok(()),
        live => Err(SpoolError::Io(format!("{live} messages in it have changes under way again and again"))),
    }
}

/// A record that names a message, and whether its content is in it.
pub(crate) type Met = (QueueId, Place, bool);

/// Copies those whose records can be read.
async fn copy_survivors(shared: &Arc<Shared>, number: u64, end: u64, pace: &mut Pace) -> Result<(), SpoolError> {
    let path = shared.layout.segment(number);
    let failed = |error| SpoolError::io("can't read", &path, &error);
    let file = shared.disk.open(&path, OpenMode::Read).map_err(failed)?;
    let mut scan = Scan::new(file, shared.identity, BLOCK_SIZE, end, true, 0);
    while let Some(met) = step(&mut scan, number).map_err(failed)? {
        copy(shared, met, pace).await?;
    }
    Ok(())
}

/// Copies those that are left: their records can't be read, or a change was under way. Says how many there were.
async fn copy_hidden(shared: &Arc<Shared>, segment: u64, expected: u64, pace: &mut Pace) -> Result<usize, SpoolError> {
    let left = shared.ask(|reply| Command::Dwellers { segment, expected, reply }).await??;
    for some in left.chunks(STEP_RECORDS) {
        copy(shared, some.to_vec(), pace).await?;
    }
    Ok(left.len())
}

async fn copy(shared: &Arc<Shared>, met: Vec<Met>, pace: &mut Pace) -> Result<(), SpoolError> {
    if shared.lock().closing {
        return Err(SpoolError::Closed);
    }
    let mut alive = living(shared, met).await?.into_iter().peekable();
    while alive.peek().is_some() {
        keep_pace(shared, pace).await;
        let mut bytes = 0;
        let mut waiting = Vec::new();
        while bytes < STEP_BYTES
            && let Some((id, place, inline)) = alive.next()
        {
            bytes += u64::from(place.length);
            waiting.extend(accept_again(shared, id, place, inline)?);
        }
        for durable in waiting {
            durable.await.map_err(|_| SpoolError::Closed)?;
        }
        pace.copied(bytes, shared.clock.monotonic());
    }
    Ok(())
}

/// The next Accept records; none at the end.
fn step(scan: &mut Scan, segment: u64) -> std::io::Result<Option<Vec<Met>>> {
    let mut met = Vec::new();
    for _ in 0..STEP_RECORDS {
        match scan.next()? {
            None if met.is_empty() => return Ok(None),
            None => break,
            Some(Found::Record { record, offset, length }) => {
                if let Body::Accept { content, .. } = record.body {
                    let place = Place { segment, offset, length };
                    met.push((record.id, place, matches!(content, ContentAt::Inline(..))));
                }
            }
            // Who lives there is copied by what the index knows.
            Some(Found::Damage { .. } | Found::Tail { .. }) => {}
        }
    }
    Ok(Some(met))
}

/// Those that live where they were met; they are in memory then.
async fn living(shared: &Shared, met: Vec<Met>) -> Result<Vec<Met>, SpoolError> {
    let elsewhere: Vec<_> = {
        let state = shared.lock();
        met.iter().filter(|(id, _, _)| !state.overrides(*id)).map(|(id, place, _)| (*id, *place)).collect()
    };
    if !elsewhere.is_empty() {
        shared.ask(|reply| Command::Borrow { wanted: elsewhere, reply }).await??;
    }
    let state = shared.lock();
    let lives = |(id, place, _): &Met| state.visible(*id).is_some_and(|entry| entry.stored.place == *place);
    Ok(met.into_iter().filter(lives).collect())
}

/// Queues a survivor's record again; what comes back tells when it is durable. None: it can't be copied now.
fn accept_again(shared: &Shared, id: QueueId, place: Place, inline: bool) -> Result<Option<oneshot::Receiver<()>>, SpoolError> {
    let content = if inline { content_again(shared, id, place) } else { Ok(None) };
    let is_lost = matches!(content, Ok(Some(AcceptContent::File(_))));
    let mut state = shared.lock();
    if state.closing {
        // The committer may be gone already: nobody would answer.
        return Err(SpoolError::Closed);
    }
    let queued = content.map(|content| queue_again(&mut state, id, place, content));
    // One that was borrowed from the index goes back, also if it couldn't be copied.
    state.park_again(id);
    drop(state);
    shared.wake.notify_one();
    if is_lost && matches!(queued, Ok(Some(_))) {
        shared.report(Note::ContentMissing { id });
    }
    queued
}

/// The content that lies in a record. None: the record isn't there any more.
fn content_again(shared: &Shared, id: QueueId, place: Place) -> Result<Option<AcceptContent>, SpoolError> {
    match content::read_record(&*shared.disk, &shared.layout, shared.identity, id, place) {
        Ok(read) => Ok(read.map(|(header, mut record)| {
            // The header is written anew, the content stays where it is in the buffer, and as it is stored.
            record.truncate(record::content_range(&header).end);
            AcceptContent::Inline(record, header.form())
        })),
        // What is left of it is set aside. The message stays in the queue without it, or it would keep all segments from here on.
        Err(SpoolError::Damaged(_)) => aside::keep_record(shared, place).map(|()| Some(AcceptContent::File(ContentFile::LOST))),
        Err(error) => Err(error),
    }
}

/// The message as it is at this moment, in the log's order; with this content, unless that lies in a file.
fn queue_again(state: &mut State, id: QueueId, place: Place, content: Option<AcceptContent>) -> Option<oneshot::Receiver<()>> {
    let entry = state.visible(id).filter(|entry| entry.stored.place == place && entry.in_doubt == 0)?;
    let content = entry.stored.file.map(AcceptContent::File).or(content)?;
    let file = content.file();
    let frame = Frame::accept(content, &entry.stored.message, &[]);
    let (reply, answer) = oneshot::channel();
    state.queue.push_back(Op::Reaccept { id, file, frame, reply });
    Some(answer)
}

/// Removes a segment in which nothing lives.
async fn remove(shared: &Arc<Shared>, number: u64) -> Result<(), SpoolError> {
    // The index must not have to begin its replay there.
    let mark = shared.checkpoint().await?;
    if mark.position.segment <= number {
        return Err(SpoolError::Index("its mark is still there".to_owned()));
    }
    let spare = retire(shared, number)?;
    shared.lock().segments.remove(number);
    if let Some(spare) = spare {
        // The index loop may be reading the log anew and have the file open by its old name: its answer says that it has not.
        match shared.ask(|reply| Command::Ping { reply }).await {
            Ok(_) => shared.spares.add(spare),
            Err(_) => shared.spares.abandon(&spare),
        }
    }
    Ok(())
}

/// A segment's name goes, durably: it becomes a spare if one more is wanted, else it is removed.
fn retire(shared: &Shared, number: u64) -> Result<Option<PathBuf>, SpoolError> {
    let wanted = shared.spares.count() < shared.spares_max(&shared.lock(), Some(number));
    let spare = shared.spares.retire(number, wanted);
    if spare.is_none() {
        let path = shared.layout.segment(number);
        match shared.disk.unlink(&path) {
            Ok(()) => {}
            // After a failed sync of the folder it may be gone already.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SpoolError::io("can't remove", &path, &error)),
        }
    }
    let synced = shared.disk.sync_dir(&shared.layout.log);
    synced.map_err(|error| {
        if let Some(spare) = &spare {
            // On disk it may have its old name still.
            shared.spares.abandon(spare);
        }
        SpoolError::io("can't sync", &shared.layout.log, &error)
    })?;
    Ok(spare)
}

/// Removes the content files of messages that are gone. A name that comes back after a power cut is removed at start-up.
fn unlink_content(shared: &Shared) {
    let paths: Vec<PathBuf> = std::mem::take(&mut shared.lock().unlinks);
    for path in paths {
        match shared.disk.unlink(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => shared.report(Note::Trouble(format!("can't remove {}: {error}", path.display()))),
        }
    }
}
