//! What a command line does at each stage of a session: a reply, a question, or a reason to close.

use super::state::{Pending, Phase, Recipients, Stage};
use super::{Bound, Question, Session, Step, replies};
use crate::mail::{BodyType, DsnRequest, Hold, Reply, Request};
use crate::smtp::command::{Command, CommandError, ForwardPath, Mail, Presented, help};
use crate::smtp::extension::Parameters;
use crate::smtp::line::Line;

/// A line of input, read.
pub(super) enum Input {
    /// It is a command.
    Command(Command),
    /// It is none.
    Wrong(CommandError),
    /// It isn't even a line; with the reply.
    Unreadable(&'static str),
}

/// Reads a line.
pub(super) fn read(line: Line<'_>, offered: Parameters) -> Input {
    match line {
        Line::Text(text) => match Command::parse(text, offered) {
            Ok(command) => Input::Command(command),
            Err(error) => Input::Wrong(error),
        },
        Line::Malformed => Input::Unreadable(replies::LINE_MALFORMED),
        Line::TooLong => Input::Unreadable(replies::LINE_TOO_LONG),
    }
}

impl Session {
    /// Carries out one line. None: it was answered, go on.
    pub(super) fn command(&mut self, stage: Stage, input: Input) -> Option<Step> {
        let command = match input {
            Input::Command(command) => command,
            Input::Wrong(error) => {
                self.wrong(error);
                return None;
            }
            Input::Unreadable(reply) => {
                self.bad(reply);
                return None;
            }
        };
        if !matches!(command, Command::Bdat { .. }) {
            self.chunks_lost = false;
        }
        match command {
            Command::Hello { .. } if self.is_lmtp() => self.bad(replies::LMTP_HERE),
            Command::Lhlo { .. } if !self.is_lmtp() => self.wrong(CommandError::Unknown),
            Command::Lhlo { name } => {
                let pending = Pending::Hello { extended: true, before: stage };
                return Some(self.ask(pending, Question::Hello { name, extended: true }));
            }
            Command::Hello { name, extended } => {
                return Some(self.ask(Pending::Hello { extended, before: stage }, Question::Hello { name, extended }));
            }
            Command::Mail(mail) => return self.mail(stage, mail),
            Command::Rcpt { path, dsn, utf8 } => return self.rcpt(stage, path, dsn, utf8),
            Command::Data => return self.data(stage),
            Command::Bdat { size, last } => return self.bdat(stage, size, last),
            Command::Rset => {
                self.say(replies::OK);
                if let Stage::Open(_) | Stage::Chunks = stage {
                    self.drop_chunks();
                    self.recipients = 0;
                    self.phase = Phase::Command(Stage::Ready);
                }
            }
            Command::Noop => self.say(replies::OK),
            Command::Vrfy => self.say(replies::NOT_VERIFIED),
            Command::Help => {
                let hello = if self.is_lmtp() { "LHLO" } else { "HELO EHLO" };
                let text = help(hello, &self.extensions());
                self.say_reply(&Reply::new(214, crate::mail::EnhancedCode(2, 0, 0), text));
            }
            Command::StartTls => self.starttls(stage),
            Command::Auth { mechanism, initial } => return self.auth(stage, mechanism, initial),
            Command::Xclient(presented) => return self.presented(stage, presented),
            Command::Quit => self.close(replies::BYE),
        }
        None
    }

    fn mail(&mut self, stage: Stage, mail: Mail) -> Option<Step> {
        let Mail { path, size, body, request } = mail;
        match stage {
            Stage::Strange => self.bad(self.hello_first()),
            Stage::Open(_) | Stage::Chunks => self.bad(replies::MAIL_NESTED),
            // No fault of the client's, so it doesn't count as one: this is what SIZE is for.
            Stage::Ready if size.is_some_and(|size| size > self.settings.size_max) => self.say(replies::TOO_LARGE),
            Stage::Ready if self.holds_too_long(request.as_deref()) => self.bad(replies::HOLD_TOO_LONG),
            Stage::Ready => {
                let utf8 = request.as_ref().is_some_and(|request| request.smtputf8);
                let recipients = Recipients { binary: body == BodyType::BinaryMime, utf8, ..Recipients::default() };
                return Some(self.ask(Pending::Sender(recipients), Question::Sender { path, size, body, request }));
            }
        }
        None
    }

    /// FUTURERELEASE has a bound, which EHLO told.
    fn holds_too_long(&self, request: Option<&Request>) -> bool {
        let (seconds_max, time_max) = self.hold_max();
        match request.and_then(|request| request.hold) {
            None => false,
            Some(Hold::For(seconds)) => seconds > seconds_max,
            Some(Hold::Until(time)) => time > time_max,
        }
    }

    fn rcpt(&mut self, stage: Stage, path: ForwardPath, dsn: Option<Box<DsnRequest>>, utf8: bool) -> Option<Step> {
        match stage {
            Stage::Chunks => self.bad(replies::CHUNKS_BEGUN),
            Stage::Open(recipients) if utf8 && !recipients.utf8 => self.wrong(CommandError::NotAscii),
            Stage::Strange => self.bad(self.hello_first()),
            Stage::Ready => self.bad(replies::MAIL_FIRST),
            Stage::Open(recipients) if recipients.accepted >= self.settings.recipients_max => {
                self.say(replies::TOO_MANY_RECIPIENTS);
                // A list of too many addresses is sent in parts: no fault of the client's.
                self.uncount_command();
                self.phase = Phase::Command(Stage::Open(Recipients { refused: true, ..recipients }));
            }
            Stage::Open(recipients) => {
                return Some(self.ask(Pending::Recipient(recipients), Question::Recipient { path, dsn }));
            }
        }
        None
    }

    /// Octets may already be waiting behind DATA. RFC 2920 section 3.1 forbids clients to send them before they saw the
    /// reply, but they are used all the same: as content if the reply is 354, as commands otherwise, exactly as if they had
    /// come later. So what a session does depends on the octets alone and not on how the network cut them up, and nobody can
    /// make this server see a message differently by timing. The one thing that could go wrong is a refused DATA followed by a
    /// message that is taken for commands; its first header field ends the session ([`CommandError::Foreign`]).
    fn data(&mut self, stage: Stage) -> Option<Step> {
        match stage {
            Stage::Strange => self.bad(self.hello_first()),
            Stage::Ready => self.bad(replies::MAIL_FIRST),
            Stage::Chunks => self.bad(replies::CHUNKS_BEGUN),
            Stage::Open(Recipients { accepted: 0, refused: true, .. }) => self.say(self.no_valid_recipients()),
            Stage::Open(Recipients { accepted: 0, refused: false, .. }) => self.bad(replies::RECIPIENT_FIRST),
            Stage::Open(Recipients { binary: true, .. }) => self.bad(replies::CHUNKS_NEEDED),
            Stage::Open(recipients) => return Some(self.ask(Pending::Begin(recipients), Question::Begin)),
        }
        None
    }

    /// RFC 3207. Whatever stands behind the command was sent in the clear, perhaps by somebody between the client and us:
    /// none of it is ever taken for part of the secured session.
    fn starttls(&mut self, stage: Stage) {
        match stage {
            _ if self.tls.is_some() => self.bad(replies::TLS_ALREADY),
            _ if !self.settings.starttls => self.bad(replies::NOT_OFFERED),
            Stage::Open(_) | Stage::Chunks => self.bad(replies::NOT_IN_TRANSACTION),
            // RFC 3207 doesn't ask for EHLO first, and there are clients that know what they want.
            Stage::Strange | Stage::Ready => {
                self.say(replies::READY_FOR_TLS);
                self.lines.clear();
                self.phase = Phase::Securing;
            }
        }
    }

    /// XCLIENT: the session begins again as that of another client, greeting included.
    fn presented(&mut self, stage: Stage, presented: Presented) -> Option<Step> {
        match stage {
            _ if !self.xclient => self.bad(replies::NOT_OFFERED),
            Stage::Open(_) | Stage::Chunks => self.bad(replies::NOT_IN_TRANSACTION),
            before => {
                let login = presented.login.as_ref().map(Option::is_some);
                return Some(self.ask(Pending::Presented { login, before }, Question::Presented(presented)));
            }
        }
        None
    }

    fn wrong(&mut self, error: CommandError) {
        if matches!(error, CommandError::Foreign | CommandError::BadChunk) {
            self.say_reply(&error.reply());
            self.end();
        } else if !self.count_error() {
            self.say_reply(&error.reply());
        }
    }

    pub(super) fn bad(&mut self, reply: &str) {
        if !self.count_error() {
            self.say(reply);
        }
    }

    /// Counts a bad command; true if it was one too many and the session ends.
    pub(super) fn count_error(&mut self) -> bool {
        if self.errors >= self.settings.errors_max {
            self.break_off(Bound::Errors, replies::TOO_MANY_ERRORS);
            return true;
        }
        self.errors += 1;
        false
    }
}
