//! What follows from a configuration: who is local, where mail goes, who carries it. A reload makes another.

use std::sync::Arc;

use crate::config::Config;
use crate::deliver::{Deliverer, Routes};
use crate::directory::{DecoySeed, Directory, FileAccounts};
use crate::event::Events;
use crate::listen::Rules;
use crate::policy::Policy;
use crate::policy::login::{Bounds, Logins, Throttle};
use crate::route::Router;
use crate::system::System;

/// One configuration's worth of decisions and effects.
pub(super) struct Current {
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<Rules>,
    pub(super) router: Arc<Router>,
    pub(super) deliverer: Deliverer,
}

/// What outlives a reload.
#[derive(Clone)]
pub(super) struct Lasting {
    throttle: Arc<Throttle>,
    seed: DecoySeed,
    events: Events,
}

impl Lasting {
    pub(super) fn new(system: &System, events: &Events) -> Self {
        Self { throttle: Arc::default(), seed: DecoySeed::new(&*system.entropy), events: events.clone() }
    }

    fn logins(&self, config: &Config, directory: &Directory, system: &System) -> Logins {
        let auth = &config.auth;
        let bounds = Bounds {
            client: auth.failures_per_client,
            account: auth.failures_per_account,
            period: auth.failure_period,
            delay: auth.failure_delay,
        };
        let users = Arc::clone(directory.users());
        let accounts = FileAccounts::new(users, self.seed.clone(), system.workers, auth.concurrency);
        Logins::new(Arc::new(accounts), Arc::clone(&self.throttle), bounds)
    }
}

impl Current {
    pub(super) fn new(config: Arc<Config>, directory: Arc<Directory>, system: &System, lasting: &Lasting) -> Self {
        let router = Arc::new(Router::new(Arc::clone(&config), Arc::clone(&directory), system.clone()));
        let deliverer =
            Deliverer::new(Arc::clone(&config), Arc::clone(&router) as Arc<dyn Routes>, system.clone(), lasting.events.clone());
        let logins = lasting.logins(&config, &directory, system);
        let policy = Policy::new(Arc::clone(&config), directory, logins);
        let rules = Arc::new(Rules::new(Arc::clone(&config), policy));
        Self { config, rules, router, deliverer }
    }
}
