//! The seams: everything that is not deterministic. Clock, disk, network, DNS, TLS, randomness and threads, a trait and its real
//! version each; `sim` has the simulated ones.
//!
//! Nothing above this module may call the operating system for these things directly.

mod clock;
mod content;
mod crew;
mod disk;
mod dns;
mod entropy;
mod net;
mod scratch;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod syncfs;
pub mod tls;
mod unix;
mod user;
mod watch;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use clock::{Clock, SystemClock};
pub use content::Content;
pub(crate) use content::piece_at;
pub use crew::Crew;
pub use disk::{Disk, DiskFile, DiskLock, DiskSyncer, FileNames, OpenMode, Origin, SystemDisk, is_not_ours, or_here, sync_above};
pub use dns::{Dns, DnsError, MxRecord, SystemDns};
pub use entropy::{Entropy, SystemEntropy};
pub use net::{BoxStream, Endpoint, Listener, Net, Stream, SystemNet};
pub use scratch::Scratch;
pub use tls::{
    CertificateFacts, Established, PairSource, SelfSigned, ServerFiles, SystemTls, Tls, TlsClient, TlsError, TlsServer,
};
pub use unix::UnixDoor;
pub use user::{OwnUser, own_user};
pub use watch::FolderWatch;
pub use workers::{BoxFuture, Turns, Workers, show_sync, try_threads};

/// The world as Posthouse sees it: cheap to clone, handed down from `daemon`.
#[derive(Clone)]
pub struct System {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Name look-ups.
    pub dns: Arc<dyn Dns>,
    /// Connections, both ways.
    pub net: Arc<dyn Net>,
    /// Random numbers.
    pub entropy: Arc<dyn Entropy>,
    /// Encryption of connections.
    pub tls: Arc<dyn Tls>,
    /// Where blocking work runs.
    pub workers: Workers,
}

impl System {
    /// The machine itself. `servers` and `timeout` are the DNS's (see `SystemDns::new`, whose error this is).
    pub fn real(servers: &[SocketAddr], timeout: Duration) -> Result<Self, String> {
        Ok(Self {
            clock: Arc::new(SystemClock::new()),
            disk: Arc::new(SystemDisk),
            dns: Arc::new(SystemDns::new(servers, timeout)?),
            net: Arc::new(SystemNet),
            entropy: Arc::new(SystemEntropy),
            tls: Arc::new(SystemTls),
            workers: Workers::Threads,
        })
    }
}
