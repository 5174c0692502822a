//! Tests of the tools: check and repair on damaged spools, export and import there and back, on the simulated disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

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

#[test]
fn a_sound_spool_is_found_sound() {
    run(async {
        let spooled = Spooled::new().await;
        let (found, survey) = spooled.check();
        assert_eq!(found, []);
        assert!(survey.is_sound() && survey.records > 50 && survey.segments == spooled.segments().len() as u64);
        assert_eq!((survey.messages, survey.content_files), (spooled.messages.len() as u64, 5));
        assert_eq!(spooled.repair(&[]).await, []);
    });
}

#[test]
fn a_running_server_is_an_error() {
    run(async {
        let spooled = Spooled::new().await;
        let spool = open(&spooled.disk, ROOT, &spooled.index).await;
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        let bench = Bench(spooled.index.clone());
        let checked = check(Path::new(ROOT), &disk, &bench, &progress::unwatched(), &mut |_| {});
        assert_eq!(checked, Err(SpoolError::Locked(ROOT.into())));
        let exported = export(Path::new(ROOT), Path::new("/out"), &disk, &bench, &progress::unwatched(), &mut |_| {});
        assert_eq!(exported, Err(SpoolError::Locked(ROOT.into())));
        assert_eq!(spooled.try_repair().await, Err(SpoolError::Locked(ROOT.into())));
        spool.close().await.unwrap();
    });
}

#[test]
fn a_record_with_a_flipped_bit_is_set_aside_and_its_message_is_held() {
    // In the header, in the content, in the description.
    for byte in [8, 60, u64::MAX] {
        run(async {
            let spooled = Spooled::new().await;
            let (id, place) = spooled.one(false);
            let byte = byte.min(u64::from(place.length) - 2);
            spooled.flip(&spooled.segment(place.segment), place.offset + byte);
            assert_eq!(spooled.damage(), [FindingKind::RecordsDamaged, FindingKind::RecordLost]);
            let found = &spooled.check().0[0];
            assert_eq!((found.segment, found.offset), (Some(place.segment), Some(place.offset)));
            assert_eq!(found.id, (byte > 40).then_some(id), "a sound header says whose record it was");
            let steps = spooled.repair(&[id]).await;
            use StepKind::*;
            assert_eq!(steps, [SetAside, IndexSetAside, IndexRebuilt, EnvelopeKept, Held]);
            assert!(spooled.is_held_without_content(id).await);
            let copy = format!("{ROOT}/quarantine/{:08}-{}.bin", place.segment, place.offset);
            let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
            assert_eq!(disk.read(Path::new(&copy), 1 << 20).unwrap().len() as u32, place.length);
            let known = spooled.check().0;
            assert!(known.iter().any(|f| f.level == Level::Known && f.finding == FindingKind::RecordsDamaged), "{known:?}");
        });
    }
}

#[test]
fn a_damaged_record_whose_content_lies_in_a_file_loses_nothing() {
    run(async {
        let spooled = Spooled::new().await;
        let (id, place) = spooled.one(true);
        spooled.flip(&spooled.segment(place.segment), place.offset + 50);
        assert_eq!(spooled.damage(), [FindingKind::RecordsDamaged, FindingKind::RecordLost]);
        let steps = spooled.repair(&[]).await;
        assert!(steps.contains(&StepKind::Restored) && !steps.contains(&StepKind::Held), "{steps:?}");
        let left = spooled.disk.list(Path::new("/spool/quarantine")).unwrap();
        assert_eq!(left, [format!("{:08}-{}.bin", place.segment, place.offset)]);
        assert!(spooled.disk.exists(&spooled.content(id)));
    });
}

#[test]
fn without_an_index_the_content_file_of_a_damaged_record_is_kept() {
    run(async {
        let spooled = Spooled { index: MemoryIndex::default(), ..Spooled::new().await };
        let known = Spooled::new().await;
        let (id, place) = known.one(true);
        spooled.flip(&spooled.segment(place.segment), place.offset + 50);
        // The server's own start as well as a repair.
        let other = Spooled { disk: spooled.disk.killed(), index: MemoryIndex::default(), ..spooled.clone() };
        open(&other.disk, ROOT, &other.index).await.close().await.unwrap();
        spooled.repair(&[id]).await;
        for disk in [&spooled.disk, &other.disk] {
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let kept = Path::new(ROOT).join(format!("quarantine/{id}.content"));
            assert_eq!(disk.read(&kept, 1 << 20).unwrap(), spooled.messages[&id].1);
        }
    });
}

#[test]
fn a_content_file_that_is_damaged_short_or_gone_is_found_and_its_message_held() {
    type Harm = fn(&Spooled, &Path);
    let harms: [(Harm, FindingKind, bool); 3] = [
        (|spooled, path| spooled.flip(path, 3000), FindingKind::ContentDamaged, true),
        (|s, path| s.disk.open(path, OpenMode::Write).unwrap().set_len(2500).unwrap(), FindingKind::ContentDamaged, true),
        (|spooled, path| spooled.disk.unlink(path).unwrap(), FindingKind::ContentMissing, false),
    ];
    for (harm, kind, is_left) in harms {
        run(async {
            let spooled = Spooled::new().await;
            let (id, _) = spooled.one(true);
            harm(&spooled, &spooled.content(id));
            assert_eq!(spooled.damage(), [kind]);
            assert_eq!(spooled.check().0[0].id, Some(id));
            spooled.repair(&[id]).await;
            assert!(spooled.is_held_without_content(id).await);
            assert_eq!(spooled.disk.exists(&Path::new(ROOT).join(format!("quarantine/{id}.content"))), is_left);
        });
    }
}

#[test]
fn a_damaged_header_copy_is_put_back_and_a_lost_header_is_known_afterwards() {
    run(async {
        for byte in [20, 2048 + 20] {
            let spooled = Spooled::new().await;
            let path = spooled.segment(spooled.segments()[0]);
            let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
            let before = disk.read(&path, 1 << 20).unwrap();
            spooled.flip(&path, byte);
            assert_eq!(spooled.damage(), [FindingKind::HeaderCopyDamaged]);
            assert!(spooled.repair(&[]).await.contains(&StepKind::HeaderMended));
            assert_eq!(disk.read(&path, 1 << 20).unwrap(), before);
        }
        let spooled = Spooled::new().await;
        let path = spooled.segment(spooled.segments()[1]);
        for byte in [20, 2048 + 20] {
            spooled.flip(&path, byte);
        }
        assert_eq!(spooled.damage(), [FindingKind::HeaderDamaged]);
        spooled.repair(&[]).await;
    });
}

#[test]
fn a_lost_segment_is_named_once_and_its_messages_are_held() {
    run(async {
        let spooled = Spooled::new().await;
        let number = spooled.segments()[1];
        spooled.disk.unlink(&spooled.segment(number)).unwrap();
        let kinds = spooled.damage();
        assert!(kinds.contains(&FindingKind::SegmentMissing) && kinds.contains(&FindingKind::RecordLost), "{kinds:?}");
        let lost: Vec<QueueId> = spooled
            .messages
            .keys()
            .copied()
            .filter(|id| spooled.index.get(*id).unwrap().unwrap().0.place.segment == number)
            .collect();
        assert!(!lost.is_empty());
        // A change that only the lost segment had is lost with it: the log counts.
        let steps = spooled.try_repair().await.unwrap();
        assert!(steps.iter().any(|step| step.done == StepKind::LossNoted && step.segment == Some(number)));
        assert_eq!(spooled.damage(), []);
        for id in lost {
            let has_content = spooled.disk.exists(&spooled.content(id));
            assert!(has_content || spooled.is_held_without_content(id).await, "{id}");
        }
    });
}

#[test]
fn an_index_that_is_not_the_logs_is_named_and_built_anew() {
    let first = |spooled: &Spooled| *spooled.messages.keys().next().unwrap();
    type Harm = Box<dyn Fn(&mut Spooled, QueueId)>;
    let harms: [(Harm, FindingKind); 5] = [
        (Box::new(|spooled, id| spooled.index.remove(id).unwrap()), FindingKind::IndexLacks),
        (
            Box::new(|spooled, id| {
                let (mut stored, due) = spooled.index.get(id).unwrap().unwrap();
                let held = &mut Arc::make_mut(&mut stored.message).held;
                *held = !*held;
                spooled.index.insert(&stored, due).unwrap();
            }),
            FindingKind::IndexDiffers,
        ),
        (
            Box::new(|spooled, id| {
                let (mut stored, due) = spooled.index.get(id).unwrap().unwrap();
                stored.place.offset += 1;
                spooled.index.insert(&stored, due).unwrap();
            }),
            FindingKind::IndexDiffers,
        ),
        (
            Box::new(|spooled, _| {
                let mark = spooled.index.mark().unwrap().unwrap();
                spooled.index.set_mark(index::Mark { identity: mark.identity + 1, ..mark }).unwrap();
            }),
            FindingKind::IndexBroken,
        ),
        (
            Box::new(|spooled, _| {
                let mut mark = spooled.index.mark().unwrap().unwrap();
                mark.position.offset += 1;
                spooled.index.set_mark(mark).unwrap();
            }),
            FindingKind::IndexBroken,
        ),
    ];
    for (harm, kind) in harms {
        run(async {
            let mut spooled = Spooled::new().await;
            let id = first(&spooled);
            harm(&mut spooled, id);
            assert_eq!(spooled.damage(), [kind]);
            assert!(spooled.repair(&[]).await.contains(&StepKind::IndexRebuilt));
        });
    }
    run(async {
        let spooled = Spooled { index: MemoryIndex::default(), ..Spooled::new().await };
        let (found, survey) = spooled.check();
        assert!(survey.is_sound());
        assert_eq!(found.iter().map(|one| one.finding).collect::<Vec<_>>(), [FindingKind::IndexMissing]);
        assert_eq!(spooled.repair(&[]).await, [StepKind::IndexRebuilt]);
    });
}

#[test]
fn a_message_that_only_the_index_has_though_its_record_is_sound_is_extra() {
    run(async {
        let mut spooled = Spooled::new().await;
        // The index missed the end of a message.
        let gone = *spooled.messages.keys().next().unwrap();
        let stale = spooled.index.get(gone).unwrap().unwrap();
        let spool = open(&spooled.disk, ROOT, &spooled.index).await;
        spool.take(gone).await.unwrap().unwrap();
        spool.done(gone);
        spool.flush().await.unwrap();
        spool.close().await.unwrap();
        spooled.index.insert(&stale.0, stale.1).unwrap();
        spooled.messages.remove(&gone);
        let kinds = spooled.damage();
        assert!(kinds == [FindingKind::IndexExtra] || kinds == [FindingKind::RecordLost], "{kinds:?}");
    });
}

#[test]
fn leftovers_are_notes() {
    run(async {
        let spooled = Spooled::new().await;
        let last = *spooled.segments().last().unwrap();
        let file = spooled.disk.open(&spooled.segment(last), OpenMode::Write).unwrap();
        file.write_at(file.len().unwrap(), &[7; 100]).unwrap();
        spooled.disk.open(&spooled.content(QueueId(1)), OpenMode::CreateNew).unwrap();
        spooled.disk.open(Path::new("/spool/quarantine/00000001-4096.bin"), OpenMode::CreateNew).unwrap();
        spooled.disk.open(Path::new("/spool/index.bad-17"), OpenMode::CreateNew).unwrap();
        let (found, survey) = spooled.check();
        assert!(survey.is_sound() && survey.notes == 4);
        let kinds: Vec<_> = found.iter().map(|one| one.finding).collect();
        use FindingKind::*;
        assert_eq!(kinds, [TornTail, Orphan, Quarantined, IndexSetAside]);
        assert_eq!(found[0].bytes, Some(100));
    });
}

#[test]
fn a_repair_that_loses_power_is_finished_by_the_next() {
    let damaged = || async {
        let spooled = Spooled::new().await;
        let (small, place) = spooled.one(false);
        spooled.flip(&spooled.segment(place.segment), place.offset + 60);
        let (large, place) = spooled.one(true);
        spooled.flip(&spooled.segment(place.segment), place.offset + 50);
        let cut = *spooled.messages.iter().rfind(|(_, (message, _))| message.size > 2048).unwrap().0;
        assert_ne!(cut, large);
        spooled.flip(&spooled.content(cut), 2100);
        (spooled, [small, cut])
    };
    let steps = run(async {
        let (spooled, lost) = damaged().await;
        let before = spooled.disk.operations();
        spooled.try_repair().await.unwrap();
        assert_eq!(lost.len(), 2);
        spooled.disk.operations() - before
    });
    assert!(steps > 30);
    for stop in 0..steps {
        run(async {
            let (spooled, lost) = damaged().await;
            spooled.disk.crash_after(stop);
            // In its last operations nothing is lost any more, and it may not even notice.
            let _ = spooled.try_repair().await;
            let after = Spooled { disk: spooled.disk.crashed(stop), ..spooled };
            after.repair(&lost).await;
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_bits_flip_a_repair_makes_the_spool_sound_and_keeps_what_is_unharmed(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 1..6)
    ) {
        run(async {
            let spooled = Spooled::new().await;
            let places: BTreeMap<QueueId, index::Place> =
                spooled.messages.keys().map(|id| (*id, spooled.index.get(*id).unwrap().unwrap().0.place)).collect();
            let mut harmed = Vec::new();
            for (segment, bit) in flips {
                let segments = spooled.segments();
                let number = segments[segment.index(segments.len())];
                let length = spooled.disk.open(&spooled.segment(number), OpenMode::Read).unwrap().len().unwrap();
                let bit = bit % (length * 8);
                spooled.disk.flip_bit(&spooled.segment(number), bit).unwrap();
                harmed.push((number, bit / 8));
            }
            let torn = spooled.check().0.iter().any(|one| one.finding == FindingKind::TornTail);
            spooled.try_repair().await.unwrap();
            prop_assert_eq!(spooled.damage(), []);
            let spool = open(&spooled.disk, ROOT, &spooled.index).await;
            for (id, (_, content)) in &spooled.messages {
                let place = places[id];
                let is_harmed = harmed.iter().any(|(segment, byte)| {
                    *segment == place.segment && (place.offset..place.offset + u64::from(place.length)).contains(byte)
                });
                if !is_harmed && !torn {
                    prop_assert_eq!(&read(&*spool.content(*id).await.unwrap()).await.unwrap(), content);
                }
            }
            spool.close().await.unwrap();
            Ok(())
        })?;
    }

    #[test]
    fn what_is_exported_is_imported_as_it_was(
        envelopes in prop::collection::vec((envelope::tests::message(), 0usize..400), 1..12)
    ) {
        run(async {
            let (disk, index) = (SimDisk::new(), MemoryIndex::default());
            let spool = open(&disk, ROOT, &index).await;
            let mut expected = BTreeMap::new();
            for (number, (message, lines)) in envelopes.into_iter().enumerate() {
                let content = b"words of mail\r\n".repeat(lines);
                let id = QueueId((1_795_312_000_000 << 20) + number as u64);
                let message = Message { id, size: content.len() as u64, ..message };
                let mut draft = spool.begin_again(id).await.unwrap().unwrap();
                draft.write(&content).await.unwrap();
                draft.restore(message.clone()).await.unwrap();
                expected.insert(id, (message, content));
            }
            spool.close().await.unwrap();
            let arc: Arc<dyn Disk> = Arc::new(disk.clone());
            let to = Path::new("/mail/out");
            let mut remarks = Vec::new();
            let bench = Bench(index.clone());
            let unwatched = progress::unwatched();
            let done = export(Path::new(ROOT), to, &arc, &bench, &unwatched, &mut |told| remarks.push(told)).unwrap();
            prop_assert_eq!((done.messages, done.failed, remarks.len()), (expected.len() as u64, 0, 0));
            // What is said to be exported outlives a power cut.
            let disk = disk.crashed(3);
            let arc: Arc<dyn Disk> = Arc::new(disk.clone());
            let index = MemoryIndex::default();
            for round in 0..3 {
                let spool = open(&disk, "/other", &index).await;
                let done = import(&spool, to, &arc, &unwatched, &mut |_| {}).await.unwrap();
                let count = expected.len() as u64;
                let expected_done = if round == 0 { (count, 0, 0) } else { (0, count, 0) };
                prop_assert_eq!((done.messages, done.skipped, done.failed), expected_done);
                let listed = spool.list(&Filter::default()).await.unwrap();
                prop_assert_eq!(&listed, &expected.values().map(|(message, _)| message.clone()).collect::<Vec<_>>());
                for (id, (_, content)) in &expected {
                    prop_assert_eq!(&read(&*spool.content(*id).await.unwrap()).await.unwrap(), content);
                }
                prop_assert!(spool.begin().unwrap().id() > *expected.keys().last().unwrap());
                spool.close().await.unwrap();
            }
            Ok(())
        })?;
    }
}

fn put(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let disk: &dyn Disk = disk;
    disk.replace(Path::new(path), bytes).unwrap();
}

#[test]
fn an_import_names_what_is_wrong_and_takes_the_rest() {
    run(async {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/in")).unwrap();
        let id = |number: u64| QueueId((1_795_312_000_000 << 20) + number);
        let message = |id: QueueId| Message {
            id,
            arrived: Timestamp::from_millis(1000),
            size: 5,
            reverse_path: ReversePath::Null,
            body: BodyType::SevenBit,
            request: None,
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients: vec![Recipient::new(Address::parse("a@x.test").unwrap(), None, Timestamp::from_millis(1000))],
        };
        let both = |id: QueueId, envelope: &Message, content: &[u8]| {
            put(&disk, &format!("/in/{id}.json"), &envelope::write(envelope));
            put(&disk, &format!("/in/{id}.eml"), content);
        };
        both(id(1), &message(id(1)), b"abc\r\n");
        both(id(2), &message(id(9)), b"abc\r\n");
        both(id(3), &message(id(3)), b"abcd\r\n");
        both(id(4), &message(id(4)), b"ab\n\r\n");
        let future = QueueId(u64::MAX);
        both(future, &message(future), b"abc\r\n");
        put(&disk, &format!("/in/{}.eml", id(5)), b"abc\r\n");
        put(&disk, &format!("/in/{}.json", id(6)), &envelope::write(&message(id(6))));
        put(&disk, "/in/README", b"?");
        put(&disk, "/in/x.eml", b"?");
        let spool = open(&disk, ROOT, &MemoryIndex::default()).await;
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let told = Mutex::new(Vec::new());
        let remark = &mut |remark: Remark| told.lock().unwrap().push(format!("{}: {}", remark.name, remark.reason));
        let done = import(&spool, Path::new("/in"), &arc, &progress::unwatched(), remark).await.unwrap();
        assert_eq!((done.messages, done.bytes, done.failed), (1, 5, 8));
        let mut told = told.into_inner().unwrap();
        told.sort();
        let mut expected = vec![
            format!("{}.json: id: {} is not the file's name", id(2), id(9)),
            format!("{}.eml: 6 octets, but size in its envelope is 5", id(3)),
            format!("{}.eml: line 1 has a bare LF: lines of mail end with CR and LF", id(4)),
            format!("{}.eml: its envelope {}.json is missing", id(5), id(5)),
            format!("{}.json: its content {}.eml is missing", id(6), id(6)),
            format!("{future}.json: {future} is an id of the future: later ones could not be greater"),
            "README: neither ID.eml nor ID.json".to_owned(),
            "x.eml: its name is no queue id".to_owned(),
        ];
        expected.sort();
        assert_eq!(told, expected);
        spool.close().await.unwrap();
    });
}

#[test]
fn an_export_whose_sync_fails_is_none() {
    run(async {
        let spooled = Spooled::new().await;
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        spooled.disk.fail_sync(0);
        let bench = Bench(spooled.index.clone());
        let done = export(Path::new(ROOT), Path::new("/out"), &disk, &bench, &progress::unwatched(), &mut |_| {});
        assert!(matches!(&done, Err(SpoolError::Io(what)) if what.starts_with("can't sync /out")), "{done:?}");
    });
}

#[test]
fn an_export_overwrites_nothing_and_leaves_out_what_is_damaged() {
    run(async {
        let spooled = Spooled::new().await;
        let (id, _) = spooled.one(true);
        spooled.flip(&spooled.content(id), 2500);
        let disk: Arc<dyn Disk> = Arc::new(spooled.disk.clone());
        let bench = Bench(spooled.index.clone());
        let export_to = |to: &str| {
            let mut told = Vec::new();
            let done =
                export(Path::new(ROOT), Path::new(to), &disk, &bench, &progress::unwatched(), &mut |remark| told.push(remark));
            (done, told)
        };
        let (done, told) = export_to("/out");
        let done = done.unwrap();
        assert_eq!((done.messages, done.failed), (spooled.messages.len() as u64 - 1, 1));
        assert_eq!((told.len(), told[0].name.as_str()), (1, id.to_string().as_str()));
        assert!(!disk.exists(&PathBuf::from(format!("/out/{id}.eml"))));
        let before = disk.list(Path::new("/out")).unwrap();
        assert!(matches!(export_to("/out").0, Err(SpoolError::Io(_))));
        assert_eq!(disk.list(Path::new("/out")).unwrap(), before);
    });
}
