//! Which site a destination's mail goes to. State: the MX sets of domains as the DNS had them of late, and who waits to know one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::line::Bounds;
use super::pools::Pools;
use crate::config::{DestinationRule, DomainPattern, Outgoing, Source};
use crate::mail::{Destination, Domain, Message, QueueId, ReversePath, Site, Timestamp};

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
    At(Site, Bounds),
    /// It isn't known; `ask`: and nobody was asked yet.
    Unknown { ask: bool },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sites {
    known: BTreeMap<Domain, Known>,
    /// On mail to a destination.
    rules: Vec<DestinationRule>,
    /// On what leaves from an address.
    by_source: Vec<DestinationRule>,
    pools: Pools,
    /// Messages that wait for an answer, by the domain that was asked for.
    asked: BTreeMap<Domain, BTreeSet<QueueId>>,
}

#[derive(Debug)]
struct Known {
    site: Site,
    /// The names of its MX hosts.
    hosts: Vec<Domain>,
    outgoing: Outgoing,
    until: Timestamp,
}

impl Sites {
    /// Knows nothing yet but an admin's rules, and which addresses of ours mail leaves from.
    pub(super) fn new(rules: Vec<DestinationRule>, pools: Pools) -> Self {
        let (by_source, rules) = rules.into_iter().partition(|rule| rule.source.is_some());
        Self { rules, by_source, pools, ..Self::default() }
    }

    /// Where a message goes for the sake of a destination. If the answer is `Unknown`, it waits until `learn` names it.
    pub(super) fn locate(&mut self, now: Timestamp, destination: &Destination, message: &Message) -> Located {
        let (site, outgoing) = match destination {
            Destination::Mx(domain) => match self.known.get(domain).filter(|known| known.until > now) {
                Some(Known { site, outgoing, .. }) => (site.clone(), *outgoing),
                None => {
                    let ask = !self.asked.contains_key(domain);
                    self.asked.entry(domain.clone()).or_default().insert(message.id);
                    return Located::Unknown { ask };
                }
            },
            _ => (Site::Own(destination.clone()), self.of_route(destination)),
        };
        let (site, sources) = self.leaving(site, destination, &message.reverse_path);
        Located::At(site, Bounds { outgoing, sources })
    }

    /// Where a sender's mail to a destination was going when that was last known.
    pub(super) fn last_of(&self, destination: &Destination, sender: &ReversePath) -> Option<Site> {
        let site = match destination {
            Destination::Mx(domain) => self.last(domain)?.clone(),
            _ => Site::Own(destination.clone()),
        };
        Some(self.leaving(site, destination, sender).0)
    }

    /// The same as `locate` without asking.
    pub(super) fn of(&self, now: Timestamp, destination: &Destination, sender: &ReversePath) -> Option<Site> {
        let site = self.at(now, destination)?;
        Some(self.leaving(site, destination, sender).0)
    }

    /// Where a destination's mail goes, whatever address of ours it leaves from, if that is known.
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
        self.known.insert(domain, Known { site, hosts, outgoing, until: now.plus(time) });
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
            Site::From(site, _) => self.domains(site),
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
        if self.rules.is_empty() {
            return Outgoing::default();
        }
        let Destination::Route(name) = destination else { return Outgoing::default() };
        let hosts = route_hosts(name);
        self.rules.iter().find(|rule| rule.matches(None, &hosts)).map(|rule| rule.outgoing).unwrap_or_default()
    }

    /// The part of a site where a sender's mail stands, and the addresses that it leaves from: if a rule bounds one of them.
    fn leaving(&self, site: Site, destination: &Destination, sender: &ReversePath) -> (Site, Arc<[Source]>) {
        let pool = self.pools.of(destination, sender);
        if pool.is_empty() || self.by_source.is_empty() {
            return (site, Arc::default());
        }
        let by_route = |name: &String| (None, route_hosts(name));
        let by_mx = |domain| (Some(domain), self.known.get(domain).map(|known| known.hosts.clone()).unwrap_or_default());
        let (domain, hosts) = match destination {
            Destination::Mx(domain) => by_mx(domain),
            Destination::Route(name) => by_route(name),
            Destination::Local(_) | Destination::Lmtp(_) => return (site, Arc::default()),
        };
        let rule = |ip: &IpAddr| self.by_source.iter().find(|rule| rule.source == Some(*ip) && rule.matches(domain, &hosts));
        let rules: Vec<_> = pool.iter().map(|ip| (*ip, rule(ip))).collect();
        if rules.iter().all(|(_, rule)| rule.is_none()) {
            return (site, Arc::default());
        }
        // Where a rule makes one site of several MX sets, rules by source may tell them apart.
        let merged = matches!(&site, Site::Hosts(name) if **name != *joined(&hosts));
        let sources = rules.iter().map(|(ip, rule)| source(&site, *ip, *rule, merged)).collect();
        // What a rule names is set apart from other mail that leaves from there to the same site.
        let apart: BTreeSet<String> = rules.iter().filter_map(|(_, rule)| set_apart(*rule, merged)).collect();
        let addresses: Vec<String> = pool.iter().map(IpAddr::to_string).collect();
        (Site::From(Arc::new(site), format!("{}{}", addresses.join(","), Vec::from_iter(apart).concat()).into()), sources)
    }
}

/// Our address with what bounds it, on the way to a site; shared: wherever it leads.
fn source(site: &Site, ip: IpAddr, rule: Option<&DestinationRule>, merged: bool) -> Source {
    let scope = match rule {
        Some(rule) if rule.shared => format!("{ip} to {}/{}", rule.mx, rule.domain),
        _ => format!("{ip} to {site}{}", set_apart(rule, merged).unwrap_or_default()),
    };
    Source { ip, scope: scope.into(), outgoing: rule.map(|rule| rule.outgoing).unwrap_or_default() }
}

/// What tells the mail that a rule by source is for from other mail to the same site, if not all of that is; `merged`: it has several MX sets.
fn set_apart(rule: Option<&DestinationRule>, merged: bool) -> Option<String> {
    let DestinationRule { domain, mx, .. } = rule?;
    match merged && *mx != DomainPattern::Any {
        true => Some(format!("/{mx}/{domain}")),
        false if *domain == DomainPattern::Any => None,
        false => Some(format!("/{domain}")),
    }
}

/// The hosts in a route's name: `login@host:port,host#verify`, see `route`.
fn route_hosts(name: &str) -> Vec<Domain> {
    let hosts = name.rsplit_once('@').map_or(name, |(_, hosts)| hosts);
    let hosts = hosts.split_once('#').map_or(hosts, |(hosts, _)| hosts);
    let host = |host: &str| {
        let name =
            host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
        Domain::parse(name).ok()
    };
    hosts.split(',').filter_map(host).collect()
}

/// What a site is called: by its hosts; by what an admin's rule says of them if all that matches is one; and by the domains that a
/// rule sets apart.
fn name(hosts: &[Domain], rule: Option<&DestinationRule>) -> Option<String> {
    if hosts.is_empty() {
        return None;
    }
    Some(match rule {
        None => joined(hosts),
        Some(rule) if rule.shared => format!("{}/{}", rule.mx, rule.domain),
        Some(DestinationRule { domain: DomainPattern::Any, .. }) => joined(hosts),
        Some(rule) => format!("{}/{}", joined(hosts), rule.domain),
    })
}

fn joined(hosts: &[Domain]) -> String {
    hosts.iter().map(Domain::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AddressPattern, Route, SenderPattern};
    use crate::queue::tests::message;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    /// One from anybody.
    fn letter(id: u64, from: &str) -> Message {
        message(id, from, &[])
    }

    fn hosts(names: &[&str]) -> Option<Vec<Domain>> {
        Some(names.iter().map(|name| domain(name)).collect())
    }

    #[test]
    fn domains_with_the_same_hosts_in_any_order_are_one_site() {
        let mut sites = Sites::default();
        let now = Timestamp::from_millis(1_000_000);
        let a = Destination::Mx(domain("a.test"));
        assert_eq!(sites.locate(now, &a, &letter(1, "ann@x.test")), Located::Unknown { ask: true });
        assert_eq!(sites.locate(now, &a, &letter(2, "ann@x.test")), Located::Unknown { ask: false });
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
        assert_eq!(
            sites.locate(Timestamp::ZERO, &route, &letter(1, "ann@x.test")),
            Located::At(Site::Own(route.clone()), Bounds::default())
        );
        assert!(sites.domains(&Site::Own(route)).is_empty());
    }

    #[test]
    fn a_rule_bounds_what_matches_and_sets_apart_what_it_names_by_domain() {
        let below = |name: &str| DomainPattern::Below(domain(name));
        let bound = |count| Outgoing { concurrency: Some(count), ..Outgoing::default() };
        let rule = |domain, mx, shared, count| DestinationRule { domain, mx, source: None, shared, outgoing: bound(count) };
        let mut sites = Sites::new(
            Vec::from([
                rule(DomainPattern::Exact(domain("big.test")), DomainPattern::Any, false, 1),
                rule(DomainPattern::Any, below("each.test"), true, 2),
                rule(DomainPattern::Any, below("p.test"), false, 3),
            ]),
            Pools::default(),
        );
        let mut learn = |name: &str, host: &str| {
            sites.learn(Timestamp::ZERO, domain(name), hosts(&[host]));
            match sites.locate(Timestamp::ZERO, &Destination::Mx(domain(name)), &letter(1, "ann@x.test")) {
                Located::At(site, bounds) => (site.to_string(), bounds.outgoing.concurrency),
                unknown => panic!("{unknown:?}"),
            }
        };
        assert_eq!(learn("big.test", "mx.p.test"), ("hosts:mx.p.test/big.test".to_owned(), Some(1)));
        assert_eq!(learn("a.test", "mx.p.test"), ("hosts:mx.p.test".to_owned(), Some(3)));
        assert_eq!(learn("b.test", "b.each.test"), ("hosts:*.each.test/*".to_owned(), Some(2)));
        assert_eq!(learn("c.test", "c.each.test"), ("hosts:*.each.test/*".to_owned(), Some(2)));
        assert_eq!(learn("d.test", "mx.d.test"), ("hosts:mx.d.test".to_owned(), None));
        let route = |name: &str| Destination::Route(name.to_owned());
        let bounds = |sites: &mut Sites, name: &str| match sites.locate(Timestamp::ZERO, &route(name), &letter(1, "ann@x.test")) {
            Located::At(_, bounds) => bounds.outgoing.concurrency,
            unknown => panic!("{unknown:?}"),
        };
        assert_eq!(bounds(&mut sites, "ann@x.test@192.0.2.1:25,relay.p.test:2525#verify#192.0.2.9"), Some(3));
        assert_eq!(bounds(&mut sites, "big.test"), None);
    }

    #[test]
    fn what_leaves_from_a_bounded_address_is_set_apart_and_bounded_beside_the_site() {
        let ip = |last: u8| IpAddr::from([192, 0, 2, last]);
        let bound = |count| Outgoing { concurrency: Some(count), ..Outgoing::default() };
        let rule = |domain: &DomainPattern, source: Option<u8>, shared, count| DestinationRule {
            domain: domain.clone(),
            mx: DomainPattern::Any,
            source: source.map(ip),
            shared,
            outgoing: bound(count),
        };
        let of_news = SenderPattern::Address(AddressPattern::All(domain("news.test")));
        let news = Route { sender: of_news, sources: vec![ip(3)], ..Route::new(DomainPattern::Any, Vec::new()) };
        let plain = SenderPattern::Address(AddressPattern::All(domain("plain.test")));
        let plain = Route { sender: plain, sources: vec![ip(4)], ..Route::new(DomainPattern::Any, Vec::new()) };
        let routes = [news, plain];
        let (any, big) = (DomainPattern::Any, DomainPattern::Exact(domain("big.test")));
        let rules = vec![
            rule(&big, Some(1), false, 1),
            rule(&any, Some(1), false, 2),
            rule(&any, Some(3), true, 3),
            rule(&any, None, false, 9),
        ];
        let relay = Destination::Route("relay.test".to_owned());
        let pools = Pools::new(&routes, &[ip(1), ip(2)], BTreeMap::from([(relay.clone(), vec![ip(1)])]));
        let mut sites = Sites::new(rules, pools);
        for name in ["a.test", "big.test"] {
            sites.learn(Timestamp::ZERO, domain(name), hosts(&["mx.p.test"]));
        }
        let mut of = |destination: &Destination, from: &str| {
            let Located::At(site, bounds) = sites.locate(Timestamp::ZERO, destination, &letter(1, from)) else {
                panic!("{from}")
            };
            assert_eq!(bounds.outgoing.concurrency, Some(9), "whatever it leaves from");
            let source = |source: &Source| format!("{} {:?}", source.scope, source.outgoing.concurrency);
            (site.to_string(), bounds.sources.iter().map(source).collect::<Vec<_>>())
        };
        let (a, big) = (Destination::Mx(domain("a.test")), Destination::Mx(domain("big.test")));
        let (site, sources) = of(&a, "ann@x.test");
        assert_eq!(site, "hosts:mx.p.test from 192.0.2.1,192.0.2.2");
        assert_eq!(sources, ["192.0.2.1 to hosts:mx.p.test Some(2)", "192.0.2.2 to hosts:mx.p.test None"]);
        let (site, sources) = of(&big, "ann@x.test");
        assert_eq!(site, "hosts:mx.p.test from 192.0.2.1,192.0.2.2/big.test");
        assert_eq!(sources[0], "192.0.2.1 to hosts:mx.p.test/big.test Some(1)");
        let (site, sources) = of(&a, "x@news.test");
        assert_eq!(site, "hosts:mx.p.test from 192.0.2.3");
        assert_eq!(sources, ["192.0.2.3 to */* Some(3)"], "wherever it leads");
        assert_eq!(of(&a, "x@plain.test"), ("hosts:mx.p.test".to_owned(), Vec::new()), "nothing bounds that one");
        let (site, sources) = of(&relay, "ann@x.test");
        assert_eq!(site, "route:relay.test from 192.0.2.1");
        assert_eq!(sources, ["192.0.2.1 to route:relay.test Some(2)"]);
        let (site, _) = of(&Destination::Mx(domain("big.test")), "");
        assert_eq!(sites.domains(&Site::Hosts("mx.p.test".into())), [domain("a.test"), domain("big.test")]);
        assert_eq!(sites.last_of(&big, &ReversePath::Null).map(|site| site.to_string()), Some(site));
    }

    #[test]
    fn bounds_by_source_that_tell_the_hosts_of_one_site_apart_are_for_lines_of_their_own() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        let rule = |mx: DomainPattern, source, shared, count| DestinationRule {
            domain: DomainPattern::Any,
            mx,
            source,
            shared,
            outgoing: Outgoing { concurrency: Some(count), ..Outgoing::default() },
        };
        let exact = |name: &str| DomainPattern::Exact(domain(name));
        let rules = vec![
            rule(DomainPattern::Below(domain("p.test")), None, true, 9),
            rule(exact("a.p.test"), Some(ip), false, 1),
            rule(exact("b.p.test"), Some(ip), false, 5),
        ];
        let mut sites = Sites::new(rules, Pools::new(&[], &[ip], BTreeMap::new()));
        let mut of = |name: &str| {
            sites.learn(Timestamp::ZERO, domain(&format!("{name}.test")), hosts(&[&format!("{name}.p.test")]));
            let to = Destination::Mx(domain(&format!("{name}.test")));
            let Located::At(site, bounds) = sites.locate(Timestamp::ZERO, &to, &letter(1, "ann@x.test")) else {
                panic!("{name}")
            };
            assert_eq!(site.whole().to_string(), "hosts:*.p.test/*");
            let source = bounds.sources.first();
            (site.to_string(), source.map(|source| (source.scope.to_string(), source.outgoing.concurrency)))
        };
        let at = |apart: &str| format!("hosts:*.p.test/* from 192.0.2.1/{apart}.p.test/*");
        let scope = |apart: &str| format!("192.0.2.1 to hosts:*.p.test/*/{apart}.p.test/*");
        assert_eq!(of("a"), (at("a"), Some((scope("a"), Some(1)))));
        assert_eq!(of("b"), (at("b"), Some((scope("b"), Some(5)))));
        assert_eq!(of("c"), ("hosts:*.p.test/*".to_owned(), None), "nothing bounds that one");
    }
}
