//! Why a command failed: an exit status of sysexits.h, what is wrong, and what to do.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::may_colour;
use super::print::shown;
use crate::config::Problem;
use crate::control::ClientError;
use crate::spool::SpoolError;

/// The command was used wrongly.
pub(super) const USAGE: u8 = 64;
/// What was given is wrong: an unknown id, a bad password.
pub(super) const DATA: u8 = 65;
/// The server is not running, or can't be reached.
pub(super) const UNAVAILABLE: u8 = 69;
/// A bug.
pub(super) const SOFTWARE: u8 = 70;
/// A file, socket or port can't be made.
pub(super) const CANT_CREATE: u8 = 73;
/// Something can't be read or written.
pub(super) const IO: u8 = 74;
/// It may work later.
pub(super) const TRY_AGAIN: u8 = 75;
/// No permission.
pub(super) const NO_PERMISSION: u8 = 77;
/// The configuration is wrong.
pub(super) const CONFIG: u8 = 78;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit status.
    pub(super) status: u8,
    /// What is wrong, one thing a line; none: somebody closed our output, which is no failure.
    pub(super) problems: Vec<String>,
    pub(super) remedy: String,
}

impl Failure {
    pub(super) fn new(status: u8, problem: impl Into<String>) -> Self {
        Self { status, problems: vec![problem.into()], remedy: String::new() }
    }

    /// What to do about it.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// What to do about it, if nothing better is known.
    pub(super) fn remedy_if_none(self, remedy: &str) -> Self {
        if self.remedy.is_empty() { self.remedy(remedy) } else { self }
    }

    /// Everything that is wrong with configuration, users or aliases; each problem brings its remedy.
    pub(super) fn problems(problems: &[Problem]) -> Self {
        let status = Problem::exit_status(problems);
        Self { status, problems: problems.iter().map(ToString::to_string).collect(), remedy: String::new() }
    }

    /// Says it on standard error.
    pub(super) fn tell(&self) -> ExitCode {
        let mut out = io::stderr().lock();
        let (red, plain) = if may_colour(&out) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        for problem in &self.problems {
            for line in problem.lines() {
                // If nobody hears it, the status still says it.
                let _ = writeln!(out, "{red}posthouse:{plain} {}", shown(line));
            }
        }
        if !self.remedy.is_empty() {
            let _ = writeln!(out, "  {}", shown(&self.remedy));
        }
        ExitCode::from(self.status)
    }
}

/// Something that should be known and hinders nothing, on standard error.
pub(super) fn note(text: &str) {
    say(&format!("note: {}\n", shown(text)));
}

/// Words on standard error; that nobody hears them is no trouble.
pub(super) fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Trouble with our own output. A reader that has read enough (`| head`) is none.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { status: 0, problems: Vec::new(), remedy: String::new() };
        }
        Self::new(TRY_AGAIN, format!("can't write the output: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Output(error) => Self::from(error),
            ClientError::Refused(problems) => Self { status: TRY_AGAIN, problems, remedy: String::new() },
            ClientError::Forbidden(_) => {
                Self::new(NO_PERMISSION, error.to_string()).remedy("run this as root or as the user that the server runs as")
            }
            ClientError::NotRunning(_) => Self::new(UNAVAILABLE, error.to_string())
                .remedy("start it with `posthouse serve`; if it runs with another configuration, name that with --config FILE"),
            ClientError::Lost(_) => Self::new(UNAVAILABLE, error.to_string()).remedy("look at the server's log, and try again"),
        }
    }
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        let status = match error {
            SpoolError::Unknown(_) => DATA,
            SpoolError::Full => CANT_CREATE,
            _ => UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.status, failure.problems.len()), (0, 0));
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).status, TRY_AGAIN);
    }

    #[test]
    fn a_server_that_is_not_running_is_unavailable_with_a_remedy() {
        let failure = Failure::from(ClientError::NotRunning("spool/control.sock".into()));
        assert_eq!(failure.status, UNAVAILABLE);
        assert!(failure.remedy.contains("posthouse serve"));
    }
}
