//! Carries AUTH's exchange to policy, and what came of it to the client and the log. Owns the exchange between two of its lines.

use super::limits::Refusal;
use super::transaction::Transaction;
use crate::event::Event;
use crate::mail::{Address, EnhancedCode, Reply};
use crate::policy::login::{AccountsError, Exchange, Failure, Turn, Why};
use crate::smtp::server::{Answer, Mechanism, Secret};

/// An exchange that is going on.
pub(super) struct Login {
    mechanism: Mechanism,
    exchange: Exchange,
}

impl Transaction<'_> {
    /// AUTH: begins an exchange, whatever became of the last.
    pub(super) async fn login(&mut self, mechanism: Mechanism, initial: Option<Secret>) -> Answer {
        let (exchange, first) = Exchange::begin(mechanism);
        let login = Login { mechanism, exchange };
        match initial {
            Some(initial) => self.turn(login, &initial).await,
            None => {
                self.login = Some(login);
                Answer::Challenge(first.to_vec())
            }
        }
    }

    /// The client's answer to a challenge.
    pub(super) async fn response(&mut self, response: &Secret) -> Answer {
        match self.login.take() {
            Some(login) => self.turn(login, response).await,
            None => Answer::Refuse(Reply::new(454, EnhancedCode(4, 7, 0), "Temporary authentication failure")),
        }
    }

    async fn turn(&mut self, mut login: Login, response: &Secret) -> Answer {
        let system = &self.reception.system;
        let now = system.clock.monotonic();
        match self.rules.policy.respond(&self.client, now, &*system.entropy, &mut login.exchange, &response.0).await {
            Turn::Challenge(challenge) => {
                self.login = Some(login);
                Answer::Challenge(challenge)
            }
            Turn::Done(account) => {
                self.logged_in(login.mechanism, account);
                Answer::Accept
            }
            Turn::Failed(failure) => self.login_failed(login.mechanism, failure).await,
        }
    }

    fn logged_in(&mut self, mechanism: Mechanism, account: Address) {
        self.rules.policy.login_succeeded(&self.client, self.reception.system.clock.monotonic(), &account);
        self.reception.events.report(Event::Authenticated {
            client: self.client.address,
            service: self.client.service.as_str(),
            login: account.clone(),
            mechanism: mechanism.as_str(),
        });
        self.client.login = Some(account);
    }

    /// Counts a failure, tells the log, and lets the client wait for its answer the longer the more there were.
    async fn login_failed(&mut self, mechanism: Mechanism, failure: Failure) -> Answer {
        let Failure { name, why } = failure;
        let policy = &self.rules.policy;
        let wait =
            why.counts().then(|| policy.login_failed(&self.client, self.reception.system.clock.monotonic(), name.as_ref()));
        if let Some((limit, value)) = policy.limit_of(&why) {
            self.reception.limited(Some(self.client.address), Refusal { limit, value });
        }
        self.reception.events.report(Event::AuthFailed {
            client: self.client.address,
            service: self.client.service.as_str(),
            login: name,
            mechanism: mechanism.as_str(),
            reason: why.reason(),
        });
        if let Why::Unavailable(AccountsError::Trouble(reason)) = &why {
            self.reception.events.report(Event::Trouble { id: None, operation: "login", reason: reason.clone() });
        }
        tokio::time::sleep(wait.unwrap_or_default()).await;
        Answer::Refuse(why.reply())
    }
}
