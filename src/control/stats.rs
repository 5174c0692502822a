//! Counts, bytes and ages of the queue, by state and by destination domain.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mail::{Domain, Message, MessageState, Timestamp};

/// What `queue stats` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The whole queue.
    pub total: Group,
    /// By what messages are doing; every state is there.
    pub states: BTreeMap<MessageState, Group>,
    /// By the domain of recipients that are still open. A message counts once for each of its domains.
    pub destinations: BTreeMap<Domain, Group>,
}

/// Some of the queue's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// How many messages.
    pub messages: u64,
    /// Their recipients that are still open; at a destination, only those there.
    pub recipients: u64,
    /// Octets of their content.
    pub bytes: u64,
    /// When the oldest of them was accepted; none: there is none.
    pub oldest: Option<Timestamp>,
}

impl Group {
    fn add(&mut self, message: &Message, recipients: u64) {
        self.messages += 1;
        self.recipients += recipients;
        self.bytes = self.bytes.saturating_add(message.size);
        self.oldest = Some(self.oldest.map_or(message.arrived, |oldest| oldest.min(message.arrived)));
    }
}

impl Stats {
    /// Of no messages.
    pub fn new() -> Self {
        let states = [MessageState::Active, MessageState::Deferred, MessageState::Held];
        Self { states: states.map(|state| (state, Group::default())).into(), ..Self::default() }
    }

    /// Counts a message in.
    pub fn add(&mut self, message: &Message) {
        let mut domains: BTreeMap<&Domain, u64> = BTreeMap::new();
        for recipient in message.recipients.iter().filter(|recipient| recipient.is_open()) {
            *domains.entry(recipient.address.domain()).or_default() += 1;
        }
        let open = domains.values().sum();
        self.total.add(message, open);
        self.states.entry(message.state()).or_default().add(message, open);
        for (domain, recipients) in domains {
            match self.destinations.get_mut(domain) {
                Some(group) => group.add(message, recipients),
                None => self.destinations.entry(domain.clone()).or_default().add(message, recipients),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::message;
    use super::*;

    #[test]
    fn a_message_counts_once_for_its_state_and_once_for_each_domain() {
        let mut stats = Stats::new();
        stats.add(&message(1));
        let mut held = message(2);
        held.held = true;
        held.arrived = Timestamp::ZERO;
        stats.add(&held);
        assert_eq!(stats.total, Group { messages: 2, recipients: 4, bytes: 2468, oldest: Some(Timestamp::ZERO) });
        assert_eq!(stats.states[&MessageState::Active].messages, 1);
        assert_eq!(stats.states[&MessageState::Held].messages, 1);
        assert_eq!(stats.states[&MessageState::Deferred], Group::default());
        let domains: Vec<_> = stats.destinations.iter().map(|(domain, group)| (domain.as_str(), group.recipients)).collect();
        assert_eq!(domains, [("example.net", 2), ("example.org", 2)]);
        let json = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<Stats>(&json).unwrap().total.messages, 2);
    }
}
