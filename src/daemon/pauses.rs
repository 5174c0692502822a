//! What is paused, kept in a small file in the spool so that it outlives a restart.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mail::Domain;
use crate::system::System;

/// Far more than any list of paused domains; bytes.
const FILE_SIZE_MAX: u64 = 16 * 1024 * 1024;

/// Where delivery attempts are stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pauses {
    pub(super) all: bool,
    pub(super) domains: BTreeSet<Domain>,
}

fn file(spool: &Path) -> PathBuf {
    spool.join("paused.json")
}

impl Pauses {
    /// What was paused when the server last ran; nothing if the file isn't there.
    pub(super) fn load(system: &System, spool: &Path) -> io::Result<Self> {
        let path = file(spool);
        if !system.disk.exists(&path) {
            return Ok(Self::default());
        }
        let bytes = system.disk.read(&path, FILE_SIZE_MAX)?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    /// Makes it durable.
    pub(super) async fn save(&self, system: &System, spool: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        let (disk, path) = (system.disk.clone(), file(spool));
        system.workers.blocking(move || disk.replace(&path, &bytes)).await
    }
}
