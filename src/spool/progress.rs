//! How far long work on a spool has come.

use std::sync::Arc;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The log is read; counted in bytes.
    Log,
    /// The index is compared with the log; counted in messages.
    Index,
    /// Content files are read; counted in messages.
    Content,
    /// Messages are written to a folder; counted in messages.
    Export,
    /// Messages are read from a folder; counted in messages.
    Import,
}

impl Phase {
    /// As it stands in the mail log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "index",
            Self::Content => "content",
            Self::Export => "export",
            Self::Import => "import",
        }
    }

    /// Whether it is counted in bytes, and not in messages.
    pub fn is_bytes(self) -> bool {
        self == Self::Log
    }
}

/// How far a phase has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes or messages that are done.
    pub done: u64,
    /// Of so many, as far as is known.
    pub total: u64,
}

/// Is told how far work has come: about once for each `STEP_BYTES` or `STEP_MESSAGES`. Called in the middle of it; must not block.
pub type Watcher = Arc<dyn Fn(Progress) + Send + Sync>;

/// So many bytes lie between two reports.
const STEP_BYTES: u64 = 1 << 20;
/// So many messages lie between two reports.
const STEP_MESSAGES: u64 = 64;

/// Nobody is told.
pub(super) fn unwatched() -> Watcher {
    Arc::new(|_| {})
}

/// Counts a phase, and tells at a bounded rate.
pub(crate) struct Meter {
    watcher: Watcher,
    phase: Phase,
    done: u64,
    total: u64,
    next: u64,
}

impl Meter {
    pub(crate) fn new(watcher: &Watcher, phase: Phase, total: u64) -> Self {
        Self { watcher: watcher.clone(), phase, done: 0, total, next: 0 }
    }

    /// So much more is done.
    pub(crate) fn add(&mut self, more: u64) {
        self.done += more;
        if self.done >= self.next {
            self.next = self.done + if self.phase.is_bytes() { STEP_BYTES } else { STEP_MESSAGES };
            self.tell();
        }
    }

    /// Tells that the end is reached, should something still follow that isn't counted.
    pub(crate) fn end(&mut self) {
        self.done = self.done.max(self.total);
        self.tell();
    }

    fn tell(&self) {
        (self.watcher)(Progress { phase: self.phase, done: self.done, total: self.total.max(self.done) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn reports_come_at_a_bounded_rate() {
        let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
        let list = told.clone();
        let watcher: Watcher = Arc::new(move |progress| list.lock().unwrap().push(progress));
        let mut meter = Meter::new(&watcher, Phase::Content, 1000);
        (0..1000).for_each(|_| meter.add(1));
        meter.end();
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 17);
        assert_eq!(told[16], Progress { phase: Phase::Content, done: 1000, total: 1000 });
        assert_eq!(told[1], Progress { phase: Phase::Content, done: 65, total: 1000 });
    }
}
