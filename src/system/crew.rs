//! Crews: threads with a runtime each, for many small tasks that are seldom at work for long.
//!
//! A task stays with the thread that it began on. In a runtime of several threads each of them that finds two tasks ready wakes another
//! one for the second: for a handful of sessions that step a few microseconds at a time, waking costs more than the steps do.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::workers::{Workers, thread};

/// More threads than that have never been needed.
const MEMBERS_MAX: usize = 8;
/// Blocking work of one thread's tasks at a time; more waits.
const BLOCKING_MAX: usize = 64;

/// Threads for tasks of one kind; in simulation none: all is done in the caller's. They end with the last copy of this.
#[derive(Clone, Debug)]
pub struct Crew(Option<Arc<Threads>>);

#[derive(Debug)]
struct Threads {
    members: Vec<Handle>,
    /// The runtime that the crew was made in.
    home: Handle,
    /// When it is dropped, the threads end.
    _life: watch::Sender<()>,
}

impl Crew {
    /// Half as many threads as there are cores, so that the other half is for other work. In a runtime.
    pub fn start(workers: Workers, name: &str) -> io::Result<Self> {
        if workers == Workers::Inline {
            return Ok(Self(None));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (life, alive) = watch::channel(());
        let count = (cores / 2).clamp(1, MEMBERS_MAX);
        let members = (0..count).map(|_| member(name, alive.clone())).collect::<io::Result<_>>()?;
        Ok(Self(Some(Arc::new(Threads { members, home: Handle::current(), _life: life }))))
    }

    /// Starts a task on every thread.
    pub fn on_each<F: Future<Output = ()> + Send + 'static>(&self, mut make: impl FnMut() -> F) -> Vec<JoinHandle<()>> {
        match &self.0 {
            None => vec![tokio::spawn(make())],
            Some(threads) => threads.members.iter().map(|member| member.spawn(make())).collect(),
        }
    }

    /// Does what takes long for a step (a handshake) where the other tasks of the thread needn't wait for it. Ends with this future.
    pub async fn aside<T: Send + 'static>(&self, work: impl Future<Output = io::Result<T>> + Send + 'static) -> io::Result<T> {
        let Some(threads) = &self.0 else { return work.await };
        // A set ends what is in it when it is dropped.
        let mut set = JoinSet::new();
        set.spawn_on(work, &threads.home);
        match set.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::Error::other("nothing was begun")),
        }
    }
}

/// A thread that runs tasks until its crew is gone.
fn member(name: &str, mut alive: watch::Receiver<()>) -> io::Result<Handle> {
    thread(name, Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_MAX), move |runtime| {
        runtime.block_on(async {
            // Nothing is ever sent: an error says that the sender is gone.
            while alive.changed().await.is_ok() {}
        });
        // What still blocks must not hold up anybody.
        runtime.shutdown_background();
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn each_thread_has_its_task_and_ends_with_the_crew() {
        let crew = Crew::start(Workers::Threads, "crew").unwrap();
        let (ran, threads) = mpsc::channel();
        let (ended, end) = mpsc::channel::<()>();
        let tasks = crew.on_each(|| {
            let (ran, ended) = (ran.clone(), ended.clone());
            async move {
                ran.send(thread::current().id()).unwrap();
                std::future::pending::<()>().await;
                drop(ended);
            }
        });
        let threads: BTreeSet<String> = (0..tasks.len()).map(|_| format!("{:?}", threads.recv().unwrap())).collect();
        assert_eq!(threads.len(), tasks.len());
        assert!(!threads.contains(&format!("{:?}", thread::current().id())));
        drop((crew, ended));
        assert!(
            end.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Disconnected),
            "the tasks are dropped with their threads"
        );
    }

    #[tokio::test]
    async fn what_is_done_aside_is_done_elsewhere_and_ends_with_whoever_waits_for_it() {
        let crew = Crew::start(Workers::Threads, "crew").unwrap();
        let inner = crew.clone();
        let (said, where_done) = mpsc::channel();
        let task = crew.on_each(move || {
            let (crew, said) = (inner.clone(), said.clone());
            async move {
                let elsewhere = crew.aside(async { Ok(thread::current().id()) }).await.unwrap();
                said.send((thread::current().id(), elsewhere)).unwrap();
            }
        });
        for task in task {
            task.await.unwrap();
        }
        let (member, elsewhere) = where_done.recv().unwrap();
        assert!(member != elsewhere && elsewhere == thread::current().id());
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        let waiting = crew.aside(async {
            let _held = held;
            std::future::pending::<io::Result<()>>().await
        });
        tokio::select! {
            biased;
            _ = waiting => unreachable!("it never ends"),
            () = tokio::task::yield_now() => {}
        }
        assert!(gone.await.is_err(), "it ended with the future");
    }

    #[tokio::test]
    async fn in_simulation_all_is_done_here() {
        let crew = Crew::start(Workers::Inline, "crew").unwrap();
        let here = thread::current().id();
        assert_eq!(crew.aside(async { Ok(thread::current().id()) }).await.unwrap(), here);
        let tasks = crew.on_each(move || async move { assert_eq!(thread::current().id(), here) });
        assert_eq!(tasks.len(), 1);
        for task in tasks {
            task.await.unwrap();
        }
    }
}
