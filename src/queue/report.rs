//! What an attempt came to, as the scheduler is told.

use std::net::IpAddr;
use std::time::Duration;

use crate::mail::{Outcome, Timestamp};

/// The end of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By recipient. One without an outcome counts as deferred, unless `connections_from` says why there is none.
    pub outcomes: Vec<(u32, Outcome)>,
    /// A connection would have been needed, and the destination's rate allows none before this time. Recipients without an outcome were
    /// not attempted, and keep their place in line.
    pub connections_from: Option<Timestamp>,
    /// It is this address of ours that none may be made from.
    pub full_source: Option<IpAddr>,
    /// How long it took; none: it wasn't measured.
    pub took: Option<Duration>,
}

impl From<Vec<(u32, Outcome)>> for Report {
    fn from(outcomes: Vec<(u32, Outcome)>) -> Self {
        Self { outcomes, ..Self::default() }
    }
}
