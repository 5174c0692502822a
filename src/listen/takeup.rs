//! Takes mail up that `posthouse sendmail` left in the drop folder: what waited while the server was down, and what comes while
//! it runs. Owns the moves of the files.
//!
//! Nothing is lost and nothing doubled, wherever a crash falls. A file first gets the name of the id that its message will have
//! (`taken/ID.…`), then the message is committed, then the file goes, and only then is the message delivered. So at a start a
//! file there whose message is in the spool is done with, and any other one isn't in the spool. With a file that is refused it is the same: the
//! message is the notice of that, and the file goes to `refused/`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::intake::{Intake, Refusal};
use super::refused::Refused;
use super::{Reception, stopped};
use crate::event::{Event, NoticeKind};
use crate::mail::{HeaderScan, Message, QueueId, Recipient, ReversePath, Timestamp};
use crate::maildrop::{Dropped, End, Layout, Named, OpenError, named, taken_name};
use crate::notice::{Context, Notice};
use crate::spool::{Accept, Draft, SpoolError};
use crate::system::FolderWatch;

/// The folder is looked into at least so often.
const RESCAN: Duration = Duration::from_secs(30);
/// Files that are looked at in one go.
const SCAN_MAX: usize = 1000;
/// Refused files that are kept; more stay where they are, and nobody is told of them.
const REFUSED_MAX: usize = 1000;
/// Names that are remembered as told of.
const TOLD_MAX: usize = 10_000;
/// As much of a refused message's header is read for the notice; octets.
const HEADER_SIZE_MAX: usize = 64 * 1024;
/// A file that was begun so long ago, and not ended, never will be.
const GIVEN_UP: Duration = Duration::from_secs(2 * 86_400);

/// The drop folder, as the server sees it.
pub struct TakeUp {
    reception: Reception,
    layout: Layout,
    /// Files that are left where they lie; each is told of once.
    told: BTreeSet<String>,
    /// Files that couldn't be read, each told of once too, and when each is tried again.
    unread: BTreeMap<String, Duration>,
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
        let mut take_up =
            Self { reception, layout: Layout::new(folder), told: BTreeSet::new(), unread: BTreeMap::new(), waits: None };
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

    /// Clears up behind a crash: of each file one name is left, and none in `taken/` if what was committed for it is in the spool.
    async fn settle(&mut self) -> io::Result<()> {
        let disk = Arc::clone(&self.reception.system.disk);
        let mut files: BTreeMap<String, Vec<(QueueId, End)>> = BTreeMap::new();
        for file in disk.list(&self.layout.taken)? {
            if let Some((id, name, end)) = taken_name(&file) {
                files.entry(name.to_owned()).or_default().push((id, end));
            }
        }
        for (name, takings) in files {
            let mut ended = None;
            for (id, end) in &takings {
                match self.reception.spool.message(*id).await {
                    Ok(Some(_)) => ended = Some(*end),
                    Ok(None) => {}
                    // Better late than twice.
                    Err(error) => return Err(io::Error::other(error.to_string())),
                }
            }
            let mut takings = takings.into_iter().map(|(id, end)| self.layout.taken_file(id, &name, end));
            match (ended, takings.next()) {
                (Some(End::Kept), Some(file)) => disk.unlink(&file)?,
                (Some(End::Refused), Some(file)) => disk.rename(&file, &self.layout.refused.join(&name))?,
                (None, _) | (_, None) => {}
            }
            takings.try_for_each(|file| disk.unlink(&file))?;
            // A crash may have left both names of one file.
            let first = self.layout.folder.join(&name);
            if disk.exists(&first) {
                disk.unlink(&first)?;
            }
        }
        disk.sync_dir(&self.layout.refused)?;
        disk.sync_dir(&self.layout.taken)?;
        disk.sync_dir(&self.layout.folder)
    }

    /// Takes up all that is there now. What has to wait ends it: the next one comes soon enough.
    async fn scan(&mut self, stop: &watch::Receiver<bool>) -> io::Result<()> {
        for file in self.reception.system.disk.list_some(&self.layout.taken, SCAN_MAX)? {
            if let Some((_, name, _)) = taken_name(&file) {
                let found = Found { name: name.to_owned(), path: self.layout.taken.join(&file) };
                if !self.rests(&found.name) && (*stop.borrow() || !self.take(found).await?) {
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
                    Named::Whole if !self.rests(&name) => {
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
        let (dropped, said) = match opened {
            Ok(dropped) => {
                let dropped = Arc::new(dropped);
                (Some(Arc::clone(&dropped)), self.keep(&found, &dropped).await)
            }
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(OpenError::Io(error)) if !is_for_good(&error) => {
                (None, Err((Refusal::Unread(error.to_string()), found.path.clone())))
            }
            Err(error) => (None, Err((Refusal::Never(error.to_string()), found.path.clone()))),
        };
        let said = match said {
            Ok(()) => Ok(()),
            Err((Refusal::Later(why), _)) => Err(why),
            Err((Refusal::Never(why), path)) => self.refuse(&Found { path, ..found }, dropped, &why).await,
            Err((Refusal::Unread(why), _)) => {
                self.put_off(&found.name, why);
                Ok(())
            }
        };
        if let Err(why) = &said
            && self.waits.as_ref() != Some(why)
        {
            self.trouble("has mail that can't be taken up now", &io::Error::other(why.clone()));
        }
        self.waits = said.err();
        Ok(self.waits.is_none())
    }

    /// Makes a file's message durable and hands it on; the exact order is what the module's text promises. If that isn't to be, why, and where the
    /// file lies.
    async fn keep(&mut self, found: &Found, dropped: &Arc<Dropped>) -> Result<(), (Refusal, PathBuf)> {
        let reception = self.reception.clone();
        let rules = reception.rules.borrow().clone();
        let mut intake = Intake::new(&reception, &rules);
        let id = intake.say(dropped).await.map_err(|refusal| (refusal, found.path.clone()))?;
        let taken = self.layout.taken_file(id, &found.name, End::Kept);
        let moved = self.rename(&found.path, &taken, [&self.layout.taken, &self.layout.folder]).await;
        moved.map_err(|error| (Refusal::Later(error.to_string()), found.path.clone()))?;
        let message = intake.commit().await.map_err(|refusal| (refusal, taken.clone()))?;
        self.unread.remove(&found.name);
        let (disk, path, folder) = (Arc::clone(&reception.system.disk), taken.clone(), self.layout.taken.clone());
        let removed = reception.system.workers.blocking(move || disk.unlink(&path).and_then(|()| disk.sync_dir(&folder))).await;
        self.ended(&found.name, &taken, removed);
        let user = dropped.origin().user.to_string();
        self.reception.events.report(Event::TakenUp { id, user, path: found.name.clone() });
        intake.committed(&message);
        Ok(())
    }

    /// Moves a file out of the way and has those told whom it concerns, in the same order. Err: that has to wait.
    async fn refuse(&mut self, found: &Found, dropped: Option<Arc<Dropped>>, why: &str) -> Result<(), String> {
        let reception = self.reception.clone();
        let refused = reception.system.disk.list_some(&self.layout.refused, REFUSED_MAX).map_err(|error| error.to_string())?;
        let reason = why.to_owned();
        if refused.len() >= REFUSED_MAX {
            self.leave(&found.name);
            reception.events.report(Event::DropRefused { path: found.path.display().to_string(), reason });
            return Ok(());
        }
        let to = self.layout.refused.join(&found.name);
        let path = to.display().to_string();
        let draft = reception.spool.begin_notice().map_err(|error| error.to_string())?;
        let Some(notice) = self.notice(draft.id(), found, dropped, why).await? else {
            let moved = self.rename(&found.path, &to, [&self.layout.refused, &self.layout.folder]).await;
            moved.map_err(|error| error.to_string())?;
            reception.events.report(Event::DropRefused { path, reason });
            return Ok(());
        };
        let id = draft.id();
        let taken = self.layout.taken_file(id, &found.name, End::Refused);
        let moved = self.rename(&found.path, &taken, [&self.layout.taken, &self.layout.folder]).await;
        moved.map_err(|error| error.to_string())?;
        let told = notice.to.clone();
        let message = commit(draft, notice, reception.system.clock.now()).await.map_err(|error| error.to_string())?;
        let moved = self.rename(&taken, &to, [&self.layout.refused, &self.layout.taken]).await;
        self.ended(&found.name, &taken, moved);
        reception.events.report(Event::DropRefused { path, reason });
        let kind = if told == reception.rules.borrow().config.postmaster { NoticeKind::DoubleBounce } else { NoticeKind::Bounce };
        reception.events.report(Event::Notified { id, notice: id, kind, to: told, recipients: message.recipients.len() });
        reception.hand_on(&message);
        Ok(())
    }

    /// What is to be told of a refused file.
    async fn notice(
        &self,
        id: QueueId,
        found: &Found,
        dropped: Option<Arc<Dropped>>,
        why: &str,
    ) -> Result<Option<Notice>, String> {
        let system = &self.reception.system;
        let mut header = HeaderScan::new(HEADER_SIZE_MAX);
        if let Some(dropped) = dropped.clone() {
            let read = system.workers.blocking(move || dropped.content(0, HEADER_SIZE_MAX)).await;
            // What can't be read isn't returned; nobody else's mail waits for that.
            header.receive(&read.unwrap_or_default());
        }
        let rules = self.reception.rules.borrow().clone();
        let context = Context {
            hostname: rules.config.hostname.clone(),
            postmaster: rules.config.postmaster.clone(),
            now: system.clock.now(),
            seed: system.entropy.next_u64(),
            languages: Arc::clone(&rules.languages),
        };
        let envelope = dropped.iter().flat_map(|dropped| dropped.commands()).collect();
        let recipients_max = rules.config.limits.recipients;
        let refused = Refused { id, file: &found.name, why, envelope, header: header.header(), recipients_max };
        Ok(refused.notice(&context))
    }

    /// Renames a file and makes that durable in these folders, in this order.
    async fn rename(&self, from: &Path, to: &Path, folders: [&Path; 2]) -> io::Result<()> {
        let disk = Arc::clone(&self.reception.system.disk);
        let (from, to, folders) = (from.to_owned(), to.to_owned(), folders.map(Path::to_owned));
        let moved = move || {
            disk.rename(&from, &to)?;
            folders.iter().try_for_each(|folder| disk.sync_dir(folder))
        };
        self.reception.system.workers.blocking(moved).await
    }

    /// What was to be committed for a file in `taken/` is, and the file is out of there, or should be.
    fn ended(&mut self, name: &str, taken: &Path, removed: io::Result<()>) {
        if let Err(error) = removed {
            self.trouble(&format!("{} is done with, but can't be removed; remove it by hand", taken.display()), &error);
            self.leave(name);
        }
    }

    /// Remembers a file that stays where it is.
    fn leave(&mut self, name: &str) {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(name.to_owned());
    }

    /// Has a file that can't be read tried again in a while: it may be no fault of its own.
    fn put_off(&mut self, name: &str, why: String) {
        if self.unread.len() >= TOLD_MAX {
            self.unread.clear();
        }
        let again = self.reception.system.clock.monotonic() + RESCAN;
        if self.unread.insert(name.to_owned(), again).is_none() {
            self.trouble(&format!("{name} can't be read"), &io::Error::other(why));
        }
    }

    /// Whether a file isn't to be looked at now.
    fn rests(&self, name: &str) -> bool {
        let now = self.reception.system.clock.monotonic();
        self.told.contains(name) || self.unread.get(name).is_some_and(|again| now < *again)
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

/// Spools a notice.
async fn commit(mut draft: Draft, notice: Notice, now: Timestamp) -> Result<Arc<Message>, SpoolError> {
    draft.write(&notice.content).await?;
    let accept = Accept {
        arrived: now,
        reverse_path: ReversePath::Null,
        body: notice.body,
        request: notice.request,
        origin: None,
        recipients: vec![Recipient::new(notice.to, None, now)],
        updates: Vec::new(),
    };
    draft.commit(accept).await
}

/// Whether a file that can't be opened never will be: it is a link, or not meant for us.
fn is_for_good(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}
