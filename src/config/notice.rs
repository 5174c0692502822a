//! `[notice]`: what senders are told, in which words, and who.

use std::path::PathBuf;
use std::time::Duration;

/// `[notice]`
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The language of notices about messages that name none that there is.
    pub language: String,
    /// The folder of the operator's own texts.
    pub templates: Option<PathBuf>,
    /// Whose notices are sent.
    pub to: NoticeTo,
    /// How often the postmaster is told how many notices weren't sent; zero: never.
    pub digest: Duration,
    /// Who was told of a delay is also told when it is over.
    pub delay_over: bool,
}

/// Who is told of mail that is late, can't be delivered, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeTo {
    /// Every sender.
    Everyone,
    /// Those with a mailbox here, and those whose mail came from this machine, with a login or from `relay.networks`.
    Known,
}

#[cfg(test)]
impl Notice {
    /// For tests that don't depend on it.
    pub(crate) fn sample() -> Self {
        Self { language: "en".to_owned(), templates: None, to: NoticeTo::Everyone, digest: Duration::ZERO, delay_over: false }
    }
}
