//! One attempt: a message, one destination, some recipients in; an outcome for each recipient out.
//!
//! Never retries by itself and never touches the spool: the delivery loop in `daemon` records what comes out of here.

mod connection;
mod connections;
mod convert;
mod fitting;
mod header;
mod hosts;
mod ipv6;
mod lane;
mod listings;
mod mailbox;
mod maildir;
mod open;
mod passwords;
mod remote;
mod returned;
mod waiver;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Outgoing, Quota, Source};
use crate::event::Events;
use crate::mail::{
    Address, BodyType, Destination, Domain, Forward, Outcome, OwnMark, QueueId, Request, ReversePath, Site, Timestamp,
};
use crate::route::{Host, Router, Way};
use crate::system::{BoxFuture, Content, System, TlsClient};

use connections::Connections;
pub use header::read_header;

/// What an attempt asks about its destination.
pub trait Routes: Send + Sync {
    /// Hosts for this sender's mail in the order in which they are to be tried; not empty. An outcome where there can't be any.
    fn hosts<'a>(&'a self, destination: &'a Destination, sender: &'a ReversePath) -> BoxFuture<'a, Result<Vec<Host>, Outcome>>;
    /// How they are called.
    fn way(&self, destination: &Destination, sender: &ReversePath) -> Way;
    /// The Maildir of a local address. An outcome where there is none.
    fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome>;
    /// What that may hold, where it isn't the same for its whole domain.
    fn quota(&self, address: &Address) -> Option<u64>;
}

impl Routes for Router {
    fn hosts<'a>(&'a self, destination: &'a Destination, sender: &'a ReversePath) -> BoxFuture<'a, Result<Vec<Host>, Outcome>> {
        Box::pin(self.hosts(destination, sender))
    }

    fn way(&self, destination: &Destination, sender: &ReversePath) -> Way {
        self.way(destination, sender)
    }

    fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome> {
        self.maildir(address)
    }

    fn quota(&self, address: &Address) -> Option<u64> {
        self.quota(address)
    }
}

/// One try: what, where to, for whom.
pub struct Attempt {
    /// The message's name.
    pub id: QueueId,
    /// Where notices about it go.
    pub reverse_path: ReversePath,
    /// What its sender declared about its content.
    pub body: BodyType,
    /// It is a notice of our own, which no bound holds up.
    pub is_notice: bool,
    /// What else its sender asked for.
    pub request: Option<Box<Request>>,
    /// When it was accepted: what the sender asked for counts from there.
    pub arrived: Timestamp,
    /// Where it goes now.
    pub destination: Destination,
    /// Whose connections it may use: several destinations may share them.
    pub site: Site,
    /// What bounds these; not for notices.
    pub outgoing: Outgoing,
    /// Which of our own addresses it may leave from, one of each family, where what leaves from them is bounded; none: any of the route's.
    pub sources: Vec<Source>,
    /// Index in the message, and what RCPT says.
    pub recipients: Vec<(u32, Forward)>,
    /// There may have been an attempt before, also one that nobody recorded.
    pub again: bool,
    /// Its bytes.
    pub content: Arc<dyn Content>,
}

/// What an attempt came to.
#[derive(Debug)]
pub struct Attempted {
    /// One outcome for each recipient, in their order; all of them, unless `connections_from` says why not.
    pub outcomes: Vec<(u32, Outcome)>,
    /// A connection would have been needed that may not be made before this time: the recipients without outcome were not attempted.
    pub connections_from: Option<Timestamp>,
    /// It is this address of ours that none may be made from.
    pub full_source: Option<IpAddr>,
}

impl From<Vec<(u32, Outcome)>> for Attempted {
    fn from(outcomes: Vec<(u32, Outcome)>) -> Self {
        Self { outcomes, connections_from: None, full_source: None }
    }
}

/// What was learnt from deliveries and holds whatever the configuration says: the next deliverer goes on with it.
#[derive(Clone, Default)]
pub struct Memory {
    hosts: Arc<hosts::Hosts>,
    meters: Arc<connections::Meters>,
    passwords: Arc<passwords::Passwords>,
    open: Arc<open::Open>,
}

/// Carries attempts out. Cheap to share; its state is the idle connections, what is known of hosts, and the mailbox folders known to exist.
pub struct Deliverer {
    config: Arc<Config>,
    routes: Arc<dyn Routes>,
    system: System,
    events: Events,
    tls: Arc<dyn TlsClient>,
    connections: Arc<Connections>,
    passwords: Arc<passwords::Passwords>,
    mark: Arc<OwnMark>,
    hosts: Arc<hosts::Hosts>,
    mailboxes: Arc<mailbox::Mailboxes>,
    lanes: lane::Lanes,
    /// How much Maildirs may hold.
    quotas: BTreeMap<Domain, Quota>,
}

impl Deliverer {
    /// A deliverer with no connections yet. `remote.concurrency` bounds the idle ones too.
    pub fn new(
        config: Arc<Config>,
        routes: Arc<dyn Routes>,
        system: System,
        events: Events,
        mark: Arc<OwnMark>,
        memory: Memory,
    ) -> Self {
        let Memory { hosts, meters, passwords, open } = memory;
        let tls = system.tls.client(system.disk.clone(), config.remote.tls_ca.clone());
        let connections = Connections::new(config.remote.concurrency, system.clock.clone(), meters, open);
        let mailboxes = Arc::new(mailbox::Mailboxes::new(&config.hostname, &system));
        let lanes = lane::Lanes::new(mailboxes.clone(), system.workers);
        let quotas = config.domains.iter().map(|domain| (domain.name.clone(), domain.quota)).collect();
        Self { config, routes, system, events, tls, connections, passwords, mark, hosts, mailboxes, lanes, quotas }
    }

    /// Tries once.
    pub async fn attempt(&self, attempt: Attempt) -> Attempted {
        match &attempt.destination {
            Destination::Local(_) => maildir::deliver(self, &attempt).await.into(),
            Destination::Lmtp(_) | Destination::Route(_) | Destination::Mx(_) => remote::deliver(self, &attempt).await,
        }
    }

    /// How much a local address' Maildir may hold.
    fn quota(&self, address: &Address) -> Quota {
        let domain = self.quotas.get(address.domain()).copied().unwrap_or_default();
        Quota { octets: self.routes.quota(address).or(domain.octets), ..domain }
    }

    /// How many sites and addresses of ours may have more connections than their rates allow because what they had was forgotten, since
    /// this was asked last.
    pub fn forgotten(&self) -> u64 {
        self.connections.forgotten()
    }

    /// Closes idle connections, politely, whether what is returned is waited for or not; for long it need not be: the server stops, or
    /// another deliverer goes on.
    pub fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connections.close()
    }
}

#[cfg(test)]
mod tests;
