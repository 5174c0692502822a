//! Takes connections and drives a server session over each: the only place where strangers' bytes come in.
//!
//! Owns the sockets and the counts of open connections; decides nothing about mail, that is `policy`'s.

mod connection;
mod gate;
mod handover;
mod in_flight;
mod intake;
mod limits;
mod login;
mod proxy;
mod quiet;
mod refused;
mod takeup;
mod transaction;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{self, Config, ListenAddress, ListenerTls};
use crate::event::{Event, Events};
use crate::mail::{Message, OwnMark, Service};
use crate::notice::Languages;
use crate::policy::Policy;
use crate::smtp::extension::Parameters;
use crate::smtp::server::Settings;
use crate::spool::{Spool, SpoolError};
use crate::system::{BoxStream, Crew, Listener, System, TlsServer};

pub use gate::Gate;
pub use handover::{Giver, Taker, handover};
use limits::Refusal;
pub use takeup::TakeUp;

/// Pause after `accept` failed: out of file descriptors, usually.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a session works by; a reload puts another in its place for the sessions that come after.
pub struct Rules {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Answers the sessions' questions.
    pub policy: Policy,
    /// Marks our greeting and what passes here.
    pub mark: Arc<OwnMark>,
    /// The share of connections and octets in flight that mx leaves to the other services.
    reserve: f64,
    /// By the listener's address in the configuration.
    entrances: BTreeMap<ListenAddress, Entrance>,
    /// What the session machine must know of the drop folder.
    local: Arc<Settings>,
    /// What those are told in whose mail from there is refused.
    languages: Arc<Languages>,
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
    pub fn new(config: Arc<Config>, policy: Policy, mark: Arc<OwnMark>, languages: Arc<Languages>) -> Self {
        let entrance = |listener: &config::Listener| Entrance {
            settings: Arc::new(Settings {
                mark: mark.greeting().to_owned(),
                mechanisms: if listener.service == Service::Lmtp { Vec::new() } else { policy.mechanisms() },
                ..settings(&config, listener.service, listener.tls)
            }),
            implicit_tls: listener.tls == ListenerTls::Implicit,
            proxy: listener.proxy.clone().into(),
            xclient: listener.xclient.clone().into(),
        };
        let entrances = config.listeners.iter().map(|listener| (listener.address.clone(), entrance(listener))).collect();
        let local = Arc::new(settings(&config, Service::Local, ListenerTls::None));
        let reserve = if limits::has_reserve(&config) { config.limits.submission_reserve } else { 0.0 };
        Self { config, policy, mark, reserve, entrances, local, languages }
    }
}

/// What a session machine must know, but for the ways to log in.
pub fn settings(config: &Config, service: Service, tls: ListenerTls) -> Settings {
    let limits = &config.limits;
    Settings {
        service,
        hostname: config.hostname.clone(),
        size_max: limits.message_size,
        recipients_max: limits.recipients,
        errors_max: limits.errors,
        commands_max: limits.commands,
        hello_timeout: limits.hello_timeout,
        mechanisms: Vec::new(),
        auth_in_clear: !config.auth.require_tls,
        failed_logins_max: config.auth.failures,
        parameters: parameters(service),
        hold_max: limits.hold,
        command_timeout: limits.command_timeout,
        data_timeout: limits.data_timeout,
        data_pace: limits.data_pace,
        transaction_timeout: limits.transaction_timeout,
        starttls: tls == ListenerTls::StartTls,
        mark: String::new(),
    }
}

/// What a service takes: mail may be held for whoever submits it here, and for nobody else.
fn parameters(service: Service) -> Parameters {
    Parameters { future_release: service == Service::Submission, ..Parameters::ALL }
}

/// What all sessions share.
#[derive(Clone)]
pub struct Reception {
    /// The rules in force.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Keeps what is accepted.
    pub spool: Spool,
    /// Where committed messages go next; when it is full they wait in the spool's index.
    pub accepted: Giver,
    /// The mail log.
    pub events: Events,
    /// Counts and bounds what is open and coming in.
    pub gate: Arc<Gate>,
    /// Whether the spool's disk was full when it was last looked at.
    pub full: Arc<AtomicBool>,
    /// Whether too much waited for the spool's index.
    pub behind: Arc<AtomicBool>,
    /// The certificates in use; none only if no listener wants TLS.
    pub tls: watch::Receiver<Option<Arc<dyn TlsServer>>>,
    /// Clock and the rest.
    pub system: System,
    /// The threads that sessions run on.
    pub crew: Crew,
}

impl Reception {
    /// Accepts connections until `stop` says so, then waits for the open sessions to end; they get 421 at their next command.
    /// `configured` is the listener's address in the configuration, which says what each session is to be.
    pub async fn serve(self, configured: ListenAddress, listener: Arc<dyn Listener>, mut stop: watch::Receiver<bool>) {
        let mut sessions = JoinSet::new();
        let stopping = stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        sessions.spawn(self.clone().session(configured.clone(), stream, peer, stopping.clone()));
                    }
                    Err(error) => {
                        // Every thread of the crew meets it.
                        if self.gate.quiet.is_new("accept", self.system.clock.monotonic()) {
                            let (address, reason) = (listener.endpoint().to_string(), error.to_string());
                            self.events.report(Event::AcceptTrouble { address, reason });
                        }
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
        let (full, behind) = (space == Err(SpoolError::Full), space == Err(SpoolError::Behind));
        if self.behind.swap(behind, Ordering::Relaxed) != behind {
            let bytes = self.spool.gauges().backlog;
            self.events.report(if behind { Event::IndexBehind { bytes } } else { Event::IndexCaughtUp { bytes } });
        }
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

    /// Before a reply where syncs are slow: then sessions go on in groups, all whom one sync told. A reply wakes a client, which takes turns
    /// with us from then on; so the others of the group go first.
    async fn let_others_go_on(&self) {
        if self.spool.is_slow() {
            tokio::task::yield_now().await;
        }
    }

    async fn session(self, configured: ListenAddress, mut stream: BoxStream, mut peer: SocketAddr, stop: watch::Receiver<bool>) {
        let rules = self.rules.borrow().clone();
        // The rules may already be without a listener that is about to be stopped.
        let Some(entrance) = rules.entrances.get(&configured).cloned() else { return };
        let limits = &rules.config.limits;
        let entered = self.gate.connections.enter(entrance.settings.service, limits, rules.reserve);
        if entered.is_ok() && is_in(&entrance.proxy, peer.ip()) {
            match self.behind_proxy(&mut stream, peer, limits.handshake_timeout).await {
                Some(client) => peer = client,
                None => return,
            }
        }
        let client = peer.ip().to_canonical();
        let entered = entered.and_then(|mut entered| {
            // An LMTP client is a neighbour of ours, and brings everybody's mail; a go-between is as many clients as it likes.
            if entrance.settings.service != Service::Lmtp && !is_in(&entrance.xclient, client) {
                entered.belongs_to(client, limits)?;
            }
            Ok(entered)
        });
        match entered {
            Ok(_entered) => connection::drive(&self, &rules, entrance, stream, peer, stop).await,
            Err(refusal) => {
                self.limited(Some(client), refusal);
                self.gate.refuse(stream, refusal).await;
            }
        }
    }

    /// Hands a committed message on to be delivered.
    fn hand_on(&self, message: &Message) {
        // When the queue is busy the message waits in the index: memory stays bounded.
        if !self.accepted.give(message.id) {
            self.spool.leave(message.id, message.arrived);
        }
    }

    /// Tells that a client reached a limit.
    fn limited(&self, client: Option<IpAddr>, refusal: Refusal) {
        self.gate.quiet.report(&self.events, self.system.clock.monotonic(), client, refusal);
    }
}

/// Waits for the stop. The guard that `wait_for` returns must not live on.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Whether an address is in one of the networks. An IPv4 client of an IPv6 socket counts as what it is.
fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}
