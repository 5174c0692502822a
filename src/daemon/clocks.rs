//! The wall clock beside the monotonic one: what is planned by a time that turns out wrong is planned anew. State: the delivery loop's.

use std::time::Duration;

use super::delivery::{BATCH_MAX, Delivery};
use crate::mail::{Message, RecipientStatus, Timestamp, Update};
use crate::queue::{self, LAST_CHANCE};
use crate::spool::{Filter, Spool, SpoolError};
use crate::system::Clock;

/// A clock that goes back by more than this was set back.
const SLACK: Duration = Duration::from_secs(2);
/// Planning anew that the index didn't allow is tried again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// Wall clock and monotonic clock when they were last compared.
pub(super) struct Clocks {
    wall: Timestamp,
    monotonic: Duration,
    /// From then on what is parked is to be planned anew, by the monotonic clock.
    clamp_at: Option<Duration>,
}

/// What the wall clock did since the last look, beside going on.
enum Change {
    Nothing,
    SetBack,
    /// It was set, or nothing ran for a long time.
    Ahead,
}

impl Clocks {
    /// At a start. A spool with ids from the future was written by a clock that has been put right since.
    pub(super) fn new(spool: &Spool, clock: &dyn Clock) -> Self {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        let was_wrong = spool.newest().time() > wall.plus(SLACK);
        Self { wall, monotonic, clamp_at: was_wrong.then_some(monotonic) }
    }

    /// When they were, by the monotonic clock.
    pub(super) fn looked_at(&self) -> Duration {
        self.monotonic
    }

    fn look(&mut self, clock: &dyn Clock) -> Change {
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        let expected = self.wall.plus(monotonic.saturating_sub(self.monotonic));
        (self.wall, self.monotonic) = (wall, monotonic);
        if wall.plus(SLACK) < expected {
            Change::SetBack
        } else if wall > expected.plus(LAST_CHANCE) {
            Change::Ahead
        } else {
            Change::Nothing
        }
    }
}

impl Delivery {
    /// Sees to what a change of the clock means for those who wait.
    pub(super) async fn watch_clocks(&mut self) {
        match self.clocks.look(&*self.system.clock) {
            Change::Nothing => {}
            Change::SetBack => self.clocks.clamp_at = Some(self.clocks.monotonic),
            Change::Ahead => self.scheduler.go_on(self.clocks.wall),
        }
        if self.clocks.clamp_at.is_some_and(|at| at <= self.clocks.monotonic) {
            self.clocks.clamp_at = match self.clamp_parked().await {
                Ok(()) => None,
                Err(error) => {
                    self.trouble(None, "index", &error);
                    Some(self.clocks.monotonic + AGAIN)
                }
            };
        }
    }

    /// Parked messages were planned under the old time: those that would now wait longer than one backoff are planned anew.
    async fn clamp_parked(&mut self) -> Result<(), SpoolError> {
        let mut filter = Filter { limit: Some(BATCH_MAX), ..Filter::default() };
        loop {
            let page = self.spool.list(&filter).await?;
            let Some(last) = page.last() else { return Ok(()) };
            filter.after = Some(last.id);
            let now = self.now();
            let latest = now.plus(queue::wait_max(&self.current.config.retry));
            let wait_too_long = page.iter().filter(|message| !message.held && !clamped(message, now, latest).statuses.is_empty());
            for id in wait_too_long.map(|message| message.id) {
                if let Some(mut message) = self.spool.take(id).await? {
                    // Into the spool, too: what comes back from it would else still name the old time.
                    let update = clamped(&message, now, latest);
                    message.apply(&update);
                    self.spool.update(update);
                    self.admit(message);
                }
            }
            while let Some(step) = self.scheduler.next(self.now()) {
                self.carry_out(step).await;
            }
        }
    }
}

/// Nobody is attempted later than `latest`, and who never was not later than now, except where the sender wants to wait longer.
fn clamped(message: &Message, now: Timestamp, latest: Timestamp) -> Update {
    let mut update = Update::new(message.id);
    for (index, recipient) in (0u32..).zip(&message.recipients) {
        let latest = if recipient.status.attempts == 0 { now } else { latest }.max(message.held_until());
        if recipient.is_open() && recipient.status.next_attempt > latest {
            update.statuses.push((index, RecipientStatus { next_attempt: latest, ..recipient.status.clone() }));
        }
    }
    update
}
