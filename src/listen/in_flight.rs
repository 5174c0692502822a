//! Counts the octets of mail that is coming in, over all sessions and by network: what isn't committed yet lies in memory and on
//! disk, and neither may run out. Owns the counts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::limits::{self, Refusal};
use crate::config::Limits;
use crate::mail::Service;

/// Octets are asked for in such portions, so that not every piece of content takes the lock.
const PORTION: u64 = 16 * 1024;

/// The octets in flight of all sessions.
#[derive(Debug, Default)]
pub struct InFlight {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: u64,
    networks: BTreeMap<IpNet, u64>,
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    total: u64,
    network: u64,
}

/// One session's octets in flight; dropping it gives them back.
#[derive(Debug)]
pub(super) struct Load {
    in_flight: Arc<InFlight>,
    network: Option<IpNet>,
    bounds: Bounds,
    /// Octets that count for this session, and that it may use without asking.
    granted: u64,
    used: u64,
}

impl InFlight {
    /// A session without mail. `client`: none for a local socket. `reserve`: the share that mx leaves to other services.
    pub(super) fn session(self: &Arc<Self>, service: Service, client: Option<IpAddr>, limits: &Limits, reserve: f64) -> Load {
        let bounds = Bounds { total: limits::share(service, limits.in_flight, reserve), network: limits.in_flight_per_network };
        let network = client.map(|client| limits::network(client, limits));
        Load { in_flight: Arc::clone(self), network, bounds, granted: 0, used: 0 }
    }

    /// Octets in flight now.
    pub fn octets(&self) -> u64 {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn refusal(&self, more: u64, network: Option<&IpNet>, bounds: Bounds) -> Option<Refusal> {
        if self.total + more > bounds.total {
            return Some(Refusal { limit: "limits.in_flight", value: bounds.total });
        }
        let used = network.and_then(|network| self.networks.get(network)).copied().unwrap_or_default();
        let full = network.is_some() && used + more > bounds.network;
        full.then_some(Refusal { limit: "limits.in_flight_per_network", value: bounds.network })
    }
}

impl Load {
    /// Whether a message of so many octets has room at this moment; nothing is set aside for it.
    pub(super) fn check(&self, octets: u64) -> Result<(), Refusal> {
        self.in_flight.counts().refusal(octets, self.network.as_ref(), self.bounds).map_or(Ok(()), Err)
    }

    /// Counts so many octets more, unless there is no room for them.
    pub(super) fn add(&mut self, octets: u64) -> Result<(), Refusal> {
        let used = self.used + octets;
        if used > self.granted {
            let more = (used - self.granted).next_multiple_of(PORTION);
            let mut counts = self.in_flight.counts();
            if let Some(refusal) = counts.refusal(more, self.network.as_ref(), self.bounds) {
                return Err(refusal);
            }
            counts.total += more;
            if let Some(network) = self.network {
                *counts.networks.entry(network).or_default() += more;
            }
            drop(counts);
            self.granted += more;
        }
        self.used = used;
        Ok(())
    }

    /// Nothing of this session is in flight any more.
    pub(super) fn clear(&mut self) {
        let granted = std::mem::take(&mut self.granted);
        self.used = 0;
        if granted == 0 {
            return;
        }
        let mut counts = self.in_flight.counts();
        counts.total -= granted;
        if let Some(network) = self.network
            && let Some(octets) = counts.networks.get_mut(&network)
        {
            *octets -= granted;
            if *octets == 0 {
                counts.networks.remove(&network);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::sample()
    }

    const K: u64 = 1024;

    #[test]
    fn what_all_sessions_take_in_is_bounded_and_given_back() {
        let in_flight = Arc::new(InFlight::default());
        let limits = Limits { in_flight: 64 * K, in_flight_per_network: 48 * K, ..limits() };
        let session = |client: &str| in_flight.session(Service::Mx, Some(client.parse().unwrap()), &limits, 0.0);
        let (mut one, mut two) = (session("192.0.2.1"), session("192.0.2.2"));
        one.add(40 * K).unwrap();
        assert_eq!(two.add(1), Err(Refusal { limit: "limits.in_flight_per_network", value: 48 * K }));
        let mut other = session("198.51.100.1");
        other.add(16 * K).unwrap();
        assert_eq!(other.add(1), Err(Refusal { limit: "limits.in_flight", value: 64 * K }));
        // What was set aside is there to be used.
        one.add(8 * K).unwrap();
        assert_eq!(in_flight.octets(), 64 * K);
        one.clear();
        two.add(48 * K).unwrap();
        drop((one, two, other));
        assert_eq!(in_flight.octets(), 0);
        assert!(in_flight.counts().networks.is_empty());
    }

    #[test]
    fn room_is_asked_for_without_being_taken() {
        let in_flight = Arc::new(InFlight::default());
        let limits = Limits { in_flight: 64 * K, in_flight_per_network: 64 * K, ..limits() };
        let load = in_flight.session(Service::Mx, None, &limits, 0.25);
        assert_eq!(load.check(48 * K), Ok(()));
        assert_eq!(load.check(48 * K + 1), Err(Refusal { limit: "limits.in_flight", value: 48 * K }));
        let load = in_flight.session(Service::Submission, None, &limits, 0.25);
        assert_eq!((load.check(64 * K), in_flight.octets()), (Ok(()), 0));
    }
}
