//! Copies what still lives: accepts messages again at the log's end, with the content that lies in their records, as far as the disk
//! gives that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::content;
use super::index::Place;
use super::keeper::Command;
use super::op::Op;
use super::record::{self, AcceptContent, Body, ContentAt, ContentFile, Frame, Header};
use super::scan::{Found, Scan};
use super::segment::BLOCK_SIZE;
use super::shared::{Shared, State};
use super::space::Pace;
use super::unreadable::Claim;
use super::{Note, SpoolError, aside};
use crate::mail::QueueId;
use crate::system::{DiskFile, OpenMode};

/// The index is asked about the messages and recipients of so many records at a time: they are in memory then.
pub(crate) const STEP_RECORDS: usize = 8192;
/// So many messages are looked at under the lock at a time.
pub(crate) const LOCKED: usize = 256;
/// So many bytes are copied before those copied before them have to be durable,
const STEP_BYTES: u64 = 256 * 1024;
/// and so many if room is needed. Two steps are no more than a batch.
const PRESSED_STEP_BYTES: u64 = 2 * 1024 * 1024;
/// While copying waits for its turn: how often it looks whether room is needed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After so much time in reads that failed, no more are tried: a disk may take half a minute for each.
const FAILING_MAX: Duration = Duration::from_secs(30);

/// Where a survivor's content is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whence {
    /// It has a file of its own, and keeps it.
    File,
    /// From its record.
    Record,
    /// From a record in a segment that was set aside.
    Aside(Place),
    /// From nowhere: the disk doesn't give it now.
    Nowhere,
}

/// A message, where its record lies, and where its content.
pub(crate) type Met = (QueueId, Place, Whence);

/// What is on its way to being durable.
type Waiting = Vec<oneshot::Receiver<()>>;

/// What a look for content gave.
enum Again {
    /// It stays in its file.
    InFile,
    /// It goes into the new record, or is said to be lost there.
    With(AcceptContent),
    /// It can't be copied now.
    Not,
}

/// Copies survivors.
pub(crate) struct Copier<'a> {
    shared: &'a Arc<Shared>,
    pace: &'a mut Pace,
    /// Whose content the disk didn't give,
    pub(crate) unread: Vec<Claim>,
    /// and what it said.
    pub(crate) why: Option<SpoolError>,
    /// Whose content turned out damaged in a segment that was set aside.
    pub(crate) damaged: Vec<Claim>,
    /// The first that wasn't tried, because too many reads failed.
    pub(crate) untried: Option<Place>,
    /// How long those took.
    failing: Duration,
    /// The segment that was read last.
    file: Option<(PathBuf, Box<dyn DiskFile>)>,
    began: Duration,
    /// Time in which nothing was copied, so as to keep pace.
    rested: Duration,
    /// Bytes copied.
    bytes: u64,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, pace: &'a mut Pace) -> Self {
        Self {
            shared,
            pace,
            unread: Vec::new(),
            why: None,
            damaged: Vec::new(),
            untried: None,
            failing: Duration::ZERO,
            file: None,
            began: shared.clock.monotonic(),
            rested: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Copies those in a segment whose records can be found by reading it. Where the disk can't, the others are left.
    pub(crate) async fn found(&mut self, number: u64, end: u64) -> Result<(), SpoolError> {
        let path = self.shared.layout.segment(number);
        let file = match self.shared.disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SpoolError::io("can't read", &path, &error));
            }
            Err(_) => return Ok(()),
        };
        let mut scan = Scan::new(file, self.shared.identity, BLOCK_SIZE, end, true, 0);
        while let Ok(Some(met)) = step(&mut scan, number) {
            self.copy(met).await?;
        }
        Ok(())
    }

    /// Copies those that are left: their records can't be found, or a change was under way. Says how many there were.
    pub(crate) async fn hidden(&mut self, segment: u64, expected: u64) -> Result<usize, SpoolError> {
        let left = self.shared.ask(|reply| Command::Dwellers { segment, expected, reply }).await??;
        for some in left.chunks(STEP_RECORDS) {
            self.copy(some.to_vec()).await?;
        }
        Ok(left.len())
    }

    /// Copies these, if they live where they were met.
    pub(crate) async fn copy(&mut self, met: Vec<Met>) -> Result<(), SpoolError> {
        let shared = self.shared;
        if shared.lock().closing {
            return Err(SpoolError::Closed);
        }
        let mut alive = living(shared, met).await?.into_iter().peekable();
        let mut before = Waiting::new();
        while alive.peek().is_some() {
            let pressed = self.keep_pace().await;
            let most = if pressed { PRESSED_STEP_BYTES } else { STEP_BYTES };
            let (mut bytes, mut waiting) = (0, Waiting::new());
            while bytes < most
                && let Some(met) = alive.next()
            {
                if let Some((length, durable)) = self.accept_again(met)? {
                    bytes += length;
                    waiting.push(durable);
                }
            }
            self.bytes += bytes;
            if !pressed {
                self.pace.copied(bytes, shared.clock.monotonic());
            }
            // While one step becomes durable the next is read.
            durable(std::mem::replace(&mut before, waiting)).await?;
        }
        durable(before).await
    }

    /// Waits until more may be copied; says whether room is needed.
    async fn keep_pace(&mut self) -> bool {
        let shared = self.shared;
        let began = shared.clock.monotonic();
        loop {
            let now = shared.clock.monotonic();
            let (left, pressed) = (self.pace.wait(now), shared.is_pressed());
            if left.is_zero() || pressed || shared.lock().closing {
                self.rested += now.saturating_sub(began);
                return pressed;
            }
            // Looks again now and then: mail that arrives meanwhile may press.
            let _ = tokio::time::timeout(left.min(LOOK_EVERY), shared.sweep.notified()).await;
        }
    }

    /// Notes how fast it went, if that tells anything.
    pub(crate) fn end(self) {
        let took = self.shared.clock.monotonic().saturating_sub(self.began + self.rested);
        if self.bytes > self.shared.options.segment_size / 4 {
            self.shared.lock().segments.note_copied(self.bytes, took);
        }
    }

    /// Queues a survivor's record again; says how long it is, and what comes back tells when it is durable. None: it can't be copied now.
    fn accept_again(&mut self, (id, place, whence): Met) -> Result<Option<(u64, oneshot::Receiver<()>)>, SpoolError> {
        let again = self.content(id, place, whence);
        let is_lost = matches!((whence, &again), (Whence::Record, Ok(Again::With(AcceptContent::File(_)))));
        let mut state = self.shared.lock();
        if state.closing {
            // The committer may be gone already: nobody would answer.
            return Err(SpoolError::Closed);
        }
        let queued = again.map(|again| queue_again(&mut state, id, place, again));
        // One that was borrowed from the index goes back, also if it couldn't be copied.
        state.park_again(id);
        drop(state);
        self.shared.wake.notify_one();
        if is_lost && matches!(queued, Ok(Some(_))) {
            self.shared.report(Note::ContentMissing { id });
        }
        queued
    }

    /// A record, checked. None: its segment isn't there.
    fn record(&mut self, path: &Path, id: QueueId, place: Place) -> Result<Option<(Header, Vec<u8>)>, SpoolError> {
        if self.file.as_ref().is_none_or(|(open, _)| open != path) {
            self.file = content::open_segment(&*self.shared.disk, path)?.map(|file| (path.to_owned(), file));
        }
        let read =
            |(_, file): &(PathBuf, Box<dyn DiskFile>)| content::read_record_in(&**file, path, self.shared.identity, id, place);
        self.file.as_ref().map(read).transpose()
    }

    fn content(&mut self, id: QueueId, place: Place, whence: Whence) -> Result<Again, SpoolError> {
        let layout = &self.shared.layout;
        let (path, place) = match whence {
            Whence::File => return Ok(Again::InFile),
            Whence::Nowhere => return Ok(Again::With(AcceptContent::File(ContentFile::LOST))),
            Whence::Record => (layout.segment(place.segment), place),
            Whence::Aside(place) => (layout.unreadable_segment(place.segment), place),
        };
        if self.failing >= FAILING_MAX {
            self.untried.get_or_insert(place);
            self.unread.push((id, place));
            return Ok(Again::Not);
        }
        let begun = self.shared.clock.monotonic();
        match self.record(&path, id, place) {
            Ok(None) => Ok(Again::Not),
            Ok(Some((header, mut record))) => {
                // The header is written anew, the content stays where it is in the buffer, and as it is stored.
                record.truncate(record::content_range(&header).end);
                Ok(Again::With(AcceptContent::Inline(record, header.form())))
            }
            Err(SpoolError::Damaged(_)) => {
                // What is left of it is set aside. The message stays in the queue without it, or it would keep all segments from here on.
                aside::keep_record(self.shared, &path, place)?;
                if whence == Whence::Record {
                    return Ok(Again::With(AcceptContent::File(ContentFile::LOST)));
                }
                self.damaged.push((id, place));
                Ok(Again::Not)
            }
            Err(error) => {
                self.failing += self.shared.clock.monotonic().saturating_sub(begun);
                self.unread.push((id, place));
                self.why = Some(error);
                Ok(Again::Not)
            }
        }
    }
}

/// Waits for what was queued.
async fn durable(waiting: Waiting) -> Result<(), SpoolError> {
    for durable in waiting {
        durable.await.map_err(|_| SpoolError::Closed)?;
    }
    Ok(())
}

/// The next Accept records; none at the end.
fn step(scan: &mut Scan, segment: u64) -> std::io::Result<Option<Vec<Met>>> {
    let (mut met, mut weight) = (Vec::new(), 0);
    while weight < STEP_RECORDS {
        weight += 1;
        match scan.next()? {
            None if met.is_empty() => return Ok(None),
            None => break,
            Some(Found::Record { record, offset, length }) => {
                if let Body::Accept { message, content, .. } = record.body {
                    weight += message.recipients.len();
                    let place = Place { segment, offset, length };
                    let inline = matches!(content, ContentAt::Inline(..));
                    met.push((record.id, place, if inline { Whence::Record } else { Whence::File }));
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
    let mut elsewhere = BTreeMap::new();
    for some in met.chunks(LOCKED) {
        let state = shared.lock();
        elsewhere.extend(some.iter().filter(|(id, _, _)| !state.overrides(*id)).map(|(id, place, _)| (*id, *place)));
    }
    if !elsewhere.is_empty() {
        shared.ask(|reply| Command::Borrow { wanted: elsewhere, reply }).await??;
    }
    let mut living = Vec::new();
    for some in met.chunks(LOCKED) {
        let state = shared.lock();
        let lives = |(id, place, _): &&Met| state.visible(*id).is_some_and(|entry| entry.stored.place == *place);
        living.extend(some.iter().filter(lives));
    }
    Ok(living)
}

/// The message as it is at this moment, in the log's order.
fn queue_again(state: &mut State, id: QueueId, place: Place, again: Again) -> Option<(u64, oneshot::Receiver<()>)> {
    let entry = state.visible(id).filter(|entry| entry.stored.place == place && entry.in_doubt == 0)?;
    let content = match again {
        Again::InFile => AcceptContent::File(entry.stored.file?),
        Again::With(content) => content,
        Again::Not => return None,
    };
    let file = content.file();
    let frame = Frame::accept(content, &entry.stored.message, &[]);
    let (reply, answer) = oneshot::channel();
    let length = frame.bytes().len() as u64;
    state.queue.push_back(Op::Reaccept { id, file, frame, reply });
    Some((length, answer))
}
