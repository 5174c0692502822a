//! An hour of mail that comes and goes: the space that it takes on disk at every moment, and how fast what is dead is cleared away.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::mail::{Address, BodyType, QueueId, Recipient, RecipientState, ReversePath, Timestamp, Update};
use posthouse::spool::index::{MemoryCatalogue, RunIndexFactory};
use posthouse::spool::record::HEADER_SIZE;
use posthouse::spool::{Accept, Options, Spool};
use posthouse::system::Disk;
use posthouse::system::sim::{Operation, OperationKind, SimDisk, SimRandom};

use crate::spool_story::ROOT;
use crate::spool_world::{START, options, run, simulated};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: u64 = 3600;
/// A message counts as living for so long after its end was asked for: by then the spool has made it durable.
const ENDING: Duration = Duration::from_millis(200);

/// What is known from outside: who lives, and what the disk was told to write.
#[derive(Default)]
struct Books {
    now: Duration,
    /// The length of each message's last Accept record,
    sizes: BTreeMap<QueueId, u64>,
    /// and what counts as living of those that live: that, and content in a file of its own.
    lives: BTreeMap<QueueId, u64>,
    ending: VecDeque<(Duration, u64)>,
    live: u64,
    /// Bytes that the disk can't read, and that are kept apart.
    apart: u64,
    accepted: u64,
    peak: u64,
    /// The largest share of the bound that was ever taken.
    share: f64,
    log: u64,
    zeros: u64,
    content: u64,
    index: u64,
    /// Segments that were begun in a new file, and in a spare.
    begun: u64,
    reused: u64,
    copied: Vec<(Duration, u64)>,
}

impl Books {
    fn settle(&mut self) {
        while let Some((_, size)) = self.ending.pop_front_if(|(at, _)| *at <= self.now) {
            self.live -= size;
        }
    }

    fn watch(&mut self, operation: &Operation<'_>, segment_size: u64) {
        self.settle();
        let (used, bound) = (operation.used(), 2 * self.live + 2 * segment_size + self.apart);
        self.peak = self.peak.max(used);
        self.share = self.share.max(used as f64 / bound as f64);
        let what = (operation.kind, operation.path);
        assert!(used <= bound, "{used} bytes on disk, {} live, at {:?}: {what:?}", self.live, self.now);
        let is_segment = operation.path.extension().is_some_and(|extension| extension == "seg");
        self.begun += u64::from(is_segment && operation.kind == OperationKind::Create);
        self.reused += u64::from(is_segment && operation.kind == OperationKind::Rename);
        if operation.kind == OperationKind::Write {
            let bytes = operation.bytes.len() as u64;
            match operation.path.components().nth(2).and_then(|part| part.as_os_str().to_str()) {
                Some("log") if operation.bytes.iter().all(|octet| *octet == 0) => self.zeros += bytes,
                Some("log") => {
                    self.log += bytes;
                    let copied = self.survivors(operation.bytes);
                    if copied > 0 && operation.offset > 0 {
                        self.copied.push((self.now, copied));
                    }
                }
                Some("content") => self.content += bytes,
                _ => self.index += bytes,
            }
        }
    }

    /// Bytes of Accept records of messages that were accepted before.
    fn survivors(&mut self, mut bytes: &[u8]) -> u64 {
        let mut copied = 0;
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
        while bytes.len() >= HEADER_SIZE {
            let length = HEADER_SIZE + number(&bytes[8..12]) + number(&bytes[12..16]);
            let id = QueueId(u64::from_le_bytes(bytes[24..32].try_into().unwrap()));
            if bytes[5] == 1 {
                let length = length as u64;
                if let Some(before) = self.sizes.insert(id, length) {
                    copied += length;
                    // With what is known of its recipients by now.
                    if let Some(lives) = self.lives.get_mut(&id) {
                        *lives = *lives + length - before;
                        self.live = self.live + length - before;
                    }
                }
            }
            bytes = bytes.get(length..).unwrap_or_default();
        }
        copied
    }

    fn copied(&self) -> u64 {
        self.copied.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// A spool and its books.
struct House {
    spool: Spool,
    books: Arc<Mutex<Books>>,
    disk: SimDisk,
    /// So many has each message.
    recipients: usize,
}

impl House {
    async fn open(options: Options) -> Self {
        Self::open_for(1, options).await
    }

    async fn open_for(recipients: usize, options: Options) -> Self {
        let disk = SimDisk::new();
        let books = Arc::new(Mutex::new(Books::default()));
        let index = RunIndexFactory {
            path: Path::new(ROOT).join("index"),
            disk: Arc::new(disk.clone()),
            catalogue: Box::new(MemoryCatalogue::default()),
            cache: 1 << 20,
            recent_size_max: 1 << 18,
        };
        let segment_size = options.segment_size;
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(index)).await.unwrap();
        let (seen, begun) = (books.clone(), tokio::time::Instant::now());
        disk.watch(move |operation| {
            let mut books = seen.lock().unwrap();
            books.now = begun.elapsed();
            books.watch(operation, segment_size);
        });
        Self { spool, books, disk, recipients }
    }

    async fn accept(&mut self, size: u64) -> QueueId {
        {
            let mut books = self.books.lock().unwrap();
            books.live += size;
            books.accepted += size;
        }
        let mut draft = self.spool.begin().unwrap();
        for _ in 0..size / 4096 {
            draft.write(&[b'x'; 4096]).await.unwrap();
        }
        draft.write(&vec![b'y'; (size % 4096) as usize]).await.unwrap();
        let to = |number| Recipient::new(Address::parse(&format!("ann{number}@example.test")).unwrap(), None, START);
        let recipients = (0..self.recipients).map(to).collect();
        let (reverse_path, body) = (ReversePath::Null, BodyType::SevenBit);
        let accept = Accept { arrived: START, reverse_path, body, request: None, recipients, updates: Vec::new(), origin: None };
        let id = draft.commit(accept).await.unwrap().id;
        let mut books = self.books.lock().unwrap();
        let record = books.sizes[&id];
        let lives = if record > size { record } else { record + size };
        books.live += lives - size;
        books.lives.insert(id, lives);
        id
    }

    fn done(&mut self, id: QueueId) {
        self.spool.done(id);
        let mut books = self.books.lock().unwrap();
        let size = books.lives.remove(&id).unwrap();
        let at = books.now + ENDING;
        books.ending.push_back((at, size));
    }

    /// An attempt failed: again later.
    async fn defer(&mut self, id: QueueId, until: Timestamp) {
        let message = self.spool.message(id).await.unwrap().unwrap();
        let deferred = |(number, recipient): (usize, &Recipient)| {
            let mut status = recipient.status.clone();
            status.state = RecipientState::Deferred;
            status.attempts += 1;
            status.next_attempt = until;
            status.last_reply = format!("450 4.2.1 <ann{number}@example.test>: mailbox is busy, try later");
            (number as _, status)
        };
        let statuses = message.recipients.iter().enumerate().map(deferred).collect();
        self.spool.update(Update { statuses, ..Update::new(id) });
        self.spool.park(id, until);
    }
}

/// Octets of content: the more recipients, the more of it, so that what is known of them is less than half of a message.
fn size(recipients: usize, random: &mut SimRandom) -> u64 {
    let least = (recipients as u64 - 1) * 300;
    least
        + match random.below(200) {
            0 => 150_000 + random.below(400_000),
            1..=10 => 20_000 + random.below(60_000),
            _ => 600 + random.below(7000),
        }
}

/// Messages by the second at which they are delivered.
type Agenda = BTreeMap<u64, Vec<QueueId>>;

/// An hour: 99 % is delivered within seconds, 1 % waits for days, and for ten minutes nothing can be delivered.
async fn hour(house: &mut House, random: &mut SimRandom) {
    let mut agenda = Agenda::new();
    let days = |now: u64| START.plus(SECOND * (now + 900) as u32);
    for second in 0..HOUR {
        let trouble = (1200..1800).contains(&second);
        for _ in 0..3 + random.below(5) {
            let size = size(house.recipients, random);
            let id = house.accept(size).await;
            if random.below(100) == 0 {
                house.defer(id, days(second)).await;
            } else {
                let at = if trouble { 1800 + random.below(60) } else { second + random.below(12) };
                agenda.entry(at).or_default().push(id);
            }
        }
        for id in agenda.remove(&second).unwrap_or_default() {
            house.done(id);
        }
        if second % 60 == 0 {
            // Retries of what waits: all in vain.
            let due = house.spool.due(START.plus(SECOND * second as u32), 1000).await.unwrap();
            for message in due {
                house.defer(message.id, days(second)).await;
            }
        }
        tokio::time::sleep(SECOND).await;
    }
    for id in agenda.into_values().flatten() {
        house.done(id);
    }
}

/// What becomes of the first message's record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Sound,
    Damaged,
    /// The segment is set aside: its bytes are kept beside what is bounded.
    Unreadable,
}

#[test]
fn disk_use_stays_under_twice_what_lives_and_two_segments_at_every_moment() {
    let small = 256 << 10;
    for (segment_size, first_is, recipients) in [
        (small, First::Sound, 1),
        (2 << 20, First::Sound, 1),
        (small, First::Damaged, 1),
        (small, First::Unreadable, 1),
        (1 << 20, First::Sound, 50),
    ] {
        run(async {
            let options = Options {
                segment_size,
                compaction_rate: 1 << 20,
                inline_max: 128 << 10,
                spares: 4,
                zeros_ahead: 32 << 10,
                ..options(ROOT)
            };
            let mut house = House::open_for(recipients, options).await;
            // The first message waits for days; perhaps nobody can read it.
            let first = house.accept(3000).await;
            house.defer(first, START.plus(SECOND * 100_000)).await;
            house.spool.flush().await.unwrap();
            let oldest = Path::new(ROOT).join("log/00000001.seg");
            match first_is {
                First::Sound => {}
                First::Damaged => house.disk.flip_bit(&oldest, 5000 * 8).unwrap(),
                First::Unreadable => {
                    house.disk.fail_reading(&oldest, 4096..8192).unwrap();
                    house.books.lock().unwrap().apart = segment_size;
                }
            }
            hour(&mut house, &mut SimRandom::new(segment_size)).await;
            assert_eq!(house.spool.content(first).await.is_err(), first_is != First::Sound);
            assert!(!house.disk.exists(&oldest));
            if first_is == First::Unreadable {
                // Nothing was written over it.
                house.disk.fail_reading(&Path::new(ROOT).join("unreadable/00000001.seg"), 0..0).unwrap();
                assert!(house.spool.content(first).await.is_ok());
            }
            tokio::time::sleep(SECOND * 5).await;
            let used = house.disk.used();
            let books = house.books.lock().unwrap();
            let left = books.lives.values().sum::<u64>();
            println!(
                "segments of {} KiB: {} messages for {recipients}, {:.1} MB accepted; log {:.1} MB and zeros {:.1} MB written, content {:.1}, index {:.1}, survivors {:.1}; \
                 {:.2} bytes written a byte of mail; at most {:.1} MB on disk and {:.0} % of the bound; {:.2} MB at the end for {:.2} MB \
                 that live",
                segment_size >> 10,
                books.sizes.len(),
                books.accepted as f64 / 1e6,
                books.log as f64 / 1e6,
                books.zeros as f64 / 1e6,
                books.content as f64 / 1e6,
                books.index as f64 / 1e6,
                books.copied() as f64 / 1e6,
                (books.log + books.zeros + books.content + books.index) as f64 / books.accepted as f64,
                books.peak as f64 / 1e6,
                books.share * 100.0,
                used as f64 / 1e6,
                left as f64 / 1e6,
            );
            assert!(books.sizes.len() > 15_000 && left > 500_000);
            println!("{} segments begun in new files, {} in spares", books.begun, books.reused);
            assert!(books.reused > books.begun, "{} new files, {} spares", books.begun, books.reused);
            assert!(books.copied() > 0, "nothing was ever copied");
            // What is copied costs less than the mail itself.
            assert!(books.copied() < books.accepted, "{} copied", books.copied());
        });
    }
}

/// In which order a backlog is delivered.
#[derive(Clone, Copy, Debug)]
enum Order {
    OldestFirst,
    NewestFirst,
    Anyhow,
}

#[test]
fn a_backlog_that_is_delivered_at_once_keeps_to_the_bound() {
    for order in [Order::OldestFirst, Order::NewestFirst, Order::Anyhow] {
        run(async {
            let options = Options { segment_size: 256 << 10, compaction_rate: 1 << 20, spares: 4, ..options(ROOT) };
            let mut house = House::open(Options { inline_max: 128 << 10, ..options }).await;
            let mut random = SimRandom::new(1);
            let mut backlog = Vec::new();
            for _ in 0..4000 {
                let id = house.accept(4096).await;
                house.defer(id, START).await;
                backlog.push(id);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // One in a hundred stays for days.
            backlog.retain(|_| random.below(100) > 0);
            match order {
                Order::OldestFirst => backlog.reverse(),
                Order::NewestFirst => {}
                Order::Anyhow => (1..backlog.len()).for_each(|last| backlog.swap(last, random.below(last as u64 + 1) as usize)),
            }
            while !backlog.is_empty() {
                for id in backlog.split_off(backlog.len().saturating_sub(20)) {
                    house.done(id);
                }
                let id = house.accept(4096).await;
                house.done(id);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let books = house.books.lock().unwrap();
            println!("{order:?}: {:.0} %, {} copied", books.share * 100.0, books.copied());
        });
    }
}

/// Bytes a second that may be copied in the story below.
const RATE: u64 = 64 << 10;
/// The room that must stay free there.
const MIN_FREE: u64 = 1 << 20;

/// A log of 8 MiB whose older half has become mostly dead, but not so much that room is needed.
async fn half_dead() -> House {
    let options = Options { segment_size: 1 << 20, compaction_rate: RATE, min_free: MIN_FREE, ..options(ROOT) };
    let options = Options { inline_max: 128 << 10, ..options };
    let mut house = House::open(options).await;
    let mut ids = Vec::new();
    for _ in 0..2000 {
        ids.push(house.accept(4096).await);
        // Not so fast that room might be needed soon.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (number, id) in ids.into_iter().enumerate().take(1000) {
        if number % 5 > 0 {
            house.done(id);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    house.spool.flush().await.unwrap();
    house
}

#[test]
fn survivors_are_copied_at_the_rate_that_is_set() {
    run(async {
        let mut house = half_dead().await;
        for _ in 0..600 {
            let asked = tokio::time::Instant::now();
            let id = house.accept(4096).await;
            assert_eq!(asked.elapsed(), Duration::ZERO, "reception waited");
            house.done(id);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let books = house.books.lock().unwrap();
        let (first, last) = (books.copied[0].0, books.copied.last().unwrap().0);
        // 200 survivors of 4 KiB; some of those that came later may be copied as well.
        assert!(books.copied() > 700_000, "{} copied", books.copied());
        assert!(last - first > SECOND * 9, "copied within {:?}", last - first);
        for (at, _) in &books.copied {
            let within = |(then, _): &&(Duration, u64)| *then >= *at && *then <= *at + SECOND;
            let copied: u64 = books.copied.iter().filter(within).map(|(_, bytes)| bytes).sum();
            // What one step copies may come on top.
            assert!(copied <= RATE + (300 << 10), "{copied} bytes within a second from {at:?}");
        }
    });
}

#[test]
fn survivors_are_copied_at_once_when_room_is_needed() {
    run(async {
        let house = half_dead().await;
        let began = house.books.lock().unwrap().now;
        // Too little is free, but some.
        house.disk.set_capacity(Some(house.disk.used() + MIN_FREE / 2));
        tokio::time::sleep(SECOND * 3).await;
        let books = house.books.lock().unwrap();
        assert!(books.copied() > 700_000, "{} copied", books.copied());
        assert!(books.copied.last().unwrap().0 - began < SECOND * 2);
        assert!(house.spool.space().is_ok(), "there is room again");
    });
}
