//! Sets up where event lines go: standard error, in the configured form, from the configured level on.

use std::fmt;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

pub use super::line::Format;
use super::line::Line;
use crate::mail::Timestamp;

/// Events of ours have this target; everything else is another library's.
const TARGET: &str = "posthouse";

/// The log that was set up: its level can be changed while it runs.
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// From now on, writes what has at least this level. The error says what is wrong with the level.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        self.filter.reload(targets(level)?).map_err(|error| error.to_string())
    }
}

/// Sends events to standard error for the rest of the process. `now` tells the time. An error: the level is none of `error`,
/// `warn`, `info`, `debug` and `trace`, or a log is set up already.
pub fn init(format: Format, level: &str, now: fn() -> Timestamp) -> Result<Log, String> {
    let (subscriber, log) = subscriber(format, level, now, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
    Ok(log)
}

fn subscriber<W>(
    format: Format,
    level: &str,
    now: fn() -> Timestamp,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, Log), String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level)?);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).event_format(Lines { format, now });
    Ok((tracing_subscriber::registry().with(filter).with(lines), Log { filter: handle }))
}

/// Our events from `level` on; other libraries' only when they are errors, or warnings if everything is wanted.
fn targets(level: &str) -> Result<Targets, String> {
    let (ours, others) = match level {
        "error" => (LevelFilter::ERROR, LevelFilter::ERROR),
        "warn" => (LevelFilter::WARN, LevelFilter::ERROR),
        "info" => (LevelFilter::INFO, LevelFilter::ERROR),
        "debug" => (LevelFilter::DEBUG, LevelFilter::WARN),
        "trace" => (LevelFilter::TRACE, LevelFilter::DEBUG),
        other => return Err(format!("{other:?} is no log level: say error, warn, info, debug or trace")),
    };
    Ok(Targets::new().with_target(TARGET, ours).with_default(others))
}

struct Lines {
    format: Format,
    now: fn() -> Timestamp,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &tracing::Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let library = (metadata.target() != TARGET).then(|| metadata.target());
        let mut line = Line::new(self.format, &mut writer, (self.now)(), *metadata.level(), library);
        event.record(&mut line);
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::event::{Event, Events, Named};
    use crate::mail::{Address, Cause, Destination, Domain, EnhancedCode, QueueId, ReversePath};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(format: Format, level: &str, report: impl FnOnce(&Log)) -> String {
        let memory = Memory::default();
        let written = memory.clone();
        let now = || Timestamp::from_millis(1_795_312_800_123);
        let (subscriber, log) = subscriber(format, level, now, move || memory.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || report(&log));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn samples() -> [Event; 4] {
        let domain = Domain::parse("example.test").unwrap();
        [
            Event::Accepted {
                id: QueueId(1),
                from: ReversePath::Null,
                to: Named::new(&[address("ann@example.test"), address("\"b c\"@example.test")]),
                recipients: 2,
                size: 1234,
                client: "192.0.2.1".parse().unwrap(),
                helo: "evil\r\n2026-01-01 info accepted id=1".to_owned(),
                login: None,
                protocol: "ESMTP",
                tls: None,
                cipher: None,
            },
            Event::Deferred {
                id: QueueId(1),
                from: ReversePath::Address(address("x@y.test")),
                to: address("ann@example.test"),
                destination: Destination::Mx(domain),
                next_hop: String::new(),
                status: EnhancedCode(4, 4, 1),
                cause: Cause::Connection,
                reply: "connection refused".to_owned(),
                in_doubt: false,
                delay: Duration::from_millis(61_250),
                attempts: 1,
                next_attempt: Timestamp::from_millis(1_795_313_100_000),
            },
            Event::Reloaded {},
            Event::Connected { client: "192.0.2.1:5".parse().unwrap(), service: "mx" },
        ]
    }

    #[test]
    fn text_lines_have_fixed_fields_and_cannot_be_forged() {
        let text = lines(Format::Text, "info", |_| samples().into_iter().for_each(|event| Events::new().report(event)));
        assert_eq!(
            text,
            "2026-11-22T02:00:00.123Z info accepted id=0000000000001 from=<> to=\"<ann@example.test,\\\"b c\\\"@example.test>\" \
             recipients=2 size=1234 client=192.0.2.1 helo=\"evil\\r\\n2026-01-01 info accepted id=1\" protocol=ESMTP\n\
             2026-11-22T02:00:00.123Z info deferred id=0000000000001 from=<x@y.test> to=<ann@example.test> \
             destination=mx:example.test status=4.4.1 cause=connection reply=\"connection refused\" delay=61.25 attempts=1 \
             next_attempt=2026-11-22T02:05:00Z\n\
             2026-11-22T02:00:00.123Z info reloaded\n"
        );
    }

    #[test]
    fn json_lines_are_documents_with_the_same_fields() {
        let text = lines(Format::Json, "debug", |_| samples().into_iter().for_each(|event| Events::new().report(event)));
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["time"], "2026-11-22T02:00:00.123Z");
        assert_eq!(lines[0]["event"], "accepted");
        assert_eq!(lines[0]["from"], "");
        assert_eq!(lines[0]["size"], 1234);
        assert_eq!(lines[1]["delay"], 61.25);
        assert_eq!(lines[3]["level"], "debug");
        assert!(text.starts_with("{\"time\":\"2026-11-22T02:00:00.123Z\",\"level\":\"info\",\"event\":\"accepted\",\"id\":"));
    }

    #[test]
    fn journald_lines_have_a_priority_and_no_time() {
        let report = |_: &Log| {
            Events::new().report(Event::Trouble { id: None, operation: "sync", reason: "no space".to_owned() });
            tracing::error!(target: "elsewhere", code = 5, "It broke\n");
        };
        let text = lines(Format::Journald, "info", report);
        let library = "<3>library target=elsewhere message=\"It broke\\n\" code=5\n";
        assert_eq!(text, format!("<3>trouble operation=sync reason=\"no space\"\n{library}"));
    }

    #[test]
    fn the_level_can_change() {
        let text = lines(Format::Text, "warn", |log| {
            Events::new().report(Event::Reloaded {});
            log.set_level("info").unwrap();
            Events::new().report(Event::Held { id: QueueId(2) });
            assert!(log.set_level("loud").is_err());
        });
        assert_eq!(text, "2026-11-22T02:00:00.123Z info held id=0000000000002\n");
    }
}
