//! Where the checks are made: a server of its own by the configuration in force, on loopback, with a fresh spool, an account of its
//! own, and one next hop for everything. Nothing of it reaches the running server, its queue or the world.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::super::failure::{self, Failure};
use super::client::Client;
use super::sink::{self, Got};
use crate::config::{Config, DomainPattern, HostPort, ListenAddress, Listener, ListenerTls, RemoteTls, Route, RouteHost};
use crate::daemon::{Handle, Posthouse};
use crate::directory::users;
use crate::event::Events;
use crate::mail::{Address, Domain, Service};
use crate::spool::index::RunIndexFactory;
use crate::system::{Entropy as _, Net as _, Scratch, System, SystemDisk, SystemEntropy, SystemNet};

/// Who sends, logs in, and gets what comes back: at the next hop, so that it can be seen.
pub(super) const SENDER: &str = "selfcheck@sink.test";
/// To whom.
pub(super) const RECIPIENT: &str = "somebody@sink.test";
/// How long a message may take to the next hop.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);
/// Messages that the next hop got and nobody looked at.
const GOT_MAX: usize = 100;

/// A listener of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) service: Service,
    pub(super) tls: ListenerTls,
    pub(super) address: SocketAddr,
}

/// The stage.
pub(super) struct Stage {
    pub(super) handle: Handle,
    pub(super) doors: Vec<Door>,
    pub(super) password: String,
    got: Mutex<mpsc::Receiver<Got>>,
    sink: JoinHandle<()>,
    /// Last, so that it goes when the server is gone.
    _scratch: Scratch,
}

impl Stage {
    /// Sets it up.
    pub(super) async fn start(config: &Config, system: System) -> Result<Self, Failure> {
        let trouble = |what: String| Failure::new(failure::UNAVAILABLE, what);
        let scratch = Scratch::new(&SystemEntropy).map_err(|error| trouble(format!("can't make a temporary folder: {error}")))?;
        let listener = SystemNet.listen(loopback(0)).await;
        let listener = listener.map_err(|error| trouble(format!("can't listen on loopback: {error}")))?;
        let next_hop = sink::address(&*listener);
        let (got_in, got) = mpsc::channel(GOT_MAX);
        let sink = tokio::spawn(sink::run(listener, got_in));
        let (config, doors) = configuration(config, scratch.path(), next_hop).await.map_err(trouble)?;
        let password = format!("{:016x}{:016x}", SystemEntropy.next_u64(), SystemEntropy.next_u64());
        let sender = Address::parse(SENDER).map_err(|error| trouble(error.to_string()))?;
        users::add(&SystemDisk, &SystemEntropy, &config.auth.users, &sender, &password)?;
        let (kept, disk) = (config.clone(), Arc::clone(&system.disk));
        let index = RunIndexFactory::new(&config.spool.path, disk, config.spool.index_cache);
        let bound = Posthouse::bind(config, system, Events::new(), Arc::new(move || Ok(kept.clone()))).await?;
        let handle = bound.start(Box::new(index)).await?;
        Ok(Self { handle, doors, password, got: Mutex::new(got), sink, _scratch: scratch })
    }

    /// A session at a door: encrypted if it must be, logged in where that is asked for.
    pub(super) async fn session(&self, door: Door, encrypted: bool) -> Result<Client, String> {
        let mut client = Client::connect(door.address, door.tls == ListenerTls::Implicit).await?;
        if encrypted && client.tls.is_none() {
            client.start_tls().await?;
        }
        if door.service == Service::Submission && client.offers("AUTH").is_some() {
            client.log_in(SENDER, &self.password).await?;
        }
        Ok(client)
    }

    /// The next message at the next hop.
    pub(super) async fn arrival(&self) -> Result<Got, String> {
        let mut got = self.got.lock().await;
        match tokio::time::timeout(ARRIVAL_MAX, got.recv()).await {
            Ok(Some(got)) => Ok(got),
            _ => Err("the message did not reach the next hop".to_owned()),
        }
    }

    /// Takes it down.
    pub(super) async fn end(self) {
        self.handle.stop("the checks are made");
        self.handle.stopped().await;
        self.sink.abort();
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The configuration in force, but for where things lie and who is who; a door for each kind of listener.
async fn configuration(config: &Config, folder: &Path, next_hop: SocketAddr) -> Result<(Config, Vec<Door>), String> {
    let mut changed = config.clone();
    changed.spool.path = folder.join("spool");
    changed.spool.min_free = 1;
    changed.auth.users = folder.join("users");
    // Wrong passwords are a part of the checks, and nobody's guesses.
    changed.auth.failure_delay = Duration::ZERO;
    changed.auth.failures_per_client = u32::MAX;
    changed.auth.failures_per_account = u32::MAX;
    changed.user = String::new();
    changed.domains.clear();
    changed.postmaster = Address::parse(SENDER).map_err(|error| error.to_string())?;
    changed.sendmail.drop = None;
    changed.queue.paused = false;
    changed.shutdown_grace = Duration::from_secs(5);
    changed.relay.networks = vec!["127.0.0.0/8".parse().map_err(|_| "no such network")?];
    let host = HostPort { host: Domain::from_ip(next_hop.ip()), port: Some(next_hop.port()) };
    changed.routes = vec![Route { tls: RemoteTls::None, ..Route::new(DomainPattern::Any, vec![RouteHost::Tcp(host)]) }];
    changed.listeners.clear();
    let mut doors: Vec<Door> = Vec::new();
    for listener in &config.listeners {
        let Listener { service, tls, .. } = *listener;
        // LMTP takes mail for local mailboxes only, and the stage has none: it is the same session machine all the same.
        if service == Service::Lmtp || doors.iter().any(|door| door.service == service && door.tls == tls) {
            continue;
        }
        let address = free(doors.iter().map(|door| door.address)).await?;
        doors.push(Door { service, tls, address });
        // The checks come straight, and say who their client is where go-betweens may.
        let xclient = if listener.xclient.is_empty() { Vec::new() } else { changed.relay.networks.clone() };
        let address = ListenAddress::Tcp(address);
        changed.listeners.push(Listener { address, proxy: Vec::new(), xclient, ..listener.clone() });
    }
    Ok((changed, doors))
}

/// A free port: the listeners of a configuration are told apart by theirs.
async fn free(taken: impl Iterator<Item = SocketAddr>) -> Result<SocketAddr, String> {
    let taken: Vec<SocketAddr> = taken.collect();
    for _ in 0..100 {
        let listener = SystemNet.listen(loopback(0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_address();
        if !taken.contains(&address) {
            return Ok(address);
        }
    }
    Err("there is no free port on loopback".to_owned())
}
