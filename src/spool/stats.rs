//! Figures about the spool: cheap gauges for metrics, and a whole survey of the queue for people.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mail::{Domain, Message, MessageState, Timestamp};

/// What can be read at any moment without work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Messages in the spool, active and parked.
    pub messages: u64,
    /// Messages in memory.
    pub active: u64,
    /// Bytes that wait in memory for the index, about.
    pub backlog: u64,
    /// Log segments on disk.
    pub segments: u64,
    /// Bytes of records in the log.
    pub log_bytes: u64,
    /// Of these, bytes of Accept records whose message still lives.
    pub live_bytes: u64,
    /// Batches made durable since the start: one sync each.
    pub batches: u64,
    /// Messages accepted since the start.
    pub accepted: u64,
    /// Bytes free on the spool's disk when it was last looked at.
    pub free: u64,
}

/// One line of a survey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Open recipients in them; in a line about a domain, those in that domain.
    pub recipients: u64,
    /// Octets of content.
    pub bytes: u64,
    /// When the oldest was accepted.
    pub oldest: Option<Timestamp>,
}

/// The whole queue, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By what the messages are doing.
    pub states: BTreeMap<MessageState, Count>,
    /// By domain of open recipients.
    pub domains: BTreeMap<Domain, Count>,
    /// The gauges at the end of the count; all zero for a stopped server's spool.
    pub gauges: Gauges,
}

impl Count {
    /// Adds what another has counted.
    pub(crate) fn join(&mut self, other: &Count) {
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.bytes += other.bytes;
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
    }
}

impl Stats {
    /// Counts one message more.
    pub fn add(&mut self, message: &Message) {
        let mut domains: BTreeMap<&Domain, u64> = BTreeMap::new();
        for recipient in message.recipients.iter().filter(|recipient| recipient.is_open()) {
            *domains.entry(recipient.address.domain()).or_default() += 1;
        }
        let one = Count { messages: 1, recipients: domains.values().sum(), bytes: message.size, oldest: Some(message.arrived) };
        self.states.entry(message.state()).or_default().join(&one);
        for (domain, recipients) in domains {
            self.join_domain(domain.as_str(), &Count { recipients, ..one });
        }
    }

    /// Adds what was counted of a domain; none if that isn't the name of one.
    pub(crate) fn join_domain(&mut self, domain: &str, count: &Count) -> Option<()> {
        match self.domains.get_mut(domain) {
            Some(known) => known.join(count),
            None if count.messages == 0 => {}
            None => {
                self.domains.insert(Domain::parse(domain).ok()?, *count);
            }
        }
        Some(())
    }
}
