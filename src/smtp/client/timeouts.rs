//! How long each stage of a session may take (RFC 5321 section 4.5.3.2). Owns nothing but values.

use std::time::Duration;

/// The time for each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the greeting.
    pub greeting: Duration,
    /// For the reply to MAIL.
    pub mail: Duration,
    /// For each reply to RCPT.
    pub recipient: Duration,
    /// For the reply to DATA.
    pub data: Duration,
    /// For a piece of content to go out.
    pub block: Duration,
    /// For the reply to the final dot: the server may have much to do with the message, and whoever doesn't wait sends it twice.
    pub end: Duration,
    /// For every other reply.
    pub reply: Duration,
    /// From MAIL to the final dot, however many recipients there are and however slowly they are taken.
    pub transaction: Duration,
}

impl Timeouts {
    /// The RFC's proportions: of five minutes for a reply, two for DATA's, three for a block, ten for the final dot's.
    pub fn of(reply: Duration) -> Self {
        Self {
            greeting: reply,
            mail: reply,
            recipient: reply,
            data: reply * 2 / 5,
            block: reply * 3 / 5,
            end: reply * 2,
            reply,
            transaction: reply * 24,
        }
    }
}
