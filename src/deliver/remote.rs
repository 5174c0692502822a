//! Delivery to other servers, by SMTP or LMTP: host after host until every recipient has the word of one. State: none beyond the
//! attempt.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{Call, Connection, Unopened};
use super::connections::{Permit, Wanted};
use super::fitting::{self, Fitted, Unfit};
use super::hosts::is_ipv6;
use super::{Attempt, Attempted, Deliverer, Host, Way, ipv6, returned, waiver};
use crate::config::{Remote, RemoteTls};
use crate::event::Event;
use crate::mail::{Cause, Destination, Diagnosis, EnhancedCode, Forward, Outcome, Timestamp};
use crate::smtp::client::{Login, Settings, StartTls, Timeouts, Transaction};
use crate::system::{Endpoint, Established};

/// Hosts tried in one attempt; a domain with more has the others tried another time.
const HOSTS_MAX: usize = 20;

/// Sessions with one host in one attempt, where it takes few transactions in each.
const SESSIONS_MAX: usize = 100;

/// What came of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    /// All that this host has to say.
    Done,
    /// The server takes no more in this session, though there are recipients left.
    InPart,
    /// The connection had died in idleness, or the server had had enough of it: a new one shows what else there is to it.
    Stale,
}

/// One attempt as it goes from host to host.
struct Run<'a> {
    deliverer: &'a Deliverer,
    attempt: &'a Attempt,
    /// How the hosts are called.
    way: Way,
    permit: Permit,
    outcomes: Vec<Option<Outcome>>,
    /// Why hosts didn't serve, in the order of trying.
    misses: Vec<Diagnosis>,
    /// Why the last host that would have served can't be given this message.
    unfit: Option<Diagnosis>,
    /// The site's rate allows no connection before this time.
    /// Or that of an address of ours, and then which.
    connections_from: Option<(Timestamp, Option<IpAddr>)>,
    /// What was said for our IPv6 address, by recipient: it counts only if nobody says anything over IPv4.
    refused: Vec<Option<Outcome>>,
    /// Such a thing was said: the hosts left are called over IPv4 only.
    ipv4_only: bool,
    /// There are such hosts, tried already or not.
    has_ipv4: bool,
    /// A host was ourselves: those behind it aren't asked.
    at_ourselves: bool,
}

/// Tries the destination's hosts in their order.
///
/// The next host is tried when one can't be reached, doesn't greet us or loses the connection: for the recipients that it gave no
/// result. A 4xx about a message or recipient isn't taken to the next host in the same attempt: it is the domain's word as much as
/// the host's (greylisting, quota, load), and to ask all its hosts at once would only multiply what the domain wants less of.
pub(super) async fn deliver(deliverer: &Deliverer, attempt: &Attempt) -> Attempted {
    let outcomes = returned::outcomes(deliverer, attempt).await;
    if outcomes.iter().all(Option::is_some) {
        let indices = attempt.recipients.iter().map(|(index, _)| *index);
        return indices.zip(outcomes.into_iter().flatten()).collect::<Vec<_>>().into();
    }
    let hosts = match deliverer.routes.hosts(&attempt.destination, &attempt.reverse_path).await {
        Ok(hosts) => hosts,
        Err(outcome) => {
            let outcomes = outcomes.into_iter().map(|returned| returned.unwrap_or_else(|| outcome.clone()));
            return attempt.recipients.iter().map(|(index, _)| *index).zip(outcomes).collect::<Vec<_>>().into();
        }
    };
    let permit = deliverer.connections.permit(&attempt.site, attempt.outgoing, attempt.sources.clone());
    let mut run = Run {
        deliverer,
        attempt,
        way: waiver::way(deliverer.routes.way(&attempt.destination, &attempt.reverse_path), attempt).await,
        permit: permit.for_notice(attempt.is_notice),
        outcomes,
        misses: Vec::new(),
        unfit: None,
        refused: vec![None; attempt.recipients.len()],
        ipv4_only: false,
        at_ourselves: false,
        has_ipv4: hosts.iter().any(|host| !is_ipv6(host)),
        connections_from: None,
    };
    if !attempt.sources.is_empty() {
        run.way.sources = attempt.sources.iter().map(|source| source.ip).collect();
    }
    let now = deliverer.system.clock.monotonic();
    let idle = |host: &Host| run.permit.is_idle(host);
    let hosts = deliverer.hosts.arrange(now, hosts, idle, &*deliverer.system.entropy);
    for host in hosts.iter().take(HOSTS_MAX) {
        if run.ipv4_only && is_ipv6(host) {
            continue;
        }
        run.try_host(host).await;
        let settled = run.connections_from.is_some() || run.outcomes.iter().all(Option::is_some);
        if settled || run.at_ourselves {
            break;
        }
    }
    run.finish()
}

impl Run<'_> {
    async fn try_host(&mut self, host: &Host) {
        let tls = self.level(host);
        let certain = self.is_certain(host);
        let wanted = Wanted { host, tls, sources: self.sources(host), certain };
        if let Some(connection) = self.permit.reuse(&wanted)
            && self.transact(connection, host).await == Carried::Done
        {
            return;
        }
        for _ in 0..SESSIONS_MAX {
            let source = self.source(host);
            if let Err(from) = self.permit.may_connect(source) {
                self.connections_from = Some(from);
                return;
            }
            self.permit.make_room(source).await;
            let connection = match self.open(host, tls, source).await {
                Ok(connection) => connection,
                Err(unopened) => match self.fallback_from(host, tls, source, &unopened) {
                    Some(from) => return self.connections_from = Some(from),
                    None => return self.missed(host, unopened),
                },
            };
            if self.transact(connection, host).await != Carried::InPart {
                return;
            }
        }
    }

    /// When the connection in the clear may be made that follows a failed handshake, if the rate doesn't allow it now. The next attempt
    /// begins with it: another handshake would fail again, and use up the next connection as well.
    fn fallback_from(
        &self,
        host: &Host,
        tls: RemoteTls,
        source: Option<IpAddr>,
        unopened: &Unopened,
    ) -> Option<(Timestamp, Option<IpAddr>)> {
        let follows = unopened.insecure && tls == RemoteTls::Opportunistic && !self.way.implicit_tls;
        let from = follows.then(|| self.permit.may_connect(source).err()).flatten()?;
        let wait = from.0.since(self.deliverer.system.clock.now());
        self.deliverer.hosts.owe_in_clear(self.now(), wait, &host.endpoint, self.attempt.site.whole(), &unopened.diagnosis);
        Some(from)
    }

    /// This host doesn't serve.
    fn missed(&mut self, host: &Host, unopened: Unopened) {
        let Unopened { diagnosis, insecure, ourselves } = unopened;
        if !insecure {
            self.deliverer.hosts.failed(self.now(), &host.endpoint);
        }
        self.is_for_ipv6(host, &diagnosis);
        // Hosts that are no better than ourselves would give it back to us (RFC 5321 section 5.1).
        self.at_ourselves |= ourselves && matches!(self.attempt.destination, Destination::Mx(_));
        if insecure && self.requires_tls(host) {
            // RFC 8689 section 4.2.1: the message doesn't wait for better times.
            self.unfit = Some(Diagnosis { status: EnhancedCode(5, 7, 10), ..diagnosis });
        } else {
            self.misses.push(Diagnosis { turned_away: true, ..diagnosis });
        }
    }

    /// Whether this was said for our IPv6 address, and there is a way over IPv4: it is taken, now if it wasn't yet, and first of all for
    /// a while.
    fn is_for_ipv6(&mut self, host: &Host, said: &Diagnosis) -> bool {
        let refusal = is_ipv6(host) && self.has_ipv4 && ipv6::is_refusal(said);
        if refusal && !self.ipv4_only {
            self.ipv4_only = true;
            self.deliverer.hosts.refused_ipv6(self.now(), host);
            let Diagnosis { next_hop, text: reply, .. } = said.clone();
            self.deliverer.events.report(Event::Ipv6Refused { id: self.attempt.id, next_hop, reply });
        }
        refusal
    }

    fn now(&self) -> Duration {
        self.deliverer.system.clock.monotonic()
    }

    /// Whether the sender wants TLS all the way.
    fn requires_tls(&self, host: &Host) -> bool {
        self.relays(host) && self.attempt.request.as_ref().is_some_and(|request| request.require_tls)
    }

    /// Whether the message is still on its way there: it is not with an LMTP server on this machine, or one that is this site's store.
    fn relays(&self, host: &Host) -> bool {
        let lmtp = matches!(self.attempt.destination, Destination::Lmtp(_));
        !lmtp || !(self.way.store || is_here(&host.endpoint))
    }

    /// How the connection has to be encrypted: as configured, and as the sender wants. What goes through a Unix socket stays here.
    fn level(&self, host: &Host) -> RemoteTls {
        match &host.endpoint {
            Endpoint::Unix(_) => RemoteTls::None,
            Endpoint::Tcp(_) if self.requires_tls(host) => RemoteTls::Verify,
            Endpoint::Tcp(_) => self.way.tls,
        }
    }

    /// Our own addresses that the host may be called from; none: the system chooses, as it does for what stays on this machine.
    fn sources(&self, host: &Host) -> &[IpAddr] {
        if is_here(&host.endpoint) { &[] } else { &self.way.sources }
    }

    /// One of them.
    fn source(&self, host: &Host) -> Option<IpAddr> {
        let Endpoint::Tcp(to) = &host.endpoint else { return None };
        let sources = self.sources(host);
        let fitting: Vec<IpAddr> = sources.iter().filter(|source| source.is_ipv4() == to.is_ipv4()).copied().collect();
        let chosen = self.deliverer.system.entropy.below(fitting.len().max(1) as u64);
        // An address of the wrong family is better than one that isn't configured: calling from it fails, and says why.
        fitting.get(usize::try_from(chosen).unwrap_or(0)).or(sources.first()).copied()
    }

    /// A connection as well encrypted as is asked for. Where that is only a wish, a handshake that fails is followed by one
    /// connection in the clear: mail that comes is better than mail that doesn't, and the log tells.
    async fn open(&self, host: &Host, tls: RemoteTls, source: Option<IpAddr>) -> Result<Connection, Unopened> {
        let starttls = match tls {
            RemoteTls::None => StartTls::Never,
            RemoteTls::Opportunistic => StartTls::IfOffered,
            RemoteTls::Require | RemoteTls::Verify => StartTls::Always,
        };
        let login = self.login(host).await?;
        let called = self.now();
        if tls == RemoteTls::Opportunistic
            && !self.way.implicit_tls
            && let Some(Diagnosis { next_hop, text: reason, .. }) = self.owed(host, source)
        {
            self.deliverer.events.report(Event::TlsFallback { id: self.attempt.id, next_hop, reason });
            return Connection::open(self.call(host, tls, StartTls::Never, login, source), host).await;
        }
        let connection = match Connection::open(self.call(host, tls, starttls, login.clone(), source), host).await {
            Err(Unopened { diagnosis, insecure: true, .. })
                if tls == RemoteTls::Opportunistic && !self.way.implicit_tls && self.permit.may_connect(source).is_ok() =>
            {
                let Diagnosis { next_hop, text: reason, .. } = diagnosis;
                self.deliverer.events.report(Event::TlsFallback { id: self.attempt.id, next_hop, reason });
                return Connection::open(self.call(host, tls, StartTls::Never, login, source), host).await;
            }
            opened => opened?,
        };
        self.deliverer.hosts.served(self.now(), &host.endpoint, self.now().saturating_sub(called));
        let (id, next_hop) = (self.attempt.id, connection.next_hop().to_owned());
        if let Some(Established { version, cipher, verified, resumed }) = connection.secured() {
            self.deliverer.hosts.secured(&host.endpoint);
            let (tls, verified, resumed) = (*version, verified.is_ok(), *resumed);
            self.deliverer.events.report(Event::Secured { id, next_hop, tls, cipher, verified, resumed });
        } else if let Some(reason) = connection.declined() {
            self.deliverer.events.report(Event::TlsFallback { id, next_hop, reason: reason.to_owned() });
        }
        Ok(connection)
    }

    /// Whether this connection has to be the one in the clear that another could not be followed by, and why. Whoever no rate holds up has
    /// a handshake of his own, and leaves it to those who wait for it.
    fn owed(&self, host: &Host, source: Option<IpAddr>) -> Option<Diagnosis> {
        let hosts = &self.deliverer.hosts;
        self.permit.is_metered(source).then(|| hosts.take_owed(self.now(), &host.endpoint, self.attempt.site.whole())).flatten()
    }

    /// Who we are to the host, if we log in there.
    async fn login(&self, host: &Host) -> Result<Option<Login>, Unopened> {
        let Some(login) = &self.way.login else { return Ok(None) };
        let system = &self.deliverer.system;
        match self.deliverer.passwords.read(system, &login.password_file).await {
            Ok(password) => {
                let nonce = [system.entropy.next_u64(), system.entropy.next_u64()].map(|part| format!("{part:016x}")).concat();
                let in_clear = self.way.tls == RemoteTls::None && is_here(&host.endpoint);
                Ok(Some(Login { name: login.name.clone(), password, nonce, in_clear }))
            }
            Err(why) => {
                let text = format!("no password for {}: {}: {why}", login.name, login.password_file.display());
                let diagnosis = Diagnosis::new(EnhancedCode(4, 3, 5), Cause::Local, text);
                Err(Unopened { diagnosis, insecure: false, ourselves: false })
            }
        }
    }

    fn call(&self, host: &Host, tls: RemoteTls, starttls: StartTls, login: Option<Login>, source: Option<IpAddr>) -> Call<'_> {
        let Deliverer { config, system, tls: client, passwords, .. } = self.deliverer;
        Call {
            system,
            tls: &**client,
            passwords,
            settings: Settings {
                hello: config.hostname.clone(),
                lmtp: matches!(self.attempt.destination, Destination::Lmtp(_)),
                starttls,
                timeouts: timeouts(&config.remote),
                mark: Some(Arc::clone(&self.deliverer.mark)),
                login,
            },
            connect_timeout: config.remote.connect_timeout,
            source,
            implicit_tls: self.way.implicit_tls,
            verify: tls == RemoteTls::Verify,
            certain: self.is_certain(host),
        }
    }

    /// Whoever can forge an answer of the DNS can name a host of his own, certificate included. A name that was configured,
    /// or is the recipients' own domain, is beyond that (RFC 8689 section 4.2.1).
    fn is_certain(&self, host: &Host) -> bool {
        match &self.attempt.destination {
            Destination::Mx(domain) => domain.as_str() == host.name,
            _ => true,
        }
    }

    /// What this server can be given; `None` if that is nothing, for any recipient.
    async fn fit(&mut self, connection: &mut Connection, host: &Host) -> Option<Fitted> {
        let offered = connection.extensions();
        let elapsed = self.deliverer.system.clock.now().since(self.attempt.arrived);
        let fitted = match fitting::fit(self.attempt, offered, elapsed, self.relays(host)).await {
            Ok(fitted) => fitted,
            Err(Unfit::Host(diagnosis)) => {
                self.unfit = Some(diagnosis.at(connection.next_hop()));
                return None;
            }
            Err(Unfit::Message(outcome)) => {
                let outcome = connection.sign(outcome);
                self.outcomes.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = Some(outcome.clone()));
                return None;
            }
        };
        for (slot, (_, Forward { address, .. })) in self.outcomes.iter_mut().zip(&self.attempt.recipients) {
            if slot.is_none() {
                *slot = fitting::recipient(address, offered).map(|outcome| connection.sign(outcome));
            }
        }
        self.outcomes.iter().any(Option::is_none).then_some(fitted)
    }

    /// Carries the message over for the recipients still without outcome.
    async fn transact(&mut self, mut connection: Connection, host: &Host) -> Carried {
        let Some(fitted) = self.fit(&mut connection, host).await else {
            self.permit.keep(connection);
            return Carried::Done;
        };
        let open: Vec<usize> = (0..self.outcomes.len()).filter(|index| self.outcomes[*index].is_none()).collect();
        let transaction = Transaction {
            reverse_path: self.attempt.reverse_path.clone(),
            recipients: open.iter().map(|index| self.attempt.recipients[*index].1.clone()).collect(),
            size: fitted.content.size(),
            body: fitted.body,
            request: fitted.request,
        };
        let outcomes = connection.transact(transaction, &*fitted.content).await;
        if connection.was_stale() {
            return Carried::Stale;
        }
        let mut miss = None;
        for (place, (index, outcome)) in open.into_iter().zip(outcomes).enumerate() {
            if connection.is_unanswered(place) {
                miss = Some(outcome.diagnosis().clone());
            } else if self.is_for_ipv6(host, outcome.diagnosis()) {
                self.refused[index] = Some(outcome);
            } else {
                self.outcomes[index] = Some(outcome);
            }
        }
        let ready = connection.is_ready();
        if let Some(miss) = &miss {
            if miss.turned_away && connection.is_reused() {
                return Carried::Stale;
            }
            if miss.turned_away || miss.cause == Cause::Connection {
                self.deliverer.hosts.failed(self.now(), &host.endpoint);
            }
            self.is_for_ipv6(host, miss);
        }
        let carried = if miss.is_some() && ready { Carried::InPart } else { Carried::Done };
        self.misses.extend(miss);
        if ready {
            self.permit.keep(connection);
        }
        carried
    }

    /// Recipients that no host spoke about are deferred. They fail only if no host that serves can be given this message, or if every host
    /// of a foreign domain said 5xx before we could name them; a configured host that does so is this site's mistake, which an admin can
    /// mend.
    fn finish(self) -> Attempted {
        let connections_from = self.connections_from;
        // Nobody was asked about these: that is no attempt.
        let unasked = connections_from.is_some() && self.misses.is_empty();
        let foreign = matches!(self.attempt.destination, Destination::Mx(_));
        let transient = self.misses.iter().rev().find(|miss| miss.status.0 != 5);
        let rest = match (transient, self.unfit.as_ref().or(self.misses.last())) {
            (Some(miss), _) => Outcome::Deferred(miss.clone()),
            // A host that wasn't asked, for the rate's sake, may be better.
            (None, Some(unfit)) if self.unfit.is_some() && connections_from.is_none() => Outcome::Failed(unfit.clone()),
            (None, Some(miss)) if foreign && connections_from.is_none() => Outcome::Failed(miss.clone()),
            (None, Some(miss)) => {
                let status = EnhancedCode(4, miss.status.1, miss.status.2);
                Outcome::Deferred(Diagnosis { status, ..miss.clone() })
            }
            (None, None) => {
                Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 4, 4), Cause::Local, "there is no host to deliver to"))
            }
        };
        let outcomes = self.attempt.recipients.iter().zip(self.outcomes.into_iter().zip(self.refused));
        let outcome = |outcome: Option<Outcome>, refused: Option<Outcome>| match (&rest, outcome) {
            (_, Some(outcome)) => outcome,
            // Another time it may go over IPv4.
            (Outcome::Deferred(_), None) => rest.clone(),
            (_, None) => refused.unwrap_or_else(|| rest.clone()),
        };
        let outcomes = outcomes.filter(|(_, (said, _))| said.is_some() || !unasked);
        let outcomes = outcomes.map(|((index, _), (said, refused))| (*index, outcome(said, refused))).collect();
        let full_source = connections_from.and_then(|(_, source)| source);
        Attempted { outcomes, connections_from: connections_from.map(|(at, _)| at), full_source }
    }
}

/// How long each stage of a session may take, as configured.
fn timeouts(remote: &Remote) -> Timeouts {
    let (stages, usual) = (&remote.stage_timeouts, Timeouts::of(remote.reply_timeout));
    Timeouts {
        greeting: stages.greeting.unwrap_or(usual.greeting),
        mail: stages.mail.unwrap_or(usual.mail),
        recipient: stages.recipient.unwrap_or(usual.recipient),
        data: stages.data.unwrap_or(usual.data),
        block: stages.block.unwrap_or(usual.block),
        end: stages.end.unwrap_or(usual.end),
        reply: usual.reply,
        transaction: remote.transaction_timeout,
    }
}

/// Whether what is said there stays on this machine.
fn is_here(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Tcp(address) => address.ip().is_loopback(),
    }
}
