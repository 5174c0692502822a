//! Messages on their way into the Maildirs of one disk, in rounds, so that all that come at a time share the cost of a sync. State:
//! the messages that have their name and aren't yet durable under it.
//!
//! A round writes what has come, under tmp/; syncs that, together with the names of the round before; tells those that they are
//! delivered; and gives its own messages their names. So each message waits for two syncs, and a sync serves two rounds. What turns out to
//! lie on another disk is synced by itself.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::mailbox::{Draft, Mailboxes, Names, Room};
use crate::config::Quota;
use crate::directory::quota::Usage;
use crate::system::{Disk, DiskSyncer, Workers, or_here};

/// Messages in a round, and messages waiting for the next.
const ROUND_MAX: usize = 64;
/// From so many messages on a sync of the whole disk is cheaper than a sync of each.
const TOGETHER_MIN: usize = 4;
/// A sync of the whole disk that takes longer than this also writes what isn't mail, and one that fails may have failed at that:
const TOGETHER_PATIENCE: Duration = Duration::from_millis(500);
/// then each message is synced alone for so long.
const TOGETHER_PAUSE: Duration = Duration::from_secs(30);
/// Disks with a lane of their own; further ones share the last.
const LANES_MAX: usize = 32;
/// Mailboxes whose disk is remembered; beyond that all are forgotten, which only costs another look.
const DEVICES_MAX: usize = 16 * 1024;

/// A message for a mailbox, whole in memory.
pub(super) struct Job {
    pub(super) folder: PathBuf,
    pub(super) names: Names,
    /// Goes above the content.
    pub(super) fields: Vec<u8>,
    pub(super) content: Arc<Vec<u8>>,
    /// What its domain allows.
    pub(super) quota: Quota,
    /// Told when it is delivered, or why not.
    pub(super) reply: oneshot::Sender<io::Result<()>>,
}

/// A lane for each disk, so that one that hangs doesn't stop the others. A lane ends with this.
pub(super) struct Lanes {
    mailboxes: Arc<Mailboxes>,
    workers: Workers,
    devices: Mutex<BTreeMap<PathBuf, u64>>,
    lanes: Mutex<BTreeMap<u64, mpsc::Sender<Job>>>,
}

impl Lanes {
    pub(super) fn new(mailboxes: Arc<Mailboxes>, workers: Workers) -> Self {
        Self { mailboxes, workers, devices: Mutex::default(), lanes: Mutex::default() }
    }

    /// Hands a job over; waits if there is no room for it.
    pub(super) async fn send(&self, job: Job) -> io::Result<()> {
        let device = self.device(&job.folder).await?;
        let lane = self.lane(device)?;
        lane.send(job).await.map_err(|_| io::Error::other("the deliveries to this disk have ended"))
    }

    async fn device(&self, folder: &Path) -> io::Result<u64> {
        let known = self.devices.lock().unwrap_or_else(PoisonError::into_inner).get(folder).copied();
        if let Some(device) = known {
            return Ok(device);
        }
        let (disk, path) = (self.mailboxes.disk.clone(), folder.to_owned());
        let look = move || disk.device(there(&*disk, &path));
        let device = self.workers.blocking(look).await?;
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.len() >= DEVICES_MAX {
            devices.clear();
        }
        devices.insert(folder.to_owned(), device);
        Ok(device)
    }

    fn lane(&self, device: u64) -> io::Result<mpsc::Sender<Job>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        // One that a bug ended is begun anew.
        lanes.retain(|_, lane| !lane.is_closed());
        if let Some(lane) = lanes.get(&device) {
            return Ok(lane.clone());
        }
        if lanes.len() >= LANES_MAX
            && let Some((_, last)) = lanes.last_key_value()
        {
            return Ok(last.clone());
        }
        let (sender, jobs) = mpsc::channel(ROUND_MAX);
        let lane = Lane { mailboxes: self.mailboxes.clone(), named: Vec::new(), syncer: None, alone_until: Duration::ZERO };
        self.workers.dedicated("mailboxes", lane.run(jobs))?;
        lanes.insert(device, sender.clone());
        Ok(sender)
    }
}

/// What there is of the way to a folder: that is on its disk.
fn there<'a>(disk: &dyn Disk, folder: &'a Path) -> &'a Path {
    or_here(folder.ancestors().find(|path| disk.exists(path)).unwrap_or(Path::new("")))
}

/// What has to be made durable for a message, the disk that it is on, and whoever waits for its delivery.
struct Waiting<T> {
    what: T,
    device: Option<u64>,
    reply: oneshot::Sender<io::Result<()>>,
}

/// What a round has to make durable.
struct Unsynced {
    /// The folders that have the names of the round before.
    named: Vec<Waiting<PathBuf>>,
    written: Vec<Waiting<Draft>>,
}

impl Unsynced {
    /// What one sync of this disk is for, and what is synced by itself: what lies on another, for lanes only guess, and all where it
    /// isn't worth it.
    fn split(self, device: Option<u64>) -> (Self, Self) {
        let places = self.named.iter().map(|name| name.device).chain(self.written.iter().map(|draft| draft.device));
        let device = device.filter(|device| places.filter(|place| *place == Some(*device)).count() >= TOGETHER_MIN);
        let is_on_it = |place: Option<u64>| place.is_some() && place == device;
        let (named, other_named) = self.named.into_iter().partition(|name| is_on_it(name.device));
        let (written, other_written) = self.written.into_iter().partition(|draft| is_on_it(draft.device));
        (Self { named, written }, Self { named: other_named, written: other_written })
    }
}

struct Lane {
    mailboxes: Arc<Mailboxes>,
    /// The folders whose sync makes the last round's names durable.
    named: Vec<Waiting<PathBuf>>,
    /// Held, with its disk's number, from the first round of a busy time to the last: it reports the errors of all that was written
    /// meanwhile.
    syncer: Option<(u64, Box<dyn DiskSyncer>)>,
    /// Until then no sync of the whole disk.
    alone_until: Duration,
}

impl Lane {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let mut round = Vec::new();
            if self.named.is_empty() {
                // An idle lane holds nothing of the disk open.
                self.syncer = None;
                let Some(job) = jobs.recv().await else { return };
                round.push(job);
            }
            while round.len() < ROUND_MAX
                && let Ok(job) = jobs.try_recv()
            {
                round.push(job);
            }
            self.round(round);
            // Only simulation needs this: there all loops share a thread.
            tokio::task::yield_now().await;
        }
    }

    fn round(&mut self, jobs: Vec<Job>) {
        if self.syncer.is_none() && self.named.is_empty() {
            self.syncer = jobs.first().and_then(|job| self.syncer(&job.folder).ok());
        }
        let written = self.write_all(jobs);
        let unsynced = Unsynced { named: std::mem::take(&mut self.named), written };
        let device = self.syncer.as_ref().filter(|_| self.alone_until <= self.now()).map(|(device, _)| *device);
        let (together, alone) = unsynced.split(device);
        self.sync_together(together);
        self.sync_alone(alone);
    }

    /// What syncs the disk of a folder, with its number.
    fn syncer(&self, folder: &Path) -> io::Result<(u64, Box<dyn DiskSyncer>)> {
        let disk = &*self.mailboxes.disk;
        let syncer = disk.syncer(there(disk, folder))?;
        Ok((syncer.device()?, syncer))
    }

    /// Tells those whose message can't be written.
    fn write_all(&self, jobs: Vec<Job>) -> Vec<Waiting<Draft>> {
        let mut written = Vec::with_capacity(jobs.len());
        // What this round brings to each mailbox counts there only once it has its name.
        let mut coming: BTreeMap<PathBuf, Usage> = BTreeMap::new();
        for Job { folder, names, fields, content, quota, reply } in jobs {
            let before = coming.get(&folder).copied().unwrap_or_default();
            let room = Room { quota, coming: before.plus(Usage::of((fields.len() + content.len()) as u64)) };
            match self.write(folder.clone(), names, room, &fields, &content) {
                Ok(draft) => {
                    written.push(Waiting { what: draft, device: self.device(&folder.join("tmp")), reply });
                    coming.insert(folder, room.coming);
                }
                Err(error) => _ = reply.send(Err(error)),
            }
        }
        written
    }

    fn write(&self, folder: PathBuf, names: Names, room: Room, fields: &[u8], content: &[u8]) -> io::Result<Draft> {
        let mut draft = self.mailboxes.begin(folder, names, room)?;
        draft.write(&[fields, content].concat())?;
        Ok(draft)
    }

    /// One sync for all.
    fn sync_together(&mut self, Unsynced { named, written }: Unsynced) {
        let work = !named.is_empty() || !written.is_empty();
        let Some((device, syncer)) = self.syncer.take_if(|_| work) else { return };
        let began = self.now();
        let synced = syncer.sync();
        let now = self.now();
        if synced.is_err() || now.saturating_sub(began) > TOGETHER_PATIENCE {
            self.alone_until = now + TOGETHER_PAUSE;
        }
        match synced {
            Ok(()) => {
                self.syncer = Some((device, syncer));
                named.into_iter().for_each(|name| _ = name.reply.send(Ok(())));
                written.into_iter().for_each(|draft| self.publish(draft));
            }
            Err(error) => {
                let replies = named.into_iter().map(|name| name.reply).chain(written.into_iter().map(|draft| draft.reply));
                replies.for_each(|reply| _ = reply.send(Err(again(&error))));
            }
        }
    }

    /// A sync for each message, and one for each folder with new names.
    fn sync_alone(&mut self, Unsynced { named, written }: Unsynced) {
        let mut folders: BTreeMap<PathBuf, io::Result<()>> = BTreeMap::new();
        for Waiting { what: folder, reply, .. } in named {
            let synced = folders.entry(folder).or_insert_with_key(|folder| self.mailboxes.disk.sync_dir(folder));
            let _ = reply.send(synced.as_ref().map_or_else(|error| Err(again(error)), |()| Ok(())));
        }
        for draft in written {
            match draft.what.sync() {
                Ok(()) => self.publish(draft),
                Err(error) => _ = draft.reply.send(Err(error)),
            }
        }
    }

    fn publish(&mut self, Waiting { what: draft, reply, .. }: Waiting<Draft>) {
        match draft.publish() {
            Ok(folder) => {
                let device = self.device(&folder);
                self.named.push(Waiting { what: folder, device, reply });
            }
            Err(error) => _ = reply.send(Err(error)),
        }
    }

    /// None where it can't be told.
    fn device(&self, folder: &Path) -> Option<u64> {
        self.mailboxes.disk.device(folder).ok()
    }

    fn now(&self) -> Duration {
        self.mailboxes.clock.monotonic()
    }
}

/// The same error for one more who waits.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
