//! Answers the session's questions: may this client go on? A file per stage; every answer is a pure decision.

mod hello;
mod message;
mod recipient;
mod sender;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::directory::Directory;
use crate::mail::{Address, Service, TlsInfo};

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// What the listener that it came to is for.
    pub service: Service,
    /// Its address.
    pub address: IpAddr,
    /// The name that it gave itself; empty before.
    pub helo: String,
    /// Whether it said EHLO.
    pub extended: bool,
    /// How the session is encrypted; none: it isn't.
    pub tls: Option<TlsInfo>,
    /// Who it logged in as; none before.
    pub login: Option<Address>,
}

/// The rules, as configured. Cheap to make anew at reload.
#[derive(Clone, Debug)]
pub struct Policy {
    config: Arc<Config>,
    directory: Arc<Directory>,
}

impl Policy {
    /// The rules of a configuration.
    pub fn new(config: Arc<Config>, directory: Arc<Directory>) -> Self {
        Self { config, directory }
    }

    /// Whether the client may relay: `relay.networks`. An IPv4 client of an IPv6 socket counts as what it is.
    pub fn is_trusted(&self, client: &Client) -> bool {
        let address = client.address.to_canonical();
        self.config.relay.networks.iter().any(|network| network.contains(&address))
    }
}
