//! The configuration as the server uses it: parsed, checked, with units.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{DestinationRule, ListenAddress, Notice, Remote, Route, Share};
use crate::mail::{Address, Domain, Service};

/// Every setting. The names are those of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Our name: greeting, EHLO, `Received:`, Reporting-MTA.
    pub hostname: Domain,
    /// Gets double bounces, and mail to `postmaster` without a domain.
    pub postmaster: Address,
    /// How long a stop waits for what is in flight.
    pub shutdown_grace: Duration,
    /// The system user to become once the ports are bound; empty: stay.
    pub user: String,
    /// `[spool]`
    pub spool: Spool,
    /// `[[listener]]`
    pub listeners: Vec<Listener>,
    /// `[tls]`
    pub tls: Tls,
    /// `[auth]`
    pub auth: Auth,
    /// `[[sender]]`
    pub senders: Vec<Sender>,
    /// `[limits]`
    pub limits: Limits,
    /// `[[domain]]`
    pub domains: Vec<LocalDomain>,
    /// `[relay]`
    pub relay: Relay,
    /// `[[route]]`, in order.
    pub routes: Vec<Route>,
    /// `[remote]`
    pub remote: Remote,
    /// `[[destination]]`, in order.
    pub destinations: Vec<DestinationRule>,
    /// `[queue]`
    pub queue: Queue,
    /// `[[share]]`, in order.
    pub shares: Vec<Share>,
    /// `[retry]`
    pub retry: Retry,
    /// `[notice]`
    pub notice: Notice,
    /// `[dns]`
    pub dns: Dns,
    /// `[sendmail]`
    pub sendmail: Sendmail,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq)]
pub struct Spool {
    /// The spool folder.
    pub path: PathBuf,
    /// Less than this many bytes free on its disk: new mail is refused with 452.
    pub min_free: u64,
    /// Bytes of a log segment.
    pub segment_size: u64,
    /// Whether zeros are written ahead of the log's end.
    pub zeros_ahead: bool,
    /// Released segments that are kept to be written again.
    pub spares: usize,
    /// Bytes a second that are copied to give space back, unless room is needed.
    pub compaction_rate: u64,
    /// Memory of the index's cache, bytes.
    pub index_cache: u64,
    /// How new content is stored.
    pub compression: Compression,
}

/// How content is stored in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// As it came.
    #[default]
    None,
    /// Compressed with zstd where that saves enough.
    Zstd,
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Where to listen.
    pub address: ListenAddress,
    /// The permissions of a Unix socket.
    pub mode: u32,
    /// What is spoken there.
    pub service: Service,
    /// How its sessions are encrypted.
    pub tls: ListenerTls,
    /// Connections from these networks begin with a PROXY header.
    pub proxy: Vec<IpNet>,
    /// Clients in these networks may say on whose behalf they come.
    pub xclient: Vec<IpNet>,
}

/// How a listener's sessions are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTls {
    /// Not at all.
    None,
    /// If the client says STARTTLS.
    StartTls,
    /// From the first octet.
    Implicit,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// What clients see; none: a self-signed pair.
    pub pair: Option<KeyPair>,
    /// `[[certificate]]`: what clients see that ask for its name.
    pub more: Vec<KeyPair>,
    /// How often the files are looked at.
    pub reload_interval: Duration,
    /// Authorities of clients' certificates; none: clients aren't asked for one.
    pub client_ca: Option<PathBuf>,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// The users file: the mailboxes of this machine.
    pub users: PathBuf,
    /// AUTH is offered on encrypted sessions only.
    pub require_tls: bool,
    /// Failed logins in a session before 421.
    pub failures: u32,
    /// Failed logins of a client in a period before it is refused.
    pub failures_per_client: u32,
    /// Failed logins to an account in a period before it is refused.
    pub failures_per_account: u32,
    /// How long a failed login counts.
    pub failure_period: Duration,
    /// How long the first failure's answer waits; the next ones wait longer.
    pub failure_delay: Duration,
    /// Passwords checked at a time.
    pub concurrency: usize,
}

/// `[[sender]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Sender {
    /// The login; none: every one.
    pub login: Option<Address>,
    /// What it may write as, besides as itself.
    pub addresses: Vec<AddressPattern>,
}

/// `info@example.test` or `*@example.test`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressPattern {
    /// Exactly this address.
    Exact(Address),
    /// Every address of this domain.
    All(Domain),
}

impl AddressPattern {
    /// Whether the address is meant; the case of letters doesn't count.
    pub fn matches(&self, address: &Address) -> bool {
        match self {
            Self::Exact(exact) => exact.domain() == address.domain() && exact.local().eq_ignore_ascii_case(address.local()),
            Self::All(domain) => domain == address.domain(),
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Octets of a message's content.
    pub message_size: u64,
    /// Recipients of a message.
    pub recipients: usize,
    /// Connections at a time, all listeners together.
    pub connections: usize,
    /// Connections at a time from one client address.
    pub connections_per_client: usize,
    /// Connections at a time from one network.
    pub connections_per_network: usize,
    /// How many leading bits of an IPv4 address name its network.
    pub network_ipv4: u8,
    /// The same for IPv6.
    pub network_ipv6: u8,
    /// Share of connections and of `in_flight` that mx leaves to the other services, 0 to 1.
    pub submission_reserve: f64,
    /// Octets of mail that is coming in, all sessions together.
    pub in_flight: u64,
    /// The same from one network.
    pub in_flight_per_network: u64,
    /// Bad commands in a session before 421.
    pub errors: u32,
    /// Commands without a message before 421.
    pub commands: u32,
    /// How long mx waits for strangers who talk before its greeting.
    pub greeting_delay: Duration,
    /// How long a client may take to introduce itself.
    pub hello_timeout: Duration,
    /// How long a client may take for a command.
    pub command_timeout: Duration,
    /// How long a client may take for the content.
    pub data_timeout: Duration,
    /// Octets of content a second, on average, once `command_timeout` is over.
    pub data_pace: u32,
    /// How long a client may take from the greeting, or the last message, to the end of the next.
    pub transaction_timeout: Duration,
    /// How long a client may take for the TLS handshake.
    pub handshake_timeout: Duration,
    /// `Received:` fields; more is a loop.
    pub hops: usize,
    /// Longest time for which a submitted message may ask to be held back.
    pub hold: Duration,
}

#[cfg(test)]
impl Limits {
    /// Narrow ones, for tests that don't depend on them.
    pub(crate) fn sample() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            message_size: 1 << 20,
            recipients: 100,
            connections: 10,
            connections_per_client: 10,
            connections_per_network: 10,
            network_ipv4: 24,
            network_ipv6: 64,
            submission_reserve: 0.1,
            in_flight: 1 << 20,
            in_flight_per_network: 1 << 20,
            errors: 10,
            commands: 100,
            greeting_delay: Duration::ZERO,
            hello_timeout: minute,
            command_timeout: minute,
            data_timeout: minute,
            data_pace: 1,
            transaction_timeout: minute,
            handshake_timeout: minute,
            hold: minute,
            hops: 50,
        }
    }
}

/// `[[domain]]`
#[derive(Clone, Debug, PartialEq)]
pub struct LocalDomain {
    /// The domain.
    pub name: Domain,
    /// Where its mail goes.
    pub store: MailStore,
    /// What separates a user from a tag; empty: nothing does.
    pub subaddress: String,
    /// Takes mail for users that don't exist.
    pub catch_all: Option<Address>,
    /// The aliases file.
    pub aliases: Option<PathBuf>,
    /// What each Maildir may hold.
    pub quota: Quota,
}

/// How much a mailbox may hold, and what becomes of mail that doesn't fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Octets of all messages; none: what a `maildirsize` file in it says, or as much as there is room for.
    pub octets: Option<u64>,
    /// The message goes back; else it waits.
    pub bounce: bool,
}

/// None of its own.
impl Default for Quota {
    fn default() -> Self {
        Self { octets: None, bounce: true }
    }
}

/// Where a local domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailStore {
    /// A Maildir for each user; `{domain}` and `{user}` are filled in.
    Maildir(String),
    /// An LMTP server.
    Lmtp(LmtpAddress),
}

/// An LMTP server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LmtpAddress {
    /// `unix:/path`
    Unix(PathBuf),
    /// `127.0.0.1:2424`
    Tcp(SocketAddr),
}

/// `[relay]`
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// Clients that may relay.
    pub networks: Vec<IpNet>,
    /// Domains relayed for anyone.
    pub domains: Vec<Domain>,
}

/// How connections to other servers are encrypted; each asks for more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteTls {
    /// Not at all.
    None,
    /// Where it can be had, else not.
    Opportunistic,
    /// Always, with whatever certificate.
    Require,
    /// Always, with a certificate that is the host's.
    Verify,
}

impl RemoteTls {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Require => "require",
            Self::Verify => "verify",
        }
    }
}

/// `[queue]`
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Start with delivery paused.
    pub paused: bool,
    /// Attempts in flight at a time, all destinations together.
    pub attempts: usize,
    /// Messages that the scheduler holds in memory; the rest waits in the index.
    pub active: usize,
}

/// `[retry]`
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Wait after the first failure.
    pub first: Duration,
    /// Each wait is the last times this.
    pub factor: f64,
    /// And never longer than this.
    pub max: Duration,
    /// Plus or minus this share, 0 to 1.
    pub jitter: f64,
    /// After this the recipient bounces.
    pub lifetime: Duration,
    /// The same for messages with null reverse-path.
    pub bounce_lifetime: Duration,
    /// Ages at which the sender is told of a delay, ascending.
    pub delay_notice: Vec<Duration>,
    /// A wait that the remote asks for is at least this.
    pub hint_min: Duration,
    /// And at most this; zero: what it asks for doesn't count.
    pub hint_max: Duration,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// For one question to one server.
    pub timeout: Duration,
}

/// `[sendmail]`
#[derive(Clone, Debug, PartialEq)]
pub struct Sendmail {
    /// The drop folder; none: nothing is taken from this machine's users but by SMTP.
    pub drop: Option<PathBuf>,
    /// Messages that may wait there.
    pub waiting: usize,
    /// The domain of addresses without one, if it is named.
    pub domain: Option<Domain>,
}

impl Config {
    /// The domain that addresses without one belong to, where mail comes from this machine's own users.
    pub fn own_domain(&self) -> &Domain {
        let first = self.domains.first().map(|domain| &domain.name);
        self.sendmail.domain.as_ref().or(first).unwrap_or(&self.hostname)
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// The control socket.
    pub socket: PathBuf,
    /// Where /healthz, /readyz and /metrics are served; none: nowhere.
    pub http: Option<SocketAddr>,
    /// Certificate chain and key (PEM files) that turn `http` into HTTPS.
    pub tls: Option<KeyPair>,
}

/// A certificate chain and its private key, PEM files.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPair {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `time event id=… field=…`
    Text,
    /// One JSON document.
    Json,
    /// As text, without the time, with the syslog priority in front: systemd reads it so from standard error.
    Journald,
}
