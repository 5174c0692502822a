//! Damage on the simulated disk: a bit that flips, a segment that is gone. It costs what was there, and no more.

use std::path::Path;

use posthouse::mail::{Address, BodyType, Message, Recipient, ReversePath};
use posthouse::spool::index::MemoryIndexFactory;
use posthouse::spool::{Accept, Note, Spool, SpoolError};
use posthouse::system::sim::SimDisk;
use posthouse::system::{Disk, OpenMode};

use crate::spool_model::{Found, alike};
use crate::spool_story::{ROOT, look_at};
use crate::spool_world::{START, options, run, simulated};

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
            let mut draft = spool.begin().unwrap();
            draft.write(&[b'x'; 100]).await.unwrap();
            let to = Recipient::new(Address::parse("ann@example.test").unwrap(), None, START);
            let accept = Accept {
                arrived: START,
                reverse_path: ReversePath::Null,
                body: BodyType::SevenBit,
                request: None,
                recipients: vec![to],
                updates: Vec::new(),
                origin: None,
            };
            messages.push(Message::clone(&*draft.commit(accept).await.unwrap()));
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
