//! Answers the session's questions: may this client go on? A file per stage; every answer is a pure decision.

mod hello;
pub mod login;
mod message;
mod recipient;
mod room;
mod sender;

use std::net::IpAddr;
use std::sync::Arc;

use self::login::Logins;
use self::room::Rooms;
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
    logins: Logins,
    rooms: Arc<Rooms>,
}

impl Policy {
    /// The rules of a configuration.
    pub fn new(config: Arc<Config>, directory: Arc<Directory>, logins: Logins) -> Self {
        Self { config, directory, logins, rooms: Arc::default() }
    }

    /// Whether the client may relay without a login: `relay.networks`, and whoever has an account on this machine. An IPv4 client of an
    /// IPv6 socket counts as what it is. At submission nobody is trusted for where he comes from, and
    /// nothing is relayed by LMTP.
    pub fn is_trusted(&self, client: &Client) -> bool {
        match client.service {
            Service::Local => return true,
            Service::Submission | Service::Lmtp => return false,
            Service::Mx => {}
        }
        let address = client.address.to_canonical();
        self.config.relay.networks.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::login::{Bounds, Throttle};
    use super::*;
    use crate::directory::{DecoySeed, FileAccounts};
    use crate::system::Workers;

    /// A policy with the accounts of the directory.
    pub(super) fn policy(config: Config, directory: Directory) -> Policy {
        let seed = DecoySeed::new(b"secret");
        let accounts = FileAccounts::new(Arc::clone(directory.users()), seed, Workers::Inline, 1);
        let minute = std::time::Duration::from_secs(60);
        let bounds = Bounds { client: 9, account: 9, period: minute, delay: minute };
        let logins = Logins::new(Arc::new(accounts), Arc::new(Throttle::default()), bounds);
        Policy::new(Arc::new(config), Arc::new(directory), logins)
    }
}
