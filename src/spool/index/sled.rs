//! The catalogue in sled.
//!
//! sled's own flush is not safe against power loss, and a damaged database may panic: every call is fenced, its file is synced by us,
//! and whoever gets an error builds the index anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::sled::{Batch, Config, Db};

use super::IndexError;
use super::catalogue::{Catalogue, CatalogueFactory};

/// How sled says that its lock is taken: it has no error kind for that.
const LOCK_TAKEN: &str = "could not acquire lock";
/// How often, and after which pause, a taken lock is tried again.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of sled's cache: a catalogue has some kilobytes a million messages.
const CACHE: u64 = 1 << 20;

/// A catalogue in sled.
struct SledCatalogue {
    /// None after an error: sled wants to be opened anew.
    db: Option<Db>,
    path: PathBuf,
}

/// Opens catalogues in a folder.
#[derive(Clone, Debug)]
pub struct SledCatalogueFactory {
    /// The folder.
    pub path: PathBuf,
}

impl From<::sled::Error> for IndexError {
    fn from(error: ::sled::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn config(path: &Path) -> Config {
    Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None)
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> IndexError {
    move |error| IndexError::Damaged(format!("{}: {error}", path.display()))
}

/// Runs something that may panic on a damaged database.
fn fenced<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(IndexError::Damaged("sled panicked".to_owned())))
}

impl CatalogueFactory for SledCatalogueFactory {
    fn open(&self) -> Result<Box<dyn Catalogue>, IndexError> {
        fenced(|| {
            let db = open_when_free(&config(&self.path))?;
            // The names of what sled has made; it syncs none.
            for folder in [Some(&*self.path), self.path.parent()].into_iter().flatten() {
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(io(folder))?;
            }
            Ok(Box::new(SledCatalogue { db: Some(db), path: self.path.clone() }) as Box<dyn Catalogue>)
        })
    }

    fn set_aside(&self, to: Option<&Path>) -> Result<(), IndexError> {
        let done = match (to, self.path.file_name()) {
            (Some(to), Some(name)) => std::fs::rename(&self.path, to.join(name)),
            _ => std::fs::remove_dir_all(&self.path),
        };
        match done {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

/// sled's own threads let go of its lock a moment after the last handle was dropped: one that reopens must wait for that.
fn open_when_free(config: &Config) -> Result<Db, ::sled::Error> {
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(::sled::Error::Io(error)) if error.to_string().starts_with(LOCK_TAKEN) => std::thread::park_timeout(LOCK_PAUSE),
            opened => return opened,
        }
    }
    config.open()
}

impl SledCatalogue {
    fn db(&self) -> Result<Db, IndexError> {
        match &self.db {
            Some(db) => Ok(db.clone()),
            None => Ok(open_when_free(&config(&self.path))?),
        }
    }

    fn try_save(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        let db = self.db()?;
        db.apply_batch(batch)?;
        db.flush()?;
        // What sled leaves out: the drive's cache and the file's length.
        let path = self.path.join("db");
        File::open(&path).and_then(|file| file.sync_data()).map_err(io(&path))?;
        self.db = Some(db);
        Ok(())
    }
}

impl Catalogue for SledCatalogue {
    fn load(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, IndexError> {
        fenced(|| {
            let pairs = self.db()?.iter().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
            Ok(pairs.collect::<Result<_, _>>()?)
        })
    }

    fn save(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), IndexError> {
        fenced(|| self.try_save(changes)).map_err(|error| {
            self.db = None;
            // What was saved before is still there, or else the next who opens it will see.
            IndexError::Unwritable(error.to_string())
        })
    }
}
