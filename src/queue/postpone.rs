//! Mail for a destination that is down: put off without an attempt, with the destination's trouble as the reason that an admin reads.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entry::Stage;
use super::health::{Down, News};
use super::scheduler::Scheduler;
use super::step::Step;
use crate::config::Retry;
use crate::mail::{
    Cause, Destination, Domain, Message, QueueId, Recipient, RecipientState, RecipientStatus, ReversePath, Site, Timestamp,
    Update,
};

impl Scheduler {
    /// Whoever has this message tried wants it tried now: nothing is held against its destinations.
    pub fn forgive(&mut self, destinations: impl IntoIterator<Item = Destination>) {
        for destination in destinations {
            if let Some(site) = self.sites.at(self.clock, &destination) {
                self.lines.parts(&site).iter().for_each(|part| self.lines.forgive(part));
            }
        }
    }

    /// Whether a sender's mail for a domain goes where nothing can be reached now: what else goes to the domain may have another way.
    pub fn is_down(&self, domain: &Domain, sender: &ReversePath) -> bool {
        let site = self.sites.last_of(&Destination::Mx(domain.clone()), sender);
        site.is_some_and(|site| self.lines.down(self.clock, &site).is_some())
    }

    /// What the end of an attempt says of the site means for those who wait for it.
    pub(super) fn heard(&mut self, now: Timestamp, site: &Site, news: News, random: f64) {
        if !site.is_remote() {
            return;
        }
        match news {
            News::Nothing => {}
            News::Reached => {
                if let Some(down) = self.lines.reached(site) {
                    let domains = self.sites.domains(site);
                    self.awaken(now, &domains);
                    self.steps.push_back(Step::Up { site: site.clone(), domains, down });
                }
            }
            News::Unreached(why) => {
                if let Some(down) = self.lines.failed(now, site, why, &self.settings.retry, random) {
                    let domains = self.sites.domains(site);
                    self.steps.push_back(Step::Down { site: site.clone(), domains, down });
                    for waiting in self.lines.waiting(site) {
                        self.refresh(now, waiting.id);
                    }
                }
            }
        }
    }

    /// These domains' destination is back: who is here for others' sake, and waits for it, waits no longer.
    pub(super) fn awaken(&mut self, now: Timestamp, domains: &[Domain]) {
        let mut awake = Vec::new();
        let domains: BTreeSet<&Domain> = domains.iter().collect();
        let waits = |recipient: &Recipient| waits_for_site(recipient, now) && domains.contains(recipient.address.domain());
        for (id, entry) in &self.entries {
            let Message { recipients, reverse_path, .. } = &entry.message;
            let mut in_flight: Option<BTreeSet<u32>> = None;
            for (index, recipient) in (0u32..).zip(recipients).filter(|(_, recipient)| waits(recipient)) {
                let in_flight = in_flight.get_or_insert_with(|| entry.in_flight().collect());
                if !in_flight.contains(&index) && !self.is_down(recipient.address.domain(), reverse_path) {
                    awake.push((*id, index));
                }
            }
        }
        for (id, index) in &awake {
            let recipient = self.entries.get_mut(id).and_then(|entry| entry.message.recipients.get_mut(*index as usize));
            if let Some(recipient) = recipient {
                recipient.status.next_attempt = now;
            }
        }
        let ids: BTreeSet<QueueId> = awake.into_iter().map(|(id, _)| id).collect();
        for id in ids {
            self.refresh(now, id);
        }
    }

    /// Puts off those recipients of a message, for one destination or for all, that are ready for a site that is down.
    pub(super) fn postpone(&mut self, now: Timestamp, id: QueueId, only: Option<&Destination>) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.forgotten && !entry.message.held) else { return };
        for (destination, part) in entry.parts.iter().filter(|(destination, _)| only.is_none_or(|only| only == *destination)) {
            let site = match &part.stage {
                Stage::Waiting(site, _) => Some(site.clone()),
                _ => self.sites.of(now, destination, &entry.message.reverse_path),
            };
            let Some(site) = site else { continue };
            let Some(down) = self.lines.down(now, &site) else { continue };
            let ready = part.ready_now(&entry.message, &self.paused_domains, now);
            let update = postponed(&entry.message, &ready, down, &self.settings.retry, now);
            if !update.statuses.is_empty() {
                entry.message.apply(&update);
                self.steps.push_back(Step::Postpone { id, destination: destination.clone(), update });
            }
        }
    }
}

/// Whether a recipient waits because its destination couldn't be reached: what the host itself put off keeps its time.
pub fn waits_for_site(recipient: &Recipient, now: Timestamp) -> bool {
    let status = &recipient.status;
    recipient.is_open() && status.next_attempt > now && matches!(status.last_cause, Some(Cause::Connection | Cause::Dns))
}

/// These recipients wait until the destination is tried again, and as long as they have waited already: so the mail of a long
/// outage doesn't come back all at once, again and again.
fn postponed(message: &Message, recipients: &[u32], down: &Down, retry: &Retry, now: Timestamp) -> Update {
    let age = now.since(message.arrived).clamp(retry.first.min(retry.max), retry.max);
    // Spread by what is random in the id.
    let share = retry.jitter.clamp(0.0, 1.0) * (2.0 * (message.id.0 % 1024) as f64 / 1024.0 - 1.0);
    let wait = Duration::try_from_secs_f64(age.as_secs_f64() * (1.0 + share)).unwrap_or(age);
    let next_attempt = now.plus(wait).max(down.until);
    let mut update = Update::new(message.id);
    for index in recipients {
        let Some(recipient) = message.recipients.get(*index as usize) else { continue };
        let status = RecipientStatus {
            state: RecipientState::Deferred,
            next_attempt,
            last_status: Some(down.why.status),
            // What a host said in place of a greeting wasn't said of this message, which needn't wait once the host is back.
            last_cause: Some(if down.why.turned_away { Cause::Connection } else { down.why.cause }),
            last_reply: format!("not tried, its destination can't be reached: {}", down.why.text),
            next_hop: down.why.next_hop.clone(),
            ..recipient.status.clone()
        };
        update.statuses.push((*index, status));
    }
    update
}
