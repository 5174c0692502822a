//! Which site a destination's mail goes to. State: the MX sets of domains as the DNS had them of late, and who waits to know one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::{DestinationRule, DomainPattern, Outgoing};
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
    /// Its mail goes there, within these bounds.
    At(Site, Outgoing),
    /// It isn't known; `ask`: and nobody was asked yet.
    Unknown { ask: bool },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sites {
    known: BTreeMap<Domain, Known>,
    rules: Vec<DestinationRule>,
    /// Messages that wait for an answer, by the domain that was asked for.
    asked: BTreeMap<Domain, BTreeSet<QueueId>>,
}

#[derive(Debug)]
struct Known {
    site: Site,
    outgoing: Outgoing,
    until: Timestamp,
}

impl Sites {
    /// Knows nothing yet but an admin's rules.
    pub(super) fn new(rules: Vec<DestinationRule>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Where a destination's mail goes. If the answer is `Unknown`, the message waits until `learn` names it.
    pub(super) fn locate(&mut self, now: Timestamp, destination: &Destination, id: QueueId) -> Located {
        let Destination::Mx(domain) = destination else {
            return Located::At(Site::Own(destination.clone()), self.of_route(destination));
        };
        if let Some(Known { site, outgoing, .. }) = self.known.get(domain).filter(|known| known.until > now) {
            return Located::At(site.clone(), *outgoing);
        }
        let ask = !self.asked.contains_key(domain);
        self.asked.entry(domain.clone()).or_default().insert(id);
        Located::Unknown { ask }
    }

    /// Where a destination's mail was going when that was last known.
    pub(super) fn last_of(&self, destination: &Destination) -> Option<Site> {
        match destination {
            Destination::Mx(domain) => self.last(domain).cloned(),
            _ => Some(Site::Own(destination.clone())),
        }
    }

    /// The same as `locate` without asking.
    pub(super) fn at(&self, now: Timestamp, destination: &Destination) -> Option<Site> {
        let Destination::Mx(domain) = destination else { return Some(Site::Own(destination.clone())) };
        self.known.get(domain).filter(|known| known.until > now).map(|known| known.site.clone())
    }

    /// Where the mail was going when that was last known.
    pub(super) fn last(&self, domain: &Domain) -> Option<&Site> {
        self.known.get(domain).map(|known| &known.site)
    }

    /// The DNS names these hosts for a domain, in whatever order; none: it couldn't say, and an attempt has to find out why.
    /// Returns the messages that wait for this.
    pub(super) fn learn(&mut self, now: Timestamp, domain: Domain, hosts: Option<Vec<Domain>>) -> BTreeSet<QueueId> {
        let waiting = self.asked.remove(&domain).unwrap_or_default();
        if self.known.len() >= REMEMBERED_MAX {
            self.known.retain(|_, known| known.until > now);
        }
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        let mut hosts = hosts.unwrap_or_default();
        hosts.sort_unstable();
        hosts.dedup();
        let rule = self.rules.iter().find(|rule| rule.matches(Some(&domain), &hosts));
        let outgoing = rule.map(|rule| rule.outgoing).unwrap_or_default();
        let (site, time) = match name(&hosts, rule) {
            Some(name) => (Site::Hosts(name.into()), FRESH_TIME),
            None => (Site::Own(Destination::Mx(domain.clone())), UNKNOWN_TIME),
        };
        self.known.insert(domain, Known { site, outgoing, until: now.plus(time) });
        waiting
    }

    /// How many messages wait to know where a domain's mail goes, which counts as a site of its own until then.
    pub(super) fn asking_for(&self, site: &Site) -> usize {
        match site {
            Site::Own(Destination::Mx(domain)) => self.asked.get(domain).map_or(0, BTreeSet::len),
            _ => 0,
        }
    }

    /// The domains whose mail goes to a site, as far as that is remembered.
    pub(super) fn domains(&self, site: &Site) -> Vec<Domain> {
        match site {
            Site::Own(Destination::Mx(domain)) => vec![domain.clone()],
            Site::Own(_) => Vec::new(),
            Site::Hosts(_) => {
                self.known.iter().filter(|(_, known)| known.site == *site).map(|(domain, _)| domain.clone()).collect()
            }
        }
    }

    /// A clock that was set back: nothing that was heard before counts for longer than it would if it were heard now.
    pub(super) fn clamp(&mut self, now: Timestamp) {
        let latest = now.plus(FRESH_TIME);
        self.known.values_mut().for_each(|known| known.until = known.until.min(latest));
    }

    /// The bounds on mail that goes by a route: those for its hosts. Recipients of whatever domain go there.
    fn of_route(&self, destination: &Destination) -> Outgoing {
        let Destination::Route(name) = destination else { return Outgoing::default() };
        // `login@host:port,host#2`, see `route`.
        let name = name.rsplit_once('@').map_or(name.as_str(), |(_, hosts)| hosts);
        let host = |host: &str| {
            let host = host.split('#').next().unwrap_or(host);
            let name =
                host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
            Domain::parse(name).ok()
        };
        if self.rules.is_empty() {
            return Outgoing::default();
        }
        let hosts: Vec<Domain> = name.split(',').filter_map(host).collect();
        self.rules.iter().find(|rule| rule.matches(None, &hosts)).map(|rule| rule.outgoing).unwrap_or_default()
    }
}

/// What a site is called: by its hosts; by what an admin's rule says of them if all that matches is one; and by the domains that a
/// rule sets apart.
fn name(hosts: &[Domain], rule: Option<&DestinationRule>) -> Option<String> {
    if hosts.is_empty() {
        return None;
    }
    let hosts = || hosts.iter().map(Domain::as_str).collect::<Vec<_>>().join(",");
    Some(match rule {
        None => hosts(),
        Some(rule) if rule.shared => format!("{}/{}", rule.mx, rule.domain),
        Some(DestinationRule { domain: DomainPattern::Any, .. }) => hosts(),
        Some(rule) => format!("{}/{}", hosts(), rule.domain),
    })
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
        assert_eq!(sites.locate(Timestamp::ZERO, &route, QueueId(1)), Located::At(Site::Own(route.clone()), Outgoing::default()));
        assert!(sites.domains(&Site::Own(route)).is_empty());
    }

    #[test]
    fn a_rule_bounds_what_matches_and_sets_apart_what_it_names_by_domain() {
        let below = |name: &str| DomainPattern::Below(domain(name));
        let bound = |count| Outgoing { concurrency: Some(count), ..Outgoing::default() };
        let rule = |domain, mx, shared, count| DestinationRule { domain, mx, shared, outgoing: bound(count) };
        let mut sites = Sites::new(vec![
            rule(DomainPattern::Exact(domain("big.test")), DomainPattern::Any, false, 1),
            rule(DomainPattern::Any, below("each.test"), true, 2),
            rule(DomainPattern::Any, below("p.test"), false, 3),
        ]);
        let mut learn = |name: &str, host: &str| {
            sites.learn(Timestamp::ZERO, domain(name), hosts(&[host]));
            match sites.locate(Timestamp::ZERO, &Destination::Mx(domain(name)), QueueId(1)) {
                Located::At(site, outgoing) => (site.to_string(), outgoing.concurrency),
                unknown => panic!("{unknown:?}"),
            }
        };
        assert_eq!(learn("big.test", "mx.p.test"), ("hosts:mx.p.test/big.test".to_owned(), Some(1)));
        assert_eq!(learn("a.test", "mx.p.test"), ("hosts:mx.p.test".to_owned(), Some(3)));
        assert_eq!(learn("b.test", "b.each.test"), ("hosts:*.each.test/*".to_owned(), Some(2)));
        assert_eq!(learn("c.test", "c.each.test"), ("hosts:*.each.test/*".to_owned(), Some(2)));
        assert_eq!(learn("d.test", "mx.d.test"), ("hosts:mx.d.test".to_owned(), None));
        let route = |name: &str| Destination::Route(name.to_owned());
        let bounds = |sites: &mut Sites, name: &str| match sites.locate(Timestamp::ZERO, &route(name), QueueId(1)) {
            Located::At(_, outgoing) => outgoing.concurrency,
            unknown => panic!("{unknown:?}"),
        };
        assert_eq!(bounds(&mut sites, "ann@x.test@192.0.2.1:25,relay.p.test:2525#2"), Some(3));
        assert_eq!(bounds(&mut sites, "big.test"), None);
    }
}
