//! What is different in LMTP (RFC 2033): LHLO instead of HELO and EHLO, and behind the content a reply for each recipient.

use super::{Session, replies};
use crate::mail::Service;

impl Session {
    pub(super) fn is_lmtp(&self) -> bool {
        self.settings.service == Service::Lmtp
    }

    /// As the greeting names it.
    pub(super) fn protocol(&self) -> &'static str {
        if self.is_lmtp() { "LMTP" } else { "ESMTP" }
    }

    pub(super) fn hello_first(&self) -> &'static str {
        if self.is_lmtp() { replies::LHLO_FIRST } else { replies::HELLO_FIRST }
    }

    /// Every recipient was refused: RFC 2033 section 4.2 wants 503 for that, too.
    pub(super) fn no_valid_recipients(&self) -> &'static str {
        if self.is_lmtp() { replies::RECIPIENT_FIRST } else { replies::NO_VALID_RECIPIENTS }
    }

    /// How many replies the end of a message has: in LMTP one for each accepted RCPT, also for those that gave the same path (RFC
    /// 2033 section 4.2). They are the same for all: what a single recipient is refused for was said at its RCPT, and the spool
    /// keeps a message for all of its recipients or not at all.
    pub(super) fn replies(&self) -> usize {
        if self.is_lmtp() { self.recipients.max(1) } else { 1 }
    }

    /// Says it to every recipient.
    pub(super) fn say_to_each(&mut self, reply: &str) {
        for _ in 0..self.replies() {
            self.say(reply);
        }
    }
}
