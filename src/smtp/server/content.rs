//! The content of a message on its way through the session: taken out of its dots, counted, handed on in pieces.

use std::time::Duration;

use super::state::{Content, Pending, Phase, Stage};
use super::{Question, Session, Settings, Step, replies};
use crate::smtp::data;
use crate::smtp::hidden::HiddenEnds;

impl Content {
    pub(super) fn new(now: Duration, settings: &Settings) -> Self {
        Self {
            receiver: data::Receiver::new(),
            hidden: HiddenEnds::default(),
            size: 0,
            ready: Vec::new(),
            ended: false,
            discarded: false,
            due: now + settings.data_timeout,
            idle_due: now + settings.command_timeout,
            pace_due: now + settings.command_timeout,
        }
    }

    /// Takes octets from the wire up to the end of the message; returns how many.
    pub(super) fn take(&mut self, octets: &[u8], now: Duration, settings: &Settings) -> usize {
        let before = self.ready.len();
        // Two octets may have been held back.
        self.ready.reserve(octets.len() + 2);
        let end = self.receiver.receive(octets, &mut self.ready);
        self.size += (self.ready.len() - before) as u64;
        self.hidden.receive(&self.ready[before..]);
        if self.discarded {
            self.ready.clear();
        }
        self.ended = end.is_some();
        let used = end.unwrap_or(octets.len());
        self.idle_due = now + settings.command_timeout;
        self.pace_due += settings.time_for(used);
        used
    }
}

impl Session {
    /// The next step while content comes in. None: the message was refused, commands go on.
    pub(super) fn next_content(&mut self) -> Option<Step> {
        let Phase::Content(content) = &mut self.phase else { return None };
        // 354 first: the client waits for it.
        if !self.output.is_empty() {
            return Some(self.send());
        }
        if !content.ended && !self.lines.rest().is_empty() {
            let used = content.take(self.lines.rest(), self.now, &self.settings);
            self.lines.consume(used);
        }
        let bare_line_end = content.receiver.has_bare_line_end();
        let hidden_end = content.hidden.found(content.ended);
        let too_large = content.size > self.settings.size_max;
        if (bare_line_end || hidden_end || too_large) && !content.discarded {
            content.discarded = true;
            content.ready = Vec::new();
            return Some(Step::Discard);
        }
        if !content.ready.is_empty() {
            return Some(Step::Body(std::mem::take(&mut content.ready)));
        }
        if !content.ended {
            return Some(Step::NeedInput);
        }
        // Which of two faults is named must not depend on which piece showed it first.
        let fault = match (bare_line_end, hidden_end, too_large) {
            (true, ..) => Some(replies::BARE_LINE_END),
            (_, true, _) => Some(replies::HIDDEN_END),
            (.., true) => Some(replies::TOO_LARGE),
            _ => None,
        };
        if let Some(fault) = fault {
            self.say_to_each(fault);
            self.message_over();
            self.resume(Stage::Ready);
            return None;
        }
        Some(self.ask(Pending::Commit, Question::Commit))
    }
}
