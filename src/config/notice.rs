//! `[notice]`: what senders are told, in which words.

use std::path::PathBuf;

/// `[notice]`
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The language of notices about messages that name none that there is.
    pub language: String,
    /// The folder of the operator's own texts.
    pub templates: Option<PathBuf>,
    /// Who was told of a delay is also told when it is over.
    pub delay_over: bool,
}

#[cfg(test)]
impl Notice {
    /// For tests that don't depend on it.
    pub(crate) fn sample() -> Self {
        Self { language: "en".to_owned(), templates: None, delay_over: false }
    }
}
