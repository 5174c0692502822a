//! How one attempt ended for one recipient, with class, code, source and the remote's whole words.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EnhancedCode, Reply};

/// The result of one attempt for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop, or the mailbox, has it.
    Delivered(Diagnosis),
    /// Transient: try again later.
    Deferred(Diagnosis),
    /// Permanent: the sender is told.
    Failed(Diagnosis),
    /// The connection was lost after the final dot: the next hop may have it. Try again, later than usual.
    InDoubt(Diagnosis),
}

impl Outcome {
    /// What was found, whatever the class.
    pub fn diagnosis(&self) -> &Diagnosis {
        match self {
            Self::Delivered(d) | Self::Deferred(d) | Self::Failed(d) | Self::InDoubt(d) => d,
        }
    }
}

/// Where a result came from: what a notice and an admin need to know first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The next hop said so in a reply.
    Remote,
    /// The network: refused, unreachable, timed out, cut.
    Connection,
    /// The DNS: no such domain, null MX, server failure.
    Dns,
    /// This machine: a full disk, a mailbox folder, a loop, the configuration.
    Local,
    /// The message waited longer than its lifetime.
    Expired,
    /// An admin decided.
    Operator,
}

/// What happened, in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The enhanced status code: the remote's, or the one that fits.
    pub status: EnhancedCode,
    /// Where the result came from.
    pub cause: Cause,
    /// For people: the remote's whole reply (`550 5.1.1 no such user`), or what went wrong here. One line.
    pub text: String,
    /// Host and address, mailbox folder or socket that was spoken to; empty if it never came to that.
    pub next_hop: String,
    /// Duties towards the sender that the next hop took over with the message.
    #[serde(skip)]
    pub passed: Passed,
    /// How long the remote wants us to wait before the next attempt.
    #[serde(skip)]
    pub wait: Option<Duration>,
    /// The host takes no mail from us now, whoever it is for: it said so in place of a greeting, or left with a 421 before a message's end.
    #[serde(skip)]
    pub turned_away: bool,
}

/// What the sender asked for and the next hop, having the extension, now sees to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Passed {
    /// NOTIFY, RET, ENVID and ORCPT (RFC 3461).
    pub dsn: bool,
    /// BY (RFC 2852).
    pub deliver_by: bool,
}

impl Diagnosis {
    /// A finding that isn't a remote's reply.
    pub fn new(status: EnhancedCode, cause: Cause, text: impl Into<String>) -> Self {
        Self {
            status,
            cause,
            text: text.into(),
            next_hop: String::new(),
            passed: Passed::default(),
            wait: None,
            turned_away: false,
        }
    }

    /// A remote's reply; if it has no enhanced code, `X.0.0` of its class stands for it.
    pub fn from_reply(reply: &Reply, next_hop: &str) -> Self {
        let class = match reply.code / 100 {
            2 => 2,
            5 => 5,
            _ => 4,
        };
        let status = reply.enhanced.filter(|code| code.0 == class).unwrap_or(EnhancedCode(class, 0, 0));
        Self {
            status,
            cause: Cause::Remote,
            text: reply.to_string(),
            next_hop: next_hop.to_owned(),
            passed: Passed::default(),
            wait: None,
            turned_away: false,
        }
    }

    /// The same, said of a next hop.
    pub fn at(mut self, next_hop: impl Into<String>) -> Self {
        self.next_hop = next_hop.into();
        self
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
