//! What follows from a configuration: who is local, where mail goes, who carries it. A reload makes another.

use std::sync::Arc;

use super::languages;
use super::own_key::OwnKey;
use crate::config::Config;
use crate::deliver::{Deliverer, Memory, Routes};
use crate::directory::{DecoySeed, Directory, FileAccounts};
use crate::event::Events;
use crate::listen::Rules;
use crate::mail::OwnMark;
use crate::notice::Languages;
use crate::policy::Policy;
use crate::policy::login::{Bounds, Logins, Throttle};
use crate::queue::{Pools, Settings};
use crate::route::Router;
use crate::system::System;

/// One configuration's worth of decisions and effects.
pub(super) struct Current {
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<Rules>,
    pub(super) router: Arc<Router>,
    pub(super) deliverer: Deliverer,
    pub(super) languages: Arc<Languages>,
}

/// What a configuration's files say.
pub(super) struct Files {
    pub(super) directory: Arc<Directory>,
    pub(super) languages: Arc<Languages>,
}

impl Files {
    /// Reads users, aliases and the texts of notices. Errors: every problem.
    pub(super) fn load(config: &Config, system: &System) -> Result<Self, Vec<String>> {
        match (Directory::load(config, &*system.disk), languages::load(config, &*system.disk)) {
            (Ok(directory), Ok(languages)) => Ok(Self { directory: Arc::new(directory), languages: Arc::new(languages) }),
            (directory, languages) => {
                let problems = [directory.err(), languages.err()].into_iter().flatten().flatten();
                Err(problems.map(|problem| problem.to_string()).collect())
            }
        }
    }
}

/// What outlives a reload.
#[derive(Clone)]
pub(super) struct Lasting {
    throttle: Arc<Throttle>,
    seed: DecoySeed,
    mark: Arc<OwnMark>,
    events: Events,
    memory: Memory,
}

impl Lasting {
    pub(super) fn new(events: &Events, key: &OwnKey) -> Self {
        Self {
            throttle: Arc::default(),
            seed: key.decoys(),
            mark: Arc::new(key.mark()),
            events: events.clone(),
            memory: Memory::default(),
        }
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
    pub(super) fn new(config: Arc<Config>, files: Files, system: &System, lasting: &Lasting) -> Self {
        let Files { directory, languages } = files;
        let router = Arc::new(Router::new(Arc::clone(&config), Arc::clone(&directory), system.clone()));
        let (routes, mark) = (Arc::clone(&router) as Arc<dyn Routes>, Arc::clone(&lasting.mark));
        let deliverer =
            Deliverer::new(Arc::clone(&config), routes, system.clone(), lasting.events.clone(), mark, lasting.memory.clone());
        let logins = lasting.logins(&config, &directory, system);
        let policy = Policy::new(Arc::clone(&config), directory, logins);
        let rules = Arc::new(Rules::new(Arc::clone(&config), policy, Arc::clone(&lasting.mark), Arc::clone(&languages)));
        Self { config, rules, router, deliverer, languages }
    }

    /// What the scheduler goes by.
    pub(super) fn settings(&self) -> Settings {
        Settings::new(&self.config, Pools::new(&self.config.routes, &self.config.remote.sources, self.router.sources()))
    }
}
