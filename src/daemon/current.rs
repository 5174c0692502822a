//! What follows from a configuration: who is local, where mail goes, who carries it. A reload makes another.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::deliver::{Deliverer, Host, Routes};
use crate::directory::Directory;
use crate::listen::Rules;
use crate::mail::{Address, Destination, Outcome};
use crate::policy::Policy;
use crate::route::Router;
use crate::system::{BoxFuture, System};

/// One configuration's worth of decisions and effects.
pub(super) struct Current {
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<Rules>,
    pub(super) router: Arc<Router>,
    pub(super) deliverer: Deliverer,
}

impl Current {
    pub(super) fn new(config: Arc<Config>, directory: Arc<Directory>, system: &System) -> Self {
        let router = Arc::new(Router::new(Arc::clone(&config), Arc::clone(&directory), system.clone()));
        let routes = Arc::new(Destinations(Arc::clone(&router)));
        let deliverer = Deliverer::new(Arc::clone(&config), routes, system.clone());
        let policy = Policy::new(Arc::clone(&config), directory);
        let rules = Arc::new(Rules::new(Arc::clone(&config), policy));
        Self { config, rules, router, deliverer }
    }
}

/// Joins `route` to what `deliver` asks.
struct Destinations(Arc<Router>);

impl Routes for Destinations {
    fn hosts<'a>(&'a self, destination: &'a Destination) -> BoxFuture<'a, Result<Vec<Host>, Outcome>> {
        Box::pin(async move {
            let hosts = self.0.hosts(destination).await?;
            Ok(hosts.into_iter().map(|host| Host { name: host.name, endpoint: host.endpoint }).collect())
        })
    }

    fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome> {
        self.0.maildir(address)
    }
}
