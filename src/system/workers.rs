//! Where blocking work runs: threads in the real world, the one runtime thread in the simulated one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;

/// A future on the heap: what the object-safe seams return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs blocking closures and long-lived loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Blocking work goes to tokio's blocking pool, a dedicated loop to a thread of its own.
    Threads,
    /// All in the caller's thread: deterministic, for simulation.
    Inline,
}

impl Workers {
    /// Runs a short blocking closure (disk) without holding up the runtime.
    pub async fn blocking<T, F>(self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        match self {
            Self::Inline => work(),
            Self::Threads => tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error))),
        }
    }

    /// Runs a loop that may block between its awaits: on a thread of its own, or as a task in simulation.
    pub fn dedicated<F>(self, name: &str, run: F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::Inline => {
                tokio::spawn(run);
            }
            Self::Threads => {
                thread(name, Builder::new_current_thread().enable_time(), move |runtime| runtime.block_on(run))?;
            }
        }
        Ok(())
    }

    /// Runs a producer beside its consumer, which takes what the other makes in the same order, at most `ahead` pieces behind. When
    /// the consumer says `false`, both end. Blocking.
    pub fn beside<T: Send>(
        self,
        ahead: usize,
        produce: impl FnOnce(&mut dyn FnMut(T) -> bool) + Send,
        mut consume: impl FnMut(T) -> bool,
    ) {
        match self {
            Self::Inline => produce(&mut consume),
            Self::Threads => std::thread::scope(|scope| {
                let (give, take) = std::sync::mpsc::sync_channel(ahead);
                scope.spawn(move || produce(&mut |piece| give.send(piece).is_ok()));
                // Whoever stops taking lets go of the receiving end, and the producer hears that.
                take.into_iter().all(consume);
            }),
        }
    }
}

/// Blocking work of one kind, of which only so much goes on at a time; the rest waits for its turn, and costs no thread meanwhile.
#[derive(Clone, Debug)]
pub struct Turns {
    /// None: all in the caller's thread, which has only one at a time.
    places: Option<Arc<Semaphore>>,
}

impl Turns {
    /// So many at a time, if there are threads for it.
    pub fn new(workers: Workers, count_max: usize) -> Self {
        Self { places: (workers == Workers::Threads).then(|| Arc::new(Semaphore::new(count_max))) }
    }

    /// All in the caller's thread: there is never anything to wait for.
    pub fn inline() -> Self {
        Self { places: None }
    }

    /// Runs a short blocking closure when its turn comes. Its place is free again when it has ended, also if nobody waits for it any more.
    pub async fn blocking<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let Some(places) = &self.places else { return work() };
        let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
        let work = move || {
            let done = work();
            drop(place);
            done
        };
        Workers::Threads.blocking(work).await
    }
}

/// Whether so many threads can be had besides those that there are: starts them all, and ends them.
pub fn try_threads(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let closed = gate.lock();
        let started = (0..count).map(|_| std::thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())).map(drop));
        let started = started.collect();
        drop(closed);
        started
    })
}

/// For every thread as it starts: one sync call, which reaches no disk. `strace --seccomp-bpf`, with which syncs are watched, stops a thread at
/// every call until the first that it looks for: without this, threads that leave syncs to others would be slow as long as they live, and the
/// tracer too busy with them for the one that makes them.
pub fn show_sync() {
    // Nothing is to be synced there, and that is said at once.
    let _ = std::fs::File::open("/dev/null").and_then(|nothing| nothing.sync_data());
    #[cfg(test)]
    tests::SHOWN.set(true);
}

/// A thread with a runtime of its own, which is made in there: one that is dropped within another, for want of a thread, would panic.
pub(super) fn thread(name: &str, builder: &mut Builder, run: impl FnOnce(Runtime) + Send + 'static) -> io::Result<Handle> {
    let mut builder = std::mem::replace(builder, Builder::new_current_thread());
    let (made, handle) = mpsc::sync_channel(1);
    let run = move || {
        show_sync();
        match builder.build() {
            // Whoever asked for it waits below.
            Ok(runtime) if made.send(Ok(runtime.handle().clone())).is_ok() => run(runtime),
            Ok(_) => {}
            Err(error) => _ = made.send(Err(error)),
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    handle.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use super::*;

    thread_local! {
        /// Whether this thread has shown its sync.
        pub(super) static SHOWN: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn each_thread_with_a_runtime_shows_a_sync() {
        let (tell, told) = mpsc::channel();
        thread("shows", Builder::new_current_thread().enable_time(), move |_| tell.send(SHOWN.get()).unwrap()).unwrap();
        assert!(told.recv().unwrap());
        assert!(!SHOWN.get(), "of its own");
    }

    #[tokio::test]
    async fn only_so_many_have_their_turn_at_a_time_and_who_leaves_keeps_no_place() {
        let turns = Turns::new(Workers::Threads, 2);
        let places = turns.places.clone().unwrap();
        let (begun, begins) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let turn = |name| {
            let (turns, begun, gate) = (turns.clone(), begun.clone(), gate.clone());
            tokio::spawn(async move {
                let work = move || {
                    begun.send(name).map_err(io::Error::other)?;
                    gate.lock().map_err(|_| io::ErrorKind::Other)?.recv().map_err(io::Error::other)
                };
                turns.blocking(work).await
            })
        };
        let hear = || begins.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
        let first = [turn("one"), turn("two")];
        tokio::task::yield_now().await;
        assert_eq!(BTreeSet::from([hear(), hear()]), BTreeSet::from(["one", "two"]));
        let third = turn("three");
        tokio::task::yield_now().await;
        assert_eq!(places.available_permits(), 0);
        assert!(begins.try_recv().is_err(), "there is no room for a third");
        // Nobody waits for these any more, but they still take their places.
        first.iter().for_each(tokio::task::JoinHandle::abort);
        for task in first {
            let _ = task.await;
        }
        assert_eq!(places.available_permits(), 0);
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        third.await.unwrap().unwrap();
        assert_eq!(hear(), "three");
        drop(places.acquire_many(2).await.unwrap());
    }

    #[test]
    fn what_is_made_is_taken_in_order_until_somebody_has_enough() {
        for workers in [Workers::Inline, Workers::Threads] {
            for enough in [5, 1000] {
                let mut taken = Vec::new();
                let produce = |give: &mut dyn FnMut(u32) -> bool| {
                    let _ = (0..100).all(give);
                };
                workers.beside(3, produce, |piece| {
                    taken.push(piece);
                    taken.len() < enough
                });
                assert_eq!(taken, (0..enough.min(100) as u32).collect::<Vec<_>>());
            }
        }
    }
}
