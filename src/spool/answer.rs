//! Answers: how those whose messages are durable learn of it.
//!
//! To wake a task from another thread is a system call, from its own next to nothing. So on each thread one of those who wait is told, and
//! passes the word on.

use std::sync::Arc;
use std::thread::ThreadId;
use std::vec;

use tokio::sync::oneshot;

use super::SpoolError;
use super::shared::Shared;
use crate::mail::{QueueId, Timestamp};

/// What becomes of a message that was queued.
pub(crate) type Answer = Result<Word, CommitError>;

/// Why an Accept wasn't confirmed, and whether it may come back all the same.
#[derive(Clone, Debug)]
pub(crate) struct CommitError {
    pub(crate) error: SpoolError,
    pub(crate) in_doubt: bool,
}

/// Whoever waits for a message to be durable.
pub(crate) struct Waiter {
    reply: oneshot::Sender<Answer>,
    thread: ThreadId,
}

impl Waiter {
    /// For the caller, who is most likely to be woken on this thread.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply, thread: std::thread::current().id() }, answer)
    }

    /// Says no; false if nobody waits any longer.
    pub(crate) fn refuse(self, error: CommitError) -> bool {
        self.reply.send(Err(error)).is_ok()
    }
}

/// That a message is durable. Whoever drops it has told some others the same.
pub(crate) struct Word(Option<Others>);

struct Others {
    shared: Arc<Shared>,
    waiting: vec::IntoIter<(QueueId, Waiter)>,
}

/// Tells everybody.
pub(crate) fn tell(shared: &Arc<Shared>, durable: Vec<(QueueId, Waiter)>) {
    let mut groups: Vec<(ThreadId, Vec<_>)> = Vec::new();
    for one in durable {
        let thread = one.1.thread;
        match groups.iter_mut().find(|(known, _)| *known == thread) {
            Some((_, group)) => group.push(one),
            None => groups.push((thread, vec![one])),
        }
    }
    for (_, group) in groups {
        let mut waiting = group.into_iter();
        while let Some((id, first)) = waiting.next() {
            match first.reply.send(Ok(Word(Some(Others { shared: shared.clone(), waiting })))) {
                Err(Ok(Word(ref mut others))) => {
                    let Some(others) = others.take() else { break };
                    gone(shared, id);
                    waiting = others.waiting;
                }
                _ => break,
            }
        }
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        let Some(Others { shared, waiting }) = self.0.take() else { return };
        for (id, waiter) in waiting {
            if waiter.reply.send(Ok(Word(None))).is_err() {
                gone(&shared, id);
            }
        }
    }
}

/// Whoever waited is gone: the message must not be active with nobody working on it.
fn gone(shared: &Shared, id: QueueId) {
    shared.leave(id, Timestamp::ZERO);
}
