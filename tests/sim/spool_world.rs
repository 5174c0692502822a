//! The world of the spool's stories: a clock that tokio's paused time moves, random numbers from a seed, no network.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::mail::{Address, BodyType, Domain, Recipient, ReversePath, Timestamp};
use posthouse::spool::{Accept, Options};
use posthouse::system::sim::{OperationKind, SimDisk, SimRandom, SimTls};
use posthouse::system::{
    BoxFuture, BoxStream, Clock, Disk, Dns, DnsError, Endpoint, Entropy, Listener, MxRecord, Net, System, Workers,
};

use crate::spool_gates::{GatedDisk, Gates};

/// Wall-clock time at the start of a story.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

struct PausedClock {
    start: tokio::time::Instant,
    /// Milliseconds that pass whenever it is looked at: whatever is done then takes time.
    each: u64,
    passed: Arc<AtomicU64>,
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        START.plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        let passed = self.passed.fetch_add(self.each, Ordering::Relaxed);
        self.start.elapsed() + Duration::from_millis(passed)
    }
}

struct SeededEntropy(Mutex<SimRandom>);

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap().next_u64()
    }
}

struct Nothing;

impl Dns for Nothing {
    fn mx<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Vec<MxRecord>, DnsError>> {
        Box::pin(async { Err(DnsError::NoSuchDomain) })
    }

    fn ipv4<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async { Err(DnsError::NoSuchDomain) })
    }

    fn ipv6<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async { Err(DnsError::NoSuchDomain) })
    }
}

impl Net for Nothing {
    fn connect<'a>(&'a self, _: &'a Endpoint, _: Option<std::net::IpAddr>) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::AddrInUse.into()) })
    }

    fn listen_unix<'a>(&'a self, _: &'a Path, _: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::AddrInUse.into()) })
    }
}

/// The world around a disk. Within a tokio runtime only.
pub(crate) fn system(disk: Arc<dyn Disk>, seed: u64, workers: Workers) -> System {
    System {
        clock: clock(0, Arc::default()),
        disk,
        dns: Arc::new(Nothing),
        net: Arc::new(Nothing),
        entropy: Arc::new(SeededEntropy(Mutex::new(SimRandom::new(seed)))),
        tls: Arc::new(SimTls),
        workers,
    }
}

fn clock(each: u64, passed: Arc<AtomicU64>) -> Arc<dyn Clock> {
    Arc::new(PausedClock { start: tokio::time::Instant::now(), each, passed })
}

/// A simulated world in which every write and sync takes milliseconds.
pub(crate) fn slow(disk: &SimDisk, seed: u64) -> System {
    every_look_takes(disk, seed, 1)
}

/// A simulated world in which so many milliseconds pass with every look at the clock.
pub(crate) fn every_look_takes(disk: &SimDisk, seed: u64, each: u64) -> System {
    System { clock: clock(each, Arc::default()), ..simulated(disk, seed) }
}

/// A simulated world in which every sync takes so many milliseconds, and nothing else takes any. Watches the disk.
pub(crate) fn slow_syncs(disk: &SimDisk, seed: u64, each: u64) -> System {
    let taken = Arc::new(AtomicU64::new(0));
    let passed = taken.clone();
    disk.watch(move |operation| {
        if operation.kind == OperationKind::Sync {
            passed.fetch_add(each, Ordering::Relaxed);
        }
    });
    System { clock: clock(0, taken), ..simulated(disk, seed) }
}

/// A simulated world.
pub(crate) fn simulated(disk: &SimDisk, seed: u64) -> System {
    system(Arc::new(disk.clone()), seed, Workers::Inline)
}

/// A world with threads, in which whoever calls the disk may be held up; each look at the clock takes some milliseconds.
pub(crate) fn gated(disk: &SimDisk, seed: u64, gates: Arc<Gates>) -> System {
    let disk = Arc::new(GatedDisk { disk: disk.clone(), gates });
    System { clock: clock(40, Arc::default()), ..system(disk, seed, Workers::Threads) }
}

/// The plainest of envelopes.
pub(crate) fn envelope() -> Accept {
    Accept {
        arrived: START,
        reverse_path: ReversePath::Null,
        body: BodyType::SevenBit,
        request: None,
        recipients: vec![Recipient::new(Address::parse("ann@example.test").unwrap(), None, START)],
        updates: Vec::new(),
        origin: None,
    }
}

/// Bytes of a segment, of which the header takes half: a short story fills many.
pub(crate) const SEGMENT_SIZE: u64 = 8 * 1024;

/// A spool with small segments.
pub(crate) fn options(path: impl Into<PathBuf>) -> Options {
    let config = posthouse::config::Spool {
        path: path.into(),
        min_free: 0,
        segment_size: SEGMENT_SIZE,
        zeros_ahead: false,
        spares: 0,
        compaction_rate: 1 << 20,
        index_cache: 1 << 20,
        compression: posthouse::config::Compression::None,
    };
    Options { inline_max: 2048, reserve: 0, ..Options::new(&config) }
}

/// Runs one simulation: a runtime with paused time, gone with everything in it at the end.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}
