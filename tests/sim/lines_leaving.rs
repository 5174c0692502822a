//! The rule of the bounded address in the lines' simulation: never more leaves from it at a time, or in a time, than it may. State: what
//! was seen to leave.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use posthouse::config::{DestinationRule, DomainPattern, Outgoing};
use posthouse::mail::{Rate, Timestamp};
use posthouse::system::sim::{Calling, SimRandom};

use crate::lines_line::{Counts, in_window};
use crate::lines_world::{HOME, LOCAL, PERIOD_MAX, PLACES};

/// What leaves from here isn't bounded.
pub(crate) const FREE: IpAddr = IpAddr::V4(Ipv4Addr::new(50, 9, 9, 1));
/// And this is.
pub(crate) const BOUND: IpAddr = IpAddr::V4(Ipv4Addr::new(50, 9, 9, 2));
/// So late may the first command of a message come after the attempt has begun.
const CALL_TIME: Duration = Duration::from_secs(2);

/// What may leave from the bounded address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// To all places together, or to each.
    shared: bool,
    outgoing: Outgoing,
}

impl Bound {
    /// Bounds of some kind.
    pub(crate) fn draw(random: &mut SimRandom) -> Self {
        let mut rate = |count: u64| {
            let count = u32::try_from(1 + random.below(count)).unwrap();
            (random.below(3) > 0).then(|| Rate { count, period: PERIOD_MAX - Duration::from_secs(random.below(60)) })
        };
        let (messages_rate, connections_rate) = (rate(12), rate(4));
        let concurrency = (random.below(3) > 0).then(|| 1 + random.below(3) as usize);
        Self { shared: random.below(2) == 0, outgoing: Outgoing { concurrency, messages_rate, connections_rate } }
    }

    /// The table for it.
    pub(crate) fn rule(&self) -> DestinationRule {
        DestinationRule {
            domain: DomainPattern::Any,
            mx: DomainPattern::Any,
            source: Some(BOUND),
            shared: self.shared,
            outgoing: self.outgoing,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leaving {
    bound: Bound,
    /// One for all places, or one for each.
    scopes: Vec<Scope>,
}

#[derive(Clone, Debug)]
struct Scope {
    /// Connections now.
    open: usize,
    calls: Vec<Timestamp>,
    messages: Vec<Timestamp>,
    /// Since when the server counts.
    from: Timestamp,
}

impl Leaving {
    /// Nothing has left yet.
    pub(crate) fn new(bound: Bound, begun: Timestamp) -> Self {
        let scope = Scope { open: 0, calls: Vec::new(), messages: Vec::new(), from: begun };
        Self { bound, scopes: vec![scope; PLACES.len()] }
    }

    /// The server begins anew.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.scopes.iter_mut().for_each(|scope| (scope.open, scope.from) = (0, now));
    }

    /// What counts for a place; nothing where notices go, too, which no bound is for.
    fn scope(&mut self, place: usize, client: IpAddr) -> Option<(&mut Scope, Outgoing)> {
        let counts = client == BOUND && place != HOME && place != LOCAL;
        let number = if self.bound.shared { 0 } else { place };
        let Self { bound, scopes } = self;
        counts.then(|| (&mut scopes[number], bound.outgoing))
    }

    /// A connection to a place begins or ends.
    pub(crate) fn call(&mut self, now: Timestamp, place: usize, client: IpAddr, what: Calling, counts: &mut Counts) {
        let Some((scope, outgoing)) = self.scope(place, client) else { return };
        match what {
            Calling::Began => {
                scope.calls.push(now);
                if let Some(rate) = outgoing.connections_rate {
                    let count = in_window(scope.calls.iter().copied(), now, rate, scope.from);
                    counts.leaving_calls += usize::from(count == rate.count as usize);
                    assert!(count <= rate.count as usize, "{count} connections from {client} in a time that allows {rate}");
                }
            }
            Calling::Made => {
                scope.open += 1;
                if let Some(bound) = outgoing.concurrency {
                    counts.leaving_at_a_time += usize::from(scope.open == bound);
                    assert!(scope.open <= bound, "{} connections from {client}, not {bound}", scope.open);
                }
            }
            Calling::Over => scope.open = scope.open.saturating_sub(1),
        }
    }

    /// A message begins to go over one.
    pub(crate) fn message(&mut self, now: Timestamp, place: usize, client: IpAddr, counts: &mut Counts) {
        let Some((scope, outgoing)) = self.scope(place, client) else { return };
        scope.messages.push(now);
        if let Some(rate) = outgoing.messages_rate {
            let sure = Rate { period: rate.period - CALL_TIME, ..rate };
            let count = in_window(scope.messages.iter().copied(), now, sure, scope.from);
            counts.leaving_messages += usize::from(count == rate.count as usize);
            assert!(count <= rate.count as usize, "{count} messages from {client} in a time that allows {rate}");
        }
    }
}
