//! AUTH (RFC 4954) between its command and its last reply: what is offered, the lines of the exchange, and how often it may
//! fail. Whether a client is who it says is a question like any other.

use super::state::{Pending, Phase, Stage};
use super::{Mechanism, Question, Secret, Session, Step, replies};
use crate::smtp::auth::{RESPONSE_SIZE_MAX, challenge_line};
use crate::smtp::line::Line;

impl Session {
    /// The mechanisms that EHLO announces, here and now.
    pub(super) fn mechanisms(&self) -> Vec<Mechanism> {
        self.settings.mechanisms.iter().copied().filter(|mechanism| self.offers(*mechanism)).collect()
    }

    /// Whether the client may log in so: never in the clear unless the settings say that it may, bound to the channel only where
    /// there is something to bind to, and by its certificate only if it showed one.
    fn offers(&self, mechanism: Mechanism) -> bool {
        let tls = self.tls.as_ref();
        self.settings.mechanisms.contains(&mechanism)
            && match mechanism {
                Mechanism::ScramSha256Plus => tls.is_some_and(|tls| tls.exporter.is_some() || tls.end_point.is_some()),
                Mechanism::External => tls.is_some_and(|tls| !tls.client_names.is_empty()),
                Mechanism::ScramSha256 | Mechanism::Plain | Mechanism::Login => tls.is_some() || self.settings.auth_in_clear,
            }
    }

    /// AUTH: only once, only between transactions, and only behind EHLO, which says what is offered.
    pub(super) fn auth(&mut self, stage: Stage, mechanism: Mechanism, initial: Option<Secret>) -> Option<Step> {
        match stage {
            _ if self.settings.mechanisms.is_empty() => self.bad(replies::AUTH_NOT_OFFERED),
            Stage::Strange => self.bad(replies::EHLO_FIRST),
            _ if !self.extended => self.bad(replies::EHLO_FIRST),
            _ if self.logged_in => self.bad(replies::AUTH_ALREADY),
            Stage::Open(_) | Stage::Chunks => self.bad(replies::AUTH_IN_TRANSACTION),
            Stage::Ready if self.mechanisms().is_empty() => self.bad(replies::ENCRYPTION_FIRST),
            Stage::Ready if !self.offers(mechanism) => self.bad(replies::MECHANISM_NOT_OFFERED),
            Stage::Ready => return Some(self.ask(Pending::Login, Question::Login { mechanism, initial })),
        }
        None
    }

    pub(super) fn challenge(&mut self, challenge: &[u8]) {
        self.output.extend_from_slice(challenge_line(challenge).as_bytes());
        self.command_due = self.now + self.settings.command_timeout;
        self.phase = Phase::Login;
    }

    /// The next line of the exchange. None: it was answered, and the exchange is over.
    pub(super) fn next_response(&mut self) -> Option<Step> {
        // The challenge first: the client waits for it.
        if !self.output.is_empty() {
            return Some(self.send());
        }
        let response = match self.lines.next_line_within(RESPONSE_SIZE_MAX) {
            None => return Some(Step::NeedInput),
            Some(Line::Text(b"*")) => Err(replies::AUTH_CANCELLED),
            Some(Line::Text(text)) => Secret::decode(text).ok_or(replies::BAD_BASE64),
            Some(Line::Malformed) => Err(replies::LINE_MALFORMED),
            Some(Line::TooLong) => Err(replies::RESPONSE_TOO_LONG),
        };
        match response {
            Ok(response) => Some(self.ask(Pending::Login, Question::Response(response))),
            Err(reply) => {
                self.resume(Stage::Ready);
                self.bad(reply);
                None
            }
        }
    }

    /// Counts a login that failed; true if it was one too many and the session ends.
    pub(super) fn count_failed_login(&mut self) -> bool {
        self.failed_logins += 1;
        if self.failed_logins < self.settings.failed_logins_max {
            return false;
        }
        self.close(replies::TOO_MANY_LOGINS);
        true
    }
}
