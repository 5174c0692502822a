//! Whose mail it is, when what there is has to be shared fairly.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Address, Domain, Message, ReversePath};

/// Who sent a message, as far as sharing goes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Ourselves.
    Notice,
    /// Whoever logged in.
    Login(Arc<Address>),
    /// Else a client of this network.
    Client(IpNet),
    /// Else the reverse-path's domain.
    Domain(Arc<Domain>),
}

impl Origin {
    /// From its name, as `Display` writes it.
    pub fn parse(name: &str) -> Option<Self> {
        match name.split_once(':') {
            None if name == "notice" => Some(Self::Notice),
            Some(("login", address)) => Address::parse(address).ok().map(|address| Self::Login(Arc::new(address))),
            Some(("client", network)) => network.parse().ok().map(Self::Client),
            Some(("domain", domain)) => Domain::parse(domain).ok().map(|domain| Self::Domain(Arc::new(domain))),
            _ => None,
        }
    }

    /// Whether somebody had logged in.
    pub fn is_login(&self) -> bool {
        matches!(self, Self::Login(_))
    }

    /// The network that the client was in, if that is what is known.
    pub fn network(&self) -> Option<IpNet> {
        match self {
            Self::Client(network) => Some(*network),
            _ => None,
        }
    }

    /// Whose message it is.
    pub fn of(message: &Message) -> Self {
        match (&message.origin, &message.reverse_path) {
            // What others send without a sender is theirs like all that they send.
            (Some(origin), _) => Self::clone(origin),
            (None, ReversePath::Null) => Self::Notice,
            (None, ReversePath::Address(address)) => Self::Domain(Arc::new(address.domain().clone())),
        }
    }
}

/// `notice`, `login:ann@example.test`, `client:192.0.2.0/24`, `domain:example.org`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notice => f.write_str("notice"),
            Self::Login(address) => write!(f, "login:{address}"),
            Self::Client(network) => write!(f, "client:{network}"),
            Self::Domain(domain) => write!(f, "domain:{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_says_all() {
        for name in [
            "notice",
            "login:\"a b\"@x.test",
            "client:2001:db8::/64",
            "client:192.0.2.0/24",
            "domain:[192.0.2.1]",
            "domain:x.test",
        ] {
            assert_eq!(Origin::parse(name).unwrap().to_string(), name);
        }
        for wrong in ["", "notice:", "login:", "login:ann", "client:192.0.2.0/33", "domain:", "somebody:x.test"] {
            assert_eq!(Origin::parse(wrong), None, "{wrong:?}");
        }
    }
}
