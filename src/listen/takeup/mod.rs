//! Takes mail up that `posthouse sendmail` left in the drop folder: what waited while the server was down, and what comes while
//! it runs. Owns the moves of the files.
//!
//! Nothing is lost and nothing doubled, wherever a crash falls. A file first gets the name of the id that its message will have
//! (`taken/ID.…`), then the message is committed, then the file goes, and only then is the message delivered. So at a start a
//! file there whose message is in the spool is done with, and any other one isn't in the spool. With a file that is refused it is the same: the
//! message is the notice of that, and the file goes to `refused/`.

mod leaving;
mod resting;
mod settle;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::leaving::{Committed, Leaving, Taken};
use self::resting::Resting;
use self::walk::{Place, Walk};
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
/// Steps of the walk through it that are made in one go,
const STEPS_MAX: usize = 10;
/// and how soon it goes on: who fills the folder isn't to keep a processor busy.
const PAUSE: Duration = Duration::from_secs(1);
/// Refused files that are kept; more stay where they are, and nobody is told of them.
const REFUSED_MAX: usize = 1000;
/// As much of a refused message's header is read for the notice; octets.
const HEADER_SIZE_MAX: usize = 64 * 1024;
/// A file that was begun so long ago, and not ended, never will be.
const GIVEN_UP: Duration = Duration::from_secs(2 * 86_400);

/// The drop folder, as the server sees it.
pub struct TakeUp {
    reception: Reception,
    layout: Layout,
    resting: Resting,
    leaving: Leaving,
    /// Where the last scan stopped, if it isn't through.
    walk: Option<Walk>,
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
    /// Makes the folder ready and clears up what a crash left, before anything is delivered; an error if it can't, for then mail would be
    /// delivered twice. None if the folder can't be had; the mail log says why.
    pub async fn prepare(reception: Reception, folder: &Path) -> io::Result<Option<Self>> {
        let layout = Layout::new(folder);
        let (resting, leaving) = Default::default();
        let take_up = Self { reception, layout: layout.clone(), resting, leaving, walk: None, waits: None };
        let disk = Arc::clone(&take_up.reception.system.disk);
        let made = take_up.reception.system.workers.blocking(move || layout.make(&*disk)).await;
        settle::settle(&*take_up.reception.system.disk, &take_up.layout, &take_up.reception.spool).await?;
        if let Err(error) = made {
            take_up.trouble("can't be made", &error);
            return Ok(None);
        }
        let spool = take_up.reception.rules.borrow().config.spool.path.clone();
        if let Err(error) = take_up.layout.share(&*take_up.reception.system.disk, &spool) {
            take_up.trouble("can't be opened to this machine's users (docs/sendmail.md)", &error);
        }
        Ok(Some(take_up))
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
            let is_through = self.walk.is_none();
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                // What came meanwhile may lie behind the walk: it is for the next one.
                () = changed(&mut watch), if is_through => {}
                () = tokio::time::sleep(if is_through { RESCAN } else { PAUSE }) => {}
            }
        }
    }

    /// Takes up what is there, or a part of it: the next scan goes on where this one ends. What has to wait ends it, too, and the next
    /// one, which comes soon enough, begins anew.
    async fn scan(&mut self, stop: &watch::Receiver<bool>) -> io::Result<()> {
        self.leaving.retry(&self.layout, &self.reception).await;
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => Walk::begin(&*self.reception.system.disk, &self.layout)?,
        };
        for _ in 0..STEPS_MAX {
            let (names, rest) = walk.step(self.reception.system.workers).await?;
            for (place, file) in names {
                if *stop.borrow() || !self.look_at(place, file).await? {
                    return Ok(());
                }
            }
            match rest {
                Some(rest) => walk = rest,
                None => {
                    self.resting.walked();
                    return Ok(());
                }
            }
        }
        self.walk = Some(walk);
        Ok(())
    }

    /// Does what is to be done with a file, if anything. False: it has to wait, and so have the others.
    async fn look_at(&mut self, place: Place, file: String) -> io::Result<bool> {
        let now = self.reception.system.clock.monotonic();
        let found = match place {
            Place::Taken => match taken_name(&file) {
                Some((id, name, _)) if !self.leaving.has(id) => {
                    Found { name: name.to_owned(), path: self.layout.taken.join(&file) }
                }
                _ => return Ok(true),
            },
            Place::Folder => {
                let path = self.layout.folder.join(&file);
                match named(&file) {
                    Named::Whole => Found { name: file, path },
                    Named::Unfinished => return self.sweep(path).await.map(|()| true),
                    Named::Foreign => return Ok(true),
                }
            }
        };
        if self.resting.has(&found.name, now) { Ok(true) } else { self.take(found).await }
    }

    /// Removes a file that was begun and given up.
    async fn sweep(&self, path: PathBuf) -> io::Result<()> {
        let (disk, now) = (Arc::clone(&self.reception.system.disk), self.reception.system.clock.now());
        let sweep = move || {
            if disk.open_strange(&path).is_ok_and(|(_, origin)| now.since(origin.modified) > GIVEN_UP) {
                // It stays, then, and takes its place.
                let _ = disk.unlink(&path);
            }
            Ok(())
        };
        self.reception.system.workers.blocking(sweep).await
    }

    /// Takes one file up, or sets it aside. False: it has to wait, and so have the others.
    async fn take(&mut self, found: Found) -> io::Result<bool> {
        if self.leaving.is_full() {
            return Ok(self.goes_on(Err("too many files can't be removed from taken/".to_owned())));
        }
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
        Ok(self.goes_on(said))
    }

    /// False, and a line in the mail log if it is news, if mail has to wait.
    fn goes_on(&mut self, said: Result<(), String>) -> bool {
        if let Err(why) = &said
            && self.waits.as_ref() != Some(why)
        {
            self.trouble("has mail that can't be taken up now", &io::Error::other(why.clone()));
        }
        self.waits = said.err();
        self.waits.is_none()
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
        intake.accepted(&message);
        self.resting.was_read(&found.name);
        let (name, user) = (found.name.clone(), dropped.origin().user.to_string());
        let event = Event::TakenUp { id, user, path: name.clone() };
        self.finish(Committed { taken: Taken { id, name, end: End::Kept }, message, event }).await;
        Ok(())
    }

    /// Moves a file out of the way and has those told whom it concerns, in the same order. Err: that has to wait.
    async fn refuse(&mut self, found: &Found, dropped: Option<Arc<Dropped>>, why: &str) -> Result<(), String> {
        let reception = self.reception.clone();
        let refused = reception.system.disk.files(&self.layout.refused).map_err(|error| error.to_string())?;
        let reason = why.to_owned();
        if refused.take(REFUSED_MAX).count() >= REFUSED_MAX {
            if self.resting.leave(&found.name) {
                reception.events.report(Event::DropRefused { path: found.path.display().to_string(), reason });
            }
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
        let kind = if told == reception.rules.borrow().config.postmaster { NoticeKind::DoubleBounce } else { NoticeKind::Bounce };
        reception.events.report(Event::Notified { id, notice: id, kind, to: told, recipients: message.recipients.len() });
        let (name, event) = (found.name.clone(), Event::DropRefused { path, reason });
        self.finish(Committed { taken: Taken { id, name, end: End::Refused }, message, event }).await;
        Ok(())
    }

    /// Has a file go and its message delivered, as soon as both can be.
    async fn finish(&mut self, committed: Committed) {
        let Taken { id, name, end } = committed.taken.clone();
        if let Err(error) = self.leaving.finish(committed, &self.layout, &self.reception).await {
            let file = self.layout.taken_file(id, &name, end);
            self.trouble(&format!("{} can't be removed, and {id} waits until it can", file.display()), &error);
        }
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

    /// Has a file that can't be read tried again in a while.
    fn put_off(&mut self, name: &str, why: String) {
        let again = self.reception.system.clock.monotonic() + RESCAN;
        if self.resting.put_off(name, again) {
            self.trouble(&format!("{name} can't be read"), &io::Error::other(why));
        }
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
