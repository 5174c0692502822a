//! What EHLO announces (RFC 5321 section 4.1.1.1): one variant an extension that really works. Owns nothing.

use std::fmt;

use super::auth::Mechanism;

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
    /// RFC 3207.
    StartTls,
    /// RFC 4954, with the mechanisms that this session may use.
    Auth(Vec<Mechanism>),
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
            Self::Help => f.write_str("HELP"),
        }
    }
}

/// What is offered, in the order of the reply.
pub fn offered(size_max: u64) -> [Extension; 5] {
    [Extension::Pipelining, Extension::Size(size_max), Extension::EightBitMime, Extension::EnhancedStatusCodes, Extension::Help]
}
