//! What the rest of the program holds of a running server: control, web and command line act through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::certificates::Certificates;
use super::command::{Changed, Command, Levels, Paused};
use super::current::{Current, Files, Lasting};
use super::reception::{self, Listeners};
use super::start::Source;
use crate::config::Config;
use crate::event::{Event, Events};
use crate::listen::{Gate, Rules};
use crate::mail::{Destination, Domain, QueueId, ReversePath};
use crate::queue::{SiteState, Verb};
use crate::spool::Spool;
use crate::system::System;

/// A delivery loop that doesn't answer within this time is in trouble.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server. Cheap to clone.
#[derive(Clone)]
pub struct Handle(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) spool: Spool,
    pub(super) events: Events,
    pub(super) system: System,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) config: watch::Sender<Arc<Config>>,
    pub(super) rules: watch::Sender<Arc<Rules>>,
    pub(super) gate: Arc<Gate>,
    pub(super) lasting: Lasting,
    pub(super) certificates: Arc<Certificates>,
    pub(super) listeners: Mutex<Listeners>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) failed: AtomicBool,
    pub(super) source: Source,
}

/// How the server is: for each part nothing if it works, else why it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The delivery loop. That delivery is paused is no trouble.
    pub delivery: Option<String>,
    /// The listeners.
    pub reception: Option<String>,
    /// The spool.
    pub spool: Option<String>,
}

impl Handle {
    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.config.borrow())
    }

    /// The spool: for looking, not for changing.
    pub fn spool(&self) -> &Spool {
        &self.0.spool
    }

    /// The mail log and its metrics.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// The world it runs in.
    pub fn system(&self) -> &System {
        &self.0.system
    }

    /// Open SMTP connections.
    pub fn connections(&self) -> usize {
        self.0.gate.connections.open()
    }

    /// Octets of mail that is coming in and not yet committed.
    pub fn in_flight(&self) -> u64 {
        self.0.gate.in_flight.octets()
    }

    /// The certificates in use by their files, each with the days that are left of it.
    pub fn certificate_days(&self) -> Vec<(String, i64)> {
        self.0.certificates.days_left()
    }

    /// The listeners' addresses as bound.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        self.0.listeners.lock().await.addresses()
    }

    /// Carries out a verb on these messages; the answer comes when it is durable.
    pub async fn change(&self, verb: Verb, ids: Vec<QueueId>) -> Result<Changed, String> {
        self.ask(|answer| Command::Change { verb, ids, answer }).await?
    }

    /// Stops attempts, all or to a domain; outlives a restart.
    pub async fn pause(&self, domain: Option<Domain>) -> Result<(), String> {
        self.ask(|answer| Command::Pause { domain, answer }).await?
    }

    /// Starts them again.
    pub async fn resume(&self, domain: Option<Domain>) -> Result<(), String> {
        self.ask(|answer| Command::Resume { domain, answer }).await?
    }

    /// What is paused.
    pub async fn paused(&self) -> Result<Paused, String> {
        self.ask(|answer| Command::Paused { answer }).await
    }

    /// What is known of sites with mail, and of those that are down; at most `count_max`.
    pub async fn sites(&self, count_max: usize) -> Result<Vec<SiteState>, String> {
        self.ask(|answer| Command::Sites { count_max, answer }).await
    }

    /// What is known of the site where a sender's mail to a destination goes; none if nothing is.
    pub async fn site(&self, destination: Destination, sender: ReversePath) -> Result<Option<SiteState>, String> {
        self.ask(|answer| Command::Site { destination, sender, answer }).await
    }

    /// How busy the delivery loop is.
    pub async fn levels(&self) -> Result<Levels, String> {
        self.ask(|answer| Command::Levels { answer }).await
    }

    /// How the server is.
    pub async fn health(&self) -> Health {
        let delivery = match tokio::time::timeout(ANSWER_TIMEOUT, self.levels()).await {
            Ok(levels) => levels.err(),
            Err(_) => Some("the delivery loop does not answer".to_owned()),
        };
        let reception = if self.is_stopping() {
            Some("the server is stopping".to_owned())
        } else {
            self.0.listeners.lock().await.broken().map(|address| format!("nothing is accepted on {address} any more"))
        };
        let spool = self.0.spool.space().err().map(|error| error.to_string());
        Health { delivery, reception, spool: spool.or_else(|| self.0.spool.trouble()) }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "the server is stopping".to_owned();
        self.0.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Reads the configuration, users and aliases again and goes by them; open connections stay. If something is wrong, nothing
    /// changes, and every problem is told and logged.
    pub async fn reload(&self) -> Result<(), Vec<String>> {
        let done = self.try_reload().await;
        match &done {
            Ok(()) => self.0.events.report(Event::Reloaded {}),
            Err(problems) => {
                for reason in problems {
                    self.0.events.report(Event::ReloadRefused { reason: reason.clone() });
                }
            }
        }
        done
    }

    async fn try_reload(&self) -> Result<(), Vec<String>> {
        let config = Arc::new((self.0.source)()?);
        let files = Files::load(&config, &self.0.system)?;
        // One reload at a time, and none while listeners change.
        let mut listeners = self.0.listeners.lock().await;
        let sockets = reception::bind(&config, &self.0.system, |address| listeners.has(address))
            .await
            .map_err(|failed| vec![format!("listener {}: {}; free the port or choose another", failed.address, failed.error)])?;
        for key in needs_restart(&self.config(), &config) {
            let reason = format!("{key} was changed: that takes effect at the next start");
            self.0.events.report(Event::Warning { reason });
        }
        let current = Arc::new(Current::new(Arc::clone(&config), files, &self.0.system, &self.0.lasting));
        self.0.certificates.renew(&config);
        self.0.rules.send_replace(Arc::clone(&current.rules));
        self.0.config.send_replace(Arc::clone(&config));
        self.ask(|answer| Command::Reload { current, answer }).await.map_err(|why| vec![why])?;
        listeners.replace(&config, sockets);
        Ok(())
    }

    /// Asks the server to stop; `stopped` says when it has.
    pub fn stop(&self, reason: &str) {
        if !self.0.stop.send_replace(true) {
            let grace = self.config().shutdown_grace;
            self.0.events.report(Event::Stopping { reason: reason.to_owned(), grace });
        }
    }

    /// Whether it stopped because of a bug, and not because it was asked to.
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, part: &'static str, reason: String) {
        self.0.failed.store(true, Ordering::Relaxed);
        self.0.events.report(Event::Trouble { id: None, operation: part, reason });
        self.stop(&format!("the {part} ended"));
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.0.stop.borrow()
    }

    /// Waits until the server has stopped and the spool is closed.
    pub async fn stopped(&self) {
        let mut stopped = self.0.stopped.clone();
        // An error means that the supervisor is gone, and the server with it.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Settings that only a start can apply.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let checks = [
        ("user", old.user != new.user),
        ("[spool]", old.spool != new.spool),
        ("sendmail.drop", old.sendmail.drop != new.sendmail.drop),
        ("[admin]", old.admin != new.admin),
        ("[dns]", old.dns != new.dns),
        ("[log]", old.log != new.log),
    ];
    checks.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}
