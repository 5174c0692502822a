//! Who is sent away for a while, to the spool's index, because too many of his kind wait here already. State: the scheduler's.

use super::due::{due_at, expires_at, next_notice_at};
use super::entry::Entry;
use super::scheduler::Scheduler;
use crate::mail::{Origin, Priority, Timestamp};

impl Scheduler {
    /// When a message should come back because its origin has more here than there is room left for others, or because every line that it
    /// would join does.
    pub(super) fn crowded_until(&mut self, now: Timestamp, entry: &mut Entry) -> Option<Timestamp> {
        let retry = &self.settings.retry;
        let other = next_notice_at(&entry.message, retry).min(expires_at(&entry.message, retry));
        // What is urgent waits its turn here, and comes before the rest.
        if entry.stays() || other <= now || entry.message.priority() > Priority::default() || due_at(&entry.message, retry) > now
        {
            return None;
        }
        let origin = Origin::of(&entry.message);
        let back = match self.lines.shares.is_crowded(&origin, self.room()) {
            true => self.lines.shares.send_away(now, &origin),
            false => self.crowded_lines_until(now, entry)?,
        };
        Some(back.min(other))
    }

    fn crowded_lines_until(&mut self, now: Timestamp, entry: &mut Entry) -> Option<Timestamp> {
        let room = self.room();
        let mut sites = Vec::new();
        for (destination, part) in &mut entry.parts {
            part.update(&entry.message, &self.paused_domains);
            if part.ready_at <= now {
                let site = self.sites.at(now, destination)?;
                if !self.lines.is_crowded(&site, room) {
                    return None;
                }
                sites.push(site);
            }
        }
        sites.iter().map(|site| self.lines.send_away(now, site)).max()
    }
}
