//! Notices and operator verbs: a notice and the states that it speaks of become durable together.

use std::sync::Arc;

use crate::event::{Event, NoticeKind};
use crate::mail::{HeaderScan, Message, QueueId, Recipient, Ret, ReversePath, Update};
use crate::notice::{self, Addressee, Context, Notice, Returned, Topic};
use crate::queue::{Verb, expires_at};
use crate::spool::{Accept, SpoolError};

use super::delivery::Delivery;

/// As much of the original's header is read for a notice; octets.
const HEADER_SIZE_MAX: usize = 64 * 1024;
/// Longer messages don't go back whole, whatever the sender asked for; octets.
const RETURN_SIZE_MAX: u64 = 100 * 1024;
/// Octets read at a time.
const CHUNK_SIZE: usize = 16 * 1024;

/// What was read of the message that a bounce is about.
struct Original {
    octets: Vec<u8>,
    whole: bool,
}

impl Original {
    fn returned(&self) -> Returned<'_> {
        if self.whole { Returned::Whole(&self.octets) } else { Returned::Header(&self.octets) }
    }
}

impl Delivery {
    /// Tells whom it concerns that these recipients failed, and records `update` with it. If that can't be stored the message
    /// rests and the failure is found again later, but what else `update` says is recorded: then this is false.
    pub(super) async fn bounce(&mut self, message: &Message, update: Update, failed: &[u32]) -> bool {
        let done = self.try_bounce(message, update.clone(), failed).await;
        if let Err(error) = &done {
            self.trouble(Some(message.id), "bounce", error);
            let mut rest = update;
            rest.statuses.retain(|(index, _)| !failed.contains(index));
            self.spool.update(rest);
            self.rest(message.id);
        }
        done.is_ok()
    }

    async fn try_bounce(&mut self, message: &Message, update: Update, failed: &[u32]) -> Result<(), SpoolError> {
        let context = self.context();
        let told = notice::wanted(message, failed.iter().copied(), Topic::Failure);
        if told.is_empty() {
            self.unnotified(message, failed, "the sender asked not to be told");
            self.spool.update(update);
            return Ok(());
        }
        let original = self.original(message).await;
        let Some(notice) = notice::bounce(&context, message, &told, original.returned()) else {
            self.unnotified(message, &told, "a notice that not even the postmaster takes");
            self.spool.update(update);
            return Ok(());
        };
        let kind = match notice::addressee(message, &told, &context.postmaster) {
            Some(Addressee::Postmaster(_)) => NoticeKind::DoubleBounce,
            _ => NoticeKind::Bounce,
        };
        self.submit(message.id, kind, notice, update, told.len()).await
    }

    fn unnotified(&self, message: &Message, failed: &[u32], reason: &str) {
        let first = failed.first().and_then(|index| message.recipients.get(*index as usize));
        let to = first.map(|recipient| recipient.address.clone());
        self.events.report(Event::Unnotified { id: message.id, to, reason: reason.to_owned() });
    }

    /// Tells the sender that these recipients still wait, and records `update` with it.
    pub(super) async fn tell_delay(&mut self, message: &Message, update: Update, late: &[u32]) -> bool {
        let context = self.context();
        let topic = if update.deadline_told { Topic::Deadline } else { Topic::Delay };
        let late = notice::wanted(message, late.iter().copied(), topic);
        let header = self.header(message.id).await;
        let expires = expires_at(message, &self.current.config.retry);
        let notice = notice::delay(&context, message, &late, expires, &header);
        let Some(notice) = notice.filter(|_| !late.is_empty()) else {
            self.spool.update(update);
            return true;
        };
        let done = self.submit(message.id, NoticeKind::Delay, notice, update, late.len()).await;
        if let Err(error) = &done {
            self.trouble(Some(message.id), "delay notice", error);
            self.rest(message.id);
        }
        done.is_ok()
    }

    pub(super) fn context(&self) -> Context {
        let config = &self.current.config;
        Context {
            hostname: config.hostname.clone(),
            postmaster: config.postmaster.clone(),
            now: self.system.clock.now(),
            seed: self.system.entropy.next_u64(),
            languages: Arc::clone(&self.current.languages),
        }
    }

    /// Spools a notice as a new message with null reverse-path.
    pub(super) async fn submit(
        &mut self,
        about: QueueId,
        kind: NoticeKind,
        notice: Notice,
        update: Update,
        recipients: usize,
    ) -> Result<(), SpoolError> {
        let arrived = self.system.clock.now();
        let mut draft = self.spool.begin_notice()?;
        draft.write(&notice.content).await?;
        let accept = Accept {
            arrived,
            reverse_path: ReversePath::Null,
            body: notice.body,
            request: notice.request,
            recipients: vec![Recipient::new(notice.to.clone(), None, arrived)],
            updates: vec![update],
        };
        let message = draft.commit(accept).await?;
        self.events.report(Event::Notified { id: about, notice: message.id, kind, to: notice.to, recipients });
        self.admit(message);
        Ok(())
    }

    /// What a bounce brings back: everything, if the sender wants that and it isn't long.
    async fn original(&self, message: &Message) -> Original {
        // What only goes over TLS doesn't come back in other notices than those that name it (RFC 8689 section 5).
        let full = message.request.as_ref().is_some_and(|request| request.ret == Some(Ret::Full) && !request.require_tls);
        if full
            && message.size <= RETURN_SIZE_MAX
            && let Some(content) = self.whole(message.id).await
        {
            return Original { octets: content, whole: true };
        }
        Original { octets: self.header(message.id).await, whole: false }
    }

    /// All of a short message; `None` if it can't be read.
    async fn whole(&self, id: QueueId) -> Option<Vec<u8>> {
        let content = self.spool.content(id).await.ok()?;
        let mut whole = Vec::new();
        while (whole.len() as u64) < content.size() {
            let chunk = content.read_at(whole.len() as u64, CHUNK_SIZE).await.ok()?;
            whole.extend_from_slice(Some(&chunk).filter(|chunk| !chunk.is_empty())?);
        }
        Some(whole)
    }

    /// The original's header block, as far as it can be read: a notice without it is better than none.
    pub(super) async fn header(&self, id: QueueId) -> Vec<u8> {
        let mut scan = HeaderScan::new(HEADER_SIZE_MAX);
        let Ok(content) = self.spool.content(id).await else { return Vec::new() };
        let mut offset = 0;
        while !scan.is_complete() {
            match content.read_at(offset, CHUNK_SIZE).await {
                Ok(chunk) if !chunk.is_empty() => {
                    scan.receive(&chunk);
                    offset += chunk.len() as u64;
                }
                _ => break,
            }
        }
        scan.header().to_vec()
    }

    /// An operator verb on one message: whether it changed something; none if there is no such message.
    pub(super) async fn change_one(&mut self, verb: Verb, id: QueueId) -> Result<Option<bool>, SpoolError> {
        if let Some(message) = self.scheduler.message(id).cloned() {
            return self.change_message(verb, message).await.map(Some);
        }
        if let Some(message) = self.spool.take(id).await? {
            // It goes back into the index, and comes from there when there is room: an order about a long queue fills no memory.
            let changed = self.change_message(verb, message.clone()).await;
            if !matches!(changed, Ok(true)) {
                self.settle_away(&message);
            }
            return changed.map(Some);
        }
        // Just accepted and on its way here, or on its way out.
        match self.spool.message(id).await? {
            Some(message) => self.change_message(verb, message).await.map(Some),
            None => Ok(None),
        }
    }

    async fn change_message(&mut self, verb: Verb, mut message: Message) -> Result<bool, SpoolError> {
        let (id, now) = (message.id, self.system.clock.now());
        let Some(update) = verb.update(&message, &self.scheduler.in_flight(id), now) else { return Ok(false) };
        let touched: Vec<u32> = update.statuses.iter().map(|(index, _)| *index).collect();
        message.apply(&update);
        if verb == Verb::Bounce {
            self.try_bounce(&message, update.clone(), &touched).await?;
        } else {
            self.spool.update(update.clone());
        }
        let from = message.reverse_path.clone();
        self.events.report(match verb {
            Verb::Retry => Event::Retried { id },
            Verb::Hold => Event::Held { id },
            Verb::Release => Event::Released { id },
            Verb::Bounce => Event::Bounced { id, from, recipients: touched.len() },
            Verb::Remove => Event::Removed { id, from, recipients: touched.len() },
        });
        if matches!(verb, Verb::Retry | Verb::Release) {
            // An admin's word counts for more than the memory of a destination that was down.
            let destinations = self.current.router.plan(&message, now).destinations;
            self.scheduler.forgive(destinations.into_iter().map(|(_, destination)| destination));
        }
        if !self.scheduler.change(now, &update) {
            self.settle_away(&message);
        }
        Ok(true)
    }

    /// What becomes of a changed message that isn't in the scheduler.
    fn settle_away(&mut self, message: &Message) {
        if message.is_done() {
            self.spool.done(message.id);
        } else {
            self.park(message.id, crate::queue::due_at(message, &self.current.config.retry));
        }
    }
}
