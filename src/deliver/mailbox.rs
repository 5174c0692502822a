//! A Maildir on disk: its folders, unique names, and a message on its way from tmp/ to new/. State: the folders known to be durable,
//! and when each was last swept.
//!
//! Everything here blocks; it runs in `Workers::blocking`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::listings::{Listings, is_named};
use crate::config::Quota;
use crate::directory::quota::{Full, Quotas, Usage};
use crate::mail::{Domain, QueueId, Timestamp};
use crate::system::{Clock, Disk, DiskFile, Entropy, OpenMode, System, is_not_ours, or_here};

/// Folders remembered; beyond that all are forgotten, which only costs another look.
const KNOWN_MAX: usize = 16 * 1024;
/// What lies longer in tmp/ was left there by a crash. 36 hours is the Maildir convention.
const LEFTOVER_AGE: Duration = Duration::from_secs(36 * 60 * 60);
/// Leftovers removed at a time, so that no delivery waits for a long clean-up.
const LEFTOVERS_MAX: usize = 100;
/// Octets compared at a time.
const COMPARE_SIZE: usize = 64 * 1024;

/// The mailboxes of this machine, as folders.
pub(super) struct Mailboxes {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Our name, fit for a file name.
    host: String,
    known: Mutex<BTreeMap<PathBuf, Timestamp>>,
    quotas: Quotas,
    listings: Listings,
}

/// The room that a message needs in its mailbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What the mailbox's domain allows.
    pub(super) quota: Quota,
    /// The message, and what else is on its way there.
    pub(super) coming: Usage,
}

/// The names of one message for one recipient.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Under tmp/: another one each time.
    tmp: String,
    /// Under new/: always the same for this message and recipient. A retry after a crash, or after a sync that failed, so meets
    /// what is there already instead of making a double.
    new: String,
    /// It may be there already.
    again: bool,
}

/// A message under tmp/. Dropped unfinished, it is removed.
pub(super) struct Draft {
    mailboxes: Arc<Mailboxes>,
    folder: PathBuf,
    names: Names,
    file: Box<dyn DiskFile>,
    written: u64,
    /// It left tmp/.
    named: bool,
    /// It is to be noted in the mailbox's quota file.
    counts: bool,
}

impl Mailboxes {
    pub(super) fn new(hostname: &Domain, system: &System) -> Self {
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
        Self {
            disk: system.disk.clone(),
            clock: system.clock.clone(),
            entropy: system.entropy.clone(),
            host: hostname.as_str().chars().map(safe).collect(),
            known: Mutex::default(),
            quotas: Quotas::default(),
            listings: Listings::default(),
        }
    }

    /// `<seconds>.M<microseconds>_<queue id>R<recipient>.<host>,S=<octets>`: sorts by arrival, and `S` spares readers a stat.
    pub(super) fn names(&self, id: QueueId, recipient: u32, size: u64, again: bool) -> Names {
        let arrived = id.time().as_millis();
        let stem = format!("{id}R{recipient}.{}", self.host);
        // tmp/ is swept by the time in the name, so that is the time of this try.
        let tmp = format!("{}.X{:016x}_{stem}", self.clock.now().as_millis() / 1000, self.entropy.next_u64());
        Names { tmp, new: format!("{}.M{}_{stem},S={size}", arrived / 1000, arrived % 1000 * 1000), again }
    }

    /// Opens a file under tmp/, with folders made as needed, if there is room.
    pub(super) fn begin(self: &Arc<Self>, folder: PathBuf, names: Names, room: Room) -> io::Result<Draft> {
        self.prepare(&folder)?;
        let path = folder.join("tmp").join(&names.tmp);
        let file = match self.disk.open(&path, OpenMode::CreateNew) {
            // Somebody removed the mailbox since we last looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.known().clear();
                self.prepare(&folder)?;
                self.disk.open(&path, OpenMode::CreateNew)?
            }
            result => result?,
        };
        let mut draft = Draft { mailboxes: self.clone(), folder, names, file, written: 0, named: false, counts: false };
        draft.counts = match self.quotas.check(&*self.disk, &draft.folder, self.clock.now(), room.quota, room.coming) {
            // An earlier try may have brought this very message, which takes no more room then: nobody is both delivered and bounced.
            Err(error) if Full::of(&error).is_some() && draft.earlier()?.is_some() => true,
            checked => checked?,
        };
        Ok(draft)
    }

    /// Makes the folders, and their names durable all the way up. Even those that exist are synced once: the process that made
    /// them may have died before it could.
    fn prepare(&self, folder: &Path) -> io::Result<()> {
        let now = self.clock.now();
        let swept = self.known().get(folder).copied();
        if swept.is_some_and(|swept| now.since(swept) < LEFTOVER_AGE) {
            return Ok(());
        }
        let parts = ["tmp", "new", "cur"].map(|part| folder.join(part));
        if !parts.iter().all(|part| self.disk.exists(part)) {
            self.forget_missing(folder);
        }
        for part in &parts {
            self.disk.create_dir_all(part)?;
        }
        let is_durable = self.known().contains_key(folder);
        if !is_durable {
            self.sync_up(folder, now)?;
        }
        self.sweep(&folder.join("tmp"), now);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(folder.to_owned(), now);
        Ok(())
    }

    /// What is about to be made is known no longer, though it was there before: nor is the mailbox, if a part of it is missing.
    fn forget_missing(&self, folder: &Path) {
        let missing: Vec<&Path> = folder.ancestors().take_while(|path| !self.disk.exists(path)).collect();
        let mut known = self.known();
        missing.into_iter().chain([folder]).for_each(|path| _ = known.remove(path));
    }

    /// Only once all of them are durable are they known: others, and a retry, go no further up than to one that is.
    fn sync_up(&self, folder: &Path, now: Timestamp) -> io::Result<()> {
        self.disk.sync_dir(folder)?;
        let mut synced = Vec::new();
        for parent in folder.ancestors().skip(1) {
            // One that is known has its own name durable, but perhaps not yet that of what was made in it now.
            let known = self.known().contains_key(parent);
            match self.disk.sync_dir(or_here(parent)) {
                Err(error) if !is_not_ours(&error) => return Err(error),
                _ if known => break,
                _ => synced.push((parent.to_owned(), now)),
            }
        }
        self.known().extend(synced);
        Ok(())
    }

    /// Removes what crashes left under tmp/. Failing here fails nothing: the next sweep will see to it.
    fn sweep(&self, tmp: &Path, now: Timestamp) {
        let names = self.disk.list(tmp).unwrap_or_default();
        let leftovers = names.iter().filter(|name| begun_at(name).is_some_and(|begun| now.since(begun) >= LEFTOVER_AGE));
        for name in leftovers.take(LEFTOVERS_MAX) {
            let _ = self.disk.unlink(&tmp.join(name));
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Timestamp>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a file under tmp/ was begun, if it is one of ours: those of other programs are theirs to remove.
fn begun_at(name: &str) -> Option<Timestamp> {
    let (seconds, rest) = name.split_once(".X")?;
    let (random, rest) = rest.split_once('_')?;
    let ours = random.len() == 16 && rest.get(..13)?.parse::<QueueId>().is_ok();
    let seconds: u64 = seconds.parse().ok()?;
    ours.then_some(Timestamp::from_millis(seconds.saturating_mul(1000)))
}

impl Draft {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.written, bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the message's bytes durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the message, whose bytes are durable, its name under new/: that folder it returns, whose sync makes the name durable.
    pub(super) fn publish(mut self) -> io::Result<PathBuf> {
        if self.names.again
            && let Some(earlier) = self.earlier()?
            && self.is_same(&earlier)?
        {
            return Ok(earlier.parent().unwrap_or(&self.folder).to_owned());
        }
        let (new, name) = (self.folder.join("new"), self.name());
        match self.rename(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !self.is_same(&name)? {
                    // Another message with our name: a spool that began anew with its clock set back. Both are kept.
                    self.rename(&new.join(&self.names.tmp))?;
                }
            }
            result => result?,
        }
        Ok(new)
    }

    /// Where an earlier try's file is: under the name that it was given, or where a reader moved it, who appends flags. New comes
    /// first: what isn't there any more when cur is read has been moved there before.
    fn earlier(&self) -> io::Result<Option<PathBuf>> {
        let name = self.name();
        if self.mailboxes.disk.exists(&name) {
            return Ok(Some(name));
        }
        if !self.names.again {
            return Ok(None);
        }
        if !self.mailboxes.listings.may_have(|part| self.mailboxes.disk.list(part), &self.folder, &self.names.new)? {
            return Ok(None);
        }
        let cur = self.folder.join("cur");
        let names = match self.mailboxes.disk.list(&cur) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        Ok(names.into_iter().find(|name| is_named(name, &self.names.new)).map(|name| cur.join(name)))
    }

    /// All of it, for a message by itself.
    pub(super) fn finish(self) -> io::Result<()> {
        let disk = self.mailboxes.disk.clone();
        self.sync()?;
        disk.sync_dir(&self.publish()?)
    }

    /// Never replaces anything; where the file system can't promise that, a look before must do.
    fn rename(&mut self, name: &Path) -> io::Result<()> {
        let disk = &self.mailboxes.disk;
        let renamed = match disk.rename_new(&self.path(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // new/ was removed; the next attempt makes it again.
                self.mailboxes.known().clear();
                Err(error)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
                if disk.exists(name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                disk.rename(&self.path(), name)
            }
            result => result,
        };
        self.named = renamed.is_ok();
        if self.named {
            self.mailboxes.listings.add(&self.folder, &self.names.new);
        }
        if self.named && self.counts {
            self.mailboxes.quotas.add(&**disk, &self.folder, Usage::of(self.written));
        }
        renamed
    }

    /// Whether the file that has our name has our bytes too: this very message, delivered by an earlier try.
    fn is_same(&self, name: &Path) -> io::Result<bool> {
        let other = self.mailboxes.disk.open(name, OpenMode::Read)?;
        if other.len()? != self.written {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (vec![0; COMPARE_SIZE], vec![0; COMPARE_SIZE]);
        let mut at = 0;
        while at < self.written {
            let (size, size_theirs) = (read_full(&*self.file, at, &mut ours)?, read_full(&*other, at, &mut theirs)?);
            if size == 0 || ours[..size] != theirs[..size_theirs] {
                return Ok(false);
            }
            at += size as u64;
        }
        Ok(true)
    }

    /// Where it goes.
    fn name(&self) -> PathBuf {
        self.folder.join("new").join(&self.names.new)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("tmp").join(&self.names.tmp)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.named {
            // What can't be removed now is swept later.
            let _ = self.mailboxes.disk.unlink(&self.path());
        }
    }
}

/// Fills the buffer, unless the file ends before.
fn read_full(file: &dyn DiskFile, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(at + filled as u64, &mut buffer[filled..])? {
            0 => break,
            size => filled += size,
        }
    }
    Ok(filled)
}
