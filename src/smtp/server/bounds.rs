//! What a session may take of time and commands, and which bound it broke.

use std::time::Duration;

use super::state::{Phase, Stage};
use super::{Session, Settings, replies};

/// A bound that ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Octets came before the greeting.
    Early,
    /// [`super::Settings::errors_max`]
    Errors,
    /// [`super::Settings::commands_max`]
    Commands,
    /// [`super::Settings::hello_timeout`]
    Hello,
    /// [`super::Settings::command_timeout`]
    Command,
    /// [`super::Settings::data_timeout`]
    Data,
    /// [`super::Settings::data_pace`]
    Pace,
    /// [`super::Settings::transaction_timeout`]
    Transaction,
}

impl Settings {
    /// How long so many octets of content may take.
    pub(super) fn time_for(&self, octets: usize) -> Duration {
        Duration::from_secs(1) * u32::try_from(octets).unwrap_or(u32::MAX) / self.data_pace.max(1)
    }
}

impl Session {
    /// Lets time pass: if the deadline is over, the client gets 421 and the session ends.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        if let Some((due, bound)) = self.due()
            && due <= now
        {
            self.break_off(bound, replies::TIMED_OUT);
        }
    }

    /// When [`Session::tick`] has something to do. None while the client isn't to be waited for.
    pub fn deadline(&self) -> Option<Duration> {
        self.due().map(|(due, _)| due)
    }

    /// The bound that ended the session, if one did.
    pub fn broken(&self) -> Option<Bound> {
        self.broken
    }

    fn due(&self) -> Option<(Duration, Bound)> {
        let due = match &self.phase {
            Phase::Command(Stage::Strange) => (self.command_due, Bound::Command).min_due((self.hello_due, Bound::Hello)),
            Phase::Command(Stage::Chunks) => {
                let due = self.chunks.as_ref().map_or(self.command_due, |chunks| chunks.due);
                (self.command_due, Bound::Command).min_due((due, Bound::Data))
            }
            Phase::Command(_) | Phase::Login => (self.command_due, Bound::Command),
            Phase::Content(content) => {
                let idle = (content.idle_due, Bound::Command);
                idle.min_due((content.due, Bound::Data)).min_due((content.pace_due, Bound::Pace))
            }
            Phase::Chunk(chunk) => {
                let due = self.chunks.as_ref().map_or(chunk.due, |chunks| chunks.due);
                let idle = (chunk.idle_due, Bound::Command);
                idle.min_due((due, Bound::Data)).min_due((chunk.pace_due, Bound::Pace))
            }
            Phase::Opening { .. } | Phase::Waiting(_) | Phase::Securing | Phase::Closing => return None,
        };
        Some(due.min_due((self.transaction_due, Bound::Transaction)))
    }

    /// The client was greeted.
    pub(super) fn greeted(&mut self) {
        self.hello_due = self.now + self.settings.hello_timeout;
        self.message_over();
    }

    /// A message is over, taken or not: the next has its own time and commands.
    pub(super) fn message_over(&mut self) {
        self.transaction_due = self.now + self.settings.transaction_timeout;
        self.commands = 0;
    }

    /// Counts a command line; false if it was one too many and the session ends.
    pub(super) fn count_command(&mut self) -> bool {
        if self.commands >= self.settings.commands_max {
            self.break_off(Bound::Commands, replies::TOO_MANY_COMMANDS);
            return false;
        }
        self.commands += 1;
        true
    }

    /// The command just counted was none that a client may have too many of.
    pub(super) fn uncount_command(&mut self) {
        self.commands = self.commands.saturating_sub(1);
    }

    /// Last words to a client that broke a bound.
    pub(super) fn break_off(&mut self, bound: Bound, reply: &str) {
        self.broken = Some(bound);
        self.close(reply);
    }
}

/// The earlier of two deadlines.
trait Earlier {
    fn min_due(self, other: Self) -> Self;
}

impl Earlier for (Duration, Bound) {
    fn min_due(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}
