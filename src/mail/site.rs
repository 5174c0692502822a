//! Where mail really goes, however many domains have their mail there.

use std::fmt;
use std::sync::Arc;

use super::Destination;

/// What has one line of waiting mail, one bound on attempts, one memory of being down and one stock of idle connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// A destination by itself: mailboxes, an LMTP server, a route, a domain whose hosts aren't known.
    Own(Destination),
    /// The MX hosts that one domain has, or several share: their names, in order of the alphabet, joined by commas.
    Hosts(Arc<str>),
}

impl Site {
    /// Whether connections to it are bounded by `remote.concurrency`.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Own(destination) => destination.is_remote(),
            Self::Hosts(_) => true,
        }
    }
}

/// `local:example.test`, `hosts:mx1.provider.test,mx2.provider.test`.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(destination) => destination.fmt(f),
            Self::Hosts(names) => write!(f, "hosts:{names}"),
        }
    }
}
