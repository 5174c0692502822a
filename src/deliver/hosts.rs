//! What attempts have found out about hosts: how soon they serve, whether they did of late, who takes no mail from us over IPv6; and the
//! order in which the next attempt tries them. State: that, bounded, and forgotten after a while.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Host;
use crate::mail::{Diagnosis, Site};
use crate::system::{Endpoint, Entropy};

/// How long what was found out about an address counts.
const KNOWN_TIME: Duration = Duration::from_secs(3600);
/// How long an address that didn't serve comes after its equals.
const FAILED_TIME: Duration = Duration::from_secs(600);
/// How long a host that refused us over IPv6 is tried over IPv4 first.
const REFUSED_TIME: Duration = Duration::from_secs(24 * 3600);
/// How long a connection in the clear is owed once it may be made: later the host's TLS may be in order again.
const OWED_TIME: Duration = Duration::from_secs(300);
/// Addresses, and hosts, that are remembered.
const KNOWN_MAX: usize = 10_000;
/// A host that takes half as long again as the quickest, and this, is as good: equals share the load (RFC 5321 section 5.1).
const NEAR: Duration = Duration::from_millis(10);
/// One of so many new connections goes to any of the equals, so that a host that became quicker is found out.
const EXPLORE_EVERY: u64 = 20;

/// What is known of hosts.
#[derive(Default)]
pub(super) struct Hosts {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    addresses: BTreeMap<SocketAddr, Known>,
    /// Host names, and until when they are tried over IPv4 first.
    refusing_ipv6: BTreeMap<String, Duration>,
    /// Where a handshake failed and the connection in the clear is still to be made, and for which site; until when that counts, and why.
    owed_in_clear: BTreeMap<(SocketAddr, Site), (Duration, Diagnosis)>,
}

/// An address's past.
#[derive(Clone, Copy, Default)]
struct Known {
    /// From the call to the session that takes mail, smoothed.
    latency: Option<Duration>,
    failed: Option<Duration>,
    heard: Duration,
}

/// What counts for a host's place.
#[derive(Clone, Debug, Default)]
struct View<'a> {
    name: &'a str,
    preference: u16,
    latency: Option<Duration>,
    failed: bool,
    /// An IPv6 address of a host that refuses mail over IPv6.
    refused: bool,
    /// A connection waits there.
    idle: bool,
}

impl Hosts {
    /// The hosts in the order in which they are to be tried.
    pub(super) fn arrange(
        &self,
        now: Duration,
        hosts: Vec<Host>,
        idle: impl Fn(&Host) -> bool,
        entropy: &dyn Entropy,
    ) -> Vec<Host> {
        if hosts.len() < 2 {
            return hosts;
        }
        let explore = (entropy.below(EXPLORE_EVERY) == 0).then(|| entropy.next_u64());
        let places = {
            let state = self.state();
            let views: Vec<_> = hosts.iter().map(|host| View { idle: idle(host), ..state.view(now, host) }).collect();
            order(&views, explore)
        };
        places.into_iter().filter_map(|place| hosts.get(place).cloned()).collect()
    }

    /// A new connection to it took so long until it took mail.
    pub(super) fn served(&self, now: Duration, endpoint: &Endpoint, latency: Duration) {
        self.note(now, endpoint, |known| {
            known.latency = Some(known.latency.map_or(latency, |past| (past * 3 + latency) / 4));
            known.failed = None;
        });
    }

    /// It couldn't be reached, didn't greet us, or lost the connection.
    pub(super) fn failed(&self, now: Duration, endpoint: &Endpoint) {
        self.note(now, endpoint, |known| known.failed = Some(now));
    }

    /// This host refused us for our IPv6 address.
    pub(super) fn refused_ipv6(&self, now: Duration, host: &Host) {
        let refusing = &mut self.state().refusing_ipv6;
        if refusing.len() >= KNOWN_MAX {
            refusing.retain(|_, until| *until > now);
        }
        if refusing.len() < KNOWN_MAX {
            refusing.insert(host.name.clone(), now + REFUSED_TIME);
        }
    }

    /// A handshake failed there, and the connection in the clear that should follow has to wait so long: if one is made soon after for the
    /// same site, it is to be that.
    pub(super) fn owe_in_clear(&self, now: Duration, wait: Duration, endpoint: &Endpoint, site: &Site, why: &Diagnosis) {
        let Endpoint::Tcp(address) = endpoint else { return };
        let owed = &mut self.state().owed_in_clear;
        if owed.len() >= KNOWN_MAX {
            owed.retain(|_, (until, _)| *until > now);
        }
        if owed.len() < KNOWN_MAX {
            owed.insert((*address, site.clone()), (now + wait + OWED_TIME, why.clone()));
        }
    }

    /// Whether the site's next connection there is to be in the clear, and why. Said once.
    pub(super) fn take_owed(&self, now: Duration, endpoint: &Endpoint, site: &Site) -> Option<Diagnosis> {
        let Endpoint::Tcp(address) = endpoint else { return None };
        let (until, why) = self.state().owed_in_clear.remove(&(*address, site.clone()))?;
        (until > now).then_some(why)
    }

    /// A handshake succeeded there: nothing is owed any more.
    pub(super) fn secured(&self, endpoint: &Endpoint) {
        if let Endpoint::Tcp(address) = endpoint {
            self.state().owed_in_clear.retain(|(owed, _), _| owed != address);
        }
    }

    fn note(&self, now: Duration, endpoint: &Endpoint, change: impl FnOnce(&mut Known)) {
        // Behind a Unix socket there is nobody to choose between.
        let Endpoint::Tcp(address) = endpoint else { return };
        let addresses = &mut self.state().addresses;
        if addresses.len() >= KNOWN_MAX && !addresses.contains_key(address) {
            addresses.retain(|_, known| known.counts(now));
            if addresses.len() >= KNOWN_MAX {
                return;
            }
        }
        let known = addresses.entry(*address).or_default();
        if !known.counts(now) {
            *known = Known::default();
        }
        known.heard = now;
        change(known);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn view<'a>(&self, now: Duration, host: &'a Host) -> View<'a> {
        let known = match &host.endpoint {
            Endpoint::Tcp(address) => self.addresses.get(address).filter(|known| known.counts(now)),
            Endpoint::Unix(_) => None,
        };
        View {
            name: &host.name,
            preference: host.preference,
            latency: known.and_then(|known| known.latency),
            failed: known.and_then(|known| known.failed).is_some_and(|failed| now < failed + FAILED_TIME),
            refused: is_ipv6(host) && self.refusing_ipv6.get(&host.name).is_some_and(|until| now < *until),
            idle: false,
        }
    }
}

impl Known {
    fn counts(&self, now: Duration) -> bool {
        now < self.heard + KNOWN_TIME
    }
}

/// Whether it is called over IPv6.
pub(super) fn is_ipv6(host: &Host) -> bool {
    matches!(host.endpoint, Endpoint::Tcp(address) if address.is_ipv6())
}

/// The order in which hosts are tried, as indices. The better preference always goes first, but for what refuses IPv6; among equals those
/// that didn't serve of late come last, and quick ones before slow ones. Where nothing speaks against it the order stays: it is random
/// among equal hosts, and a host's addresses are in the order that is wanted.
fn order(views: &[View<'_>], explore: Option<u64>) -> Vec<usize> {
    let latency = |view: &View<'_>| {
        let same = |other: &&View<'_>| other.preference == view.preference && other.name == view.name && !other.failed;
        views.iter().filter(same).filter_map(|same| same.latency).min()
    };
    // Zero for the quickest, those near it, and those that have to be found out about.
    let distance = |view: &View<'_>| {
        let equal = |other: &&View<'_>| other.preference == view.preference && !other.failed;
        let quickest = views.iter().filter(equal).filter_map(|equal| equal.latency).min().unwrap_or_default();
        latency(view).filter(|latency| *latency > quickest * 3 / 2 + NEAR).unwrap_or_default()
    };
    let first = views.iter().filter(|view| !view.refused).map(|view| view.preference).min();
    let candidates = || views.iter().filter(|view| Some(view.preference) == first && !view.refused && !view.failed);
    // A connection that is there already is worth more than knowledge.
    let explored = match explore.filter(|_| !candidates().any(|view| view.idle && distance(view).is_zero())) {
        Some(random) => {
            let mut names: Vec<_> = candidates().map(|view| view.name).collect();
            names.dedup();
            usize::try_from(random % names.len().max(1) as u64).ok().and_then(|chosen| names.get(chosen).copied())
        }
        None => None,
    };
    let mut order: Vec<usize> = (0..views.len()).collect();
    order.sort_by_cached_key(|place| {
        let view = &views[*place];
        let explored = Some(view.name) == explored && Some(view.preference) == first;
        (view.refused, view.preference, view.failed, Reverse(explored), distance(view), Reverse(view.idle))
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Cause, Destination, Domain, EnhancedCode};

    const MS: Duration = Duration::from_millis(1);

    fn view(name: &str, preference: u16, latency: u32) -> View<'_> {
        View { name, preference, latency: (latency > 0).then_some(MS * latency), ..View::default() }
    }

    #[test]
    fn the_preference_always_goes_first() {
        let views = [view("slow", 10, 900), view("failed", 10, 1), view("quick", 20, 1)];
        let failed = View { failed: true, ..views[1].clone() };
        assert_eq!(order(&[views[0].clone(), failed.clone(), views[2].clone()], None), [0, 1, 2]);
        assert_eq!(order(&[failed, views[2].clone()], None), [0, 1], "also one that failed");
    }

    #[test]
    fn among_equals_the_quick_go_first_and_those_near_each_other_as_they_come() {
        let views = [view("slow", 10, 300), view("b", 10, 110), view("a", 10, 100), view("slower", 10, 400)];
        assert_eq!(order(&views, None), [1, 2, 0, 3]);
        let unknown = [view("slow", 10, 300), view("quick", 10, 20), view("new", 10, 0)];
        assert_eq!(order(&unknown, None), [1, 2, 0], "what isn't known is found out");
    }

    #[test]
    fn what_failed_of_late_comes_last_among_equals() {
        let failed = View { failed: true, ..view("a", 10, 1) };
        let views = [failed.clone(), view("a", 10, 0), view("b", 10, 500), view("c", 20, 1)];
        assert_eq!(order(&views, None), [1, 2, 0, 3], "its quick address doesn't count any more");
    }

    #[test]
    fn an_idle_connection_counts_among_those_that_are_as_good() {
        let idle = |view: View<'static>| View { idle: true, ..view };
        assert_eq!(order(&[view("a", 10, 100), idle(view("b", 10, 110))], None), [1, 0]);
        assert_eq!(order(&[view("a", 10, 100), idle(view("b", 10, 110))], Some(0)), [1, 0], "nothing is explored then");
        assert_eq!(order(&[view("a", 10, 100), idle(view("slow", 10, 500))], None), [0, 1]);
        assert_eq!(order(&[view("a", 10, 100), idle(view("b", 20, 100))], None), [0, 1]);
    }

    #[test]
    fn a_little_exploration_tries_any_of_the_best_preference() {
        let failed = View { failed: true, ..view("dead", 10, 1) };
        let views = [view("quick", 10, 10), view("slow", 10, 500), failed, view("backup", 20, 1)];
        assert_eq!(order(&views, Some(0)), [0, 1, 2, 3]);
        assert_eq!(order(&views, Some(1)), [1, 0, 2, 3]);
        assert_eq!(order(&views, Some(2)), [0, 1, 2, 3], "not what failed, and no backup");
    }

    #[test]
    fn addresses_that_refuse_ipv6_come_last_of_all() {
        let refused = View { refused: true, ..view("a", 10, 1) };
        assert_eq!(order(&[refused, view("a", 10, 0), view("b", 20, 0)], None), [1, 2, 0]);
    }

    fn site(domain: &str) -> Site {
        Site::Own(Destination::Mx(Domain::parse(domain).unwrap()))
    }

    fn host(address: &str) -> Host {
        Host { name: "mx.test".to_owned(), preference: 0, endpoint: Endpoint::Tcp(address.parse().unwrap()) }
    }

    #[test]
    fn a_connection_in_the_clear_is_owed_until_soon_after_it_may_be_made_and_while_no_handshake_succeeds() {
        let hosts = Hosts::default();
        let endpoint = host("192.0.2.1:25").endpoint;
        let why = Diagnosis::new(EnhancedCode(4, 7, 5), Cause::Remote, "broken");
        let owed_after = |time: Duration, secured: bool| {
            hosts.owe_in_clear(MS, MS * 60, &endpoint, &site("a.test"), &why);
            if secured {
                hosts.secured(&endpoint);
            }
            hosts.take_owed(MS + time, &endpoint, &site("a.test")).is_some()
        };
        let last = MS * 60 + OWED_TIME - MS;
        assert_eq!([owed_after(last, false), owed_after(last + MS, false), owed_after(MS * 60, true)], [true, false, false]);
        let taken_by = |name| hosts.take_owed(MS * 61, &endpoint, &site(name)).is_some();
        assert!(owed_after(MS * 60, false) && !taken_by("a.test"), "one connection");
        hosts.owe_in_clear(MS, MS * 60, &endpoint, &site("a.test"), &why);
        assert_eq!([taken_by("b.test"), taken_by("a.test")], [false, true], "its own");
        for number in 0..KNOWN_MAX as u32 + 10 {
            let many = Endpoint::Tcp((std::net::Ipv4Addr::from_bits(number), 25).into());
            hosts.owe_in_clear(MS, MS, &many, &site("a.test"), &why);
        }
        assert_eq!(hosts.state().owed_in_clear.len(), KNOWN_MAX);
    }

    #[test]
    fn what_is_known_is_smoothed_forgotten_and_bounded() {
        let hosts = Hosts::default();
        let (first, endpoint) = (host("192.0.2.1:25"), host("192.0.2.1:25").endpoint);
        hosts.served(MS, &endpoint, MS * 100);
        hosts.served(MS, &endpoint, MS * 500);
        assert_eq!(hosts.state().view(MS, &first).latency, Some(MS * 200));
        hosts.failed(MS * 2, &endpoint);
        assert!(hosts.state().view(FAILED_TIME, &first).failed);
        assert!(!hosts.state().view(FAILED_TIME + MS * 2, &first).failed);
        assert_eq!(hosts.state().view(KNOWN_TIME + MS * 2, &first).latency, None);
        let (v4, v6) = (host("192.0.2.1:25"), host("[2001:db8::1]:25"));
        hosts.refused_ipv6(MS, &v6);
        let refused = |now, host| hosts.state().view(now, host).refused;
        assert_eq!([refused(MS, &v6), refused(MS, &v4), refused(MS + REFUSED_TIME, &v6)], [true, false, false]);
        for number in 0..KNOWN_MAX as u32 + 10 {
            let mut many = host("192.0.2.1:25");
            many.endpoint = Endpoint::Tcp((std::net::Ipv4Addr::from_bits(number), 25).into());
            many.name = format!("mx{number}.test");
            hosts.failed(MS * 3, &many.endpoint);
            hosts.refused_ipv6(MS * 3, &many);
        }
        assert_eq!(hosts.state().addresses.len(), KNOWN_MAX);
        assert_eq!(hosts.state().refusing_ipv6.len(), KNOWN_MAX);
        hosts.served(MS * 3 + KNOWN_TIME, &host("192.0.2.2:25").endpoint, MS);
        assert_eq!(hosts.state().addresses.len(), 1, "the old make room");
    }
}
