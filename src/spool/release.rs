//! The release loop: gives the log's space back. Only the oldest segment ever goes; what still lives in it is accepted again at
//! the log's end first, so no record outlives or predeceases what it speaks of. Where the disk can't read it, its bytes are set aside.
//!
//! Works in steps of bounded size beside reception, on a thread that may block.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::keeper::Command;
use super::segment::BLOCK_SIZE;
use super::shared::{Shared, State};
use super::space::{Pace, Use};
use super::survivors::{Copier, STEP_RECORDS, Whence};
use super::waits::Telling;
use super::{Note, SpoolError, reread, unlink};

/// Survivors with a change under way are asked again so often.
const TRIES: usize = 3;
/// A release that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// The reserve is looked after this often, while there is work.
const REFILL_EVERY: Duration = Duration::from_secs(1);

/// Closes the spool when the loop has ended.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended("spool-release");
    }
}

/// Runs until the spool is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let _ending = Ending(shared.clone());
    tokio::join!(give_back(&shared), unlink::run(&shared));
    shared.spares.keep(0);
}

async fn give_back(shared: &Arc<Shared>) {
    let mut looked = shared.clock.monotonic();
    let mut pace = Pace::new(shared.options.compaction_rate);
    let mut telling = Telling::default();
    loop {
        shared.limit_spares();
        let mut failed = false;
        while !failed && let Some(oldest) = shared.oldest_to_go() {
            let released = release(shared, oldest, &mut pace).await;
            shared.note_release(released.is_ok());
            if let Err(error) = released {
                if error != SpoolError::Closed && telling.is_due(oldest, &error, shared.clock.monotonic()) {
                    shared.report(Note::Trouble(format!("segment {oldest} isn't released yet: {error}")));
                }
                failed = true;
            }
            shared.limit_spares();
        }
        if failed {
            rest(shared, RETRY).await;
        }
        reread::due(shared, &mut pace).await;
        let now = shared.clock.monotonic();
        if now.saturating_sub(looked) >= REFILL_EVERY {
            looked = now;
            shared.reserve.refill();
        }
        if shared.lock().closing {
            break;
        }
        if shared.oldest_to_go().is_none() {
            asked(shared).await;
        }
    }
}

impl Shared {
    /// Gives up spare segments that there is no room for any longer.
    fn limit_spares(&self) {
        let most = self.spares_max(&self.lock(), None);
        self.spares.keep(most);
    }

    fn oldest_to_go(&self) -> Option<u64> {
        self.candidate(&self.lock())
    }

    /// The segment that should go next.
    pub(crate) fn candidate(&self, state: &State) -> Option<u64> {
        let open = state.end.segment;
        if state.closing { None } else { state.segments.candidate(self.options.segment_size, open) }
    }

    /// Whether room is needed: then what would go in the way of reception may do so.
    pub(crate) fn is_pressed(&self) -> bool {
        let state = self.lock();
        let pressing = state.segments.is_pressing(self.options.segment_size, state.end.segment);
        drop(state);
        pressing || self.space().is_err()
    }
}

/// Waits until there may be something to do.
async fn asked(shared: &Shared) {
    let asked = shared.sweep.notified();
    match shared.unreadable.next_due() {
        None => asked.await,
        Some(due) => _ = tokio::time::timeout(due.saturating_sub(shared.clock.monotonic()), asked).await,
    }
}

/// Waits, but for the end of the spool.
async fn rest(shared: &Shared, time: Duration) {
    let end = shared.clock.monotonic() + time;
    while !shared.lock().closing {
        let left = end.saturating_sub(shared.clock.monotonic());
        if left.is_zero() || tokio::time::timeout(left, shared.sweep.notified()).await.is_err() {
            break;
        }
    }
}

/// Copies the survivors, then removes the segment.
async fn release(shared: &Arc<Shared>, number: u64, pace: &mut Pace) -> Result<(), SpoolError> {
    for tries in 0..TRIES {
        let Use { live, used, .. } = shared.lock().segments.of(number);
        if live == 0 {
            return remove(shared, number).await;
        }
        let mut copier = Copier::new(shared, pace);
        if tries == 0 {
            copier.found(number, BLOCK_SIZE + used).await?;
            copier.end();
        } else if copier.hidden(number, live).await? == 0 {
            // The index was built anew, and what can't be read isn't in it any more: that is set aside.
            return remove(shared, number).await;
        } else {
            set_aside(shared, number, copier).await?;
        }
        // A survivor with a change under way has it behind it then.
        shared.barrier().await?;
    }
    match shared.lock().segments.of(number).live {
        0 => Ok(()),
        _ => Err(SpoolError::Io("messages in it have changes under way again and again".to_owned())),
    }
}

/// Its messages' content can't be read: the segment is kept apart for them, and they are accepted again without it. Nothing is given up:
/// a disk may come back.
async fn set_aside(shared: &Arc<Shared>, number: u64, mut copier: Copier<'_>) -> Result<(), SpoolError> {
    let unread = std::mem::take(&mut copier.unread);
    let Some(error) = copier.why.take().map(|error| error.to_string()).filter(|_| !unread.is_empty()) else { return Ok(()) };
    let kept = shared.unreadable.keep(&*shared.disk, &shared.layout, number, &unread, shared.clock.monotonic());
    kept.map_err(|worse| SpoolError::Io(format!("{error}; and it can't be set aside: {worse}")))?;
    shared.report(Note::SegmentUnreadable { segment: number, messages: unread.len() as u64, error });
    for some in unread.chunks(STEP_RECORDS) {
        copier.copy(some.iter().map(|(id, place)| (*id, *place, Whence::Nowhere)).collect()).await?;
    }
    Ok(())
}

/// Removes a segment in which nothing lives, and those behind it that are dead as well: one mark does for all.
async fn remove(shared: &Arc<Shared>, number: u64) -> Result<(), SpoolError> {
    let began = shared.clock.monotonic();
    // Only who is dead before the mark: the index must not name a segment that isn't there.
    let dead = {
        let state = shared.lock();
        state.segments.dead_from(number, state.end.segment)
    };
    // Nor must it have to begin its replay there.
    let mark = shared.checkpoint().await?;
    if mark.position.segment <= number {
        return Err(SpoolError::Index("its mark is still there".to_owned()));
    }
    for number in dead.into_iter().filter(|number| *number < mark.position.segment) {
        let spare = retire(shared, number)?;
        {
            let mut state = shared.lock();
            state.segments.remove(number);
            shared.note_bound(&state);
        }
        shared.note_release(true);
        if let Some(spare) = spare {
            // The index loop may be reading the log anew and have the file open by its old name: its answer says that it has not.
            match shared.ask(|reply| Command::Ping { reply }).await {
                Ok(_) => shared.spares.add(spare),
                Err(_) => shared.spares.abandon(&spare),
            }
        }
    }
    shared.lock().segments.note_released(shared.clock.monotonic().saturating_sub(began));
    Ok(())
}

/// A segment's name goes, durably: it becomes a spare if one more is wanted, else it is removed.
fn retire(shared: &Shared, number: u64) -> Result<Option<PathBuf>, SpoolError> {
    // What is kept under another name isn't written again.
    let wanted = !shared.unreadable.holds(number) && shared.spares.count() < shared.spares_max(&shared.lock(), Some(number));
    let spare = shared.spares.retire(number, wanted);
    if spare.is_none() {
        let path = shared.layout.segment(number);
        unlink::remove(shared, &path).map_err(|error| SpoolError::io("can't remove", &path, &error))?;
    }
    let synced = shared.disk.sync_dir(&shared.layout.log);
    synced.map_err(|error| {
        if let Some(spare) = &spare {
            // On disk it may have its old name still.
            shared.spares.abandon(spare);
        }
        SpoolError::io("can't sync", &shared.layout.log, &error)
    })?;
    Ok(spare)
}
