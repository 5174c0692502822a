//! Segments that are gone with nothing behind them that says so, and reads that go wrong: nothing intact is lost by them.

use super::*;

/// What a start says, and the spool.
async fn start(spooled: &Spooled) -> (Spool, Vec<Note>) {
    let system = World::new(7).system(Arc::new(spooled.disk.clone()));
    let factory = Box::new(MemoryIndexFactory(spooled.index.clone()));
    let (spool, recovery) = Spool::open(options(ROOT), &system, factory).await.unwrap();
    (spool, recovery.notes)
}

impl Spooled {
    /// Messages whose records lie in a segment, as the index knows them.
    fn dwellers(&self, segment: u64) -> Vec<QueueId> {
        let place = |id| self.index.get(id).unwrap().unwrap().0.place;
        self.messages.keys().copied().filter(|id| place(*id).segment == segment).collect()
    }

    fn has_file(&self, id: QueueId) -> bool {
        self.messages[&id].1.len() > 2048
    }

    /// Every message is there in its state: with its content, but for those of these that have no file of it.
    async fn has_all_but_the_content_of(&self, spool: &Spool, lost: &[QueueId]) {
        let listed = spool.list(&Filter::default()).await.unwrap();
        assert_eq!(listed, self.messages.values().map(|(message, _)| message.clone()).collect::<Vec<_>>());
        for (id, (_, content)) in &self.messages {
            if lost.contains(id) && !self.has_file(*id) {
                assert_eq!(spool.content(*id).await.err(), Some(SpoolError::Damaged(*id)));
            } else {
                assert_eq!(&read(&*spool.content(*id).await.unwrap()).await.unwrap(), content);
            }
        }
    }

    fn quarantined(&self) -> Vec<String> {
        self.disk.list(&Path::new(ROOT).join("quarantine")).unwrap()
    }
}

/// What is told of messages whose content is lost.
fn missing(notes: &[Note]) -> Vec<QueueId> {
    let missing = notes.iter().filter_map(|note| match note {
        Note::ContentMissing { id } => Some(*id),
        _ => None,
    });
    missing.collect()
}

#[test]
fn messages_of_the_oldest_segment_stay_when_it_is_lost() {
    run(async {
        let spooled = Spooled::new().await;
        let oldest = spooled.segments()[0];
        let lost = spooled.dwellers(oldest);
        let without: Vec<QueueId> = lost.iter().copied().filter(|id| !spooled.has_file(*id)).collect();
        assert!(!without.is_empty() && without.len() < lost.len(), "some with content in files, some without");
        spooled.disk.unlink(&spooled.segment(oldest)).unwrap();
        let (spool, notes) = start(&spooled).await;
        spooled.has_all_but_the_content_of(&spool, &lost).await;
        assert!(notes.contains(&Note::SegmentMissing { segment: oldest }), "{notes:?}");
        assert_eq!(missing(&notes), without);
        assert_eq!(spool.gauges().messages, spooled.messages.len() as u64);
        assert_eq!(spooled.quarantined(), Vec::<String>::new());
        // They are in the log again: no index is needed for it, and nothing is missing any more.
        for (disk, index) in
            [(spooled.disk.killed(), spooled.index.without_last(0)), (spooled.disk.crashed(1), MemoryIndex::default())]
        {
            let again = Spooled { disk, index, ..spooled.clone() };
            let (spool, notes) = start(&again).await;
            again.has_all_but_the_content_of(&spool, &lost).await;
            assert_eq!(missing(&notes), without);
            assert!(!notes.iter().any(|note| matches!(note, Note::SegmentMissing { .. })), "{notes:?}");
            spool.close().await.unwrap();
        }
        spool.close().await.unwrap();
    });
}

#[test]
fn so_do_those_whose_segment_was_cut_short_behind_the_mark_of_the_index() {
    run(async {
        let spooled = Spooled::new().await;
        let number = spooled.segments()[1];
        let lost = spooled.dwellers(number);
        spooled.disk.open(&spooled.segment(number), OpenMode::Write).unwrap().set_len(segment::BLOCK_SIZE).unwrap();
        let (spool, _) = start(&spooled).await;
        spooled.has_all_but_the_content_of(&spool, &lost).await;
        spool.close().await.unwrap();
    });
}

#[test]
fn a_log_that_can_not_be_written_then_costs_no_content_either() {
    let mut alone = 0;
    for write in 0..8 {
        run(async {
            let spooled = Spooled::new().await;
            let oldest = spooled.segments()[0];
            let lost = spooled.dwellers(oldest);
            spooled.disk.unlink(&spooled.segment(oldest)).unwrap();
            spooled.disk.fail_write(write);
            let system = World::new(7).system(Arc::new(spooled.disk.clone()));
            let opened = Spool::open(options(ROOT), &system, Box::new(MemoryIndexFactory(spooled.index.clone()))).await;
            if let Ok((spool, recovery)) = opened {
                let is_said = |note: &Note| matches!(note, Note::Trouble(what) if what.contains("in the index alone"));
                alone += usize::from(recovery.notes.iter().any(is_said));
                spooled.has_all_but_the_content_of(&spool, &lost).await;
                spool.close().await.unwrap();
            }
            let again = Spooled { disk: spooled.disk.killed(), ..spooled.clone() };
            let (spool, _) = start(&again).await;
            again.has_all_but_the_content_of(&spool, &lost).await;
            spool.close().await.unwrap();
        });
    }
    assert!(alone > 0);
}

#[test]
fn content_of_messages_that_went_with_the_newest_segments_is_kept() {
    run(async {
        let spooled = Spooled::new().await;
        let segments = spooled.segments();
        let (kept, gone) = segments.split_at(segments.len() / 2);
        let lost: Vec<QueueId> = gone.iter().flat_map(|number| spooled.dwellers(*number)).collect();
        assert!(!kept.is_empty() && lost.iter().any(|id| spooled.has_file(*id)));
        gone.iter().for_each(|number| spooled.disk.unlink(&spooled.segment(*number)).unwrap());
        let (spool, notes) = start(&spooled).await;
        spool.close().await.unwrap();
        assert!(notes.iter().any(|note| matches!(note, Note::IndexRebuilt { .. })), "{notes:?}");
        assert!(notes.iter().any(|note| matches!(note, Note::SegmentMissing { segment } if gone.contains(segment))), "{notes:?}");
        let disk: &dyn Disk = &spooled.disk;
        for id in lost.iter().filter(|id| spooled.has_file(**id)) {
            let aside = Path::new(ROOT).join(format!("quarantine/{id}.content"));
            assert_eq!(disk.read(&aside, 1 << 20).unwrap(), spooled.messages[id].1);
        }
    });
}

#[test]
fn a_repair_keeps_the_messages_of_the_oldest_segment_and_says_that_it_is_missing() {
    run(async {
        let spooled = Spooled::new().await;
        let oldest = spooled.segments()[0];
        let lost = spooled.dwellers(oldest);
        spooled.disk.unlink(&spooled.segment(oldest)).unwrap();
        let kinds = spooled.damage();
        assert!(kinds.contains(&FindingKind::SegmentMissing) && kinds.contains(&FindingKind::RecordLost), "{kinds:?}");
        let without: Vec<QueueId> = lost.iter().copied().filter(|id| !spooled.has_file(*id)).collect();
        let steps = spooled.repair(&without).await;
        assert!(steps.contains(&StepKind::LossNoted) && steps.contains(&StepKind::Restored), "{steps:?}");
        for id in without {
            assert!(spooled.is_held_without_content(id).await);
        }
    });
}

#[test]
fn a_record_that_is_read_wrongly_once_is_not_given_up() {
    run(async {
        let spooled = Spooled::new().await;
        let (spool, _) = start(&spooled).await;
        let (id, _) = spooled.one(false);
        spooled.disk.read_wrongly(0);
        assert_eq!(read(&*spool.content(id).await.unwrap()).await.unwrap(), spooled.messages[&id].1);
        assert_eq!(spooled.quarantined(), Vec::<String>::new());
        spool.close().await.unwrap();
    });
}

#[test]
fn whoever_copies_a_message_that_is_gone_learns_that_it_is_settled() {
    run(async {
        let spooled = Spooled::new().await;
        let (spool, _) = start(&spooled).await;
        let (id, _) = spooled.one(false);
        let (reply, answer) = tokio::sync::oneshot::channel();
        let shared = &spool.0.shared;
        let frame = record::Frame::done(id);
        // It is in the index alone, so the committer doesn't know it.
        shared.lock().queue.push_back(op::Op::Reaccept { id, file: None, frame, reply });
        shared.wake.notify_one();
        assert_eq!(answer.await, Ok(()));
        spool.close().await.unwrap();
    });
}
