//! The committer: the one loop that writes the log. While one sync runs the next batch gathers; there is no other delay.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::codec::Change;
use super::index::{Place, Position, Stored};
use super::keeper::Command;
use super::log::{Failure, Log};
use super::shared::{CommitError, Entry, Op, Shared, State};
use super::{Note, SpoolError};
use crate::mail::{QueueId, Timestamp};

/// A batch ends with the operation that passes this many bytes.
const BATCH_SIZE: usize = 4 << 20;
/// After a failure the records that nobody waits for are tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// The index is made durable and marked at least so often while the log grows.
const MARK_EVERY: Duration = Duration::from_secs(5);

/// Runs until the spool is closed and everything queued before is written, or can't be.
pub(crate) async fn run(shared: Arc<Shared>, log: Log) {
    let mut committer = Committer { log, marked: shared.clock.monotonic(), shared };
    loop {
        let (batch, closing) = committer.take();
        if batch.is_empty() {
            if closing {
                break;
            }
            committer.shared.wake.notified().await;
            continue;
        }
        if !committer.commit(batch) {
            if committer.shared.lock().closing {
                break;
            }
            tokio::select! {
                biased;
                () = committer.shared.wake.notified() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

struct Committer {
    shared: Arc<Shared>,
    log: Log,
    marked: Duration,
}

/// What is told once the lock is released.
#[derive(Default)]
struct Replies {
    accepted: Vec<(QueueId, oneshot::Sender<Result<(), CommitError>>)>,
    reaccepted: Vec<oneshot::Sender<()>>,
    barriers: Vec<oneshot::Sender<Result<(), SpoolError>>>,
}

impl Committer {
    /// The next batch, and whether the spool is closing.
    fn take(&self) -> (VecDeque<Op>, bool) {
        let mut state = self.shared.lock();
        let mut bytes = 0;
        let mut count = 0;
        for op in &state.queue {
            if bytes >= BATCH_SIZE {
                break;
            }
            bytes += op.frame().map_or(0, |frame| frame.bytes().len());
            count += 1;
        }
        let closing = state.closing;
        if count == state.queue.len() {
            return (std::mem::take(&mut state.queue), closing);
        }
        (state.queue.drain(..count).collect(), closing)
    }

    /// Writes a batch and tells everybody; `false` if it failed.
    fn commit(&mut self, mut batch: VecDeque<Op>) -> bool {
        let mut frames: Vec<_> = batch.iter_mut().filter_map(Op::frame_mut).collect();
        let written = if frames.is_empty() {
            Ok(self.log.end())
        } else {
            let last_id = self.shared.lock().last_id;
            self.log.append(&mut frames, last_id, self.shared.clock.now())
        };
        match written {
            Ok(start) => {
                self.confirm(batch, start);
                true
            }
            Err(failure) => {
                self.refuse(batch, failure);
                false
            }
        }
    }

    /// The batch is durable from `start` on.
    fn confirm(&mut self, batch: VecDeque<Op>, start: Position) {
        let mut replies = Replies::default();
        let now = self.shared.clock.monotonic();
        let mut state = self.shared.lock();
        let end = self.log.end();
        state.sequence = self.log.sequence();
        if state.end.segment != end.segment {
            // The one before is sealed: perhaps its time has come, or that of an older one.
            self.shared.sweep.notify_one();
        }
        state.end = end;
        if start != end {
            state.batches += 1;
            state.segments.entry(end.segment).or_default().used += end.offset - start.offset;
        }
        let mut at = start;
        for op in batch {
            let length = op.frame().map_or(0, |frame| frame.bytes().len());
            let place = Place { segment: at.segment, offset: at.offset, length: length as u32 };
            self.settle(&mut state, op, place, &mut replies);
            at.offset += length as u64;
        }
        if now.saturating_sub(self.marked) >= MARK_EVERY {
            self.marked = now;
            self.shared.tell(Command::Mark { mark: state.mark(self.shared.identity), reply: None });
        }
        drop(state);
        self.answer(replies);
    }

    /// One operation is durable.
    fn settle(&self, state: &mut State, op: Op, place: Place, replies: &mut Replies) {
        let position = Position { segment: place.segment, offset: place.offset };
        match op {
            Op::Accept { stored, changes, reply, .. } => {
                let id = stored.message.id;
                state.accepted += 1;
                state.count_live(place, true);
                let stored = Stored { place, ..stored };
                let since = Some(position);
                state.active.insert(id, Entry { stored, indexed: false, since, in_doubt: 0, park_after: None });
                settle_changes(state, &changes, Some(position));
                replies.accepted.push((id, reply));
            }
            Op::Reaccept { id, reply, .. } => {
                let (old, since) = match state.dying.get_mut(&id) {
                    Some(dying) => (&mut dying.place, &mut dying.since),
                    None => match state.visible_mut(id) {
                        Some(entry) => (&mut entry.stored.place, &mut entry.since),
                        None => return,
                    },
                };
                let old = std::mem::replace(old, place);
                *since = Some(position);
                state.count_live(old, false);
                state.count_live(place, true);
                replies.reaccepted.push(reply);
            }
            Op::State(_) => {}
            Op::Done { id, .. } => {
                let Some(dying) = state.dying.get_mut(&id) else { return };
                let (place, file, indexed) = (dying.place, dying.file, dying.indexed);
                dying.since = None;
                state.count_live(place, false);
                if file {
                    state.unlinks.push(self.shared.layout.content_file(id));
                }
                if indexed {
                    self.shared.tell(Command::Remove { id });
                } else {
                    state.dying.remove(&id);
                }
                if file || state.segments.first_key_value().is_some_and(|(first, _)| *first == place.segment) {
                    self.shared.sweep.notify_one();
                }
            }
            Op::Park { id, generation } => self.shared.tell(Command::Store { id, generation }),
            Op::Barrier(reply) => replies.barriers.push(reply),
        }
    }

    fn answer(&self, replies: Replies) {
        for (id, reply) in replies.accepted {
            if reply.send(Ok(())).is_err() {
                // Whoever waited is gone: the message must not be active with nobody working on it.
                self.shared.park(id, Timestamp::ZERO);
            }
        }
        for reply in replies.reaccepted {
            let _ = reply.send(());
        }
        for reply in replies.barriers {
            let _ = reply.send(Ok(()));
        }
    }

    /// The batch failed: who waits is told no, the rest is tried again.
    fn refuse(&mut self, batch: VecDeque<Op>, failure: Failure) {
        let error = SpoolError::io("can't write the log in", &self.shared.layout.log, &failure.error);
        self.shared.report(Note::WriteFailed { segment: failure.segment, error: failure.error.to_string() });
        let mut state = self.shared.lock();
        let end = self.log.end();
        if let Some(closed) = failure.segment {
            // Perhaps nothing ever got into it. It must go before its successor, which says where it ends.
            state.segments.entry(closed).or_default();
        }
        if end.segment != state.end.segment {
            // What the closed segment has behind its end counts as used, so that it will be released.
            state.segments.entry(end.segment).or_default();
            state.end = end;
        }
        state.sequence = self.log.sequence();
        let mut accepts = Vec::new();
        let mut barriers = Vec::new();
        for op in batch.into_iter().rev() {
            match op {
                Op::Accept { changes, reply, .. } => {
                    settle_changes(&mut state, &changes, None);
                    accepts.push(reply);
                }
                Op::Barrier(reply) => barriers.push(reply),
                op => state.queue.push_front(op),
            }
        }
        drop(state);
        for reply in accepts {
            let _ = reply.send(Err(CommitError { error: error.clone(), in_doubt: failure.in_doubt }));
        }
        for reply in barriers {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

impl Drop for Committer {
    /// The loop ends, if need be by a panic: nobody may wait for ever.
    fn drop(&mut self) {
        self.shared.ended("spool-log");
        let left = std::mem::take(&mut self.shared.lock().queue);
        drop(left);
        self.shared.tell(Command::Stop);
    }
}

/// Changes that came with an Accept are durable (then carried out, and lie at the position), or failed with it.
pub(crate) fn settle_changes(state: &mut State, changes: &[Change], durable: Option<Position>) {
    for change in changes {
        let id = change.update.id;
        let Some(entry) = state.visible_mut(id) else { continue };
        entry.in_doubt = entry.in_doubt.saturating_sub(1);
        if let Some(position) = durable {
            change.apply(&mut entry.stored.message);
            entry.since.get_or_insert(position);
        }
        if entry.in_doubt == 0
            && let Some(due) = entry.park_after.take()
            && let Some(entry) = state.active.remove(&id)
        {
            state.park(entry, due);
        }
    }
}
