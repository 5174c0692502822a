//! Which site a destination's mail goes to. State: the MX sets of domains as the DNS had them of late, and who waits to know one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::mail::{Destination, Domain, QueueId, Site, Timestamp};

/// How long an MX set counts before it is asked for again. The resolver knows how long an answer is good for; a change of the DNS
/// moves waiting mail no later than this after the resolver has heard of it.
const FRESH_TIME: Duration = Duration::from_secs(300);
/// The same where there was none: what was in the way then may be gone.
const UNKNOWN_TIME: Duration = Duration::from_secs(60);
/// Domains that are remembered.
const REMEMBERED_MAX: usize = 100_000;

/// What is known of a destination's site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// Its mail goes there.
    At(Site),
    /// It isn't known; `ask`: and nobody was asked yet.
    Unknown { ask: bool },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sites {
    known: BTreeMap<Domain, (Site, Timestamp)>,
    /// Messages that wait for an answer, by the domain that was asked for.
    asked: BTreeMap<Domain, BTreeSet<QueueId>>,
}

impl Sites {
    /// Where a destination's mail goes. If the answer is `Unknown`, the message waits until `learn` names it.
    pub(super) fn locate(&mut self, now: Timestamp, destination: &Destination, id: QueueId) -> Located {
        if let Some(site) = self.at(now, destination) {
            return Located::At(site);
        }
        let Destination::Mx(domain) = destination else { return Located::At(Site::Own(destination.clone())) };
        let ask = !self.asked.contains_key(domain);
        self.asked.entry(domain.clone()).or_default().insert(id);
        Located::Unknown { ask }
    }

    /// The same without asking.
    pub(super) fn at(&self, now: Timestamp, destination: &Destination) -> Option<Site> {
        let Destination::Mx(domain) = destination else { return Some(Site::Own(destination.clone())) };
        self.known.get(domain).filter(|(_, until)| *until > now).map(|(site, _)| site.clone())
    }

    /// Where the mail was going when that was last known.
    pub(super) fn last(&self, domain: &Domain) -> Option<&Site> {
        self.known.get(domain).map(|(site, _)| site)
    }

    /// The DNS names these hosts for a domain, in whatever order; none: it couldn't say, and an attempt has to find out why.
    /// Returns the messages that wait for this.
    pub(super) fn learn(&mut self, now: Timestamp, domain: Domain, hosts: Option<Vec<Domain>>) -> BTreeSet<QueueId> {
        let waiting = self.asked.remove(&domain).unwrap_or_default();
        if self.known.len() >= REMEMBERED_MAX {
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        let (site, time) = match hosts.filter(|hosts| !hosts.is_empty()) {
            Some(hosts) => (Site::Hosts(names(hosts).into()), FRESH_TIME),
            None => (Site::Own(Destination::Mx(domain.clone())), UNKNOWN_TIME),
        };
        self.known.insert(domain, (site, now.plus(time)));
        waiting
    }

    /// The domains whose mail goes to a site, as far as that is remembered.
    pub(super) fn domains(&self, site: &Site) -> Vec<Domain> {
        match site {
            Site::Own(Destination::Mx(domain)) => vec![domain.clone()],
            Site::Own(_) => Vec::new(),
            Site::Hosts(_) => {
                self.known.iter().filter(|(_, (known, _))| known == site).map(|(domain, _)| domain.clone()).collect()
            }
        }
    }

    /// A clock that was set back: nothing that was heard before counts for longer than it would if it were heard now.
    pub(super) fn clamp(&mut self, now: Timestamp) {
        let latest = now.plus(FRESH_TIME);
        self.known.values_mut().for_each(|(_, until)| *until = (*until).min(latest));
    }
}

fn names(mut hosts: Vec<Domain>) -> String {
    hosts.sort_unstable();
    hosts.dedup();
    hosts.iter().map(Domain::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn hosts(names: &[&str]) -> Option<Vec<Domain>> {
        Some(names.iter().map(|name| domain(name)).collect())
    }

    #[test]
    fn domains_with_the_same_hosts_in_any_order_are_one_site() {
        let mut sites = Sites::default();
        let now = Timestamp::from_millis(1_000_000);
        let a = Destination::Mx(domain("a.test"));
        assert_eq!(sites.locate(now, &a, QueueId(1)), Located::Unknown { ask: true });
        assert_eq!(sites.locate(now, &a, QueueId(2)), Located::Unknown { ask: false });
        let waiting = sites.learn(now, domain("a.test"), hosts(&["mx2.p.test", "mx1.p.test"]));
        assert_eq!(waiting, BTreeSet::from([QueueId(1), QueueId(2)]));
        sites.learn(now, domain("b.test"), hosts(&["mx1.p.test", "mx2.p.test", "mx1.p.test"]));
        let site = sites.at(now, &a).unwrap();
        assert_eq!(site.to_string(), "hosts:mx1.p.test,mx2.p.test");
        assert_eq!(sites.at(now, &Destination::Mx(domain("b.test"))), Some(site.clone()));
        assert_eq!(sites.domains(&site), [domain("a.test"), domain("b.test")]);
    }

    #[test]
    fn knowledge_grows_old_and_no_answer_grows_old_sooner() {
        let mut sites = Sites::default();
        let now = Timestamp::from_millis(1_000_000);
        let (a, b) = (Destination::Mx(domain("a.test")), Destination::Mx(domain("b.test")));
        sites.learn(now, domain("a.test"), hosts(&["mx.a.test"]));
        sites.learn(now, domain("b.test"), None);
        assert_eq!(sites.at(now, &b), Some(Site::Own(b.clone())));
        let later = now.plus(UNKNOWN_TIME);
        assert!(sites.at(later, &a).is_some() && sites.at(later, &b).is_none());
        assert_eq!(sites.at(now.plus(FRESH_TIME), &a), None);
        assert_eq!(sites.last(&domain("a.test")).unwrap().to_string(), "hosts:mx.a.test");
    }

    #[test]
    fn what_has_no_mx_is_a_site_by_itself() {
        let mut sites = Sites::default();
        let route = Destination::Route("relay.test".to_owned());
        assert_eq!(sites.locate(Timestamp::ZERO, &route, QueueId(1)), Located::At(Site::Own(route.clone())));
        assert!(sites.domains(&Site::Own(route)).is_empty());
    }
}
