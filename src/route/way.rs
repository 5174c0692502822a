//! How a destination's hosts are called: protocol, encryption, login, addresses. Owns nothing; made of `[[route]]` and `[remote]`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{Family, Remote, RemoteTls, Route, RouteHost, RouteLogin};
use crate::mail::Destination;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// The hosts, if they are configured; else the DNS names them.
    pub(super) hosts: Vec<RouteHost>,
    /// How connections are encrypted.
    pub tls: RemoteTls,
    /// The server is this site's store: what it takes has arrived.
    pub store: bool,
    /// The same for mail whose sender says that TLS isn't required: what a route asks for, it asks for; what `[remote]` does is a wish.
    pub tls_waived: RemoteTls,
    /// TLS from the first octet.
    pub implicit_tls: bool,
    /// Who we are to the hosts, if we log in.
    pub login: Option<RouteLogin>,
    /// Which addresses of a host are called, and which first.
    pub family: Family,
    /// Our own addresses to call from; empty: the system chooses.
    pub sources: Vec<IpAddr>,
}

impl Way {
    /// To MX hosts that no route is about.
    pub(super) fn general(remote: &Remote) -> Self {
        Self {
            hosts: Vec::new(),
            tls: remote.tls,
            store: false,
            tls_waived: remote.tls.min(RemoteTls::Opportunistic),
            implicit_tls: false,
            login: None,
            family: remote.family,
            sources: remote.sources.clone(),
        }
    }

    /// To the store of this site.
    pub(super) fn here(&self) -> Self {
        Self {
            tls: RemoteTls::None,
            tls_waived: RemoteTls::None,
            store: true,
            family: Family::Any,
            sources: Vec::new(),
            ..self.clone()
        }
    }

    /// As a route says, and where it is silent, as `[remote]` does.
    pub(super) fn new(route: &Route, remote: &Remote) -> Self {
        let general = Self::general(remote);
        let sources = if route.sources.is_empty() { &remote.sources } else { &route.sources };
        Self {
            hosts: route.hosts.clone(),
            // A route that is there for something else must not make the way to MX hosts less safe than all the others.
            tls: if route.hosts.is_empty() { route.tls.max(remote.tls) } else { route.tls },
            store: false,
            tls_waived: if route.hosts.is_empty() { route.tls.max(general.tls_waived) } else { route.tls },
            implicit_tls: route.implicit_tls,
            login: route.login.clone(),
            family: route.family.unwrap_or(remote.family),
            sources: sources.clone(),
        }
    }

    /// What is special about it, for people, a line each.
    pub(super) fn describe(&self) -> Vec<String> {
        let tls = match self.tls {
            RemoteTls::None => "not encrypted",
            RemoteTls::Opportunistic => "TLS where it can be had",
            RemoteTls::Require => "TLS always, with whatever certificate",
            RemoteTls::Verify => "TLS always, with a certificate that is the host's",
        };
        let mut lines = vec![format!("{tls}{}", if self.implicit_tls { ", from the first octet" } else { "" })];
        if let Some(RouteLogin { name, password_file }) = &self.login {
            lines.push(format!("logged in as {name}, with the password in {}", password_file.display()));
        }
        match self.family {
            Family::Any => {}
            Family::Ipv4 => lines.push("only IPv4 addresses".to_owned()),
            Family::Ipv6 => lines.push("only IPv6 addresses".to_owned()),
            Family::Ipv4First => lines.push("IPv4 addresses first".to_owned()),
            Family::Ipv6First => lines.push("IPv6 addresses first".to_owned()),
        }
        if !self.sources.is_empty() {
            let sources: Vec<String> = self.sources.iter().map(IpAddr::to_string).collect();
            lines.push(format!("called from {}", sources.join(" or ")));
        }
        lines
    }

    /// Whether this address may be called: it is of a family that is wanted, and we have an address of it, where one is needed.
    pub(super) fn calls(&self, ip: IpAddr) -> bool {
        let source =
            self.sources.is_empty() || ip.is_loopback() || self.sources.iter().any(|source| source.is_ipv4() == ip.is_ipv4());
        source && self.family.has(ip)
    }
}

#[cfg(test)]
impl Way {
    /// One that is special in nothing but its encryption.
    pub(crate) fn sample(tls: RemoteTls) -> Self {
        let tls_waived = tls.min(RemoteTls::Opportunistic);
        Self {
            hosts: Vec::new(),
            tls,
            tls_waived,
            store: false,
            implicit_tls: false,
            login: None,
            family: Family::Any,
            sources: Vec::new(),
        }
    }
}

/// Enters a route's way, and returns its destination; none where the DNS names the hosts. Routes that differ in nothing but whom
/// they are for share a destination. Its name says what the route is, so that another route doesn't change it: what is counted and shown
/// under it goes on. Only routes that have the same name, and still differ, have numbers.
pub(super) fn enter(ways: &mut BTreeMap<Destination, Way>, route: &Route, remote: &Remote) -> Option<Destination> {
    if route.hosts.is_empty() {
        return None;
    }
    let way = Way::new(route, remote);
    let name = name(route);
    let named = |name: String| if route.lmtp { Destination::Lmtp(name) } else { Destination::Route(name) };
    let mut destination = named(name.clone());
    let mut number = 1;
    while ways.get(&destination).is_some_and(|other| *other != way) {
        number += 1;
        destination = named(format!("{name}#{number}"));
    }
    ways.insert(destination.clone(), way);
    Some(destination)
}

/// `login@host:port,host#verify#ipv4#192.0.2.1`: the hosts, and what else the route says of the way there.
fn name(route: &Route) -> String {
    let usual = Route::new(route.domain.clone(), Vec::new());
    let login = route.login.iter().map(|login| format!("{}@", login.name));
    let hosts: Vec<String> = route.hosts.iter().map(RouteHost::to_string).collect();
    let tls = (route.tls != usual.tls).then(|| format!("#{}", route.tls.as_str()));
    let implicit = route.implicit_tls.then(|| "#implicit".to_owned());
    let family = route.family.map(|family| format!("#{}", family.as_str()));
    let sources = route.sources.iter().map(|source| format!("#{source}"));
    login.chain([hosts.join(",")]).chain(tls).chain(implicit).chain(family).chain(sources).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DomainPattern, HostPort};
    use crate::mail::Domain;

    fn route() -> Route {
        let host = |host: &str, port| RouteHost::Tcp(HostPort { host: Domain::parse(host).unwrap(), port });
        let hosts = vec![host("[192.0.2.1]", Some(25)), host("relay.test", None)];
        Route::new(DomainPattern::Any, hosts)
    }

    #[test]
    fn a_route_has_its_name_whatever_others_there_are() {
        let login = |file: &str| Some(RouteLogin { name: "ann@x.test".to_owned(), password_file: file.into() });
        let routes = [
            route(),
            Route { tls: RemoteTls::None, ..route() },
            Route { login: login("a"), tls: RemoteTls::Verify, implicit_tls: true, ..route() },
            Route { login: login("b"), tls: RemoteTls::Verify, implicit_tls: true, ..route() },
            Route { family: Some(Family::Ipv4), sources: [1, 2].map(|last| IpAddr::from([50, 9, 9, last])).to_vec(), ..route() },
        ];
        let names = |routes: &mut dyn Iterator<Item = &Route>| -> Vec<String> {
            let (mut ways, remote) = (BTreeMap::new(), Remote::sample());
            routes.map(|route| enter(&mut ways, route, &remote).unwrap().to_string()).collect()
        };
        let expected = [
            "route:192.0.2.1:25,relay.test",
            "route:192.0.2.1:25,relay.test#none",
            "route:ann@x.test@192.0.2.1:25,relay.test#verify#implicit",
            "route:ann@x.test@192.0.2.1:25,relay.test#verify#implicit#2",
            "route:192.0.2.1:25,relay.test#ipv4#50.9.9.1#50.9.9.2",
        ];
        assert_eq!(names(&mut routes.iter()), expected);
        assert_eq!(names(&mut routes[1..].iter()), expected[1..], "without the first");
        let mut backwards = names(&mut routes.iter().rev());
        backwards.sort();
        let mut sorted = expected;
        sorted.sort();
        assert_eq!(backwards, sorted);
    }
}
