//! What EHLO announces (RFC 5321 section 4.1.1.1): one variant an extension that really works. Owns nothing.

use std::fmt;

use super::auth::Mechanism;
use crate::mail::Timestamp;

/// A service extension of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// RFC 1870, with the largest size taken; octets of content.
    Size(u64),
    /// RFC 6152.
    EightBitMime,
    /// RFC 2920.
    Pipelining,
    /// RFC 2034.
    EnhancedStatusCodes,
    /// RFC 3030: BDAT.
    Chunking,
    /// RFC 3030: content of any octets.
    BinaryMime,
    /// RFC 3461.
    Dsn,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 9422, with the most recipients that a transaction may have.
    Limits {
        /// RCPTMAX.
        recipients_max: usize,
    },
    /// RFC 2852. Any time is taken.
    DeliverBy,
    /// RFC 4865, with how many seconds and until when a message is held at the most.
    FutureRelease(u32, Timestamp),
    /// RFC 6710.
    Priority,
    /// RFC 8689.
    RequireTls,
    /// RFC 3207.
    StartTls,
    /// RFC 4954, with the mechanisms that this session may use.
    Auth(Vec<Mechanism>),
    /// Postfix's XCLIENT_README, for go-betweens that are trusted.
    Xclient,
    /// RFC 5321 section 4.1.1.8: HELP is known.
    Help,
}

/// The keyword line as it stands behind `250-`.
impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size_max) => write!(f, "SIZE {size_max}"),
            Self::EightBitMime => f.write_str("8BITMIME"),
            Self::Pipelining => f.write_str("PIPELINING"),
            Self::EnhancedStatusCodes => f.write_str("ENHANCEDSTATUSCODES"),
            Self::StartTls => f.write_str("STARTTLS"),
            Self::Auth(mechanisms) => {
                f.write_str("AUTH")?;
                mechanisms.iter().try_for_each(|mechanism| write!(f, " {mechanism}"))
            }
            Self::Chunking => f.write_str("CHUNKING"),
            Self::BinaryMime => f.write_str("BINARYMIME"),
            Self::Dsn => f.write_str("DSN"),
            Self::SmtpUtf8 => f.write_str("SMTPUTF8"),
            Self::Limits { recipients_max } => write!(f, "LIMITS RCPTMAX={recipients_max}"),
            Self::DeliverBy => f.write_str("DELIVERBY"),
            Self::FutureRelease(seconds, until) => write!(f, "FUTURERELEASE {seconds} {until}"),
            Self::Priority => f.write_str("MT-PRIORITY"),
            Self::RequireTls => f.write_str("REQUIRETLS"),
            Self::Xclient => write!(f, "XCLIENT {}", super::command::ATTRIBUTES),
            Self::Help => f.write_str("HELP"),
        }
    }
}

impl Extension {
    /// The command that the extension brings, if it brings one.
    pub fn command(&self) -> Option<&'static str> {
        match self {
            Self::Chunking => Some("BDAT"),
            Self::StartTls => Some("STARTTLS"),
            Self::Auth(_) => Some("AUTH"),
            Self::Xclient => Some("XCLIENT"),
            _ => None,
        }
    }
}

/// The parameters of MAIL and RCPT that a session knows, by the extensions that bring them. SIZE and BODY are always known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Parameters {
    /// BODY=BINARYMIME, and with it BDAT.
    pub binary: bool,
    /// RET, ENVID, NOTIFY, ORCPT.
    pub dsn: bool,
    /// SMTPUTF8.
    pub utf8: bool,
    /// BY.
    pub deliver_by: bool,
    /// HOLDFOR and HOLDUNTIL.
    pub future_release: bool,
    /// MT-PRIORITY.
    pub priority: bool,
    /// REQUIRETLS.
    pub require_tls: bool,
    /// AUTH.
    pub auth: bool,
}

impl Parameters {
    /// Everything: all of it works from the session through the spool to the next hop.
    pub const ALL: Parameters = Parameters {
        binary: true,
        dsn: true,
        utf8: true,
        deliver_by: true,
        future_release: true,
        priority: true,
        require_tls: true,
        auth: true,
    };
}

/// What a session announces besides.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Largest message; octets.
    pub size_max: u64,
    /// Most recipients of a transaction.
    pub recipients_max: usize,
    /// Longest hold in seconds, and until when that is.
    pub hold_max: (u32, Timestamp),
    /// STARTTLS is possible.
    pub starttls: bool,
    /// Mechanisms of AUTH.
    pub mechanisms: Vec<Mechanism>,
}

/// What is offered, in the order of the reply.
pub fn offered(parameters: Parameters, announcement: Announcement) -> Vec<Extension> {
    let Announcement { size_max, recipients_max, hold_max, starttls, mechanisms } = announcement;
    let given = [
        (true, Extension::Pipelining),
        (true, Extension::Size(size_max)),
        (true, Extension::EightBitMime),
        (parameters.binary, Extension::Chunking),
        (parameters.binary, Extension::BinaryMime),
        (parameters.utf8, Extension::SmtpUtf8),
        (parameters.dsn, Extension::Dsn),
        (true, Extension::EnhancedStatusCodes),
        (true, Extension::Limits { recipients_max }),
        (parameters.deliver_by, Extension::DeliverBy),
        (parameters.future_release, Extension::FutureRelease(hold_max.0, hold_max.1)),
        (parameters.priority, Extension::Priority),
        (parameters.require_tls, Extension::RequireTls),
        (true, Extension::Help),
        (starttls, Extension::StartTls),
        (!mechanisms.is_empty(), Extension::Auth(mechanisms)),
    ];
    given.into_iter().filter_map(|(given, extension)| given.then_some(extension)).collect()
}
