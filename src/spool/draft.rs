//! A message on its way in, up to the moment when it is durable. State: its content, and who has to remove that if it comes to nothing.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::answer::{Answer, Waiter};
use super::codec::Change;
use super::content::Incoming;
use super::gather::UnderWay;
use super::index::{Place, Stored};
use super::op::Op;
use super::record::{AcceptContent, Frame, RECORD_SIZE_MAX};
use super::shared::Shared;
use super::{Spool, SpoolError, settle};
use crate::mail::{BodyType, Message, Origin, QueueId, Recipient, Request, ReversePath, Timestamp, Update};

/// A message that is being received: its content, piece by piece. Dropped without `commit`, it leaves nothing behind.
pub struct Draft {
    spool: Spool,
    id: QueueId,
    content: Incoming,
    /// Whether a content file may lie there that must go with the draft.
    has_file: bool,
    /// Until it is queued.
    under_way: Option<UnderWay>,
    /// Since it is queued: whether it is durable.
    answer: Option<oneshot::Receiver<Answer>>,
}

/// The envelope of a draft, ready to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// When it was accepted.
    pub arrived: Timestamp,
    /// Where notices go.
    pub reverse_path: ReversePath,
    /// What the sender declared about the content.
    pub body: BodyType,
    /// What else the sender asked for.
    pub request: Option<Box<Request>>,
    /// Who sent it, where that isn't the reverse-path's domain.
    pub origin: Option<Origin>,
    /// At least one.
    pub recipients: Vec<Recipient>,
    /// Changes to other messages that become durable with this one or not at all: a notice and the states it speaks of.
    pub updates: Vec<Update>,
}

impl Draft {
    pub(super) fn new(spool: &Spool, id: QueueId) -> Self {
        let under_way = Some(spool.0.shared.gathering.begin());
        Self { spool: spool.clone(), id, content: Incoming::new(), has_file: false, under_way, answer: None }
    }

    /// The id: for the `Received:` field and the reply.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Octets of content so far.
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// Adds content. After an error the draft can only be dropped.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let shared = &self.spool.0.shared;
        self.has_file |= !self.content.stays_small(bytes.len(), shared.options.inline_max);
        self.content.write(shared, self.id, bytes).await
    }

    /// Makes the message durable: after this returns `Ok` it is never lost. The message is active.
    pub async fn commit(mut self, accept: Accept) -> Result<Arc<Message>, SpoolError> {
        let spool = self.spool.clone();
        let Accept { arrived, reverse_path, body, request, origin, recipients, updates } = accept;
        let (id, size) = (self.id, self.content.size());
        let (held, delays_noticed) = (false, 0);
        let origin = origin.map(Box::new);
        let message = Message { id, arrived, size, reverse_path, body, request, held, delays_noticed, origin, recipients };
        let message = Arc::new(message);
        // What is parked can't be changed together with another message: those come into memory for it.
        let mut taken = Taken { spool: &spool, parked: Vec::new() };
        for update in &updates {
            taken.parked.extend(spool.take_with_due(update.id).await?.map(|(message, due)| (message.id, due)));
        }
        self.commit_message(&message, updates).await.map(|()| message)
    }

    /// Makes a message durable that was in a spool before, in the state that it had there: with the draft's id and size, else as
    /// given. It is parked.
    pub async fn restore(mut self, message: Message) -> Result<(), SpoolError> {
        let message = Arc::new(Message { id: self.id, size: self.content.size(), ..message });
        self.commit_message(&message, Vec::new()).await?;
        let due = (self.spool.0.shared.options.due)(&message);
        self.spool.park(message.id, due);
        Ok(())
    }

    async fn commit_message(&mut self, message: &Arc<Message>, updates: Vec<Update>) -> Result<(), SpoolError> {
        let taken = Incoming::Failed(SpoolError::Closed);
        let content = std::mem::replace(&mut self.content, taken).finish(&self.spool.0.shared).await?;
        self.commit_content(content, message, updates).await
    }

    pub(super) async fn commit_content(
        &mut self,
        content: AcceptContent,
        message: &Arc<Message>,
        updates: Vec<Update>,
    ) -> Result<(), SpoolError> {
        let spool = self.spool.clone();
        let shared = &spool.0.shared;
        let file = content.file();
        shared.wait_for_room().await;
        let changes = with_bases(shared, updates);
        let frame = Frame::accept(content, message, &changes);
        let (waiter, answer) = Waiter::new();
        let stored = Stored { message: message.clone(), place: Place::default(), file };
        let enough = {
            let mut state = shared.lock();
            let closing = state.closing;
            if closing || frame.bytes().len() > RECORD_SIZE_MAX {
                settle::settle_changes(&mut state, &changes, None);
                let long = SpoolError::Io("the envelope is too long for a record".to_owned());
                return Err(if closing { SpoolError::Closed } else { long });
            }
            state.queue.push_back(Op::Accept { frame, stored, changes, waiter });
            state.queued.add(shared.clock.monotonic());
            self.under_way = None;
            shared.gathering.is_enough(state.queue.len())
        };
        let answer = self.answer.insert(answer);
        // Whoever else is ready now comes into the same batch: that costs no time, and saves syncs when the machine is busy.
        let wake = enough.then(|| Wake(shared));
        tokio::task::yield_now().await;
        drop(wake);
        let answered = answer.await;
        self.answer = None;
        // If it is in the log, or may be, the file belongs to the record.
        self.has_file &= matches!(&answered, Ok(Err(failed)) if !failed.in_doubt);
        match answered {
            Ok(committed) => committed.map(drop).map_err(|failed| failed.error),
            Err(_) => Err(SpoolError::Closed),
        }
    }
}

/// Parked messages that are in memory for a change. Dropped, they are parked again, also if it came to nothing.
struct Taken<'a> {
    spool: &'a Spool,
    /// Until when each was.
    parked: Vec<(QueueId, Timestamp)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.parked.drain(..).for_each(|(id, due)| self.spool.park(id, due));
    }
}

/// Wakes the committer when it is dropped: also when nobody waits any longer for what was queued.
struct Wake<'a>(&'a Shared);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.wake.notify_one();
    }
}

/// Notes that changes are under way, and how many recipients their messages have. What is unknown is left out.
fn with_bases(shared: &Shared, updates: Vec<Update>) -> Vec<Change> {
    if updates.is_empty() {
        return Vec::new();
    }
    let mut state = shared.lock();
    let known = updates.into_iter().filter_map(|update| {
        let entry = state.visible_mut(update.id)?;
        entry.in_doubt += 1;
        Some(Change { base: entry.stored.message.recipients.len() as u32, update })
    });
    known.collect()
}

impl Shared {
    /// Parks a new message that nobody works on, and says that it is there.
    pub(crate) fn leave(&self, id: QueueId, due: Timestamp) {
        self.park(id, due);
        self.left.notify_one();
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let shared = &self.spool.0.shared;
        if let Some(mut answer) = self.answer.take() {
            // Nobody waits any longer; what is answered from now on the committer sees to.
            answer.close();
            let answered = answer.try_recv();
            self.has_file &= matches!(&answered, Ok(Err(failed)) if !failed.in_doubt);
            if matches!(answered, Ok(Ok(_))) {
                // It must not be active with nobody working on it.
                shared.leave(self.id, Timestamp::ZERO);
            }
        }
        if self.has_file {
            shared.remove_content(self.id);
        }
    }
}
