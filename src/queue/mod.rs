//! The plan: which recipients are tried when, at which destination, and what an outcome means for them.
//!
//! Everything here is pure: time comes in as a value, decisions go out as steps and updates. The truth stays in the spool; the
//! scheduler holds only what is ready or in flight and can be rebuilt from it at any moment.

mod away;
mod backoff;
mod company;
mod crowd;
mod due;
mod entry;
mod fair;
mod health;
mod line;
mod lines;
mod plan;
mod pools;
mod postpone;
mod report;
mod scheduler;
mod shares;
mod sites;
mod sources;
mod state;
mod step;
mod still;
mod tempo;
mod verb;
mod verdict;

pub use backoff::{backoff, wait_max};
pub use due::{due_at, expires_at};
pub use entry::LAST_CHANCE;
pub use health::Down;
pub use pools::Pools;
pub use postpone::waits_for_site;
pub use report::Report;
pub use scheduler::{Scheduler, Settings};
pub use state::{SiteState, SourceState, Why};
pub use step::{Attempt, AttemptId, Step};
pub use verb::Verb;
pub use verdict::Verdict;

#[cfg(test)]
mod tests;
