//! What follows from a configuration: who is local, where mail goes, who carries it. A reload makes another.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, MailStore};
use crate::deliver::{Deliverer, Host, Routes};
use crate::directory::{Directory, Resolution};
use crate::listen::Rules;
use crate::mail::{Address, Cause, Destination, Diagnosis, EnhancedCode, Outcome};
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
        let routes = Arc::new(Destinations { router: Arc::clone(&router), directory: Arc::clone(&directory) });
        let deliverer = Deliverer::new(Arc::clone(&config), routes, system.clone());
        let policy = Policy::new(Arc::clone(&config), directory);
        let rules = Arc::new(Rules::new(Arc::clone(&config), policy));
        Self { config, rules, router, deliverer }
    }
}

/// Joins `route` and `directory` to what `deliver` asks.
struct Destinations {
    router: Arc<Router>,
    directory: Arc<Directory>,
}

impl Routes for Destinations {
    fn hosts<'a>(&'a self, destination: &'a Destination) -> BoxFuture<'a, Result<Vec<Host>, Outcome>> {
        Box::pin(async move {
            let hosts = self.router.hosts(destination).await?;
            Ok(hosts.into_iter().map(|host| Host { name: host.name, endpoint: host.endpoint }).collect())
        })
    }

    fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome> {
        match self.directory.resolve(address) {
            Resolution::Mailbox(mailbox) => match mailbox.store {
                MailStore::Maildir(path) => Ok(PathBuf::from(path)),
                // The domain's store was changed between routing and this attempt; the next one goes there.
                MailStore::Lmtp(_) => Err(deferred("the domain's mail now goes to LMTP")),
            },
            Resolution::Alias(_) => Err(deferred("the mailbox has become an alias")),
            Resolution::NotLocal => Err(deferred("the domain isn't local any more")),
            Resolution::Unknown => {
                Err(Outcome::Failed(Diagnosis::new(EnhancedCode(5, 1, 1), Cause::Local, format!("no mailbox {address} here"))))
            }
        }
    }
}

fn deferred(text: &str) -> Outcome {
    Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 3, 5), Cause::Local, text))
}
