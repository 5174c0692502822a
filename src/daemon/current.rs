//! What follows from a configuration: who is local, where mail goes, who carries it. A reload makes another.

use std::sync::Arc;

use crate::config::Config;
use crate::deliver::{Deliverer, Routes};
use crate::directory::Directory;
use crate::event::Events;
use crate::listen::Rules;
use crate::policy::Policy;
use crate::route::Router;
use crate::system::System;

/// One configuration's worth of decisions and effects.
pub(super) struct Current {
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<Rules>,
    pub(super) router: Arc<Router>,
    pub(super) deliverer: Deliverer,
}

impl Current {
    pub(super) fn new(config: Arc<Config>, directory: Arc<Directory>, system: &System, events: &Events) -> Self {
        let router = Arc::new(Router::new(Arc::clone(&config), Arc::clone(&directory), system.clone()));
        let deliverer =
            Deliverer::new(Arc::clone(&config), Arc::clone(&router) as Arc<dyn Routes>, system.clone(), events.clone());
        let policy = Policy::new(Arc::clone(&config), directory);
        let rules = Arc::new(Rules::new(Arc::clone(&config), policy));
        Self { config, rules, router, deliverer }
    }
}
