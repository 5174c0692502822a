//! Damage on the simulated disk: a bit that flips, a segment that is gone. It costs what was there, and no more.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::mail::{Message, QueueId, Timestamp, Update};
use posthouse::spool::index::{Index, MemoryIndexFactory};
use posthouse::spool::{Note, Options, Spool, SpoolError};
use posthouse::system::sim::SimDisk;
use posthouse::system::{Disk, OpenMode};

use crate::spool_model::{Found, alike};
use crate::spool_story::{ROOT, look_at};
use crate::spool_world::{envelope, options, run, simulated};
use crate::world::failing_index::Failing;

async fn recover(disk: &SimDisk) -> Result<Found, SpoolError> {
    let index = Box::new(MemoryIndexFactory::default());
    let (spool, recovery) = Spool::open(options(ROOT), &simulated(disk, 1), index).await?;
    let found = look_at(&spool, recovery.notes).await?;
    spool.close().await?;
    Ok(found)
}

/// Commits some messages one after the other, and is killed.
fn tell_short_story(disk: &SimDisk) -> Vec<Message> {
    run(async {
        let system = simulated(disk, 1);
        let (spool, _) = Spool::open(options(ROOT), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        let mut messages = Vec::new();
        for _ in 0..6 {
            messages.push(accept(&spool).await);
        }
        messages
    })
}

async fn accept(spool: &Spool) -> Message {
    accept_of(spool, 100).await
}

async fn accept_of(spool: &Spool, octets: usize) -> Message {
    let mut draft = spool.begin().unwrap();
    draft.write(&vec![b'x'; octets]).await.unwrap();
    Message::clone(&*draft.commit(envelope()).await.unwrap())
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
    let found = run(recover(&disk)).unwrap();
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
    let found = run(recover(&disk)).unwrap();
    assert!(found.notes.contains(&Note::SegmentMissing { segment: 2 }), "{:?}", found.notes);
    // The last message of each was written again at the head of the next, and the first segment's stands there too.
    messages.drain(6..11);
    alike(&found.messages, &messages);
}

/// Sees that a message is in the queue as it was, and that its content is lost.
async fn is_there_without_content(spool: &Spool, message: &Message) {
    assert_eq!(spool.message(message.id).await.unwrap().as_ref(), Some(message));
    assert_eq!(spool.content(message.id).await.err(), Some(SpoolError::Damaged(message.id)));
}

#[test]
fn a_damaged_message_does_not_keep_its_segment_nor_those_behind() {
    // In its header, its content, its description; in those of several.
    for places in [&[30][..], &[60], &[145], &[10, 20, 50]] {
        let (disk, index) = (SimDisk::new(), MemoryIndexFactory::default());
        let (lost, kept) = run(async {
            let notes = Arc::new(Mutex::new(Vec::new()));
            let heard = notes.clone();
            let options = Options { report: Arc::new(move |note| heard.lock().unwrap().push(note)), ..options(ROOT) };
            let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
            let mut messages = Vec::new();
            for _ in 0..4 {
                let mut message = accept(&spool).await;
                let hold = Update { held: Some(true), ..Update::new(message.id) };
                message.apply(&hold);
                spool.update(hold);
                spool.park(message.id, Timestamp::NEVER);
                messages.push(message);
            }
            spool.flush().await.unwrap();
            let first = Path::new(ROOT).join("log/00000001.seg");
            for (message, at) in messages.iter().zip(places) {
                let (stored, _) = index.0.get(message.id).unwrap().unwrap();
                disk.flip_bit(&first, (stored.place.offset + at) * 8).unwrap();
            }
            for _ in 0..300 {
                spool.done(accept(&spool).await.id);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let segments = disk.list(&Path::new(ROOT).join("log")).unwrap();
            assert!(segments.len() <= 3 && !disk.exists(&first), "{segments:?}");
            let kept = messages.split_off(places.len());
            for message in &messages {
                is_there_without_content(&spool, message).await;
            }
            let notes = notes.lock().unwrap().clone();
            let missing: Vec<QueueId> = notes.iter().filter_map(missing).collect();
            assert_eq!(missing, messages.iter().map(|message| message.id).collect::<Vec<_>>(), "{notes:?}");
            assert!(notes.iter().any(|note| matches!(note, Note::Quarantined { segment: 1, offset: 4096, .. })), "{notes:?}");
            assert!(!notes.iter().any(|note| matches!(note, Note::Trouble(_))), "{notes:?}");
            (messages, kept)
        });
        run(async {
            let disk = disk.killed();
            let (spool, recovery) = Spool::open(options(ROOT), &simulated(&disk, 2), Box::new(index)).await.unwrap();
            assert_eq!(recovery.notes.iter().filter_map(missing).count(), lost.len(), "{:?}", recovery.notes);
            for message in &lost {
                is_there_without_content(&spool, message).await;
                spool.done(message.id);
            }
            for message in &kept {
                assert_eq!(spool.message(message.id).await.unwrap().as_ref(), Some(message));
                assert_eq!(spool.content(message.id).await.unwrap().read_at(0, 1000).await.unwrap(), [b'x'; 100]);
            }
            spool.flush().await.unwrap();
            assert_eq!(spool.gauges().messages, kept.len() as u64);
            spool.close().await.unwrap();
        });
    }
}

fn missing(note: &Note) -> Option<QueueId> {
    match note {
        Note::ContentMissing { id } => Some(*id),
        _ => None,
    }
}

#[test]
fn a_damaged_message_keeps_its_segment_until_its_bytes_are_set_aside() {
    run(async {
        let disk = SimDisk::new();
        let (spool, _) = Spool::open(options(ROOT), &simulated(&disk, 1), Box::new(MemoryIndexFactory::default())).await.unwrap();
        let (first, second) = (Path::new(ROOT).join("log/00000001.seg"), Path::new(ROOT).join("log/00000002.seg"));
        let lost = accept(&spool).await;
        let mut others = Vec::new();
        while !disk.exists(&second) {
            others.push(accept(&spool).await.id);
        }
        disk.flip_bit(&first, (4096 + 60) * 8).unwrap();
        disk.set_capacity(Some(disk.used()));
        others.into_iter().for_each(|id| spool.done(id));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(disk.exists(&first), "there is no room for a copy");
        disk.set_capacity(None);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!disk.exists(&first));
        assert_eq!(disk.list(&Path::new(ROOT).join("quarantine")).unwrap(), ["00000001-4096.bin"]);
        spool.park(lost.id, Timestamp::NEVER);
        is_there_without_content(&spool, &lost).await;
        spool.close().await.unwrap();
    });
}

#[test]
fn a_damaged_message_that_an_index_built_anew_does_not_know_keeps_no_segment() {
    run(async {
        let (disk, index) = (SimDisk::new(), Failing::default());
        let notes = Arc::new(Mutex::new(Vec::new()));
        let heard = notes.clone();
        let options = Options { report: Arc::new(move |note| heard.lock().unwrap().push(note)), ..options(ROOT) };
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        let lost = accept(&spool).await.id;
        spool.park(lost, Timestamp::NEVER);
        spool.flush().await.unwrap();
        let first = Path::new(ROOT).join("log/00000001.seg");
        disk.flip_bit(&first, (4096 + 60) * 8).unwrap();
        index.broken.store(true, Ordering::Relaxed);
        assert!(spool.message(lost).await.is_err());
        index.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(spool.message(lost).await, Ok(None));
        let is_damage = |note: &&Note| matches!(note, Note::Quarantined { segment: 1, offset: 4096, .. });
        assert_eq!(notes.lock().unwrap().iter().filter(is_damage).count(), 1);
        for _ in 0..100 {
            spool.done(accept(&spool).await.id);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(!disk.exists(&first));
        assert_eq!((spool.gauges().messages, disk.list(&Path::new(ROOT).join("quarantine")).unwrap().len()), (0, 1));
        spool.close().await.unwrap();
    });
}

#[test]
fn nor_is_its_content_file_removed_by_a_start_that_does_not_read_the_damage_again() {
    let (disk, index) = (SimDisk::new(), Failing::default());
    let lost = run(async {
        let (spool, _) = Spool::open(options(ROOT), &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        let lost = accept_of(&spool, 5000).await.id;
        spool.park(lost, Timestamp::NEVER);
        let other = accept(&spool).await.id;
        spool.park(other, Timestamp::NEVER);
        spool.flush().await.unwrap();
        disk.flip_bit(&Path::new(ROOT).join("log/00000001.seg"), (4096 + 60) * 8).unwrap();
        index.broken.store(true, Ordering::Relaxed);
        assert!(spool.message(lost).await.is_err());
        index.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(spool.message(lost).await, Ok(None));
        spool.close().await.unwrap();
        lost
    });
    let aside = Path::new(ROOT).join(format!("quarantine/{lost}.content"));
    let disk = disk.killed();
    // At the second start the content of a draft that came to nothing is removed as ever.
    for seed in 2..4 {
        let orphan = disk.open(&Path::new(ROOT).join(format!("content/{}", QueueId(seed))), OpenMode::CreateNew).unwrap();
        orphan.write_at(0, b"half").unwrap();
        let notes = run(async {
            let (spool, recovery) = Spool::open(options(ROOT), &simulated(&disk, seed), Box::new(index.clone())).await.unwrap();
            spool.close().await.unwrap();
            recovery.notes
        });
        assert!(!notes.iter().any(|note| matches!(note, Note::Quarantined { .. })), "the damage isn't read: {notes:?}");
        let removed = notes.contains(&Note::OrphansRemoved { count: 1 });
        assert_eq!(removed, seed == 3, "{notes:?}");
        assert_eq!((&disk as &dyn Disk).read(&aside, 1 << 20).unwrap(), [b'x'; 5000]);
        assert_eq!(disk.list(&Path::new(ROOT).join("content")).unwrap(), Vec::<String>::new());
    }
}
