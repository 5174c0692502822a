//! `serve`: puts the server together and runs it in the foreground until a signal stops it.
//!
//! The order is that of safety: configuration, log, ports, then the other user, then the spool, then the admin's doors.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::failure::{self, Failure};
use super::print::shell;
use super::progress::Bar;
use super::{Context, hint, now, settings, system};
use crate::config::{self, Config, LogFormat};
use crate::control::{self, Running};
use crate::daemon::{self, Asked, Handle, Posthouse, Signals, StartError};
use crate::directory::users;
use crate::event::{Event, Events, log};
use crate::spool::SpoolError;
use crate::spool::index::RunIndexFactory;
use crate::system::{Listener, System, SystemDisk, show_sync, try_threads};
use crate::web;

pub(super) fn serve(context: &Context<'_>) -> Result<(), Failure> {
    let loaded = context.load()?;
    let directory = settings::files(&loaded).map_err(|problems| Failure::problems(&problems))?;
    let config = loaded.config.clone();
    let format = match config.log.format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
        LogFormat::Journald => log::Format::Journald,
    };
    log::init(format, &config.log.level, now).map_err(|error| Failure::new(failure::CONFIG, format!("log.level: {error}")))?;
    let events = Events::new();
    for warning in loaded.warnings.iter().chain(directory.warnings()) {
        events.report(Event::Warning { reason: warning.to_string() });
    }
    let mailboxes = users::list(&SystemDisk, &config.auth.users).unwrap_or_default();
    let program = format!("{}{}", shell(&std::env::args().next().unwrap_or_else(|| "posthouse".to_owned())), context.options());
    // Lines for a newcomer would break a log that programs read.
    let wanted = loaded.file == Path::new(DEMO) && config.log.format == LogFormat::Text;
    let steps = if wanted { hint::first_steps(&config, &directory, &mailboxes, &program) } else { None };
    let system = system(&config)?;
    check_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_start(show_sync).build();
    let runtime = runtime.map_err(|error| Failure::new(failure::UNAVAILABLE, format!("can't start threads: {error}")))?;
    let source = reader(context.arguments.config.clone(), events.clone());
    let done = runtime.block_on(run(config, system, events, source, steps));
    // A start that was broken off may still be reading the spool; everything else has ended, or ends at once.
    runtime.shutdown_timeout(LEFT_OVER);
    done
}

/// What is left over when the server has stopped has so long to end.
const LEFT_OVER: Duration = Duration::from_secs(1);

/// The configuration of the demo that comes with the sources; only there are the first steps told.
const DEMO: &str = "conf/posthouse.toml";

/// Reads the configuration again, with everything that a reload can't do without.
fn reader(path: Option<std::path::PathBuf>, events: Events) -> daemon::Source {
    Arc::new(move || {
        let loaded = config::load(path.as_deref(), &config::environment());
        let checked = loaded.and_then(|loaded| settings::files_of_reload(&loaded).map(|directory| (loaded, directory)));
        let checked = checked.map(|(loaded, directory)| {
            for warning in loaded.warnings.iter().chain(directory.warnings()) {
                events.report(Event::Warning { reason: warning.to_string() });
            }
            loaded.config
        });
        checked.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    })
}

async fn run(
    config: Config,
    system: System,
    events: Events,
    source: daemon::Source,
    first_steps: Option<String>,
) -> Result<(), Failure> {
    // From here on a signal stops the server in good order, and doesn't end the process.
    let mut signals =
        Signals::new().map_err(|error| Failure::new(failure::UNAVAILABLE, format!("can't take signals: {error}")))?;
    // Before root is given away, which may have more of them.
    let descriptors = daemon::raise_descriptors(&config);
    if let Some(reason) = descriptors.warning {
        events.report(Event::Warning { reason: reason.to_owned() });
    }
    let page_listener = bind_pages(&config, &system).await?;
    let bound = Posthouse::bind(config.clone(), system.clone(), events.clone(), source).await?;
    let bound = bound.with_connections_max(descriptors.connections_max);
    become_user(&config, &events)?;
    let index = RunIndexFactory::new(&config.spool.path, system.disk.clone(), config.spool.index_cache);
    // On a terminal a bar tells how far a long recovery has come, elsewhere lines in the log do.
    let bar = Bar::for_terminal();
    let bound = match &bar {
        Some(bar) => bound.watched_by(bar.watcher()),
        None => bound,
    };
    let started = until_stopped(bound.start(Box::new(index)), &mut signals).await;
    drop(bar);
    let Some((handle, reload)) = started? else {
        // Nothing was begun that the next start doesn't find as a crash would leave it.
        events.report(Event::Stopping { reason: "a signal, before the start was over".to_owned(), grace: Duration::ZERO });
        events.report(Event::Stopped { unfinished: 0 });
        return Ok(());
    };
    if reload {
        // What is wrong is in the log; the configuration of the start goes on.
        let _ = handle.reload().await;
    }
    let doors = match open_doors(&config, &system, &events, &handle, page_listener).await {
        Ok(doors) => doors,
        Err(failure) => {
            handle.stop("the admin's doors can't be opened");
            handle.stopped().await;
            return Err(failure);
        }
    };
    if let Some(first_steps) = first_steps {
        failure::say(&first_steps);
    }
    wait(&handle, &mut signals).await;
    doors.close();
    if handle.has_failed() {
        return Err(
            Failure::new(failure::SOFTWARE, "a part of the server ended by a bug").remedy("look at the log, and report it")
        );
    }
    Ok(())
}

/// The started server, and whether a signal asked for a reload meanwhile; none: one asked for the stop.
async fn until_stopped(
    start: impl Future<Output = Result<Handle, StartError>>,
    signals: &mut Signals,
) -> Result<Option<(Handle, bool)>, StartError> {
    tokio::pin!(start);
    let mut reload = false;
    loop {
        tokio::select! {
            biased;
            started = &mut start => return Ok(Some((started?, reload))),
            asked = signals.next() => match asked {
                Asked::Stop => return Ok(None),
                Asked::Reload => reload = true,
            }
        }
    }
}

/// Acts on signals until the server has stopped.
async fn wait(handle: &Handle, signals: &mut Signals) {
    loop {
        tokio::select! {
            biased;
            () = handle.stopped() => return,
            asked = signals.next() => match asked {
                Asked::Stop => handle.stop("a signal"),
                Asked::Reload => {
                    // What is wrong is in the log; the old configuration goes on.
                    let _ = handle.reload().await;
                }
            }
        }
    }
}

fn become_user(config: &Config, events: &Events) -> Result<(), Failure> {
    if !daemon::is_root() {
        return Ok(());
    }
    if config.user.is_empty() {
        let reason = "runs as root; set `user` to a system user that Posthouse becomes once its ports are bound".to_owned();
        events.report(Event::Warning { reason });
        return Ok(());
    }
    daemon::drop_to(&config.user).map_err(|error| Failure::new(failure::NO_PERMISSION, error.to_string()))?;
    events.report(Event::Became { user: config.user.clone() });
    // That user may have fewer than root.
    check_threads()
}

/// Threads that the server needs to run well, besides one for each core: those of spool, index and sessions, and some for slow disks.
const THREADS: usize = 32;

/// Whether the system gives the server its threads. Some who start them later can't say that there was none, and wait for it for ever.
fn check_threads() -> Result<(), Failure> {
    let count = THREADS + std::thread::available_parallelism().map_or(1, usize::from);
    try_threads(count).map_err(|error| {
        let remedy = "raise what bounds them: TasksMax= and LimitNPROC= of the service, or `ulimit -u`";
        Failure::new(failure::UNAVAILABLE, format!("can't have the {count} threads that the server needs: {error}"))
            .remedy(remedy)
    })
}

/// Binds the port of the pages, while we still may bind low ones.
async fn bind_pages(config: &Config, system: &System) -> Result<Option<Box<dyn Listener>>, Failure> {
    let Some(address) = config.admin.http else { return Ok(None) };
    let bound = system.net.listen(address).await;
    bound.map(Some).map_err(|error| unbindable(&format!("admin.http: can't listen on {address}"), &error))
}

fn unbindable(what: &str, error: &io::Error) -> Failure {
    let (status, remedy) = match error.kind() {
        io::ErrorKind::PermissionDenied => (failure::NO_PERMISSION, "start as root with `user` set, or choose a port above 1023"),
        io::ErrorKind::AddrInUse => (failure::CANT_CREATE, "stop what listens there, or choose another port"),
        _ => (failure::CONFIG, "choose an address of this machine"),
    };
    Failure::new(status, format!("{what}: {error}")).remedy(remedy)
}

/// The control socket and the pages, while they are served.
struct Doors {
    tasks: tokio::task::JoinSet<()>,
}

impl Doors {
    /// Ends them; the socket file goes away.
    fn close(mut self) {
        self.tasks.abort_all();
    }
}

async fn open_doors(
    config: &Config,
    system: &System,
    events: &Events,
    handle: &Handle,
    page_listener: Option<Box<dyn Listener>>,
) -> Result<Doors, Failure> {
    let socket = &config.admin.socket;
    let door = control::bind(socket).await.map_err(|error| {
        let what = format!("admin.socket: can't make {}: {error}", socket.display());
        let (status, remedy) = match error.kind() {
            io::ErrorKind::PermissionDenied => (failure::NO_PERMISSION, "let the server's user write to its folder"),
            io::ErrorKind::AddrInUse => {
                (failure::CANT_CREATE, "stop the other server, or give this one another socket and spool")
            }
            io::ErrorKind::NotFound => (failure::CANT_CREATE, "make its folder, or choose another"),
            _ => (failure::CANT_CREATE, "choose another path, or remove what lies there"),
        };
        Failure::new(status, what).remedy(remedy)
    })?;
    let admin = Arc::new(Running::new(handle.clone()));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(control::Server::new(door, admin.clone()).run());
    if let Some(listener) = page_listener {
        let pages = web::Server::new(listener, system.clone(), admin)
            .map_err(|error| Failure::new(failure::CONFIG, format!("[admin]: {error}")))?;
        let service = if config.admin.tls.is_some() { "https" } else { "http" };
        events.report(Event::Listening { address: pages.local_address().to_string(), service });
        tasks.spawn(pages.run());
    }
    Ok(Doors { tasks })
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let status = match &error {
            StartError::Files(_) | StartError::Tls(_) => failure::CONFIG,
            StartError::Bind(_, error) if error.kind() == io::ErrorKind::PermissionDenied => failure::NO_PERMISSION,
            StartError::Bind(_, error) if error.kind() == io::ErrorKind::AddrNotAvailable => failure::CONFIG,
            StartError::Bind(..) => failure::CANT_CREATE,
            StartError::Spool(SpoolError::Locked(_)) => failure::UNAVAILABLE,
            StartError::Spool(_) => failure::CANT_CREATE,
            StartError::Drop(..) => failure::IO,
            StartError::System(_) => failure::UNAVAILABLE,
        };
        let remedy = match &error {
            StartError::Spool(SpoolError::Io(_)) => "look whether the user that the server runs as may make and write that",
            _ => "",
        };
        Failure::new(status, error.to_string()).remedy(remedy)
    }
}
