//! Whose mail it is, when what there is has to be shared fairly.

use std::fmt;
use std::sync::Arc;

use super::{Message, ReversePath};

/// Who sent a message, as far as sharing goes: `domain:example.org`, or `notice` for our own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// One by its name.
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// Whose message it is.
    pub fn of(message: &Message) -> Self {
        match &message.reverse_path {
            ReversePath::Null => Self("notice".into()),
            ReversePath::Address(address) => Self(format!("domain:{}", address.domain()).into()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
