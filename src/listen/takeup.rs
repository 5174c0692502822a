//! Takes mail up that `posthouse sendmail` left in the drop folder: what waited while the server was down, and what comes while
//! it runs. Owns the moves of the files.
//!
//! Nothing is lost and nothing doubled, wherever a crash falls. A file first gets the name of the id that its message will have
//! (`taken/ID.…`), then the message is committed, then the file goes, and only then is the message delivered. So at a start a
//! file there whose message is in the spool is done with, and any other one isn't in the spool.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::intake::{Intake, Refusal};
use super::{Reception, stopped};
use crate::event::Event;
use crate::mail::QueueId;
use crate::maildrop::{Dropped, Layout, Named, OpenError, named, taken_name};
use crate::system::FolderWatch;

/// The folder is looked into at least so often.
const RESCAN: Duration = Duration::from_secs(30);
/// Files that are looked at in one go.
const SCAN_MAX: usize = 1000;
/// Refused files that are kept; more stay where they are.
const REFUSED_MAX: usize = 1000;
/// Names that are remembered as told of.
const TOLD_MAX: usize = 10_000;
/// A file that was begun so long ago, and not ended, never will be.
const GIVEN_UP: Duration = Duration::from_secs(2 * 86_400);

/// The drop folder, as the server sees it.
pub struct TakeUp {
    reception: Reception,
    layout: Layout,
    /// Files that are left where they lie; each is told of once.
    told: BTreeSet<String>,
    /// Why mail has to wait, if it has: told when it changes.
    waits: Option<String>,
}

/// A file to take up.
struct Found {
    /// The name that it had in the drop folder.
    name: String,
    /// Where it lies.
    path: PathBuf,
}

impl TakeUp {
    /// Makes the folder ready and clears up what a crash left, before anything is delivered. None if the folder can't be had; the
    /// mail log says why.
    pub async fn prepare(reception: Reception, folder: &Path) -> Option<Self> {
        let mut take_up = Self { reception, layout: Layout::new(folder), told: BTreeSet::new(), waits: None };
        let (layout, disk) = (take_up.layout.clone(), Arc::clone(&take_up.reception.system.disk));
        if let Err(error) = take_up.reception.system.workers.blocking(move || layout.make(&*disk)).await {
            take_up.trouble("can't be made", &error);
            return None;
        }
        let spool = take_up.reception.rules.borrow().config.spool.path.clone();
        if let Err(error) = take_up.layout.share(&*take_up.reception.system.disk, &spool) {
            take_up.trouble("can't be opened to this machine's users (docs/sendmail.md)", &error);
        }
        match take_up.settle().await {
            Ok(()) => Some(take_up),
            Err(error) => {
                take_up.trouble("can't be read", &error);
                None
            }
        }
    }

    /// Takes up whatever is there and whatever comes, until `stop`.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut watch = match self.reception.system.disk.watch(&self.layout.folder) {
            Ok(watch) => watch,
            Err(error) => {
                self.trouble("can't be watched; it is looked into now and then", &error);
                None
            }
        };
        loop {
            if let Err(error) = self.scan(&stop).await {
                self.trouble("can't be read", &error);
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = changed(&mut watch) => {}
                () = tokio::time::sleep(RESCAN) => {}
            }
        }
    }

    /// Clears up behind a crash: of each file one name is left, and none of those whose message is in the spool.
    async fn settle(&mut self) -> io::Result<()> {
        let disk = Arc::clone(&self.reception.system.disk);
        let mut files: BTreeMap<String, Vec<QueueId>> = BTreeMap::new();
        for file in disk.list(&self.layout.taken)? {
            if let Some((id, name)) = taken_name(&file) {
                files.entry(name.to_owned()).or_default().push(id);
            }
        }
        for (name, ids) in files {
            let mut kept = None;
            let mut is_in = false;
            for id in &ids {
                match self.reception.spool.message(*id).await {
                    Ok(Some(_)) => is_in = true,
                    Ok(None) => {}
                    // Better late than twice.
                    Err(error) => return Err(io::Error::other(error.to_string())),
                }
            }
            for id in ids {
                if is_in || kept.is_some() {
                    disk.unlink(&self.layout.taken_file(id, &name))?;
                } else {
                    kept = Some(id);
                }
            }
            // A crash may have left both names of one file.
            let first = self.layout.folder.join(&name);
            if disk.exists(&first) {
                disk.unlink(&first)?;
            }
        }
        disk.sync_dir(&self.layout.taken)?;
        disk.sync_dir(&self.layout.folder)
    }

    /// Takes up all that is there now. What has to wait ends it: the next one comes soon enough.
    async fn scan(&mut self, stop: &watch::Receiver<bool>) -> io::Result<()> {
        for file in self.reception.system.disk.list_some(&self.layout.taken, SCAN_MAX)? {
            if let Some((_, name)) = taken_name(&file) {
                let found = Found { name: name.to_owned(), path: self.layout.taken.join(&file) };
                if !self.told.contains(&found.name) && (*stop.borrow() || !self.take(found).await?) {
                    return Ok(());
                }
            }
        }
        loop {
            let names = self.reception.system.disk.list_some(&self.layout.folder, SCAN_MAX)?;
            let is_all = names.len() < SCAN_MAX;
            let mut taken = false;
            for name in names {
                match named(&name) {
                    Named::Whole if !self.told.contains(&name) => {
                        let path = self.layout.folder.join(&name);
                        if *stop.borrow() || !self.take(Found { name, path }).await? {
                            return Ok(());
                        }
                        taken = true;
                    }
                    Named::Unfinished => self.sweep(&self.layout.folder.join(&name)),
                    Named::Whole | Named::Foreign => {}
                }
            }
            if is_all || !taken {
                return Ok(());
            }
        }
    }

    /// Removes a file that was begun and given up.
    fn sweep(&self, path: &Path) {
        let system = &self.reception.system;
        let Ok((_, origin)) = system.disk.open_strange(path) else { return };
        if system.clock.now().since(origin.modified) > GIVEN_UP {
            // It stays, then, and takes its place.
            let _ = system.disk.unlink(path);
        }
    }

    /// Takes one file up, or sets it aside. False: it has to wait, and so have the others.
    async fn take(&mut self, found: Found) -> io::Result<bool> {
        let (disk, path) = (Arc::clone(&self.reception.system.disk), found.path.clone());
        let opened = self.reception.system.workers.blocking(move || Ok(Dropped::open(&*disk, &path))).await?;
        let dropped = match opened {
            Ok(dropped) => Arc::new(dropped),
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(OpenError::Io(error)) => {
                let why = format!("{} can't be read", found.name);
                self.trouble(&why, &error);
                self.leave(&found.name);
                return Ok(true);
            }
            Err(OpenError::Wrong(why)) => {
                self.refuse(&found, why)?;
                return Ok(true);
            }
        };
        let reception = self.reception.clone();
        let rules = reception.rules.borrow().clone();
        let mut intake = Intake::new(&reception, &rules);
        let said = match intake.say(&dropped).await {
            Ok(id) => self.commit(&mut intake, id, &found, dropped.origin().user).await,
            Err(refusal) => Err((refusal, found)),
        };
        match said {
            Ok(()) => {
                self.waits = None;
                Ok(true)
            }
            Err((Refusal::Never(why), found)) => {
                self.refuse(&found, &why)?;
                Ok(true)
            }
            Err((Refusal::Later(why), _)) => {
                if self.waits.as_ref() != Some(&why) {
                    self.trouble("has mail that can't be taken up now", &io::Error::other(why.clone()));
                    self.waits = Some(why);
                }
                Ok(false)
            }
        }
    }

    /// The exact order is what the module's text promises.
    async fn commit(&mut self, intake: &mut Intake<'_>, id: QueueId, found: &Found, user: u32) -> Result<(), (Refusal, Found)> {
        let disk = Arc::clone(&self.reception.system.disk);
        let workers = self.reception.system.workers;
        let taken = self.layout.taken_file(id, &found.name);
        let here = |path: &Path| Found { name: found.name.clone(), path: path.to_owned() };
        let (mover, from, to, layout) = (Arc::clone(&disk), found.path.clone(), taken.clone(), self.layout.clone());
        let moved = move || {
            mover.rename(&from, &to)?;
            mover.sync_dir(&layout.taken)?;
            mover.sync_dir(&layout.folder)
        };
        workers.blocking(moved).await.map_err(|error| (Refusal::Later(error.to_string()), here(&found.path)))?;
        let message = intake.commit().await.map_err(|refusal| (refusal, here(&taken)))?;
        let (remover, path, folder) = (disk, taken.clone(), self.layout.taken.clone());
        let removed = workers.blocking(move || remover.unlink(&path).and_then(|()| remover.sync_dir(&folder))).await;
        if let Err(error) = removed {
            self.trouble(&format!("{} was taken up, but can't be removed; remove it by hand", taken.display()), &error);
            self.leave(&found.name);
        }
        self.reception.events.report(Event::TakenUp { id, user: user.to_string(), path: found.name.clone() });
        intake.committed(&message);
        Ok(())
    }

    /// Moves a file out of the way.
    fn refuse(&mut self, found: &Found, why: &str) -> io::Result<()> {
        let disk = &self.reception.system.disk;
        let mut to = found.path.clone();
        if disk.list_some(&self.layout.refused, REFUSED_MAX)?.len() < REFUSED_MAX {
            to = self.layout.refused.join(&found.name);
            disk.rename(&found.path, &to)?;
            disk.sync_dir(&self.layout.refused)?;
            disk.sync_dir(&self.layout.folder)?;
        } else {
            self.leave(&found.name);
        }
        let (path, reason) = (to.display().to_string(), why.to_owned());
        self.reception.events.report(Event::DropRefused { path, reason });
        Ok(())
    }

    /// Remembers a file that stays where it is.
    fn leave(&mut self, name: &str) {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(name.to_owned());
    }

    fn trouble(&self, what: &str, error: &io::Error) {
        let (path, reason) = (self.layout.folder.display().to_string(), format!("{what}: {error}"));
        self.reception.events.report(Event::DropTrouble { path, reason });
    }
}

/// Waits until files came into the folder; for ever where nothing tells of that.
async fn changed(watch: &mut Option<Box<dyn FolderWatch>>) {
    let told = match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    };
    if told.is_err() {
        *watch = None;
    }
}
