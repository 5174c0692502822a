//! Messages on their way into the Maildirs of one disk, in rounds, so that all that come at a time share the cost of a sync. State:
//! the messages that have their name and aren't yet durable under it.
//!
//! A round writes what has come, under tmp/; syncs that, together with the names of the round before; tells those that they are
//! delivered; and gives its own messages their names. So each message waits for two syncs, and a sync serves two rounds.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::mailbox::{Draft, Mailboxes, Names, Room};
use crate::config::Quota;
use crate::directory::quota::Usage;
use crate::system::{DiskSyncer, Workers};

/// Messages in a round, and messages waiting for the next.
const ROUND_MAX: usize = 64;
/// From so many messages on a sync of the whole disk is cheaper than a sync of each.
const TOGETHER_MIN: usize = 4;
/// A sync of the whole disk that takes longer than this also writes what isn't mail:
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
        let look = move || {
            let there = path.ancestors().find(|path| disk.exists(path));
            disk.device(there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        };
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
        if let Some(lane) = lanes.get(&device).filter(|lane| !lane.is_closed()) {
            return Ok(lane.clone());
        }
        if lanes.len() >= LANES_MAX
            && !lanes.contains_key(&device)
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

/// Whoever waits for a delivery.
type Reply = oneshot::Sender<io::Result<()>>;

struct Lane {
    mailboxes: Arc<Mailboxes>,
    /// The folders whose sync makes the last round's names durable.
    named: Vec<(PathBuf, Reply)>,
    /// Held from the first round of a busy time to the last: it reports the errors of all that was written meanwhile.
    syncer: Option<Box<dyn DiskSyncer>>,
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
        let folder = jobs.first().map(|job| &job.folder).or(self.named.first().map(|(folder, _)| folder));
        let together = jobs.len() + self.named.len() >= TOGETHER_MIN && self.alone_until <= self.now();
        let mut written = Vec::with_capacity(jobs.len());
        if self.syncer.is_none() && self.named.is_empty() {
            let place = folder.and_then(|folder| folder.ancestors().find(|path| self.mailboxes.disk.exists(path)));
            let place = place.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
            self.syncer = self.mailboxes.disk.syncer(place).ok();
        }
        // What this round brings to each mailbox counts there only once it has its name.
        let mut coming: BTreeMap<PathBuf, Usage> = BTreeMap::new();
        for Job { folder, names, fields, content, quota, reply } in jobs {
            let before = coming.get(&folder).copied().unwrap_or_default();
            let room = Room { quota, coming: before.plus(Usage::of((fields.len() + content.len()) as u64)) };
            match self.write(folder.clone(), names, room, &fields, &content) {
                Ok(draft) => {
                    coming.insert(folder, room.coming);
                    written.push((draft, reply));
                }
                Err(error) => _ = reply.send(Err(error)),
            }
        }
        match self.syncer.take() {
            Some(syncer) if together => self.sync_together(syncer, written),
            syncer => {
                self.syncer = syncer;
                self.sync_alone(written);
            }
        }
    }

    fn write(&self, folder: PathBuf, names: Names, room: Room, fields: &[u8], content: &[u8]) -> io::Result<Draft> {
        let mut draft = self.mailboxes.begin(folder, names, room)?;
        draft.write(&[fields, content].concat())?;
        Ok(draft)
    }

    /// One sync for all.
    fn sync_together(&mut self, syncer: Box<dyn DiskSyncer>, written: Vec<(Draft, Reply)>) {
        let began = self.now();
        let synced = syncer.sync();
        let now = self.now();
        if now.saturating_sub(began) > TOGETHER_PATIENCE {
            self.alone_until = now + TOGETHER_PAUSE;
        }
        match synced {
            Ok(()) => {
                self.syncer = Some(syncer);
                self.named.drain(..).for_each(|(_, reply)| _ = reply.send(Ok(())));
                written.into_iter().for_each(|(draft, reply)| self.publish(draft, reply));
            }
            Err(error) => {
                let replies = self.named.drain(..).map(|(_, reply)| reply).chain(written.into_iter().map(|(_, reply)| reply));
                replies.for_each(|reply| _ = reply.send(Err(again(&error))));
            }
        }
    }

    /// A sync for each message, and one for each folder with new names.
    fn sync_alone(&mut self, written: Vec<(Draft, Reply)>) {
        let mut folders: BTreeMap<PathBuf, io::Result<()>> = BTreeMap::new();
        for (folder, reply) in std::mem::take(&mut self.named) {
            let synced = folders.entry(folder).or_insert_with_key(|folder| self.mailboxes.disk.sync_dir(folder));
            let _ = reply.send(synced.as_ref().map_or_else(|error| Err(again(error)), |()| Ok(())));
        }
        for (draft, reply) in written {
            match draft.sync() {
                Ok(()) => self.publish(draft, reply),
                Err(error) => _ = reply.send(Err(error)),
            }
        }
    }

    fn publish(&mut self, draft: Draft, reply: Reply) {
        match draft.publish() {
            Ok(folder) => self.named.push((folder, reply)),
            Err(error) => _ = reply.send(Err(error)),
        }
    }

    fn now(&self) -> Duration {
        self.mailboxes.clock.monotonic()
    }
}

/// The same error for one more who waits.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
