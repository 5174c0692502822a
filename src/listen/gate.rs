//! What all listeners together let in: connections, octets in flight, and the words for those who are turned away.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::in_flight::InFlight;
use super::limits::{Connections, Refusal};
use super::quiet::Quiet;
use crate::mail::{EnhancedCode, Reply};
use crate::system::BoxStream;

/// How long a refused client gets to take its 421.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Refused clients that are spoken to at a time; others are dropped without a word.
const REFUSALS_MAX: usize = 100;

/// The gate: one for the server.
#[derive(Debug)]
pub struct Gate {
    /// Open connections.
    pub connections: Arc<Connections>,
    /// Octets of mail coming in.
    pub in_flight: Arc<InFlight>,
    /// Which limits were told of lately.
    pub(super) quiet: Quiet,
    refusals: Semaphore,
}

impl Gate {
    /// Nobody is in yet. Never more connections than `connections_max`, whatever is configured.
    pub fn new(connections_max: usize) -> Self {
        Self {
            connections: Arc::new(Connections::new(connections_max)),
            in_flight: Arc::default(),
            quiet: Quiet::default(),
            refusals: Semaphore::new(REFUSALS_MAX),
        }
    }

    /// Says 421 instead of a greeting; a client that doesn't take it is dropped.
    pub(super) async fn refuse(&self, mut stream: BoxStream, refusal: Refusal) {
        let Ok(_place) = self.refusals.try_acquire() else { return };
        let reply = match refusal.limit {
            "limits.connections" => Reply::new(421, EnhancedCode(4, 3, 2), "Too many connections, try again later"),
            _ => Reply::new(421, EnhancedCode(4, 7, 0), "Too many connections from your address, try again later"),
        };
        let farewell = async {
            stream.write_all(&reply.to_wire()).await?;
            stream.shutdown().await
        };
        // Nothing depends on whether the client heard it.
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, farewell).await;
    }
}
