//! Takes connections and drives a server session over each: the only place where strangers' bytes come in.
//!
//! Owns the sockets and the counts of open connections; decides nothing about mail, that is `policy`'s.

mod connection;
mod limits;
mod proxy;
mod login;
mod transaction;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{self, Config, ListenerTls};
use crate::event::{Event, Events};
use crate::mail::{EnhancedCode, QueueId, Reply, Service, Timestamp};
use crate::policy::Policy;
use crate::smtp::extension::Parameters;
use crate::smtp::server::Settings;
use crate::spool::{Spool, SpoolError};
use crate::system::{BoxStream, Listener, System, TlsServer};

pub use limits::Connections;
use limits::Refusal;

/// How long a refused client gets to take its 421.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after `accept` failed: out of file descriptors, usually.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a session works by; a reload puts another in its place for the sessions that come after.
pub struct Rules {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Answers the sessions' questions.
    pub policy: Policy,
    /// By the listener's address in the configuration.
    entrances: BTreeMap<SocketAddr, Entrance>,
}

/// How sessions of a listener are to be.
#[derive(Clone)]
struct Entrance {
    settings: Arc<Settings>,
    /// Encrypted from the first octet.
    implicit_tls: bool,
    /// From here connections begin with a PROXY header.
    proxy: Arc<[IpNet]>,
    /// From here clients may say XCLIENT.
    xclient: Arc<[IpNet]>,
}

impl Rules {
    /// The rules that follow from a configuration.
    pub fn new(config: Arc<Config>, policy: Policy) -> Self {
        let entrance = |listener: &config::Listener| Entrance {
            settings: Arc::new(settings(&config, &policy, listener)),
            implicit_tls: listener.tls == ListenerTls::Implicit,
            proxy: listener.proxy.clone().into(),
            xclient: listener.xclient.clone().into(),
        };
        let entrances = config.listeners.iter().map(|listener| (listener.address, entrance(listener))).collect();
        Self { config, policy, entrances }
    }
}

fn settings(config: &Config, policy: &Policy, listener: &config::Listener) -> Settings {
    let limits = &config.limits;
    Settings {
        service: listener.service,
        hostname: config.hostname.clone(),
        size_max: limits.message_size,
        recipients_max: limits.recipients,
        errors_max: limits.errors,
        mechanisms: if listener.service == Service::Lmtp { Vec::new() } else { policy.mechanisms() },
        auth_in_clear: !config.auth.require_tls,
        failed_logins_max: config.auth.failures,
        parameters: parameters(listener.service),
        hold_max: limits.hold,
        command_timeout: limits.command_timeout,
        data_timeout: limits.data_timeout,
        starttls: listener.tls == ListenerTls::StartTls,
    }
}

/// What a service takes of what is honoured: mail may be held for whoever submits it here, and for nobody else.
fn parameters(service: Service) -> Parameters {
    let honoured = Parameters::HONOURED;
    Parameters { future_release: honoured.future_release && service == Service::Submission, ..honoured }
}

/// What all sessions share.
#[derive(Clone)]
pub struct Reception {
    /// The rules in force.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Keeps what is accepted.
    pub spool: Spool,
    /// Where committed messages go next, with the time of their arrival; when it is full they wait in the spool's index.
    pub accepted: mpsc::Sender<(QueueId, Timestamp)>,
    /// Told when a message went to the index because `accepted` was full.
    pub overflow: Arc<Notify>,
    /// The mail log.
    pub events: Events,
    /// Open connections.
    pub connections: Arc<Connections>,
    /// Whether the spool's disk was full when it was last looked at.
    pub full: Arc<AtomicBool>,
    /// The certificates in use; none only if no listener wants TLS.
    pub tls: watch::Receiver<Option<Arc<dyn TlsServer>>>,
    /// Clock and the rest.
    pub system: System,
}

impl Reception {
    /// Accepts connections until `stop` says so, then waits for the open sessions to end; they get 421 at their next command.
    /// `configured` is the listener's address in the configuration, which says what each session is to be.
    pub async fn serve(self, configured: SocketAddr, listener: Box<dyn Listener>, mut stop: watch::Receiver<bool>) {
        let mut sessions = JoinSet::new();
        let stopping = stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        sessions.spawn(self.clone().session(configured, stream, peer, stopping.clone()));
                    }
                    Err(error) => {
                        self.events.report(Event::AcceptTrouble { address: listener.local_address(), reason: error.to_string() });
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
        drop(listener);
        while sessions.join_next().await.is_some() {}
    }

    /// Whether the spool takes mail; tells the mail log when that changes.
    fn space(&self) -> Result<(), SpoolError> {
        let space = self.spool.space();
        let full = space == Err(SpoolError::Full);
        if self.full.swap(full, Ordering::Relaxed) != full {
            let (available, min_free) = (self.spool.gauges().free, self.rules.borrow().config.spool.min_free);
            self.events.report(if full {
                Event::SpoolFull { available, min_free }
            } else {
                Event::SpoolRoom { available, min_free }
            });
        }
        space
    }

    async fn session(self, configured: SocketAddr, mut stream: BoxStream, mut peer: SocketAddr, stop: watch::Receiver<bool>) {
        let rules = self.rules.borrow().clone();
        // The rules may already be without a listener that is about to be stopped.
        let Some(entrance) = rules.entrances.get(&configured).cloned() else { return };
        let limits = &rules.config.limits;
        if is_in(&entrance.proxy, peer.ip()) {
            match self.behind_proxy(&mut stream, peer, limits).await {
                Some(client) => peer = client,
                None => return,
            }
        }
        let client = peer.ip().to_canonical();
        match self.connections.enter(client, limits.connections, limits.connections_per_client) {
            Ok(_guard) => connection::drive(&self, &rules, entrance, stream, peer, stop).await,
            Err(refusal) => {
                let value = match refusal {
                    Refusal::Total => limits.connections,
                    Refusal::Client => limits.connections_per_client,
                };
                self.events.report(Event::Limited { client, limit: refusal.limit(), value: value as u64 });
                refuse(stream, refusal).await;
            }
        }
    }
}

impl Reception {
    /// Who is behind a load balancer: what its PROXY header says. None: there was none, and the connection is over.
    async fn behind_proxy(&self, stream: &mut BoxStream, peer: SocketAddr, limits: &config::Limits) -> Option<SocketAddr> {
        // Headers that are waited for aren't counted, but nobody waits for them when all places are taken.
        let read = async {
            match self.connections.open() < limits.connections {
                true => proxy::read(stream).await,
                false => Err("there are too many connections".to_owned()),
            }
        };
        let timed_out = || Err("the PROXY header didn't come in time".to_owned());
        match tokio::time::timeout(limits.handshake_timeout, read).await.unwrap_or_else(|_| timed_out()) {
            Ok(None) => Some(peer),
            Ok(Some(client)) => {
                let (by, address) = (peer.ip().to_canonical(), client.ip().to_canonical());
                self.events.report(Event::Presented { client: address, by, means: "PROXY", login: None });
                Some(client)
            }
            Err(reason) => {
                self.events.report(Event::ProxyFailed { client: peer, reason });
                None
            }
        }
    }
}

/// Whether an address is in one of the networks. An IPv4 client of an IPv6 socket counts as what it is.
fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Says 421 instead of a greeting; a client that doesn't take it is dropped.
async fn refuse(mut stream: BoxStream, refusal: Refusal) {
    let reply = match refusal {
        Refusal::Total => Reply::new(421, EnhancedCode(4, 3, 2), "Too many connections, try again later"),
        Refusal::Client => Reply::new(421, EnhancedCode(4, 7, 0), "Too many connections from your address, try again later"),
    };
    let farewell = async {
        stream.write_all(&reply.to_wire()).await?;
        stream.shutdown().await
    };
    // Nothing depends on whether the client heard it.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, farewell).await;
}

/// Waits for the stop. The guard that `wait_for` returns must not live on.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
