//! How a session begins: greeting, hello, STARTTLS (RFC 3207), hello again. Owns nothing; the session's state is its own.

use std::time::Duration;

use super::super::Extensions;
use super::super::expected::Expected;
use super::super::step::StartTls;
use super::super::transaction::diagnosis;
use super::{Phase, Session};
use crate::mail::{Cause, Diagnosis, EnhancedCode, Reply};

impl Session {
    /// The TLS handshake was made. `verified`: the server has shown that it is the one we mean. Everything that it said in the
    /// clear is forgotten.
    pub fn secured(&mut self, now: Duration, verified: bool) {
        if self.phase == Phase::Securing {
            self.verified = Some(verified);
            self.extensions = Extensions::default();
            self.say_hello(now, if self.settings.lmtp { "LHLO" } else { "EHLO" }, Expected::Ehlo);
        }
    }

    /// The connection was encrypted before its first octet.
    pub fn encrypted(&mut self, verified: bool) {
        self.verified = Some(verified);
    }

    /// The TLS handshake failed, and the connection with it.
    pub fn unsecured(&mut self, _now: Duration, why: &str) {
        if self.phase == Phase::Securing {
            self.insecure = true;
            let text = format!("TLS can't be established: {why}");
            self.end(Diagnosis::new(EnhancedCode(4, 7, 5), Cause::Connection, text), true);
        }
    }

    /// Whether the session came to its end because TLS couldn't be had.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Whether the session came to its end because the server is ourselves.
    pub fn is_ourselves(&self) -> bool {
        self.ourselves
    }

    /// Why the session isn't encrypted, though the server had offered it.
    pub fn declined(&self) -> Option<&str> {
        self.declined.as_deref()
    }

    pub(super) fn hello_replied(&mut self, now: Duration, expected: Expected, reply: &Reply) {
        match (expected, self.settings.lmtp) {
            (Expected::Greeting, _) if self.settings.mark.as_ref().is_some_and(|mark| mark.is_greeting(&reply.text)) => {
                self.ourselves = true;
                let text = "mail loop: this host is ourselves, its greeting has our own mark";
                self.leave(Diagnosis::new(EnhancedCode(5, 4, 6), Cause::Local, text));
            }
            (Expected::Greeting, false) if reply.is_positive() => self.say_hello(now, "EHLO", Expected::Ehlo),
            (Expected::Greeting, true) if reply.is_positive() => self.say_hello(now, "LHLO", Expected::Ehlo),
            (Expected::Ehlo, false) if reply.code / 100 == 5 => self.say_hello(now, "HELO", Expected::Helo),
            (Expected::Ehlo | Expected::Helo, _) if reply.is_positive() => {
                if expected == Expected::Ehlo {
                    self.extensions = Extensions::parse(reply, self.verified == Some(true));
                }
                self.introduced(now);
            }
            (Expected::StartTls, _) if reply.code == 220 => (self.phase, self.deadline) = (Phase::Securing, None),
            (Expected::StartTls, _) if reply.code / 100 >= 4 && self.settings.starttls == StartTls::IfOffered => {
                self.declined = Some(format!("the server answered STARTTLS with {reply}"));
                self.log_in(now);
            }
            (Expected::StartTls, _) => self.without_tls(format!("the server answered STARTTLS with {reply}")),
            _ => self.leave(diagnosis(reply)),
        }
    }

    /// The server knows our name, and we know what it offers: now TLS, if it isn't on.
    fn introduced(&mut self, now: Duration) {
        match self.settings.starttls {
            _ if self.verified.is_some() => self.log_in(now),
            StartTls::IfOffered | StartTls::Always if self.extensions.starttls => {
                self.out.extend_from_slice(b"STARTTLS\r\n");
                self.expected.push_back(Expected::StartTls);
                self.wait(now);
            }
            StartTls::Never | StartTls::IfOffered => self.log_in(now),
            StartTls::Always => self.without_tls("the server doesn't offer STARTTLS, and TLS is required".to_owned()),
        }
    }

    pub(super) fn be_ready(&mut self) {
        (self.phase, self.deadline) = (Phase::Ready, None);
    }

    /// Without TLS nothing goes to this server.
    pub(super) fn without_tls(&mut self, text: String) {
        self.insecure = true;
        self.leave(Diagnosis::new(EnhancedCode(4, 7, 4), Cause::Remote, text));
    }

    pub(super) fn leave(&mut self, diagnosis: Diagnosis) {
        self.end(diagnosis, true);
        self.out.extend_from_slice(b"QUIT\r\n");
    }

    fn say_hello(&mut self, now: Duration, command: &str, expected: Expected) {
        self.phase = Phase::Hello;
        self.out.extend_from_slice(format!("{command} {}\r\n", self.settings.hello).as_bytes());
        self.expected.push_back(expected);
        self.wait(now);
    }
}
