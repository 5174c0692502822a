//! A dry run for the command line: how mail to an address would go, step by step.

use super::{Host, Route, Router};
use crate::mail::{Address, Destination, Outcome};
use crate::system::Endpoint;

/// Lines of an explanation at the most.
const LINES_MAX: usize = 500;

impl Router {
    /// How mail to the address would go, a line a step, indented below the step that led there. Asks the DNS, sends nothing.
    pub async fn explain(&self, address: &Address) -> Vec<String> {
        let mut lines = Vec::new();
        let leaves = match self.route(address) {
            Route::Alias(targets) => {
                self.explain_alias(address, &targets, &mut lines);
                match self.leaves(address) {
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
            self.explain_leaf(&address, &route, &mut lines).await;
        }
        lines
    }

    /// The aliases on the way, one step a line.
    fn explain_alias(&self, address: &Address, targets: &[Address], lines: &mut Vec<String>) {
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
                if let Route::Alias(further) = self.route(&target) {
                    steps.push_back((target.clone(), further));
                }
                seen.push(target);
            }
        }
    }

    async fn explain_leaf(&self, address: &Address, route: &Route, lines: &mut Vec<String>) {
        let destination = match route {
            Route::Deliver(destination) => destination,
            Route::Alias(_) | Route::Unknown => {
                lines.push(format!("{address}: local domain, but no such user: refused with 550 5.1.1"));
                return;
            }
        };
        match destination {
            Destination::Local(domain) => {
                let folder = self.maildir(address).map(|path| path.display().to_string()).unwrap_or_default();
                lines.push(format!("{address}: {domain} is local, Maildir {folder}"));
            }
            Destination::Lmtp(server) => {
                lines.push(format!("{address}: {} is local, by LMTP to {server}", address.domain()));
            }
            Destination::Route(hosts) => {
                lines.push(format!("{address}: the [[route]] for {} leads to {hosts}", address.domain()));
                self.explain_hosts(destination, lines).await;
            }
            Destination::Mx(domain) => {
                lines.push(format!("{address}: no [[route]] matches, so by MX of {domain}"));
                self.explain_hosts(destination, lines).await;
            }
        }
    }

    async fn explain_hosts(&self, destination: &Destination, lines: &mut Vec<String>) {
        match self.hosts(destination).await {
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
