//! What is known of destinations: for `queue stats` and `explain`. Owns nothing.

use serde::Serialize;

use super::failure::Failure;
use super::print::{Cell, Out, Table, duration};
use crate::control::{SiteState, SourceState, Why};
use crate::mail::Timestamp;

/// One in `queue stats --json`.
#[derive(Serialize)]
struct Document<'a> {
    by: &'static str,
    #[serde(flatten)]
    state: &'a SiteState,
}

/// One JSON document a line.
pub(super) fn documents(states: &[SiteState], out: &mut Out<'_>) -> Result<(), Failure> {
    for state in states {
        out.json(&Document { by: "line", state })?;
    }
    Ok(())
}

/// A table below others, if there is anything.
pub(super) fn table(states: &[SiteState], now: Timestamp, out: &mut Out<'_>) -> Result<(), Failure> {
    if states.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&["LINE", "WAITING", "ON DISK", "IN FLIGHT", "AT MOST", "WAITS FOR"]);
    let mut states: Vec<&SiteState> = states.iter().collect();
    // Where most waits comes first: that is what somebody looks for.
    states.sort_by_key(|state| std::cmp::Reverse(state.waiting + state.away));
    for state in states {
        let cells = vec![
            Cell::new(&state.name),
            Cell::number(state.waiting.to_string()),
            Cell::number(state.away.to_string()),
            Cell::number(state.in_flight.to_string()),
            Cell::number(state.concurrency.map_or_else(|| "-".to_owned(), |most| most.to_string())),
            Cell::new(waits_for(state, now).unwrap_or_else(|| "-".to_owned())),
        ];
        table.row(out, cells)?;
    }
    Ok(table.end(out)?)
}

/// Why nothing more of its mail is attempted now.
fn waits_for(state: &SiteState, now: Timestamp) -> Option<String> {
    let wait = state.until.map(|until| duration(until.since(now)));
    let next = |what: &str| wait.as_ref().map_or_else(String::new, |wait| format!(", {what} in {wait}"));
    let bound = |name: &str, rate: &Option<String>| format!("{name} {}{}", rate.as_deref().unwrap_or(""), next("next"));
    Some(match state.why? {
        Why::Paused => "the end of the pause".to_owned(),
        Why::Log => "the spool, which can't write its log".to_owned(),
        Why::Down => {
            let reply = state.reply.as_ref().map_or_else(String::new, |reply| format!(": {reply}"));
            format!("its return{}{reply}", next("tried"))
        }
        Why::ConnectionsRate => bound("outgoing_connections_rate", &state.outgoing_connections_rate),
        Why::MessagesRate => bound("outgoing_messages_rate", &state.outgoing_messages_rate),
        Why::Source => format!("bounds of [[destination]] source{}", next("next")),
        Why::Concurrency => "attempts under way to end".to_owned(),
        Why::Turn => "its turn".to_owned(),
    })
}

/// One of the addresses that it leaves from.
fn source(source: &SourceState) -> String {
    let concurrency = source.outgoing_concurrency.map(|most| format!("at most {most} in flight"));
    let rates = [("messages", &source.outgoing_messages_rate), ("connections", &source.outgoing_connections_rate)];
    let rates = rates.into_iter().filter_map(|(what, rate)| Some(format!("{what} at most {}", rate.as_ref()?)));
    let bounds: Vec<String> = concurrency.into_iter().chain(rates).collect();
    let bounds = if bounds.is_empty() { "no bounds".to_owned() } else { bounds.join(", ") };
    format!("from {}: {} in flight; {bounds}", source.address, source.in_flight)
}

/// The same in lines, for `explain`.
pub(super) fn lines(state: &SiteState, now: Timestamp) -> Vec<String> {
    let SiteState { name, waiting, away, in_flight, .. } = state;
    let mut lines = vec![format!("line {name}: {waiting} waiting, {away} more on disk, {in_flight} in flight")];
    if let Some(most) = state.concurrency {
        let bound = state.outgoing_concurrency.map_or_else(String::new, |bound| format!(" (outgoing_concurrency {bound})"));
        lines.push(format!("at most {most} in flight now{bound}"));
    }
    let rates = [("messages", &state.outgoing_messages_rate), ("connections", &state.outgoing_connections_rate)];
    lines.extend(rates.into_iter().filter_map(|(what, rate)| Some(format!("{what}: at most {}", rate.as_ref()?))));
    lines.extend(state.sources.iter().map(source));
    lines.extend(waits_for(state, now).map(|what| format!("waits for {what}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_312_800_000);

    fn after(seconds: u64) -> Option<Timestamp> {
        Some(NOW.plus(std::time::Duration::from_secs(seconds)))
    }

    fn state(name: &str, waiting: usize, why: Option<Why>) -> SiteState {
        SiteState {
            name: name.to_owned(),
            waiting,
            away: 0,
            in_flight: 0,
            concurrency: Some(5),
            outgoing_concurrency: None,
            outgoing_messages_rate: None,
            outgoing_connections_rate: None,
            sources: Vec::new(),
            why,
            until: None,
            reply: None,
        }
    }

    /// What somebody sees at three in the morning.
    fn troubled() -> Vec<SiteState> {
        let source = |address: &str, in_flight, concurrency, rate: Option<&str>| SourceState {
            address: address.parse().unwrap(),
            in_flight,
            outgoing_concurrency: concurrency,
            outgoing_messages_rate: rate.map(str::to_owned),
            outgoing_connections_rate: None,
        };
        let sources = vec![source("192.0.2.25", 1, Some(1), Some("500/1d")), source("192.0.2.26", 0, None, None)];
        let reply = Some("mx.dead.test [192.0.2.9]: Connection refused".to_owned());
        let slow = Some("100/1m".to_owned());
        vec![
            SiteState { in_flight: 3, ..state("hosts:mx.brisk.test", 0, None) },
            SiteState { until: after(272), away: 120_000, reply, ..state("hosts:mx.dead.test", 64, Some(Why::Down)) },
            SiteState {
                in_flight: 1,
                until: after(60),
                sources,
                ..state("hosts:mx.p.test from 192.0.2.25,192.0.2.26", 7, Some(Why::Source))
            },
            SiteState {
                outgoing_messages_rate: slow,
                until: after(12),
                away: 900,
                ..state("hosts:mx.slow.test", 100, Some(Why::MessagesRate))
            },
            SiteState { concurrency: None, in_flight: 2, ..state("local:example.test", 1, Some(Why::Turn)) },
            SiteState {
                in_flight: 5,
                outgoing_concurrency: Some(5),
                ..state("route:relay.test:587", 40, Some(Why::Concurrency))
            },
        ]
    }

    #[test]
    fn a_full_queue_is_told_with_the_trouble_first() {
        let mut bytes = Vec::new();
        let mut out = Out::to(&mut bytes);
        table(&troubled(), NOW, &mut out).unwrap();
        drop(out);
        let golden = include_str!("../../tests/golden/queue-lines.txt");
        assert_eq!(String::from_utf8(bytes).unwrap(), golden);
    }

    #[test]
    fn a_line_is_explained_with_its_bounds() {
        let states = troubled();
        let explained: Vec<String> =
            [&states[1], &states[2], &states[5]].into_iter().flat_map(|state| lines(state, NOW)).collect();
        assert_eq!(
            explained,
            [
                "line hosts:mx.dead.test: 64 waiting, 120000 more on disk, 0 in flight",
                "at most 5 in flight now",
                "waits for its return, tried in 4m32s: mx.dead.test [192.0.2.9]: Connection refused",
                "line hosts:mx.p.test from 192.0.2.25,192.0.2.26: 7 waiting, 0 more on disk, 1 in flight",
                "at most 5 in flight now",
                "from 192.0.2.25: 1 in flight; at most 1 in flight, messages at most 500/1d",
                "from 192.0.2.26: 0 in flight; no bounds",
                "waits for bounds of [[destination]] source, next in 1m",
                "line route:relay.test:587: 40 waiting, 0 more on disk, 5 in flight",
                "at most 5 in flight now (outgoing_concurrency 5)",
                "waits for attempts under way to end",
            ]
        );
    }
}
