//! Mail in the index that could be tried, and comes by itself only much later: what waits for a destination that was down and is back,
//! and, after a start, what waited for a place when the server stopped. Fetched in pages, so that other things come between; the scheduler
//! has a place for all of it. An index that is out of order is asked again soon. State: the domains that are back, how far each search has
//! come, and what couldn't be fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::delivery::Delivery;
use crate::mail::{Domain, Message, MessageState, QueueId, RecipientStatus, Timestamp, Update};
use crate::queue;
use crate::spool::{Filter, SpoolError};

/// Messages in a page.
const PAGE: usize = 32;
/// Domains that are fetched for; mail of further ones comes at its own time.
const DOMAINS_MAX: usize = 1000;
/// Messages that are called for again; further ones come at their own time.
const CALLED_MAX: usize = 100_000;
/// An index that is out of order is asked again after this time, each time twice as long,
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// and at the latest after this.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Awakening {
    /// After which message the next page begins.
    domains: BTreeMap<Domain, Option<QueueId>>,
    /// The same of mail that was never tried; none: all of it was looked at since the start.
    new: Option<Option<QueueId>>,
    /// The scheduler has a place for these, and they couldn't be fetched.
    called: BTreeSet<QueueId>,
    /// The index couldn't be asked: how often in a row, and when it is asked again.
    failed: Option<(u32, Timestamp)>,
}

impl Awakening {
    /// That of a server that was just started.
    pub(super) fn new() -> Self {
        Self { domains: BTreeMap::new(), new: Some(None), called: BTreeSet::new(), failed: None }
    }

    /// These domains' destination is back. What goes by a route or to an LMTP server isn't found by a domain: it comes at its own time.
    pub(super) fn start(&mut self, domains: Vec<Domain>) {
        let room = DOMAINS_MAX.saturating_sub(self.domains.len());
        self.domains.extend(domains.into_iter().take(room).map(|domain| (domain, None)));
    }

    /// These couldn't be fetched, though there is a place for them.
    fn call_again(&mut self, ids: Vec<QueueId>) {
        let room = CALLED_MAX.saturating_sub(self.called.len());
        self.called.extend(ids.into_iter().take(room));
    }

    /// Those that are called for again, so many at the most.
    fn called(&mut self) -> Vec<QueueId> {
        std::iter::from_fn(|| self.called.pop_first()).take(PAGE).collect()
    }

    /// The index couldn't be asked.
    fn fails(&mut self, now: Timestamp) {
        let times = self.failed.map_or(0, |(times, _)| times);
        let wait = AGAIN_MIN.saturating_mul(1 << times.min(10)).min(AGAIN_MAX);
        self.failed = Some((times + 1, now.plus(wait)));
    }

    /// When there is something to fetch; none: there is nothing. A clock that was set back makes nobody wait for long.
    fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let wanted = self.new.is_some() || !self.called.is_empty() || !self.domains.is_empty();
        let from = self.failed.map_or(now, |(_, until)| until.min(now.plus(AGAIN_MAX)));
        wanted.then_some(from.max(now))
    }

    /// Theirs is down again.
    pub(super) fn stop(&mut self, domains: &[Domain]) {
        for domain in domains {
            self.domains.remove(domain);
        }
    }
}

impl Delivery {
    /// When there is something to fetch, if there is.
    pub(super) fn awakens_at(&self) -> Option<Timestamp> {
        self.awakening.due(self.now()).filter(|_| !self.scheduler.is_still())
    }

    /// Fetches one page, if it may.
    pub(super) async fn awaken(&mut self) {
        if self.awakens_at().is_none_or(|at| at > self.now()) {
            return;
        }
        let called = self.awakening.called();
        if !called.is_empty() {
            return self.recall(called).await;
        }
        if let Some(after) = self.awakening.new.take() {
            return self.awaken_new(after).await;
        }
        let Some((domain, after)) = self.awakening.domains.pop_first() else { return };
        match self.awaken_page(&domain, after).await {
            Ok(Some(last)) => _ = self.awakening.domains.insert(domain, Some(last)),
            Ok(None) => {}
            Err(error) => {
                self.awakening.domains.insert(domain, after);
                self.index_fails(&error);
            }
        }
    }

    /// Admits messages that the scheduler calls for; those that can't be fetched are called for again.
    pub(super) async fn recall(&mut self, ids: Vec<QueueId>) {
        let taken = self.spool.take_all(ids.clone()).await;
        let (messages, failure) = taken.unwrap_or_else(|error| (Vec::new(), Some(error)));
        messages.into_iter().for_each(|message| self.admit(message));
        self.scheduler.fetched(failure.is_none());
        match failure {
            None => self.awakening.failed = None,
            Some(error) => {
                self.awakening.call_again(ids);
                self.index_fails(&error);
            }
        }
    }

    fn index_fails(&mut self, error: &SpoolError) {
        self.awakening.fails(self.now());
        self.trouble(None, "index", error);
    }

    /// What waits for a domain's destination, behind this message; the last of them, if there may be more.
    async fn awaken_page(&mut self, domain: &Domain, after: Option<QueueId>) -> Result<Option<QueueId>, SpoolError> {
        // Whatever its state is: that of a message with a recipient who was never tried doesn't tell that another one was.
        let filter = Filter { domain: Some(domain.clone()), after, limit: Some(PAGE), ..Filter::default() };
        let page = self.spool.list(&filter).await?;
        for message in page.iter().filter(|message| !message.held) {
            // One that goes to several of them is fetched once; what leaves from another address may still wait.
            let is_back = |other: &Domain| {
                (other == domain || self.awakening.domains.contains_key(other))
                    && !self.scheduler.is_down(other, &message.reverse_path)
            };
            let update = awakened(message, is_back, self.now());
            self.awaken_one(message.id, update).await?;
        }
        self.awakening.failed = None;
        Ok(page.last().map(|last| last.id))
    }

    /// Who was sent away before the start, for want of a place, is sent away again, or has one.
    async fn awaken_new(&mut self, after: Option<QueueId>) {
        let (state, limit) = (Some(MessageState::Active), Some(PAGE));
        let page = match self.spool.list(&Filter { state, after, limit, ..Filter::default() }).await {
            Ok(page) => page,
            Err(error) => {
                self.awakening.new = Some(after);
                return self.index_fails(&error);
            }
        };
        let (now, retry) = (self.now(), &self.current.config.retry);
        let ready = |message: &&Message| queue::due_at(message, retry) <= now && self.scheduler.message(message.id).is_none();
        let ids: Vec<QueueId> = page.iter().filter(ready).map(|message| message.id).collect();
        self.awakening.new = page.last().map(|last| Some(last.id));
        self.recall(ids).await;
    }

    async fn awaken_one(&mut self, id: QueueId, update: Update) -> Result<(), SpoolError> {
        if update.statuses.is_empty() {
            return Ok(());
        }
        // One that is active the scheduler holds, and knows by itself that the destination is back.
        if let Some(mut message) = self.spool.take(id).await? {
            message.apply(&update);
            self.spool.update(update);
            self.admit(message);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_out_of_order_is_asked_again_soon_and_then_less_often() {
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        let mut awakening = Awakening { new: None, ..Awakening::new() };
        awakening.fails(at(0));
        assert_eq!(awakening.due(at(0)), None, "nothing is wanted");
        awakening.call_again((1..=40).map(QueueId).collect());
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(awakening.due(at(0)).unwrap().since(at(0)).as_secs());
            awakening.fails(at(0));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(awakening.due(at(100)), Some(at(100)));
        awakening.fails(at(5000));
        assert_eq!(awakening.due(at(0)), Some(at(60)), "the clock was set back");
        assert_eq!([awakening.called().len(), awakening.called().len(), awakening.called().len()], [PAGE, 40 - PAGE, 0]);
        awakening.call_again((0..200_000).map(QueueId).collect());
        assert_eq!(awakening.called.len(), CALLED_MAX);
    }
}
