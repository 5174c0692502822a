//! AUTH as a stage of the session, like the other files of `policy`: what is offered, what comes of a line, and who is counted.

use std::sync::Arc;
use std::time::Duration;

use super::{Bounds, Channel, Desk, Exchange, Throttle, Turn, Why};
use crate::directory::Accounts;
use crate::mail::Address;
use crate::policy::{Client, Policy};
use crate::smtp::server::Mechanism;
use crate::system::Entropy;

/// Who has an account, and who failed too often.
#[derive(Clone, Debug)]
pub struct Logins {
    accounts: Arc<dyn Accounts>,
    throttle: Arc<Throttle>,
}

impl Logins {
    /// The throttle outlives reloads; it goes by the newest bounds.
    pub fn new(accounts: Arc<dyn Accounts>, throttle: Arc<Throttle>, bounds: Bounds) -> Self {
        throttle.set(bounds);
        Self { accounts, throttle }
    }
}

impl Policy {
    /// The mechanisms that accounts can be logged in to with; none if there are no accounts.
    pub fn mechanisms(&self) -> Vec<Mechanism> {
        let accounts = &self.logins.accounts;
        let is_possible = |mechanism: &Mechanism| match mechanism {
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => accounts.has_scram(),
            Mechanism::Plain | Mechanism::Login | Mechanism::External => !accounts.is_empty(),
        };
        Mechanism::ALL.into_iter().filter(is_possible).collect()
    }

    /// What comes of a client's line in an exchange.
    pub async fn respond(
        &self,
        client: &Client,
        now: Duration,
        entropy: &dyn Entropy,
        exchange: &mut Exchange,
        response: &[u8],
    ) -> Turn {
        let channel = client.tls.as_ref().map(|tls| Channel {
            exporter: tls.exporter.as_ref().map(|exporter| &exporter[..]),
            end_point: tls.end_point.as_deref(),
            names: &tls.client_names,
        });
        let desk = Desk {
            accounts: &*self.logins.accounts,
            throttle: &self.logins.throttle,
            client: client.address,
            now,
            entropy,
            channel: channel.unwrap_or_default(),
        };
        exchange.respond(&desk, response).await
    }

    /// Counts a failure; how long its answer is to wait.
    pub fn login_failed(&self, client: &Client, now: Duration, name: Option<&Address>) -> Duration {
        self.logins.throttle.failed(now, client.address, name)
    }

    /// Remembers who logged in.
    pub fn login_succeeded(&self, client: &Client, now: Duration, account: &Address) {
        self.logins.throttle.succeeded(now, client.address, account);
    }

    /// The setting that stood behind a refusal, if one did, and its value.
    pub fn limit_of(&self, why: &Why) -> Option<(&'static str, u64)> {
        let auth = &self.config.auth;
        match why {
            Why::ClientBlocked => Some(("auth.failures_per_client", auth.failures_per_client.into())),
            Why::AccountBlocked => Some(("auth.failures_per_account", auth.failures_per_account.into())),
            _ => None,
        }
    }
}
