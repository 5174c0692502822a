//! Where a session stands. Each variant holds what is known there and nowhere else, so that a command out of order has no
//! state that it could act on.
//!
//! ```text
//! Opening ──▶ Waiting(Connect) ──▶ Command(Strange) ──HELO, EHLO──▶ Command(Ready) ──MAIL──▶ Command(Open) ⟲ RCPT
//!                                                                       ▲                        │ DATA
//!                                                                       └─ Waiting(Commit) ◀── Content
//! Command(Ready) ──STARTTLS──▶ Securing ──▶ Command(Strange)
//! any ──▶ Closing
//! ```
//!
//! BDAT goes from `Command(Open)` by `Chunk` to `Command(Chunks)`, and from there by `Chunk` again until its last.
//! AUTH goes by `Login` as often as its mechanism asks, and back to `Command(Ready)`.
//! A command that asks a question goes by `Waiting`; HELO, EHLO and RSET lead to `Command(Ready)` from `Command(Open)`, too.

use std::time::Duration;

use super::Settings;
use crate::smtp::data::{self, LineEnds};
use crate::smtp::hidden::HiddenEnds;

/// What the next octets from the client are.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing, yet: whether to talk to this client wasn't asked.
    Opening {
        /// Octets came all the same.
        early: bool,
    },
    /// Nothing, before the driver has answered.
    Waiting(Pending),
    /// Commands.
    Command(Stage),
    /// A response in the exchange that AUTH began.
    Login,
    /// The content of a message.
    Content(Content),
    /// A chunk of it, behind BDAT.
    Chunk(Chunk),
    /// The TLS handshake, which is the driver's: nothing for us.
    Securing,
    /// Nothing any more; the last words may still have to be sent.
    Closing,
}

/// How far the client has come, between two commands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Neither HELO nor EHLO was accepted.
    Strange,
    /// No transaction is open.
    Ready,
    /// MAIL was accepted.
    Open(Recipients),
    /// A chunk of the content was taken, and it wasn't the last.
    Chunks,
}

/// The recipients of the open transaction, as far as the protocol cares.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recipients {
    /// How many were accepted.
    pub(super) accepted: usize,
    /// At least one was refused.
    pub(super) refused: bool,
    /// MAIL declared BINARYMIME: there can be no dots.
    pub(super) binary: bool,
    /// MAIL had SMTPUTF8.
    pub(super) utf8: bool,
}

/// The question that is out, with what its answer leads back to.
#[derive(Debug)]
pub(super) enum Pending {
    /// `early`: octets came before the greeting.
    Connect { early: bool },
    /// A refused HELO or EHLO changes nothing (RFC 5321 section 4.1.4).
    Hello { extended: bool, before: Stage },
    /// XCLIENT; `login`: whether the client is logged in, if that was said.
    Presented { login: Option<bool>, before: Stage },
    /// AUTH, or a response in its exchange; only asked when `Ready`.
    Login,
    /// MAIL; only asked when `Ready`. With nobody in it, but what MAIL declared.
    Sender(Recipients),
    /// RCPT.
    Recipient(Recipients),
    /// DATA; only asked with a recipient accepted.
    Begin(Recipients),
    /// The first BDAT; only asked with a recipient accepted.
    BeginChunks { recipients: Recipients, size: u64, last: bool },
    /// The final dot.
    Commit,
}

/// A message while its content comes in.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) receiver: data::Receiver,
    /// Looks for what other servers may take for the end.
    pub(super) hidden: HiddenEnds,
    /// Octets so far, dots taken out (RFC 1870 section 3).
    pub(super) size: u64,
    /// Content was found and not yet handed on.
    pub(super) ready: Vec<u8>,
    /// The final dot came.
    pub(super) ended: bool,
    /// The driver was told to drop its draft: the message will be refused.
    pub(super) discarded: bool,
    /// When the whole content must be here.
    pub(super) due: Duration,
    /// When the next octet must be here.
    pub(super) idle_due: Duration,
    /// When the pace so far is too slow: every octet puts it off a little.
    pub(super) pace_due: Duration,
}

/// Content that comes in chunks, from the first to the last.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Looks for bare CR and LF; none if any octets are right.
    pub(super) line_ends: Option<LineEnds>,
    /// Looks for what other servers may take for the end.
    pub(super) hidden: HiddenEnds,
    /// Octets so far.
    pub(super) size: u64,
    /// When the whole content must be here.
    pub(super) due: Duration,
}

/// A chunk while it comes in.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Octets of it in all.
    pub(super) size: u64,
    /// Octets of it still to come.
    pub(super) left: u64,
    pub(super) last: bool,
    /// It isn't wanted: the reply at its end, and where that leads.
    pub(super) refusal: Option<(Refusal, Stage)>,
    /// Octets not yet handed on.
    pub(super) ready: Vec<u8>,
    /// When all of it must be here.
    pub(super) due: Duration,
    /// When the next octet must be here.
    pub(super) idle_due: Duration,
    /// When the pace so far is too slow.
    pub(super) pace_due: Duration,
}

/// Why a chunk isn't wanted.
#[derive(Debug)]
pub(super) struct Refusal {
    /// As it goes out.
    pub(super) reply: Vec<u8>,
    /// It counts as a bad command.
    pub(super) bad: bool,
}

impl Refusal {
    /// A mistake of the client's.
    pub(super) fn bad(reply: &str) -> Self {
        Self { bad: true, ..Self::just(reply) }
    }

    /// No mistake.
    pub(super) fn just(reply: &str) -> Self {
        Self { reply: format!("{reply}\r\n").into_bytes(), bad: false }
    }
}

impl Chunk {
    pub(super) fn new(now: Duration, settings: &Settings, size: u64, last: bool) -> Self {
        let (due, idle_due) = (now + settings.data_timeout, now + settings.command_timeout);
        Self { size, left: size, last, refusal: None, ready: Vec::new(), due, idle_due, pace_due: idle_due }
    }
}
