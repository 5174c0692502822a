//! A reply that is awaited, and what to call the wait for it. Owns nothing.

use std::time::Duration;

use super::Timeouts;
use super::transaction::Command;

/// How long a reply to QUIT is worth waiting for.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A reply that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Login,
    Reset,
    Command(Command),
    /// To a chunk that isn't the last.
    Chunk,
    /// To the final dot or the last chunk: for all, or in LMTP for one recipient.
    Final(Option<usize>),
    /// To what has no effect any more: a dot alone, after 354 although every recipient was refused; chunks behind a refused one.
    Nothing,
    Quit,
}

impl Expected {
    /// How long it may take to come.
    pub(super) fn time(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Greeting => timeouts.greeting,
            Self::Command(Command::Mail) => timeouts.mail,
            Self::Command(Command::Recipient(_)) => timeouts.recipient,
            Self::Command(Command::Data) => timeouts.data,
            Self::Final(_) => timeouts.end,
            Self::Ehlo | Self::Helo | Self::StartTls | Self::Login | Self::Reset | Self::Chunk | Self::Nothing => timeouts.reply,
            Self::Quit => timeouts.reply.min(QUIT_TIMEOUT),
        }
    }

    /// For people: what the session does until it comes.
    pub(super) fn moment(self, lmtp: bool, chunks: bool) -> &'static str {
        match self {
            Self::Greeting => "while waiting for the greeting",
            Self::Ehlo if lmtp => "while waiting for the reply to LHLO",
            Self::Ehlo => "while waiting for the reply to EHLO",
            Self::Helo => "while waiting for the reply to HELO",
            Self::StartTls => "while waiting for the reply to STARTTLS",
            Self::Login => "while logging in",
            Self::Reset => "while waiting for the reply to RSET",
            Self::Command(Command::Mail) => "while waiting for the reply to MAIL",
            Self::Command(Command::Recipient(_)) => "while waiting for the reply to RCPT",
            Self::Command(Command::Data) => "while waiting for the reply to DATA",
            Self::Chunk => "while waiting for the reply to BDAT",
            Self::Final(_) | Self::Nothing if chunks => "while waiting for the reply to the last chunk",
            Self::Final(_) | Self::Nothing => "while waiting for the reply to the final dot",
            Self::Quit => "while waiting for the reply to QUIT",
        }
    }
}
