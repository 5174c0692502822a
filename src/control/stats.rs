//! The queue's statistics as rows: the same for the table, for `--json` and for the wire.

use serde::{Deserialize, Serialize};

use crate::mail::MessageState;
use crate::spool::{Count, Stats};

/// One row of `queue stats`. The order of the fields is the order of the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsRow {
    /// What is counted together.
    pub by: GroupKind,
    /// The state or the domain; nothing for the total.
    pub name: Option<String>,
    /// Messages, their open recipients, octets, the oldest. A message counts once for each of its domains.
    #[serde(flatten)]
    pub count: Count,
}

/// What a row of statistics is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// The whole queue.
    Total,
    /// Messages in a state.
    State,
    /// Messages with open recipients in a domain.
    Domain,
}

/// As it stands in `--json` and in tables.
pub fn state_name(state: MessageState) -> &'static str {
    match state {
        MessageState::Active => "active",
        MessageState::Deferred => "deferred",
        MessageState::Held => "held",
    }
}

/// The total, every state (empty ones too), every domain.
pub fn stats_rows(stats: &Stats) -> Vec<StatsRow> {
    let mut total = Count::default();
    for count in stats.states.values() {
        total.messages += count.messages;
        total.recipients += count.recipients;
        total.bytes = total.bytes.saturating_add(count.bytes);
        total.oldest = [total.oldest, count.oldest].into_iter().flatten().min();
    }
    let mut rows = vec![StatsRow { by: GroupKind::Total, name: None, count: total }];
    for state in [MessageState::Active, MessageState::Deferred, MessageState::Held] {
        let count = stats.states.get(&state).copied().unwrap_or_default();
        rows.push(StatsRow { by: GroupKind::State, name: Some(state_name(state).to_owned()), count });
    }
    rows.extend(stats.domains.iter().map(|(domain, count)| StatsRow {
        by: GroupKind::Domain,
        name: Some(domain.to_string()),
        count: *count,
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::message;
    use super::*;

    #[test]
    fn the_rows_are_total_states_and_domains() {
        let mut stats = Stats::default();
        stats.add(&message(1));
        let mut held = message(2);
        held.held = true;
        stats.add(&held);
        let lines: Vec<String> = stats_rows(&stats).iter().map(|row| serde_json::to_string(row).unwrap()).collect();
        let oldest = "\"oldest\":\"2026-11-22T02:00:00Z\"}";
        assert_eq!(
            lines,
            [
                format!("{{\"by\":\"total\",\"name\":null,\"messages\":2,\"recipients\":4,\"bytes\":2468,{oldest}"),
                format!("{{\"by\":\"state\",\"name\":\"active\",\"messages\":1,\"recipients\":2,\"bytes\":1234,{oldest}"),
                "{\"by\":\"state\",\"name\":\"deferred\",\"messages\":0,\"recipients\":0,\"bytes\":0,\"oldest\":null}".to_owned(),
                format!("{{\"by\":\"state\",\"name\":\"held\",\"messages\":1,\"recipients\":2,\"bytes\":1234,{oldest}"),
                format!("{{\"by\":\"domain\",\"name\":\"example.net\",\"messages\":2,\"recipients\":2,\"bytes\":2468,{oldest}"),
                format!("{{\"by\":\"domain\",\"name\":\"example.org\",\"messages\":2,\"recipients\":2,\"bytes\":2468,{oldest}"),
            ]
        );
    }
}
