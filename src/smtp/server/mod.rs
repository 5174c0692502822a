//! The server's side of a session (RFC 5321) as a machine: octets and answers in, steps out. Owns the state of one
//! connection: unread octets, unsent replies, the open transaction's counts. It never does input or output, and who may send
//! what it never decides but asks.
//!
//! The driver's loop: carry out `next()` until it is `NeedInput`, read, `receive`, again. A question is answered by
//! `answer` before the next step is taken; meanwhile nothing more is received. When `deadline()` has passed: `tick`.
//!
//! Whether a positive reply is true isn't left to the driver's discipline: the text of the last 250 holds the queue id that
//! only a commit returns.

mod answers;
mod auth;
mod bounds;
mod chunks;
mod commands;
mod content;
mod lmtp;
mod replies;
mod state;

use std::sync::Arc;
use std::time::Duration;

use self::state::{Chunks, Pending, Phase, Stage};
use super::extension::Parameters;
use super::line::Lines;
use crate::mail::{BodyType, Domain, DsnRequest, QueueId, Reply, Request, ReversePath, Service, Timestamp, TlsInfo};

pub use self::bounds::Bound;
pub use super::auth::{Mechanism, Secret};
pub use super::command::{ForwardPath, Presented};

/// Replies to pipelined commands are gathered up to this size; octets.
const SEND_SIZE_MAX: usize = 16 * 1024;

/// What a session must know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the listener is for.
    pub service: Service,
    /// Our name in the greeting and in the reply to HELO and EHLO.
    pub hostname: Domain,
    /// Stands at the end of the greeting, so that we know ourselves; may be empty.
    pub mark: String,
    /// Largest message taken and announced by SIZE; octets, more than zero.
    pub size_max: u64,
    /// Most recipients accepted in one transaction.
    pub recipients_max: usize,
    /// Bad commands that are answered in a session; the next one gets 421.
    pub errors_max: u32,
    /// Commands since the last message that are answered; accepted recipients don't count. The next one gets 421.
    pub commands_max: u32,
    /// How long a client may take to introduce itself.
    pub hello_timeout: Duration,
    /// Mechanisms of AUTH, in the order of the EHLO line; each is offered where it can work. Empty: no AUTH here.
    pub mechanisms: Vec<Mechanism>,
    /// AUTH is offered on sessions that aren't encrypted, too.
    pub auth_in_clear: bool,
    /// Logins that may fail in a session; the last of them is answered with 421.
    pub failed_logins_max: u32,
    /// The parameters of MAIL and RCPT that the service takes, as far as the session's state allows them.
    pub parameters: Parameters,
    /// How long a client may have a message held (FUTURERELEASE); zero: not at all.
    pub hold_max: Duration,
    /// How long a client may take to send a whole command, and how long it may pause within content.
    pub command_timeout: Duration,
    /// How long a client may take to send the content of a message.
    pub data_timeout: Duration,
    /// Octets of content a second that a client must keep up on average once `command_timeout` is over.
    pub data_pace: u32,
    /// How long a client may take from the greeting, or from the end of a message, to the end of the next.
    pub transaction_timeout: Duration,
    /// Whether STARTTLS is offered while the session isn't encrypted.
    pub starttls: bool,
}

impl Settings {
    /// The bounds that RFC 5321 section 4.5.3 asks for at least, and no AUTH: to start from.
    pub fn new(service: Service, hostname: Domain) -> Self {
        Self {
            service,
            hostname,
            size_max: 100_000,
            recipients_max: 1000,
            errors_max: 20,
            commands_max: 1000,
            mechanisms: Vec::new(),
            auth_in_clear: false,
            failed_logins_max: 3,
            parameters: Parameters::default(),
            hold_max: Duration::ZERO,
            hello_timeout: Duration::from_secs(300),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(600),
            data_pace: 1,
            transaction_timeout: Duration::from_secs(1800),
            starttls: false,
            mark: String::new(),
        }
    }
}

/// What the driver has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these octets to the client.
    Send(Vec<u8>),
    /// Find the answer and give it to [`Session::answer`].
    Ask(Question),
    /// Append these octets to the message's draft. Never empty, and no more than was received at once plus two.
    Body(Vec<u8>),
    /// Drop the draft: the message will be refused. No `Body` and no `Commit` follow for it.
    Discard,
    /// Read from the client and give it to [`Session::receive`]. Everything was sent and used.
    NeedInput,
    /// Make the TLS handshake, then call [`Session::secured`]; if it fails, close the connection. Nothing that was read before
    /// may be taken for part of it.
    StartTls,
    /// Close the connection. Last step; it comes again if asked again.
    Close,
}

/// What the session can't know itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// May this client have a greeting?
    Connect,
    /// XCLIENT: what a trusted go-between says about its client. Accepted, the session begins again with [`Question::Connect`].
    Presented(Presented),
    /// HELO or EHLO.
    Hello {
        /// What the client calls itself: well-formed, but not verified.
        name: String,
        /// EHLO.
        extended: bool,
    },
    /// MAIL: a transaction starts; the envelope of an earlier one is void.
    Sender {
        /// The reverse-path.
        path: ReversePath,
        /// The size that was declared, not larger than the limit; octets.
        size: Option<u64>,
        /// What was declared about the content.
        body: BodyType,
        /// What else was asked for; none for most mail.
        request: Option<Box<Request>>,
    },
    /// RCPT. Accepted recipients belong to the envelope, in this order.
    Recipient {
        /// The forward-path.
        path: ForwardPath,
        /// What was asked for with it; none for most.
        dsn: Option<Box<DsnRequest>>,
    },
    /// AUTH: the client wants to log in. Whatever exchange was going on before is over.
    Login {
        /// How; one of those that were offered.
        mechanism: Mechanism,
        /// Its initial response, if it sent one.
        initial: Option<Secret>,
    },
    /// The client's response to the last [`Answer::Challenge`].
    Response(Secret),
    /// DATA: start a draft.
    Begin,
    /// The final dot: make the draft safe. Answered by [`Answer::Committed`].
    Commit,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes. Not an answer to [`Question::Commit`].
    Accept,
    /// Yes, but not quite as it was asked, in these words. Only an answer to [`Question::Sender`].
    AcceptAs(Reply),
    /// The exchange goes on with this challenge. Only an answer to [`Question::Login`] and [`Question::Response`], to which
    /// `Accept` means that the client is logged in.
    Challenge(Vec<u8>),
    /// No, with the words for the client. A 421 closes the session, and so does any refusal of [`Question::Connect`].
    Refuse(Reply),
    /// The message is on stable storage under this id. Only an answer to [`Question::Commit`].
    Committed(QueueId),
    /// The message is on stable storage, and waits there under this name until it gets an id: `sendmail -bs` leaves it in the drop
    /// folder. Only an answer to [`Question::Commit`].
    Dropped(String),
}

/// The machine. See the module's text for how to drive it.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    /// The time of the last call that told one.
    now: Duration,
    phase: Phase,
    lines: Lines,
    /// Replies not yet sent.
    output: Vec<u8>,
    /// Bad commands so far.
    errors: u32,
    /// Commands since the last message, accepted recipients left out.
    commands: u32,
    /// Recipients of the transaction that were accepted.
    recipients: usize,
    /// When the command that is being waited for must be here.
    command_due: Duration,
    /// When the client must have introduced itself.
    hello_due: Duration,
    /// When the next message must be complete.
    transaction_due: Duration,
    /// The bound that ended the session.
    broken: Option<Bound>,
    /// The driver was not yet told to drop a draft that was begun.
    discard: bool,
    stopping: bool,
    /// How the session is encrypted.
    tls: Option<TlsInfo>,
    /// XCLIENT is offered.
    xclient: bool,
    /// The last greeting was EHLO.
    extended: bool,
    /// AUTH has succeeded.
    logged_in: bool,
    /// Logins that failed.
    failed_logins: u32,
    /// Content that comes in chunks, while it does.
    chunks: Option<Box<Chunks>>,
    /// A transaction ended before its last chunk: those that follow are refused, which is no fault of the client's.
    chunks_lost: bool,
    /// What the wall clock showed, and when that was.
    wall: Option<(Duration, Timestamp)>,
}

impl Session {
    /// A session with a client that just connected. `now` is monotonic, as everywhere here.
    pub fn new(now: Duration, settings: Arc<Settings>) -> Self {
        Self {
            settings,
            now,
            phase: Phase::Opening { early: false },
            lines: Lines::new(),
            output: Vec::new(),
            errors: 0,
            commands: 0,
            recipients: 0,
            command_due: now,
            hello_due: now,
            transaction_due: now,
            broken: None,
            discard: false,
            stopping: false,
            tls: None,
            xclient: false,
            extended: false,
            logged_in: false,
            failed_logins: 0,
            chunks: None,
            chunks_lost: false,
            wall: None,
        }
    }

    /// Tells what the wall clock shows now. Without it nothing is offered that speaks of dates (FUTURERELEASE).
    pub fn set_wall_clock(&mut self, time: Timestamp) {
        self.wall = Some((self.now, time));
    }

    /// Lets the client say on whose behalf it comes (XCLIENT).
    pub fn trust(&mut self) {
        self.xclient = true;
    }

    /// Tells that the connection is encrypted from here on: before the greeting, or as the answer to [`Step::StartTls`], which
    /// takes the session back to where it was before EHLO (RFC 3207 section 4.2).
    pub fn secured(&mut self, now: Duration, tls: TlsInfo) {
        self.now = now;
        match self.phase {
            Phase::Securing => {
                (self.extended, self.logged_in) = (false, false);
                self.resume(Stage::Strange);
            }
            Phase::Opening { .. } => {}
            // A slip of the driver's: encryption that nobody asked for proves nothing.
            _ => return,
        }
        self.tls = Some(tls);
    }

    /// How the session is encrypted; none: it isn't.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Takes octets from the client; at most 64 KiB at once, and only after [`Step::NeedInput`], so that memory stays
    /// bounded. Octets that come before the greeting was allowed are not kept: they are a reason to refuse it.
    pub fn receive(&mut self, now: Duration, octets: &[u8]) {
        self.now = now;
        match &mut self.phase {
            Phase::Opening { early } | Phase::Waiting(Pending::Connect { early }) => *early |= !octets.is_empty(),
            // The usual case for content: straight from the driver's buffer, not by way of ours.
            Phase::Content(content) if self.lines.rest().is_empty() && !content.ended => {
                let used = content.take(octets, now, &self.settings);
                self.lines.push(&octets[used..]);
            }
            Phase::Chunk(chunk) => {
                let chunks = self.chunks.as_deref_mut();
                let used = if self.lines.rest().is_empty() { chunk.take(octets, chunks, now, &self.settings) } else { 0 };
                self.lines.push(&octets[used..]);
            }
            Phase::Content(_) | Phase::Command(_) | Phase::Login | Phase::Waiting(_) => self.lines.push(octets),
            Phase::Securing | Phase::Closing => {}
        }
    }

    /// Tells that the server stops. A message whose content is coming in is still taken; at the next command boundary the
    /// client gets 421 and the session ends.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// What to do next.
    #[expect(clippy::should_implement_trait, reason = "an iterator ends; a session's steps go on after NeedInput")]
    pub fn next(&mut self) -> Step {
        loop {
            if std::mem::take(&mut self.discard) {
                return Step::Discard;
            }
            if self.output.len() >= SEND_SIZE_MAX {
                return self.send();
            }
            let step = match &mut self.phase {
                Phase::Opening { early } => {
                    let early = *early;
                    Some(self.ask(Pending::Connect { early }, Question::Connect))
                }
                Phase::Waiting(_) => Some(Step::NeedInput),
                // A message of which a chunk was taken is taken whole.
                Phase::Command(stage) if self.stopping && !matches!(stage, Stage::Chunks) => {
                    self.close(replies::STOPPING);
                    None
                }
                Phase::Login if self.stopping => {
                    self.close(replies::STOPPING);
                    None
                }
                Phase::Command(stage) => {
                    let stage = *stage;
                    self.next_command(stage)
                }
                Phase::Login => self.next_response(),
                Phase::Content(_) => self.next_content(),
                Phase::Chunk(_) => self.next_chunk(),
                Phase::Securing if self.output.is_empty() => Some(Step::StartTls),
                Phase::Securing => Some(self.send()),
                Phase::Closing => Some(self.next_closing()),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// One line from the input, or a step if there is none or the line asks for one.
    fn next_command(&mut self, stage: Stage) -> Option<Step> {
        let offered = self.parameters();
        let Some(line) = self.lines.next_line() else {
            return Some(if self.output.is_empty() { Step::NeedInput } else { self.send() });
        };
        let line = commands::read(line, offered);
        self.command_due = self.now + self.settings.command_timeout;
        if !self.count_command() {
            return None;
        }
        self.command(stage, line)
    }

    fn next_closing(&mut self) -> Step {
        if self.output.is_empty() { Step::Close } else { self.send() }
    }

    fn ask(&mut self, pending: Pending, question: Question) -> Step {
        self.phase = Phase::Waiting(pending);
        Step::Ask(question)
    }

    fn send(&mut self) -> Step {
        Step::Send(std::mem::take(&mut self.output))
    }

    /// Queues one of our own replies.
    fn say(&mut self, reply: &str) {
        self.output.reserve(reply.len() + 2);
        self.output.extend_from_slice(reply.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn say_reply(&mut self, reply: &Reply) {
        self.output.extend_from_slice(&reply.to_wire());
    }

    /// Back to reading commands.
    fn resume(&mut self, stage: Stage) {
        self.command_due = self.now + self.settings.command_timeout;
        if let Stage::Ready = stage {
            self.recipients = 0;
        }
        self.phase = Phase::Command(stage);
    }

    /// Last words, then the end. What the client sent beyond this point is thrown away.
    fn close(&mut self, reply: &str) {
        self.say(reply);
        self.end();
    }

    fn end(&mut self) {
        self.discard |= matches!(&self.phase, Phase::Content(content) if !content.discarded);
        self.drop_chunks();
        self.lines.clear();
        self.phase = Phase::Closing;
    }
}
