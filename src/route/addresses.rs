//! From host names to addresses: both families, interleaved, bounded.

use std::net::{IpAddr, SocketAddr};

use super::{Host, Router};
use crate::config::HostPort;
use crate::mail::{Cause, Diagnosis, Domain, EnhancedCode, Outcome};
use crate::system::{DnsError, Endpoint};

/// Addresses that one attempt tries at the most.
pub(super) const ADDRESSES_MAX: usize = 12;
/// Addresses of one host at the most, so that the next host gets its turn.
const HOST_ADDRESSES_MAX: usize = 6;

/// What a host's look-up came to.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// In the order in which they are to be tried.
    pub(super) addresses: Vec<IpAddr>,
    /// Why more may be there another time.
    pub(super) trouble: Option<String>,
}

impl Router {
    /// A host's addresses: IPv6 and IPv4 in turn, each family in random order.
    pub(super) async fn addresses(&self, host: &Domain) -> Lookup {
        if let Some(ip) = host.literal() {
            return Lookup { addresses: vec![ip], trouble: None };
        }
        let dns = &self.system.dns;
        let (v6, v4) = tokio::join!(biased; dns.ipv6(host), dns.ipv4(host));
        let mut lookup = Lookup::default();
        let [v6, v4] = [v6, v4].map(|answer| match answer {
            Ok(mut addresses) => {
                self.shuffle(&mut addresses);
                addresses
            }
            Err(DnsError::NoSuchDomain) => Vec::new(),
            Err(DnsError::Unavailable(why)) => {
                lookup.trouble = Some(format!("looking up {host}: {why}"));
                Vec::new()
            }
        });
        let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
        while lookup.addresses.len() < HOST_ADDRESSES_MAX {
            let before = lookup.addresses.len();
            lookup.addresses.extend(v6.next());
            lookup.addresses.extend(v4.next());
            if lookup.addresses.len() == before {
                break;
            }
        }
        lookup
    }

    /// The hosts of a configured route. Special addresses are fine: the admin said so.
    pub(super) async fn route_hosts(&self, hosts: &[HostPort]) -> Result<Vec<Host>, Outcome> {
        let mut found = Vec::new();
        let mut trouble = None;
        for (preference, HostPort { host, port }) in (0..).zip(hosts) {
            let lookup = self.addresses(host).await;
            if lookup.addresses.is_empty() {
                let none = || format!("the configured host {host} has no address");
                trouble = trouble.or(Some(lookup.trouble.unwrap_or_else(none)));
            }
            found.extend(to_hosts(host, preference, lookup.addresses, port.unwrap_or(self.config.remote.port)));
            if found.len() >= ADDRESSES_MAX {
                break;
            }
        }
        found.truncate(ADDRESSES_MAX);
        if found.is_empty() {
            let text = trouble.unwrap_or_else(|| "the route has no host".to_owned());
            return Err(Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 4, 3), Cause::Dns, text)));
        }
        Ok(found)
    }

    /// Random order (Fisher-Yates).
    pub(super) fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.system.entropy.below(last as u64 + 1);
            items.swap(last, usize::try_from(other).unwrap_or(last));
        }
    }
}

pub(super) fn to_hosts(host: &Domain, preference: u16, addresses: Vec<IpAddr>, port: u16) -> impl Iterator<Item = Host> {
    addresses.into_iter().map(move |ip| Host {
        name: host.to_string(),
        preference,
        endpoint: Endpoint::Tcp(SocketAddr::new(ip, port)),
    })
}
