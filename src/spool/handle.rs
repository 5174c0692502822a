//! The spool's face to the rest of the server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use super::content::{self, Located};
use super::index::IndexFactory;
use super::keeper::Command;
use super::record::{AcceptContent, ContentFile};
use super::recover::{self, Recovered, Start};
use super::segment::Layout;
use super::shared::Shared;
use super::{Draft, Filter, Gauges, Note, Options, Recovery, SpoolError, Stats, aside, commit, keeper, reader, release};
use crate::mail::{Message, QueueId, Timestamp, Update};
use crate::system::{Content, DiskLock, System};

/// A listing is made in pages of this many messages, so that other work comes between.
const PAGE: usize = 500;
/// A message that moves while its content is being opened is looked for again so often.
const TRIES: usize = 4;
/// An id that is given back may be so far ahead of our clock.
const AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// Keeps accepted mail. Cheap to clone. When the last clone is dropped, the loops end by themselves; `close` also waits for them.
#[derive(Clone)]
pub struct Spool(pub(super) Arc<Face>);

pub(super) struct Face {
    pub(super) shared: Arc<Shared>,
    /// Ends when all loops have ended.
    ended: Mutex<mpsc::Receiver<Infallible>>,
    /// The greatest id that was given out before.
    before: QueueId,
}

impl Drop for Face {
    fn drop(&mut self) {
        self.shared.shut();
    }
}

impl Spool {
    /// Opens the spool: recovers what the log has, brings the index up to it, starts the loops. Every message found is parked.
    pub async fn open(options: Options, system: &System, index: Box<dyn IndexFactory>) -> Result<(Spool, Recovery), SpoolError> {
        let start = Start {
            options: options.clone(),
            disk: system.disk.clone(),
            factory: index,
            now: system.clock.now(),
            workers: system.workers,
            random: system.entropy.next_u64(),
        };
        let begun = system.workers.blocking(move || Ok(start_up(start))).await;
        let (recovered, lock) = begun.map_err(|error| SpoolError::Io(error.to_string()))??;
        let Recovered { identity, spares, unreadable, state, log, index, factory, recovery } = recovered;
        let before = state.last_id;
        let (tell, commands) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(options, system, identity, spares, unreadable, state, tell));
        shared.space_now();
        let (alive, ended) = mpsc::channel(1);
        // Each loop holds the lock on the spool as long as it lives, and lets go of it before it counts as ended.
        let held = (lock, alive);
        let run = |name: &str, work: crate::system::BoxFuture<'static, ()>| {
            let held = held.clone();
            let run = async move {
                work.await;
                drop(held);
            };
            system.workers.dedicated(name, run).map_err(|error| SpoolError::Io(format!("can't start {name}: {error}")))
        };
        let spool = Spool(Arc::new(Face { shared: shared.clone(), ended: Mutex::new(ended), before }));
        run("spool-log", Box::pin(commit::run(shared.clone(), log)))?;
        run("spool-index", Box::pin(keeper::run(shared.clone(), index, factory, commands)))?;
        run("spool-release", Box::pin(release::run(shared)))?;
        Ok((spool, recovery))
    }

    /// Begins a message; its id is given out here. `Full` if the disk has less than `min_free` left, `Behind` if too much waits for the index.
    pub fn begin(&self) -> Result<Draft, SpoolError> {
        self.space()?;
        self.begin_notice()
    }

    /// Begins a message of the server's own, for which `min_free` keeps room: what is in the spool must come to its end, whatever
    /// that is, also while no new mail is taken.
    pub fn begin_notice(&self) -> Result<Draft, SpoolError> {
        let shared = &self.0.shared;
        let (now, random) = (shared.clock.now(), shared.entropy.next_u64());
        let mut state = shared.lock();
        if state.closing {
            return Err(SpoolError::Closed);
        }
        let id = QueueId::after(state.last_id, now, random);
        state.last_id = id;
        drop(state);
        Ok(Draft::new(self, id))
    }

    /// Begins a message that was in a spool before, under the id that it had; `Draft::restore` ends it. None: a message of this id
    /// is here. Ids given out later are greater. For a spool that nothing else writes to: an id may not be in use by a draft.
    pub async fn begin_again(&self, id: QueueId) -> Result<Option<Draft>, SpoolError> {
        self.0.shared.space()?;
        self.reserve(id).await
    }

    async fn reserve(&self, id: QueueId) -> Result<Option<Draft>, SpoolError> {
        let shared = &self.0.shared;
        if id.time() > shared.clock.now().plus(AHEAD_MAX) {
            return Err(SpoolError::Unusable(format!("{id} is an id of the future: later ones could not be greater")));
        }
        if self.message(id).await?.is_some() {
            return Ok(None);
        }
        let mut state = shared.lock();
        if state.closing {
            return Err(SpoolError::Closed);
        }
        if state.overrides(id) {
            return Ok(None);
        }
        state.last_id = state.last_id.max(id);
        drop(state);
        Ok(Some(Draft::new(self, id)))
    }

    /// Takes up a message whose content is lost: with a content file that isn't there. False: a message of this id is here.
    pub(crate) async fn restore_without_content(&self, message: Message) -> Result<bool, SpoolError> {
        let Some(mut draft) = self.reserve(message.id).await? else { return Ok(false) };
        let message = Arc::new(message);
        draft.commit_content(AcceptContent::File(ContentFile::LOST), &message, Vec::new()).await?;
        self.park(message.id, (self.0.shared.options.due)(&message));
        Ok(true)
    }

    /// Whether `begin` would say `Full` or `Behind`: for 452 before DATA.
    pub fn space(&self) -> Result<(), SpoolError> {
        self.0.shared.space()?;
        self.0.shared.memory()
    }

    /// Bytes free on the disk when it was last looked at, which is never long ago.
    pub fn free(&self) -> u64 {
        self.0.shared.free()
    }

    /// Changes a message: in the spool's copy at once, in the log with the next batch. Nothing happens if there is no such message.
    pub fn update(&self, update: Update) {
        self.0.shared.update(update);
    }

    /// Forgets a message: at once here, in the log with the next batch.
    pub fn done(&self, id: QueueId) {
        self.0.shared.done(id);
    }

    /// Lets go of an active message until `due` (`NEVER`: until `take`): out of memory, into the index.
    pub fn park(&self, id: QueueId, due: Timestamp) {
        self.0.shared.park(id, due);
    }

    /// Parks a message that nobody works on yet; whoever waits for `left` hears that it is there.
    pub fn leave(&self, id: QueueId, due: Timestamp) {
        self.0.shared.leave(id, due);
    }

    /// Waits until a message has been left: by `leave`, or because whoever wanted to commit it went away before it was durable. For one
    /// that fetches what is due: it is due.
    pub async fn left(&self) {
        self.0.shared.left.notified().await;
    }

    /// Parked messages that are due, at most `count_max`; they are active from now on.
    pub async fn due(&self, now: Timestamp, count_max: usize) -> Result<Vec<Message>, SpoolError> {
        self.0.shared.ask(|reply| Command::Due { now, count_max, reply }).await?
    }

    /// When the next parked message is due; none if none ever is.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, SpoolError> {
        self.0.shared.ask(|reply| Command::NextDue { reply }).await?
    }

    /// Makes a parked message active, due or not. None: unknown, or active already.
    pub async fn take(&self, id: QueueId) -> Result<Option<Message>, SpoolError> {
        Ok(self.take_with_due(id).await?.map(|(message, _)| message))
    }

    /// Makes those of these messages active that are parked; `ids` ascending. Where the index fails, those before it did, and why the
    /// others are not known.
    pub async fn take_all(&self, ids: Vec<QueueId>) -> Result<(Vec<Message>, Option<SpoolError>), SpoolError> {
        self.0.shared.ask(|reply| Command::TakeAll { ids, reply }).await?
    }

    pub(super) async fn take_with_due(&self, id: QueueId) -> Result<Option<(Message, Timestamp)>, SpoolError> {
        self.0.shared.ask(|reply| Command::Take { id, reply }).await?
    }

    /// A look at a message that is active.
    pub fn active(&self, id: QueueId) -> Option<Arc<Message>> {
        self.0.shared.lock().active.get(&id).map(|entry| entry.stored.message.clone())
    }

    /// A look at a message, active or parked.
    pub async fn message(&self, id: QueueId) -> Result<Option<Message>, SpoolError> {
        Ok(self.0.shared.stored(id).await?.map(|stored| Arc::unwrap_or_clone(stored.message)))
    }

    /// Messages that match, ordered by id. For long queues ask in pages: `limit`, then `after`.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Message>, SpoolError> {
        let limit = filter.limit.unwrap_or(usize::MAX);
        let mut messages = Vec::new();
        let mut after = filter.after;
        while messages.len() < limit {
            let filter = Filter { after, ..filter.clone() };
            let count_max = PAGE.min(limit - messages.len());
            let listing = self.0.shared.ask(|reply| Command::Page { filter, count_max, reply }).await??;
            messages.extend(listing.messages);
            after = listing.next;
            if after.is_none() {
                break;
            }
        }
        Ok(messages)
    }

    /// A message's content; stays readable as long as it is held. Content in a file of its own is checked while it is read from
    /// the first octet to the last: the last piece is an error if the file is damaged.
    pub async fn content(&self, id: QueueId) -> Result<Arc<dyn Content>, SpoolError> {
        if let Some(content) = self.0.shared.lock().recent.content(id) {
            return Ok(content);
        }
        for _ in 0..TRIES {
            let Some(located) = self.locate(id).await? else { return Err(SpoolError::Unknown(id)) };
            let shared = self.0.shared.clone();
            let open = move || Ok(content::open(&*shared.disk, &shared.layout, shared.identity, located, &shared.reads));
            let opened = self.0.shared.reads.blocking(open).await;
            match opened.map_err(|error| SpoolError::Io(error.to_string()))? {
                Ok(Some(content)) => return Ok(content),
                Ok(None) => {}
                // Its segment may have been written again since it moved.
                Err(SpoolError::Damaged(_)) if self.locate(id).await?.is_none_or(|now| now != located) => {}
                Err(error) => {
                    self.set_aside(&error, located).await;
                    return Err(error);
                }
            }
        }
        Err(SpoolError::Damaged(id))
    }

    /// Copies a record that turned out to be damaged.
    async fn set_aside(&self, error: &SpoolError, located: Located) {
        let shared = self.0.shared.clone();
        if let (SpoolError::Damaged(_), Some(place)) = (error, located.in_log()) {
            let copy = move || {
                if let Err(error) = aside::keep_record(&shared, &shared.layout.segment(place.segment), place) {
                    shared.report(Note::Trouble(error.to_string()));
                }
                Ok(())
            };
            let _ = self.0.shared.workers.blocking(copy).await;
        }
    }

    async fn locate(&self, id: QueueId) -> Result<Option<Located>, SpoolError> {
        let stored = self.0.shared.stored(id).await?;
        Ok(stored.map(|stored| Located::new(&stored, &self.0.shared.unreadable)))
    }

    /// The highest id that was given so far: its time was the wall clock's, or one that was ahead of it.
    pub fn newest(&self) -> QueueId {
        self.0.shared.lock().last_id
    }

    /// Whether a message may have been here before the spool was opened: what became of it last, nobody may have had the time to write
    /// down.
    pub fn may_be_from_before(&self, id: QueueId) -> bool {
        id <= self.0.before
    }

    /// Figures without work, for metrics.
    pub fn gauges(&self) -> Gauges {
        let state = self.0.shared.lock();
        let total = state.segments.total();
        Gauges {
            active: state.active.len() as u64,
            backlog: state.backlog() as u64,
            segments: state.segments.len() as u64,
            batches: state.batches,
            accepted: state.accepted,
            free: self.0.shared.free(),
            messages: total.live,
            log_bytes: total.used,
            live_bytes: total.live_bytes,
        }
    }

    /// Counts the whole queue.
    pub async fn stats(&self) -> Result<Stats, SpoolError> {
        let mut stats = self.0.shared.ask(|reply| Command::Count { reply }).await??;
        stats.gauges = self.gauges();
        Ok(stats)
    }

    /// Whether syncs are slow of late: then those who commit come in groups, all whom one sync tells.
    pub fn is_slow(&self) -> bool {
        self.0.shared.gathering.is_slow()
    }

    /// Why nothing can be recorded at the moment; none if it can. What is delivered meanwhile would be delivered again after a restart.
    pub fn standstill(&self) -> Option<String> {
        let now = self.0.shared.clock.monotonic();
        self.0.shared.lock().standstill.why(now)
    }

    /// What keeps the spool from its work, as far as it isn't said by `space`.
    pub fn trouble(&self) -> Option<String> {
        let standstill = self.standstill();
        let state = self.0.shared.lock();
        if state.closing { Some(SpoolError::Closed.to_string()) } else { standstill.or_else(|| state.unindexed.clone()) }
    }

    /// Waits until the spool has closed; true if a bug did that.
    pub async fn closed(&self) -> bool {
        let _ = self.0.ended.lock().await.recv().await;
        self.0.shared.lock().failed
    }

    /// Waits until everything asked for so far is durable.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        // Changes of parked messages go through the index loop first.
        self.0.shared.ask(|reply| Command::Ping { reply }).await??;
        self.0.shared.barrier().await
    }

    /// Flushes log and index, ends the loops and lets go of the lock. Every clone is closed by it.
    pub async fn close(&self) -> Result<(), SpoolError> {
        let flushed = match self.flush().await {
            Ok(()) => self.0.shared.checkpoint().await.map(|_| ()),
            Err(error) => Err(error),
        };
        self.0.shared.shut();
        // Nothing is ever sent: this returns when the last loop has ended.
        let _ = self.0.ended.lock().await.recv().await;
        flushed
    }
}

/// Folders, lock, recovery. Blocking.
fn start_up(start: Start) -> Result<(Recovered, Arc<dyn DiskLock>), SpoolError> {
    let layout = Layout::new(&start.options.path);
    recover::make_folders(&*start.disk, &layout)?;
    let lock = reader::lock(&*start.disk, &layout)?;
    Ok((recover::recover(start)?, Arc::from(lock)))
}
