//! What is wrong with the configuration: where, what, and what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::Origin;

/// One thing that is wrong. Displays as `FILE: KEY: WHAT; REMEDY`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file or environment variable.
    pub source: String,
    /// The key (`limits.message_size`, `listener[1].address`) or line (`line 12`); empty if it is the whole file.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// What kind of trouble it is.
    #[serde(skip)]
    pub class: ProblemClass,
}

/// What kind of trouble a problem is: decides the exit status (sysexits.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemClass {
    /// We may not read or write something: 77.
    Permission,
    /// Something can't be made: 73.
    Create,
    /// What is written in the configuration is wrong: 78.
    Config,
}

impl ProblemClass {
    /// Of an error of the operating system.
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::Permission } else { Self::Config }
    }

    /// The exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Permission => 77,
            Self::Create => 73,
            Self::Config => 78,
        }
    }
}

impl Problem {
    /// A wrong value or key.
    pub fn new(source: impl Into<String>, key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let class = ProblemClass::Config;
        Self { source: source.into(), key: key.into(), what: what.into(), remedy: remedy.into(), class }
    }

    /// A file that can't be read.
    pub fn unreadable(path: &Path, error: &io::Error, remedy: impl Into<String>) -> Self {
        let class = ProblemClass::of(error);
        let what = match error.kind() {
            io::ErrorKind::NotFound => "the file does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "we have no permission to read the file".to_owned(),
            _ => format!("the file can't be read: {error}"),
        };
        Self { class, ..Self::new(path.display().to_string(), "", what, remedy) }
    }

    /// The exit status for a list of problems: the gravest one's; 0 for none.
    pub fn exit_status(problems: &[Problem]) -> u8 {
        problems.iter().map(|problem| problem.class).max().map_or(0, ProblemClass::exit_status)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.source, &self.key].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// A value's fault, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }

    pub(super) fn at(self, origin: &Origin, key: impl Into<String>) -> Problem {
        Problem::new(origin.to_string(), key, self.what, self.remedy)
    }
}
