//! The login, behind hello and TLS and before mail (RFC 4954). Owns nothing; the session's state is its own.
//!
//! Whatever goes wrong with it is for the admin to mend, so it never fails a message for good; and it goes wrong for all messages, so
//! the server counts as not reached: its mail waits until one attempt gets through.

use std::time::Duration;

use super::super::expected::Expected;
use super::super::login::{Answer, Exchange, Key};
use super::super::transaction::diagnosis;
use super::{Phase, Session};
use crate::mail::{Cause, Diagnosis, EnhancedCode, Reply};

impl Session {
    /// The server knows us by name, and the connection is as safe as it will be: now we log in, if we are to.
    pub(super) fn log_in(&mut self, now: Duration) {
        let Some(login) = &self.settings.login else { return self.be_ready() };
        if self.verified.is_none() && !login.in_clear {
            return self.without_tls("the connection isn't encrypted, so we don't log in".to_owned());
        }
        let Some((exchange, arguments)) = Exchange::begin(self.extensions.auth, login) else {
            let text = "the server offers no login that we know (SCRAM-SHA-256, PLAIN, LOGIN)";
            return self.leave(Diagnosis::new(EnhancedCode(4, 7, 4), Cause::Connection, text));
        };
        self.exchange = Some(exchange);
        self.say_of_login(now, &format!("AUTH {arguments}"));
    }

    pub(super) fn login_replied(&mut self, now: Duration, reply: &Reply) {
        let (Some(exchange), Some(login)) = (&mut self.exchange, &self.settings.login) else { return };
        match reply.code {
            235 if exchange.is_complete() => {
                self.exchange = None;
                self.be_ready();
            }
            235 => self.login_failed("it doesn't show that it knows the password", false),
            334 => match exchange.answer(login, &reply.text) {
                Ok(Answer::Say(answer)) => self.say_of_login(now, &answer),
                Ok(Answer::Work(work)) => (self.phase, self.deadline) = (Phase::Working(work), None),
                Err(why) => self.login_failed(why, true),
            },
            _ => {
                let refused = diagnosis(reply);
                let text = format!("the server refuses our login as {}: {}", login.name, refused.text);
                let status = EnhancedCode(4, 7, if reply.code / 100 == 5 { 8 } else { 0 });
                self.leave(Diagnosis { status, text, cause: Cause::Connection, ..refused });
            }
        }
    }

    /// The key of our password, as `Step::WorkOut` asks for it; or why there is none.
    pub fn worked_out(&mut self, now: Duration, key: Result<Key, &str>) {
        if !matches!(self.phase, Phase::Working(_)) {
            return;
        }
        self.phase = Phase::Hello;
        let Some(exchange) = &mut self.exchange else { return };
        match key.and_then(|key| exchange.prove(&key)) {
            Ok(answer) => self.say_of_login(now, &answer),
            Err(why) => self.login_failed(why, true),
        }
    }

    /// We don't go on with it, `in_exchange` or behind it.
    fn login_failed(&mut self, why: &str, in_exchange: bool) {
        let name = self.settings.login.as_ref().map_or("", |login| &login.name);
        let text = format!("our login as {name} comes to nothing: {why}");
        self.leave(Diagnosis::new(EnhancedCode(4, 7, 0), Cause::Connection, text));
        if in_exchange {
            // There the server takes nothing else for a command (RFC 4954 section 4).
            self.out.splice(..0, *b"*\r\n");
        }
    }

    fn say_of_login(&mut self, now: Duration, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.expected.push_back(Expected::Login);
        self.wait(now);
    }
}
