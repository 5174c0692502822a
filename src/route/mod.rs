//! Where a recipient's mail goes: a mailbox here, an alias, a configured route, the MX hosts of the domain.
//!
//! Tables decide first and purely: local domains, then `[[route]]` in order, else MX. Only `hosts` asks the DNS. Nothing here
//! connects to anybody.

mod addresses;
mod explain;
mod mx;
mod plan;
mod special;
mod way;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{self, Config, LmtpAddress, MailStore, RouteHost};
use crate::directory::{Directory, Mailbox, Resolution};
use crate::mail::{Address, Cause, Destination, Diagnosis, Domain, EnhancedCode, Outcome, ReversePath};
use crate::system::{Endpoint, System};

pub use plan::Plan;
pub use special::is_special;
pub use way::Way;

/// What becomes of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Others get it: one step of expansion; `Router::plan` does all of them.
    Alias(Vec<Address>),
    /// It is delivered there.
    Deliver(Destination),
    /// Its domain is local, but nobody has this name.
    Unknown,
}

/// A host to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name, for EHLO's answer, logs and notices; an address literal if it has none.
    pub name: String,
    /// Lower is tried first; hosts with the same are equals.
    pub preference: u16,
    /// Where it is called.
    pub endpoint: Endpoint,
}

/// Knows the tables and asks the DNS.
pub struct Router {
    config: Arc<Config>,
    directory: Arc<Directory>,
    system: System,
    /// The way to each configured destination, and that destination by the route's number; none where the DNS names the hosts.
    ways: BTreeMap<Destination, Way>,
    destinations: Vec<Option<Destination>>,
    /// The way that no route names: to MX hosts, and to the LMTP servers of local domains.
    general: Way,
}

impl Router {
    /// A router for a configuration; a changed one needs a new router.
    pub fn new(config: Arc<Config>, directory: Arc<Directory>, system: System) -> Self {
        let mut ways = BTreeMap::new();
        let destinations = config.routes.iter().map(|route| way::enter(&mut ways, route, &config.remote)).collect();
        let general = Way::general(&config.remote);
        Self { config, directory, system, ways, destinations, general }
    }

    /// What becomes of an address, from the tables alone.
    pub fn route(&self, sender: &ReversePath, address: &Address) -> Route {
        match self.directory.resolve(address) {
            Resolution::Alias(targets) => Route::Alias(targets),
            Resolution::Unknown => Route::Unknown,
            Resolution::Mailbox(mailbox) => Route::Deliver(mailbox_destination(&mailbox)),
            Resolution::NotLocal => Route::Deliver(self.remote_destination(sender, address)),
        }
    }

    /// The hosts of a destination in the order in which they are to be tried, never none; or why there are none. A destination of
    /// configured hosts is never failed for good: the configuration can be put right.
    pub async fn hosts(&self, destination: &Destination, sender: &ReversePath) -> Result<Vec<Host>, Outcome> {
        let way = self.way(destination, sender);
        match destination {
            Destination::Mx(domain) => self.mx_hosts(domain, &way).await,
            Destination::Route(_) | Destination::Lmtp(_) if !way.hosts.is_empty() => self.route_hosts(&way).await,
            Destination::Route(name) => Err(misconfigured(format!("the route to {name} is no longer configured"))),
            Destination::Lmtp(address) => {
                let endpoint = lmtp_endpoint(address)
                    .ok_or_else(|| misconfigured(format!("{address} is not the address of an LMTP server")))?;
                Ok(vec![Host { name: address.clone(), preference: 0, endpoint }])
            }
            Destination::Local(domain) => Err(misconfigured(format!("the mailboxes of {domain} are not reached over a host"))),
        }
    }

    /// How the hosts of a destination are called with mail of this sender.
    pub fn way(&self, destination: &Destination, sender: &ReversePath) -> Way {
        match destination {
            Destination::Mx(domain) => match self.matching(sender, domain) {
                Some((_, route)) if route.hosts.is_empty() => Way::new(route, &self.config.remote),
                _ => self.general.clone(),
            },
            // One of this site that no route names has no TLS.
            Destination::Lmtp(_) => self.ways.get(destination).cloned().unwrap_or_else(|| self.general.here()),
            Destination::Route(_) | Destination::Local(_) => self.ways.get(destination).unwrap_or(&self.general).clone(),
        }
    }

    /// The addresses of ours that mail to configured hosts leaves from; not those to which it doesn't leave this machine.
    pub fn sources(&self) -> BTreeMap<Destination, Vec<IpAddr>> {
        let leaves = |way: &Way| !way.hosts.iter().all(RouteHost::is_here);
        let ways = self.ways.iter().filter(|(_, way)| leaves(way));
        ways.map(|(destination, way)| (destination.clone(), way.sources.clone())).collect()
    }

    /// What the users file says that a local address' mailbox may hold.
    pub fn quota(&self, address: &Address) -> Option<u64> {
        let mailbox = self.directory.mailbox(address)?;
        self.directory.users().quota(&mailbox.domain, &mailbox.user)
    }

    /// The Maildir of a local address; an outcome where there is none, or none any more.
    pub fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome> {
        let resolved = match self.directory.mailbox(address) {
            Some(mailbox) => Resolution::Mailbox(mailbox),
            None => self.directory.resolve(address),
        };
        match resolved {
            Resolution::Mailbox(mailbox) => {
                mailbox.maildir().ok_or_else(|| misconfigured(format!("{} is no longer delivered to a Maildir", mailbox.domain)))
            }
            Resolution::Unknown => {
                let text = format!("no such user here: {address}");
                Err(Outcome::Failed(Diagnosis::new(EnhancedCode(5, 1, 1), Cause::Local, text)))
            }
            // An alias comes here only if it leads nowhere, or if it became one a moment ago; the next attempt is planned anew.
            Resolution::Alias(_) => Err(match self.leaves(&ReversePath::Null, address) {
                Err(diagnosis) => Outcome::Failed(diagnosis),
                Ok(_) => misconfigured(format!("{address} has become an alias")),
            }),
            Resolution::NotLocal => Err(misconfigured(format!("{} is no longer a local domain", address.domain()))),
        }
    }

    /// The hosts of the first route that matches, else the domain's MX.
    fn remote_destination(&self, sender: &ReversePath, address: &Address) -> Destination {
        let matching = self.matching(sender, address.domain());
        let configured = matching.and_then(|(number, _)| self.destinations.get(number).cloned().flatten());
        configured.unwrap_or_else(|| Destination::Mx(address.domain().clone()))
    }

    /// The first route that matches, and its number.
    fn matching(&self, sender: &ReversePath, domain: &Domain) -> Option<(usize, &config::Route)> {
        self.config.routes.iter().enumerate().find(|(_, route)| route.matches(sender, domain))
    }
}

fn mailbox_destination(mailbox: &Mailbox) -> Destination {
    match &mailbox.store {
        MailStore::Maildir(_) => Destination::Local(mailbox.domain.clone()),
        MailStore::Lmtp(LmtpAddress::Unix(path)) => Destination::Lmtp(format!("unix:{}", path.display())),
        MailStore::Lmtp(LmtpAddress::Tcp(address)) => Destination::Lmtp(address.to_string()),
    }
}

fn lmtp_endpoint(address: &str) -> Option<Endpoint> {
    match address.strip_prefix("unix:") {
        Some(path) => Some(Endpoint::Unix(PathBuf::from(path))),
        None => address.parse::<SocketAddr>().ok().map(Endpoint::Tcp),
    }
}

/// Our own tables are wrong or have changed: transient.
fn misconfigured(text: String) -> Outcome {
    Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 3, 5), Cause::Local, text))
}

#[cfg(test)]
mod tests;
