//! Who is sent away for a while, to the spool's index, because too many of his kind wait here already. State: the scheduler's.

use super::due::{due_at, expires_at, next_notice_at};
use super::entry::Entry;
use super::scheduler::Scheduler;
use crate::mail::{Origin, Priority, Timestamp};

/// This part of the room is kept for other senders, of what one sends to however many destinations.
const KEPT: usize = 8;

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
        let room = self.room();
        // A destination for which nothing waits is not to wait for those where much does, as long as there is some room for others.
        let idle = room >= self.settings.active_max / KEPT && self.has_idle_line(now, entry);
        let back = match self.lines.shares.is_crowded(&origin, room) && !idle {
            true => self.lines.shares.send_away(now, &origin),
            false => self.crowded_lines_until(now, entry)?,
        };
        Some(back.min(other))
    }

    fn has_idle_line(&self, now: Timestamp, entry: &Entry) -> bool {
        let sites = entry.parts.keys().map(|destination| self.sites.at(now, destination));
        sites.into_iter().any(|site| site.is_none_or(|site| self.lines.waiting_at(&site) == 0))
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
