//! A private folder for a short time.

use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, Entropy, SystemDisk};

/// A fresh folder, for our own user only; it and all in it goes when this is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one among the system's temporary files.
    pub fn new(entropy: &dyn Entropy) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("posthouse-{:016x}", entropy.next_u64()));
        // Somebody else's folder of that name would not be private.
        if SystemDisk.exists(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        SystemDisk.create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The system clears its temporary files up in the end.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
