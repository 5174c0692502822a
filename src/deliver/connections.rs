//! Connections that wait for another message to the same host: ready sessions, bounded in number and idle time. State: those, and
//! how many attempts are under way to each site.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Host;
use super::connection::Connection;
use super::meters::Meters;
use crate::config::{Outgoing, RemoteTls, Source};
use crate::mail::{Site, Timestamp};
use crate::system::Clock;

/// How long a connection may wait: peers are not to be burdened with connections that probably nobody will use.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How long a connection is used at the most: under a steady load others of the destination's hosts get their turn, and new hosts too.
const OPEN_TIME: Duration = Duration::from_secs(300);
/// Idle connections in all.
const IDLE_MAX: usize = 200;
/// Goodbyes said at a time when all are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The idle connections of a server.
pub(super) struct Connections {
    state: Mutex<State>,
    /// Most connections to one site, idle ones included.
    concurrency: usize,
    /// When connections were made lately.
    meters: Arc<Meters>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    idle: BTreeMap<Site, Vec<Idle>>,
    idle_count: usize,
    busy: BTreeMap<Site, usize>,
    /// The same of what may leave from our own addresses, where that is bounded, by what the bounds are for.
    busy_from: BTreeMap<Arc<str>, usize>,
    /// A task looks for connections whose time is over.
    swept: bool,
    closed: bool,
}

struct Idle {
    connection: Connection,
    /// What bounds connections from where it comes from, if anything does.
    scope: Option<Arc<str>>,
    expires: Duration,
}

/// What a connection must be to serve an attempt.
pub(super) struct Wanted<'a> {
    pub(super) host: &'a Host,
    /// It is encrypted so well at the least.
    pub(super) tls: RemoteTls,
    /// It comes from one of these addresses of ours.
    pub(super) sources: &'a [IpAddr],
    /// What it was when the connection was made: what one domain may take for its host, another may not.
    pub(super) certain: bool,
}

/// An attempt under way to a site; it may have one connection.
pub(super) struct Permit {
    connections: Arc<Connections>,
    /// Whatever address of ours its mail leaves from.
    site: Site,
    outgoing: Outgoing,
    /// The addresses that the connection may come from, one of each family, if that is bounded.
    sources: Vec<Source>,
    /// It is among the busy: it has a connection, or may make one. Changes under the lock only.
    counted: AtomicBool,
}

impl Connections {
    pub(super) fn new(concurrency: usize, clock: Arc<dyn Clock>, meters: Arc<Meters>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), concurrency, meters, clock })
    }

    /// Counts an attempt in, until the permit is dropped. It doesn't wait: how many attempts there may be is the scheduler's business.
    pub(super) fn permit(self: &Arc<Self>, site: &Site, outgoing: Outgoing, sources: Vec<Source>) -> Permit {
        let permit =
            Permit { connections: self.clone(), site: site.whole().clone(), outgoing, sources, counted: AtomicBool::new(false) };
        permit.count(&mut self.state());
        permit
    }

    /// Closes all idle connections, and from now on those that would become idle.
    pub(super) async fn close(&self) {
        let idle = {
            let mut state = self.state();
            state.closed = true;
            state.idle_count = 0;
            std::mem::take(&mut state.idle)
        };
        let mut goodbyes = JoinSet::new();
        idle.into_values().flatten().for_each(|idle| {
            goodbyes.spawn(idle.connection.quit());
        });
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbyes.join_all()).await;
    }

    /// Closes connections whose time is over, until none is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            let now = self.clock.monotonic();
            let (expired, next) = self.state().expire(now);
            expired.into_iter().for_each(leave);
            let Some(next) = next else { return };
            tokio::time::sleep(next.saturating_sub(now)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Counts this attempt among the busy, if it isn't.
    fn count(&self, state: &mut State) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            *state.busy.entry(self.site.clone()).or_default() += 1;
            for source in &self.sources {
                *state.busy_from.entry(source.scope.clone()).or_default() += 1;
            }
        }
    }

    /// And no longer.
    fn uncount(&self, state: &mut State) {
        if self.counted.swap(false, Ordering::Relaxed) {
            one_less(&mut state.busy, &self.site);
            self.sources.iter().for_each(|source| one_less(&mut state.busy_from, &source.scope));
        }
    }

    /// An idle connection that fits and still seems to live.
    pub(super) fn reuse(&self, wanted: &Wanted<'_>) -> Option<Connection> {
        self.count(&mut self.connections.state());
        loop {
            let mut connection = self.connections.state().take(&self.site, |Idle { connection, .. }| {
                connection.is_to(wanted.host)
                    && connection.serves(wanted.tls)
                    && connection.comes_from(wanted.sources)
                    && connection.is_certain() == wanted.certain
            })?;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Counts a new connection from an address, if the rates of the site and of the address allow it; else says when they will, and the
    /// address, if it is its rate.
    pub(super) fn may_connect(&self, from: Option<IpAddr>) -> Result<(), (Timestamp, Option<IpAddr>)> {
        let mut rates = Vec::new();
        rates.extend(self.outgoing.connections_rate.map(|rate| (self.site.to_string(), rate)));
        let source = self.source(from);
        rates.extend(source.and_then(|source| Some((source.scope.to_string(), source.outgoing.connections_rate?))));
        if rates.is_empty() {
            return Ok(());
        }
        let counted = self.connections.meters.count(self.connections.clock.now(), &rates);
        let is_full = |number: usize, source: &&Source| rates.get(number).is_some_and(|(name, _)| **name == *source.scope);
        counted.map_err(|(number, until)| (until, source.filter(|source| is_full(number, source)).map(|source| source.ip)))
    }

    /// The bounds on what comes from an address.
    fn source(&self, from: Option<IpAddr>) -> Option<&Source> {
        self.sources.iter().find(|source| Some(source.ip) == from)
    }

    /// Connections to the site at the most.
    fn concurrency(&self) -> usize {
        self.outgoing.concurrency.unwrap_or(usize::MAX).min(self.connections.concurrency)
    }

    /// Whether a connection to this host waits.
    pub(super) fn is_idle(&self, host: &Host) -> bool {
        let state = self.connections.state();
        state.idle.get(&self.site).is_some_and(|idle| idle.iter().any(|idle| idle.connection.is_to(host)))
    }

    /// Before a new connection is made from an address: with it there must not be too many to the site, nor from there, so idle ones
    /// may have to go.
    pub(super) fn make_room(&self, from: Option<IpAddr>) {
        let mut state = self.connections.state();
        self.count(&mut state);
        let busy = state.busy.get(&self.site).copied().unwrap_or(0);
        let idle_max = self.concurrency().saturating_sub(busy);
        while state.idle.get(&self.site).is_some_and(|idle| idle.len() > idle_max) {
            if let Some(oldest) = state.take(&self.site, |_| true) {
                leave(oldest);
            }
        }
        if let Some((Source { scope, .. }, concurrency)) = self.bounded(from) {
            let idle_max = concurrency.saturating_sub(state.busy_from.get(scope).copied().unwrap_or(0));
            for _ in idle_max..state.idle_from(scope) {
                state.take_from(scope).into_iter().for_each(leave);
            }
        }
    }

    /// The bounds on what comes from an address, and how many connections these are.
    fn bounded(&self, from: Option<IpAddr>) -> Option<(&Source, usize)> {
        let source = self.source(from)?;
        Some((source, source.outgoing.concurrency?))
    }

    /// Keeps a ready connection for the next attempt, or closes it if there are enough.
    pub(super) fn keep(&self, connection: Connection) {
        let mut state = self.connections.state();
        // From here on the connection counts as idle: to count it twice, even for a moment, would close one of an attempt that ends beside.
        self.uncount(&mut state);
        let idle = state.idle.get(&self.site).map_or(0, Vec::len);
        let busy = state.busy.get(&self.site).copied().unwrap_or(0);
        let bounded = self.bounded(connection.source());
        let enough_from = bounded.is_some_and(|(Source { scope, .. }, concurrency)| {
            state.busy_from.get(scope).copied().unwrap_or(0) + state.idle_from(scope) >= concurrency
        });
        let enough = state.closed || state.idle_count >= IDLE_MAX || idle + busy >= self.concurrency() || enough_from;
        if enough || connection.is_used_up() || connection.age() >= OPEN_TIME {
            return leave(connection);
        }
        let expires = self.connections.clock.monotonic() + IDLE_TIME;
        let scope = bounded.map(|(source, _)| source.scope.clone());
        state.idle.entry(self.site.clone()).or_default().push(Idle { connection, scope, expires });
        state.idle_count += 1;
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(self.connections.clone().sweep());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.uncount(&mut self.connections.state());
    }
}

impl State {
    /// Takes the first, that is oldest, connection that fits.
    fn take(&mut self, site: &Site, fits: impl Fn(&Idle) -> bool) -> Option<Connection> {
        let idle = self.idle.get_mut(site)?;
        let taken = idle.remove(idle.iter().position(fits)?);
        if idle.is_empty() {
            self.idle.remove(site);
        }
        self.idle_count -= 1;
        Some(taken.connection)
    }

    /// Idle connections, to whatever site, that come from where these bounds are for.
    fn idle_from(&self, scope: &Arc<str>) -> usize {
        self.idle.values().flatten().filter(|idle| idle.scope.as_ref() == Some(scope)).count()
    }

    /// Takes the one of them that is idle for the longest time.
    fn take_from(&mut self, scope: &Arc<str>) -> Option<Connection> {
        let is_from = |idle: &Idle| idle.scope.as_ref() == Some(scope);
        let oldest = |idle: &[Idle]| idle.iter().filter(|idle| is_from(idle)).map(|idle| idle.expires).min();
        let (site, _) =
            self.idle.iter().filter_map(|(site, idle)| Some((site, oldest(idle)?))).min_by_key(|(_, expires)| *expires)?;
        self.take(&site.clone(), is_from)
    }

    /// Takes what has expired; and says when the next will, or that the sweeping ends.
    fn expire(&mut self, now: Duration) -> (Vec<Connection>, Option<Duration>) {
        let mut expired = Vec::new();
        for idle in self.idle.values_mut() {
            let live = idle.iter().position(|idle| idle.expires > now).unwrap_or(idle.len());
            expired.extend(idle.drain(..live).map(|idle| idle.connection));
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        self.idle_count -= expired.len();
        let next = self.idle.values().filter_map(|idle| idle.first()).map(|idle| idle.expires).min();
        self.swept = next.is_some();
        (expired, next)
    }
}

/// A count that goes with its last.
fn one_less<Name: Ord>(counts: &mut BTreeMap<Name, usize>, name: &Name) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

/// Says goodbye without anybody waiting for it.
fn leave(connection: Connection) {
    tokio::spawn(connection.quit());
}
