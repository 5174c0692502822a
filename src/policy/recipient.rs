//! RCPT TO: whom we take mail for. Here it is decided that this is no open relay.

use super::{Client, Policy};
use crate::directory::Resolution;
use crate::mail::{Address, EnhancedCode, Reply, ReversePath};
use crate::smtp::server::ForwardPath;

/// What in a local part asks for further routing: percent hack, bang path, an address or a source route within quotes.
const ROUTING: [char; 3] = ['%', '!', '@'];

impl Policy {
    /// Whether mail for this path may come, and for which address it then is. `already` counts the recipients accepted before.
    pub fn recipient(
        &self,
        client: &Client,
        _reverse_path: &ReversePath,
        path: &ForwardPath,
        already: usize,
    ) -> Result<Address, Reply> {
        let limit = self.config.limits.recipients;
        if already >= limit {
            let text = format!("Too many recipients: at most {limit} a message");
            return Err(Reply::new(452, EnhancedCode(4, 5, 3), text));
        }
        let address = match path {
            ForwardPath::Postmaster => return Ok(self.config.postmaster.clone()),
            ForwardPath::Address(address) => address,
        };
        match self.directory.resolve(address) {
            Resolution::NotLocal => self.remote(client, address),
            Resolution::Unknown if asks_for_routing(address) => Err(relay_denied(address)),
            Resolution::Unknown => Err(no_such_user(address)),
            // A catch-all or a tag would swallow `user%other.test@here`; who sends that means other.test.
            _ if asks_for_routing(address) && !self.directory.is_listed(address) => Err(relay_denied(address)),
            Resolution::Mailbox(_) | Resolution::Alias(_) => Ok(address.clone()),
        }
    }

    /// The domain isn't a local one.
    fn remote(&self, client: &Client, address: &Address) -> Result<Address, Reply> {
        let for_anyone = self.config.relay.domains.contains(address.domain());
        if self.is_this_host(address) && !for_anyone {
            // Only the postmaster is reached by the host's own name or address: anything else would come back to us.
            if address.local().eq_ignore_ascii_case("postmaster") {
                return Ok(self.config.postmaster.clone());
            }
            return Err(if asks_for_routing(address) { relay_denied(address) } else { no_such_user(address) });
        }
        if self.is_trusted(client) {
            return Ok(address.clone());
        }
        // The host behind us may trust us, and route `user%other.test` further: strangers don't get that far.
        if for_anyone && !asks_for_routing(address) {
            return Ok(address.clone());
        }
        Err(relay_denied(address))
    }

    /// Whether the domain is our host name, or the address literal of a listener.
    fn is_this_host(&self, address: &Address) -> bool {
        match address.domain().literal() {
            Some(ip) => {
                let ip = ip.to_canonical();
                self.config.listeners.iter().any(|listener| listener.address.ip().to_canonical() == ip)
            }
            None => address.domain() == &self.config.hostname,
        }
    }
}

fn asks_for_routing(address: &Address) -> bool {
    address.local().contains(ROUTING)
}

fn no_such_user(address: &Address) -> Reply {
    Reply::new(550, EnhancedCode(5, 1, 1), format!("<{address}>: no such user here"))
}

fn relay_denied(address: &Address) -> Reply {
    Reply::new(550, EnhancedCode(5, 7, 1), format!("<{address}>: relay access denied"))
}
