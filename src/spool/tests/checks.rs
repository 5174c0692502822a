//! Check and repair of damaged spools.

use proptest::prelude::*;

use super::*;

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
fn a_segment_whose_header_a_power_cut_tore_is_no_damage() {
    run(async {
        for torn in [0, 2048] {
            let spooled = Spooled::new().await;
            let last = *spooled.segments().last().unwrap();
            let whole = (&spooled.disk as &dyn Disk).read(&spooled.segment(last), 1 << 20).unwrap();
            let header = SegmentHeader::parse(&whole).unwrap();
            let header = SegmentHeader { number: last + 1, prior: last, prior_end: whole.len() as u64, ..header };
            let mut block = header.encode();
            block[torn..torn + 512].fill(0);
            let next = spooled.disk.open(&spooled.segment(last + 1), OpenMode::CreateNew).unwrap();
            next.write_at(0, &block).unwrap();
            assert_eq!(spooled.damage(), [], "it was never begun");
            next.write_at(torn as u64 + 20, b"x").unwrap();
            assert_eq!(spooled.damage(), [FindingKind::HeaderCopyDamaged]);
            spooled.repair(&[]).await;
        }
    });
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
}
