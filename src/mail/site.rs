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
    /// The part of a site's mail that leaves from these addresses of ours, set apart because what leaves from them is bounded.
    From(Arc<Site>, Arc<str>),
}

impl Site {
    /// Whether connections to it are bounded by `remote.concurrency`.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Own(destination) => destination.is_remote(),
            Self::Hosts(_) => true,
            Self::From(site, _) => site.is_remote(),
        }
    }

    /// The site, whatever address of ours mail leaves from.
    pub fn whole(&self) -> &Self {
        match self {
            Self::From(site, _) => site.whole(),
            Self::Own(_) | Self::Hosts(_) => self,
        }
    }
}

/// `local:example.test`, `hosts:mx1.provider.test,mx2.provider.test`, `hosts:mx.test from 192.0.2.25,192.0.2.26`.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(destination) => destination.fmt(f),
            Self::Hosts(names) => write!(f, "hosts:{names}"),
            Self::From(site, sources) => write!(f, "{site} from {sources}"),
        }
    }
}
