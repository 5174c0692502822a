//! Starts that come to nothing half-way, and what a power cut then leaves.

use super::*;

/// Sees that a spool has what it had and these, and takes one more; that one.
async fn has_all(
    disk: &SimDisk,
    index: &MemoryIndex,
    messages: &BTreeMap<QueueId, (Message, Vec<u8>)>,
    more: &[QueueId],
) -> QueueId {
    let spool = open(disk, ROOT, index).await;
    let listed: Vec<QueueId> = spool.list(&Filter::default()).await.unwrap().iter().map(|message| message.id).collect();
    let mut expected: Vec<QueueId> = messages.keys().chain(more).copied().collect();
    expected.sort_unstable();
    assert_eq!(listed, expected, "each once");
    for (id, (message, content)) in messages {
        assert_eq!(spool.message(*id).await.unwrap().as_ref(), Some(message));
        assert_eq!(&read(&*spool.content(*id).await.unwrap()).await.unwrap(), content);
    }
    let id = take(&spool).await;
    spool.close().await.unwrap();
    id
}

/// What a start says, and the spool.
async fn start(spooled: &Spooled) -> (Spool, Vec<Note>) {
    let system = World::new(7).system(Arc::new(spooled.disk.clone()));
    let factory = Box::new(MemoryIndexFactory(spooled.index.clone()));
    let (spool, recovery) = Spool::open(options(ROOT), &system, factory).await.unwrap();
    (spool, recovery.notes)
}

/// A message more.
async fn take(spool: &Spool) -> QueueId {
    let mut draft = spool.begin().unwrap();
    draft.write(b"Subject: one more\r\n\r\nwords\r\n").await.unwrap();
    draft.commit(envelope()).await.unwrap().id
}

/// A spool whose start has failed once, for the segment that it began couldn't be opened by its new name.
async fn failed_start() -> Spooled {
    let spooled = Spooled::new().await;
    let next = spooled.segments().last().unwrap() + 1;
    spooled.disk.fail_opening(Some(&spooled.segment(next)));
    let system = World::new(7).system(Arc::new(spooled.disk.clone()));
    let started = Spool::open(options(ROOT), &system, Box::new(MemoryIndexFactory(spooled.index.clone()))).await;
    assert!(started.is_err());
    assert!(!spooled.disk.exists(&spooled.segment(next)), "the name was given, and taken back");
    spooled.disk.fail_opening(None);
    spooled
}

#[test]
fn a_segment_that_start_up_could_not_open_harms_nothing_if_a_power_cut_brings_its_name_back() {
    let mut came_back = 0;
    for seed in 0..40 {
        run(async {
            let spooled = failed_start().await;
            let after = spooled.disk.crashed(seed);
            let next = spooled.segments().last().unwrap() + 1;
            came_back += u32::from(after.exists(&spooled.segment(next)));
            let more = has_all(&after, &spooled.index, &spooled.messages, &[]).await;
            // What it held doesn't count again when the next start is cut off as well.
            has_all(&after.crashed(seed + 1), &MemoryIndex::default(), &spooled.messages, &[more]).await;
        });
    }
    assert!((5..=35).contains(&came_back), "{came_back} of 40");
}

#[test]
fn nor_does_it_beside_the_segment_that_was_begun_in_its_place() {
    for seed in 0..40 {
        run(async {
            let spooled = failed_start().await;
            let spool = open(&spooled.disk, ROOT, &spooled.index).await;
            let more = take(&spool).await;
            let after = spooled.disk.crashed(seed);
            drop(spool);
            has_all(&after, &MemoryIndex::default(), &spooled.messages, &[more]).await;
        });
    }
}

#[test]
fn a_start_sees_which_content_files_are_there_and_opens_none() {
    run(async {
        let spooled = Spooled::new().await;
        let large: Vec<QueueId> =
            spooled.messages.iter().filter(|(_, (message, _))| message.size > 2048).map(|(id, _)| *id).collect();
        let [missing, sound, short, ..] = large[..] else { panic!("there are more") };
        spooled.disk.unlink(&spooled.content(missing)).unwrap();
        spooled.disk.fail_opening(Some(&spooled.content(sound)));
        spooled.disk.open(&spooled.content(short), OpenMode::Write).unwrap().set_len(100).unwrap();
        let orphan = Path::new(ROOT).join("content").join(QueueId(1).to_string());
        spooled.disk.open(&orphan, OpenMode::CreateNew).unwrap();
        let (spool, notes) = start(&spooled).await;
        assert_eq!(notes, [Note::OrphansRemoved { count: 1 }, Note::ContentMissing { id: missing }]);
        assert!(!spooled.disk.exists(&orphan));
        // That one is too short is found by whoever reads it.
        assert!(read(&*spool.content(short).await.unwrap()).await.is_err());
        spooled.disk.fail_opening(None);
        assert_eq!(read(&*spool.content(sound).await.unwrap()).await.unwrap(), spooled.messages[&sound].1);
        spool.close().await.unwrap();
    });
}

#[test]
fn a_start_makes_durable_what_one_that_was_killed_before_it_only_made() {
    run(async {
        let root = "/srv/mail/spool";
        let log = Path::new(root).join("log");
        let disk = SimDisk::new();
        disk.create_dir_all(&log).unwrap();
        let spool = open(&disk, root, &MemoryIndex::default()).await;
        let mut draft = spool.begin().unwrap();
        draft.write(b"Subject: short\r\n\r\n").await.unwrap();
        draft.commit(envelope()).await.unwrap();
        for seed in 0..20 {
            assert!(disk.crashed(seed).exists(&log.join(name(1))), "{seed}");
        }
    });
}
