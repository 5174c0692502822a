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
    let what = match state.why? {
        Why::Paused => "the end of the pause",
        Why::Down => "a probe, it can't be reached",
        Why::ConnectionsRate => "outgoing_connections_rate",
        Why::MessagesRate => "outgoing_messages_rate",
        Why::Source => "what may leave from its addresses",
        Why::Concurrency => "attempts to end",
        Why::Turn => "its turn",
    };
    let until = state.until.map_or_else(String::new, |until| format!(" in {}", duration(until.since(now))));
    let reply = state.reply.as_ref().map_or_else(String::new, |reply| format!(": {reply}"));
    Some(format!("{what}{until}{reply}"))
}

/// One of the addresses that it leaves from.
fn source(source: &SourceState) -> String {
    let concurrency = source.outgoing_concurrency.map(|most| format!("at most {most} attempts at a time"));
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
        lines.push(format!("{most} attempts at a time{bound}"));
    }
    let rates = [("messages", &state.outgoing_messages_rate), ("connections", &state.outgoing_connections_rate)];
    lines.extend(rates.into_iter().filter_map(|(what, rate)| Some(format!("{what}: at most {}", rate.as_ref()?))));
    lines.extend(state.sources.iter().map(source));
    lines.extend(waits_for(state, now).map(|what| format!("waits for {what}")));
    lines
}
