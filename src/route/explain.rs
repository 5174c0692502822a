//! A dry run for the command line: how mail to an address would go, step by step.

use std::collections::BTreeSet;

use super::{Host, Route, Router};
use crate::mail::{Address, Destination, Outcome, ReversePath};
use crate::system::Endpoint;

/// Lines of an explanation at the most.
const LINES_MAX: usize = 500;

impl Router {
    /// How mail of this sender to the address would go, a line a step, indented below the step that led there. Asks the DNS, sends
    /// nothing.
    pub async fn explain(&self, sender: &ReversePath, address: &Address) -> Vec<String> {
        let mut lines = Vec::new();
        let leaves = match self.route(sender, address) {
            Route::Alias(targets) => {
                self.explain_alias(sender, address, &targets, &mut lines);
                match self.leaves(sender, address) {
                    Ok(leaves) => leaves,
                    Err(diagnosis) => {
                        lines.push(format!("would bounce: {} {}", diagnosis.status, diagnosis.text));
                        return lines;
                    }
                }
            }
            route => vec![(address.clone(), route)],
        };
        for (address, route) in leaves {
            if lines.len() >= LINES_MAX {
                lines.push("… and further addresses".to_owned());
                break;
            }
            self.explain_leaf(sender, &address, &route, &mut lines).await;
        }
        lines
    }

    /// Where the mail would go, each destination once.
    pub fn destinations(&self, sender: &ReversePath, address: &Address) -> Vec<Destination> {
        let leaves = match self.route(sender, address) {
            Route::Alias(_) => self.leaves(sender, address).unwrap_or_default(),
            route => vec![(address.clone(), route)],
        };
        let deliver = |(_, route)| match route {
            Route::Deliver(destination) => Some(destination),
            Route::Alias(_) | Route::Unknown => None,
        };
        let destinations: BTreeSet<Destination> = leaves.into_iter().filter_map(deliver).collect();
        destinations.into_iter().collect()
    }

    /// The aliases on the way, one step a line.
    fn explain_alias(&self, sender: &ReversePath, address: &Address, targets: &[Address], lines: &mut Vec<String>) {
        let mut seen = vec![address.clone()];
        let mut steps = std::collections::VecDeque::from([(address.clone(), targets.to_vec())]);
        while let Some((address, targets)) = steps.pop_front() {
            let names: Vec<String> = targets.iter().take(20).map(Address::to_string).collect();
            let more = if targets.len() > 20 { format!(" and {} more", targets.len() - 20) } else { String::new() };
            lines.push(format!("{address}: alias for {}{more}", names.join(", ")));
            for target in targets {
                if lines.len() + steps.len() >= LINES_MAX || seen.contains(&target) {
                    continue;
                }
                if let Route::Alias(further) = self.route(sender, &target) {
                    steps.push_back((target.clone(), further));
                }
                seen.push(target);
            }
        }
    }

    async fn explain_leaf(&self, sender: &ReversePath, address: &Address, route: &Route, lines: &mut Vec<String>) {
        let destination = match route {
            Route::Deliver(destination) => destination,
            Route::Alias(_) | Route::Unknown => {
                lines.push(format!("{address}: local domain, but no such user: refused with 550 5.1.1"));
                return;
            }
        };
        let matching = self.matching(sender, address.domain());
        let route = matching.map(|(number, route)| (format!("route[{number}] ({} from {})", route.domain, route.sender), route));
        match (destination, route) {
            (Destination::Local(domain), _) => {
                let folder = self.maildir(address).map(|path| path.display().to_string()).unwrap_or_default();
                return lines.push(format!("{address}: {domain} is local, Maildir {folder}"));
            }
            (Destination::Lmtp(server), _) if self.is_local(address) => {
                return lines.push(format!("{address}: {} is local, by LMTP to {server}", address.domain()));
            }
            (Destination::Lmtp(name) | Destination::Route(name), route) => {
                let protocol = if matches!(destination, Destination::Lmtp(_)) { "LMTP" } else { "SMTP" };
                let which = route.map_or_else(|| "a route".to_owned(), |(which, _)| which);
                lines.push(format!("{address}: {which} leads by {protocol} to {name}"));
            }
            (Destination::Mx(domain), Some((which, _))) => {
                lines.push(format!("{address}: {which} leads to the MX of {domain}"));
            }
            (Destination::Mx(domain), None) => lines.push(format!("{address}: no [[route]] matches, so by MX of {domain}")),
        }
        lines.extend(self.way(destination, sender).describe().into_iter().map(|line| format!("  {line}")));
        self.explain_hosts(destination, sender, lines).await;
    }

    fn is_local(&self, address: &Address) -> bool {
        self.config.domains.iter().any(|domain| &domain.name == address.domain())
    }

    async fn explain_hosts(&self, destination: &Destination, sender: &ReversePath, lines: &mut Vec<String>) {
        match self.hosts(destination, sender).await {
            Ok(hosts) => lines.extend(hosts.iter().enumerate().map(|(n, host)| format!("  {}. {}", n + 1, describe(host)))),
            Err(outcome) => {
                let verb = if matches!(outcome, Outcome::Failed(_)) { "would bounce" } else { "would be tried again later" };
                let diagnosis = outcome.diagnosis();
                lines.push(format!("  {verb}: {} {}", diagnosis.status, diagnosis.text));
            }
        }
    }
}

fn describe(host: &Host) -> String {
    match &host.endpoint {
        Endpoint::Tcp(address) => format!("{} at {address}", host.name),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    }
}
