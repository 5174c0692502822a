//! The committer: the one loop that writes the log. While one sync runs the next batch gathers; there is no other delay
//! but a moment's wait for messages whose content is on its way (`gather`).
//!
//! What nobody waits for (states, ends) is written a moment later, so that a kill repeats next to nothing, and made durable with the next
//! message, or in a tenth of a second.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::error::Elapsed;

use super::answer::{self, CommitError};
use super::gather::{self, Clients, Patience, Share};
use super::index::{Mark, Place, Position};
use super::keeper::Command;
use super::log::{Failure, Log, Room};
use super::op::Op;
use super::settle::{Replies, settle, settle_changes};
use super::shared::Shared;
use super::{Note, SpoolError};
use crate::mail::QueueId;

/// A batch ends with the operation that passes this many bytes.
const BATCH_SIZE: usize = 4 << 20;
/// After a failure the records that nobody waits for are tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// What nobody waits for is durable after this time at the latest.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// The index is made durable and marked at least so often while the log grows.
const MARK_EVERY: Duration = Duration::from_secs(2);
/// After so long without anything to write, the rest of the open segment is written with zeros; what comes meanwhile waits for one piece of
/// them at the most.
const IDLE: Duration = Duration::from_millis(100);

/// Runs until the spool is closed and everything queued before is written, or can't be.
pub(crate) async fn run(shared: Arc<Shared>, log: Log) {
    let mut committer = Committer {
        marked: shared.clock.monotonic(),
        fill_at: shared.clock.monotonic() + IDLE,
        marking: None,
        log,
        shared,
        written: Vec::new(),
        writing: Duration::ZERO,
        marked_to: Position::default(),
        seen: Position::default(),
        answered: 0,
        doubtful: Vec::new(),
        kept_first: false,
        patience: Patience::new(),
        replies: Replies::default(),
    };
    loop {
        if committer.until_mark().is_some_and(|wait| wait.is_zero()) {
            committer.answer();
            committer.mark();
        }
        if committer.until_fill().is_some_and(|wait| wait.is_zero()) {
            committer.answer();
            committer.fill();
        }
        committer.linger().await;
        committer.gather().await;
        let Taken { batch, more, closing } = committer.take();
        let idle = batch.is_empty() && (committer.written.is_empty() || !closing && committer.until_sync() > Duration::ZERO);
        let done = if idle { committer.begin_again() } else { committer.commit(batch) };
        let pause = match done {
            false if closing => break,
            false => Some(RETRY),
            true if closing && idle => break,
            true if more || closing => continue,
            // Not at once on to what has been queued meanwhile: whoever queues it says when.
            true if committer.written.is_empty() => committer.until_mark().into_iter().chain(committer.until_fill()).min(),
            true => Some(committer.until_sync()),
        };
        let shared = committer.shared.clone();
        let mut wake = pin!(shared.wake.notified());
        if wake.as_mut().enable() {
            continue;
        }
        committer.answer();
        match pause {
            None => wake.await,
            Some(pause) => _ = tokio::time::timeout(pause, wake).await,
        }
    }
    committer.answer();
    committer.log.close();
}

/// What the committer takes from the queue.
struct Taken {
    batch: VecDeque<Op>,
    /// There is more than goes into a batch.
    more: bool,
    /// The spool is closing.
    closing: bool,
}

struct Committer {
    shared: Arc<Shared>,
    log: Log,
    /// Written but not durable yet.
    written: Vec<(Op, Place)>,
    /// Since when something is.
    writing: Duration,
    marked: Duration,
    /// Whether it has been.
    marking: Option<oneshot::Receiver<Result<Mark, SpoolError>>>,
    /// Zeros aren't written before this, so as not to be in the way.
    fill_at: Duration,
    /// And up to where it knew the log then.
    marked_to: Position,
    /// Where the log ended when the index was marked last.
    seen: Position,
    /// New messages in the last batch.
    answered: usize,
    /// New messages of a batch that failed, with content in files, as long as the next start might find them in the log.
    doubtful: Vec<QueueId>,
    /// The last batch had no room, and new messages in it: what is to be kept goes before them, it may take the reserve.
    kept_first: bool,
    /// Whether batches are waited for.
    patience: Patience,
    /// What is durable but not told yet. Where syncs are slow and half of those who send make a batch, the next one is written first: those
    /// who are told keep every core busy for a while, and the sync would begin later. Told before anything else is waited for.
    replies: Replies,
}

impl Committer {
    /// The next batch.
    fn take(&mut self) -> Taken {
        let now = self.shared.clock.monotonic();
        let mut state = self.shared.lock();
        self.patience.look(state.queued);
        let kept_first = std::mem::take(&mut self.kept_first);
        let mut bytes = 0;
        let mut count = 0;
        for op in &state.queue {
            if bytes >= BATCH_SIZE || kept_first && count > 0 && matches!(op, Op::Accept { .. }) {
                break;
            }
            bytes += op.frame().map_or(0, |frame| frame.bytes().len());
            count += 1;
        }
        if count > 0 {
            state.standstill.begin(now);
        }
        let closing = state.closing;
        let more = count < state.queue.len();
        let batch = if more { state.queue.drain(..count).collect() } else { std::mem::take(&mut state.queue) };
        Taken { batch, more, closing }
    }

    /// Waits a moment for more, if there is only what nobody waits for.
    async fn linger(&mut self) {
        let shared = self.shared.clone();
        let more = || {
            let state = shared.lock();
            let other = !state.queue.is_empty() && !state.queue.iter().any(Op::is_awaited);
            other && !state.closing && !shared.gathering.is_enough_of_others(state.queue.len())
        };
        shared.gathering.linger();
        if more() {
            self.answer();
            // Whatever there is by then is enough.
            let _ = self.wait_while(gather::LINGER, more).await;
        }
        shared.gathering.rest();
    }

    /// Waits a moment for new messages that are under way, if some are here already and nobody waits for something else.
    async fn gather(&mut self) {
        let shared = self.shared.clone();
        let now = shared.clock.monotonic();
        if !self.patience.has_any(now) {
            return;
        }
        let clients = self.clients();
        let share = self.patience.share(clients);
        let longest = self.patience.longest(share);
        if longest.is_zero() {
            return;
        }
        if share == Share::All {
            // They are waited for.
            self.answer();
        }
        shared.gathering.aim(clients, share);
        let more = || {
            let state = shared.lock();
            let new = state.queue.iter().any(|op| matches!(op, Op::Accept { .. }));
            // Copying isn't in a hurry.
            let other = |op: &Op| op.is_awaited() && !matches!(op, Op::Accept { .. } | Op::Reaccept { .. });
            !state.closing && new && !state.queue.iter().any(other) && !shared.gathering.is_enough(state.queue.len())
        };
        if more() {
            let in_vain = self.wait_while(longest, more).await.is_err();
            self.patience.waited(now, in_vain);
        }
        shared.gathering.rest();
    }

    /// Waits while more is wanted, but no longer than this.
    async fn wait_while(&self, longest: Duration, more: impl Fn() -> bool) -> Result<(), Elapsed> {
        let enough = async {
            while more() {
                self.shared.wake.notified().await;
            }
        };
        tokio::time::timeout(longest, enough).await
    }

    /// Who sends.
    fn clients(&self) -> Clients {
        let queued = self.shared.lock().queue.len();
        self.shared.gathering.clients(queued, self.replies.accepted.len(), self.answered)
    }

    /// How long what is written may still wait for its sync.
    fn until_sync(&self) -> Duration {
        (self.writing + SYNC_EVERY).saturating_sub(self.shared.clock.monotonic())
    }

    /// How long until the index is to be marked; none if it knows all that is durable.
    fn until_mark(&mut self) -> Option<Duration> {
        match self.marking.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => {}
            // One that couldn't be marked is where it was, and tried again.
            Some(marked) => {
                self.marked_to = marked.ok().and_then(Result::ok).map_or(Position::default(), |mark| mark.position);
                self.marking = None;
            }
        }
        let behind = self.marking.is_some() || self.marked_to < self.log.durable();
        behind.then(|| (self.marked + MARK_EVERY).saturating_sub(self.shared.clock.monotonic()))
    }

    /// How long until zeros are to be written; none if there is nothing to write, or no room.
    fn until_fill(&self) -> Option<Duration> {
        let unwritten = self.log.unwritten();
        let fill = unwritten > 0 && self.shared.may_fill(unwritten);
        fill.then(|| self.fill_at.saturating_sub(self.shared.clock.monotonic()))
    }

    /// Writes some zeros into the open segment: as many as don't hold up a message that comes meanwhile for long.
    fn fill(&mut self) {
        // Looks at the disk if that was long ago.
        let _ = self.shared.space();
        let last_id = self.shared.lock().last_id;
        let now = self.shared.clock.now();
        match self.log.fill(last_id, now) {
            Ok(true) => {}
            // Another time, perhaps.
            Ok(false) => self.fill_at = self.shared.clock.monotonic() + RETRY,
            Err(failure) => self.refuse(VecDeque::new(), failure),
        }
    }

    /// Has the index made durable. Those who are active since before the last time hold the mark back: it gets copies of them.
    fn mark(&mut self) {
        self.marked = self.shared.clock.monotonic();
        if self.marking.is_some() {
            // The index loop is busy: more of the same would only pile up before it.
            return;
        }
        let (reply, marking) = oneshot::channel();
        self.marking = Some(marking);
        let mut state = self.shared.lock();
        let mark = state.mark(self.shared.identity);
        self.shared.tell(Command::Mark { mark, reply: Some(reply) });
        self.marked_to = mark.position;
        state.copy_active(std::mem::replace(&mut self.seen, self.log.durable()));
    }

    /// Writes a batch, and makes it durable if anybody waits for that or it is empty; `false` if it failed.
    fn commit(&mut self, mut batch: VecDeque<Op>) -> bool {
        let last_id = self.shared.lock().last_id;
        let now = self.shared.clock.now();
        if self.written.is_empty() {
            self.writing = self.shared.clock.monotonic();
        }
        let new = batch.iter().filter(|op| matches!(op, Op::Accept { .. })).count();
        let new_mail = new > 0;
        self.answered = new;
        let waiting = batch.is_empty() || batch.iter().any(Op::is_awaited) || self.until_sync().is_zero();
        let mut begun = self.shared.clock.monotonic();
        self.fill_at = begun + IDLE;
        let mut frames: Vec<_> = batch.iter_mut().filter_map(Op::frame_mut).collect();
        if !self.log.has_room(frames.iter().map(|frame| frame.bytes().len() as u64).sum()) {
            self.answer();
        }
        let appended =
            if frames.is_empty() { Ok(self.log.durable()) } else { self.log.append(&mut frames, new_mail, last_id, now) };
        let told = self.shared.clock.monotonic();
        self.answer();
        begun += self.shared.clock.monotonic().saturating_sub(told);
        let appended = appended.and_then(|start| if waiting { self.log.sync(last_id, now).map(|()| start) } else { Ok(start) });
        if waiting {
            self.patience.synced(self.shared.clock.monotonic().saturating_sub(begun));
            self.shared.gathering.note_sync(self.patience.is_quick());
        }
        self.settle_failures();
        match appended {
            Ok(mut at) => {
                for op in batch {
                    let length = op.frame().map_or(0, |frame| frame.bytes().len());
                    self.written.push((op, Place { segment: at.segment, offset: at.offset, length: length as u32 }));
                    at.offset += length as u64;
                }
                self.confirm();
                if self.patience.is_quick() || self.patience.share(self.clients()) == Share::All {
                    self.answer();
                }
                true
            }
            Err(failure) => {
                if failure.segment.is_none() {
                    // What was written before is durable; only the room for more is missing.
                    self.confirm();
                }
                let written = std::mem::take(&mut self.written).into_iter().map(|(op, _)| op);
                self.refuse(written.chain(batch).collect(), failure);
                false
            }
        }
    }

    /// After a failure a segment is begun also if nothing is left to be written: else nobody would know that it can be. `false` if it can't.
    fn begin_again(&mut self) -> bool {
        if !self.written.is_empty() || !self.shared.lock().standstill.has_failed() {
            return true;
        }
        if !self.log.is_open() {
            let last_id = self.shared.lock().last_id;
            let begun = self.log.open_next(&mut [], Room::NONE, last_id, self.shared.clock.now());
            self.settle_failures();
            if let Err(error) = begun {
                self.refuse(VecDeque::new(), Failure { segment: None, in_doubt: false, error });
                return false;
            }
        }
        self.shared.lock().standstill.end();
        true
    }

    /// What is left of segments that failed: it goes in its turn, and no longer counts once another is open.
    fn settle_failures(&mut self) {
        let stillborn = self.log.take_stillborn();
        if !stillborn.is_empty() {
            let segments = &mut self.shared.lock().segments;
            stillborn.into_iter().for_each(|number| segments.grow(number, 0));
        }
        if self.log.is_open() {
            self.doubtful.drain(..).for_each(|id| self.shared.remove_content(id));
        }
    }

    /// Settles what is durable.
    fn confirm(&mut self) {
        let durable = self.log.durable();
        let end = (durable.segment, durable.offset);
        let behind = |(op, place): &(Op, Place)| op.frame().is_some() && (place.segment, place.offset) >= end;
        let count = self.written.iter().position(behind).unwrap_or(self.written.len());
        if count == 0 {
            return;
        }
        let mut state = self.shared.lock();
        state.sequence = self.log.sequence();
        state.batches += u64::from(state.end != durable);
        let queued = state.queue.len();
        state.advance(durable);
        for (op, place) in self.written.drain(..count) {
            if place.length > 0 {
                state.segments.grow(place.segment, u64::from(place.length));
            }
            settle(&self.shared, &mut state, op, place, &mut self.replies);
        }
        state.segments.look(self.shared.clock.monotonic());
        self.shared.note_bound(&state);
        if self.written.is_empty() {
            state.standstill.end();
        }
        if state.queue.len() > queued {
            // What was put off until now: nobody else says that it is there.
            self.shared.wake.notify_one();
        }
        if self.shared.candidate(&state).is_some() || self.shared.spares.count() > self.shared.spares_max(&state, None) {
            self.shared.sweep.notify_one();
        }
    }

    /// Tells everybody what is durable.
    fn answer(&mut self) {
        let replies = std::mem::take(&mut self.replies);
        if !replies.accepted.is_empty() {
            self.patience.note_told(self.shared.clock.monotonic(), self.shared.lock().queued);
        }
        answer::tell(&self.shared, replies.accepted);
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
        if error == SpoolError::Full {
            // Whoever comes next needn't send a message to learn it.
            self.shared.space_now();
        }
        let now = self.shared.clock.monotonic();
        let mut state = self.shared.lock();
        let end = self.log.durable();
        if let Some(closed) = failure.segment {
            // Perhaps nothing ever got into it. It must go before its successor, which says where it ends.
            state.segments.grow(closed, 0);
        }
        if end.segment != state.end.segment {
            // What the closed segment has behind its end counts as used, so that it will be released.
            state.advance(end);
        }
        state.sequence = self.log.sequence();
        let mut accepts = Vec::new();
        let mut barriers = Vec::new();
        for op in batch.into_iter().rev() {
            match op {
                Op::Accept { stored, changes, waiter, .. } => {
                    settle_changes(&mut state, &changes, None);
                    accepts.push((waiter, stored));
                }
                Op::Barrier(reply) => barriers.push(reply),
                op => state.queue.push_front(op),
            }
        }
        let why = failure.error.to_string();
        // Room there is not for new mail: that is no reason why what is kept couldn't be written.
        self.kept_first = error == SpoolError::Full && !accepts.is_empty();
        let is_news = self.kept_first || state.standstill.fail(&why, now);
        if self.kept_first && state.queue.is_empty() {
            state.standstill.end();
        }
        drop(state);
        if is_news || failure.segment.is_some() {
            self.shared.report(Note::WriteFailed { segment: failure.segment, error: why });
        }
        for (waiter, stored) in accepts {
            let told = waiter.refuse(CommitError { error: error.clone(), in_doubt: failure.in_doubt });
            if stored.file.is_some() && failure.in_doubt {
                self.doubtful.push(stored.message.id);
            } else if stored.file.is_some() && !told {
                // Whoever waited would have removed the content file.
                self.shared.remove_content(stored.message.id);
            }
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
        self.answer();
        self.written.clear();
        let left = std::mem::take(&mut self.shared.lock().queue);
        drop(left);
        self.shared.tell(Command::Stop);
    }
}
