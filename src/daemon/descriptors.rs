//! File descriptors: as many as the configuration needs are asked of the system, and no more connections taken than it gives.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::spool::Options;

/// For the spool's log, the listeners, control and web, libraries.
const OTHERS: u64 = 256;
/// An attempt's connection and the content that it reads.
const PER_ATTEMPT: u64 = 2;
/// Fewer connections than this are not worth a start that succeeds: they are tried all the same.
const CONNECTIONS_MIN: u64 = 16;

/// What the system gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Connections that they suffice for.
    pub connections_max: usize,
    /// What is wrong, in words for the admin; none if they suffice for what is configured.
    pub warning: Option<&'static str>,
}

/// Raises the process's limit as far as that is allowed: beyond the hard limit only to what the configuration needs.
pub fn raise_descriptors(config: &Config) -> Descriptors {
    let needs = Needs::new(config);
    let needed = needs.of(config.limits.connections as u64);
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let mut given = soft;
    // All that there is, as a reload may ask for more.
    if soft < needed.max(hard) {
        // Only root may go beyond the hard limit.
        for (current, maximum) in [(needed.max(hard), needed.max(hard)), (hard, hard), (needed.min(hard), hard)] {
            let wanted = Rlimit { current: Some(current), maximum: limit.maximum.map(|_| maximum) };
            if setrlimit(Resource::Nofile, wanted).is_ok() {
                given = current;
                break;
            }
        }
    }
    let connections_max = usize::try_from(needs.suffice_for(given)).unwrap_or(usize::MAX);
    let short = connections_max < config.limits.connections;
    let warning = short.then_some("fewer file descriptors (RLIMIT_NOFILE) than limits.connections needs; raise LimitNOFILE");
    Descriptors { connections_max, warning }
}

/// What takes descriptors besides connections, at the most.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// Whatever the number of connections.
    fixed: u64,
    /// Content files of messages that are coming in.
    files_max: u64,
}

impl Needs {
    fn new(config: &Config) -> Self {
        // Content beyond the spool's bound for memory has a file of its own: not more of them than fit into `in_flight`.
        let files_max = config.limits.in_flight / Options::INLINE_MAX as u64;
        Self { fixed: OTHERS + PER_ATTEMPT * config.queue.attempts as u64, files_max }
    }

    /// How many descriptors so many connections need.
    fn of(self, connections: u64) -> u64 {
        self.fixed + connections + connections.min(self.files_max)
    }

    /// How many connections so many descriptors suffice for.
    fn suffice_for(self, descriptors: u64) -> u64 {
        let left = descriptors.saturating_sub(self.fixed);
        let connections = if left >= 2 * self.files_max { left - self.files_max } else { left / 2 };
        connections.max(CONNECTIONS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_suffices_for_what_it_is_said_to() {
        let needs = Needs { fixed: 456, files_max: 100 };
        assert_eq!((needs.of(10), needs.of(1000)), (476, 1556));
        for descriptors in 500..3000 {
            let connections = needs.suffice_for(descriptors);
            assert!(needs.of(connections) <= descriptors, "{descriptors}: {connections}");
            assert!(needs.of(connections + 2) > descriptors, "{descriptors}: {connections}");
        }
        assert_eq!(needs.suffice_for(3), CONNECTIONS_MIN);
    }
}
