//! What becomes of operations once they are durable in the log, and of changes that came with a message once it is, or isn't.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::SpoolError;
use super::answer::Waiter;
use super::codec::Change;
use super::index::{Place, Position, Stored};
use super::keeper::Command;
use super::op::Op;
use super::shared::{Entry, Shared, State};
use crate::mail::QueueId;

/// What is told once the lock is released.
#[derive(Default)]
pub(crate) struct Replies {
    pub(crate) accepted: Vec<(QueueId, Waiter)>,
    pub(crate) reaccepted: Vec<oneshot::Sender<()>>,
    pub(crate) barriers: Vec<oneshot::Sender<Result<(), SpoolError>>>,
}

/// One operation is durable.
pub(crate) fn settle(shared: &Shared, state: &mut State, op: Op, place: Place, replies: &mut Replies) {
    let position = Position { segment: place.segment, offset: place.offset };
    match op {
        Op::Accept { frame, stored, changes, waiter } => {
            let id = stored.message.id;
            state.recent.keep(id, frame);
            state.accepted += 1;
            state.segments.count_live(place, true);
            let stored = Stored { place, ..stored };
            let since = Some(position);
            state.active.insert(id, Entry { stored, indexed: false, since, in_doubt: 0, park_after: None, changed: 0 });
            settle_changes(state, &changes, Some(position));
            replies.accepted.push((id, waiter));
        }
        Op::Reaccept { id, file, reply, .. } => {
            // Also if the message is gone: then nothing of it is left to be copied.
            replies.reaccepted.push(reply);
            let (old, since) = match state.dying.get_mut(&id) {
                Some(dying) => (&mut dying.place, &mut dying.since),
                None => match state.visible_mut(id) {
                    Some(entry) => {
                        entry.stored.file = file;
                        (&mut entry.stored.place, &mut entry.since)
                    }
                    None => return,
                },
            };
            let old = std::mem::replace(old, place);
            *since = Some(position);
            state.segments.move_live(old, place);
        }
        Op::State(_) => {}
        Op::Done { id, .. } => {
            let Some(dying) = state.dying.get_mut(&id) else { return };
            let (place, file, indexed) = (dying.place, dying.file, dying.indexed);
            dying.since = None;
            state.segments.count_live(place, false);
            if file {
                state.unlinks.push(shared.layout.content_file(id));
            }
            if indexed {
                shared.tell(Command::Remove { id });
            } else {
                state.dying.remove(&id);
            }
            if file {
                shared.unlinking.notify_one();
            }
        }
        Op::Park { id, generation } => shared.tell(Command::Store { id, generation }),
        Op::Copy { id, generation } => shared.tell(Command::Copy { id, generation }),
        Op::Barrier(reply) => replies.barriers.push(reply),
    }
}

/// Changes that came with an Accept are durable (then carried out, and lie at the position), or failed with it.
pub(crate) fn settle_changes(state: &mut State, changes: &[Change], durable: Option<Position>) {
    for change in changes {
        let id = change.update.id;
        let Some(entry) = state.visible_mut(id) else { continue };
        entry.in_doubt = entry.in_doubt.saturating_sub(1);
        if let Some(position) = durable {
            change.apply(Arc::make_mut(&mut entry.stored.message));
            entry.since.get_or_insert(position);
        }
        if entry.in_doubt > 0 {
            continue;
        }
        if let Some(due) = entry.park_after.take()
            && let Some(entry) = state.active.remove(&id)
        {
            state.park(entry, due);
        }
        // One on its way into the index waited for this.
        state.park_again(id);
    }
}
