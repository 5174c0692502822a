//! What becomes durable while the index takes a message in: it must not be lost for the index having begun before.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::index::{IndexFactory, Mark, Page, Resident, Stored};
use super::record::{AcceptContent, Frame};
use super::shared::State;
use super::*;
use crate::system::sim::OperationKind;
use crate::system::{System, Workers};

/// Where somebody stands still until he may go on.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Option<Latch>>>);

/// What whoever comes to a closed gate says, and what he waits for.
struct Latch {
    here: Sender<()>,
    opened: Receiver<()>,
}

/// Who comes to the gate waits until this is dropped.
struct Closed {
    came: Receiver<()>,
    _open: Sender<()>,
}

impl Gate {
    /// Closes it for whoever comes next.
    fn close(&self) -> Closed {
        let ((here, came), (open, opened)) = (channel(), channel());
        *self.0.lock().unwrap() = Some(Latch { here, opened });
        Closed { came, _open: open }
    }

    fn pass(&self) {
        let closed = self.0.lock().unwrap().take();
        if let Some(Latch { here, opened }) = closed {
            here.send(()).unwrap();
            // Opened when the other end is dropped.
            let _ = opened.recv();
        }
    }
}

impl Closed {
    async fn somebody_waits(self) -> Self {
        let waits = tokio::task::spawn_blocking(|| {
            self.came.recv_timeout(Duration::from_secs(60)).expect("somebody comes");
            self
        });
        waits.await.unwrap()
    }
}

/// An index with a gate behind what it takes in.
#[derive(Clone, Default)]
struct Slow {
    inner: MemoryIndex,
    taking: Gate,
}

impl IndexFactory for Slow {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(self.clone()))
    }

    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        MemoryIndexFactory(self.inner.clone()).set_aside(now)
    }

    fn discard(&self) -> Result<(), IndexError> {
        MemoryIndexFactory(self.inner.clone()).discard()
    }
}

impl Index for Slow {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        self.inner.mark()
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        self.inner.set_mark(mark)
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        self.inner.insert(stored, due)?;
        self.taking.pass();
        Ok(())
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        self.inner.set_due(id, due)
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        self.inner.remove(id)
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        self.inner.get(id)
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        self.inner.due(from, to, count_max)
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        self.inner.page(filter, count_max)
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        self.inner.visit(visit)
    }

    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError> {
        self.inner.residents(visit)
    }

    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError> {
        self.inner.count(leave_out, stats)
    }
}

/// A spool whose loops have threads of their own, with one message that somebody works on.
struct House {
    disk: SimDisk,
    index: Slow,
    spool: Spool,
    kept: QueueId,
}

impl House {
    async fn new() -> Self {
        let (disk, index) = (SimDisk::new(), Slow::default());
        let system = System { workers: Workers::Threads, ..World::new(7).system(Arc::new(disk.clone())) };
        let (spool, _) = Spool::open(options(ROOT), &system, Box::new(index.clone())).await.unwrap();
        let kept = take(&spool).await;
        Self { disk, index, spool, kept }
    }

    /// The index begins to take a copy of the message, and stands still.
    async fn copying(&self) -> Closed {
        let closed = self.index.taking.close();
        self.copy_active();
        closed.somebody_waits().await
    }

    fn copy_active(&self) {
        let mut state = self.spool.0.shared.lock();
        let end = state.end;
        state.copy_active(end);
        drop(state);
        self.spool.0.shared.wake.notify_one();
    }

    /// Where its record lies.
    fn segment_of_kept(&self, state: &State) -> u64 {
        state.visible(self.kept).unwrap().stored.place.segment
    }

    /// Fills the segment where the message lies with others, and changes it behind them: the number, and the others.
    async fn fill_first(&self) -> (u64, Vec<QueueId>) {
        let first = self.segment_of_kept(&self.spool.0.shared.lock());
        let mut others = Vec::new();
        while self.spool.0.shared.lock().end.segment == first {
            others.push(take(&self.spool).await);
        }
        // The index knows all of them, so it need not be asked when they are done with.
        self.copy_active();
        self.spool.0.shared.barrier().await.unwrap();
        self.spool.update(Update { delays_noticed: Some(1), ..Update::new(self.kept) });
        self.spool.flush().await.unwrap();
        (first, others)
    }

    async fn until(&self, there: impl Fn(&State) -> bool) {
        let shared = &self.spool.0.shared;
        let wait = async {
            while !there(&shared.lock()) {
                shared.barrier().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it comes to that");
    }

    /// Commits a notice which says that the message is held; it isn't taken for that, but
    /// found active or on its way into the index.
    async fn hold_with_a_notice(&self) {
        let mut draft = self.spool.begin_notice().unwrap();
        let about = Message::clone(&self.spool.0.shared.lock().visible(self.kept).unwrap().stored.message);
        let notice = Arc::new(Message { id: draft.id(), size: 0, ..about });
        let held = Update { held: Some(true), ..Update::new(self.kept) };
        let content = AcceptContent::Inline(Frame::draft(), compress::Form::Plain);
        draft.commit_content(content, &notice, vec![held]).await.unwrap();
        self.spool.done(notice.id);
    }

    /// What is known of the message after a kill; the index was marked before.
    async fn after_a_kill(self) -> Message {
        // The last batch is read again in any case: it shall be another.
        let last = take(&self.spool).await;
        self.spool.done(last);
        self.spool.flush().await.unwrap();
        self.spool.0.shared.checkpoint().await.unwrap();
        let (disk, index) = (self.disk.killed(), self.index.inner.without_last(0));
        self.spool.close().await.unwrap();
        let spool = open(&disk, ROOT, &index).await;
        let message = spool.message(self.kept).await.unwrap().expect("it is there");
        spool.content(self.kept).await.unwrap();
        spool.close().await.unwrap();
        message
    }
}

async fn take(spool: &Spool) -> QueueId {
    take_of(spool, 0).await
}

/// One with so many octets of body.
async fn take_of(spool: &Spool, size: usize) -> QueueId {
    let mut draft = spool.begin().unwrap();
    draft.write(b"Subject: short\r\n\r\n").await.unwrap();
    draft.write(&vec![b'x'; size]).await.unwrap();
    draft.commit(envelope()).await.unwrap().id
}

fn threads<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(story)
}

#[test]
fn a_message_that_moves_while_it_is_copied_is_found_where_it_lies_then() {
    threads(async {
        let house = House::new().await;
        let (first, others) = house.fill_first().await;
        let copying = house.copying().await;
        // Little lives in the first segment then: what does is accepted again.
        others.into_iter().for_each(|id| house.spool.done(id));
        house.until(|state| house.segment_of_kept(state) > first).await;
        drop(copying);
        house.until(|state| state.segments.of(first).used == 0).await;
        house.after_a_kill().await;
    });
}

#[test]
fn content_files_go_also_while_a_release_waits_for_the_index() {
    threads(async {
        let house = House::new().await;
        let large = take_of(&house.spool, 3000).await;
        let file = house.spool.0.shared.layout.content_file(large);
        let (first, others) = house.fill_first().await;
        let copying = house.copying().await;
        others.into_iter().for_each(|id| house.spool.done(id));
        // Its last survivors have gone: now the index is to be marked.
        house.until(|state| state.segments.of(first).live == 0).await;
        assert!(house.disk.exists(&file));
        house.spool.done(large);
        house.until(|_| !house.disk.exists(&file)).await;
        drop(copying);
        house.spool.close().await.unwrap();
    });
}

#[test]
fn so_does_what_a_notice_changes_while_its_message_is_copied() {
    threads(async {
        let house = House::new().await;
        let copying = house.copying().await;
        house.hold_with_a_notice().await;
        drop(copying);
        assert!(house.after_a_kill().await.held);
    });
}

#[test]
fn a_message_with_a_change_under_way_does_not_leave_memory() {
    threads(async {
        let house = House::new().await;
        let parking = house.index.taking.close();
        house.spool.park(house.kept, Timestamp::NEVER);
        let parking = parking.somebody_waits().await;
        let syncing = Gate::default();
        let closed = syncing.close();
        house.disk.watch(move |operation| {
            if operation.kind == OperationKind::Sync {
                syncing.pass();
            }
        });
        let meanwhile = async {
            let closed = closed.somebody_waits().await;
            drop(parking);
            // The index has all of it, and the notice isn't durable.
            house.spool.0.shared.ask(|reply| keeper::Command::Ping { reply }).await.unwrap().unwrap();
            drop(closed);
        };
        tokio::join!(house.hold_with_a_notice(), meanwhile);
        assert!(house.after_a_kill().await.held);
    });
}
