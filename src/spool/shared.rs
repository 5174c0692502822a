//! What the loops and the handles of a running spool share: messages in memory, the queue of operations, the use of segments.
//!
//! One lock, held for moments only. The order of `queue` is the order of the log: whoever changes a message in memory puts the
//! record that says so into the queue while holding the lock.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use super::backlog::Backlog;
use super::compress::{Packer, READS_MAX};
use super::gather::{Gathering, Queued};
use super::index::{Mark, Place, Position, Stored};
use super::keeper::{Action, Command};
use super::op::Op;
use super::parking::Parked;
use super::recent::Recent;
use super::record::Frame;
use super::reserve::Reserve;
use super::room::Room;
use super::segment::Layout;
use super::space::{Segments, Use};
use super::spare::Spares;
use super::standstill::Standstill;
use super::unreadable::Unreadable;
use super::{Note, Options, SpoolError};
use crate::mail::{Message, QueueId, Timestamp, Update};
use crate::system::{Clock, Disk, Entropy, System, Turns, Workers};

/// A message in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) stored: Stored,
    /// Whether the index may have a copy.
    pub(crate) indexed: bool,
    /// No record that the index's copy lacks lies before this; none: the index's copy is up to date.
    pub(crate) since: Option<Position>,
    /// Changes on their way into the log that aren't carried out before they are durable.
    pub(crate) in_doubt: u32,
    /// Asked for while `in_doubt`.
    pub(crate) park_after: Option<Timestamp>,
    /// When it was changed last, in the count of `State::generation`.
    pub(crate) changed: u64,
}

impl Entry {
    /// A message that was read from the index.
    pub(crate) fn indexed(stored: Stored) -> Self {
        Self { stored, indexed: true, since: None, in_doubt: 0, park_after: None, changed: 0 }
    }
}

/// A message that is done with, until log and index know it.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(crate) place: Place,
    pub(crate) file: bool,
    pub(crate) indexed: bool,
    pub(crate) since: Option<Position>,
}

/// Everything that the lock protects.
pub(crate) struct State {
    pub(crate) active: BTreeMap<QueueId, Entry>,
    pub(crate) parking: Parked,
    pub(crate) dying: BTreeMap<QueueId, Dying>,
    pub(crate) recent: Recent,
    pub(crate) queue: VecDeque<Op>,
    /// New messages among what was ever queued.
    pub(crate) queued: Queued,
    pub(crate) segments: Segments,
    /// Where the durable log ends.
    pub(crate) end: Position,
    pub(crate) sequence: u64,
    pub(crate) last_id: QueueId,
    /// Content files whose message is gone.
    pub(crate) unlinks: Vec<PathBuf>,
    pub(crate) batches: u64,
    pub(crate) accepted: u64,
    pub(crate) closing: bool,
    /// A loop ended by a bug.
    pub(crate) failed: bool,
    /// Why there is no index at the moment.
    pub(crate) unindexed: Option<String>,
    /// Whether the log can be written.
    pub(crate) standstill: Standstill,
    pub(crate) backlog: Backlog,
    generation: u64,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    pub(crate) identity: u64,
    pub(crate) reserve: Reserve,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) unreadable: Unreadable,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) workers: Workers,
    /// Content is read in turns: a piece is short work, and each thread keeps memory for the next one.
    pub(crate) reads: Turns,
    pub(crate) packer: Arc<Packer>,
    state: Mutex<State>,
    /// Wakes the committer.
    pub(crate) wake: Notify,
    pub(crate) gathering: Gathering,
    /// Told when a message was left to whoever fetches what is due.
    pub(crate) left: Notify,
    /// Wakes the release loop.
    pub(crate) sweep: Notify,
    /// Wakes whoever removes content files.
    pub(crate) unlinking: Notify,
    pub(crate) keeper: mpsc::UnboundedSender<Command>,
    pub(crate) room: Room,
}

impl State {
    /// Nothing in memory yet.
    pub(crate) fn new(segments: BTreeMap<u64, Use>, last_id: QueueId) -> Self {
        Self {
            active: BTreeMap::new(),
            parking: Parked::default(),
            dying: BTreeMap::new(),
            recent: Recent::default(),
            queue: VecDeque::new(),
            queued: Queued::default(),
            segments: Segments::new(segments),
            end: Position::default(),
            sequence: 0,
            last_id,
            unlinks: Vec::new(),
            batches: 0,
            accepted: 0,
            closing: false,
            failed: false,
            unindexed: None,
            standstill: Standstill::default(),
            backlog: Backlog::default(),
            generation: 0,
        }
    }

    /// A message in memory that somebody could see.
    pub(crate) fn visible(&self, id: QueueId) -> Option<&Entry> {
        self.active.get(&id).or_else(|| self.parking.get(id).map(|parking| &parking.entry))
    }

    pub(crate) fn visible_mut(&mut self, id: QueueId) -> Option<&mut Entry> {
        match self.active.get_mut(&id) {
            Some(entry) => Some(entry),
            None => self.parking.entry_mut(id),
        }
    }

    /// Whether the index's copy of a message doesn't count, because memory knows better.
    pub(crate) fn overrides(&self, id: QueueId) -> bool {
        self.active.contains_key(&id) || self.parking.contains(id) || self.dying.contains_key(&id)
    }

    /// Lets the message go into the index as soon as the log is as far.
    pub(crate) fn park(&mut self, mut entry: Entry, due: Timestamp) {
        let id = entry.stored.message.id;
        entry.indexed = true;
        self.recent.forget(id);
        self.generation += 1;
        let generation = self.generation;
        self.parking.insert(entry, due.max(Timestamp::from_millis(1)), generation);
        self.queue.push_back(Op::Park { id, generation });
    }

    /// After a change of a message that is on its way into the index: the change must get there too.
    pub(crate) fn park_again(&mut self, id: QueueId) {
        if self.parking.renew(id, self.generation + 1) {
            self.generation += 1;
            self.queue.push_back(Op::Park { id, generation: self.generation });
        }
    }

    /// Changes a message in memory and queues the record; `false` if it isn't there.
    pub(crate) fn update(&mut self, update: &Update) -> bool {
        let end = self.end;
        self.generation += 1;
        let generation = self.generation;
        let Some(entry) = self.visible_mut(update.id) else { return false };
        entry.changed = generation;
        let base = entry.stored.message.recipients.len() as u32;
        Arc::make_mut(&mut entry.stored.message).apply(update);
        entry.since.get_or_insert(end);
        self.queue.push_back(Op::State(Frame::state(update, base)));
        self.park_again(update.id);
        true
    }

    /// Forgets a message in memory and queues the record; `false` if it isn't there.
    pub(crate) fn done(&mut self, id: QueueId) -> bool {
        let entry = match self.active.remove(&id) {
            Some(entry) => entry,
            None => match self.parking.remove(id) {
                Some(parking) => parking.entry,
                None => return false,
            },
        };
        let Entry { stored, indexed, since, .. } = entry;
        self.recent.forget(id);
        self.dying.insert(id, Dying { place: stored.place, file: stored.file.is_some(), indexed, since });
        self.queue.push_back(Op::Done { id, frame: Frame::done(id) });
        true
    }

    /// Makes a message active that is still on its way into the index.
    pub(crate) fn unpark(&mut self, id: QueueId) -> Option<Message> {
        let parking = self.parking.remove(id)?;
        let message = Message::clone(&parking.entry.stored.message);
        self.active.insert(id, parking.entry);
        Some(message)
    }

    /// Messages that have been active for long hold the mark back: the index gets copies of those that were there at a position.
    pub(crate) fn copy_active(&mut self, before: Position) {
        let generation = self.generation;
        let old = self.active.iter().filter(|(_, entry)| entry.since.is_some_and(|since| since < before));
        let copies: Vec<Op> = old.map(|(id, _)| Op::Copy { id: *id, generation }).collect();
        self.queue.extend(copies);
    }

    /// The durable log ends there now. Every segment up to it must go before its successor, also one that was begun and closed since.
    pub(crate) fn advance(&mut self, end: Position) {
        (self.end.segment + 1..=end.segment).for_each(|number| self.segments.grow(number, 0));
        self.end = end;
    }

    /// Up to where the index will reflect the log once it has done what it was told so far.
    pub(crate) fn mark(&self, identity: u64) -> Mark {
        let active = self.active.values().filter_map(|entry| entry.since);
        let parking = self.parking.entries().filter_map(|entry| entry.since);
        let dying = self.dying.values().filter_map(|dying| dying.since);
        let position = active.chain(parking).chain(dying).min().unwrap_or(self.end).min(self.end);
        Mark { identity, position, sequence: self.sequence, last_id: self.last_id }
    }
}

impl Shared {
    pub(crate) fn new(
        options: Options,
        system: &System,
        identity: u64,
        spares: Arc<Spares>,
        unreadable: Unreadable,
        state: State,
        keeper: mpsc::UnboundedSender<Command>,
    ) -> Self {
        let layout = Layout::new(&options.path);
        let reserve = Reserve::new(system.disk.clone(), &layout, options.reserve);
        let packer = Arc::new(Packer::new(options.compression));
        Self {
            options,
            reserve,
            layout,
            identity,
            disk: system.disk.clone(),
            spares,
            unreadable,
            clock: system.clock.clone(),
            entropy: system.entropy.clone(),
            workers: system.workers,
            reads: Turns::new(system.workers, READS_MAX),
            packer,
            state: Mutex::new(state),
            wake: Notify::new(),
            gathering: Gathering::default(),
            left: Notify::new(),
            sweep: Notify::new(),
            unlinking: Notify::new(),
            keeper,
            room: Room::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, what is there is still the best that we have.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self, note: Note) {
        (self.options.report)(note);
    }

    /// Sends a command to the index loop; after the end of that loop nobody hears it.
    pub(crate) fn tell(&self, command: Command) {
        let _ = self.keeper.send(command);
    }

    /// Asks the index loop.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply));
        answer.await.map_err(|_| SpoolError::Closed)
    }

    /// What is known of a message, wherever it is.
    pub(crate) async fn stored(&self, id: QueueId) -> Result<Option<Stored>, SpoolError> {
        if let Some(entry) = self.lock().visible(id) {
            return Ok(Some(entry.stored.clone()));
        }
        self.ask(|reply| Command::Look { id, reply }).await?
    }

    /// Changes a message, wherever it is.
    pub(crate) fn update(&self, update: Update) {
        let mut state = self.lock();
        if state.closing {
            return;
        }
        if state.update(&update) {
            self.queued(state);
        } else {
            drop(state);
            self.tell(Command::Recall { id: update.id, action: Action::Update(update) });
        }
    }

    /// Forgets a message, wherever it is.
    pub(crate) fn done(&self, id: QueueId) {
        let mut state = self.lock();
        if state.closing {
            return;
        }
        if state.done(id) {
            self.queued(state);
        } else {
            drop(state);
            self.tell(Command::Recall { id, action: Action::Done });
        }
    }

    /// Removes the content file of a message that has come to nothing.
    pub(crate) fn remove_content(&self, id: QueueId) {
        self.lock().unlinks.push(self.layout.content_file(id));
        self.unlinking.notify_one();
    }

    /// Parks an active message.
    pub(crate) fn park(&self, id: QueueId, due: Timestamp) {
        let mut state = self.lock();
        if let Some(mut entry) = state.active.remove(&id) {
            if entry.in_doubt > 0 {
                entry.park_after = Some(due);
                state.active.insert(id, entry);
            } else {
                state.park(entry, due);
            }
        } else if let Some(parking) = state.parking.remove(id) {
            state.park(parking.entry, due);
        }
        self.queued(state);
    }

    /// Something is queued that nobody waits for.
    fn queued(&self, state: MutexGuard<'_, State>) {
        let enough = self.gathering.is_enough_of_others(state.queue.len());
        drop(state);
        if enough {
            self.wake.notify_one();
        }
    }

    /// Waits until everything queued so far is durable.
    pub(crate) async fn barrier(&self) -> Result<(), SpoolError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.closing {
                // The committer may be gone already.
                return Err(SpoolError::Closed);
            }
            state.queue.push_back(Op::Barrier(reply));
        }
        self.wake.notify_one();
        answer.await.map_err(|_| SpoolError::Closed)?
    }

    /// Makes the index durable, and marked with how far it has come; says how far.
    pub(crate) async fn checkpoint(&self) -> Result<Mark, SpoolError> {
        let (reply, answer) = oneshot::channel();
        {
            // Under the lock: what the committer tells the index loop of later batches comes behind.
            let state = self.lock();
            self.tell(Command::Mark { mark: state.mark(self.identity), reply: Some(reply) });
        }
        answer.await.map_err(|_| SpoolError::Closed)?
    }

    /// A loop has ended. If by a panic, the spool can't go on: it closes, and whoever waits for it hears that.
    pub(crate) fn ended(&self, name: &str) {
        if std::thread::panicking() && !std::mem::replace(&mut self.lock().failed, true) {
            self.report(Note::Trouble(format!("{name} has ended by a bug: the spool is closed")));
        }
        self.shut();
    }

    /// Ends the loops once they have done what they were asked.
    pub(crate) fn shut(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
        self.sweep.notify_one();
        self.unlinking.notify_one();
    }
}
