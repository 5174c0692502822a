//! Who is sent away, to the spool's index, because too many of his kind wait here already, and who is called back. State: the scheduler's.

use std::collections::BTreeSet;
use std::time::Duration;

use super::away::Wait;
use super::due::{due_at, expires_at, next_notice_at, returned_at};
use super::entry::{Entry, LAST_CHANCE};
use super::lines::CROWD_MIN;
use super::scheduler::Scheduler;
use crate::mail::{Destination, Message, Origin, Priority, QueueId, Recipient, Site, Timestamp};

/// This part of the room is kept from whoever has more here than there is room left for others.
const KEPT: usize = 8;
/// Half of it also from whoever has nothing here yet, before a crowded line.
const KEPT_FROM_ALL: usize = 16;
/// A line with no more than these of an origin's messages calls for others of it that are away.
const LOW: usize = 32;
/// Messages called back in one go: few, so that nothing else waits long for them.
const RECALLED_MAX: usize = 16;
/// Flows without a place that are looked at in one go.
pub(super) const LOOKS_MAX: usize = 8;
/// Who is away comes back at the latest after this time: a server that was started anew has forgotten who is. New mail is looked for then,
/// what was tried before comes by itself.
const AWAY_NEW: Duration = Duration::from_secs(3600);
const AWAY_TRIED: Duration = Duration::from_secs(600);
/// The same for those who can't be remembered.
const AWAY_FORGOTTEN: Duration = Duration::from_secs(60);
/// A message that would be due at once, although nothing of it can be attempted, waits this long.
const IDLE_WAIT: Duration = Duration::from_secs(60);

impl Scheduler {
    /// When a message should come back, unless it is called before, because there is no room for it in any of the lines that it would join.
    pub(super) fn crowded_until(&mut self, now: Timestamp, entry: &mut Entry) -> Option<Timestamp> {
        let retry = &self.settings.retry;
        let expires = expires_at(&entry.message, retry);
        // Who is due then is still attempted. But it doesn't go away and come back for ever.
        let may_wait = now < expires.max(self.since).plus(LAST_CHANCE);
        let expires = if expires <= now && may_wait { now.plus(LAST_CHANCE).min(returned_at(&entry.message)) } else { expires };
        let other = next_notice_at(&entry.message, retry).min(expires);
        if entry.stays() || other <= now || due_at(&entry.message, retry) > now {
            return None;
        }
        // What is urgent waits its turn here, and comes before the rest.
        if entry.message.priority() > Priority::default() && self.entries.len() < 2 * self.settings.active_max {
            return None;
        }
        let origin = Origin::of(&entry.message);
        let mut waits = Vec::new();
        for (destination, part) in &mut entry.parts {
            part.update(&entry.message, &self.paused_domains);
            if part.ready_at <= now {
                // A domain that was never asked for has a line of its own until it is.
                let site = self.sites.last_of(destination, &entry.message.reverse_path);
                let wait = Wait::Line(site.unwrap_or_else(|| Site::Own(destination.clone())));
                if self.has_room(&wait, &origin) || self.goes_before(&wait, &origin, &entry.message) {
                    return None;
                }
                waits.push(wait);
            }
        }
        if waits.is_empty() {
            return None;
        }
        // Whichever line goes on first calls it back, and so does the end of a pause: none holds up its recipients elsewhere.
        waits.extend(self.pauses(now, entry));
        let back = self.send_away(now, waits, &entry.message)?;
        let open = entry.message.recipients.iter().filter(|recipient| recipient.is_open());
        let later = open.map(|recipient| recipient.status.next_attempt).filter(|at| *at > now);
        Some(back.min(other).min(later.min().unwrap_or(Timestamp::NEVER)))
    }

    /// When a message that leaves should come back, unless it is called before.
    pub(super) fn park_until(&mut self, now: Timestamp, entry: &Entry) -> Timestamp {
        let message = &entry.message;
        if message.held {
            return Timestamp::NEVER;
        }
        let waits = self.pauses(now, entry);
        let paused = self.send_away(now, waits, message);
        let open = message.recipients.iter().filter(|r| r.is_open());
        let attempt = open.map(|r| match paused {
            Some(until) if self.is_paused(now, r) => until,
            _ => r.status.next_attempt,
        });
        let attempt = attempt.min().unwrap_or(Timestamp::NEVER);
        let retry = &self.settings.retry;
        let attempt = if attempt <= now { now.plus(IDLE_WAIT) } else { attempt };
        let due = attempt.min(next_notice_at(message, retry)).min(expires_at(message, retry));
        // While all is paused, also for a notice or its end.
        if due <= now { now.plus(IDLE_WAIT) } else { due }
    }

    /// Whether only a pause keeps a recipient from being attempted.
    fn is_paused(&self, now: Timestamp, recipient: &Recipient) -> bool {
        let is_due = recipient.is_open() && recipient.status.next_attempt <= now;
        is_due && self.paused_domains.contains(recipient.address.domain())
    }

    /// The pauses that keep recipients of a message, each for the line that they would go on in.
    fn pauses(&self, now: Timestamp, entry: &Entry) -> BTreeSet<Wait> {
        let message = &entry.message;
        let recipients = (0u32..).zip(&message.recipients);
        let mut paused = recipients.filter(|(_, recipient)| self.is_paused(now, recipient)).peekable();
        if paused.peek().is_none() {
            return BTreeSet::new();
        }
        let destinations = entry.destinations();
        let wait = |(index, recipient): (u32, &Recipient)| {
            let domain = recipient.address.domain().clone();
            let destination = destinations.get(&index).map_or_else(|| Destination::Mx(domain.clone()), |known| (*known).clone());
            let site = self.sites.last_of(&destination, &message.reverse_path).unwrap_or(Site::Own(destination));
            Wait::Pause(domain, site)
        };
        paused.map(wait).collect()
    }

    /// Remembers what a message waits for; when it should come back, unless it is called before. None if it waits for nothing.
    fn send_away(&mut self, now: Timestamp, waits: impl IntoIterator<Item = Wait>, message: &Message) -> Option<Timestamp> {
        let origin = Origin::of(message);
        let tried = message.recipients.iter().any(|recipient| recipient.status.attempts > 0);
        let away = waits.into_iter().map(|wait| match self.lines.away.put(wait, origin.clone(), message.id) {
            true if tried => AWAY_TRIED,
            true => AWAY_NEW,
            false => AWAY_FORGOTTEN,
        });
        away.min().map(|away| now.plus(away))
    }

    /// Whether one more of an origin is welcome. What is held may go beyond `active_max` by half for lines that stand still, and up to
    /// twice that for origins of which nothing is here: nobody waits for others' mail.
    fn has_room(&self, wait: &Wait, origin: &Origin) -> bool {
        let (held, active_max, room) = (self.entries.len(), self.settings.active_max, self.room());
        let of_origin = self.lines.shares.waiting(origin);
        let line = match wait {
            Wait::Line(site) => self.lines.waiting_at(site) + self.sites.asking_for(site),
            Wait::Room | Wait::Pause(..) => 0,
        };
        let crowded = |count: usize| count >= room.max(CROWD_MIN);
        let welcome = match wait {
            _ if of_origin == 0 && !crowded(line) => true,
            _ if of_origin == 0 => room >= active_max / KEPT_FROM_ALL,
            Wait::Line(_) if line == 0 => held < active_max + active_max / 2,
            _ if !crowded(line) && !crowded(of_origin) => room > 0,
            Wait::Line(site) => room >= active_max / KEPT && self.lines.waiting_of(site, origin) < self.allowance(),
            Wait::Room | Wait::Pause(..) => room >= active_max / KEPT,
        };
        welcome && held < active_max.saturating_mul(2)
    }

    /// Whether a message has less urgent ones behind it in its line: what goes first isn't to wait on disk until they are gone. No more
    /// than a quarter beyond `active_max`, and of an origin no more there than is left of that.
    fn goes_before(&self, wait: &Wait, origin: &Origin, message: &Message) -> bool {
        let Wait::Line(site) = wait else { return false };
        let Some(line) = self.lines.line(site) else { return false };
        let active_max = self.settings.active_max;
        let left = (active_max + active_max / 4).saturating_sub(self.entries.len());
        line.lowest().is_some_and(|lowest| lowest < message.priority()) && line.len_from(message.priority(), origin) < left
    }

    /// How many messages of each flow that is away may be here.
    fn allowance(&self) -> usize {
        (self.room() / (self.lines.away.flows() + 1)).clamp(1, CROWD_MIN)
    }

    /// Messages that are away and for which there is a place now.
    pub(super) fn recall(&mut self, now: Timestamp) -> Option<Vec<QueueId>> {
        let mut looks = 0;
        while looks < LOOKS_MAX {
            let flow = self.lines.away.next_open()?;
            let mut count = RECALLED_MAX;
            if let Wait::Line(site) = &flow.0 {
                // Whoever is put aside here isn't looked at again before something happens there: that is no look in vain.
                if let Some(until) = self.lines.down(now, site).map(|down| down.until) {
                    self.lines.away.rest(site, until);
                    continue;
                }
                let (here, allowance) = (self.lines.waiting_of(site, &flow.1), self.allowance());
                if here > LOW.min(allowance / 2) {
                    self.lines.away.close(&flow);
                    continue;
                }
                count = count.min(allowance - here);
            }
            if self.has_room(&flow.0, &flow.1) {
                return Some(self.lines.away.take(&flow, count));
            }
            looks += 1;
        }
        None
    }
}
