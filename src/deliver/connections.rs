//! Connections that wait for another message to the same host: ready sessions, bounded in number and idle time. State: those.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Host;
use super::connection::Connection;
use super::open::{Count, Open, Scope};
use crate::config::{Outgoing, RemoteTls, Source};
use crate::mail::{self, Rate, Site, Timestamp};
use crate::system::Clock;

/// How long a connection may wait: peers are not to be burdened with connections that probably nobody will use.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// How long a connection is used at the most: under a steady load others of the destination's hosts get their turn, and new hosts too.
const OPEN_TIME: Duration = Duration::from_secs(300);
/// Idle connections in all.
const IDLE_MAX: usize = 200;
/// Goodbyes said at a time when all are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many connections were made lately, for each scope whose rate is bounded.
pub(super) type Meters = Mutex<mail::Meters<Scope>>;

/// The idle connections of a server.
pub(super) struct Connections {
    state: Mutex<State>,
    /// Most connections to one site, idle ones included.
    concurrency: usize,
    /// When connections were made lately.
    meters: Arc<Meters>,
    /// Those that are not idle, of this server's earlier configurations too.
    open: Arc<Open>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    idle: BTreeMap<Site, Vec<Idle>>,
    idle_count: usize,
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
    /// The addresses that the connection may come from, if that is bounded: one of each family, or for a notice all that there are.
    sources: Vec<Source>,
    /// No bound by address holds it up, nor does it take what there is for others; only its connection counts when it is idle.
    is_notice: bool,
    /// It is among the busy: it has a connection, or may make one.
    counted: AtomicBool,
}

impl Connections {
    pub(super) fn new(concurrency: usize, clock: Arc<dyn Clock>, meters: Arc<Meters>, open: Arc<Open>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), concurrency, meters, open, clock })
    }

    /// For an attempt. It doesn't wait: how many attempts there may be is the scheduler's business. It counts among the busy once it has a
    /// connection or makes one; one that is about to take an idle one must not seem to have another.
    pub(super) fn permit(self: &Arc<Self>, site: &Site, outgoing: Outgoing, sources: Vec<Source>) -> Permit {
        let (connections, site) = (self.clone(), site.whole().clone());
        Permit { connections, site, outgoing, sources, is_notice: false, counted: AtomicBool::new(false) }
    }

    /// Closes all idle connections, and from now on those that would become idle. They count as leaving at once, so that whoever comes
    /// after this server's configuration sees them, and say goodbye whether what is returned is waited for or not.
    pub(super) fn close(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut goodbyes = JoinSet::new();
        let mut state = self.state();
        state.closed = true;
        state.idle_count = 0;
        for (site, idle) in std::mem::take(&mut state.idle) {
            idle.into_iter().for_each(|idle| _ = goodbyes.spawn(self.goodbye(&site, idle)));
        }
        let said = tokio::spawn(async move { _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbyes.join_all()).await });
        async move { _ = said.await }
    }

    /// See `Meters::forgotten`.
    pub(super) fn forgotten(&self) -> u64 {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).forgotten()
    }

    /// Closes connections whose time is over, until none is left.
    async fn sweep(self: Arc<Self>) {
        while let Some(wait) = self.sweep_once() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long until the next is to be closed.
    fn sweep_once(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let mut state = self.state();
        let (expired, next) = state.expire(now);
        // Under the lock: nobody may see them neither idle nor leaving, and take their place before it is free.
        expired.into_iter().for_each(|(site, idle)| self.leave(&site, idle));
        next.map(|next| next.saturating_sub(now))
    }

    /// Says goodbye without anybody waiting for it but those who need its place.
    fn leave(&self, site: &Site, idle: Idle) {
        tokio::spawn(self.goodbye(site, idle));
    }

    fn goodbye(&self, site: &Site, Idle { connection, scope, .. }: Idle) -> impl Future<Output = ()> + Send + use<> {
        let scopes = std::iter::once(Scope::To(site.clone())).chain(scope.map(Scope::From));
        self.open.goodbye(scopes.collect(), connection)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Whether the attempt is that of a notice; it isn't unless this says so.
    pub(super) fn for_notice(mut self, is_notice: bool) -> Self {
        self.is_notice = is_notice;
        self
    }

    /// Counts this attempt among the busy, if it isn't.
    fn count(&self) {
        if !self.counted.swap(true, Ordering::Relaxed) {
            self.connections.open.take_up(&self.scopes());
        }
    }

    /// And no longer.
    fn uncount(&self) {
        if self.counted.swap(false, Ordering::Relaxed) {
            self.connections.open.give_up(&self.scopes());
        }
    }

    fn scopes(&self) -> Vec<Scope> {
        let bounded = self.sources.iter().filter(|_| !self.is_notice);
        let from = bounded.map(|source| Scope::From(source.scope.clone()));
        std::iter::once(Scope::To(self.site.clone())).chain(from).collect()
    }

    /// An idle connection that fits and still seems to live.
    pub(super) fn reuse(&self, wanted: &Wanted<'_>) -> Option<Connection> {
        loop {
            let mut state = self.connections.state();
            let Idle { mut connection, .. } = state.take(&self.site, |Idle { connection, .. }| {
                connection.is_to(wanted.host)
                    && connection.serves(wanted.tls)
                    && connection.comes_from(wanted.sources)
                    && connection.is_certain() == wanted.certain
            })?;
            self.count();
            drop(state);
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Counts a new connection from an address, if the rates of the site and of the address allow it; else says when they will, and the
    /// address, if it is its rate.
    pub(super) fn may_connect(&self, from: Option<IpAddr>) -> Result<(), (Timestamp, Option<IpAddr>)> {
        let rates = self.rates(from);
        if rates.is_empty() {
            return Ok(());
        }
        let mut meters = self.connections.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = meters.try_add(self.connections.clock.now(), &rates);
        let is_from = |number: usize| matches!(rates.get(number), Some((Scope::From(_), _)));
        counted.map_err(|(number, until)| (until, from.filter(|_| is_from(number))))
    }

    /// Whether any rate bounds its new connections from an address.
    pub(super) fn is_metered(&self, from: Option<IpAddr>) -> bool {
        !self.rates(from).is_empty()
    }

    /// The rates that bound its new connections from an address.
    fn rates(&self, from: Option<IpAddr>) -> Vec<(Scope, Rate)> {
        let to = self.outgoing.connections_rate.map(|rate| (Scope::To(self.site.clone()), rate));
        let source = self.source(from).filter(|_| !self.is_notice);
        let from = source.and_then(|source| Some((Scope::From(source.scope.clone()), source.outgoing.connections_rate?)));
        to.into_iter().chain(from).collect()
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
    /// may have to go, and those that are going must have gone.
    pub(super) async fn make_room(&self, from: Option<IpAddr>) {
        loop {
            let left = self.connections.open.left();
            if self.has_room(&mut self.connections.state(), from) {
                return;
            }
            left.await;
        }
    }

    /// Whether there is room for this attempt's connection; sends idle ones away that are in its way.
    fn has_room(&self, state: &mut State, from: Option<IpAddr>) -> bool {
        self.count();
        let open = &self.connections.open;
        let to = open.count(&Scope::To(self.site.clone()));
        let idle_max = self.concurrency().saturating_sub(to.busy);
        while state.idle.get(&self.site).is_some_and(|idle| idle.len() > idle_max)
            && let Some(oldest) = state.take(&self.site, |_| true)
        {
            self.connections.leave(&self.site, oldest);
        }
        let idle = state.idle.get(&self.site).map_or(0, Vec::len);
        let fits = fits(open.count(&Scope::To(self.site.clone())), idle, self.concurrency());
        let Some((Source { scope, .. }, concurrency)) = self.bounded(from).filter(|_| !self.is_notice) else { return fits };
        let name = Scope::From(scope.clone());
        let idle_max = concurrency.saturating_sub(open.count(&name).busy);
        for _ in idle_max..state.idle_from(scope) {
            state.take_from(scope).into_iter().for_each(|(site, oldest)| self.connections.leave(&site, oldest));
        }
        fits && self::fits(open.count(&name), state.idle_from(scope), concurrency)
    }

    /// The bounds on what comes from an address, and how many connections these are.
    fn bounded(&self, from: Option<IpAddr>) -> Option<(&Source, usize)> {
        let source = self.source(from)?;
        Some((source, source.outgoing.concurrency?))
    }

    /// Keeps a ready connection for the next attempt, or closes it if there are enough. From then on it isn't this attempt's: it counts as
    /// idle or as leaving. To count it as busy besides would close one of an attempt that ends at the same time; not to count it at all,
    /// even for a moment, would let another be made beyond the bound.
    pub(super) fn keep(&self, connection: Connection) {
        let mut state = self.connections.state();
        let bounded = self.bounded(connection.source());
        let full = self.is_full(&state, bounded);
        let leaves = state.closed || full || connection.is_used_up() || connection.age() >= OPEN_TIME;
        let expires = self.connections.clock.monotonic() + IDLE_TIME;
        let idle = Idle { connection, scope: bounded.map(|(source, _)| source.scope.clone()), expires };
        if leaves {
            self.connections.leave(&self.site, idle);
        } else {
            state.idle.entry(self.site.clone()).or_default().push(idle);
            state.idle_count += 1;
            if !std::mem::replace(&mut state.swept, true) {
                tokio::spawn(self.connections.clone().sweep());
            }
        }
        self.uncount();
    }

    /// Whether there are enough connections without this attempt's own, where it is among the busy.
    fn is_full(&self, state: &State, bounded: Option<(&Source, usize)>) -> bool {
        let own = self.scopes();
        let others = |scope: Scope| {
            let busy = self.connections.open.count(&scope).busy;
            busy.saturating_sub(usize::from(own.contains(&scope)))
        };
        let idle = state.idle.get(&self.site).map_or(0, Vec::len);
        let enough_from = bounded.is_some_and(|(Source { scope, .. }, concurrency)| {
            others(Scope::From(scope.clone())) + state.idle_from(scope) >= concurrency
        });
        state.idle_count >= IDLE_MAX || idle + others(Scope::To(self.site.clone())) >= self.concurrency() || enough_from
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.uncount();
    }
}

impl State {
    /// Takes the first, that is oldest, connection that fits.
    fn take(&mut self, site: &Site, fits: impl Fn(&Idle) -> bool) -> Option<Idle> {
        let idle = self.idle.get_mut(site)?;
        let taken = idle.remove(idle.iter().position(fits)?);
        if idle.is_empty() {
            self.idle.remove(site);
        }
        self.idle_count -= 1;
        Some(taken)
    }

    /// Idle connections, to whatever site, that come from where these bounds are for.
    fn idle_from(&self, scope: &Arc<str>) -> usize {
        self.idle.values().flatten().filter(|idle| idle.scope.as_ref() == Some(scope)).count()
    }

    /// Takes the one of them that is idle for the longest time.
    fn take_from(&mut self, scope: &Arc<str>) -> Option<(Site, Idle)> {
        let is_from = |idle: &Idle| idle.scope.as_ref() == Some(scope);
        let oldest = |idle: &[Idle]| idle.iter().filter(|idle| is_from(idle)).map(|idle| idle.expires).min();
        let (site, _) =
            self.idle.iter().filter_map(|(site, idle)| Some((site, oldest(idle)?))).min_by_key(|(_, expires)| *expires)?;
        let site = site.clone();
        self.take(&site, is_from).map(|idle| (site, idle))
    }

    /// Takes what has expired; and says when the next will, or that the sweeping ends.
    fn expire(&mut self, now: Duration) -> (Vec<(Site, Idle)>, Option<Duration>) {
        let mut expired = Vec::new();
        for (site, idle) in &mut self.idle {
            let live = idle.iter().position(|idle| idle.expires > now).unwrap_or(idle.len());
            expired.extend(idle.drain(..live).map(|idle| (site.clone(), idle)));
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        self.idle_count -= expired.len();
        let next = self.idle.values().filter_map(|idle| idle.first()).map(|idle| idle.expires).min();
        self.swept = next.is_some();
        (expired, next)
    }
}

/// Whether another connection has its place, itself counted among the busy. A notice goes beyond the bound of other mail, and waits only
/// for those that leave.
fn fits(Count { busy, leaving }: Count, idle: usize, concurrency: usize) -> bool {
    leaving == 0 || idle + busy + leaving <= concurrency
}
