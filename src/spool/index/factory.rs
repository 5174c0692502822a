//! Opens the index on disk, puts it out of the way, and keeps its folder tidy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::Cache;
use super::catalogue::{CatalogueFactory, Ledger, ListedRun};
use super::run::Run;
use super::runs::{Parts, RunIndex, name};
use super::{Index, IndexError, IndexFactory, SledCatalogueFactory};
use crate::mail::Timestamp;
use crate::system::Disk;

/// What is in memory usually goes into a run when it takes so many bytes.
const RECENT_SIZE_MAX: usize = 12 << 20;

/// Opens an index of runs.
pub struct RunIndexFactory {
    /// The index folder, `spool/index`.
    pub path: PathBuf,
    /// Where the runs lie.
    pub disk: Arc<dyn Disk>,
    /// Where the catalogue lies.
    pub catalogue: Box<dyn CatalogueFactory>,
    /// Bytes of the cache for blocks of runs.
    pub cache: u64,
    /// What is in memory goes into a run when it takes about so many bytes.
    pub recent_size_max: usize,
}

/// Folders below the index folder.
const RUNS: &str = "runs";
const CATALOGUE: &str = "catalogue";

fn number(text: &str) -> Option<u64> {
    let number = text.strip_suffix(".run")?.parse().ok()?;
    // One spelling a number.
    (name(number) == text && number < u64::MAX / 2).then_some(number)
}

impl RunIndexFactory {
    /// The usual index below a spool folder: sled keeps the catalogue.
    pub fn new(spool: &Path, disk: Arc<dyn Disk>, cache: u64) -> Self {
        let path = spool.join("index");
        let catalogue = Box::new(SledCatalogueFactory { path: path.join(CATALOGUE) });
        Self { path, disk, catalogue, cache, recent_size_max: RECENT_SIZE_MAX }
    }

    fn runs(&self) -> PathBuf {
        self.path.join(RUNS)
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> IndexError {
        IndexError::Damaged(format!("can't {what} {}: {error}", self.path.display()))
    }

    /// Run files that lie there.
    fn files(&self) -> Result<Vec<u64>, IndexError> {
        if !self.disk.exists(&self.runs()) {
            return Ok(Vec::new());
        }
        let names = self.disk.list(&self.runs()).map_err(|error| self.failed("list", &error))?;
        Ok(names.iter().filter_map(|name| number(name)).collect())
    }

    /// Whatever else lies in the folder: what other versions left there.
    fn strangers(&self) -> Result<Vec<String>, IndexError> {
        let names = self.disk.list(&self.path).map_err(|error| self.failed("list", &error))?;
        Ok(names.into_iter().filter(|name| name != RUNS && name != CATALOGUE).collect())
    }

    /// Whether a broken index lies there already.
    fn has_one_aside(&self) -> Result<bool, IndexError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let names = self.disk.list(folder).map_err(|error| self.failed("list what is beside", &error))?;
        let prefix = self.path.file_name().map(|name| format!("{}.bad-", name.to_string_lossy()));
        Ok(prefix.is_some_and(|prefix| names.iter().any(|name| name.starts_with(&prefix))))
    }

    fn free_name(&self, now: Timestamp) -> PathBuf {
        let mut number = now.as_millis();
        loop {
            let mut aside = self.path.clone().into_os_string();
            aside.push(format!(".bad-{number}"));
            let aside = PathBuf::from(aside);
            if !self.disk.exists(&aside) {
                return aside;
            }
            number += 1;
        }
    }
}

impl IndexFactory for RunIndexFactory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        let folder = self.runs();
        self.disk.create_dir_all(&folder).map_err(|error| self.failed("make", &error))?;
        self.disk.sync_dir(&self.path).map_err(|error| self.failed("sync", &error))?;
        if let Some(name) = self.strangers()?.first() {
            return Err(IndexError::Damaged(format!("it is of another version, which kept {name} there")));
        }
        let (ledger, listed) = Ledger::open(self.catalogue.open()?)?;
        let files = self.files()?;
        let last_number = files.iter().copied().max().unwrap_or(0);
        for number in files.into_iter().filter(|number| !listed.contains_key(number)) {
            // Made after the last mark, or replaced before it.
            let path = folder.join(name(number));
            self.disk.unlink(&path).map_err(|error| self.failed("clear", &error))?;
        }
        let cache = Arc::new(Cache::new(self.cache));
        let mut runs = BTreeMap::new();
        for (number, ListedRun { fingerprint, dead }) in listed {
            let mut run = Run::open(&*self.disk, &folder.join(name(number)), number, cache.clone())?;
            run.synced = true;
            if run.table.fingerprint() != fingerprint {
                return Err(IndexError::Damaged(format!("{} is not the one that its catalogue names", name(number))));
            }
            if !dead.iter().all(|(chunk, bytes)| run.dead.restore(*chunk, bytes)) {
                return Err(IndexError::Damaged("its catalogue has a damaged entry".to_owned()));
            }
            runs.insert(number, run);
        }
        let parts = Parts { disk: self.disk.clone(), folder, cache, ledger, runs, last_number };
        Ok(Box::new(RunIndex::new(parts, self.recent_size_max)))
    }

    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        if !self.disk.exists(&self.path) {
            return Ok(None);
        }
        if self.has_one_aside()? && self.strangers()?.is_empty() {
            // One is enough to find out what happened, and all that it says is in the log.
            self.discard()?;
            return Ok(None);
        }
        let aside = self.free_name(now);
        let to = aside.join(RUNS);
        self.disk.create_dir_all(&to).map_err(|error| self.failed("set aside", &error))?;
        for number in self.files()? {
            let (from, to) = (self.runs().join(name(number)), to.join(name(number)));
            self.disk.rename(&from, &to).map_err(|error| self.failed("set aside", &error))?;
        }
        for name in self.strangers()? {
            self.disk.rename(&self.path.join(&name), &aside.join(&name)).map_err(|error| self.failed("set aside", &error))?;
        }
        self.catalogue.set_aside(Some(&aside))?;
        Ok(Some(aside.display().to_string()))
    }

    fn discard(&self) -> Result<(), IndexError> {
        for number in self.files()? {
            self.disk.unlink(&self.runs().join(name(number))).map_err(|error| self.failed("clear", &error))?;
        }
        self.catalogue.set_aside(None)
    }
}
