//! `[remote]`: how other servers are called. Owns nothing but values.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Family, RemoteTls};

/// `[remote]`
#[derive(Clone, Debug, PartialEq)]
pub struct Remote {
    /// The port MX hosts are called on.
    pub port: u16,
    /// Connections to one destination at the most.
    pub concurrency: usize,
    /// For one connection to come about.
    pub connect_timeout: Duration,
    /// For one reply.
    pub reply_timeout: Duration,
    /// For one message, from MAIL to the final dot.
    pub transaction_timeout: Duration,
    /// What differs from it at single stages.
    pub stage_timeouts: StageTimeouts,
    /// Whether MX hosts with loopback, private or our own addresses may be called.
    pub special_addresses: SpecialAddresses,
    /// How connections to MX hosts are encrypted.
    pub tls: RemoteTls,
    /// The authorities of other servers' certificates; none: the system's.
    pub tls_ca: Option<PathBuf>,
    /// Which addresses of a host are called, and which first.
    pub family: Family,
    /// Our own addresses that MX hosts are called from; empty: the system chooses.
    pub sources: Vec<IpAddr>,
}

/// What is done with MX hosts that resolve to special or own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialAddresses {
    /// They are left out.
    Refuse,
    /// They are called.
    Allow,
}

/// How long each stage of a session may take (RFC 5321 section 4.5.3.2); none: as follows from `remote.reply_timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimeouts {
    /// The greeting.
    pub greeting: Option<Duration>,
    /// The reply to MAIL.
    pub mail: Option<Duration>,
    /// Each reply to RCPT.
    pub recipient: Option<Duration>,
    /// The reply to DATA.
    pub data: Option<Duration>,
    /// A block of the content to go out.
    pub block: Option<Duration>,
    /// The reply to the final dot.
    pub end: Option<Duration>,
}

#[cfg(test)]
impl Remote {
    /// For tests that don't depend on it.
    pub(crate) fn sample() -> Self {
        Self {
            port: 25,
            concurrency: 3,
            connect_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(300),
            transaction_timeout: Duration::from_secs(7200),
            stage_timeouts: StageTimeouts::default(),
            special_addresses: SpecialAddresses::Allow,
            tls: RemoteTls::Opportunistic,
            tls_ca: None,
            family: Family::Any,
            sources: Vec::new(),
        }
    }
}
