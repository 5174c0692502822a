//! The listeners that run: started, stopped and replaced as the configuration says.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use crate::config::{Config, ListenAddress};
use crate::event::{Event, Events};
use crate::listen::{Reception, TakeUp};
use crate::system::{Endpoint, Listener, System};

/// Bound listeners by the address in the configuration; port 0 there means another port here.
pub(super) type Sockets = BTreeMap<ListenAddress, Box<dyn Listener>>;

/// An address that can't be bound.
#[derive(Debug)]
pub(super) struct BindError {
    pub(super) address: ListenAddress,
    pub(super) error: io::Error,
}

/// Binds those addresses of the configuration that `bound` doesn't have yet; all or none.
pub(super) async fn bind(config: &Config, system: &System, bound: impl Fn(&ListenAddress) -> bool) -> Result<Sockets, BindError> {
    let mut sockets = Sockets::new();
    for listener in config.listeners.iter().filter(|listener| !bound(&listener.address)) {
        let address = listener.address.clone();
        let socket = match &address {
            ListenAddress::Tcp(address) => system.net.listen(*address).await,
            ListenAddress::Unix(path) => system.net.listen_unix(path, listener.mode).await,
        };
        match socket {
            Ok(socket) => sockets.insert(address, socket),
            Err(error) => return Err(BindError { address, error }),
        };
    }
    Ok(sockets)
}

/// A listener's tasks.
struct Running {
    stop: watch::Sender<bool>,
    /// One for each thread of the crew.
    tasks: Vec<JoinHandle<()>>,
    local: Endpoint,
}

/// The running listeners.
pub(super) struct Listeners {
    reception: Reception,
    events: Events,
    running: BTreeMap<ListenAddress, Running>,
    /// Listeners that were stopped by a reload and still have open sessions.
    leaving: Vec<JoinHandle<()>>,
    /// Who looks after the drop folder.
    take_up: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Listeners {
    /// None but the drop folder, if there is one.
    pub(super) fn new(reception: Reception, events: Events, take_up: Option<TakeUp>) -> Self {
        let take_up = take_up.map(|take_up| {
            let (stop, stopping) = watch::channel(false);
            (stop, tokio::spawn(take_up.run(stopping)))
        });
        Self { reception, events, running: BTreeMap::new(), leaving: Vec::new(), take_up }
    }

    pub(super) fn has(&self, address: &ListenAddress) -> bool {
        self.running.contains_key(address)
    }

    /// The TCP addresses as bound.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = |running: &Running| match running.local {
            Endpoint::Tcp(address) => Some(address),
            Endpoint::Unix(_) => None,
        };
        self.running.values().filter_map(tcp).collect()
    }

    /// An address whose accept loop has ended by itself, if there is one.
    pub(super) fn broken(&self) -> Option<Endpoint> {
        self.running
            .values()
            .find(|running| running.tasks.iter().any(JoinHandle::is_finished))
            .map(|running| running.local.clone())
    }

    /// Starts new sockets, and stops what the configuration doesn't name any more.
    pub(super) fn replace(&mut self, config: &Config, sockets: Sockets) {
        let wanted = |address: &ListenAddress| config.listeners.iter().any(|listener| listener.address == *address);
        let old: Vec<ListenAddress> = self.running.keys().filter(|address| !wanted(address)).cloned().collect();
        for address in old {
            if let Some(running) = self.running.remove(&address) {
                running.stop.send_replace(true);
                self.leaving.extend(running.tasks);
            }
        }
        self.leaving.retain(|task| !task.is_finished());
        for (address, socket) in sockets {
            let local = socket.endpoint();
            let Some(listener) = config.listeners.iter().find(|listener| listener.address == address) else { continue };
            self.events.report(Event::Listening { address: local.to_string(), service: listener.service.as_str() });
            let (stop, stopping) = watch::channel(false);
            let socket: Arc<dyn Listener> = socket.into();
            let serve = || self.reception.clone().serve(address.clone(), Arc::clone(&socket), stopping.clone());
            let tasks = self.reception.crew.on_each(serve);
            self.running.insert(address, Running { stop, tasks, local });
        }
    }

    /// Stops all; sessions get 421 at their next command, and are dropped after `grace`.
    pub(super) async fn close(&mut self, grace: Duration) {
        let mut tasks = std::mem::take(&mut self.leaving);
        if let Some((stop, task)) = self.take_up.take() {
            stop.send_replace(true);
            tasks.push(task);
        }
        for (_, running) in std::mem::take(&mut self.running) {
            running.stop.send_replace(true);
            tasks.extend(running.tasks);
        }
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for task in tasks {
                // A task that broke has ended, too.
                let _ = task.await;
            }
        };
        if tokio::time::timeout(grace, all).await.is_err() {
            aborts.iter().for_each(AbortHandle::abort);
        }
    }
}
