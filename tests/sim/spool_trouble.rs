//! The spool in trouble: an index that is gone for a while, and loops that end by a bug. Nobody waits for ever, and nothing is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::mail::{QueueId, Timestamp, Update};
use posthouse::spool::index::{IndexError, MemoryCatalogue, MemoryIndexFactory, RunIndexFactory};
use posthouse::spool::{Accept, Filter, Note, Options, Spool, SpoolError};
use posthouse::system::Disk;
use posthouse::system::sim::SimDisk;

use crate::spool_world::{START, envelope, options, run, simulated};
use crate::world::failing_index::Failing;

async fn accept(spool: &Spool) -> Result<QueueId, SpoolError> {
    let mut draft = spool.begin()?;
    draft.write(b"hello\r\n").await?;
    draft.commit(envelope()).await.map(|message| message.id)
}

async fn due(spool: &Spool) -> Result<Vec<QueueId>, SpoolError> {
    Ok(spool.due(START, 9).await?.iter().map(|message| message.id).collect())
}

#[test]
fn an_index_that_failed_comes_back_once_it_can() {
    run(async {
        let disk = SimDisk::new();
        let index = Failing::default();
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        let early = accept(&spool).await.unwrap();
        spool.park(early, START);
        spool.flush().await.unwrap();
        index.broken.store(true, Ordering::Relaxed);
        let late = accept(&spool).await.unwrap();
        spool.park(late, START);
        // What waits in memory needs no index.
        assert_eq!(due(&spool).await, Ok(vec![late]));
        assert!(matches!(due(&spool).await, Err(SpoolError::Index(_))));
        assert!(spool.trouble().is_some_and(|trouble| trouble.contains("no space")));
        index.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((due(&spool).await, spool.trouble()), (Ok(vec![early]), None));
        spool.close().await.unwrap();
    });
}

#[test]
fn what_happens_to_parked_mail_while_the_index_is_out_of_order_is_not_forgotten() {
    let disk = SimDisk::new();
    let (held, gone) = run(async {
        let index = Failing::default();
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        let (held, gone) = (accept(&spool).await.unwrap(), accept(&spool).await.unwrap());
        spool.park(held, Timestamp::NEVER);
        spool.park(gone, Timestamp::NEVER);
        spool.flush().await.unwrap();
        index.broken.store(true, Ordering::Relaxed);
        spool.update(Update { held: Some(true), ..Update::new(held) });
        spool.done(gone);
        assert!(matches!(spool.flush().await, Err(SpoolError::Index(_))), "nothing of it is durable yet");
        index.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        spool.flush().await.unwrap();
        (held, gone)
    });
    run(async {
        let index = Box::new(MemoryIndexFactory::default());
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk.crashed(1), 2), index).await.unwrap();
        assert!(spool.message(held).await.unwrap().is_some_and(|message| message.held));
        assert_eq!(spool.message(gone).await.unwrap(), None);
        spool.close().await.unwrap();
    });
}

#[test]
fn messages_that_were_taken_for_a_notice_that_failed_wait_again() {
    run(async {
        let index = Failing::default();
        let (spool, _) = Spool::open(options("/spool"), &simulated(&SimDisk::new(), 1), Box::new(index.clone())).await.unwrap();
        let (first, second) = (accept(&spool).await.unwrap(), accept(&spool).await.unwrap());
        spool.park(second, START);
        spool.flush().await.unwrap();
        index.broken.store(true, Ordering::Relaxed);
        // The index hasn't this one yet, and isn't needed for it.
        spool.park(first, START);
        let hold = |id| Update { held: Some(true), ..Update::new(id) };
        let notice = Accept { updates: vec![hold(first), hold(second)], ..envelope() };
        assert!(matches!(spool.begin_notice().unwrap().commit(notice).await, Err(SpoolError::Index(_))));
        assert_eq!(spool.gauges().active, 0);
        index.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(due(&spool).await, Ok(vec![first, second]));
        spool.close().await.unwrap();
    });
}

#[test]
fn what_could_not_be_taken_out_of_the_index_does_not_come_back() {
    let (disk, index) = (SimDisk::new(), Failing::default());
    run(async {
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        let gone = accept(&spool).await.unwrap();
        spool.park(gone, Timestamp::NEVER);
        spool.flush().await.unwrap();
        index.clings.store(true, Ordering::Relaxed);
        spool.done(gone);
        spool.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(spool.list(&Filter::default()).await, Ok(Vec::new()));
        index.clings.store(false, Ordering::Relaxed);
        // Killed, sooner or later.
    });
    run(async {
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk.killed(), 2), Box::new(index)).await.unwrap();
        assert_eq!(spool.list(&Filter::default()).await, Ok(Vec::new()));
        spool.close().await.unwrap();
    });
}

#[test]
fn what_a_segment_left_that_could_not_be_begun_is_removed_in_its_turn() {
    let disk = SimDisk::new();
    run(async {
        let index = Box::new(MemoryIndexFactory::default());
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk, 1), index).await.unwrap();
        // The write fails, then the new segment's header, then the removal of its file.
        disk.fail_write(0);
        disk.fail_write(1);
        disk.fail_naming(1);
        assert!(accept(&spool).await.is_err());
        let names = || disk.list(Path::new("/spool/log")).unwrap();
        assert_eq!(names(), ["00000001.seg", "00000002.seg"]);
        for _ in 0..40 {
            let id = accept(&spool).await.unwrap();
            spool.done(id);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(names().len(), 1, "{:?}", names());
        spool.close().await.unwrap();
    });
}

#[test]
fn a_content_file_that_can_not_be_removed_is_tried_again() {
    let disk = SimDisk::new();
    run(async {
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut options = options("/spool");
        let notes = said.clone();
        options.report = Arc::new(move |note| notes.lock().unwrap().push(note));
        let size = options.inline_max + 1;
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(MemoryIndexFactory::default())).await.unwrap();
        let mut draft = spool.begin().unwrap();
        draft.write(&vec![b'x'; size]).await.unwrap();
        let id = draft.commit(envelope()).await.unwrap().id;
        let files = || disk.list(Path::new("/spool/content")).unwrap().len();
        assert_eq!(files(), 1);
        disk.fail_naming(0);
        spool.done(id);
        spool.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(files(), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(files(), 0);
        assert!(matches!(&said.lock().unwrap()[..], [Note::Trouble(said)] if said.starts_with("can't remove")));
        spool.close().await.unwrap();
    });
}

#[test]
fn when_the_committer_ends_by_a_bug_nobody_waits_and_the_spool_says_so() {
    let disk = SimDisk::new();
    let kept = run(async {
        let mut options = options("/spool");
        options.report = Arc::new(|note| assert!(!matches!(note, Note::WriteFailed { .. }), "a bug"));
        let index = Box::new(MemoryIndexFactory::default());
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), index).await.unwrap();
        let kept = accept(&spool).await.unwrap();
        disk.fail_write(0);
        assert_eq!(accept(&spool).await, Err(SpoolError::Closed));
        assert_eq!(accept(&spool).await, Err(SpoolError::Closed));
        assert_eq!(spool.flush().await, Err(SpoolError::Closed));
        assert!(spool.closed().await && spool.trouble().is_some());
        assert_eq!(spool.close().await, Err(SpoolError::Closed));
        kept
    });
    run(async {
        let disk = disk.crashed(1);
        let index = Box::new(MemoryIndexFactory::default());
        let (spool, _) = Spool::open(options(Path::new("/spool")), &simulated(&disk, 2), index).await.unwrap();
        assert!(spool.message(kept).await.unwrap().is_some());
        spool.close().await.unwrap();
    });
}

/// A disk after a kill on which somebody else has taken every free byte.
fn killed_and_full(disk: &SimDisk) -> SimDisk {
    let disk = disk.killed();
    disk.set_capacity(Some(disk.used()));
    disk
}

#[test]
fn a_spool_whose_disk_is_full_starts_from_its_reserve_and_gets_out_by_itself() {
    let index = MemoryIndexFactory::default();
    let options = Options { reserve: Options::RESERVE, min_free: 3 << 20, ..options("/spool") };
    let open = async |disk: &SimDisk, seed| {
        Spool::open(options.clone(), &simulated(disk, seed), Box::new(index.clone())).await.unwrap().0
    };
    let mut disk = SimDisk::new();
    let kept: BTreeSet<QueueId> = run(async {
        let spool = open(&disk, 1).await;
        let mut kept = BTreeSet::new();
        for _ in 0..200 {
            kept.insert(accept(&spool).await.unwrap());
        }
        kept
    });
    // Three starts, each on a disk without a free byte.
    for seed in 2..5 {
        disk = killed_and_full(&disk);
        assert_eq!(disk.available(Path::new("/spool")).unwrap(), 0);
        run(async {
            let spool = open(&disk, seed).await;
            assert_eq!(accept(&spool).await, Err(SpoolError::Full));
            let listed = spool.list(&Filter::default()).await.unwrap();
            assert_eq!(listed.iter().map(|message| message.id).collect::<BTreeSet<_>>(), kept);
        });
    }
    disk = killed_and_full(&disk);
    run(async {
        let spool = open(&disk, 5).await;
        // Outcomes are kept, and what they free is freed.
        kept.iter().for_each(|id| spool.done(*id));
        spool.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(spool.list(&Filter::default()).await.unwrap().is_empty());
        disk.set_capacity(None);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // The next work sees that there is room again, for mail and for the reserve.
        let id = accept(&spool).await.unwrap();
        spool.done(id);
        spool.flush().await.unwrap();
        spool.close().await.unwrap();
        assert_eq!(disk.list(Path::new("/spool/reserve")).unwrap(), ["0", "1", "2", "3"]);
    });
}

#[test]
fn new_mail_never_takes_the_reserve() {
    // Also where not the disk is full, but what one user may take of it.
    for is_quota in [false, true] {
        run(fill_but_for_the_reserve(is_quota));
    }
}

async fn fill_but_for_the_reserve(is_quota: bool) {
    let disk = SimDisk::new();
    let options = Options { reserve: Options::RESERVE, ..options("/spool") };
    let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(MemoryIndexFactory::default())).await.unwrap();
    let full = Some(disk.used());
    if is_quota {
        disk.set_quota(full)
    } else {
        disk.set_capacity(full)
    }
    let mut taken = Vec::new();
    let refused = loop {
        match accept(&spool).await {
            Ok(id) => taken.push(id),
            Err(error) => break error,
        }
    };
    assert_eq!((refused, disk.list(Path::new("/spool/reserve")).unwrap().len()), (SpoolError::Full, 4));
    // What frees space does.
    taken.iter().for_each(|id| spool.done(*id));
    spool.flush().await.unwrap();
    assert!(disk.list(Path::new("/spool/reserve")).unwrap().len() < 4);
    spool.close().await.unwrap();
}

#[test]
fn where_no_new_mail_fits_what_is_kept_is_written_however_much_comes() {
    run(async {
        let disk = SimDisk::new();
        let options = Options { reserve: Options::RESERVE, ..options("/spool") };
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(MemoryIndexFactory::default())).await.unwrap();
        let kept = accept(&spool).await.unwrap();
        disk.set_quota(Some(disk.used()));
        while accept(&spool).await.is_ok() {}
        // Somebody tries again at every moment.
        let others = (0..5).map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move {
                loop {
                    let _ = accept(&spool).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        });
        let others: Vec<_> = others.collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        spool.done(kept);
        tokio::time::sleep(Duration::from_secs(5)).await;
        others.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(spool.standstill(), None);
        let (spool, _) = Spool::open(
            Options { reserve: 0, ..crate::spool_world::options("/spool") },
            &simulated(&disk.killed(), 2),
            Box::new(MemoryIndexFactory::default()),
        )
        .await
        .unwrap();
        assert_eq!(spool.message(kept).await, Ok(None), "its end isn't in the log");
    });
}

/// Accepts and parks until no more is taken; how many were.
async fn fill(spool: &Spool) -> usize {
    for taken in 0..100_000 {
        match accept(spool).await {
            Ok(id) => spool.park(id, START),
            Err(error) => {
                assert_eq!((error, spool.space()), (SpoolError::Behind, Err(SpoolError::Behind)));
                return taken;
            }
        }
        if taken % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    panic!("there is no bound");
}

const BACKLOG_MAX: u64 = 1 << 20;

#[test]
fn what_waits_in_memory_for_an_index_that_is_gone_has_a_bound() {
    run(async {
        let index = Failing::default();
        let options = Options { backlog_max: BACKLOG_MAX, ..options("/spool") };
        let (spool, _) = Spool::open(options, &simulated(&SimDisk::new(), 1), Box::new(index.clone())).await.unwrap();
        index.broken.store(true, Ordering::Relaxed);
        let taken = fill(&spool).await;
        assert!(spool.gauges().backlog < BACKLOG_MAX + BACKLOG_MAX / 4 && taken > 1000, "{taken}");
        index.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(spool.list(&Filter::default()).await.map(|all| all.len()), Ok(taken));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((spool.space(), spool.gauges().backlog), (Ok(()), 0));
        accept(&spool).await.unwrap();
    });
}

#[test]
fn what_an_index_that_can_not_be_written_keeps_in_memory_has_a_bound_and_is_tried_first() {
    run(async {
        let index_disk = SimDisk::new();
        let index = RunIndexFactory {
            path: "/index".into(),
            disk: Arc::new(index_disk.clone()),
            catalogue: Box::new(MemoryCatalogue::default()),
            cache: 1 << 16,
            recent_size_max: 1 << 17,
        };
        // Whoever is copied, so that a segment can go, is in memory for that: here none goes.
        let options = Options { backlog_max: BACKLOG_MAX, segment_size: 8 << 20, ..options("/spool") };
        let (spool, _) = Spool::open(options, &simulated(&SimDisk::new(), 1), Box::new(index)).await.unwrap();
        let on_disk = accept(&spool).await.unwrap();
        spool.park(on_disk, START);
        tokio::time::sleep(Duration::from_secs(10)).await;
        index_disk.set_capacity(Some(0));
        let taken = fill(&spool).await;
        assert!(spool.gauges().backlog < BACKLOG_MAX + BACKLOG_MAX / 4 && taken > 1000, "{taken}");
        // To fetch what is on disk would take more memory; it is asked for again.
        let mut due = Vec::new();
        while spool.gauges().backlog > BACKLOG_MAX * 5 / 8 {
            due.extend(spool.due(START, 64).await.unwrap().iter().map(|message| message.id));
            due.iter().for_each(|id| spool.done(*id));
            spool.flush().await.unwrap();
        }
        assert_eq!((due.contains(&on_disk), spool.next_due().await.unwrap(), due.len() < taken), (false, Some(START), true));
        index_disk.set_capacity(None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((accept(&spool).await.is_ok(), spool.gauges().backlog), (true, 0));
        assert_eq!(spool.due(START, 1).await.unwrap()[0].id, on_disk);
        spool.close().await.unwrap();
    });
}

#[test]
fn messages_that_are_active_for_long_need_not_be_read_from_the_log_again() {
    let disk = SimDisk::new();
    let index = MemoryIndexFactory::default();
    let (accepted, changed) = run(async {
        let (spool, _) = Spool::open(options("/spool"), &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        let mut accepted = Vec::new();
        for _ in 0..50 {
            accepted.push(accept(&spool).await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        // The copies don't make them wait: somebody works on them. What happens to one now is read from the log.
        assert_eq!(due(&spool).await, Ok(Vec::new()));
        let changed = accepted[7];
        spool.update(Update { held: Some(true), ..Update::new(changed) });
        spool.done(accepted[8]);
        spool.flush().await.unwrap();
        (accepted, changed)
    });
    run(async {
        let (spool, recovery) = Spool::open(options("/spool"), &simulated(&disk.killed(), 2), Box::new(index)).await.unwrap();
        assert_eq!((recovery.messages, recovery.records), (49, 2));
        assert!(spool.message(changed).await.unwrap().unwrap().held);
        assert_eq!(due(&spool).await.unwrap().len(), 9, "as many as it asks for");
        assert!(accepted.contains(&changed));
        spool.close().await.unwrap();
    });
}

/// What a spool says while its index can't be marked for two minutes, and what keeps it from its work at the end and afterwards.
fn with_marks_that_fail(error: IndexError) -> (Vec<Note>, Option<String>, Option<String>) {
    run(async {
        let index = Failing::default();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let mut options = options("/spool");
        let heard = notes.clone();
        options.report = Arc::new(move |note| heard.lock().unwrap().push(note));
        let (spool, _) = Spool::open(options, &simulated(&SimDisk::new(), 1), Box::new(index.clone())).await.unwrap();
        *index.marks.lock().unwrap() = Some(error);
        let mut parked = Vec::new();
        for _ in 0..40 {
            parked.push(accept(&spool).await.unwrap());
            spool.park(*parked.last().unwrap(), START);
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let during = spool.trouble();
        *index.marks.lock().unwrap() = None;
        tokio::time::sleep(Duration::from_secs(40)).await;
        for _ in 0..3 {
            accept(&spool).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert_eq!(due(&spool).await.unwrap(), parked[..9]);
        spool.close().await.unwrap();
        (notes.lock().unwrap().clone(), during, spool.trouble().filter(|trouble| !trouble.contains("closed")))
    })
}

#[test]
fn an_index_that_can_not_be_written_for_a_while_is_kept_and_said_once() {
    let (notes, during, after) = with_marks_that_fail(IndexError::Unwritable("no space".to_owned()));
    assert!(matches!(&notes[..], [Note::Trouble(trouble)] if trouble.contains("no space")), "{notes:?}");
    assert!(during.is_some_and(|trouble| trouble.contains("no space")));
    assert_eq!(after, None);
}

#[test]
fn an_index_that_stays_damaged_is_not_built_anew_all_the_time() {
    let (notes, ..) = with_marks_that_fail(IndexError::Damaged("torn".to_owned()));
    let rebuilt = notes.iter().filter(|note| matches!(note, Note::IndexRebuilt { .. })).count();
    assert!((2..=6).contains(&rebuilt), "{notes:?}");
}

#[test]
fn what_holds_a_segment_up_is_told_less_and_less_often() {
    run(async {
        let (disk, index) = (SimDisk::new(), Failing::default());
        let notes = Arc::new(Mutex::new(Vec::new()));
        let heard = notes.clone();
        let options = Options { report: Arc::new(move |note| heard.lock().unwrap().push(note)), ..options("/spool") };
        let (spool, _) = Spool::open(options, &simulated(&disk, 1), Box::new(index.clone())).await.unwrap();
        *index.marks.lock().unwrap() = Some(IndexError::Unwritable("no space".to_owned()));
        for _ in 0..40 {
            spool.done(accept(&spool).await.unwrap());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        let names = || disk.list(Path::new("/spool/log")).unwrap();
        assert!(names().len() > 1);
        let held_up = |note: &&Note| matches!(note, Note::Trouble(trouble) if trouble.contains("isn't released yet"));
        let told = notes.lock().unwrap().iter().filter(held_up).count();
        assert!((5..=10).contains(&told), "{told} times");
        *index.marks.lock().unwrap() = None;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(names().len(), 1, "{:?}", names());
        spool.close().await.unwrap();
    });
}
