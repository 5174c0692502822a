//! Where mail is grouped by: one queue, one bound on connections, one line in the statistics each.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Domain;

/// Recipients with the same destination share an attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// Mailboxes of a domain that is local.
    Local(Domain),
    /// An LMTP server, by its address as configured.
    Lmtp(String),
    /// The hosts of a configured route, joined by commas.
    Route(String),
    /// The MX hosts of a domain.
    Mx(Domain),
}

impl Destination {
    /// Whether connections to it are bounded by `remote.concurrency`.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Local(_))
    }
}

/// `local:example.test`, `lmtp:unix:/run/lmtp`, `route:127.0.0.1:2526`, `mx:example.org`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(domain) => write!(f, "local:{domain}"),
            Self::Lmtp(address) => write!(f, "lmtp:{address}"),
            Self::Route(hosts) => write!(f, "route:{hosts}"),
            Self::Mx(domain) => write!(f, "mx:{domain}"),
        }
    }
}
