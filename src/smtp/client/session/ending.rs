//! How a session comes to its end, and what that says of the recipients. Owns nothing; the session's state is its own.

use std::time::Duration;

use super::super::expected::Expected;
use super::super::step::Step;
use super::super::transaction::diagnosis;
use super::{Phase, Session};
use crate::mail::{Cause, Diagnosis, EnhancedCode, Reply};

impl Session {
    /// The connection is lost: closed by the peer, or broken.
    pub fn closed(&mut self, _now: Duration, why: &str) {
        let text = format!("connection lost {}: {why}", self.moment());
        self.end(Diagnosis::new(EnhancedCode(4, 4, 2), Cause::Connection, text), false);
    }

    /// To be called once `deadline` has passed; before it, nothing happens.
    pub fn tick(&mut self, now: Duration) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        let late = self.deadline.is_some_and(|deadline| now < deadline);
        let status = if self.phase == Phase::Greeting { EnhancedCode(4, 4, 1) } else { EnhancedCode(4, 4, 2) };
        let what = if late { "the transaction takes too long: time-out" } else { "time-out" };
        let text = format!("{what} {}", self.moment());
        self.end(Diagnosis::new(status, Cause::Connection, text), false);
    }

    /// A reply to nothing that we said. While content goes out, a server that won't have it may say so early; but an early yes,
    /// like any other word out of turn, means that its replies are no longer about what we say.
    pub(super) fn unexpected(&mut self, reply: &Reply) {
        match &mut self.progress {
            Some(progress) if self.phase == Phase::Content && reply.code / 100 >= 4 => {
                progress.data_refused(reply);
                self.end(diagnosis(reply), true);
            }
            _ => self.lost_step(&format!("it said {reply} out of turn")),
        }
    }

    /// The peer doesn't speak the protocol; the dot's fate is unknown.
    pub(super) fn lost_step(&mut self, why: &str) {
        let mut text = format!("the server can't be understood {}: {why}", self.moment());
        text.truncate(text.floor_char_boundary(500));
        self.end(Diagnosis::new(EnhancedCode(4, 5, 0), Cause::Remote, text), false);
    }

    /// The end of the connection. `said`: the server itself ended it with a reply, so it doesn't have what it was asked about.
    pub(super) fn end(&mut self, diagnosis: Diagnosis, said: bool) {
        self.out.clear();
        self.insecure |= self.expected.front() == Some(&Expected::StartTls);
        match self.phase {
            Phase::Closed => return,
            Phase::Greeting | Phase::Hello | Phase::Securing | Phase::Working(_) => {
                self.results.push_back(Step::Refused(diagnosis))
            }
            Phase::Ready | Phase::Quitting => {}
            Phase::Envelope | Phase::Content | Phase::Final => {
                if let Some(mut progress) = self.progress.take() {
                    let in_doubt = self.phase == Phase::Final && self.dot_sent && !said;
                    progress.give_up(&diagnosis, self.phase != Phase::Final || !self.dot_sent, in_doubt);
                    self.finish(progress);
                }
            }
        }
        self.phase = Phase::Closed;
        self.expected.clear();
        self.deadline = None;
    }

    /// Where the session stands, for people.
    fn moment(&self) -> &'static str {
        match (&self.phase, self.expected.front()) {
            (Phase::Working(_), _) => "while logging in",
            (Phase::Content, _) => "while sending the message",
            (_, Some(expected)) => expected.moment(self.settings.lmtp, self.sending.is_chunks()),
            (_, None) => "between transactions",
        }
    }
}
