//! Where a recipient's mail goes: a mailbox here, an alias, a configured route, the MX hosts of the domain.
//!
//! Tables decide first and purely: local domains, then `[[route]]` in order, else MX. Only `hosts` asks the DNS. Nothing here
//! connects to anybody.

mod addresses;
mod explain;
mod mx;
mod plan;
mod special;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, HostPort, LmtpAddress, MailStore, RemoteTls};
use crate::directory::{Directory, Mailbox, Resolution};
use crate::mail::{Address, Cause, Destination, Diagnosis, EnhancedCode, Outcome};
use crate::system::{Endpoint, System};

pub use plan::Plan;
pub use special::is_special;

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
    /// The hosts of each configured route by its destination's name, and that name by the route's number.
    routes: BTreeMap<String, (Vec<HostPort>, RemoteTls)>,
    route_names: Vec<String>,
}

impl Router {
    /// A router for a configuration; a changed one needs a new router.
    pub fn new(config: Arc<Config>, directory: Arc<Directory>, system: System) -> Self {
        let route_names: Vec<String> = config.routes.iter().map(|route| route_name(&route.hosts)).collect();
        let mut routes = BTreeMap::<String, (Vec<HostPort>, RemoteTls)>::new();
        for (name, route) in route_names.iter().zip(&config.routes) {
            // Two routes to the same hosts are one destination, and the stricter of them counts.
            let (_, tls) = routes.entry(name.clone()).or_insert_with(|| (route.hosts.clone(), route.tls));
            *tls = (*tls).max(route.tls);
        }
        Self { config, directory, system, routes, route_names }
    }

    /// What becomes of an address, from the tables alone.
    pub fn route(&self, address: &Address) -> Route {
        match self.directory.resolve(address) {
            Resolution::Alias(targets) => Route::Alias(targets),
            Resolution::Unknown => Route::Unknown,
            Resolution::Mailbox(mailbox) => Route::Deliver(mailbox_destination(&mailbox)),
            Resolution::NotLocal => Route::Deliver(self.remote_destination(address)),
        }
    }

    /// The hosts of a destination in the order in which they are to be tried, never none; or why there are none. A destination of
    /// configured hosts is never failed for good: the configuration can be put right.
    pub async fn hosts(&self, destination: &Destination) -> Result<Vec<Host>, Outcome> {
        match destination {
            Destination::Mx(domain) => self.mx_hosts(domain).await,
            Destination::Route(name) => match self.routes.get(name) {
                Some((hosts, _)) => self.route_hosts(hosts).await,
                None => Err(misconfigured(format!("the route to {name} is no longer configured"))),
            },
            Destination::Lmtp(address) => {
                let endpoint = lmtp_endpoint(address)
                    .ok_or_else(|| misconfigured(format!("{address} is not the address of an LMTP server")))?;
                Ok(vec![Host { name: address.clone(), preference: 0, endpoint }])
            }
            Destination::Local(domain) => Err(misconfigured(format!("the mailboxes of {domain} are not reached over a host"))),
        }
    }

    /// How connections to a destination are encrypted. An LMTP server is part of this site and has no TLS.
    pub fn tls(&self, destination: &Destination) -> RemoteTls {
        match destination {
            Destination::Mx(_) => self.config.remote.tls,
            Destination::Route(name) => self.routes.get(name).map_or(self.config.remote.tls, |(_, tls)| *tls),
            Destination::Lmtp(_) | Destination::Local(_) => RemoteTls::None,
        }
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
            Resolution::Alias(_) => Err(match self.leaves(address) {
                Err(diagnosis) => Outcome::Failed(diagnosis),
                Ok(_) => misconfigured(format!("{address} has become an alias")),
            }),
            Resolution::NotLocal => Err(misconfigured(format!("{} is no longer a local domain", address.domain()))),
        }
    }

    /// The first route that matches, else the domain's MX.
    fn remote_destination(&self, address: &Address) -> Destination {
        let mut routes = self.config.routes.iter().zip(&self.route_names);
        match routes.find(|(route, _)| route.domain.matches(address.domain())) {
            Some((_, name)) => Destination::Route(name.clone()),
            None => Destination::Mx(address.domain().clone()),
        }
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

/// A route's hosts as its destination names them: `127.0.0.1:2526,relay.test`.
fn route_name(hosts: &[HostPort]) -> String {
    let host = |host: &HostPort| match (host.host.literal(), host.port) {
        (Some(ip), Some(port)) => SocketAddr::new(ip, port).to_string(),
        (Some(ip), None) => ip.to_string(),
        (None, Some(port)) => format!("{}:{port}", host.host),
        (None, None) => host.host.to_string(),
    };
    hosts.iter().map(host).collect::<Vec<_>>().join(",")
}

/// Our own tables are wrong or have changed: transient.
fn misconfigured(text: String) -> Outcome {
    Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 3, 5), Cause::Local, text))
}

#[cfg(test)]
mod tests;
