//! The start, in the order that safety asks for: ports while still root, then the user, then the spool, then the loops.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::certificates::Certificates;
use super::current::{Current, Files, Lasting};
use super::delivery::{Delivery, Inputs};
use super::handle::{Handle, Inner};
use super::own_key::{self, OwnKey};
use super::pauses::Pauses;
use super::reception::{self, Listeners, Sockets};
use crate::config::{Config, ListenAddress};
use crate::event::{Event, Events};
use crate::listen::{Gate, Reception, TakeUp, handover};
use crate::queue;
use crate::spool::index::IndexFactory;
use crate::spool::{Note, Options, Progress, Recovery, Spool, SpoolError, Watcher};
use crate::system::{Crew, System, TlsError};

/// Orders on their way to the delivery loop.
const COMMANDS_MAX: usize = 64;
/// A recovery that lasts longer says so often how far it has come.
const RECOVERING_EVERY: Duration = Duration::from_secs(5);

/// Reads the configuration again: what a reload uses.
pub type Source = Arc<dyn Fn() -> Result<Config, Vec<String>> + Send + Sync>;

/// Why the server can't start.
#[derive(Debug)]
pub enum StartError {
    /// Users, aliases or the texts of notices are wrong: every problem.
    Files(Vec<String>),
    /// A listener can't be bound.
    Bind(ListenAddress, io::Error),
    /// The spool can't be opened.
    Spool(SpoolError),
    /// What a crash left in this drop folder can't be cleared up. Without that nothing may be delivered; and who starts the server hears
    /// of it, tries again and can mend it, which a server that waits in silence would keep from him.
    Drop(PathBuf, io::Error),
    /// A certificate or key can't be used.
    Tls(TlsError),
    /// Something else that the system refused; says what.
    System(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(problems) => f.write_str(&problems.join("\n")),
            Self::Bind(address, error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::PermissionDenied => "start as root with `user` set, or choose a port above 1023",
                    io::ErrorKind::NotFound => "make the socket's folder, or choose another path",
                    io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
                    _ => "choose an address of this machine",
                };
                write!(f, "listener.address: can't listen on {address}: {error}; {remedy}")
            }
            Self::Spool(error) => write!(f, "spool.path: {error}"),
            Self::Drop(folder, error) => {
                let remedy = "make it, taken/ and refused/ readable and writable for the server, or move taken/ away";
                write!(f, "sendmail.drop: can't clear up {}: {error}; {remedy} (docs/sendmail.md)", folder.display())
            }
            Self::Tls(error) => write!(f, "[tls]: {error}"),
            Self::System(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

/// The server.
pub struct Posthouse;

/// A server whose ports are bound and that does nothing yet: the moment to give root away.
pub struct Bound {
    config: Arc<Config>,
    system: System,
    events: Events,
    files: Files,
    sockets: Sockets,
    certificates: Certificates,
    source: Source,
    watcher: Option<Watcher>,
    connections_max: usize,
}

impl Posthouse {
    /// Reads users, aliases, texts of notices and certificates, and binds the listeners.
    pub async fn bind(config: Config, system: System, events: Events, source: Source) -> Result<Bound, StartError> {
        let config = Arc::new(config);
        let files = Files::load(&config, &system).map_err(StartError::Files)?;
        let certificates = Certificates::load(&config, &system, &events).map_err(StartError::Tls)?;
        let sockets = reception::bind(&config, &system, |_| false).await;
        let sockets = sockets.map_err(|failed| StartError::Bind(failed.address, failed.error))?;
        Ok(Bound { config, system, events, files, sockets, certificates, source, watcher: None, connections_max: usize::MAX })
    }
}

impl Bound {
    /// Somebody looks on while the spool is recovered; otherwise lines in the mail log tell how far it has come.
    pub fn watched_by(self, watcher: Watcher) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// Whatever is configured, no more connections than that: the system has no more file descriptors.
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self { connections_max, ..self }
    }

    /// Opens the spool and starts everything.
    pub async fn start(self, index: Box<dyn IndexFactory>) -> Result<Handle, StartError> {
        let Bound { config, system, events, files, sockets, certificates, source, watcher, connections_max } = self;
        let watcher = watcher.unwrap_or_else(|| recovery_lines(&events, &system));
        let (spool, pauses) = open_spool(&config, &system, &events, index, watcher).await?;
        certificates.complete(&config).map_err(StartError::Tls)?;
        let key = OwnKey::load(&system, &config.spool.path).map_err(|error| {
            let file = config.spool.path.join(own_key::FILE_NAME);
            StartError::System(format!("{}: {error}; make it readable, or remove it", file.display()))
        })?;
        let lasting = Lasting::new(&events, &key);
        let current = Arc::new(Current::new(Arc::clone(&config), files, &system, &lasting));
        let (accepted_in, accepted) = handover();
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let (stop_in, stop) = watch::channel(false);
        let (stopped_in, stopped) = watch::channel(false);
        let (rules_in, rules) = watch::channel(Arc::clone(&current.rules));
        let gate = Arc::new(Gate::new(connections_max));
        let crew = Crew::start(system.workers, "reception");
        let crew = crew.map_err(|error| StartError::System(format!("can't start the threads of sessions: {error}")))?;
        let reception = Reception {
            rules,
            spool: spool.clone(),
            accepted: accepted_in,
            events: events.clone(),
            gate: Arc::clone(&gate),
            full: Arc::default(),
            behind: Arc::default(),
            tls: certificates.subscribe(),
            system: system.clone(),
            crew,
        };
        // Before anything is delivered: what a crash left in the drop folder is told by what is still in the spool.
        let take_up = prepare_drops(&config, &reception).await?;
        let mut listeners = Listeners::new(reception, events.clone(), take_up);
        listeners.replace(&config, sockets);
        let delivery = Delivery::new(spool.clone(), events.clone(), system.clone(), current, pauses);
        let delivery = tokio::spawn(delivery.run(Inputs { accepted, commands, stop }));
        events.report(Event::Started {
            version: env!("CARGO_PKG_VERSION"),
            hostname: config.hostname.clone(),
            pid: std::process::id(),
        });
        let certificates = Arc::new(certificates);
        let config_in = watch::channel(Arc::clone(&config)).0;
        tokio::spawn(Arc::clone(&certificates).watch(config_in.subscribe(), stop_in.subscribe()));
        let inner = Inner {
            spool,
            events,
            system,
            commands: commands_in,
            config: config_in,
            rules: rules_in,
            gate,
            lasting,
            certificates,
            listeners: tokio::sync::Mutex::new(listeners),
            stop: stop_in,
            stopped,
            failed: AtomicBool::new(false),
            source,
        };
        let handle = Handle(Arc::new(inner));
        tokio::spawn(supervise(handle.clone(), delivery, stopped_in));
        Ok(handle)
    }
}

/// Waits for the stop, lets what is in flight finish within `shutdown_grace`, and closes the spool.
async fn supervise(handle: Handle, delivery: tokio::task::JoinHandle<usize>, stopped: watch::Sender<bool>) {
    let mut stop = handle.0.stop.subscribe();
    let mut delivery = delivery;
    let unfinished = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => None,
        // Nothing can be kept any more, neither mail nor outcomes. The next start finds everything that was promised.
        _ = handle.0.spool.closed() => {
            handle.fail("spool", "it closed".to_owned());
            None
        }
        // Only a bug ends the loop by itself. Without it the server is none: better to end, and to be started again.
        ended = &mut delivery => {
            // It also ends, in good order, when a stop came between the two looks.
            if !handle.is_stopping() {
                let reason = ended.as_ref().err().map_or_else(|| "it ended".to_owned(), ToString::to_string);
                handle.fail("delivery loop", reason);
            }
            Some(ended.unwrap_or(0))
        }
    };
    let grace = handle.config().shutdown_grace;
    handle.0.listeners.lock().await.close(grace).await;
    let unfinished = match unfinished {
        Some(unfinished) => unfinished,
        None => delivery.await.unwrap_or(0),
    };
    if let Err(error) = handle.0.spool.close().await {
        let reason = error.to_string();
        handle.0.events.report(Event::SpoolTrouble { id: None, operation: "close", reason });
    }
    handle.0.events.report(Event::Stopped { unfinished });
    stopped.send_replace(true);
}

/// How the server sets its spool up: what opens it in the server's stead must do the same.
pub fn spool_options(config: &Config) -> Options {
    let retry = config.retry.clone();
    Options { due: Arc::new(move |message| queue::due_at(message, &retry)), ..Options::new(&config.spool) }
}

/// Tells the mail log every few seconds how far a recovery has come; one that is soon done isn't worth a line.
fn recovery_lines(events: &Events, system: &System) -> Watcher {
    let (events, clock) = (events.clone(), Arc::clone(&system.clock));
    let began = clock.monotonic();
    let told = Mutex::new(began);
    Arc::new(move |Progress { phase, done, total }| {
        let now = clock.monotonic();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(*told) >= RECOVERING_EVERY {
            *told = now;
            events.report(Event::Recovering { phase: phase.as_str(), done, total, duration: now.saturating_sub(began) });
        }
    })
}

async fn prepare_drops(config: &Config, reception: &Reception) -> Result<Option<TakeUp>, StartError> {
    let Some(folder) = &config.sendmail.drop else { return Ok(None) };
    let prepared = TakeUp::prepare(reception.clone(), folder).await;
    prepared.map_err(|error| StartError::Drop(folder.clone(), error))
}

async fn open_spool(
    config: &Arc<Config>,
    system: &System,
    events: &Events,
    index: Box<dyn IndexFactory>,
    progress: Watcher,
) -> Result<(Spool, Pauses), StartError> {
    let began = system.clock.monotonic();
    let reporter = events.clone();
    let report = Arc::new(move |note| report_note(&reporter, &note));
    let options = Options { report, progress, ..spool_options(config) };
    let (spool, recovery) = Spool::open(options, system, index).await.map_err(StartError::Spool)?;
    report_recovery(events, &recovery, system.clock.monotonic() - began);
    let mut pauses = Pauses::load(system, &config.spool.path).map_err(|error| {
        StartError::System(format!("{}/paused.json: {error}; remove it to resume all", config.spool.path.display()))
    })?;
    pauses.all |= config.queue.paused;
    Ok((spool, pauses))
}

fn report_recovery(events: &Events, recovery: &Recovery, duration: Duration) {
    for note in &recovery.notes {
        report_note(events, note);
    }
    let Recovery { messages, segments, records, .. } = *recovery;
    events.report(Event::Recovered { messages, segments, records, duration });
}

/// The spool's notes as events of the mail log.
fn report_note(events: &Events, note: &Note) {
    events.report(match note.clone() {
        Note::TailCut { segment, offset, bytes } => Event::Truncated { segment, offset, bytes },
        Note::Quarantined { segment, offset, bytes, file } => Event::Quarantined { segment, offset, bytes, path: file },
        Note::SegmentMissing { segment } => Event::SegmentMissing { segment },
        Note::IndexRebuilt { why, set_aside } => Event::IndexRebuilt { reason: why, path: set_aside.unwrap_or_default() },
        Note::ContentMissing { id } => Event::ContentMissing { id },
        Note::SegmentUnreadable { segment, messages, error } => Event::SegmentUnreadable { segment, messages, reason: error },
        Note::SegmentReadable { segment, messages } => Event::SegmentReadable { segment, messages },
        Note::OrphansRemoved { count } => Event::OrphansRemoved { files: count },
        Note::WriteFailed { segment, error } => Event::WriteFailed { segment, reason: error },
        Note::RoomAwaited => Event::SpoolTrouble { id: None, operation: "keep", reason: note.to_string() },
        Note::Trouble(reason) => Event::SpoolTrouble { id: None, operation: "keep", reason },
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Phase;
    use crate::system::sim::{SimDisk, World, run};

    #[test]
    fn a_long_recovery_tells_the_log_every_few_seconds_and_a_short_one_nothing() {
        run(async {
            let system = World::new(1).system(Arc::new(SimDisk::new()));
            let events = Events::recording();
            let lines = recovery_lines(&events, &system);
            for done in 0..25 {
                lines(Progress { phase: Phase::Log, done, total: 25 });
                tokio::time::sleep(Duration::from_millis(499)).await;
            }
            let told = events.recorded();
            let of = |event: &Event| match event {
                Event::Recovering { phase, done, total, .. } => (*phase, *done, *total),
                other => panic!("{other:?}"),
            };
            assert_eq!(told.iter().map(of).collect::<Vec<_>>(), [("log", 11, 25), ("log", 22, 25)]);
        });
    }
}
