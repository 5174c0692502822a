//! Everything that can happen to mail, told in one place: the only writer of the mail log and of the metrics.
//!
//! State: the counters and gauges of [`metrics`], and in tests the last events. A fact is reported when it is durable. Never in
//! an event: passwords and content.

mod fact;
mod line;
pub mod log;
pub mod metrics;

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use fact::{EVENTS, Event, FIELDS, Named, NoticeKind, Row};
pub use metrics::{Levels, Metrics};

/// Events that [`Events::recording`] keeps; older ones are forgotten.
const RECORDED_MAX: usize = 100_000;

/// Where facts are reported. Cheap to clone: all clones share the same counters.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    metrics: Metrics,
    /// Only in tests.
    recorded: Option<Mutex<VecDeque<Event>>>,
    /// Only in tests.
    watcher: OnceLock<Watcher>,
}

/// Who is told of each event as it is reported.
struct Watcher(Box<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

impl Events {
    /// Counts, and writes to the log that [`log::init`] set up.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also keeps the last hundred thousand events in memory: for tests that ask what happened.
    pub fn recording() -> Self {
        Self(Arc::new(Inner { recorded: Some(Mutex::default()), ..Inner::default() }))
    }

    /// Tells every event from now on, as it is reported: for tests that ask when something happened. Whoever asks first is told.
    pub fn watch(&self, watcher: impl Fn(&Event) + Send + Sync + 'static) {
        // A second watcher would be a mistake of the test, which then sees nothing.
        let _ = self.0.watcher.set(Watcher(Box::new(watcher)));
    }

    /// Tells a fact: once, when it is durable. Counts it and writes its line if the level is on.
    pub fn report(&self, event: Event) {
        self.0.metrics.count(&event);
        event.log();
        if let Some(Watcher(watcher)) = self.0.watcher.get() {
            watcher(&event);
        }
        if let Some(recorded) = &self.0.recorded {
            let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
            if recorded.len() == RECORDED_MAX {
                recorded.pop_front();
            }
            recorded.push_back(event);
        }
    }

    /// The counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What was reported, oldest first; empty unless made by [`Events::recording`].
    pub fn recorded(&self) -> Vec<Event> {
        let recorded = self.0.recorded.as_ref();
        recorded.map(|r| r.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()).unwrap_or_default()
    }
}

/// The text of docs/events.md, written from the tables.
pub fn reference() -> String {
    let mut text = String::from(REFERENCE_INTRODUCTION);
    for row in EVENTS {
        let fields: Vec<String> = row.fields.iter().map(|field| format!("`{field}`")).collect();
        let level = row.level.to_ascii_lowercase();
        let _ = writeln!(text, "| `{}` | {level} | {} | {} |", row.name, fields.join(" "), row.meaning.trim());
    }
    text.push_str("\n## Fields\n\n| field | meaning |\n| --- | --- |\n");
    for (field, meaning) in FIELDS {
        let _ = writeln!(text, "| `{field}` | {meaning} |");
    }
    text
}

const REFERENCE_INTRODUCTION: &str = "\
# The mail log

One line an event, on standard error. `log.level` chooses how much (`error`, `warn`, `info`, `debug`, `trace`), `log.format` the form:

- `text`: `2026-11-22T02:00:00.123Z info delivered id=… to=<ann@example.test> …`
- `json`: one document a line: `{\"time\":\"…\",\"level\":\"info\",\"event\":\"delivered\",\"id\":\"…\",…}`
- `journald`: as `text`, with the syslog priority (`<6>`) in place of time and level; systemd adds the time itself.

The fields of an event always stand in the same order, and the queue id stands first: `grep ID` tells the life of a message. A field
that has nothing to say is left out. In `text` and `journald`, `from`, `to` and `into` stand in angle brackets; a value with spaces,
quotes or unusual characters is put in double quotes, and whatever could end a line or move a terminal's cursor is escaped
(`\\n`, `\\u{1b}`): nobody outside can forge a line. A line about another library's trouble has the event name `library`.
Passwords and message content are never logged.

This page is written from the table in the code; a test keeps the two the same.

## Events

| event | level | fields | meaning |
| --- | --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::mail::QueueId;

    #[test]
    fn every_field_is_described_once_and_every_description_is_used() {
        let used: BTreeSet<&str> = EVENTS.iter().flat_map(|row| row.fields.iter().copied()).collect();
        let described: Vec<&str> = FIELDS.iter().map(|(field, _)| *field).collect();
        assert_eq!(described, used.into_iter().collect::<Vec<_>>());
        let names: BTreeSet<&str> = EVENTS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), EVENTS.len());
        for row in EVENTS {
            let id = row.fields.iter().position(|field| *field == "id");
            assert!(id.is_none_or(|at| at == 0), "{}: the id comes first", row.name);
        }
    }

    #[test]
    fn docs_events_md_is_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), reference(), "UPDATE_GOLDEN=1 cargo test writes it anew");
    }

    #[test]
    fn a_watcher_is_told_of_each_event_as_it_is_reported() {
        let (events, told) = (Events::new(), Arc::new(Mutex::new(Vec::new())));
        let tell = Arc::clone(&told);
        events.watch(move |event| tell.lock().unwrap().push(event.clone()));
        for id in 0..2 {
            events.clone().report(Event::Held { id: QueueId(id) });
            assert_eq!(told.lock().unwrap().last(), Some(&Event::Held { id: QueueId(id) }));
        }
    }

    #[test]
    fn recording_keeps_the_last_events_in_order() {
        let events = Events::recording();
        for id in 0..3 {
            events.clone().report(Event::Held { id: QueueId(id) });
        }
        assert_eq!(events.recorded(), [0, 1, 2].map(|id| Event::Held { id: QueueId(id) }));
        assert!(Events::new().recorded().is_empty());
    }
}
