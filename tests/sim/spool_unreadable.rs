//! Segments that the disk can't read for a while: nothing is given up, nothing else is held up, and all of it comes back.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::mail::{Message, Timestamp, Update};
use posthouse::spool::index::{Index, MemoryIndexFactory, Place};
use posthouse::spool::{Note, Options, Spool, SpoolError};
use posthouse::system::sim::SimDisk;
use posthouse::system::{Disk, System};

use crate::spool_story::ROOT;
use crate::spool_world::{SEGMENT_SIZE, envelope, every_look_takes, options, run, simulated};

const SECOND: Duration = Duration::from_secs(1);
/// No bytes at all.
const NONE: Range<u64> = 0..0;
/// All records of a segment.
const WHOLE: Range<u64> = 4096..SEGMENT_SIZE;

/// A spool, its disk, and what it said.
struct House {
    spool: Spool,
    disk: SimDisk,
    index: MemoryIndexFactory,
    notes: Arc<Mutex<Vec<Note>>>,
}

impl House {
    async fn open(disk: &SimDisk, index: &MemoryIndexFactory) -> Self {
        Self::open_in(&simulated(disk, 1), disk, index).await
    }

    async fn open_in(system: &System, disk: &SimDisk, index: &MemoryIndexFactory) -> Self {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let heard = notes.clone();
        let options = Options { report: Arc::new(move |note| heard.lock().unwrap().push(note)), ..options(ROOT) };
        let (spool, recovery) = Spool::open(options, system, Box::new(index.clone())).await.unwrap();
        notes.lock().unwrap().extend(recovery.notes);
        Self { spool, disk: disk.clone(), index: index.clone(), notes }
    }

    async fn accept(&self) -> Message {
        let mut draft = self.spool.begin().unwrap();
        draft.write(&[b'x'; 100]).await.unwrap();
        Message::clone(&*draft.commit(envelope()).await.unwrap())
    }

    /// Messages that wait for days, and where they lie.
    async fn held(&self, count: usize) -> Vec<(Message, Place)> {
        let mut messages = Vec::new();
        for _ in 0..count {
            let mut message = self.accept().await;
            let hold = Update { held: Some(true), ..Update::new(message.id) };
            message.apply(&hold);
            self.spool.update(hold);
            self.spool.park(message.id, Timestamp::NEVER);
            messages.push(message);
        }
        self.spool.flush().await.unwrap();
        let place = |message: &Message| self.index.0.get(message.id).unwrap().unwrap().0.place;
        messages.into_iter().map(|message| (message.clone(), place(&message))).collect()
    }

    /// Mail that comes and goes for so many seconds.
    async fn churn(&self, seconds: usize) {
        for _ in 0..seconds {
            self.spool.done(self.accept().await.id);
            tokio::time::sleep(SECOND).await;
        }
        self.spool.flush().await.unwrap();
    }

    fn segments(&self) -> Vec<String> {
        self.disk.list(&Path::new(ROOT).join("log")).unwrap()
    }

    /// What lies in the folder of segments that can't be read.
    fn apart(&self) -> Vec<String> {
        self.disk.list(&Path::new(ROOT).join("unreadable")).unwrap_or_default()
    }

    /// Why the disk doesn't give a message's content.
    async fn unread(&self, message: &Message) -> String {
        assert_eq!(self.spool.message(message.id).await.unwrap().as_ref(), Some(message));
        match self.spool.content(message.id).await {
            Err(SpoolError::Io(why)) => why,
            Err(error) => panic!("{error:?}"),
            Ok(_) => panic!("{} can be read", message.id),
        }
    }

    async fn is_whole(&self, message: &Message) {
        assert_eq!(self.spool.message(message.id).await.unwrap().as_ref(), Some(message));
        let content = self.spool.content(message.id).await.unwrap();
        assert_eq!(content.read_at(0, 1000).await.unwrap(), [b'x'; 100]);
    }

    fn notes(&self) -> Vec<Note> {
        self.notes.lock().unwrap().clone()
    }
}

/// The bytes of a record.
fn record(place: Place) -> Range<u64> {
    place.offset..place.offset + u64::from(place.length)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Chooses bytes of a segment in which some messages lie.
type Choice = fn(&[(Message, Place)]) -> Range<u64>;

/// How many messages have their content back.
fn back(note: &Note) -> u64 {
    match note {
        Note::SegmentReadable { messages, .. } => *messages,
        _ => 0,
    }
}

fn log() -> PathBuf {
    Path::new(ROOT).join("log/00000001.seg")
}

fn kept() -> PathBuf {
    Path::new(ROOT).join("unreadable/00000001.seg")
}

/// A house whose first segment was set aside: nothing in it can be read but its header.
async fn with_a_segment_apart(disk: &SimDisk, index: &MemoryIndexFactory) -> (House, Vec<(Message, Place)>) {
    let house = House::open(disk, index).await;
    let held = house.held(4).await;
    disk.fail_reading(&log(), WHOLE).unwrap();
    house.churn(100).await;
    assert_eq!(house.apart(), ["00000001.list", "00000001.seg"]);
    (house, held)
}

#[test]
fn a_segment_that_the_disk_can_not_read_holds_nothing_up_and_comes_back_when_it_can() {
    // One record, several, all of them, the whole file.
    let which: [Choice; 4] =
        [|held| record(held[1].1), |held| held[0].1.offset + 9..held[2].1.offset + 9, |_| WHOLE, |_| 0..SEGMENT_SIZE];
    for bytes in which {
        run(async {
            let house = House::open(&SimDisk::new(), &MemoryIndexFactory::default()).await;
            let held = house.held(4).await;
            let bytes = bytes(&held);
            house.disk.fail_reading(&log(), bytes.clone()).unwrap();
            house.churn(300).await;
            assert!(house.segments().len() <= 3 && !house.disk.exists(&log()), "{:?}", house.segments());
            for (message, place) in &held {
                if overlap(&record(*place), &bytes) {
                    let why = house.unread(message).await;
                    assert!(why.contains("unreadable/00000001.seg") && why.contains("os error 5"), "{why}");
                } else {
                    house.is_whole(message).await;
                }
            }
            house.disk.fail_reading(&kept(), NONE).unwrap();
            for (message, _) in &held {
                house.is_whole(message).await;
            }
            tokio::time::sleep(SECOND * 3600).await;
            assert_eq!(house.apart(), [""; 0]);
            for (message, _) in &held {
                house.is_whole(message).await;
            }
            let told: Vec<Note> =
                house.notes().into_iter().filter(|note| !matches!(note, Note::SegmentReadable { .. })).collect();
            let is_unread =
                |note: &Note| matches!(note, Note::SegmentUnreadable { segment: 1, error, .. } if error.contains("os error 5"));
            assert!(told.len() == 1 && is_unread(&told[0]), "{told:?}");
            let back: u64 = house.notes().iter().map(back).sum();
            assert_eq!(back, held.iter().filter(|(_, place)| overlap(&record(*place), &bytes)).count() as u64);
            house.spool.close().await.unwrap();
        });
    }
}

#[test]
fn what_waits_for_a_segment_waits_over_a_restart() {
    let (disk, index) = (SimDisk::new(), MemoryIndexFactory::default());
    let held = run(async { with_a_segment_apart(&disk, &index).await.1 });
    // With its index, and without.
    for index in [index, MemoryIndexFactory::default()] {
        let disk = disk.killed();
        disk.fail_reading(&kept(), WHOLE).unwrap();
        run(async {
            let house = House::open(&disk, &index).await;
            for (message, _) in &held {
                house.unread(message).await;
            }
            tokio::time::sleep(SECOND * 10).await;
            let notes = house.notes();
            assert!(!notes.iter().any(|note| matches!(note, Note::ContentMissing { .. } | Note::Trouble(_))), "{notes:?}");
            let told = notes.iter().filter(|note| matches!(note, Note::SegmentUnreadable { segment: 1, messages: 4, .. }));
            assert_eq!(told.count(), 1, "{notes:?}");
            disk.fail_reading(&kept(), NONE).unwrap();
            tokio::time::sleep(SECOND * 3600).await;
            assert_eq!(house.apart(), [""; 0]);
            for (message, _) in &held {
                house.is_whole(message).await;
            }
            house.spool.close().await.unwrap();
        });
    }
}

#[test]
fn a_segment_that_nobody_waits_for_any_longer_goes_without_being_read() {
    run(async {
        let (house, held) = with_a_segment_apart(&SimDisk::new(), &MemoryIndexFactory::default()).await;
        held.iter().for_each(|(message, _)| house.spool.done(message.id));
        tokio::time::sleep(SECOND * 3600).await;
        assert_eq!((house.apart(), house.spool.gauges().messages), (Vec::new(), 0));
        assert!(!house.notes().iter().any(|note| matches!(note, Note::SegmentReadable { .. })));
        house.spool.close().await.unwrap();
    });
}

#[test]
fn what_comes_back_damaged_is_set_aside_like_any_damage_and_the_rest_is_whole() {
    run(async {
        let (house, held) = with_a_segment_apart(&SimDisk::new(), &MemoryIndexFactory::default()).await;
        house.disk.flip_bit(&kept(), (held[1].1.offset + 60) * 8).unwrap();
        house.disk.fail_reading(&kept(), NONE).unwrap();
        tokio::time::sleep(SECOND * 3600).await;
        assert_eq!(house.apart(), [""; 0]);
        for (at, (message, _)) in held.iter().enumerate() {
            match at {
                1 => assert_eq!(house.spool.content(message.id).await.err(), Some(SpoolError::Damaged(message.id))),
                _ => house.is_whole(message).await,
            }
        }
        let notes = house.notes();
        let lost: Vec<_> = notes.iter().filter(|note| matches!(note, Note::ContentMissing { .. })).collect();
        assert_eq!(lost, [&Note::ContentMissing { id: held[1].0.id }]);
        let is_copy = |note: &&Note| matches!(note, Note::Quarantined { segment: 1, offset, .. } if *offset == held[1].1.offset);
        assert_eq!(notes.iter().filter(is_copy).count(), 1);
        assert_eq!(house.disk.list(&Path::new(ROOT).join("quarantine")).unwrap().len(), 1);
        house.spool.close().await.unwrap();
    });
}

#[test]
fn a_segment_stays_in_the_log_until_it_can_be_set_aside() {
    run(async {
        let house = House::open(&SimDisk::new(), &MemoryIndexFactory::default()).await;
        let held = house.held(1).await;
        let mut others = Vec::new();
        while house.segments().len() < 2 {
            others.push(house.accept().await.id);
        }
        house.disk.fail_reading(&log(), WHOLE).unwrap();
        house.disk.set_capacity(Some(house.disk.used()));
        others.into_iter().for_each(|id| house.spool.done(id));
        tokio::time::sleep(SECOND * 10).await;
        assert!(house.disk.exists(&log()) && !house.disk.exists(&kept()), "there is no room for a list");
        let told =
            |note: &Note| matches!(note, Note::Trouble(why) if why.contains("os error 5") && why.contains("can't be set aside"));
        assert_eq!(house.notes().iter().filter(|note| told(note)).count(), 1, "{:?}", house.notes());
        assert!(house.unread(&held[0].0).await.contains("log/00000001.seg"));
        house.disk.set_capacity(None);
        tokio::time::sleep(SECOND * 10).await;
        assert!(!house.disk.exists(&log()) && house.disk.exists(&kept()));
        house.disk.fail_reading(&kept(), NONE).unwrap();
        tokio::time::sleep(SECOND * 3600).await;
        assert_eq!(house.apart(), [""; 0]);
        house.is_whole(&held[0].0).await;
        house.spool.close().await.unwrap();
    });
}

/// Sets a segment aside and takes it back, with the power cut after so many operations; false if that was before the cut.
fn is_cut(after: u64) -> bool {
    let (disk, index) = (SimDisk::new(), MemoryIndexFactory::default());
    let held = run(async {
        let house = House::open(&disk, &index).await;
        let held = house.held(4).await;
        house.churn(8).await;
        disk.fail_reading(&log(), held[1].1.offset..held[2].1.offset + 9).unwrap();
        disk.crash_after(after);
        for second in 0..60 {
            if let Ok(draft) = house.spool.begin()
                && let Ok(message) = draft.commit(envelope()).await
            {
                house.spool.done(message.id);
            }
            if second == 30 && disk.exists(&kept()) {
                disk.fail_reading(&kept(), NONE).unwrap();
            }
            tokio::time::sleep(SECOND).await;
        }
        held
    });
    if !disk.is_off() {
        return false;
    }
    for seed in 0..3 {
        let disk = disk.crashed(seed);
        run(async {
            let house = House::open(&disk, &MemoryIndexFactory::default()).await;
            for (message, _) in &held {
                house.is_whole(message).await;
            }
            house.churn(60).await;
            assert_eq!(house.apart(), [""; 0], "cut after {after}, seed {seed}");
            for (message, _) in &held {
                house.is_whole(message).await;
            }
            house.spool.close().await.unwrap();
        });
    }
    true
}

#[test]
fn wherever_the_power_is_cut_while_a_segment_is_set_aside_no_content_is_lost() {
    let cuts = (0..).take_while(|after| is_cut(*after)).count();
    assert!(cuts > 100, "{cuts} cuts");
}

#[test]
fn where_each_failed_read_takes_long_all_of_a_segment_is_tried_in_turns() {
    run(async {
        let disk = SimDisk::new();
        let house = House::open_in(&every_look_takes(&disk, 1, 12_000), &disk, &MemoryIndexFactory::default()).await;
        let held = house.held(10).await;
        house.disk.fail_reading(&log(), WHOLE).unwrap();
        house.churn(100).await;
        assert_eq!(house.apart().len(), 2);
        // The last four can be read again, the others not: no try comes past three of them.
        house.disk.fail_reading(&kept(), 4096..record(held[5].1).end).unwrap();
        tokio::time::sleep(SECOND * 3600 * 3).await;
        assert_eq!(house.notes().iter().map(back).sum::<u64>(), 4);
        for (at, (message, _)) in held.iter().enumerate() {
            match at {
                0..6 => assert!(house.unread(message).await.contains("os error 5")),
                _ => house.is_whole(message).await,
            }
        }
        house.spool.close().await.unwrap();
    });
}
