//! What a listener is for. Owns nothing.

use std::fmt;

/// The service of a listener: who comes there, and what is asked of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Service {
    /// Port 25: mail from other servers and from relay clients.
    #[default]
    Mx,
    /// Ports 587 and 465: mail from our own users, who log in (RFC 6409).
    Submission,
    /// LMTP: mail for our own mailboxes, from a server that we trust (RFC 2033).
    Lmtp,
    /// The drop folder: mail from this machine's own users, by way of `posthouse sendmail`. No listener has it.
    Local,
}

impl Service {
    /// As it stands in the configuration, in the log and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Submission => "submission",
            Self::Lmtp => "lmtp",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
