//! The whole simulated world, and the runtime that it lives in.

use std::future::Future;
use std::sync::Arc;

use super::{SimClock, SimDns, SimEntropy, SimNet, SimTls};
use crate::mail::Timestamp;
use crate::system::{Disk, System, Workers};

/// Sunday, 22 November 2026, 02:00 UTC: when simulated time starts unless told otherwise.
const START: Timestamp = Timestamp::from_millis(1_795_312_800_000);

/// Handles to every part, for the test; the server gets them as a `System`.
#[derive(Clone, Debug)]
pub struct World {
    /// Time.
    pub clock: Arc<SimClock>,
    /// The network.
    pub net: SimNet,
    /// Names.
    pub dns: Arc<SimDns>,
    /// Randomness.
    pub entropy: Arc<SimEntropy>,
}

impl World {
    /// An empty world. To be made inside the runtime that it is used in.
    pub fn new(seed: u64) -> Self {
        Self {
            clock: Arc::new(SimClock::new(START)),
            net: SimNet::default(),
            dns: Arc::default(),
            entropy: Arc::new(SimEntropy::new(seed)),
        }
    }

    /// The same network, names and randomness with a new clock: for another runtime, after a simulated crash.
    pub fn restart(&self, now: Timestamp) -> Self {
        Self { clock: Arc::new(SimClock::new(now)), ..self.clone() }
    }

    /// What the server gets: this world with a disk.
    pub fn system(&self, disk: Arc<dyn Disk>) -> System {
        System {
            clock: self.clock.clone(),
            disk,
            dns: self.dns.clone(),
            net: Arc::new(self.net.clone()),
            entropy: self.entropy.clone(),
            tls: Arc::new(SimTls),
            workers: Workers::Inline,
        }
    }
}

/// Runs a story to its end on one thread. Time stands still while anything can run, and leaps to the next timer when nothing can:
/// days pass in milliseconds, in the same order each time. Tasks that are left at the end are dropped where they stand.
pub fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without sockets needs nothing that could be missing").block_on(story)
}
