//! What a driver gives a session at the start, and what it gets from it. Owns nothing.

use std::time::Duration;

use crate::mail::{Diagnosis, Domain, Outcome};

/// What a session needs to know from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name: the argument of EHLO, LHLO and HELO.
    pub hello: Domain,
    /// Speak LMTP.
    pub lmtp: bool,
    /// The connection is TLS, and the server has shown that it is the one we mean.
    pub encrypted: bool,
    /// For one reply, or for one piece of content to go out; the final dot's reply gets twice this.
    pub reply_timeout: Duration,
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
    /// A transaction may begin, or `quit`.
    Ready,
    /// The transaction is over: an outcome for each recipient, in their order. `next_hop` is left empty.
    Finished(Vec<Outcome>),
    /// The server takes no mail from us: greeting or EHLO said no, or never came. Try the next host.
    Refused(Diagnosis),
    /// Nothing more will come; drop the connection.
    Closed,
}
