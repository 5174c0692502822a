//! Counts open connections, in all and by client, and says when there are enough.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The open connections of all listeners.
#[derive(Debug, Default)]
pub struct Connections {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    clients: BTreeMap<IpAddr, usize>,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.connections`
    Total,
    /// `limits.connections_per_client`
    Client,
}

impl Refusal {
    /// The configuration key of the bound.
    pub fn limit(self) -> &'static str {
        match self {
            Self::Total => "limits.connections",
            Self::Client => "limits.connections_per_client",
        }
    }
}

/// One open connection; dropping it ends the count.
#[derive(Debug)]
pub struct Entered {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// Counts a connection in, unless a bound is reached.
    pub fn enter(self: &Arc<Self>, client: IpAddr, total_max: usize, client_max: usize) -> Result<Entered, Refusal> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= total_max {
            return Err(Refusal::Total);
        }
        if counts.clients.get(&client).is_some_and(|count| *count >= client_max) {
            return Err(Refusal::Client);
        }
        counts.total += 1;
        *counts.clients.entry(client).or_default() += 1;
        Ok(Entered { connections: Arc::clone(self), client })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(count) = counts.clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_places_come_back() {
        let connections = Arc::new(Connections::default());
        let (ann, bob) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = connections.enter(ann, 2, 1).unwrap();
        assert_eq!(connections.enter(ann, 2, 1).unwrap_err(), Refusal::Client);
        let second = connections.enter(bob, 2, 1).unwrap();
        assert_eq!(connections.enter("192.0.2.3".parse().unwrap(), 2, 1).unwrap_err(), Refusal::Total);
        drop(first);
        assert_eq!(connections.open(), 1);
        drop(connections.enter(ann, 2, 1).unwrap());
        drop(second);
        assert_eq!(connections.open(), 0);
        assert!(connections.counts.lock().unwrap().clients.is_empty());
    }
}
