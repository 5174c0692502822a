//! The index loop: the only one that calls the index. Moves messages from memory into the index and back.
//!
//! A message is at every moment in memory or in the index. It leaves memory only after the index has it, and where both have it,
//! memory counts. Nothing goes into the index before it is durable in the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::index::{Index, IndexError, IndexFactory, Mark, Place, Stored};
use super::listing::Listing;
use super::parking::Parking;
use super::replay::due_after;
use super::shared::{Entry, Shared, State};
use super::survivors::Met;
use super::{Filter, Note, SpoolError, Stats};
use crate::mail::{Message, QueueId, Timestamp, Update};

/// The due time of a message that somebody works on.
const TAKEN: Timestamp = Timestamp::ZERO;
/// The earliest due time of a message that waits.
const FIRST: Timestamp = Timestamp::from_millis(1);

/// Housekeeping that failed is tried again after this time.
const WORK_AGAIN: Duration = Duration::from_secs(30);

/// After so many commands a piece of the index's housekeeping is done, also while there are more.
const WORK_EVERY: u32 = 64;
/// Whoever isn't fetched because too much waits in memory is asked for again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So many changes of messages wait for an index that is out of order.
const RECALLS_MAX: usize = 10_000;

/// An answer that may be missing because the index failed.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

/// Whom to look for in the index.
#[derive(Clone, Copy)]
enum Look {
    Everybody,
    /// To fetch others would take more memory.
    InMemory,
}

impl Look {
    fn due(self, index: &dyn Index, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        match self {
            Self::Everybody => index.due(FIRST, to, count_max),
            Self::InMemory => index.due_in_memory(FIRST, to, count_max),
        }
    }
}

/// What is done with a parked message.
pub(crate) enum Action {
    Update(Update),
    Done,
}

/// What the loop is asked; carried out in order.
pub(crate) enum Command {
    /// The log is as far as this parking: it may go into the index.
    Store {
        id: QueueId,
        generation: u64,
    },
    /// The log is as far as a copy of an active message needs.
    Copy {
        id: QueueId,
        generation: u64,
    },
    /// The message is gone for good.
    Remove {
        id: QueueId,
    },
    /// Something is to be done with a message that isn't in memory.
    Recall {
        id: QueueId,
        action: Action,
    },
    Due {
        now: Timestamp,
        count_max: usize,
        reply: Answer<Vec<Message>>,
    },
    NextDue {
        reply: Answer<Option<Timestamp>>,
    },
    /// With the due time that it had.
    Take {
        id: QueueId,
        reply: Answer<Option<(Message, Timestamp)>>,
    },
    /// All of these that are parked.
    TakeAll {
        ids: Vec<QueueId>,
        reply: Answer<(Vec<Message>, Option<SpoolError>)>,
    },
    Look {
        id: QueueId,
        reply: Answer<Option<Stored>>,
    },
    Page {
        filter: Filter,
        count_max: usize,
        reply: Answer<Listing>,
    },
    /// Counts the whole queue.
    Count {
        reply: Answer<Stats>,
    },
    /// Brings those that live at the places given into memory, to be parked again; none of them is active for it.
    Borrow {
        wanted: BTreeMap<QueueId, Place>,
        reply: Answer<()>,
    },
    /// Everybody whose record lies in the segment; so many are expected.
    Dwellers {
        segment: u64,
        expected: u64,
        reply: Answer<Vec<Met>>,
    },
    Mark {
        mark: Mark,
        reply: Option<Answer<Mark>>,
    },
    /// Nothing but an answer: everything before is done. An error: some of it still waits for the index.
    Ping {
        reply: Answer<()>,
    },
    Stop,
}

/// Runs until told to stop.
pub(crate) async fn run(
    shared: Arc<Shared>,
    index: Box<dyn Index>,
    factory: Box<dyn IndexFactory>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut keeper = Keeper {
        shared,
        index: Ok(index),
        factory,
        half_made: false,
        try_again: Duration::ZERO,
        rest_until: Duration::ZERO,
        removals: VecDeque::new(),
        recalls: VecDeque::new(),
    };
    let mut since_work = 0;
    loop {
        let next = match commands.try_recv() {
            Err(mpsc::error::TryRecvError::Empty) if keeper.work() => {
                tokio::task::yield_now().await;
                continue;
            }
            Err(mpsc::error::TryRecvError::Empty) => commands.recv().await,
            received => received.ok(),
        };
        let Some(command) = next.filter(|command| !matches!(command, Command::Stop)) else { break };
        keeper.carry_out(command);
        keeper.note_backlog();
        since_work += 1;
        if since_work >= WORK_EVERY {
            since_work = 0;
            keeper.work();
        }
    }
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    /// Or why there is none.
    pub(super) index: Result<Box<dyn Index>, IndexError>,
    pub(super) factory: Box<dyn IndexFactory>,
    /// What lies there is the beginning of a new index that wasn't finished.
    pub(super) half_made: bool,
    /// The index isn't built anew before this time.
    pub(super) try_again: Duration,
    /// Nor does it do housekeeping before this.
    pub(super) rest_until: Duration,
    /// Messages that are gone, and that the index may still have.
    removals: VecDeque<QueueId>,
    /// What is to be done with messages that aren't in memory.
    pub(super) recalls: VecDeque<(QueueId, Action)>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.ended("spool-index");
    }
}

impl Keeper {
    fn carry_out(&mut self, command: Command) {
        // Its own answer says it if that fails.
        let _ = self.remove_gone().and_then(|()| self.catch_up());
        // A receiver that is gone doesn't care.
        match command {
            Command::Store { id, generation } => {
                let _ = self.with_index(|keeper, index| keeper.store(index, id, generation));
            }
            Command::Copy { id, generation } => {
                let _ = self.with_index(|keeper, index| keeper.copy(index, id, generation));
            }
            Command::Remove { id } => {
                self.removals.push_back(id);
                let _ = self.remove_gone();
            }
            Command::Recall { id, action } if self.recalls.len() < RECALLS_MAX => {
                self.recalls.push_back((id, action));
                let _ = self.catch_up();
            }
            Command::Recall { id, .. } => {
                self.shared.report(Note::Trouble(format!("a change of {id} is forgotten: too many wait for the index")));
            }
            Command::Due { now, count_max, reply } => {
                let mut due = Vec::new();
                let asked = self.with_index(|keeper, index| keeper.due(index, now, count_max, &mut due));
                // Those that were made active must reach the caller, whatever happened to the index then.
                let _ = reply.send(if due.is_empty() { asked.map(|()| due) } else { Ok(due) });
            }
            Command::NextDue { reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.next_due(index)));
            }
            Command::Take { id, reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.take(index, id)));
            }
            Command::TakeAll { ids, reply } => {
                let mut taken = Vec::new();
                let failure = self.with_index(|keeper, index| keeper.take_all(index, &ids, &mut taken)).err();
                let _ = reply.send(Ok((taken, failure)));
            }
            Command::Look { id, reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.look(index, id)));
            }
            Command::Page { filter, count_max, reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.page(index, &filter, count_max)));
            }
            Command::Count { reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.count(index)));
            }
            Command::Borrow { wanted, reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.borrow(index, &wanted)));
            }
            Command::Dwellers { segment, expected, reply } => {
                let _ = reply.send(self.with_index(|keeper, index| keeper.dwellers(index, segment, expected)));
            }
            Command::Mark { mark, reply } => {
                let marked = self.remove_gone().and_then(|()| self.mark(mark));
                self.note_size();
                if let Some(reply) = reply {
                    let _ = reply.send(marked);
                }
            }
            Command::Ping { reply } => {
                let _ = reply.send(self.catch_up());
            }
            Command::Stop => {}
        }
    }

    /// Messages that are gone leave the index. Until they have, it must not be marked: it would say that it knows their end.
    fn remove_gone(&mut self) -> Result<(), SpoolError> {
        while let Some(id) = self.removals.pop_front() {
            let removed = self.with_index(|_, index| index.remove(id));
            // Without an index the zombie in it can't be seen either; a new one is built from the log.
            if let Err(error) = removed
                && self.index.is_ok()
            {
                self.removals.push_front(id);
                return Err(error);
            }
            self.shared.lock().dying.remove(&id);
        }
        Ok(())
    }

    /// Changes of messages that aren't in memory, in order; those that the index couldn't be asked about wait until it can.
    fn catch_up(&mut self) -> Result<(), SpoolError> {
        while let Some((id, action)) = self.recalls.pop_front() {
            if let Err(error) = self.with_index(|keeper, index| keeper.recall(index, id, &action)) {
                self.recalls.push_front((id, action));
                return Err(error);
            }
        }
        Ok(())
    }

    /// A piece of the index's housekeeping; `false` if there is none to do.
    fn work(&mut self) -> bool {
        let now = self.shared.clock.monotonic();
        if self.index.is_err() || now < self.rest_until {
            return false;
        }
        match self.with_index(|_, index| index.work()) {
            Ok(more) => {
                if more {
                    self.note_size();
                }
                more
            }
            Err(_) => {
                self.rest_until = now + WORK_AGAIN;
                false
            }
        }
    }

    /// Tells how much the index has in memory.
    fn note_backlog(&self) {
        let in_index = self.index.as_ref().map_or(0, |index| index.in_memory());
        self.shared.lock().backlog.note(in_index);
    }

    fn store(&self, index: &mut dyn Index, id: QueueId, generation: u64) -> Result<(), IndexError> {
        // One with a change under way is parked again when that is settled.
        let is_valid = |parking: &&Parking| parking.generation == generation && parking.entry.in_doubt == 0;
        let valid = |state: &State| state.parking.get(id).filter(is_valid).map(|valid| (valid.entry.stored.clone(), valid.due));
        let Some((stored, due)) = valid(&self.shared.lock()) else { return Ok(()) };
        index.insert(&stored, due)?;
        let mut state = self.shared.lock();
        if valid(&state).is_some() {
            state.parking.remove(id);
        } else if state.active.contains_key(&id) {
            drop(state);
            index.set_due(id, TAKEN)?;
        }
        Ok(())
    }

    /// Marks that come behind this in the queue of commands may rely on the copy.
    fn copy(&self, index: &mut dyn Index, id: QueueId, generation: u64) -> Result<(), IndexError> {
        let stored = {
            let mut state = self.shared.lock();
            let Some(entry) = state.active.get_mut(&id).filter(|entry| entry.changed <= generation) else { return Ok(()) };
            entry.indexed = true;
            entry.stored.clone()
        };
        // As if it were found at start-up: the index may forget who is taken.
        let due = due_after(&stored, TAKEN, &self.shared.options.due);
        index.insert(&stored, due)?;
        index.set_due(id, TAKEN)?;
        // Only now: if that failed, the log must be read again from where it was. The message may have moved meanwhile, or a notice about it
        // become durable: then the copy is old already.
        let mut state = self.shared.lock();
        let entry = state.active.get_mut(&id).filter(|entry| entry.changed <= generation && entry.stored == stored);
        if let Some(entry) = entry {
            entry.since = None;
        }
        Ok(())
    }

    fn recall(&self, index: &mut dyn Index, id: QueueId, action: &Action) -> Result<(), IndexError> {
        let mut state = self.shared.lock();
        if !state.overrides(id) {
            drop(state);
            let Some((stored, due)) = index.get(id)? else { return Ok(()) };
            state = self.shared.lock();
            let entry = Entry::indexed(stored);
            state.parking.insert(entry, due, 0);
        }
        match action {
            Action::Update(update) => state.update(update),
            Action::Done => state.done(id),
        };
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    fn due(&self, index: &mut dyn Index, now: Timestamp, count_max: usize, due: &mut Vec<Message>) -> Result<(), IndexError> {
        let is_behind = {
            let mut state = self.shared.lock();
            let ready = state.parking.ready(now, count_max.saturating_sub(due.len()));
            due.extend(ready.into_iter().filter_map(|id| state.unpark(id)));
            state.is_behind(self.shared.options.backlog_max)
        };
        let mut asked = count_max.saturating_sub(due.len());
        while due.len() < count_max {
            // What memory has already may go on; to fetch more would only make it more.
            let look = if is_behind { Look::InMemory } else { Look::Everybody };
            let found = look.due(&*index, now, asked)?;
            let all = found.len() < asked;
            for (_, id) in found {
                if due.len() >= count_max {
                    break;
                }
                let state = self.shared.lock();
                if state.active.contains_key(&id) {
                    drop(state);
                    index.set_due(id, TAKEN)?;
                } else if !state.overrides(id) {
                    drop(state);
                    due.extend(self.activate(index, id)?.map(|(message, _)| message));
                }
            }
            if all {
                break;
            }
            // Those that memory knows better don't count, and stand in front.
            asked = asked.saturating_mul(4);
        }
        Ok(())
    }

    /// Makes a message active that only the index has.
    fn activate(&self, index: &mut dyn Index, id: QueueId) -> Result<Option<(Message, Timestamp)>, IndexError> {
        let Some((stored, due)) = index.get(id)? else { return Ok(None) };
        index.set_due(id, TAKEN)?;
        let message = Message::clone(&stored.message);
        let entry = Entry::indexed(stored);
        self.shared.lock().active.insert(id, entry);
        Ok(Some((message, due)))
    }

    fn next_due(&self, index: &mut dyn Index) -> Result<Option<Timestamp>, IndexError> {
        let (parked, is_behind) = {
            let mut state = self.shared.lock();
            (state.parking.next_due(), state.is_behind(self.shared.options.backlog_max))
        };
        let mut first = self.first_due(&*index, Look::Everybody)?;
        if is_behind {
            // Who isn't fetched now is asked for again.
            let later = self.shared.clock.now().plus(LOOK_AGAIN);
            let in_memory = self.first_due(&*index, Look::InMemory)?;
            first = first.map(|due| due.max(later)).into_iter().chain(in_memory).min();
        }
        Ok(parked.into_iter().chain(first).min().filter(|due| *due != Timestamp::NEVER))
    }

    /// When the first of those is due that only the index has.
    fn first_due(&self, index: &dyn Index, look: Look) -> Result<Option<Timestamp>, IndexError> {
        // Stale due times of messages that memory knows better are stepped over: ask for more until one is found.
        let mut asked = 16;
        loop {
            let indexed = look.due(index, Timestamp::NEVER, asked)?;
            let all = indexed.len() < asked;
            let state = self.shared.lock();
            let first = indexed.into_iter().find(|(_, id)| !state.overrides(*id)).map(|(due, _)| due);
            if first.is_some() || all {
                return Ok(first);
            }
            asked = asked.saturating_mul(4);
        }
    }

    fn take(&self, index: &mut dyn Index, id: QueueId) -> Result<Option<(Message, Timestamp)>, IndexError> {
        let mut state = self.shared.lock();
        if let Some(parking) = state.parking.get(id) {
            let due = parking.due;
            return Ok(state.unpark(id).map(|message| (message, due)));
        }
        if state.overrides(id) {
            return Ok(None);
        }
        drop(state);
        self.activate(index, id)
    }

    fn take_all(&self, index: &mut dyn Index, ids: &[QueueId], taken: &mut Vec<Message>) -> Result<(), IndexError> {
        // What was taken before the index gave way isn't asked for again.
        let last = taken.last().map(|message| message.id);
        for id in ids.iter().filter(|id| last.is_none_or(|last| **id > last)) {
            taken.extend(self.take(index, *id)?.map(|(message, _)| message));
        }
        Ok(())
    }

    fn look(&self, index: &mut dyn Index, id: QueueId) -> Result<Option<Stored>, IndexError> {
        let state = self.shared.lock();
        if state.overrides(id) {
            return Ok(state.visible(id).map(|entry| entry.stored.clone()));
        }
        drop(state);
        Ok(index.get(id)?.map(|(stored, _)| stored))
    }
}
