//! Tests of whole spools on the simulated disk: what all of them begin with, a closed spool whose content is known.

mod checks;
mod drafts;
mod ends;
mod lost;
mod overtaken;
mod policy;
mod room;
mod start;
mod transfer;
mod unread;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::index::{Index, IndexError, MemoryIndex, MemoryIndexFactory};
use super::segment::name;
use super::*;
use crate::config;
use crate::mail::{
    Address, BodyType, Cause, EnhancedCode, Message, QueueId, Recipient, RecipientState, ReversePath, Timestamp, Update,
};
use crate::system::sim::{SimDisk, World, run};
use crate::system::{Content, Disk, OpenMode};

const ROOT: &str = "/spool";

/// Indexes in memory.
struct Bench(MemoryIndex);

impl Workbench for Bench {
    fn empty(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(MemoryIndex::default()))
    }

    fn copy(&self) -> Result<Option<Box<dyn Index>>, IndexError> {
        let copy = self.0.without_last(0);
        Ok(copy.mark()?.map(|_| Box::new(copy) as Box<dyn Index>))
    }
}

fn options(root: &str) -> Options {
    let config = config::Spool {
        path: root.into(),
        min_free: 0,
        segment_size: 8 * 1024,
        zeros_ahead: true,
        spares: 4,
        compaction_rate: 1 << 20,
        index_cache: 1 << 20,
        compression: config::Compression::None,
    };
    Options { inline_max: 2048, ..Options::new(&config) }
}

async fn open(disk: &SimDisk, root: &str, index: &MemoryIndex) -> Spool {
    let system = World::new(7).system(Arc::new(disk.clone()));
    Spool::open(options(root), &system, Box::new(MemoryIndexFactory(index.clone()))).await.unwrap().0
}

async fn read(content: &dyn Content) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < content.size() {
        bytes.extend(content.read_at(bytes.len() as u64, 700).await?);
    }
    Ok(bytes)
}

fn content_of(number: usize) -> Vec<u8> {
    let lines = if number.is_multiple_of(5) { 200 } else { 1 + number };
    format!("Subject: {number}\r\n\r\n").into_bytes().into_iter().chain(b"some words of mail\r\n".repeat(lines)).collect()
}

/// The envelope of a message more.
fn envelope() -> Accept {
    let now = Timestamp::from_millis(1_795_312_800_000);
    Accept {
        arrived: now,
        reverse_path: ReversePath::Null,
        body: BodyType::SevenBit,
        request: None,
        recipients: vec![Recipient::new(Address::parse("u@more.test").unwrap(), None, now)],
        updates: Vec::new(),
        origin: None,
    }
}

/// A closed spool, and what is in it.
#[derive(Clone)]
struct Spooled {
    disk: SimDisk,
    index: MemoryIndex,
    messages: BTreeMap<QueueId, (Message, Vec<u8>)>,
}

impl Spooled {
    /// Thirty messages, every fifth with content in a file; some held, some tried, some done with.
    async fn new() -> Self {
        let (disk, index) = (SimDisk::new(), MemoryIndex::default());
        let mut messages = BTreeMap::new();
        let spool = open(&disk, ROOT, &index).await;
        for number in 0..30 {
            let mut draft = spool.begin().unwrap();
            let content = content_of(number);
            draft.write(&content).await.unwrap();
            let now = Timestamp::from_millis(1_795_312_800_000);
            let recipients = (0..1 + number % 3)
                .map(|to| Recipient::new(Address::parse(&format!("u{to}@d{number}.test")).unwrap(), None, now))
                .collect();
            let accept = Accept {
                arrived: now,
                reverse_path: ReversePath::Address(Address::parse("s@from.test").unwrap()),
                body: BodyType::EightBitMime,
                request: None,
                recipients,
                updates: Vec::new(),
                origin: None,
            };
            let mut message = Message::clone(&*draft.commit(accept).await.unwrap());
            let mut update = Update { delays_noticed: Some(number as u32), ..Update::new(message.id) };
            let mut status = message.recipients[0].status.clone();
            match number % 4 {
                0 => update.held = Some(true),
                1 => {
                    status.state = RecipientState::Deferred;
                    status.attempts = 3;
                    status.next_attempt = now.plus(Duration::from_secs(600));
                    status.last_status = Some(EnhancedCode(4, 2, 1));
                    status.last_cause = Some(Cause::Remote);
                    status.last_reply = "450 4.2.1 try later".to_owned();
                    update.statuses.push((0, status));
                }
                2 => {
                    spool.done(message.id);
                    continue;
                }
                _ => {}
            }
            message.apply(&update);
            spool.update(update);
            spool.park(message.id, now.plus(Duration::from_secs(60)));
            messages.insert(message.id, (message, content));
        }
        spool.close().await.unwrap();
        Self { disk, index, messages }
    }

    fn check(&self) -> (Vec<Finding>, Survey) {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let before = self.disk.operations();
        let mut found = Vec::new();
        let bench = Bench(self.index.clone());
        let survey = check(Path::new(ROOT), &disk, &bench, &progress::unwatched(), &mut |finding| found.push(finding)).unwrap();
        assert_eq!(self.disk.operations(), before, "a check changes nothing");
        (found, survey)
    }

    /// Kinds of damage found, in order, each once.
    fn damage(&self) -> Vec<FindingKind> {
        let (found, survey) = self.check();
        let mut kinds: Vec<_> = found.iter().filter(|one| one.level == Level::Damage).map(|one| one.finding).collect();
        assert_eq!(kinds.len() as u64, survey.damage);
        kinds.dedup();
        kinds
    }

    async fn try_repair(&self) -> Result<Vec<Step>, SpoolError> {
        let system = World::new(8).system(Arc::new(self.disk.clone()));
        let factory = Box::new(MemoryIndexFactory(self.index.clone()));
        let mut steps = Vec::new();
        let bench = Bench(self.index.clone());
        repair(options(ROOT), &system, factory, &bench, &mut |_| {}, &mut |step| steps.push(step)).await?;
        Ok(steps)
    }

    /// Repairs, and sees that a second check finds nothing any more, and that all messages but some are what they were.
    async fn repair(&self, but: &[QueueId]) -> Vec<StepKind> {
        let steps = self.try_repair().await.unwrap();
        assert_eq!(self.damage(), []);
        assert_eq!(self.try_repair().await.unwrap(), [], "a second repair has nothing to do");
        let spool = open(&self.disk, ROOT, &self.index).await;
        for (id, (message, content)) in self.messages.iter().filter(|(id, _)| !but.contains(id)) {
            assert_eq!(spool.message(*id).await.unwrap().as_ref(), Some(message));
            assert_eq!(&read(&*spool.content(*id).await.unwrap()).await.unwrap(), content);
        }
        spool.close().await.unwrap();
        steps.into_iter().map(|step| step.done).collect()
    }

    /// Whether a message is held, and its content lost.
    async fn is_held_without_content(&self, id: QueueId) -> bool {
        let spool = open(&self.disk, ROOT, &self.index).await;
        let held = spool.message(id).await.unwrap().is_some_and(|message| message.held);
        let lost = spool.content(id).await.is_err();
        spool.close().await.unwrap();
        held && lost && self.disk.exists(&Path::new(ROOT).join(format!("quarantine/{id}.json")))
    }

    /// A message with small content (or large), and where its record lies.
    fn one(&self, large: bool) -> (QueueId, index::Place) {
        let fits = |(_, (message, _)): &(&QueueId, &(Message, Vec<u8>))| (message.size > 2048) == large;
        let (id, _) = self.messages.iter().filter(fits).nth(2).unwrap();
        (*id, self.index.get(*id).unwrap().unwrap().0.place)
    }

    fn flip(&self, path: &Path, byte: u64) {
        self.disk.flip_bit(path, byte * 8 + 3).unwrap();
    }

    fn segment(&self, number: u64) -> PathBuf {
        Path::new(ROOT).join("log").join(name(number))
    }

    fn content(&self, id: QueueId) -> PathBuf {
        Path::new(ROOT).join("content").join(id.to_string())
    }

    fn segments(&self) -> Vec<u64> {
        let names = self.disk.list(&Path::new(ROOT).join("log")).unwrap();
        names.iter().filter_map(|name| segment::number(name)).collect()
    }
}
