//! Whose mail it is, when what there is has to be shared fairly.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Message, ReversePath};

/// Who sent a message, as far as sharing goes: `login:ann@example.test` for whoever logged in, else `client:192.0.2.0/24` by the client's
/// network, else `domain:example.org` by the reverse-path; `notice` for our own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Arc<String>);

impl Origin {
    /// One by its name.
    pub fn named(name: &str) -> Self {
        Self(Arc::new(name.to_owned()))
    }

    /// Its name: `login:ann@example.test`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether somebody had logged in.
    pub fn is_login(&self) -> bool {
        self.0.starts_with("login:")
    }

    /// The network that the client was in, if that is what is known.
    pub fn network(&self) -> Option<IpNet> {
        self.0.strip_prefix("client:")?.parse().ok()
    }

    /// Whose message it is.
    pub fn of(message: &Message) -> Self {
        match (&message.origin, &message.reverse_path) {
            (_, ReversePath::Null) => Self::named("notice"),
            (Some(origin), _) => origin.clone(),
            (None, ReversePath::Address(address)) => Self::named(&format!("domain:{}", address.domain())),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
