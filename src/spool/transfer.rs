//! What an export and an import have in common: how files are named, what they count, what they have to say.

use std::path::Path;

use serde::Serialize;

use super::SpoolError;
use crate::mail::QueueId;
use crate::system::{Disk, sync_above};

/// Ends the name of a file with content.
pub(super) const CONTENT: &str = ".eml";
/// Ends the name of a file with an envelope.
pub(super) const ENVELOPE: &str = ".json";

/// What was done, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Messages that were written or taken up.
    pub messages: u64,
    /// Octets of their content.
    pub bytes: u64,
    /// Messages that were there already.
    pub skipped: u64,
    /// Messages that could not be taken along, and other troubles.
    pub failed: u64,
}

/// How serious a remark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gravity {
    /// A message is there already.
    Skipped,
    /// Something was not taken along.
    Failed,
}

/// Something that the operator must know of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// How serious it is.
    pub result: Gravity,
    /// The file or message it is about.
    pub name: String,
    /// What is the matter.
    pub reason: String,
}

impl Remark {
    pub(super) fn failed(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { result: Gravity::Failed, name: name.into(), reason: reason.into() }
    }

    pub(super) fn skipped(id: QueueId) -> Self {
        Self { result: Gravity::Skipped, name: id.to_string(), reason: "a message with this id is in the spool".to_owned() }
    }
}

impl Transfer {
    pub(super) fn count(&mut self, remark: &Remark) {
        match remark.result {
            Gravity::Skipped => self.skipped += 1,
            Gravity::Failed => self.failed += 1,
        }
    }
}

/// Makes a folder and what is missing of the path to it, durably.
pub(super) fn make_folder(disk: &dyn Disk, path: &Path) -> Result<(), SpoolError> {
    disk.create_dir_all(path).map_err(|error| SpoolError::io("can't make", path, &error))?;
    sync_above(disk, path).map_err(|error| SpoolError::io("can't sync the folders above", path, &error))
}
