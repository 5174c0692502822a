//! Everything that can happen to mail and to the server: one variant a fact, with its level, its fields in their fixed order
//! and its meaning. The enum, the log call and the table behind docs/events.md come from one list.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tracing::field::{DisplayValue, Value, display};

use crate::mail::{Address, Cause, Destination, Domain, EnhancedCode, QueueId, ReversePath, Site, Timestamp};

/// Recipients that one line names; `recipients` still counts them all.
const NAMED_MAX: usize = 20;

/// What the table says about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name in every form of the log.
    pub name: &'static str,
    /// `ERROR`, `WARN`, `INFO` or `DEBUG`.
    pub level: &'static str,
    /// Its fields, in the order in which they are written.
    pub fields: &'static [&'static str],
    /// What it says happened.
    pub meaning: &'static str,
}

/// Declares the events: meaning, variant, name, level, fields.
macro_rules! events {
    ($($(#[doc = $meaning:literal])+ $variant:ident $name:literal $level:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        /// A fact, reported once, when it is durable. Fields have the same meaning in every event: see [`FIELDS`].
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "FIELDS describes every field once, for code, log and docs/events.md")]
        pub enum Event {
            $($(#[doc = $meaning])+ $variant { $($field: $type),* },)*
        }

        /// Every event there is.
        pub const EVENTS: &[Row] = &[$(Row {
            name: $name,
            level: stringify!($level),
            fields: &[$(stringify!($field)),*],
            meaning: concat!($($meaning),+),
        }),*];

        impl Event {
            /// The name in the log.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }

            /// Writes the event to the log, if its level is on.
            pub(super) fn log(&self) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        tracing::event!(target: "posthouse", tracing::Level::$level, { $($field = $field.loggable()),* }, $name);
                    })*
                }
            }
        }
    };
}

events! {
    /// The server runs and takes mail on all its listeners.
    Started "started" INFO { version: &'static str, hostname: Domain, pid: u32 }
    /// A listener is bound.
    Listening "listening" INFO { address: String, service: &'static str }
    /// The ports are bound and the server now runs as this system user.
    Became "became" INFO { user: String }
    /// Something is set or found in a way that an admin should know of; the server goes on.
    Warning "warning" WARN { reason: String }
    /// A stop was asked for: no new connections, what is in flight may finish.
    Stopping "stopping" INFO { reason: String, grace: Duration }
    /// Nothing is in flight any more; the spool is closed.
    Stopped "stopped" INFO { unfinished: usize }
    /// A pair of certificate and key is in use: which, for whom, and the kind of its key.
    Certificate "certificate" INFO { path: String, names: String, kind: &'static str, expires: Option<Timestamp> }
    /// A self-signed pair was made, because no certificate is configured. Clients that verify will not trust it.
    SelfSigned "self-signed" WARN { path: String, hostname: Domain }
    /// A pair, or another file of TLS, can't be used: the one before stays in use.
    CertificateRefused "certificate-refused" ERROR { path: String, reason: String }
    /// The configuration was read again and is in force.
    Reloaded "reloaded" INFO {}
    /// The configuration was read again and is wrong: the old one stays in force. One event a problem.
    ReloadRefused "reload-refused" ERROR { reason: String }

    /// A client connected.
    Connected "connected" DEBUG { client: SocketAddr, service: &'static str }
    /// A client's connection ended.
    Disconnected "disconnected" DEBUG { client: SocketAddr, messages: u64, duration: Duration, reason: String }
    /// A connection could not be taken; others go on.
    AcceptTrouble "accept-trouble" WARN { address: String, reason: String }
    /// A go-between that is trusted to do so said who its client is: the connection counts as that client's.
    Presented "presented" DEBUG { client: IpAddr, by: IpAddr, means: &'static str, login: Option<Address> }
    /// A connection from a network of `listener.proxy` didn't begin as the PROXY protocol has it, and was closed.
    ProxyFailed "proxy-failed" WARN { client: SocketAddr, reason: String }
    /// A TLS handshake with a client failed, and its connection ended.
    TlsFailed "tls-failed" INFO { client: SocketAddr, reason: String }
    /// A client was turned away, put off or cut off because a limit is reached; once a second for each limit.
    Limited "limited" WARN { client: Option<IpAddr>, limit: &'static str, value: u64 }
    /// The same, within a second of the last `limited` for this limit.
    LimitedAgain "limited-again" DEBUG { client: Option<IpAddr>, limit: &'static str, value: u64 }
    /// A client logged in.
    Authenticated "authenticated" INFO { client: IpAddr, service: &'static str, login: Address, mechanism: &'static str }
    /// A client could not log in. The name stands here only if it has the form of one: people type passwords in the wrong place.
    AuthFailed "auth-failed" WARN {
        client: IpAddr, service: &'static str, login: Option<Address>, mechanism: &'static str, reason: String
    }
    /// A client was told no at SMTP time. Nothing of it is kept.
    Refused "refused" INFO {
        id: Option<QueueId>, stage: &'static str, client: IpAddr, helo: String, from: Option<ReversePath>, to: Option<Address>,
        reply: String
    }
    /// A message is on stable storage, and its sender was told so or is about to be.
    Accepted "accepted" INFO {
        id: QueueId, from: ReversePath, to: Named, recipients: usize, size: u64, client: IpAddr, helo: String,
        login: Option<Address>, protocol: &'static str, tls: Option<&'static str>, cipher: Option<&'static str>
    }

    /// A message that a user of this machine left in the drop folder is in the spool, and its file is gone.
    TakenUp "taken-up" INFO { id: QueueId, user: String, path: String }
    /// A file in the drop folder is no message, or none that can be taken: it was moved to `refused/` in that folder; whoever it is from is
    /// told, or else the postmaster (event `notified`).
    DropRefused "drop-refused" ERROR { path: String, reason: String }
    /// The drop folder can't be used as it should; what is in it stays there.
    DropTrouble "drop-trouble" ERROR { path: String, reason: String }

    /// More destinations are bounded in a time than can be remembered: so many times one of them counted from zero again, and may have got
    /// more than its rates allow. Once a minute.
    RatesForgotten "rates-forgotten" WARN { destinations: u64 }
    /// An attempt at one destination begins.
    Attempting "attempting" DEBUG { id: QueueId, destination: Destination, recipients: usize, attempts: u32 }
    /// An attempt needs a connection that a rate doesn't allow yet: for these recipients it was none, and begins anew when it may.
    Waiting "waiting" DEBUG { id: QueueId, destination: Destination, recipients: usize, next_attempt: Timestamp }
    /// A connection to another server is encrypted from here on.
    Secured "secured" INFO {
        id: QueueId, next_hop: String, tls: &'static str, cipher: &'static str, verified: bool, resumed: bool
    }
    /// TLS with another server failed, and the message goes over in the clear: `tls` is "opportunistic".
    TlsFallback "tls-fallback" WARN { id: QueueId, next_hop: String, reason: String }
    /// A host refused us for our IPv6 address: the same attempt goes on over IPv4, and for a day the first ones to it do.
    Ipv6Refused "ipv6-refused" INFO { id: QueueId, next_hop: String, reply: String }
    /// An alias, a catch-all or the postmaster rule replaced a recipient by others.
    Expanded "expanded" INFO { id: QueueId, to: Address, into: Named }
    /// The next hop or the mailbox has the message for this recipient.
    Delivered "delivered" INFO {
        id: QueueId, from: ReversePath, to: Address, destination: Destination, next_hop: String, status: EnhancedCode,
        reply: String, size: u64, delay: Duration, attempts: u32
    }
    /// An attempt failed for now; the recipient waits for the next.
    Deferred "deferred" INFO {
        id: QueueId, from: ReversePath, to: Address, destination: Destination, next_hop: String, status: EnhancedCode,
        cause: Cause, reply: String, in_doubt: bool, delay: Duration, attempts: u32, next_attempt: Timestamp
    }
    /// A message waits without an attempt: its destination is down.
    Postponed "postponed" INFO {
        id: QueueId, destination: Destination, recipients: usize, reply: String, next_attempt: Timestamp
    }
    /// Several attempts in a row could not reach a destination: its mail waits, and one attempt at a time finds out when it is back.
    DestinationDown "destination-down" WARN { destination: Site, attempts: u32, reply: String, next_attempt: Timestamp }
    /// A destination that was down was reached: the mail that waits for it is tried now.
    DestinationUp "destination-up" INFO { destination: Site, attempts: u32 }
    /// A domain's mail waited for a destination that is down, and the DNS now names other mail servers: it is tried there.
    DestinationMoved "destination-moved" INFO { domain: Domain, destination: Site }
    /// An attempt failed for good.
    Failed "failed" INFO {
        id: QueueId, from: ReversePath, to: Address, destination: Destination, next_hop: String, status: EnhancedCode,
        cause: Cause, reply: String, delay: Duration, attempts: u32
    }
    /// The recipient waited longer than the lifetime: it has failed.
    Expired "expired" INFO {
        id: QueueId, from: ReversePath, to: Address, destination: Destination, status: EnhancedCode, reply: String,
        delay: Duration, attempts: u32
    }
    /// A notice about a message was accepted into the spool as a message of its own.
    Notified "notified" INFO { id: QueueId, notice: QueueId, kind: NoticeKind, to: Address, recipients: usize }
    /// Nobody is told of a failure: it is that of a notice that not even the postmaster takes, or the sender asked for silence,
    /// or isn't known here (`notice.to`).
    Unnotified "unnotified" WARN { id: QueueId, to: Option<Address>, reason: String }
    /// Nothing remains to be done for a message; the spool forgets it.
    Finished "finished" DEBUG { id: QueueId, delay: Duration, recipients: usize }

    /// An admin asked for an attempt at once.
    Retried "retried" INFO { id: QueueId }
    /// An admin stopped a message: no attempt, no expiry.
    Held "held" INFO { id: QueueId }
    /// An admin let a held message go on.
    Released "released" INFO { id: QueueId }
    /// An admin gave a message up; its sender is told.
    Bounced "bounced" INFO { id: QueueId, from: ReversePath, recipients: usize }
    /// An admin threw a message away; nobody is told.
    Removed "removed" INFO { id: QueueId, from: ReversePath, recipients: usize }
    /// An admin stopped delivery attempts, all or to a domain.
    Paused "paused" INFO { domain: Option<Domain> }
    /// An admin started delivery attempts again.
    Resumed "resumed" INFO { domain: Option<Domain> }

    /// The spool can't write its log, or the disk takes very long for it: no attempt begins, because what it came to couldn't be recorded and
    /// would be done again after a restart. It goes on by itself.
    DeliveryStopped "delivery-stopped" ERROR { reason: String }
    /// The log is written again, and attempts go on.
    DeliveryResumed "delivery-resumed" INFO { duration: Duration }

    /// The spool is being read at the start, and that takes longer than usual; every few seconds.
    Recovering "recovering" INFO { phase: &'static str, done: u64, total: u64, duration: Duration }
    /// The spool was read at the start.
    Recovered "recovered" INFO { messages: u64, segments: u64, records: u64, duration: Duration }
    /// The log ended in a batch that a power cut or kill tore: no client was ever told of it; it doesn't count.
    Truncated "truncated" WARN { segment: u64, offset: u64, bytes: u64 }
    /// Bytes of the log can't be read as records; a copy was set aside, and the rest goes on.
    Quarantined "quarantined" ERROR { segment: u64, offset: u64, bytes: u64, path: String }
    /// A segment that its successor names isn't there, or that the index knows to be needed still.
    SegmentMissing "segment-missing" ERROR { segment: u64 }
    /// A message's content is lost: its file isn't there, or its record is damaged. The message stays in the queue, deferred
    /// with that as reason, until it expires or an admin decides.
    ContentMissing "content-missing" ERROR { id: QueueId }
    /// The disk can't read a segment where so many messages have their content. It is kept apart from the log and tried again, these
    /// messages wait, and everything else goes on. Told again now and then.
    SegmentUnreadable "segment-unreadable" ERROR { segment: u64, messages: u64, reason: String }
    /// So many messages have their content back that lay in a segment that the disk couldn't read.
    SegmentReadable "segment-readable" INFO { segment: u64, messages: u64 }
    /// The index was missing, broken or old, and was built again from the log; the old one, if any, is kept.
    IndexRebuilt "index-rebuilt" WARN { reason: String, path: String }
    /// Content files of messages that were never confirmed were removed.
    OrphansRemoved "orphans-removed" INFO { files: u64 }
    /// The log could not be written or synced: the segment is closed for good, and those who waited were told no. Their
    /// clients still have what was not confirmed. As long as no other can be begun, for the same reason, once a minute.
    WriteFailed "write-failed" ERROR { segment: Option<u64>, reason: String }
    /// Less than `spool.min_free` is left: new mail is refused, kept mail is delivered.
    SpoolFull "spool-full" ERROR { available: u64, min_free: u64 }
    /// There is room again: new mail is taken.
    SpoolRoom "spool-room" INFO { available: u64, min_free: u64 }
    /// Too much waits in memory because the index is slow or can't be written (more than twice `spool.index_cache` and 32 MiB): new mail is
    /// refused, and of what waits only that is tried which is in memory.
    IndexBehind "index-behind" ERROR { bytes: u64 }
    /// It is half as much again: new mail is taken.
    IndexCaughtUp "index-caught-up" INFO { bytes: u64 }
    /// Something else failed in the spool, without harm to mail.
    SpoolTrouble "spool-trouble" ERROR { id: Option<QueueId>, operation: &'static str, reason: String }
    /// Something that should not go wrong did, and a part of the server reports it.
    Trouble "trouble" ERROR { id: Option<QueueId>, operation: &'static str, reason: String }
}

/// Every field, and what it means wherever it stands.
pub const FIELDS: &[(&str, &str)] = &[
    ("address", "our own address and port, or `unix:` and the socket's path"),
    ("attempts", "attempts that have ended for this recipient, this one included; at `attempting`: those before"),
    ("available", "bytes free on the spool's disk"),
    ("by", "the go-between's address"),
    ("bytes", "how many bytes"),
    ("cause", "where the result came from: `remote`, `connection`, `dns`, `local`, `expired` or `operator`"),
    ("cipher", "the cipher suite of an encrypted session"),
    ("client", "the client's address"),
    ("delay", "seconds since the message was accepted"),
    (
        "destination",
        "what attempts are grouped by: `local:DOMAIN`, `lmtp:ADDRESS`, `route:HOSTS` (with login before and what else the route says \
         behind: `route:ann@relay.test:587#verify`) or `mx:DOMAIN`",
    ),
    ("destinations", "how many destinations, or addresses of ours"),
    ("domain", "the recipients' domain; absent: all"),
    ("done", "how much is done: bytes of the log"),
    ("duration", "how long it took, in seconds"),
    ("expires", "the certificate's last moment, UTC"),
    ("files", "how many files"),
    ("from", "the reverse-path; `<>` for a notice"),
    ("grace", "seconds given to what is in flight"),
    ("helo", "the name that the client gave itself"),
    ("hostname", "our name"),
    ("id", "the message's queue id"),
    ("in_doubt", "present and true if the connection was lost after the final dot: the next hop may have the message"),
    ("into", "the addresses that take the recipient's place, at most 20 of them"),
    (
        "kind",
        "of a notice: `delay`, `delay-over`, `bounce`, `double-bounce`, `success` or `digest`; of a key: `ECDSA`, `RSA` or `Ed25519`",
    ),
    ("limit", "the setting that was reached"),
    ("login", "the account that the client logged in to, or tried to"),
    ("means", "how it was said: `PROXY` or `XCLIENT`"),
    ("mechanism", "how the client logged in, or tried to: the SASL mechanism"),
    ("messages", "how many messages"),
    ("min_free", "the setting `spool.min_free`, in bytes"),
    ("names", "the names that the certificate is for"),
    ("next_attempt", "not before this time, UTC"),
    ("next_hop", "who was spoken to: host and address, Maildir or socket; absent if it never came to that"),
    ("notice", "the notice's own queue id"),
    ("offset", "where it begins in the segment, in bytes"),
    ("operation", "what was tried"),
    ("path", "the file or folder"),
    ("phase", "what is being read: `log`"),
    ("pid", "the server's process id"),
    ("protocol", "how the message came: `SMTP`, `ESMTP` or `LMTP`, with `S` behind it over TLS (RFC 3848)"),
    ("reason", "why, in words"),
    ("recipients", "how many recipients it is about"),
    ("records", "how many log records were read"),
    ("reply", "the reply in full: the next hop's, or ours to a client; or what went wrong here"),
    ("resumed", "present and true if an earlier TLS session was taken up again"),
    ("segment", "the log segment's number"),
    ("segments", "how many log segments"),
    ("service", "the listener's service"),
    ("size", "octets of content"),
    ("stage", "where the session stood: `connect`, `hello`, `sender`, `recipient`, `data` or `message`"),
    ("status", "the enhanced status code (RFC 3463)"),
    ("tls", "the version of TLS that encrypts the session; absent: it is in the clear"),
    ("to", "the recipient; where a message has several, at most 20 of them"),
    ("total", "how much there is to do"),
    ("unfinished", "attempts that were cut off at the end of `shutdown_grace`; the next start makes them again"),
    ("user", "a system user; at `taken-up`: the number of the one that the file belonged to"),
    ("value", "what the setting allows: a number, octets or seconds"),
    ("verified", "present and true if the certificate shows that it is the host that was meant"),
    ("version", "Posthouse's version"),
];

/// What a notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Still trying.
    Delay,
    /// Given up.
    Bounce,
    /// A notice came back; told to the postmaster.
    DoubleBounce,
    /// Delivered, or passed on to where nobody confirms it; the sender asked to be told.
    Success,
    /// Delivered or passed on, after the sender was told of a delay.
    DelayOver,
    /// A summary of notices that weren't sent, to the postmaster.
    Digest,
}

impl NoticeKind {
    /// As it stands in the log and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Bounce => "bounce",
            Self::DoubleBounce => "double-bounce",
            Self::Success => "success",
            Self::DelayOver => "delay-over",
            Self::Digest => "digest",
        }
    }
}

/// Addresses for one line: the first twenty of however many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named(Vec<Address>);

impl Named {
    /// Takes the first twenty.
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> Self {
        Self(addresses.into_iter().take(NAMED_MAX).cloned().collect())
    }

    /// The addresses that are named.
    pub fn addresses(&self) -> &[Address] {
        &self.0
    }
}

/// Joined by commas.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            address.fmt(f)?;
        }
        Ok(())
    }
}

/// How a field's type is handed to `tracing`: numbers and flags as such, the rest as text. Nothing is formatted here.
trait Loggable {
    type As<'a>: Value
    where
        Self: 'a;

    fn loggable(&self) -> Self::As<'_>;
}

macro_rules! loggable {
    (display: $($type:ty),*) => {
        $(impl Loggable for $type {
            type As<'a> = DisplayValue<&'a $type>;
            fn loggable(&self) -> Self::As<'_> { display(self) }
        })*
    };
    (number: $($type:ty),*) => {
        $(impl Loggable for $type {
            type As<'a> = $type;
            fn loggable(&self) -> $type { *self }
        })*
    };
}

loggable!(display: Address, Destination, Domain, EnhancedCode, IpAddr, Named, QueueId, ReversePath, Site, SocketAddr, Timestamp);
loggable!(number: u32, u64, usize, &'static str);

/// Nothing for an empty text: an unknown next hop is no field.
impl Loggable for String {
    type As<'a> = Option<&'a str>;
    fn loggable(&self) -> Option<&str> {
        (!self.is_empty()).then_some(self)
    }
}

/// Only `true` is worth a field.
impl Loggable for bool {
    type As<'a> = Option<bool>;
    fn loggable(&self) -> Option<bool> {
        self.then_some(true)
    }
}

/// Seconds, to the millisecond.
impl Loggable for Duration {
    type As<'a> = f64;
    fn loggable(&self) -> f64 {
        self.as_millis() as f64 / 1000.0
    }
}

impl Loggable for Cause {
    type As<'a> = &'static str;
    fn loggable(&self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Connection => "connection",
            Self::Dns => "dns",
            Self::Local => "local",
            Self::Expired => "expired",
            Self::Operator => "operator",
        }
    }
}

impl Loggable for NoticeKind {
    type As<'a> = &'static str;
    fn loggable(&self) -> &'static str {
        self.as_str()
    }
}

impl<T: Loggable> Loggable for Option<T> {
    type As<'a>
        = Option<T::As<'a>>
    where
        Self: 'a;
    fn loggable(&self) -> Self::As<'_> {
        self.as_ref().map(Loggable::loggable)
    }
}
