//! What a driver gives a session at the start, and what it gets from it. Owns nothing.

use std::sync::Arc;

use super::login::KeyWork;
use super::{Login, Timeouts};
use crate::mail::{Diagnosis, Domain, Outcome, OwnMark};

/// What a session needs to know from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name: the argument of EHLO, LHLO and HELO.
    pub hello: Domain,
    /// Speak LMTP.
    pub lmtp: bool,
    /// Whether to go over to TLS.
    pub starttls: StartTls,
    /// How long each stage may take.
    pub timeouts: Timeouts,
    /// Knows our own greeting: who greets us with it is ourselves.
    pub mark: Option<Arc<OwnMark>>,
    /// Who we are to the server, if we are to log in.
    pub login: Option<Login>,
}

/// Whether a session goes over to TLS before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTls {
    /// It doesn't.
    Never,
    /// If the server offers it, and goes on in the clear if the server then says no.
    IfOffered,
    /// Or it ends.
    Always,
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Step {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Read, until `deadline`.
    NeedInput,
    /// Give a piece of content, or its end. After its end it may be asked for again, from the start: the server didn't take all recipients
    /// at once.
    NeedContent,
    /// Make the TLS handshake, then call `secured` or `unsecured`.
    StartTls,
    /// Work out this key of the login's password, then call `worked_out`.
    WorkOut(KeyWork),
    /// A transaction may begin, or `quit`.
    Ready,
    /// The transaction is over: an outcome for each recipient, in their order. `next_hop` is left empty.
    Finished(Vec<Outcome>),
    /// The server takes no mail from us: greeting or EHLO said no, or never came. Try the next host.
    Refused(Diagnosis),
    /// Nothing more will come; drop the connection.
    Closed,
}
