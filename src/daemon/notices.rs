//! Notices under way: each is written and committed beside the delivery loop, so that those of one moment share a commit and nobody waits
//! for them. State: the tasks, and what each is about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::task::{self, JoinSet};

use super::current::Current;
use super::delivery::Delivery;
use super::report;
use crate::config::{Config, NoticeTo};
use crate::deliver::read_header;
use crate::event::{Event, NoticeKind};
use crate::mail::{Address, Arrival, Destination, Message, Origin, QueueId, Recipient, Ret, ReversePath, Timestamp, Update};
use crate::notice::{self, Context, Digest, Notice, Returned, Success};
use crate::route::Route;
use crate::spool::{Accept, Spool, SpoolError};
use crate::system::Clock;

/// Notices under way at a time; each has up to two copies of `RETURN_SIZE_MAX` in memory.
pub(super) const NOTICES_MAX: usize = 64;
/// As much of the original's header is read for a notice; octets.
const HEADER_SIZE_MAX: usize = 64 * 1024;
/// Longer messages don't go back whole, whatever the sender asked for; octets.
const RETURN_SIZE_MAX: u64 = 100 * 1024;
/// Octets read at a time.
const CHUNK_SIZE: usize = 16 * 1024;

/// A notice to be written: about whom of which message, and what becomes durable with it.
#[derive(Clone)]
pub(super) struct Order {
    /// What it is about, with `update` carried out.
    pub(super) message: Message,
    pub(super) saying: Saying,
    /// Recipients, by index.
    pub(super) told: Vec<u32>,
    pub(super) update: Update,
}

/// What a notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saying {
    /// It has failed; with the kind, by whom it is to be read.
    Failed(NoticeKind),
    /// It is late, and tried until then.
    Late { expires: Timestamp },
    /// It has arrived, or was passed on.
    Done(Success),
    /// The same, after a delay.
    DelayOver(Success),
}

impl Saying {
    fn kind(self) -> NoticeKind {
        match self {
            Self::Failed(kind) => kind,
            Self::Late { .. } => NoticeKind::Delay,
            Self::Done(_) => NoticeKind::Success,
            Self::DelayOver(_) => NoticeKind::DelayOver,
        }
    }
}

/// The tasks under way. At most one is about a message, so that its notices keep their order.
#[derive(Default)]
pub(super) struct Notices {
    tasks: JoinSet<Written>,
    orders: HashMap<task::Id, Order>,
    about: BTreeSet<QueueId>,
}

/// How a notice has come to its end.
type Written = Result<Told, SpoolError>;

/// Who was told.
pub(super) enum Told {
    /// This address, by this message.
    By(Arc<Message>, Address),
    /// Nobody: there is no sender.
    Nobody,
    /// Nobody: the sender isn't known here.
    NoStranger(Address),
}

impl Notices {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The next one that has come to its end, and what it was about; none when there are none.
    pub(super) async fn next(&mut self) -> Option<(Order, Written)> {
        let (id, written) = match self.tasks.join_next_with_id().await? {
            Ok((id, written)) => (id, written),
            Err(bug) => (bug.id(), Err(SpoolError::Io(bug.to_string()))),
        };
        let order = self.orders.remove(&id)?;
        self.about.remove(&order.message.id);
        Some((order, written))
    }

    /// Whether there is one about this message.
    pub(super) fn is_about(&self, id: QueueId) -> bool {
        self.about.contains(&id)
    }

    /// Whether another about this message has to wait.
    fn is_full_for(&self, id: QueueId) -> bool {
        self.tasks.len() >= NOTICES_MAX || self.about.contains(&id)
    }

    fn start(&mut self, writer: Writer, order: Order) {
        self.about.insert(order.message.id);
        let writing = order.clone();
        let task = self.tasks.spawn(async move { writer.write(&writing).await });
        self.orders.insert(task.id(), order);
    }
}

impl Delivery {
    /// Has a notice written. The scheduler keeps the message until it is.
    pub(super) async fn order(&mut self, order: Order) {
        while self.notices.is_full_for(order.message.id)
            && let Some((order, written)) = self.notices.next().await
        {
            self.written(order, written);
        }
        self.notices.start(self.writer(), order);
    }

    /// Writes notices while the loop waits, all at a time: for who asked for them and is told how that went. In the order of the orders.
    pub(super) async fn write_now(&mut self, orders: Vec<Order>) -> Vec<Result<(), SpoolError>> {
        let mut tasks = Notices::default();
        let mut results: BTreeMap<QueueId, Result<(), SpoolError>> = BTreeMap::new();
        let ids: Vec<QueueId> = orders.iter().map(|order| order.message.id).collect();
        for order in orders {
            tasks.start(self.writer(), order);
        }
        while let Some((order, written)) = tasks.next().await {
            let result = written.map(|told| self.announce(&order, told));
            results.insert(order.message.id, result);
        }
        let lost = || Err(SpoolError::Io("the notice was given up".to_owned()));
        ids.into_iter().map(|id| results.remove(&id).unwrap_or_else(lost)).collect()
    }

    /// Waits for what is under way about a message.
    pub(super) async fn notices_about(&mut self, id: QueueId) {
        while self.notices.is_about(id)
            && let Some((order, written)) = self.notices.next().await
        {
            self.written(order, written);
        }
    }

    /// A notice has come to its end.
    pub(super) fn written(&mut self, order: Order, written: Written) {
        let id = order.message.id;
        match written {
            Ok(written) => self.announce(&order, written),
            Err(error) => {
                self.trouble(Some(id), order.saying.kind().as_str(), &error);
                match order.saying {
                    // It is found again later, as it was before.
                    Saying::Failed(_) | Saying::Late { .. } => return self.rest(id),
                    // What happened is recorded even if nobody can be told.
                    Saying::Done(_) | Saying::DelayOver(_) => self.record(order.update.clone()),
                }
            }
        }
        if order.saying != Saying::Done(Success::Expanded) {
            return self.scheduler.noticed(id);
        }
        // Only now is it what it was expanded into; unless an order came in between.
        report::expansions(&self.events, &order.message, &order.update);
        if let Some(message) = self.spool.active(id) {
            self.admit(Arc::unwrap_or_clone(message));
        }
    }

    fn announce(&mut self, order: &Order, told: Told) {
        let (id, kind) = (order.message.id, order.saying.kind());
        match told {
            Told::By(message, to) => {
                self.events.report(Event::Notified { id, notice: message.id, kind, to, recipients: order.told.len() });
                return self.admit(Arc::unwrap_or_clone(message));
            }
            Told::NoStranger(sender) => {
                self.digest.add(sender.domain(), self.now());
                let reason = "the sender is not known here (notice.to)".to_owned();
                self.events.report(Event::Unnotified { id, to: Some(sender), reason });
            }
            Told::Nobody => {}
        }
        self.record(order.update.clone());
    }

    /// Tells the postmaster, when it is time, how many notices weren't sent.
    pub(super) async fn tell_digest(&mut self) {
        if self.digest_due().is_some_and(|due| due <= self.now()) {
            self.send_digest().await;
        }
    }

    /// When the postmaster is to be told; none if there is nothing to tell.
    pub(super) fn digest_due(&self) -> Option<Timestamp> {
        let period = self.current.config.notice.digest;
        (!period.is_zero() && !self.digest.is_empty()).then(|| self.digest.waits_from().plus(period))
    }

    /// The same at once, so that a stop forgets nothing.
    pub(super) async fn send_digest(&mut self) {
        if self.digest.is_empty() || self.current.config.notice.digest.is_zero() {
            return;
        }
        let writer = self.writer();
        let notice = self.digest.notice(&writer.context);
        let to = notice.to.clone();
        match writer.commit(notice, Vec::new()).await {
            Ok(message) => {
                self.digest = Digest::new(self.now());
                let (id, kind) = (message.id, NoticeKind::Digest);
                self.events.report(Event::Notified { id, notice: id, kind, to, recipients: 0 });
                self.admit(Arc::unwrap_or_clone(message));
            }
            Err(error) => {
                self.trouble(None, "digest", &error);
                self.digest.wait_from(self.now());
            }
        }
    }

    fn record(&self, update: Update) {
        if update != Update::new(update.id) {
            self.spool.update(update);
        }
    }

    fn writer(&self) -> Writer {
        let config = &self.current.config;
        let context = Context {
            hostname: config.hostname.clone(),
            postmaster: config.postmaster.clone(),
            now: self.system.clock.now(),
            seed: self.system.entropy.next_u64(),
            languages: Arc::clone(&self.current.languages),
        };
        let (clock, current) = (Arc::clone(&self.system.clock), Arc::clone(&self.current));
        Writer { spool: self.spool.clone(), clock, context, current }
    }
}

/// What a notice is written with.
struct Writer {
    spool: Spool,
    clock: Arc<dyn Clock>,
    context: Context,
    current: Arc<Current>,
}

impl Writer {
    async fn write(&self, order: &Order) -> Written {
        let Order { message, saying, told, .. } = order;
        let original = match saying {
            Saying::Failed(_) => self.original(message).await,
            _ => Original { octets: self.header(message.id).await, whole: false },
        };
        if let Some(sender) = message.reverse_path.address().filter(|sender| !self.may_tell(sender, message, &original.octets)) {
            return Ok(Told::NoStranger(sender.clone()));
        }
        let notice = match *saying {
            Saying::Failed(_) => notice::bounce(&self.context, message, told, original.returned()),
            Saying::Late { expires } => notice::delay(&self.context, message, told, expires, &original.octets),
            Saying::Done(what) => notice::success(&self.context, message, told, what, &original.octets),
            Saying::DelayOver(what) => notice::delay_over(&self.context, message, told, what, &original.octets),
        };
        let Some(notice) = notice else { return Ok(Told::Nobody) };
        let to = notice.to.clone();
        Ok(Told::By(self.commit(notice, vec![order.update.clone()]).await?, to))
    }

    /// Whether this sender of a message that begins so may get notices.
    fn may_tell(&self, sender: &Address, message: &Message, header: &[u8]) -> bool {
        let Config { notice, relay, .. } = &*self.current.config;
        // The spool knows of a login even when it can't give the header.
        if notice.to == NoticeTo::Everyone || message.origin.as_deref().is_some_and(Origin::is_login) {
            return true;
        }
        let is_trusted = |client: IpAddr| relay.networks.iter().any(|network| network.contains(&client.to_canonical()));
        // Damage on our side is no reason for silence, but towards those whom the spool knows to have come from elsewhere.
        if header.is_empty() {
            let from = message.origin.as_deref().and_then(Origin::network);
            let overlaps = |network: &IpNet| from.is_some_and(|from| network.contains(&from) || from.contains(network));
            if from.is_none() || relay.networks.iter().any(overlaps) {
                return true;
            }
        }
        match Arrival::read(header, message.id) {
            Some(Arrival { client: None, .. } | Arrival { logged_in: true, .. }) => true,
            Some(Arrival { client: Some(client), .. }) if is_trusted(client) => true,
            _ => match self.current.router.route(&ReversePath::Null, sender) {
                Route::Alias(_) | Route::Deliver(Destination::Local(_) | Destination::Lmtp(_)) => true,
                Route::Deliver(_) | Route::Unknown => false,
            },
        }
    }

    /// Spools a notice as a new message with null reverse-path.
    async fn commit(&self, notice: Notice, updates: Vec<Update>) -> Result<Arc<Message>, SpoolError> {
        let arrived = self.clock.now();
        let mut draft = self.spool.begin_notice()?;
        draft.write(&notice.content).await?;
        let accept = Accept {
            arrived,
            reverse_path: ReversePath::Null,
            body: notice.body,
            request: notice.request,
            origin: None,
            recipients: vec![Recipient::new(notice.to, None, arrived)],
            updates,
        };
        draft.commit(accept).await
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
    async fn header(&self, id: QueueId) -> Vec<u8> {
        let Ok(content) = self.spool.content(id).await else { return Vec::new() };
        read_header(&*content, HEADER_SIZE_MAX).await.header().to_vec()
    }
}

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
