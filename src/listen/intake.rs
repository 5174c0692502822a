//! One message out of the drop folder through the server's own session machine, as if its owner had said it by SMTP: the same
//! grammar, limits and questions. Owns the session; moves no files.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crc32fast::Hasher;

use super::transaction::Transaction;
use super::{Reception, Rules};
use crate::mail::{Message, QueueId, Service};
use crate::maildrop::Dropped;
use crate::smtp::data::Stuffer;
use crate::smtp::server::{Session, Step};

/// Content is read in pieces of this many octets: with every dot doubled they are still fewer than a session takes at once.
const PIECE: usize = 32 * 1024;

/// Why a message isn't taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may be taken another time.
    Later(String),
    /// It never will be.
    Never(String),
    /// Its file can't be read, and stands in nobody's way.
    Unread(String),
}

/// A message on its way through the session.
pub(super) struct Intake<'a> {
    reception: &'a Reception,
    rules: &'a Rules,
    session: Session,
    transaction: Transaction<'a>,
    /// What the session said last.
    said: String,
}

/// What the session waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// More octets; or nothing any more.
    Input,
    /// The message to be made durable.
    Commit,
}

impl<'a> Intake<'a> {
    pub(super) fn new(reception: &'a Reception, rules: &'a Arc<Rules>) -> Self {
        let session = Session::new(reception.system.clock.monotonic(), Arc::clone(&rules.local));
        let transaction = Transaction::new(reception, rules, Service::Local, IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self { reception, rules, session, transaction, said: String::new() }
    }

    /// Says the whole message. The id that it will have: nothing stands against its commit but the policy on headers.
    pub(super) async fn say(&mut self, dropped: &Arc<Dropped>) -> Result<QueueId, Refusal> {
        let recipients_max = self.rules.config.limits.recipients;
        if dropped.commands().count() > recipients_max + 1 {
            return Err(Refusal::Never(format!("it has more than {recipients_max} recipients")));
        }
        self.feed(b"").await?;
        self.feed(format!("EHLO uid-{}\r\n", dropped.origin().user).as_bytes()).await?;
        for (at, command) in dropped.commands().enumerate() {
            let verb: &[u8] = if at == 0 { b"MAIL FROM:" } else { b"RCPT TO:" };
            if !command.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb)) {
                return Err(Refusal::Never("its envelope is malformed".to_owned()));
            }
            self.feed(command).await?;
        }
        self.feed(b"DATA\r\n").await?;
        let waits = self.content(dropped).await?;
        match (waits, self.transaction.id()) {
            (Waits::Commit, Some(id)) => Ok(id),
            // The draft was lost: a full or broken disk. The reply to the commit says which.
            (Waits::Commit, None) => Err(match self.commit().await {
                Err(refusal) => refusal,
                Ok(_) => Refusal::Later("its content could not be kept".to_owned()),
            }),
            (Waits::Input, _) => Err(Refusal::Later(format!("the session stopped: {}", self.said))),
        }
    }

    async fn content(&mut self, dropped: &Arc<Dropped>) -> Result<Waits, Refusal> {
        let (mut stuffer, mut hasher, mut offset) = (Stuffer::new(), Hasher::new(), 0);
        while offset < dropped.content_size() {
            let source = Arc::clone(dropped);
            let piece = self.reception.system.workers.blocking(move || source.content(offset, PIECE)).await;
            let piece = piece.map_err(|error| Refusal::Unread(error.to_string()))?;
            offset += piece.len() as u64;
            hasher.update(&piece);
            let mut wire = Vec::with_capacity(piece.len() + 64);
            stuffer.send(&piece, &mut wire);
            self.feed(&wire).await?;
        }
        hasher.update(dropped.envelope());
        if hasher.finalize() != dropped.crc() {
            return Err(Refusal::Never("its checksum is wrong".to_owned()));
        }
        let mut wire = Vec::new();
        stuffer.end(&mut wire);
        self.feed(&wire).await
    }

    /// Gives octets to the session and does what it says, until it wants more or the message is whole.
    async fn feed(&mut self, octets: &[u8]) -> Result<Waits, Refusal> {
        if !octets.is_empty() {
            self.session.receive(self.now(), octets);
        }
        loop {
            match self.session.next() {
                Step::Send(reply) => {
                    self.said = String::from_utf8_lossy(&reply).trim_end().replace('\r', "");
                    match reply.first() {
                        Some(b'4') => return Err(Refusal::Later(self.said.clone())),
                        Some(b'5') => return Err(Refusal::Never(self.said.clone())),
                        _ => {}
                    }
                }
                Step::Ask(crate::smtp::server::Question::Commit) => return Ok(Waits::Commit),
                Step::Ask(question) => {
                    let answer = self.transaction.answer(question).await;
                    self.session.answer(self.now(), answer);
                }
                Step::Body(chunk) => self.transaction.body(&chunk).await,
                Step::Discard => self.transaction.discard(),
                Step::NeedInput | Step::Close | Step::StartTls => return Ok(Waits::Input),
            }
        }
    }

    /// Makes the message durable, as the session asked for.
    pub(super) async fn commit(&mut self) -> Result<Arc<Message>, Refusal> {
        self.transaction.commit().await.map_err(|reply| match reply.code {
            500.. => Refusal::Never(reply.to_string()),
            _ => Refusal::Later(reply.to_string()),
        })
    }

    /// Tells the mail log of the durable message.
    pub(super) fn accepted(&mut self, message: &Message) {
        self.transaction.accepted(message);
    }

    fn now(&self) -> std::time::Duration {
        self.reception.system.clock.monotonic()
    }
}
