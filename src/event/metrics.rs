//! Counters and gauges in the OpenMetrics text form. Counters follow the events; gauges are set by the daemon before a reading.
//!
//! State: atomics only. Every series exists from the start, so that a rate over it is right from its first increment.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{Event, NoticeKind};
use crate::mail::{Destination, MessageState};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How recipients' mail leaves: the label `transport`.
const TRANSPORTS: [&str; 4] = ["local", "lmtp", "route", "mx"];
/// Where a session was refused: the label `stage`.
const STAGES: [&str; 6] = ["connect", "hello", "sender", "recipient", "data", "message"];
/// The limits that a client can reach: the label `limit`, the setting without its section.
const LIMITS: [&str; 15] = [
    "connections",
    "connections_per_client",
    "connections_per_network",
    "in_flight",
    "in_flight_per_network",
    "errors",
    "commands",
    "greeting_delay",
    "hello_timeout",
    "command_timeout",
    "data_timeout",
    "data_pace",
    "transaction_timeout",
    "failures_per_client",
    "failures_per_account",
];
/// Upper bounds of the delivery delay's buckets, seconds.
const DELAYS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 1800.0, 14_400.0, 86_400.0, 432_000.0];

/// What the daemon measures itself, set as a whole before a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Messages in the queue: active, deferred, held.
    pub active: u64,
    /// Messages whose open recipients all wait for another attempt.
    pub deferred: u64,
    /// Messages stopped by an admin.
    pub held: u64,
    /// Octets of content in the queue.
    pub queue_bytes: u64,
    /// Client connections open now.
    pub connections: u64,
    /// Octets of mail that is coming in now.
    pub in_flight: u64,
    /// Attempts under way now.
    pub attempts: u64,
    /// Bytes free on the spool's disk.
    pub spool_available: u64,
    /// Log segments on disk.
    pub spool_segments: u64,
    /// Whether new mail is taken.
    pub accepting: bool,
    /// Commits (batches synced) since the start.
    pub commits: u64,
}

/// All counters and gauges.
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    accepted_bytes: Counter,
    refused: [Counter; 6],
    connections: Counter,
    limited: [Counter; LIMITS.len()],
    delivered: [Counter; 4],
    deferred: [Counter; 4],
    failed: [Counter; 4],
    expired: [Counter; 4],
    notices: [Counter; NOTICES.len()],
    spool_trouble: Counter,
    quarantined: Counter,
    delay: Histogram,
    certificates: Family<Certificate, Gauge<i64, AtomicI64>>,
    gauges: Gauges,
}

struct Gauges {
    queue: [Number; 3],
    queue_bytes: Number,
    connections: Number,
    in_flight: Number,
    attempts: Number,
    spool_available: Number,
    accepting: Number,
    commits: Counter,
    spool_segments: Number,
}

type Number = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transport {
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Certificate {
    certificate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("posthouse");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs here", build);
        let r = &mut registry;
        Self {
            accepted: counter(r, "messages_accepted", "Messages taken over"),
            accepted_bytes: counter(r, "accepted_bytes", "Octets of content taken over"),
            refused: counters(r, "refusals", "Times that a client was told no", STAGES.map(|stage| Stage { stage })),
            connections: counter(r, "connections", "Client connections taken"),
            limited: counters(r, "limited", "Times that a client reached a limit", LIMITS.map(|limit| Limit { limit })),
            delivered: by_transport(r, "recipients_delivered", "Recipients delivered"),
            deferred: by_transport(r, "recipients_deferred", "Attempts that failed for now, a recipient each"),
            failed: by_transport(r, "recipients_failed", "Recipients that failed for good"),
            expired: by_transport(r, "recipients_expired", "Recipients that waited longer than the lifetime"),
            notices: counters(r, "notices", "Notices sent", NOTICES.map(|kind| Kind { kind: kind.as_str() })),
            spool_trouble: counter(r, "spool_trouble", "Times that something failed in the spool"),
            quarantined: counter(r, "quarantined", "Times that a damaged piece of the log was set aside"),
            delay: delay(r),
            certificates: certificates(r),
            gauges: Gauges::new(r),
            registry,
        }
    }
}

const NOTICES: [NoticeKind; 6] = [
    NoticeKind::Delay,
    NoticeKind::Bounce,
    NoticeKind::DoubleBounce,
    NoticeKind::Success,
    NoticeKind::DelayOver,
    NoticeKind::Digest,
];

impl Gauges {
    fn new(r: &mut Registry) -> Self {
        let states = ["active", "deferred", "held"].map(|state| State { state });
        let family = Family::<State, Number>::default();
        r.register("queue_messages", "Messages in the queue", family.clone());
        Self {
            queue: states.map(|state| family.get_or_create(&state).clone()),
            queue_bytes: gauge(r, "queue_size", "Octets of content in the queue", Some(Unit::Bytes)),
            connections: gauge(r, "connections_open", "Client connections open now", None),
            in_flight: gauge(r, "in_flight", "Octets of mail that is coming in now", Some(Unit::Bytes)),
            attempts: gauge(r, "attempts_in_flight", "Delivery attempts under way now", None),
            spool_available: gauge(r, "spool_available", "Room left on the spool's disk", Some(Unit::Bytes)),
            accepting: gauge(r, "accepting", "1 while new mail is taken", None),
            commits: counter(r, "spool_commits", "Batches of records made durable"),
            spool_segments: gauge(r, "spool_segments", "Segments of the spool's log", None),
        }
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Number {
    let gauge = Number::default();
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge.clone()),
        None => registry.register(name, help, gauge.clone()),
    }
    gauge
}

fn counters<L, const N: usize>(registry: &mut Registry, name: &str, help: &str, labels: [L; N]) -> [Counter; N]
where
    L: Clone + fmt::Debug + Eq + std::hash::Hash + EncodeLabelSet + Send + Sync + 'static,
{
    let family = Family::<L, Counter>::default();
    registry.register(name, help, family.clone());
    labels.map(|label| family.get_or_create(&label).clone())
}

fn by_transport(registry: &mut Registry, name: &str, help: &str) -> [Counter; 4] {
    counters(registry, name, help, TRANSPORTS.map(|transport| Transport { transport }))
}

fn certificates(registry: &mut Registry) -> Family<Certificate, Gauge<i64, AtomicI64>> {
    let days = Family::default();
    registry.register("tls_certificate_days", "Days that are left of a certificate in use", days.clone());
    days
}

fn delay(registry: &mut Registry) -> Histogram {
    let delay = Histogram::new(DELAYS);
    registry.register_with_unit("delivery_delay", "Time from acceptance to delivery", Unit::Seconds, delay.clone());
    delay
}

/// The place in [`TRANSPORTS`].
fn transport(destination: &Destination) -> usize {
    match destination {
        Destination::Local(_) => 0,
        Destination::Lmtp(_) => 1,
        Destination::Route(_) => 2,
        Destination::Mx(_) => 3,
    }
}

impl Metrics {
    /// Counts what an event says.
    pub(super) fn count(&self, event: &Event) {
        match event {
            Event::Connected { .. } => inc(&self.connections),
            Event::Limited { limit, .. } | Event::LimitedAgain { limit, .. } => {
                if let Some(at) = LIMITS.iter().position(|known| limit.split_once('.').map(|(_, name)| name) == Some(known)) {
                    inc(&self.limited[at]);
                }
            }
            Event::Refused { stage, .. } => {
                if let Some(at) = STAGES.iter().position(|known| known == stage) {
                    inc(&self.refused[at]);
                }
            }
            Event::Accepted { size, .. } => {
                inc(&self.accepted);
                self.accepted_bytes.inc_by(*size);
            }
            Event::Delivered { destination, delay, .. } => {
                inc(&self.delivered[transport(destination)]);
                self.delay.observe(delay.as_secs_f64());
            }
            Event::Deferred { destination, .. } => inc(&self.deferred[transport(destination)]),
            Event::Failed { destination, .. } => inc(&self.failed[transport(destination)]),
            Event::Expired { destination, .. } => inc(&self.expired[transport(destination)]),
            Event::Notified { kind, .. } => inc(&self.notices[*kind as usize]),
            Event::WriteFailed { .. } | Event::SegmentUnreadable { .. } | Event::SpoolTrouble { .. } => inc(&self.spool_trouble),
            Event::Quarantined { .. } => inc(&self.quarantined),
            _ => {}
        }
    }

    /// Sets what the daemon measured.
    pub fn set(&self, levels: Levels) {
        let gauges = &self.gauges;
        for (state, count) in
            [(MessageState::Active, levels.active), (MessageState::Deferred, levels.deferred), (MessageState::Held, levels.held)]
        {
            gauges.queue[state as usize].set(count);
        }
        gauges.queue_bytes.set(levels.queue_bytes);
        gauges.connections.set(levels.connections);
        gauges.in_flight.set(levels.in_flight);
        gauges.attempts.set(levels.attempts);
        gauges.spool_available.set(levels.spool_available);
        gauges.accepting.set(u64::from(levels.accepting));
        gauges.commits.inner().store(levels.commits, Ordering::Relaxed);
        gauges.spool_segments.set(levels.spool_segments);
    }

    /// Sets what is left of the certificates in use, by their files; others are forgotten.
    pub fn set_certificates(&self, days: Vec<(String, i64)>) {
        self.certificates.clear();
        for (certificate, days) in days {
            self.certificates.get_or_create(&Certificate { certificate }).set(days);
        }
    }

    /// All series in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail; if a metric can't be encoded, what came before still is.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

fn inc(counter: &Counter) {
    counter.inc();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Events;
    use crate::mail::{Address, Domain, EnhancedCode, QueueId, ReversePath};

    fn delivered(destination: Destination) -> Event {
        Event::Delivered {
            id: QueueId(1),
            from: ReversePath::Null,
            to: Address::parse("ann@example.test").unwrap(),
            destination,
            next_hop: String::new(),
            status: EnhancedCode(2, 0, 0),
            reply: String::new(),
            size: 10,
            delay: Duration::from_secs(2),
            attempts: 1,
        }
    }

    #[test]
    fn events_move_their_counters() {
        let events = Events::new();
        let domain = Domain::parse("example.test").unwrap();
        events.report(delivered(Destination::Local(domain.clone())));
        events.report(delivered(Destination::Mx(domain)));
        events.report(Event::Limited { client: None, limit: "limits.connections", value: 2 });
        events.report(Event::LimitedAgain { client: None, limit: "limits.connections", value: 2 });
        events.metrics().set(Levels { held: 3, commits: 7, accepting: true, ..Levels::default() });
        events.metrics().set_certificates(vec![("old.pem".to_owned(), 3)]);
        events.metrics().set_certificates(vec![("cert.pem".to_owned(), -2)]);
        let text = events.metrics().encode();
        assert!(!text.contains("old.pem"));
        for line in [
            "posthouse_tls_certificate_days{certificate=\"cert.pem\"} -2",
            "posthouse_recipients_delivered_total{transport=\"local\"} 1",
            "posthouse_recipients_delivered_total{transport=\"mx\"} 1",
            "posthouse_recipients_delivered_total{transport=\"lmtp\"} 0",
            "posthouse_limited_total{limit=\"connections\"} 2",
            "posthouse_limited_total{limit=\"errors\"} 0",
            "posthouse_queue_messages{state=\"held\"} 3",
            "posthouse_spool_commits_total 7",
            "posthouse_accepting 1",
            "posthouse_delivery_delay_seconds_sum 4.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn docs_metrics_md_describes_every_metric() {
        let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let text = Metrics::default().encode();
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()) {
            assert!(docs.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
        }
    }
}
