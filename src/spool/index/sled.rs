//! The catalogue in sled.
//!
//! sled's own flush is not safe against power loss, a damaged database may panic, and what a kill leaves half-written it takes for
//! damage: every call is fenced, its files are synced by us, unfinished ones are cleared before it looks at them, and whoever still
//! gets an error builds the index anew.

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

/// sled's settings, a checksum behind them. Written once, at the first start.
const SETTINGS: &str = "conf";

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
            let db = open(&self.path)?;
            // What sled has made and doesn't sync: its settings, and names.
            for made in [Some(&*self.path.join(SETTINGS)), Some(&*self.path), self.path.parent()].into_iter().flatten() {
                File::open(made).and_then(|made| made.sync_all()).map_err(io(made))?;
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

fn open(path: &Path) -> Result<Db, IndexError> {
    clear_unfinished(path).map_err(io(path))?;
    Ok(open_when_free(&config(path))?)
}

/// Removes what sled was killed over. It takes its newest snapshot for damaged though it had never given it its final name, and
/// settings without their checksum for others.
fn clear_unfinished(folder: &Path) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let settings = folder.join(SETTINGS);
    match std::fs::read(&settings) {
        Ok(bytes) if !is_finished(&bytes) => std::fs::remove_file(settings),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_finished(settings: &[u8]) -> bool {
    settings.split_last_chunk().is_some_and(|(text, checksum)| crc32fast::hash(text) == u32::from_le_bytes(*checksum))
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
            None => open(&self.path),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(factory: &SledCatalogueFactory) {
        factory.open().unwrap().save(&[(b"key".to_vec(), Some(b"value".to_vec()))]).unwrap();
    }

    fn loaded(factory: &SledCatalogueFactory) -> usize {
        factory.open().unwrap().load().unwrap().len()
    }

    #[test]
    fn a_snapshot_that_sled_was_killed_over_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let factory = SledCatalogueFactory { path: folder.path().join("catalogue") };
        saved(&factory);
        for unfinished in [&b""[..], b"half of a snapshot"] {
            let path = factory.path.join("snap.00000000FFFFFFFF.generating");
            std::fs::write(&path, unfinished).unwrap();
            assert_eq!(loaded(&factory), 1);
            assert!(!path.exists());
        }
    }

    #[test]
    fn settings_that_sled_was_killed_over_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let factory = SledCatalogueFactory { path: folder.path().join("catalogue") };
        saved(&factory);
        let settings = factory.path.join(SETTINGS);
        let whole = std::fs::read(&settings).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&settings, &whole[..length]).unwrap();
            assert_eq!(loaded(&factory), 1, "{length} bytes");
            assert_eq!(std::fs::read(&settings).unwrap(), whole, "{length} bytes");
        }
    }
}
