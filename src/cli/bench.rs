//! A temporary folder for what the spool's tools can't hold in memory: an index read from the log, and a copy of the spool's own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::failure::{self, Failure};
use crate::config::Config;
use crate::spool::Workbench;
use crate::spool::index::{Index, IndexError, IndexFactory as _, RunIndexFactory};
use crate::system::{Entropy as _, SystemDisk, SystemEntropy};

/// Folders that stand in for the spool's, with an index each: of the log alone, and a copy of the spool's own.
const LOG: &str = "log";
const COPY: &str = "copy";
/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
/// An index that was just closed may write for another moment: how often its folder is removed again, and after which pause.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The folder, gone when it is dropped, or when a signal ends the program.
pub(super) struct Bench {
    folder: PathBuf,
    /// The spool's index.
    index: PathBuf,
    cache: u64,
}

impl Bench {
    /// A folder of its own below `TMPDIR`.
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        let name = format!("posthouse-{}-{:x}", std::process::id(), SystemEntropy.next_u64());
        let folder = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&folder).map_err(|error| {
            Failure::new(failure::CANT_CREATE, format!("can't make the temporary folder {}: {error}", folder.display()))
                .remedy("name a folder with enough room in the environment variable TMPDIR")
        })?;
        remove_at_signal(&folder)?;
        Ok(Self { folder, index: config.spool.path.join("index"), cache: config.spool.index_cache })
    }

    fn open(&self, name: &str) -> Result<Box<dyn Index>, IndexError> {
        RunIndexFactory::new(&self.folder.join(name), Arc::new(SystemDisk), self.cache).open()
    }
}

impl Workbench for Bench {
    fn empty(&self) -> Result<Box<dyn Index>, IndexError> {
        self.open(LOG)
    }

    fn copy(&self) -> Result<Option<Box<dyn Index>>, IndexError> {
        if !self.index.exists() {
            return Ok(None);
        }
        let to = self.folder.join(COPY).join("index");
        let copied = copy(&self.index, &to);
        copied.map_err(|error| IndexError::Damaged(format!("it can't be copied to {}: {error}", to.display())))?;
        self.open(COPY).map(Some)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::park_timeout(PAUSE),
                _ => return,
            }
        }
        failure::note(&format!("the temporary folder {} is left: remove it", self.folder.display()));
    }
}

/// Copies a folder and all below it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Reading a spool changes nothing: a signal may end it at any moment, but not leave the folder behind.
fn remove_at_signal(folder: &Path) -> Result<(), Failure> {
    let cant = |error: io::Error| Failure::new(failure::UNAVAILABLE, format!("can't take signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(cant)?;
    let folder = folder.to_owned();
    let wait = move || {
        let asked = runtime.block_on(async {
            let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                biased;
                asked = tokio::signal::ctrl_c() => asked,
                _ = stop.recv() => Ok(()),
            }
        });
        if asked.is_ok() {
            // What can't be removed can't be helped now.
            let _ = fs::remove_dir_all(&folder);
            std::process::exit(INTERRUPTED);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(|_| ()).map_err(cant)
}
