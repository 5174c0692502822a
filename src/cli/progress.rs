//! A progress bar on a terminal, for work that takes longer than a moment. Nothing is drawn where standard error is no terminal.

use std::fmt::Write;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::spool::{Phase, Progress, Watcher};

/// Work that is done sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(500);
/// Redrawn so often a second at the most.
const RATE: u8 = 10;
const BYTES: &str =
    "{msg} [{wide_bar}] {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const MESSAGES: &str = "{msg} [{wide_bar}] {percent:>3} %  {human_pos} of {human_len} messages, {rate}/s, {eta} left";

/// The bar, gone from the screen when it is dropped.
pub(super) struct Bar {
    bar: ProgressBar,
    shown: Arc<Mutex<Shown>>,
}

/// What of it is on the screen.
#[derive(Default)]
struct Shown {
    phase: Option<Phase>,
    visible: bool,
}

impl Bar {
    /// A bar that isn't shown yet; none where nobody looks.
    pub(super) fn for_terminal() -> Option<Self> {
        std::io::stderr().is_terminal().then(|| Self { bar: ProgressBar::hidden(), shown: Arc::default() })
    }

    /// What moves it.
    pub(super) fn watcher(&self) -> Watcher {
        let (bar, shown) = (self.bar.clone(), Arc::clone(&self.shown));
        Arc::new(move |progress| {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            move_to(&bar, &mut shown, progress);
        })
    }

    /// Prints something while the bar is out of the way.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn move_to(bar: &ProgressBar, shown: &mut Shown, Progress { phase, done, total }: Progress) {
    let long = shown.visible || bar.elapsed() >= PATIENCE;
    if shown.phase != Some(phase) {
        shown.phase = Some(phase);
        let template = if phase.is_bytes() { BYTES } else { MESSAGES };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            // If the terminal can't be written to, nobody sees the bar either.
            let _ = write!(out, "{:.0}", state.per_sec());
        });
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(words(phase));
        // The estimate of the time that is left begins anew; the time that has passed counts on for `long`.
        bar.reset_eta();
    }
    if long && !shown.visible {
        shown.visible = true;
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
    }
    bar.set_length(total);
    bar.set_position(done);
}

/// What is being done, in words.
fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Log => "reading the log",
        Phase::Index => "comparing the index",
        Phase::Content => "reading content",
        Phase::Export => "exporting",
        Phase::Import => "importing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_shows_no_bar_and_both_templates_are_sound() {
        for template in [BYTES, MESSAGES] {
            ProgressStyle::with_template(template).unwrap();
        }
        let bar = ProgressBar::hidden();
        let mut shown = Shown::default();
        move_to(&bar, &mut shown, Progress { phase: Phase::Log, done: 1, total: 2 });
        assert!(!shown.visible && bar.is_hidden());
        let bar = bar.with_elapsed(PATIENCE);
        move_to(&bar, &mut shown, Progress { phase: Phase::Content, done: 5, total: 7 });
        assert!(shown.visible);
        assert_eq!((bar.position(), bar.length(), bar.message()), (5, Some(7), "reading content".to_owned()));
    }
}
