//! Which of our own addresses mail may leave from, as far as that counts for bounds. Owns nothing but values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Route;
use crate::mail::{Destination, ReversePath};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pools {
    /// In order; the first that matches counts.
    routes: Vec<Route>,
    /// Where no route says anything.
    general: Vec<IpAddr>,
    /// Of destinations whose hosts are configured.
    configured: BTreeMap<Destination, Vec<IpAddr>>,
}

impl Pools {
    /// Those that a configuration names; `configured` has those of destinations whose hosts are configured.
    pub fn new(routes: &[Route], remote: &[IpAddr], configured: BTreeMap<Destination, Vec<IpAddr>>) -> Self {
        Self { routes: routes.to_vec(), general: remote.to_vec(), configured }
    }

    /// The addresses that this sender's mail to a destination may leave from.
    pub(super) fn of(&self, destination: &Destination, sender: &ReversePath) -> &[IpAddr] {
        match destination {
            Destination::Mx(domain) => match self.routes.iter().find(|route| route.matches(sender, domain)) {
                Some(route) if !route.sources.is_empty() => &route.sources,
                _ => &self.general,
            },
            Destination::Route(_) => self.configured.get(destination).map_or(&[], Vec::as_slice),
            Destination::Local(_) | Destination::Lmtp(_) => &[],
        }
    }
}
