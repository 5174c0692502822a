//! What room there is for new mail: free bytes on the disk, and what the bound on disk use leaves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::shared::{Shared, State};
use super::{Note, SpoolError};

/// How long a look at the disk's free space counts.
const LOOK_AGE_MAX: Duration = Duration::from_secs(1);
/// Where the log has come up to its bound all the same, a new message waits no longer than this for room to come back.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// That is said so often at the most.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// With segments smaller than this the reserve doesn't count.
const RESERVE_COUNTS: u64 = 32 << 20;

/// What was seen last. Times are milliseconds.
pub(crate) struct Room {
    free: AtomicU64,
    looked: AtomicU64,
    /// Whether the log has come up to its bound,
    at_bound: AtomicBool,
    /// and can't give anything back at the moment: waiting would win nothing.
    stuck: AtomicBool,
    /// When it was said that mail waits; 0: never.
    said: AtomicU64,
    came_back: Notify,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            free: AtomicU64::new(u64::MAX),
            looked: AtomicU64::new(0),
            at_bound: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            said: AtomicU64::new(0),
            came_back: Notify::new(),
        }
    }
}

impl Shared {
    /// Whether new mail may come. A look at the disk counts for a second.
    pub(crate) fn space(&self) -> Result<(), SpoolError> {
        let age = self.milliseconds().saturating_sub(self.room.looked.load(Ordering::Relaxed));
        if age >= LOOK_AGE_MAX.as_millis() as u64 {
            self.space_now();
        }
        if self.free() < self.options.min_free { Err(SpoolError::Full) } else { Ok(()) }
    }

    /// Looks at the disk. If it can't be seen how much is free, mail is taken: the writes will tell.
    pub(crate) fn space_now(&self) {
        self.room.looked.store(self.milliseconds(), Ordering::Relaxed);
        match self.disk.available(&self.layout.root) {
            Ok(free) => {
                self.room.free.store(free, Ordering::Relaxed);
                if free < self.free_for_spares() {
                    self.spares.keep(0);
                }
            }
            Err(error) => {
                self.room.free.store(u64::MAX, Ordering::Relaxed);
                self.report(Note::Trouble(format!("can't see how much is free in {}: {error}", self.layout.root.display())));
            }
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Bytes free when last looked.
    pub(crate) fn free(&self) -> u64 {
        self.room.free.load(Ordering::Relaxed)
    }

    /// Notes whether the log has come up to its bound.
    pub(crate) fn note_bound(&self, state: &State) {
        let size = self.options.segment_size;
        let reserve = if size >= RESERVE_COUNTS { self.options.reserve } else { 0 };
        self.room.at_bound.store(state.segments.is_at_bound(size, reserve), Ordering::Relaxed);
    }

    /// A segment was given back, or couldn't be.
    pub(crate) fn note_release(&self, done: bool) {
        self.room.stuck.store(!done, Ordering::Relaxed);
        self.room.came_back.notify_waiters();
    }

    /// At the bound on disk use, and while more room can come back, a new message waits a moment for it.
    pub(crate) async fn wait_for_room(&self) {
        if !self.room.at_bound.load(Ordering::Relaxed) || self.room.stuck.load(Ordering::Relaxed) {
            return;
        }
        let (now, said) = (self.milliseconds().max(1), self.room.said.load(Ordering::Relaxed));
        if said == 0 || now.saturating_sub(said) >= SAY_EVERY.as_millis() as u64 {
            self.room.said.store(now, Ordering::Relaxed);
            self.report(Note::RoomAwaited);
        }
        let _ = tokio::time::timeout(WAIT_MAX, self.room.came_back.notified()).await;
    }
}
