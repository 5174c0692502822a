//! While the spool can't write its log no attempt begins: what was delivered would be delivered again after the next start. What is in flight
//! comes to its end. Goes on by itself once the log is written again. State: the delivery loop's.

use std::time::Duration;

use super::delivery::Delivery;
use crate::event::Event;
use crate::mail::Timestamp;

/// How often it is looked whether delivery may go on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Delivery {
    /// Stops attempts, or lets them go on, as the spool can record what they come to.
    pub(super) fn watch_log(&mut self) {
        let now = self.system.clock.monotonic();
        match (self.spool.standstill(), self.stalled) {
            (Some(reason), None) => {
                self.stalled = Some(now);
                self.scheduler.stall(self.now(), true);
                self.events.report(Event::DeliveryStopped { reason });
            }
            (None, Some(since)) => {
                self.stalled = None;
                self.scheduler.stall(self.now(), false);
                self.next_due = Some(Timestamp::ZERO);
                self.events.report(Event::DeliveryResumed { duration: now.saturating_sub(since) });
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// When to look again; none if something else will make the loop look.
    pub(super) fn looks_at_log_at(&self) -> Option<Timestamp> {
        self.stalled.map(|_| self.now().plus(LOOK_EVERY))
    }
}
