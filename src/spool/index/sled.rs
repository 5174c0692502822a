//! The index on disk: sled, one tree, a prefix a key family.

use std::path::PathBuf;

use super::{Index, IndexError, IndexFactory};
use crate::mail::Timestamp;

/// Parked messages in sled.
pub struct SledIndex {}

/// Opens the sled index in a folder.
#[derive(Clone, Debug)]
pub struct SledIndexFactory {
    /// The index folder, `spool/index`.
    pub path: PathBuf,
    /// Bytes of sled's cache.
    pub cache: u64,
}

#[allow(unused_variables)]
impl IndexFactory for SledIndexFactory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Err(IndexError(String::new()))
    }
    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        Ok(None)
    }
}
