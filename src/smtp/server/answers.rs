//! What an answer does: the reply to the command that raised the question, and the stage that it leads to.

use super::state::{Content, Pending, Phase, Recipients, Refusal, Stage};
use super::{Answer, Bound, Session, replies};
use crate::mail::{Reply, Timestamp};
use crate::smtp::extension::{self, Announcement, Extension, Parameters};

impl Session {
    /// Takes the answer to the last question. An answer when nothing was asked is ignored.
    pub fn answer(&mut self, now: std::time::Duration, answer: Answer) {
        self.now = now;
        let pending = match std::mem::replace(&mut self.phase, Phase::Closing) {
            Phase::Waiting(pending) => pending,
            other => {
                self.phase = other;
                return;
            }
        };
        if matches!(pending, Pending::Commit) {
            self.message_over();
        }
        match (pending, answer) {
            (pending, Answer::Refuse(reply)) => self.refused(pending, &reply),
            (Pending::Commit, Answer::Committed(id)) => {
                self.say_to_each(&format!("250 2.0.0 Ok: queued as {id}"));
                self.resume(Stage::Ready);
            }
            (Pending::Commit, Answer::Dropped(name)) => {
                let text = format!("Ok: waits in the drop folder as {name}");
                self.say_reply(&Reply::new(250, crate::mail::EnhancedCode(2, 0, 0), text));
                self.resume(Stage::Ready);
            }
            // A slip of the driver's. Never a 250 without a commit, never an acceptance that nobody meant.
            (Pending::Commit, Answer::Accept) => self.slipped(Stage::Ready),
            (Pending::Login, Answer::Challenge(challenge)) => self.challenge(&challenge),
            (Pending::Sender(recipients), Answer::AcceptAs(reply)) => {
                self.say_reply(&reply);
                self.resume(Stage::Open(recipients));
            }
            (pending, Answer::AcceptAs(_) | Answer::Challenge(_)) => self.slipped(pending.before()),
            (pending, Answer::Committed(_) | Answer::Dropped(_)) => self.slipped(pending.before()),
            (pending, Answer::Accept) => self.accepted(pending),
        }
    }

    fn accepted(&mut self, pending: Pending) {
        match pending {
            Pending::Connect { early: true } => self.break_off(Bound::Early, replies::EARLY_TALKER),
            Pending::Connect { early: false } if self.stopping => self.close(replies::STOPPING),
            Pending::Connect { early: false } => {
                let text = format!("{} {} Posthouse {}", self.settings.hostname, self.protocol(), self.settings.mark);
                self.say_reply(&Reply::plain(220, text.trim_end()));
                self.greeted();
                self.resume(Stage::Strange);
            }
            Pending::Hello { extended, .. } => {
                self.extended = extended;
                self.drop_chunks();
                self.greet(extended);
                self.resume(Stage::Ready);
            }
            Pending::Presented { login, .. } => {
                (self.extended, self.logged_in) = (false, login.unwrap_or(self.logged_in));
                self.phase = Phase::Opening { early: false };
            }
            Pending::Login => {
                self.logged_in = true;
                self.say(replies::LOGGED_IN);
                self.resume(Stage::Ready);
            }
            Pending::Sender(recipients) => {
                self.say(replies::SENDER_OK);
                self.resume(Stage::Open(recipients));
            }
            Pending::Recipient(recipients) => {
                self.say(replies::RECIPIENT_OK);
                self.uncount_command();
                self.recipients = recipients.accepted + 1;
                self.resume(Stage::Open(Recipients { accepted: recipients.accepted + 1, ..recipients }));
            }
            Pending::Begin(_) => {
                self.say(replies::START_CONTENT);
                self.phase = Phase::Content(Content::new(self.now, &self.settings));
            }
            Pending::BeginChunks { recipients, size, last } => self.begin_chunks(recipients.binary, size, last),
            Pending::Commit => self.slipped(Stage::Ready),
        }
    }

    fn refused(&mut self, pending: Pending, reply: &Reply) {
        // A transient refusal says nothing about the client.
        if matches!(pending, Pending::Login) && reply.code >= 500 && self.count_failed_login() {
            return;
        }
        if let Pending::BeginChunks { recipients, size, last } = pending
            && reply.code != 421
        {
            let refusal = Refusal { reply: reply.to_wire(), bad: false };
            // What follows of the content must not pass for all of it, should there be room by then (RFC 3030 section 2).
            let after = if last { Stage::Open(recipients) } else { Stage::Ready };
            self.refuse_chunk(size, last, after, refusal);
            return;
        }
        let replies = if matches!(pending, Pending::Commit) { self.replies() } else { 1 };
        self.output.extend_from_slice(&reply.to_wire().repeat(replies));
        if reply.code == 421 || matches!(pending, Pending::Connect { .. }) {
            return self.end();
        }
        self.resume(match pending {
            Pending::Recipient(recipients) => Stage::Open(Recipients { refused: true, ..recipients }),
            pending => pending.before(),
        });
    }

    /// The driver gave an answer that doesn't fit its question.
    fn slipped(&mut self, stage: Stage) {
        self.say(replies::BROKEN);
        self.resume(stage);
    }

    /// What EHLO announces, here and now.
    pub(super) fn extensions(&self) -> Vec<Extension> {
        let announcement = Announcement {
            size_max: self.settings.size_max,
            recipients_max: self.settings.recipients_max,
            hold_max: self.hold_max(),
            starttls: self.settings.starttls && self.tls.is_none(),
            mechanisms: self.mechanisms(),
        };
        let mut offered = extension::offered(self.parameters(), announcement);
        offered.extend(self.xclient.then_some(Extension::Xclient));
        offered
    }

    /// The parameters that MAIL and RCPT may have, here and now.
    pub(super) fn parameters(&self) -> Parameters {
        let mut offered = self.settings.parameters;
        offered.future_release &= self.wall.is_some() && !self.settings.hold_max.is_zero();
        offered.require_tls &= self.tls.is_some();
        offered.auth &= !self.settings.mechanisms.is_empty();
        offered
    }

    /// How long a message may be held: seconds, and until when that is.
    pub(super) fn hold_max(&self) -> (u32, Timestamp) {
        let hold_max = self.settings.hold_max;
        let until = self.wall.map_or(Timestamp::ZERO, |(at, wall)| wall.plus(self.now.saturating_sub(at)).plus(hold_max));
        (u32::try_from(hold_max.as_secs()).unwrap_or(u32::MAX), until)
    }

    /// The reply to HELO or EHLO.
    fn greet(&mut self, extended: bool) {
        let mut text = self.settings.hostname.to_string();
        if extended {
            for extension in self.extensions() {
                text.push('\n');
                text.push_str(&extension.to_string());
            }
        }
        self.say_reply(&Reply::plain(250, text));
    }
}

impl Pending {
    /// The stage that the session goes back to when the answer changes nothing.
    fn before(&self) -> Stage {
        match self {
            Self::Connect { .. } => Stage::Strange,
            Self::Hello { before, .. } | Self::Presented { before, .. } => *before,
            Self::Sender(_) | Self::Login | Self::Commit => Stage::Ready,
            Self::Recipient(recipients) | Self::Begin(recipients) | Self::BeginChunks { recipients, .. } => {
                Stage::Open(*recipients)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::mail::{Domain, QueueId, Service};
    use crate::smtp::server::{Settings, Step};

    /// Feeds a session, answers everything but Commit with yes, and returns what it says until it asks for that.
    fn talk(session: &mut Session, octets: &[u8]) -> String {
        session.receive(Duration::ZERO, octets);
        let mut said = Vec::new();
        loop {
            match session.next() {
                Step::Send(octets) => said.extend_from_slice(&octets),
                Step::Ask(super::super::Question::Commit) | Step::NeedInput | Step::Close => break,
                Step::Ask(_) => session.answer(Duration::ZERO, Answer::Accept),
                Step::Body(_) | Step::Discard | Step::StartTls => {}
            }
        }
        String::from_utf8(said).unwrap()
    }

    fn session() -> Session {
        let settings = Settings::new(Service::Mx, Domain::parse("mail.example.test").unwrap());
        let mut session = Session::new(Duration::ZERO, Arc::new(settings));
        talk(&mut session, b"");
        session
    }

    #[test]
    fn chunks_behind_a_first_one_that_was_refused_are_no_message() {
        let mut settings = Settings::new(Service::Mx, Domain::parse("mail.example.test").unwrap());
        settings.parameters.binary = true;
        settings.errors_max = 3;
        let mut session = Session::new(Duration::ZERO, Arc::new(settings));
        talk(&mut session, b"");
        let chunks = "BDAT 3\r\nabc".repeat(5);
        let all = format!("EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\n{chunks}BDAT 3 LAST\r\nd\r\nNOOP\r\n");
        session.receive(Duration::ZERO, all.as_bytes());
        let (mut said, mut asked) = (Vec::new(), 0);
        loop {
            match session.next() {
                Step::Send(octets) => said.extend_from_slice(&octets),
                // There is no room for the first, and then there is.
                Step::Ask(super::super::Question::Begin) if asked == 0 => {
                    asked += 1;
                    let full = Reply::new(452, crate::mail::EnhancedCode(4, 3, 1), "No room");
                    session.answer(Duration::ZERO, Answer::Refuse(full));
                }
                Step::Ask(super::super::Question::Begin | super::super::Question::Commit) => {
                    panic!("a part passes for a message")
                }
                Step::Ask(_) => session.answer(Duration::ZERO, Answer::Accept),
                Step::NeedInput => break,
                step => panic!("{step:?}"),
            }
        }
        let said = String::from_utf8(said).unwrap();
        let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
        assert_eq!(codes, ["250", "250", "250", "452", "503", "503", "503", "503", "503", "250"], "{said}");
    }

    #[test]
    fn no_250_without_a_queue_id() {
        let mut session = session();
        talk(&mut session, b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nDATA\r\n");
        talk(&mut session, b".\r\n");
        session.answer(Duration::ZERO, Answer::Accept);
        assert_eq!(talk(&mut session, b""), "451 4.3.0 Local error; try again later\r\n");
    }

    #[test]
    fn answers_that_fit_no_question_accept_nothing() {
        let mut session = session();
        session.answer(Duration::ZERO, Answer::Committed(QueueId(1)));
        assert_eq!(talk(&mut session, b"MAIL FROM:<>\r\n"), "503 5.5.1 Send HELO or EHLO first\r\n");
        session.receive(Duration::ZERO, b"HELO a\r\n");
        assert!(matches!(session.next(), Step::Ask(_)));
        session.answer(Duration::ZERO, Answer::Committed(QueueId(1)));
        assert_eq!(
            talk(&mut session, b"MAIL FROM:<>\r\n"),
            "451 4.3.0 Local error; try again later\r\n503 5.5.1 Send HELO or EHLO first\r\n"
        );
    }
}
