//! Counts open connections, in all, by client and by network, and says when there are enough.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::config::{Config, Limits};
use crate::mail::Service;

/// What a session or connection was refused for: the setting and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The setting.
    pub limit: &'static str,
    /// The number that it allows.
    pub value: u64,
}

/// Whether services other than mx are served, so that something has to be kept for them.
pub(super) fn has_reserve(config: &Config) -> bool {
    config.listeners.iter().any(|listener| listener.service != Service::Mx)
}

/// What is left to a service of so much: mx leaves the others their share.
pub(super) fn share(service: Service, all: u64, reserve: f64) -> u64 {
    match service {
        // Never nothing: a reserve of everything would be a server without mx.
        Service::Mx => all.saturating_sub((all as f64 * reserve) as u64).max(1),
        Service::Submission | Service::Lmtp | Service::Local => all,
    }
}

/// The network that an address belongs to.
pub(super) fn network(client: IpAddr, limits: &Limits) -> IpNet {
    let prefix = if client.is_ipv4() { limits.network_ipv4 } else { limits.network_ipv6 };
    // The prefix was checked when the configuration was read; an address alone is a network, too.
    IpNet::new(client, prefix).map_or_else(|_| IpNet::from(client), |network| network.trunc())
}

/// The open connections of all listeners.
#[derive(Debug)]
pub struct Connections {
    counts: Mutex<Counts>,
    /// No more can be open, whatever is configured: file descriptors.
    possible: usize,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    clients: BTreeMap<IpAddr, usize>,
    networks: BTreeMap<IpNet, usize>,
}

/// One open connection; dropping it ends the count.
#[derive(Debug)]
pub struct Entered {
    connections: Arc<Connections>,
    client: Option<(IpAddr, IpNet)>,
}

impl Connections {
    /// None yet; never more than `possible`.
    pub fn new(possible: usize) -> Self {
        Self { counts: Mutex::default(), possible }
    }

    /// Counts a connection in, unless there are enough of them. `reserve`: the share that mx leaves to other services.
    pub fn enter(self: &Arc<Self>, service: Service, limits: &Limits, reserve: f64) -> Result<Entered, Refusal> {
        let all = limits.connections.min(self.possible) as u64;
        let allowed = share(service, all, reserve);
        let mut counts = self.counts();
        if counts.total as u64 >= allowed {
            return Err(Refusal { limit: "limits.connections", value: allowed });
        }
        counts.total += 1;
        Ok(Entered { connections: Arc::clone(self), client: None })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered {
    /// Counts it as one of this client's, unless there are enough of the client's or of its network's.
    pub fn belongs_to(&mut self, client: IpAddr, limits: &Limits) -> Result<(), Refusal> {
        let network = network(client, limits);
        self.leave();
        let mut counts = self.connections.counts();
        if counts.clients.get(&client).is_some_and(|count| *count >= limits.connections_per_client) {
            return Err(Refusal { limit: "limits.connections_per_client", value: limits.connections_per_client as u64 });
        }
        if counts.networks.get(&network).is_some_and(|count| *count >= limits.connections_per_network) {
            return Err(Refusal { limit: "limits.connections_per_network", value: limits.connections_per_network as u64 });
        }
        *counts.clients.entry(client).or_default() += 1;
        *counts.networks.entry(network).or_default() += 1;
        drop(counts);
        self.client = Some((client, network));
        Ok(())
    }

    /// Ends the count for a client.
    fn leave(&mut self) {
        if let Some((client, network)) = self.client.take() {
            let mut counts = self.connections.counts();
            take_one(&mut counts.clients, &client);
            take_one(&mut counts.networks, &network);
        }
    }
}

/// Takes one off a count; a count of none isn't kept.
fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.leave();
        self.connections.counts().total -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::sample()
    }

    fn enter(connections: &Arc<Connections>, client: &str, limits: &Limits) -> Result<Entered, &'static str> {
        let mut entered = connections.enter(Service::Mx, limits, 0.0).map_err(|refusal| refusal.limit)?;
        entered.belongs_to(client.parse().unwrap(), limits).map_err(|refusal| refusal.limit)?;
        Ok(entered)
    }

    #[test]
    fn bounds_hold_and_places_come_back() {
        let connections = Arc::new(Connections::new(100));
        let limits = Limits { connections: 2, connections_per_client: 1, ..limits() };
        let first = enter(&connections, "192.0.2.1", &limits).unwrap();
        assert_eq!(enter(&connections, "192.0.2.1", &limits).unwrap_err(), "limits.connections_per_client");
        let second = enter(&connections, "192.0.2.2", &limits).unwrap();
        assert_eq!(enter(&connections, "192.0.2.3", &limits).unwrap_err(), "limits.connections");
        drop(first);
        assert_eq!(connections.open(), 1);
        drop(enter(&connections, "192.0.2.1", &limits).unwrap());
        drop(second);
        assert_eq!(connections.open(), 0);
        let counts = connections.counts();
        assert!(counts.clients.is_empty() && counts.networks.is_empty());
    }

    #[test]
    fn the_addresses_of_a_network_count_together() {
        let connections = Arc::new(Connections::new(100));
        let limits = Limits { connections_per_network: 2, network_ipv4: 24, network_ipv6: 64, ..limits() };
        for (inside, outside) in [
            (["192.0.2.1", "192.0.2.2", "192.0.2.254"], "192.0.3.1"),
            (["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::1"], "2001:db8:0:2::1"),
        ] {
            let _open = [enter(&connections, inside[0], &limits).unwrap(), enter(&connections, inside[1], &limits).unwrap()];
            assert_eq!(enter(&connections, inside[2], &limits).unwrap_err(), "limits.connections_per_network");
            enter(&connections, outside, &limits).unwrap();
            let narrow = Limits { network_ipv4: 32, network_ipv6: 128, ..limits.clone() };
            enter(&connections, inside[2], &narrow).unwrap();
        }
        assert_eq!(connections.open(), 0);
    }

    #[test]
    fn mx_leaves_the_other_services_their_share() {
        let connections = Arc::new(Connections::new(100));
        let limits = Limits { connections: 10, ..limits() };
        let enter = |service| connections.enter(service, &limits, 0.2);
        let mx: Vec<_> = (0..8).map(|_| enter(Service::Mx).unwrap()).collect();
        assert_eq!(enter(Service::Mx).unwrap_err(), Refusal { limit: "limits.connections", value: 8 });
        let (_submission, _lmtp) = (enter(Service::Submission).unwrap(), enter(Service::Lmtp).unwrap());
        assert_eq!(enter(Service::Submission).unwrap_err().value, 10);
        drop(mx);
        enter(Service::Mx).unwrap();
        assert_eq!(share(Service::Mx, 10, 1.0), 1);
    }

    #[test]
    fn there_are_never_more_than_the_system_allows() {
        let connections = Arc::new(Connections::new(1));
        let _one = connections.enter(Service::Mx, &limits(), 0.0).unwrap();
        assert_eq!(
            connections.enter(Service::Mx, &limits(), 0.0).unwrap_err(),
            Refusal { limit: "limits.connections", value: 1 }
        );
    }
}
