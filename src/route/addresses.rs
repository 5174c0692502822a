//! From host names to addresses: both families, interleaved, bounded.

use std::net::{IpAddr, SocketAddr};

use super::{Host, Router, Way};
use crate::config::{Family, HostPort, RouteHost};
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
    /// There are addresses that our settings don't let us call.
    pub(super) unwanted: bool,
}

impl Router {
    /// A host's addresses that this way may call, each family in random order.
    pub(super) async fn addresses(&self, host: &Domain, way: &Way) -> Lookup {
        if let Some(ip) = host.literal() {
            // Who names an address means it, whatever its family.
            return Lookup { addresses: vec![ip], ..Lookup::default() };
        }
        let dns = &self.system.dns;
        let (v6, v4) = tokio::join!(biased; dns.ipv6(host), dns.ipv4(host));
        let mut lookup = Lookup::default();
        let [v6, v4] = [v6, v4].map(|answer| match answer {
            Ok(mut addresses) => {
                let before = addresses.len();
                addresses.retain(|ip| way.calls(*ip));
                lookup.unwanted |= addresses.len() < before;
                self.shuffle(&mut addresses);
                addresses
            }
            Err(DnsError::NoSuchDomain) => Vec::new(),
            Err(DnsError::Unavailable(why)) => {
                lookup.trouble = Some(format!("looking up {host}: {why}"));
                Vec::new()
            }
        });
        lookup.addresses = in_order(v6, v4, way.family);
        lookup.addresses.truncate(HOST_ADDRESSES_MAX);
        lookup
    }

    /// The hosts of a configured route. Special addresses are fine: the admin said so.
    pub(super) async fn route_hosts(&self, way: &Way) -> Result<Vec<Host>, Outcome> {
        let mut found = Vec::new();
        let mut trouble = None;
        for (preference, host) in (0..).zip(&way.hosts) {
            let HostPort { host, port } = match host {
                RouteHost::Tcp(host) => host,
                RouteHost::Unix(path) => {
                    found.push(Host { name: host.to_string(), preference, endpoint: Endpoint::Unix(path.clone()) });
                    continue;
                }
            };
            let lookup = self.addresses(host, way).await;
            if lookup.addresses.is_empty() {
                let none = || {
                    let that = if lookup.unwanted { " that may be called" } else { "" };
                    format!("the configured host {host} has no address{that}")
                };
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

/// The addresses of both families in the order in which they are tried.
fn in_order(v6: Vec<IpAddr>, v4: Vec<IpAddr>, family: Family) -> Vec<IpAddr> {
    match family {
        Family::Any => in_turn(v6, v4),
        Family::Ipv4First | Family::Ipv4 => v4.into_iter().chain(v6).collect(),
        Family::Ipv6First | Family::Ipv6 => v6.into_iter().chain(v4).collect(),
    }
}

/// One of each in turn, the first list's first.
fn in_turn(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

pub(super) fn to_hosts(host: &Domain, preference: u16, addresses: Vec<IpAddr>, port: u16) -> impl Iterator<Item = Host> {
    addresses.into_iter().map(move |ip| Host {
        name: host.to_string(),
        preference,
        endpoint: Endpoint::Tcp(SocketAddr::new(ip, port)),
    })
}
