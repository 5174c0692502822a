//! Failed logins, counted by client and by account: each failure slows the next answer down, and too many are refused for a
//! while. Owns the counts; they are bounded, and the oldest are forgotten first.
//!
//! Accounts that don't exist are counted like others, so nothing here tells which do. A client that has lately logged in to an
//! account isn't shut out of it by others who guess at it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Why;
use crate::mail::Address;

/// Clients, accounts and pairs of both that are remembered, each.
const REMEMBERED_MAX: usize = 10_000;
/// A failure's answer waits at most so many times the first one's.
const SLOWER_MAX: u32 = 8;

/// How much is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Failures of one client before it is refused.
    pub client: u32,
    /// Failures at one account before it is refused.
    pub account: u32,
    /// For so long failures count, from the first.
    pub period: Duration,
    /// How long the first failure's answer waits.
    pub delay: Duration,
}

/// The counts. All sessions share one.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bounds: Option<Bounds>,
    clients: Table<IpAddr>,
    accounts: Table<String>,
    /// Who logged in where.
    friends: Table<(IpAddr, String)>,
}

impl Throttle {
    /// Goes by these bounds from now on.
    pub fn set(&self, bounds: Bounds) {
        self.state().bounds = Some(bounds);
    }

    /// Whether a client may try to log in to an account.
    pub fn admit(&self, now: Duration, client: IpAddr, name: &Address) -> Result<(), Why> {
        let mut state = self.state();
        let Some(bounds) = state.bounds else { return Ok(()) };
        let (client, name) = (network(client), key(name));
        if state.friends.count(now, bounds.period, &(client, name.clone())) > 0 {
            return Ok(());
        }
        if state.clients.count(now, bounds.period, &client) >= bounds.client {
            return Err(Why::ClientBlocked);
        }
        if state.accounts.count(now, bounds.period, &name) >= bounds.account {
            return Err(Why::AccountBlocked);
        }
        Ok(())
    }

    /// Counts a failure; returns how long its answer is to wait.
    pub fn failed(&self, now: Duration, client: IpAddr, name: Option<&Address>) -> Duration {
        let mut state = self.state();
        let Some(bounds) = state.bounds else { return Duration::ZERO };
        let mut count = state.clients.add(now, bounds.period, network(client));
        if let Some(name) = name {
            count = count.max(state.accounts.add(now, bounds.period, key(name)));
        }
        bounds.delay * 1u32.checked_shl(count.saturating_sub(1)).unwrap_or(SLOWER_MAX).min(SLOWER_MAX)
    }

    /// Remembers that a client logged in.
    pub fn succeeded(&self, now: Duration, client: IpAddr, account: &Address) {
        let mut state = self.state();
        let Some(bounds) = state.bounds else { return };
        let pair = (network(client), key(account));
        // Anew each time: what counts is the last success.
        state.friends.forget(&pair);
        state.friends.add(now, bounds.period, pair);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has one address of an IPv6 network has all of it.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

fn key(name: &Address) -> String {
    name.to_string().to_ascii_lowercase()
}

/// Counts by key, each from its first entry on for a period.
#[derive(Debug)]
struct Table<K> {
    counts: BTreeMap<K, (Duration, u32)>,
    /// The same keys, the oldest first.
    order: BTreeSet<(Duration, K)>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Clone + Ord> Table<K> {
    fn count(&mut self, now: Duration, period: Duration, key: &K) -> u32 {
        self.expire(now, period);
        self.counts.get(key).map_or(0, |(_, count)| *count)
    }

    /// Adds one; returns the new count.
    fn add(&mut self, now: Duration, period: Duration, key: K) -> u32 {
        self.expire(now, period);
        if let Some((_, count)) = self.counts.get_mut(&key) {
            *count = count.saturating_add(1);
            return *count;
        }
        if self.counts.len() >= REMEMBERED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.counts.remove(&oldest);
        }
        self.order.insert((now, key.clone()));
        self.counts.insert(key, (now, 1));
        1
    }

    fn forget(&mut self, key: &K) {
        if let Some((first, _)) = self.counts.remove(key) {
            self.order.remove(&(first, key.clone()));
        }
    }

    fn expire(&mut self, now: Duration, period: Duration) {
        while let Some((first, _)) = self.order.first()
            && first.saturating_add(period) <= now
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.counts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds { client: 3, account: 5, period: Duration::from_secs(100), delay: SECOND };

    fn throttle() -> Throttle {
        let throttle = Throttle::default();
        throttle.set(BOUNDS);
        throttle
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::V4((0xc000_0200 + number).into())
    }

    fn ann() -> Address {
        Address::parse("ann@example.test").unwrap()
    }

    #[test]
    fn a_client_is_slowed_then_refused_and_forgiven_after_the_period() {
        let throttle = throttle();
        let waits: Vec<_> = (0..3).map(|_| throttle.failed(SECOND, client(1), None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4]);
        assert_eq!(throttle.admit(SECOND, client(1), &ann()), Err(Why::ClientBlocked));
        assert_eq!(throttle.admit(SECOND, client(2), &ann()), Ok(()));
        assert_eq!(throttle.admit(SECOND * 100, client(1), &ann()), Err(Why::ClientBlocked));
        assert_eq!(throttle.admit(SECOND * 101, client(1), &ann()), Ok(()));
        assert_eq!(throttle.failed(SECOND * 101, client(1), None), SECOND);
        assert_eq!((0..40).map(|_| throttle.failed(SECOND * 101, client(1), None)).max(), Some(SECOND * 8));
    }

    #[test]
    fn an_account_is_refused_to_strangers_whether_it_exists_or_not_and_not_to_those_who_were_there() {
        let throttle = throttle();
        throttle.succeeded(SECOND, client(9), &ann());
        for name in ["Ann@example.test", "nobody@example.test"] {
            let name = Address::parse(name).unwrap();
            for number in 0..5 {
                assert_eq!(throttle.admit(SECOND, client(10 + number), &name), Ok(()));
                throttle.failed(SECOND, client(10 + number), Some(&name));
            }
            assert_eq!(throttle.admit(SECOND, client(100), &name), Err(Why::AccountBlocked), "{name}");
        }
        assert_eq!(throttle.admit(SECOND * 50, client(9), &ann()), Ok(()));
        throttle.succeeded(SECOND * 50, client(9), &ann());
        for _ in 0..5 {
            throttle.failed(SECOND * 120, client(20), Some(&ann()));
        }
        assert_eq!(throttle.admit(SECOND * 149, client(9), &ann()), Ok(()), "the last success counts");
        assert_eq!(throttle.admit(SECOND * 150, client(9), &ann()), Err(Why::AccountBlocked));
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let throttle = throttle();
        for address in ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:0:0:3"] {
            throttle.failed(SECOND, address.parse().unwrap(), None);
        }
        assert_eq!(throttle.admit(SECOND, "2001:db8::9".parse().unwrap(), &ann()), Err(Why::ClientBlocked));
        assert_eq!(throttle.admit(SECOND, "2001:db8:0:1::9".parse().unwrap(), &ann()), Ok(()));
        for _ in 0..3 {
            throttle.failed(SECOND, "::ffff:192.0.2.1".parse().unwrap(), None);
        }
        assert_eq!(throttle.admit(SECOND, client(1), &ann()), Err(Why::ClientBlocked));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let throttle = throttle();
        for _ in 0..3 {
            throttle.failed(SECOND, client(0), None);
        }
        for number in 1..=REMEMBERED_MAX as u32 {
            let name = Address::parse(&format!("user{number}@example.test")).unwrap();
            throttle.failed(SECOND * 2, client(number), Some(&name));
            throttle.succeeded(SECOND * 2, client(number), &name);
        }
        let state = throttle.state();
        assert_eq!((state.clients.counts.len(), state.clients.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!((state.accounts.counts.len(), state.friends.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        drop(state);
        assert_eq!(throttle.admit(SECOND * 2, client(0), &ann()), Ok(()), "the oldest was forgotten");
    }
}
