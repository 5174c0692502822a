//! Mail in the index that could be tried, and comes by itself only much later: what waits for a destination that was down and is back,
//! and, after a start, what waited for a place when the server stopped. Fetched in pages, so that other things come between; the scheduler
//! has a place for all of it. State: the domains that are back, and how far each search has come.

use std::collections::BTreeMap;

use super::delivery::Delivery;
use crate::mail::{Domain, Message, MessageState, QueueId, RecipientStatus, Timestamp, Update};
use crate::queue;
use crate::spool::Filter;

/// Messages in a page.
const PAGE: usize = 32;
/// Domains that are fetched for; mail of further ones comes at its own time.
const DOMAINS_MAX: usize = 1000;

/// See the module.
#[derive(Debug)]
pub(super) struct Awakening {
    /// After which message the next page begins.
    domains: BTreeMap<Domain, Option<QueueId>>,
    /// The same of mail that was never tried; none: all of it was looked at since the start.
    new: Option<Option<QueueId>>,
}

impl Awakening {
    /// That of a server that was just started.
    pub(super) fn new() -> Self {
        Self { domains: BTreeMap::new(), new: Some(None) }
    }

    /// These domains' destination is back. What goes by a route or to an LMTP server isn't found by a domain: it comes at its own time.
    pub(super) fn start(&mut self, domains: Vec<Domain>) {
        let room = DOMAINS_MAX.saturating_sub(self.domains.len());
        self.domains.extend(domains.into_iter().take(room).map(|domain| (domain, None)));
    }

    /// Theirs is down again.
    pub(super) fn stop(&mut self, domains: &[Domain]) {
        for domain in domains {
            self.domains.remove(domain);
        }
    }
}

impl Delivery {
    /// Whether there is something to fetch.
    pub(super) fn may_awaken(&self) -> bool {
        let wanted = self.awakening.new.is_some() || !self.awakening.domains.is_empty();
        wanted && !self.scheduler.paused().0
    }

    /// Fetches one page, if it may.
    pub(super) async fn awaken(&mut self) {
        if !self.may_awaken() {
            return;
        }
        if let Some(after) = self.awakening.new.take() {
            return self.awaken_new(after).await;
        }
        let Some((domain, after)) = self.awakening.domains.pop_first() else { return };
        let (state, limit) = (Some(MessageState::Deferred), Some(PAGE));
        let filter = Filter { domain: Some(domain.clone()), state, after, limit, ..Filter::default() };
        let page = match self.spool.list(&filter).await {
            Ok(page) => page,
            Err(error) => return self.trouble(None, "index", &error),
        };
        for message in &page {
            // One that goes to several of them is fetched once.
            let is_back = |other: &Domain| *other == domain || self.awakening.domains.contains_key(other);
            let update = awakened(message, is_back, self.now());
            self.awaken_one(message.id, update).await;
        }
        if let Some(last) = page.last() {
            self.awakening.domains.insert(domain, Some(last.id));
        }
    }

    /// Who was sent away before the start, for want of a place, is sent away again, or has one.
    async fn awaken_new(&mut self, after: Option<QueueId>) {
        let (state, limit) = (Some(MessageState::Active), Some(PAGE));
        let page = match self.spool.list(&Filter { state, after, limit, ..Filter::default() }).await {
            Ok(page) => page,
            Err(error) => return self.trouble(None, "index", &error),
        };
        let (now, retry) = (self.now(), &self.current.config.retry);
        let ready = |message: &&Message| queue::due_at(message, retry) <= now && self.scheduler.message(message.id).is_none();
        let ids: Vec<QueueId> = page.iter().filter(ready).map(|message| message.id).collect();
        self.recall(ids).await;
        self.awakening.new = page.last().map(|last| Some(last.id));
    }

    async fn awaken_one(&mut self, id: QueueId, update: Update) {
        if update.statuses.is_empty() {
            return;
        }
        match self.spool.take(id).await {
            Ok(Some(mut message)) => {
                message.apply(&update);
                self.spool.update(update);
                self.admit(message);
            }
            // The scheduler holds it, and knows by itself that the destination is back.
            Ok(None) => {}
            Err(error) => self.trouble(Some(id), "index", &error),
        }
    }
}

/// The recipients at these domains wait no longer, as far as they waited for the destination's sake.
fn awakened(message: &Message, is_back: impl Fn(&Domain) -> bool, now: Timestamp) -> Update {
    let mut update = Update::new(message.id);
    for (index, recipient) in (0u32..).zip(&message.recipients) {
        if is_back(recipient.address.domain()) && queue::waits_for_site(recipient, now) {
            update.statuses.push((index, RecipientStatus { next_attempt: now, ..recipient.status.clone() }));
        }
    }
    update
}
