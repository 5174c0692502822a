//! A story of the spool, told by the random numbers of its seed: mail is accepted, changed, parked, forgotten, segments fill and go,
//! disks fail and fill, and the spool is closed, killed or cut off and opened again, up to three lives long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthouse::config::Compression;
use posthouse::mail::{
    Address, BodyType, Cause, EnhancedCode, Message, QueueId, Recipient, RecipientState, ReversePath, Timestamp, Update,
};
use posthouse::spool::{Accept, Draft, Filter, Note, Options, Spool, SpoolError};
use posthouse::system::Content;
use posthouse::system::sim::{SimDisk, SimRandom};
use tokio::task::JoinHandle;

use crate::spool_cut::Stage;
use crate::spool_gates::Gates;
use crate::spool_index::SimIndex;
use crate::spool_model::{Found, Model, Standing, alike};
use crate::spool_world::{START, gated, options, run, simulated, slow};

/// Where the spool lies.
pub(crate) const ROOT: &str = "/spool";

/// What kind of story a seed tells.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    lives: u64,
    steps: u64,
    pub(crate) segment_size: u64,
    pub(crate) inline_max: usize,
    /// Whether writes, syncs and names fail now and then, and the disk fills.
    faults: bool,
    index_breaks: bool,
    /// Whether content is compressed.
    compressed: bool,
    /// Whether the index lies on the simulated disk too.
    index_in_runs: bool,
    /// Zeros ahead of the log's end.
    zeros_ahead: u64,
    /// Syncs are slow.
    slow: bool,
    /// How many released segments are kept to be written again.
    spares: usize,
    /// How often each of the steps is taken.
    weights: [u64; 14],
    /// Whether several things fail at once.
    harsh: bool,
    /// Whether the loops have threads of their own, which are held up now and then.
    threads: bool,
}

/// Accept, update, done, park, due, take, notice, look, wait, a moment, drop, flush, answers, trouble.
const WEIGHTS: [[u64; 14]; 5] = [
    [5, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    // Much mail, soon gone: segments come and go.
    [9, 1, 9, 1, 1, 0, 1, 0, 1, 2, 0, 1, 2, 1],
    // Mail that waits.
    [4, 5, 1, 6, 4, 2, 2, 1, 2, 1, 0, 1, 1, 1],
    // Stragglers in every segment.
    [8, 4, 8, 4, 1, 1, 2, 0, 2, 2, 1, 1, 1, 1],
    // Notices and changes.
    [3, 6, 1, 2, 1, 1, 6, 1, 1, 1, 1, 1, 1, 1],
];

/// Seeds below this tell the stories that there were first, so that the first bugs found by them can be told again.
pub(crate) const LATER: u64 = 1000;

/// Much mail, soon gone, in segments that hold little more than a message: each is soon a spare, and written over.
const REUSE: [u64; 14] = [10, 1, 26, 1, 1, 0, 1, 1, 1, 3, 0, 8, 2, 1];
/// Long stories of segments that die but for a few stragglers, which are copied.
const CHURN: [u64; 14] = [12, 2, 24, 3, 1, 1, 1, 0, 1, 4, 0, 1, 4, 0];

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let plan = Self::of(seed);
        match seed % 5 {
            _ if seed < LATER => plan,
            0 => Self { spares: 1, segment_size: 6 * 1024, weights: REUSE, steps: plan.steps * 2, ..plan },
            2 | 3 => Self { spares: 2, ..plan },
            _ => plan,
        }
    }

    /// A story whose loops have threads: only what they do to each other goes wrong.
    pub(crate) fn with_threads(seed: u64) -> Self {
        let plan = Self::new(seed);
        // Segments come and go, and some stay in memory meanwhile.
        let weights = if seed.is_multiple_of(2) { [6, 12, 6, 8, 1, 6, 4, 0, 1, 2, 1, 1, 2, 1] } else { plan.weights };
        let steps = plan.steps * 2;
        Self { threads: true, lives: 1, faults: false, slow: false, harsh: false, weights, steps, ..plan }
    }

    fn of(seed: u64) -> Self {
        let mut random = SimRandom::new(seed ^ 0x0051_0e5e_ed00);
        let segment_size = [6, 8, 8, 12, 24][random.below(5) as usize] * 1024;
        let inline_max = [512, 2048, 2048, 16 * 1024][random.below(4) as usize];
        let mut plan = Self {
            seed,
            lives: 1 + random.below(3),
            steps: 20 + random.below(30),
            segment_size,
            inline_max,
            faults: random.below(2) == 0,
            index_breaks: random.below(4) == 0,
            index_in_runs: random.below(3) > 0,
            compressed: random.below(3) == 0,
            // Not in the stories of `seeds`: their cuts are counted in operations.
            zeros_ahead: if seed >= LATER && seed % 3 == 1 { 512 << (seed % 4) } else { 0 },
            slow: seed >= LATER && seed % 5 == 2,
            spares: 0,
            weights: WEIGHTS[random.below(5) as usize],
            harsh: seed >= LATER && random.below(4) == 0,
            threads: false,
        };
        if seed >= LATER && random.below(4) == 0 {
            (plan.weights, plan.steps, plan.lives) = (CHURN, plan.steps * 3, 1);
            (plan.segment_size, plan.inline_max) = (8 * 1024, 2048);
        }
        if seed >= LATER && random.below(6) == 0 {
            // Room is reserved in several steps.
            (plan.segment_size, plan.inline_max) = (256 * 1024, 200 * 1024);
        }
        plan
    }

    pub(crate) fn options(&self) -> Options {
        let compression = if self.compressed { Compression::Zstd } else { Compression::None };
        Options {
            inline_max: self.inline_max,
            segment_size: self.segment_size,
            zeros_ahead: self.zeros_ahead,
            spares: self.spares,
            compression,
            compaction_rate: if self.threads { 1 << 30 } else { 1 << 20 },
            ..options(ROOT)
        }
    }

    /// Tells the story; what its disk went through is on the stage then.
    pub(crate) fn tell(&self, stage: &Stage) -> SimDisk {
        let mut random = SimRandom::new(self.seed);
        let mut disk = SimDisk::new();
        let gates = self.threads.then(|| Gates::new(self.seed));
        let mut index = SimIndex::new(self.index_in_runs).behind(gates);
        for life in 0..self.lives {
            stage.scene().later_life = life > 0;
            stage.watch(&disk, &index);
            let random_of_life = SimRandom::new(random.next_u64());
            run(live(self, stage.clone(), disk.clone(), index.clone(), random_of_life, life == 0));
            (disk, index) = stop(&disk, &index, &mut random);
        }
        disk
    }
}

/// The power goes, and with it the end of what was written; or just the process is killed.
pub(crate) fn stop(disk: &SimDisk, index: &SimIndex, random: &mut SimRandom) -> (SimDisk, SimIndex) {
    match random.below(3) {
        0 => (disk.killed(), index.copy()),
        _ => (disk.crashed(random.next_u64()), index.crashed(random)),
    }
}

/// One life of the spool, from its opening to a point at which it is left as it is.
async fn live(plan: &Plan, stage: Stage, disk: SimDisk, index: SimIndex, mut random: SimRandom, first: bool) {
    stage.scene().opening = true;
    let mut options = plan.options();
    let on_stage = stage.clone();
    let (faulty, index_breaks) = (plan.faults, plan.index_breaks);
    options.report = Arc::new(move |note| match note {
        Note::IndexRebuilt { .. } => on_stage.scene().rebuilt = true,
        Note::WriteFailed { .. } if faulty => {}
        // With segments as small as these it may come to that.
        Note::RoomAwaited => {}
        Note::Trouble(_) if faulty || index_breaks => {}
        note => on_stage.scene().odd.push(note.to_string()),
    });
    let system = match index.gates() {
        Some(gates) => gated(&disk, plan.seed, gates),
        None if plan.slow => slow(&disk, plan.seed),
        None => simulated(&disk, plan.seed),
    };
    let (spool, recovery) = Spool::open(options, &system, index.on(&disk)).await.unwrap();
    if !first {
        let found = look_at(&spool, recovery.notes).await.unwrap();
        let model = &mut stage.scene().model;
        model.check(&found);
        model.settle(&found.messages);
    }
    stage.scene().opening = false;
    let steps = plan.steps / 2 + random.below(plan.steps);
    let exact = first && !plan.index_breaks && !plan.faults && !plan.threads;
    let close = random.below(3) == 0;
    let mut story = Story {
        plan,
        spool,
        disk: disk.clone(),
        index,
        stage: stage.clone(),
        random,
        clock: START,
        exact,
        // Threads have a time of their own.
        calm: !plan.threads,
        waiting: Vec::new(),
        last: None,
    };
    for _ in 0..steps {
        let told = story.step().await;
        assert!(story.plan.faults || story.plan.index_breaks || told.is_ok(), "without any fault: {told:?}");
    }
    assert_eq!(stage.scene().odd, Vec::<String>::new());
    if close {
        stage.scene().closing = true;
        disk.set_capacity(None);
        // What failed before may do so once more.
        if story.spool.close().await.is_ok() {
            stage.scene().model.flushed();
        }
        stage.scene().closing = false;
    }
}

/// All that a spool says.
pub(crate) async fn look_at(spool: &Spool, notes: Vec<Note>) -> Result<Found, SpoolError> {
    let messages = spool.list(&Filter::default()).await?;
    let mut contents = std::collections::BTreeMap::new();
    for message in &messages {
        let content = spool.content(message.id).await?;
        assert_eq!(content.size(), message.size);
        contents.insert(message.id, read(&*content).await.map_err(|error| SpoolError::Io(error.to_string()))?);
    }
    let next_id = spool.begin()?.id();
    Ok(Found { messages, contents, next_id, notes })
}

pub(crate) async fn read(content: &dyn Content) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let piece = content.read_at(bytes.len() as u64, 3000).await?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(piece);
    }
}

fn bytes(random: &mut SimRandom, count: u64) -> Vec<u8> {
    // Some look like the magic of a record; some of it can be compressed.
    let mut bytes: Vec<u8> = (0..count / 8 + 1).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    bytes.truncate(count as usize);
    for at in (0..bytes.len().saturating_sub(4)).step_by(97) {
        bytes[at..at + 4].copy_from_slice(&posthouse::spool::record::MAGIC);
    }
    if random.below(2) == 0 {
        let half = bytes.len() / 2;
        bytes[half..].fill(b'x');
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
    Accept {
        arrived: now,
        reverse_path,
        body: BodyType::EightBitMime,
        request: None,
        recipients,
        updates: Vec::new(),
        origin: None,
    }
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

/// A message on its way: whose answer it is, how many refusals came before, and the answer.
type Waiting = (QueueId, u64, JoinHandle<Result<Arc<Message>, SpoolError>>);

/// One life: the spool, what is known, what comes next.
struct Story<'a> {
    plan: &'a Plan,
    spool: Spool,
    disk: SimDisk,
    index: SimIndex,
    stage: Stage,
    random: SimRandom,
    clock: Timestamp,
    /// Whether due times are those that were asked for: a rebuilt index knows only the rule.
    exact: bool,
    /// Whether nothing has failed in this life.
    calm: bool,
    waiting: Vec<Waiting>,
    /// Which message was chosen last, if the next choice may be the same.
    last: Option<QueueId>,
}

impl Story<'_> {
    fn now(&mut self) -> Timestamp {
        self.clock = self.clock.plus(Duration::from_millis(7));
        self.clock
    }

    fn model<T>(&self, work: impl FnOnce(&mut Model) -> T) -> T {
        work(&mut self.stage.scene().model)
    }

    fn pick(&mut self, wanted: &[Standing]) -> Option<QueueId> {
        let fitting = self.model(|model| model.ids(wanted));
        // Several things are done to one message at a time where somebody may be busy with it.
        if let Some(last) = self.last.filter(|last| fitting.contains(last) && self.random.below(4) > 0) {
            return Some(last);
        }
        let picked = (!fitting.is_empty()).then(|| fitting[self.random.below(fitting.len() as u64) as usize]);
        self.last = picked.filter(|_| self.plan.threads);
        picked
    }

    /// A draft with its content, known from now on; and how many refusals came before.
    async fn draft(&mut self, accept: &Accept) -> Result<(Draft, u64), SpoolError> {
        let mut draft = self.spool.begin()?;
        let size = match self.random.below(10) {
            0 => 2000 + self.random.below(8000),
            1 => 0,
            2 if self.random.below(4) == 0 => 70_000 + self.random.below(70_000),
            _ => self.random.below(900),
        };
        let content = Arc::new(bytes(&mut self.random, size));
        let message = Message {
            id: draft.id(),
            arrived: accept.arrived,
            size,
            reverse_path: accept.reverse_path.clone(),
            body: accept.body,
            request: accept.request.clone(),
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients: accept.recipients.clone(),
        };
        let refusals = self.model(|model| {
            model.begin(message, content.clone());
            model.refusals()
        });
        for piece in content.chunks(1 + self.random.below(9000) as usize) {
            if let Err(error) = draft.write(piece).await {
                self.calm = false;
                self.model(|model| model.refused(draft.id()));
                return Err(error);
            }
        }
        Ok((draft, refusals))
    }

    fn answered(&mut self, id: QueueId, refusals: u64, result: Result<Arc<Message>, SpoolError>) -> Result<(), SpoolError> {
        match result {
            Ok(message) => self.model(|model| {
                assert_eq!(model.of(id).versions, [Message::clone(&message)]);
                model.committed(id, refusals);
                Ok(())
            }),
            Err(error) => {
                self.calm = false;
                self.model(|model| model.refused(id));
                Err(error)
            }
        }
    }

    /// Several at once: they share a batch. Some answers are only heard later.
    async fn accept_some(&mut self) -> Result<(), SpoolError> {
        let mut failed = Ok(());
        for _ in 0..1 + self.random.below(4) {
            let now = self.now();
            let accept = accept(&mut self.random, now);
            match self.draft(&accept).await {
                Ok((draft, refusals)) => self.waiting.push((draft.id(), refusals, tokio::spawn(draft.commit(accept)))),
                Err(error) => failed = Err(error),
            }
        }
        if self.random.below(4) > 0 { self.hear().await.and(failed) } else { failed }
    }

    /// Waits for all answers.
    async fn hear(&mut self) -> Result<(), SpoolError> {
        let mut failed = Ok(());
        for (id, refusals, commit) in std::mem::take(&mut self.waiting) {
            let committed = commit.await.unwrap();
            failed = self.answered(id, refusals, committed).and(failed);
        }
        failed
    }

    /// A notice, and the state of the message that it speaks of.
    async fn notify(&mut self) -> Result<(), SpoolError> {
        let Some(target) = self.pick(&[Standing::Active, Standing::Active, Standing::Parked]) else { return Ok(()) };
        let now = self.now();
        let mut accept = accept(&mut self.random, now);
        let number = self.model(|model| model.of(target).versions.last().unwrap().delays_noticed) + 1;
        let update = Update { delays_noticed: Some(number), ..Update::new(target) };
        accept.updates.push(update.clone());
        let (draft, refusals) = self.draft(&accept).await?;
        let id = draft.id();
        self.model(|model| {
            model.change(id).notice_of = Some((target, number));
            model.update(&update);
        });
        let committed = draft.commit(accept).await;
        self.answered(id, refusals, committed)
    }

    fn update(&mut self) {
        let Some(id) = self.pick(&[Standing::Active, Standing::Active, Standing::Parked]) else { return };
        let now = self.now();
        let version = self.model(|model| model.of(id).versions.last().unwrap().clone());
        let update = change(&mut self.random, &version, now);
        self.model(|model| model.update(&update));
        self.spool.update(update);
    }

    fn done(&mut self) {
        for _ in 0..1 + self.random.below(2) {
            if let Some(id) = self.pick(&[Standing::Active, Standing::Parked]) {
                self.model(|model| model.change(id).standing = Standing::Done);
                self.spool.done(id);
            }
        }
    }

    fn park(&mut self) {
        if let Some(id) = self.pick(&[Standing::Active]) {
            self.model(|model| model.change(id).standing = Standing::Parked);
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
            let parked = self.model(|model| model.contains(message.id, &[Standing::Parked]));
            assert!(parked, "{} is due, and not parked", message.id);
            self.taken(&message);
        }
        Ok(())
    }

    async fn take(&mut self) -> Result<(), SpoolError> {
        let Some(id) = self.pick(&[Standing::Parked, Standing::Done]) else { return Ok(()) };
        let taken = self.spool.take(id).await?;
        assert_eq!(taken.is_some(), self.model(|model| model.contains(id, &[Standing::Parked])));
        if let Some(message) = taken {
            self.taken(&message);
        }
        Ok(())
    }

    fn taken(&mut self, message: &Message) {
        self.model(|model| {
            let known = model.change(message.id);
            known.standing = Standing::Active;
            assert_eq!(Some(message), known.versions.last(), "the state of {}", message.id);
        });
    }

    /// A look at everything.
    async fn look(&mut self) -> Result<(), SpoolError> {
        self.hear().await?;
        alike(&self.spool.list(&Filter::default()).await?, &self.model(|model| model.living()));
        let Some(id) = self.pick(&[Standing::Active, Standing::Parked]) else { return Ok(()) };
        let content = read(&*self.spool.content(id).await?).await.map_err(|error| SpoolError::Io(error.to_string()))?;
        assert_eq!(content, *self.model(|model| model.of(id).content.clone()));
        Ok(())
    }

    /// Something goes wrong, now or soon.
    fn trouble(&mut self) {
        if self.plan.index_breaks && self.random.below(2) == 0 {
            self.index.break_in(self.random.below(12));
            self.calm = false;
            return;
        }
        if !self.plan.faults {
            return;
        }
        self.calm = false;
        if self.plan.harsh && self.random.below(3) == 0 {
            // What fails can't be closed off by a new segment either.
            self.disk.fail_sync(0);
            self.disk.fail_sync(1);
            self.disk.fail_naming(self.random.below(2));
            return;
        }
        match self.random.below(6) {
            0 => self.disk.fail_write(self.random.below(5)),
            1 => self.disk.fail_sync(self.random.below(5)),
            2 => self.disk.fail_naming(self.random.below(5)),
            3 | 4 => self.disk.set_capacity(Some(self.disk.used() + self.random.below(6_000))),
            _ => self.disk.set_capacity(None),
        }
    }

    async fn flush(&mut self) -> Result<(), SpoolError> {
        self.spool.flush().await?;
        self.model(Model::flushed);
        Ok(())
    }

    async fn wait(&mut self) {
        let time = Duration::from_millis(500 + self.random.below(8000));
        tokio::time::sleep(time).await;
        if self.calm {
            // States and ends are durable after a moment, also if nobody asks for it.
            self.model(|model| model.flushed());
        }
    }

    async fn step(&mut self) -> Result<(), SpoolError> {
        let mut chosen = self.random.below(self.plan.weights.iter().sum());
        let mut step = 0;
        while chosen >= self.plan.weights[step] {
            chosen -= self.plan.weights[step];
            step += 1;
        }
        match step {
            0 => self.accept_some().await?,
            1 => self.update(),
            2 => self.done(),
            3 => self.park(),
            4 => self.due().await?,
            5 => self.take().await?,
            6 => self.notify().await?,
            7 => self.look().await?,
            8 => self.wait().await,
            9 => tokio::time::sleep(Duration::from_millis(self.random.below(60))).await,
            10 => {
                let now = self.now();
                let accept = accept(&mut self.random, now);
                // Dropped without commit.
                let (draft, _) = self.draft(&accept).await?;
                self.model(|model| model.change(draft.id()).standing = Standing::Gone);
            }
            11 => self.flush().await?,
            12 => self.hear().await?,
            _ => self.trouble(),
        }
        // Loops that only wait for their turn get it now and then.
        if self.random.below(2) == 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// A spool that is opened where one was left, looked at and closed again.
pub(crate) async fn recover(plan: &Plan, disk: &SimDisk, index: &SimIndex, seed: u64) -> Result<Found, SpoolError> {
    let (spool, recovery) = Spool::open(plan.options(), &simulated(disk, seed), index.on(disk)).await?;
    let found = look_at(&spool, recovery.notes).await?;
    // Everything found waits, and comes.
    let mut due = spool.due(Timestamp::from_millis(u64::MAX - 1), found.messages.len() + 1).await?;
    due.sort_by_key(|message| message.id);
    alike(&due, &found.messages);
    spool.close().await?;
    let disk: Arc<dyn posthouse::system::Disk> = Arc::new(disk.clone());
    let alone = posthouse::spool::read_stopped(Path::new(ROOT), &disk)?;
    // The index and the log agree.
    alike(&found.messages, &alone.list(&Filter::default()));
    Ok(found)
}
