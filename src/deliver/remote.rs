//! Delivery to other servers, by SMTP or LMTP: host after host until every recipient has the word of one. State: none beyond the
//! attempt.

use super::connection::Connection;
use super::connections::Permit;
use super::{Attempt, Deliverer, Host};
use crate::mail::{Cause, Destination, Diagnosis, EnhancedCode, Outcome, Request};
use crate::smtp::client::{Settings, Transaction};

/// Hosts tried in one attempt; a domain with more has the others tried another time.
const HOSTS_MAX: usize = 20;

/// One attempt as it goes from host to host.
struct Run<'a> {
    deliverer: &'a Deliverer,
    attempt: &'a Attempt,
    permit: Permit,
    outcomes: Vec<Option<Outcome>>,
    /// Why hosts didn't serve, in the order of trying.
    misses: Vec<Diagnosis>,
}

/// Tries the destination's hosts in their order.
///
/// The next host is tried when one can't be reached, doesn't greet us or loses the connection: for the recipients that it gave no
/// result. A 4xx about a message or recipient isn't taken to the next host in the same attempt: it is the domain's word as much as
/// the host's (greylisting, quota, load), and to ask all its hosts at once would only multiply what the domain wants less of.
pub(super) async fn deliver(deliverer: &Deliverer, attempt: &Attempt) -> Vec<(u32, Outcome)> {
    let hosts = match deliverer.routes.hosts(&attempt.destination).await {
        Ok(hosts) => hosts,
        Err(outcome) => return attempt.recipients.iter().map(|(index, _)| (*index, outcome.clone())).collect(),
    };
    let mut run = Run {
        deliverer,
        attempt,
        permit: deliverer.connections.permit(&attempt.destination),
        outcomes: vec![None; attempt.recipients.len()],
        misses: Vec::new(),
    };
    for host in hosts.iter().take(HOSTS_MAX) {
        run.try_host(host).await;
        if run.outcomes.iter().all(Option::is_some) {
            break;
        }
    }
    run.finish()
}

impl Run<'_> {
    async fn try_host(&mut self, host: &Host) {
        if let Some(connection) = self.permit.reuse(&host.endpoint)
            && self.transact(connection).await
        {
            return;
        }
        self.permit.make_room();
        let remote = &self.deliverer.config.remote;
        let settings = Settings {
            hello: self.deliverer.config.hostname.clone(),
            lmtp: matches!(self.attempt.destination, Destination::Lmtp(_)),
            reply_timeout: remote.reply_timeout,
        };
        match Connection::open(&self.deliverer.system, host, settings, remote.connect_timeout).await {
            Ok(connection) => {
                self.transact(connection).await;
            }
            Err(diagnosis) => self.misses.push(diagnosis),
        }
    }

    /// What the sender asked for, as it reads now: less time is left than on arrival.
    fn request(&self) -> Option<Box<Request>> {
        let elapsed = self.deliverer.system.clock.now().since(self.attempt.arrived);
        self.attempt.request.as_ref().map(|request| Box::new(request.later(elapsed.as_secs())))
    }

    /// Carries the message over for the recipients still without outcome. False if the connection had died in idleness: nothing came of it
    /// then, and nothing is to be concluded from it.
    async fn transact(&mut self, mut connection: Connection) -> bool {
        let open: Vec<usize> = (0..self.outcomes.len()).filter(|index| self.outcomes[*index].is_none()).collect();
        let transaction = Transaction {
            reverse_path: self.attempt.reverse_path.clone(),
            recipients: open.iter().map(|index| self.attempt.recipients[*index].1.clone()).collect(),
            size: self.attempt.content.size(),
            body: self.attempt.body,
            request: self.request(),
        };
        let outcomes = connection.transact(transaction, &*self.attempt.content).await;
        if connection.was_stale() {
            return false;
        }
        let mut miss = None;
        for (place, (index, outcome)) in open.into_iter().zip(outcomes).enumerate() {
            if connection.is_unanswered(place) {
                miss = Some(outcome.diagnosis().clone());
            } else {
                self.outcomes[index] = Some(outcome);
            }
        }
        self.misses.extend(miss);
        if connection.is_ready() {
            self.permit.keep(connection);
        }
        true
    }

    /// Recipients that no host spoke about are deferred. They fail only if every host of a foreign domain said 5xx before we could name
    /// them; a configured host that does so is this site's mistake, which an admin can mend.
    fn finish(self) -> Vec<(u32, Outcome)> {
        let foreign = matches!(self.attempt.destination, Destination::Mx(_));
        let transient = self.misses.iter().rev().find(|miss| miss.status.0 != 5);
        let rest = match (transient, self.misses.last()) {
            (Some(miss), _) => Outcome::Deferred(miss.clone()),
            (None, Some(miss)) if foreign => Outcome::Failed(miss.clone()),
            (None, Some(miss)) => {
                let status = EnhancedCode(4, miss.status.1, miss.status.2);
                Outcome::Deferred(Diagnosis { status, ..miss.clone() })
            }
            (None, None) => {
                Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 4, 4), Cause::Local, "there is no host to deliver to"))
            }
        };
        let outcomes = self.attempt.recipients.iter().zip(self.outcomes);
        outcomes.map(|((index, _), outcome)| (*index, outcome.unwrap_or_else(|| rest.clone()))).collect()
    }
}
