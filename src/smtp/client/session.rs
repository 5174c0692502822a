//! The client session: greeting, hello, any number of transactions, quit. State: the phase, the replies awaited, the bytes to send.

mod ending;
mod hello;
mod login;

use std::collections::VecDeque;
use std::time::Duration;

use crate::mail::{Cause, Diagnosis, EnhancedCode, Outcome, Reply};

use super::expected::Expected;
use super::login::{Exchange, KeyWork};
use super::reply::Parser;
use super::sending::{Progressed, Sending};
use super::step::{Settings, Step};
use super::transaction::{Command, Progress, diagnosis};
use super::{Extensions, Transaction};

/// Most commands under way at a time. Their replies fit into any socket's buffers, so that a server that doesn't read while it
/// writes, and we, who do the same, never wait for each other (RFC 2920 section 3.1).
const PIPELINE_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Hello,
    /// The TLS handshake, which is the driver's.
    Securing,
    /// The key of our password is being worked out, by the driver too.
    Working(KeyWork),
    Ready,
    /// MAIL, RCPT, DATA and their replies.
    Envelope,
    /// 354 came, or BDAT is the next command.
    Content,
    /// The dot, or all of the last chunk, is out; its reply isn't in.
    Final,
    Quitting,
    Closed,
}

/// One connection, as client.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    phase: Phase,
    parser: Parser,
    extensions: Extensions,
    expected: VecDeque<Expected>,
    out: Vec<u8>,
    /// Finished and Refused, behind `out`.
    results: VecDeque<Step>,
    progress: Option<Progress>,
    /// The content of this round, or of the last.
    sending: Sending,
    /// The last transaction left something behind at the server.
    needs_reset: bool,
    /// The bytes with the final dot, or the last of the last chunk, were handed out.
    dot_sent: bool,
    /// A reply came in this transaction.
    heard: bool,
    /// MAIL commands so far.
    transactions: u32,
    unanswered: Vec<bool>,
    deadline: Option<Duration>,
    /// When the transaction has to have come to its last reply.
    end: Duration,
    /// The session is encrypted, and whether we know with whom.
    verified: Option<bool>,
    /// Why it isn't, though the server had offered it.
    declined: Option<String>,
    /// It came to its end for want of TLS.
    insecure: bool,
    /// It came to its end because the server is ourselves.
    ourselves: bool,
    /// The login under way.
    exchange: Option<Exchange>,
}

impl Session {
    /// A connection that was just made.
    pub fn new(now: Duration, settings: Settings) -> Self {
        let deadline = Some(now + settings.timeouts.greeting);
        Self {
            settings,
            phase: Phase::Greeting,
            parser: Parser::default(),
            extensions: Extensions::default(),
            expected: VecDeque::from([Expected::Greeting]),
            out: Vec::new(),
            results: VecDeque::new(),
            progress: None,
            sending: Sending::data(),
            needs_reset: false,
            dot_sent: false,
            heard: false,
            transactions: 0,
            unanswered: Vec::new(),
            deadline,
            end: Duration::MAX,
            verified: None,
            declined: None,
            insecure: false,
            ourselves: false,
            exchange: None,
        }
    }

    /// Bytes from the peer.
    pub fn receive(&mut self, now: Duration, mut bytes: &[u8]) {
        while self.phase != Phase::Closed {
            if self.phase == Phase::Securing && (!bytes.is_empty() || self.parser.is_inside()) {
                // It was said in the clear, perhaps by somebody in between, and must not count as said under TLS.
                return self.lost_step("it said more behind its reply to STARTTLS");
            }
            match self.parser.next(&mut bytes) {
                None => break,
                Some(Ok(reply)) => self.replied(now, &reply),
                Some(Err(error)) => self.lost_step(&error.to_string()),
            }
        }
    }

    /// Starts a transaction; only at `Ready`, and otherwise, after the connection's end, it finishes at once, deferred.
    pub fn begin(&mut self, now: Duration, transaction: Transaction) {
        debug_assert!(matches!(self.phase, Phase::Ready | Phase::Closed));
        let mut progress = Progress::new(transaction, self.extensions);
        (self.heard, self.end) = (false, now.saturating_add(self.settings.timeouts.transaction));
        if self.phase != Phase::Ready {
            let diagnosis = Diagnosis::new(EnhancedCode(4, 4, 2), Cause::Connection, "the connection is closed");
            progress.give_up(&diagnosis, true, false);
            self.finish(progress);
            return;
        }
        if let Some(too_big) = self.too_big(&progress) {
            progress.settle_all(&too_big);
            self.heard = true;
            self.finish(progress);
            return;
        }
        self.progress = Some(progress);
        self.start_round(now);
    }

    /// A piece of content as `content_wanted` says; only at `NeedContent`.
    pub fn content(&mut self, now: Duration, piece: &[u8]) {
        if self.phase != Phase::Content {
            return;
        }
        self.deadline = Some(now + self.settings.timeouts.block);
        match self.sending.push(piece, &mut self.out) {
            Progressed::Nothing => {}
            Progressed::Chunk => {
                self.expected.push_back(Expected::Chunk);
                self.wait(now);
            }
            Progressed::All => self.await_final(now),
            Progressed::TooMuch => self.content_failed(now),
        }
    }

    /// At `NeedContent`: where the next piece of content starts, and how long it may be.
    pub fn content_wanted(&self) -> (u64, u64) {
        (self.sending.position(), self.sending.room())
    }

    /// The content is complete; only at `NeedContent`.
    pub fn content_end(&mut self, now: Duration) {
        if self.phase != Phase::Content {
            return;
        }
        let complete = self.sending.end(&mut self.out);
        if complete { self.await_final(now) } else { self.content_failed(now) }
    }

    /// All of the content is on its way.
    fn await_final(&mut self, now: Duration) {
        (self.phase, self.dot_sent) = (Phase::Final, false);
        match &self.progress {
            Some(progress) if self.settings.lmtp => {
                self.expected.extend(progress.accepted().map(|index| Expected::Final(Some(index))));
            }
            _ => self.expected.push_back(Expected::Final(None)),
        }
        self.wait(now);
    }

    /// Our own reading of the content failed: the transaction must not end as if it were whole, so the connection has to.
    pub fn content_failed(&mut self, _now: Duration) {
        if self.phase == Phase::Content
            && let Some(progress) = &mut self.progress
        {
            let diagnosis = Diagnosis::new(EnhancedCode(4, 3, 0), Cause::Local, "the message can't be read from the spool");
            progress.give_up(&diagnosis, false, false);
            self.end(diagnosis, true);
        }
    }

    /// Says goodbye; only at `Ready`.
    pub fn quit(&mut self, now: Duration) {
        if self.phase == Phase::Ready {
            self.phase = Phase::Quitting;
            self.out.extend_from_slice(b"QUIT\r\n");
            self.expected.push_back(Expected::Quit);
            self.wait(now);
        }
    }

    /// What to do next. `Ready`, `NeedContent`, `NeedInput` and `Closed` repeat until something happens.
    #[allow(clippy::should_implement_trait, reason = "a machine's step, not an iterator: it never ends by itself")]
    pub fn next(&mut self) -> Step {
        if !self.out.is_empty() {
            self.dot_sent |= self.phase == Phase::Final;
            return Step::Send(std::mem::take(&mut self.out));
        }
        if let Some(result) = self.results.pop_front() {
            return result;
        }
        match &self.phase {
            Phase::Closed => Step::Closed,
            Phase::Ready => Step::Ready,
            Phase::Securing => Step::StartTls,
            Phase::Working(work) => Step::WorkOut(work.clone()),
            Phase::Content if self.sending.is_waiting() && !self.expected.is_empty() => Step::NeedInput,
            Phase::Content => Step::NeedContent,
            Phase::Greeting | Phase::Hello | Phase::Envelope | Phase::Final | Phase::Quitting => Step::NeedInput,
        }
    }

    /// When to call `tick`, whatever the driver waits for: input, or room to write.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            // Behind the dot only its reply is waited for: who gave that up would send the message twice.
            Phase::Envelope | Phase::Content => self.deadline.map(|deadline| deadline.min(self.end)),
            _ => self.deadline,
        }
    }

    /// Whether the connection is at its end; `next` may still have a last word and results.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether the server takes no more transactions in this session (RFC 9422): all that is left is `quit`.
    pub fn is_used_up(&self) -> bool {
        self.extensions.limits.transactions.is_some_and(|max| self.transactions >= max)
    }

    /// What the server offers.
    pub fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Whether the server said anything in this transaction, other than that it closes. A reused connection whose server never
    /// did had died in idleness.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// Whether the last transaction's connection ended, before the final dot, without the server's word on this recipient:
    /// another host may be asked about it at once.
    pub fn is_unanswered(&self, recipient: usize) -> bool {
        self.unanswered.get(recipient).copied().unwrap_or(false)
    }

    fn replied(&mut self, now: Duration, reply: &Reply) {
        if reply.code == 421 {
            // The server is about to close, whatever it was asked (RFC 5321 section 3.8). Only behind the final dot may that be about
            // the message: large providers so refuse one sender's, and take everybody else's.
            let turned_away = self.phase != Phase::Final || !self.dot_sent;
            return self.end(Diagnosis { turned_away, ..diagnosis(reply) }, true);
        }
        let Some(expected) = self.expected.pop_front() else {
            return self.unexpected(reply);
        };
        self.wait(now);
        self.heard = true;
        match expected {
            Expected::Greeting | Expected::Ehlo | Expected::Helo | Expected::StartTls => self.hello_replied(now, expected, reply),
            Expected::Login => self.login_replied(now, reply),
            Expected::Reset | Expected::Nothing => self.advance(now),
            Expected::Command(command) => self.command_replied(now, command, reply),
            Expected::Chunk => self.chunk_replied(now, reply),
            Expected::Final(recipient) => self.content_replied(now, recipient, reply),
            Expected::Quit => self.end(diagnosis(reply), true),
        }
    }

    fn command_replied(&mut self, now: Duration, command: Command, reply: &Reply) {
        let Some(progress) = &mut self.progress else { return };
        match command {
            Command::Mail => progress.mail_replied(reply),
            Command::Recipient(index) => progress.recipient_replied(index, reply),
            Command::Data => match reply.code / 100 {
                3 => return self.go_ahead(now),
                2 => return self.lost_step(&format!("it answered DATA with {}", reply.code)),
                _ => progress.data_refused(reply),
            },
        }
        self.advance(now);
    }

    /// 354 came.
    fn go_ahead(&mut self, now: Duration) {
        let Some(progress) = &mut self.progress else { return };
        if progress.has_accepted() {
            self.begin_content(now, Sending::data());
        } else if progress.is_contradicted() || self.settings.lmtp {
            // Somebody might get an empty message for the dot, or no reply to it might come: leave without it.
            self.lost_step("it answered DATA with 354 although it had refused MAIL or every recipient");
        } else {
            // RFC 2920 section 3.1: the dot alone ends the transaction of a server that didn't notice that it has no recipients.
            self.out.extend_from_slice(b".\r\n");
            self.expected.push_back(Expected::Nothing);
            self.wait(now);
        }
    }

    fn begin_content(&mut self, now: Duration, sending: Sending) {
        (self.phase, self.sending) = (Phase::Content, sending);
        self.deadline = Some(now + self.settings.timeouts.block);
    }

    fn chunk_replied(&mut self, now: Duration, reply: &Reply) {
        if reply.is_positive() {
            return;
        }
        if reply.code / 100 == 3 {
            return self.lost_step(&format!("it answered BDAT with {}", reply.code));
        }
        if self.gives_up_chunks(reply) {
            return self.start_round(now);
        }
        let Some(progress) = &mut self.progress else { return };
        progress.data_refused(reply);
        if self.settings.lmtp || self.sending.is_inside_chunk() {
            // It would take the rest of the chunk for content, and in LMTP nobody knows how many replies are still to come.
            return self.end(diagnosis(reply), true);
        }
        // What is under way already is refused as well, and nothing more follows (RFC 3030 section 2).
        self.phase = Phase::Envelope;
        self.expected.iter_mut().for_each(|expected| *expected = Expected::Nothing);
        self.advance(now);
    }

    /// Whether the server, or something between us, doesn't know the BDAT that it offers: the round begins anew, with DATA.
    fn gives_up_chunks(&mut self, reply: &Reply) -> bool {
        let quiet = self.expected.is_empty() && !self.sending.is_inside_chunk();
        let unknown = quiet && self.sending.is_chunks() && matches!(reply.code, 500 | 502 | 504);
        let again = unknown && self.progress.as_mut().is_some_and(Progress::restart_round);
        self.extensions.chunking &= !again;
        again
    }

    fn content_replied(&mut self, now: Duration, recipient: Option<usize>, reply: &Reply) {
        if recipient.is_none() && self.gives_up_chunks(reply) {
            return self.start_round(now);
        }
        let Some(mut progress) = self.progress.take() else { return };
        progress.content_replied(recipient, reply);
        if !self.expected.is_empty() {
            self.progress = Some(progress);
            // Each LMTP reply means that a mailbox is done; the next one gets the time of a final dot again.
            return self.wait(now);
        }
        self.needs_reset = false;
        self.end_round(now, progress, reply.is_positive());
    }

    /// Another round for those whose turn has not come yet, or the end of the transaction.
    fn end_round(&mut self, now: Duration, mut progress: Progress, taken: bool) {
        if progress.next_round(taken) {
            if !self.is_used_up() {
                self.progress = Some(progress);
                return self.start_round(now);
            }
            let text = "the server takes no more transactions in this session";
            progress.give_up(&Diagnosis::new(EnhancedCode(4, 5, 3), Cause::Remote, text), true, false);
        }
        (self.phase, self.deadline) = (Phase::Ready, None);
        self.finish(progress);
    }

    fn start_round(&mut self, now: Duration) {
        self.phase = Phase::Envelope;
        self.transactions += 1;
        if self.needs_reset {
            self.out.extend_from_slice(b"RSET\r\n");
            self.expected.push_back(Expected::Reset);
        }
        self.needs_reset = true;
        self.wait(now);
        self.advance(now);
    }

    /// Sends what may be sent, and ends the transaction when nothing is awaited any more.
    ///
    /// BDAT, unlike DATA, waits for the replies to all RCPT. That costs no round trip that DATA would save, spares both sides the content
    /// that nobody wants, and leaves no doubt about a message whose recipients were never accepted.
    fn advance(&mut self, now: Duration) {
        let Some(progress) = &mut self.progress else { return };
        let room = if self.extensions.pipelining { PIPELINE_MAX } else { 1 };
        // Half empty is soon enough: whole batches make full packets.
        if self.expected.len() <= room / 2 {
            while self.expected.len() < room
                && let Some(command) = progress.next_command(!self.extensions.chunking || self.expected.is_empty())
            {
                if self.extensions.chunking && command == Command::Data {
                    let chunks = Sending::chunks(progress.size(), self.extensions.pipelining);
                    return self.begin_content(now, chunks);
                }
                progress.write(command, &mut self.out);
                self.expected.push_back(Expected::Command(command));
            }
        }
        if !self.expected.is_empty() {
            return self.wait(now);
        }
        if let Some(progress) = self.progress.take() {
            self.end_round(now, progress, false);
        }
    }

    fn finish(&mut self, progress: Progress) {
        let (outcomes, unanswered) = progress.finish();
        self.unanswered = unanswered;
        self.results.push_back(Step::Finished(outcomes));
    }

    /// What MAIL would come to, if the server said in EHLO already that the message is too big.
    fn too_big(&self, progress: &Progress) -> Option<Outcome> {
        let (size, size_max) = (progress.size(), self.extensions.size_max?);
        let text = format!("the message has {size} octets, the server takes {size_max} at the most");
        (size > size_max).then(|| Outcome::Failed(Diagnosis::new(EnhancedCode(5, 3, 4), Cause::Remote, text)))
    }

    /// Whether the next step is to send.
    #[cfg(test)]
    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// From now on the time runs for the next reply, if one is awaited.
    fn wait(&mut self, now: Duration) {
        if let Some(expected) = self.expected.front() {
            self.deadline = Some(now + expected.time(&self.settings.timeouts));
        }
    }
}
