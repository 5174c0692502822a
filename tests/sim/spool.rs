//! The spool's stories: mail is accepted, changed, parked, forgotten, segments fill and go; the power is cut at every operation.
//!
//! Always true afterwards: what was committed is there, byte for byte, in no older state than the last flush made sure; what was
//! done with and flushed stays away; nothing is invented; an update that came with a message is there if and only if the message
//! is; index and log agree; recovering again changes nothing.
//!
//! `POSTHOUSE_SIM=ci` runs many stories, `POSTHOUSE_SIM_SEED=n` one, `POSTHOUSE_SIM_STORIES=n` so many.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use posthouse::mail::{
    Address, BodyType, Cause, EnhancedCode, Message, QueueId, Recipient, RecipientState, ReversePath, Timestamp, Update,
};
use posthouse::spool::index::{Index, IndexError, IndexFactory, Mark, MemoryIndex, MemoryIndexFactory, Page, Resident, Stored};
use posthouse::spool::{Accept, Draft, Filter, Note, Spool, SpoolError, Stats, read_stopped};
use posthouse::system::sim::{SimDisk, SimRandom};
use posthouse::system::{Content, Disk, OpenMode};

use crate::spool_world::{START, options, run, simulated};

const ROOT: &str = "/spool";

/// What the story knows of a message.
#[derive(Clone, Debug)]
struct Known {
    content: Vec<u8>,
    /// Its states one after the other.
    versions: Vec<Message>,
    /// The first of them that a crash may bring back.
    flushed: usize,
    standing: Standing,
    /// A notice's target, and the number of delay notices that came with it.
    notice_of: Option<(QueueId, u32)>,
    /// Whether a change was refused: then which state comes back is anybody's guess.
    fuzzy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Being committed, or refused: may be there or not.
    InDoubt,
    Active,
    Parked,
    Done,
    /// Done, and flushed.
    Gone,
}

#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<QueueId, Known>);

impl Model {
    fn pick(&self, random: &mut SimRandom, wanted: &[Standing]) -> Option<QueueId> {
        let fitting: Vec<_> = self.0.iter().filter(|(_, known)| wanted.contains(&known.standing)).map(|(id, _)| *id).collect();
        (!fitting.is_empty()).then(|| fitting[random.below(fitting.len() as u64) as usize])
    }

    fn flushed(&mut self) {
        for known in self.0.values_mut() {
            known.flushed = known.versions.len() - 1;
            if known.standing == Standing::Done {
                known.standing = Standing::Gone;
            }
        }
    }

    /// What a listing of the running spool must show.
    fn living(&self) -> Vec<Message> {
        let living = self.0.values().filter(|known| matches!(known.standing, Standing::Active | Standing::Parked));
        living.map(|known| known.versions.last().unwrap().clone()).collect()
    }
}

fn bytes(random: &mut SimRandom, count: u64) -> Vec<u8> {
    // Some look like the magic of a record.
    let mut bytes: Vec<u8> = (0..count / 8 + 1).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    bytes.truncate(count as usize);
    for at in (0..bytes.len().saturating_sub(4)).step_by(97) {
        bytes[at..at + 4].copy_from_slice(&posthouse::spool::record::MAGIC);
    }
    bytes
}

fn recipient(random: &mut SimRandom, now: Timestamp) -> Recipient {
    let address = format!("u{}@d{}.test", random.below(50), random.below(4));
    Recipient::new(Address::parse(&address).unwrap(), None, now)
}

fn accept(random: &mut SimRandom, now: Timestamp) -> Accept {
    let recipients = (0..1 + random.below(4)).map(|_| recipient(random, now)).collect();
    let reverse_path = match random.below(3) {
        0 => ReversePath::Null,
        n => ReversePath::Address(Address::parse(&format!("s{n}@from.test")).unwrap()),
    };
    Accept { arrived: now, reverse_path, body: BodyType::EightBitMime, recipients, updates: Vec::new() }
}

/// A change of the kinds that the server makes.
fn change(random: &mut SimRandom, message: &Message, now: Timestamp) -> Update {
    let mut update = Update::new(message.id);
    let index = random.below(message.recipients.len() as u64) as usize;
    let mut status = message.recipients[index].status.clone();
    status.attempts += 1;
    match random.below(5) {
        0 => update.held = Some(!message.held),
        1 if message.recipients.len() < 8 => {
            status.state = RecipientState::Expanded;
            update.statuses.push((index as u32, status));
            update.added = (0..1 + random.below(2)).map(|_| recipient(random, now)).collect();
        }
        2 => {
            status.state = RecipientState::Delivered;
            update.statuses.push((index as u32, status));
        }
        _ => {
            status.state = RecipientState::Deferred;
            status.next_attempt = now.plus(Duration::from_secs(random.below(900)));
            status.last_status = Some(EnhancedCode(4, 2, 1));
            status.last_cause = Some(Cause::Remote);
            status.last_reply = "450 4.2.1 try later".to_owned();
            update.statuses.push((index as u32, status));
        }
    }
    update
}

/// One story: the spool, what is known, what comes next.
struct Story<'a> {
    spool: Spool,
    disk: SimDisk,
    model: &'a mut Model,
    random: SimRandom,
    clock: Timestamp,
    /// Whether due times are those that were asked for: a rebuilt index knows only the rule.
    exact: bool,
}

impl Story<'_> {
    fn now(&mut self) -> Timestamp {
        self.clock = self.clock.plus(Duration::from_millis(7));
        self.clock
    }

    /// A draft with its content, known from now on.
    async fn draft(&mut self, accept: &Accept) -> Result<Draft, SpoolError> {
        let mut draft = self.spool.begin()?;
        let size = match self.random.below(8) {
            0 => 2000 + self.random.below(8000),
            1 => 0,
            _ => self.random.below(900),
        };
        let content = bytes(&mut self.random, size);
        let message = Message {
            id: draft.id(),
            arrived: accept.arrived,
            size,
            reverse_path: accept.reverse_path.clone(),
            body: accept.body,
            held: false,
            delays_noticed: 0,
            recipients: accept.recipients.clone(),
        };
        let known = Known {
            content: content.clone(),
            versions: vec![message],
            flushed: 0,
            standing: Standing::InDoubt,
            notice_of: None,
            fuzzy: false,
        };
        self.model.0.insert(draft.id(), known);
        for piece in content.chunks(1 + self.random.below(3000) as usize) {
            draft.write(piece).await?;
        }
        Ok(draft)
    }

    fn committed(&mut self, id: QueueId, result: Result<Message, SpoolError>) -> Result<(), SpoolError> {
        let message = result?;
        let known = self.model.0.get_mut(&id).unwrap();
        assert_eq!(known.versions, [message]);
        known.standing = Standing::Active;
        Ok(())
    }

    /// Several at once: they share a batch.
    async fn accept_some(&mut self) -> Result<(), SpoolError> {
        let mut waiting = Vec::new();
        let mut failed = Ok(());
        for _ in 0..1 + self.random.below(4) {
            let now = self.now();
            let accept = accept(&mut self.random, now);
            match self.draft(&accept).await {
                Ok(draft) => waiting.push((draft.id(), tokio::spawn(draft.commit(accept)))),
                Err(error) => failed = Err(error),
            }
        }
        for (id, commit) in waiting {
            let committed = commit.await.unwrap();
            failed = failed.and(self.committed(id, committed));
        }
        failed
    }

    /// A notice, and the state of the message that it speaks of.
    async fn notify(&mut self) -> Result<(), SpoolError> {
        let Some(target) = self.model.pick(&mut self.random, &[Standing::Active]) else { return Ok(()) };
        let now = self.now();
        let mut accept = accept(&mut self.random, now);
        let number = self.model.0[&target].versions.last().unwrap().delays_noticed + 1;
        let update = Update { delays_noticed: Some(number), ..Update::new(target) };
        accept.updates.push(update.clone());
        let draft = self.draft(&accept).await?;
        let id = draft.id();
        self.model.0.get_mut(&id).unwrap().notice_of = Some((target, number));
        let known = self.model.0.get_mut(&target).unwrap();
        let mut version = known.versions.last().unwrap().clone();
        version.apply(&update);
        known.versions.push(version);
        let committed = draft.commit(accept).await;
        if committed.is_err() && !self.disk.is_off() {
            let known = self.model.0.get_mut(&target).unwrap();
            known.versions.pop();
            known.fuzzy = true;
        }
        self.committed(id, committed)
    }

    fn update(&mut self) {
        let Some(id) = self.model.pick(&mut self.random, &[Standing::Active, Standing::Active, Standing::Parked]) else { return };
        let now = self.now();
        let known = self.model.0.get_mut(&id).unwrap();
        let mut version = known.versions.last().unwrap().clone();
        let update = change(&mut self.random, &version, now);
        version.apply(&update);
        known.versions.push(version);
        self.spool.update(update);
    }

    fn done(&mut self) {
        if let Some(id) = self.model.pick(&mut self.random, &[Standing::Active, Standing::Parked]) {
            self.model.0.get_mut(&id).unwrap().standing = Standing::Done;
            self.spool.done(id);
        }
    }

    fn park(&mut self) {
        if let Some(id) = self.model.pick(&mut self.random, &[Standing::Active]) {
            self.model.0.get_mut(&id).unwrap().standing = Standing::Parked;
            let due = self.clock.plus(Duration::from_millis(self.random.below(2000)));
            self.spool.park(id, due);
        }
    }

    async fn due(&mut self) -> Result<(), SpoolError> {
        let now = self.now();
        let next = self.spool.next_due().await?;
        let due = self.spool.due(now, 1 + self.random.below(5) as usize).await?;
        if self.exact {
            assert_eq!(next.is_some_and(|next| next <= now), !due.is_empty(), "next due {next:?}");
        }
        for message in due {
            let known = self.model.0.get_mut(&message.id).unwrap();
            assert_eq!(known.standing, Standing::Parked, "{} was due twice", message.id);
            known.standing = Standing::Active;
            self.same(&message);
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<(), SpoolError> {
        let Some(id) = self.model.pick(&mut self.random, &[Standing::Parked, Standing::Done]) else { return Ok(()) };
        let taken = self.spool.take(id).await?;
        let parked = self.model.0[&id].standing == Standing::Parked;
        assert_eq!(taken.is_some(), parked);
        if let Some(message) = taken {
            self.model.0.get_mut(&id).unwrap().standing = Standing::Active;
            self.same(&message);
        }
        Ok(())
    }

    fn same(&self, message: &Message) {
        let known = &self.model.0[&message.id];
        assert_eq!(Some(message), known.versions.last(), "the state of {}", message.id);
    }

    /// A look at everything.
    async fn look(&mut self) -> Result<(), SpoolError> {
        alike(&self.spool.list(&Filter::default()).await?, &self.model.living());
        let Some(id) = self.model.pick(&mut self.random, &[Standing::Active, Standing::Parked]) else { return Ok(()) };
        let content = read(&*self.spool.content(id).await?).await.map_err(|error| SpoolError::Io(error.to_string()))?;
        assert_eq!(content, self.model.0[&id].content);
        Ok(())
    }

    async fn step(&mut self) -> Result<(), SpoolError> {
        match self.random.below(20) {
            0..=4 => self.accept_some().await?,
            5..=7 => self.update(),
            8..=10 => self.done(),
            11..=12 => self.park(),
            13 => self.due().await?,
            14 => self.take().await?,
            15 => self.notify().await?,
            16 => self.look().await?,
            17 => tokio::time::sleep(Duration::from_secs(self.random.below(8))).await,
            18 => {
                let now = self.now();
                let accept = accept(&mut self.random, now);
                // Dropped without commit.
                self.draft(&accept).await?;
            }
            _ => {
                self.spool.flush().await?;
                self.model.flushed();
            }
        }
        // Loops that only wait for their turn get it now and then.
        if self.random.below(2) == 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn tell(&mut self, steps: usize) {
        for _ in 0..steps {
            let told = self.step().await;
            if self.disk.is_off() {
                return;
            }
            // Without a power cut only the faults of the story are an excuse, and their steps are in doubt.
            drop(told);
        }
    }
}

fn alike(found: &[Message], known: &[Message]) {
    let odd =
        |left: &[Message], right: &[Message]| left.iter().filter(|message| !right.contains(message)).cloned().collect::<Vec<_>>();
    assert_eq!(odd(found, known), odd(known, found), "found, and known");
    assert_eq!(found, known, "the order");
}

async fn read(content: &dyn Content) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let piece = content.read_at(bytes.len() as u64, 3000).await?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(piece);
    }
}

/// The faults of a story, by its seed.
fn faults(disk: &SimDisk, seed: u64) {
    let mut random = SimRandom::new(seed ^ 0xfa17);
    match seed % 4 {
        1 => disk.fail_sync(3 + random.below(20)),
        2 => disk.fail_write(3 + random.below(30)),
        3 => disk.set_capacity(Some(60_000 + random.below(60_000))),
        _ => {}
    }
}

/// Tells the story of a seed until the power goes with operation `crash` (or to its end), and hands out what is left.
fn tell(seed: u64, crash: Option<u64>) -> (SimDisk, MemoryIndex, Model) {
    let disk = SimDisk::new();
    let index = MemoryIndex::forgetful();
    let mut model = Model::default();
    if let Some(crash) = crash {
        disk.crash_after(crash);
    }
    run(async {
        faults(&disk, seed);
        let system = simulated(&disk, seed);
        let opened = Spool::open(options(ROOT), &system, Box::new(MemoryIndexFactory(index.clone()))).await;
        let Ok((spool, _)) = opened else { return };
        let mut story =
            Story { spool, disk: disk.clone(), model: &mut model, random: SimRandom::new(seed), clock: START, exact: true };
        story.tell(60).await;
    });
    (disk, index, model)
}

/// What a recovered spool says, and its own log without it.
struct Found {
    messages: Vec<Message>,
    contents: BTreeMap<QueueId, Vec<u8>>,
    next_id: QueueId,
    notes: Vec<Note>,
}

/// Opens the spool, looks at everything, closes it again.
async fn recover(disk: &SimDisk, index: MemoryIndex, seed: u64) -> Result<Found, SpoolError> {
    let (spool, recovery) = Spool::open(options(ROOT), &simulated(disk, seed), Box::new(MemoryIndexFactory(index))).await?;
    let messages = spool.list(&Filter::default()).await?;
    let mut contents = BTreeMap::new();
    for message in &messages {
        let content = spool.content(message.id).await?;
        assert_eq!(content.size(), message.size);
        contents.insert(message.id, read(&*content).await.map_err(|error| SpoolError::Io(error.to_string()))?);
    }
    let next_id = spool.begin()?.id();
    // Everything found waits, and comes.
    let mut due = spool.due(Timestamp::from_millis(u64::MAX - 1), messages.len() + 1).await?;
    due.sort_by_key(|message| message.id);
    alike(&due, &messages);
    spool.close().await?;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let alone = read_stopped(Path::new(ROOT), &disk)?;
    // The index and the log agree.
    alike(&messages, &alone.list(&Filter::default()));
    Ok(Found { messages, contents, next_id, notes: recovery.notes })
}

/// The rules.
fn check(model: &Model, found: &Found) {
    let there: BTreeMap<QueueId, &Message> = found.messages.iter().map(|message| (message.id, message)).collect();
    for (id, message) in &there {
        let known = model.0.get(id).unwrap_or_else(|| panic!("{id} was invented"));
        assert_ne!(known.standing, Standing::Gone, "{id} came back");
        assert_eq!(found.contents[id], known.content, "content of {id}");
        let versions = &known.versions[known.flushed..];
        assert!(known.fuzzy || versions.contains(message), "{id} is in a wrong state: {message:?}\nnot one of {versions:?}");
        assert!(found.next_id > *id, "{id} could be given out again");
    }
    for (id, known) in &model.0 {
        let living = matches!(known.standing, Standing::Active | Standing::Parked);
        assert!(!living || there.contains_key(id), "{id} was lost");
        if let Some((target, number)) = known.notice_of
            && let Some(target) = there.get(&target)
            && known.standing == Standing::InDoubt
            && !model.0[&target.id].fuzzy
        {
            assert_eq!(there.contains_key(id), target.delays_noticed >= number, "the notice {id} and its update");
        }
    }
    let odd = found
        .notes
        .iter()
        .find(|note| matches!(note, Note::Quarantined { .. } | Note::SegmentMissing { .. } | Note::ContentMissing { .. }));
    assert_eq!(odd, None);
}

/// The power goes, and with it the end of what was written; or just the process is killed.
fn stop(disk: &SimDisk, index: &mut MemoryIndex, random: &mut SimRandom) -> SimDisk {
    if random.below(3) == 0 {
        return disk.killed();
    }
    *index = index.without_last(random.below(index.unmarked() as u64 + 1) as usize);
    disk.crashed(random.next_u64())
}

/// One crash, and everything that must hold behind it.
fn crash(seed: u64, at: Option<u64>) {
    let (disk, index, model) = tell(seed, at);
    let mut random = SimRandom::new(seed.wrapping_mul(31).wrapping_add(at.unwrap_or(u64::MAX)));
    let mut kept = match random.below(3) {
        0 => MemoryIndex::forgetful(),
        _ => index,
    };
    let mut disk = stop(&disk, &mut kept, &mut random);
    // It may happen again while recovering.
    while random.below(3) == 0 {
        disk.crash_after(random.below(12));
        let _ = run(recover(&disk, kept.clone(), random.next_u64()));
        disk = stop(&disk, &mut kept, &mut random);
    }
    let first = run(recover(&disk, kept.clone(), 1)).unwrap();
    check(&model, &first);
    let again = run(recover(&disk, if random.below(2) == 0 { kept } else { MemoryIndex::default() }, 2)).unwrap();
    // A second recovery gives the same.
    alike(&again.messages, &first.messages);
    assert_eq!(first.contents, again.contents);
}

/// Commits some messages one after the other, and is killed.
fn tell_short_story(disk: &SimDisk) -> Vec<Message> {
    run(async {
        let system = simulated(disk, 1);
        let (spool, _) = Spool::open(options(ROOT), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        let mut messages = Vec::new();
        for _ in 0..6 {
            let mut draft = spool.begin().unwrap();
            draft.write(&[b'x'; 100]).await.unwrap();
            let to = Recipient::new(Address::parse("ann@example.test").unwrap(), None, START);
            let accept = Accept {
                arrived: START,
                reverse_path: ReversePath::Null,
                body: BodyType::SevenBit,
                recipients: vec![to],
                updates: Vec::new(),
            };
            messages.push(draft.commit(accept).await.unwrap());
        }
        messages
    })
}

#[test]
fn a_flipped_bit_in_the_open_segment_costs_one_message() {
    let whole = SimDisk::new();
    let messages = tell_short_story(&whole);
    let disk = whole.killed();
    // In the third record: all have the same length, and stand behind the header block.
    let path = Path::new(ROOT).join("log/00000001.seg");
    let length = disk.open(&path, OpenMode::Read).unwrap().len().unwrap();
    disk.flip_bit(&path, (4096 + (length - 4096) * 2 / 6 + 100) * 8).unwrap();
    let found = run(recover(&disk, MemoryIndex::default(), 1)).unwrap();
    assert!(found.notes.iter().any(|note| matches!(note, Note::Quarantined { segment: 1, .. })), "{:?}", found.notes);
    let rest: Vec<Message> = messages.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, message)| message.clone()).collect();
    alike(&found.messages, &rest);
    let copies = disk.list(&Path::new(ROOT).join("quarantine")).unwrap();
    assert_eq!(copies.len(), 1);
}

#[test]
fn a_missing_segment_is_noted_and_the_rest_goes_on() {
    let disk = SimDisk::new();
    let mut messages = tell_short_story(&disk);
    let disk = disk.killed();
    messages.extend(tell_short_story(&disk));
    let disk = disk.killed();
    messages.extend(tell_short_story(&disk));
    let disk = disk.killed();
    disk.unlink(&Path::new(ROOT).join("log/00000002.seg")).unwrap();
    let found = run(recover(&disk, MemoryIndex::default(), 1)).unwrap();
    assert!(found.notes.contains(&Note::SegmentMissing { segment: 2 }), "{:?}", found.notes);
    // The last message of each was written again at the head of the next, and the first segment's stands there too.
    messages.drain(6..11);
    alike(&found.messages, &messages);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Stories that once ended badly.
const ONCE_BAD: [u64; 3] = [4, 53, 161];

#[test]
fn nothing_committed_is_lost_wherever_the_power_goes() {
    let seeds = match number("POSTHOUSE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("POSTHOUSE_SIM_STORIES").unwrap_or(if crate::in_ci() { 60 } else { 6 }),
    };
    let mut points = 0;
    for seed in seeds.chain(ONCE_BAD) {
        let operations = tell(seed, None).0.operations();
        for at in (0..operations).map(Some).chain([None]) {
            let told = std::panic::catch_unwind(|| crash(seed, at));
            assert!(told.is_ok(), "POSTHOUSE_SIM_SEED={seed}, power cut at operation {at:?}");
            points += 1;
        }
    }
    println!("{points} power cuts");
    let chosen = number("POSTHOUSE_SIM_SEED").or(number("POSTHOUSE_SIM_STORIES")).is_some();
    assert!(chosen || !crate::in_ci() || points >= 5000, "only {points} power cuts");
}

/// An index that breaks at a certain call, for good.
struct Brittle {
    inner: Box<dyn Index>,
    calls: Arc<AtomicU64>,
}

impl Brittle {
    fn call(&self) -> Result<(), IndexError> {
        // At zero it breaks, and whoever opens another one later may count on that.
        match self.calls.fetch_sub(1, Ordering::Relaxed) {
            1 => Err(IndexError("broken".to_owned())),
            _ => Ok(()),
        }
    }
}

impl Index for Brittle {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        self.inner.mark()
    }
    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        self.call()?;
        self.inner.set_mark(mark)
    }
    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        self.call()?;
        self.inner.insert(stored, due)
    }
    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        self.call()?;
        self.inner.set_due(id, due)
    }
    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        self.call()?;
        self.inner.remove(id)
    }
    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        self.call()?;
        self.inner.get(id)
    }
    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        self.call()?;
        self.inner.due(from, to, count_max)
    }
    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        self.call()?;
        self.inner.page(filter, count_max)
    }
    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        self.inner.visit(visit)
    }

    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError> {
        self.inner.residents(visit)
    }

    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError> {
        self.inner.count(leave_out, stats)
    }
}

struct BrittleFactory(MemoryIndexFactory, Arc<AtomicU64>);

impl IndexFactory for BrittleFactory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        Ok(Box::new(Brittle { inner: self.0.open()?, calls: self.1.clone() }))
    }
    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        self.0.set_aside(now)
    }
    fn discard(&self) -> Result<(), IndexError> {
        self.0.discard()
    }
}

#[test]
fn an_index_that_breaks_while_the_spool_runs_is_built_anew() {
    for seed in 0..60u64 {
        let disk = SimDisk::new();
        let mut model = Model::default();
        let broken = Arc::new(AtomicU64::new(0));
        let count = broken.clone();
        run(async {
            let mut options = options(ROOT);
            options.report = Arc::new(move |note| {
                assert!(matches!(note, Note::IndexRebuilt { .. }), "POSTHOUSE_SIM_SEED={seed}: {note}");
                count.fetch_add(1, Ordering::Relaxed);
            });
            let calls = Arc::new(AtomicU64::new(5 + seed * 2));
            let factory = BrittleFactory(MemoryIndexFactory::default(), calls);
            let (spool, _) = Spool::open(options, &simulated(&disk, seed), Box::new(factory)).await.unwrap();
            let random = SimRandom::new(seed);
            let mut story = Story { spool, disk: disk.clone(), model: &mut model, random, clock: START, exact: false };
            for _ in 0..80 {
                story.step().await.unwrap();
            }
            story.look().await.unwrap();
            story.spool.close().await.unwrap();
        });
        assert!(broken.load(Ordering::Relaxed) <= 1);
        check(&model, &run(recover(&disk, MemoryIndex::default(), 1)).unwrap());
    }
}
