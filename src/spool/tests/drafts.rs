//! Messages that are given up while they come in.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;
use crate::system::{System, Workers};

/// Begins to commit a message with content in a file, and gives up after so many looks; whether that was too late.
async fn give_up(spool: &Spool, looks: u32) -> bool {
    let mut draft = spool.begin().unwrap();
    draft.write(&b"words of mail\r\n".repeat(500)).await.unwrap();
    let mut commit = pin!(draft.commit(envelope()));
    for _ in 0..looks {
        if commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[test]
fn a_message_that_nobody_waits_for_any_longer_is_there_with_its_content_or_leaves_none() {
    for fails in [false, true] {
        let mut looks = 0;
        let too_late = |looks| {
            run(async move {
                let (disk, index) = (SimDisk::new(), MemoryIndex::default());
                let spool = open(&disk, ROOT, &index).await;
                if fails {
                    // The first is that of the content, the second that of the log.
                    disk.fail_sync(1);
                }
                let too_late = give_up(&spool, looks).await;
                let _ = spool.flush().await;
                let at_work = spool.gauges().active;
                assert!(too_late || at_work == 0, "nobody works on it");
                let listed = spool.list(&Filter::default()).await.unwrap();
                spool.close().await.unwrap();
                let left = disk.list(&Path::new(ROOT).join("content")).unwrap();
                assert_eq!(left, listed.iter().map(|message| message.id.to_string()).collect::<Vec<_>>(), "{looks}, {fails}");
                too_late
            })
        };
        while !too_late(looks) {
            looks += 1;
        }
        assert!(looks > 1);
    }
}

#[test]
fn the_word_goes_round_whoever_of_those_who_wait_is_gone() {
    // Who gives up: nobody, or one of them; before the batch is durable, or between being told and hearing it.
    for (gone, told) in [(3, true), (0, false), (0, true), (1, false), (1, true), (2, true)] {
        run(async move {
            let disk = SimDisk::new();
            let spool = open(&disk, ROOT, &MemoryIndex::default()).await;
            let batches = spool.gauges().batches;
            let mut drafts: Vec<_> = (0..3).map(|_| spool.begin().unwrap()).collect();
            for draft in &mut drafts {
                draft.write(b"Subject: short\r\n\r\n").await.unwrap();
            }
            let mut commits: Vec<_> = drafts.into_iter().map(|draft| Some(Box::pin(draft.commit(envelope())))).collect();
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..2 {
                for commit in commits.iter_mut().flatten() {
                    assert!(commit.as_mut().poll(&mut cx).is_pending());
                }
            }
            if told {
                spool.flush().await.unwrap();
            }
            if let Some(commit) = commits.get_mut(gone) {
                *commit = None;
            }
            if !told {
                spool.flush().await.unwrap();
            }
            for commit in commits.iter_mut().flatten() {
                tokio::time::timeout(Duration::from_secs(1), commit.as_mut()).await.expect("it heard").unwrap();
            }
            let gauges = spool.gauges();
            assert_eq!((gauges.batches - batches, gauges.accepted), (1, 3), "all in one");
            assert_eq!(gauges.active, if gone < 3 { 2 } else { 3 }, "nobody works on what is given up");
            assert_eq!(spool.list(&Filter::default()).await.unwrap().len(), 3);
        });
    }
}

/// Whether a message with content in a file is taken; its id.
async fn take_large(spool: &Spool) -> (QueueId, bool) {
    let mut draft = spool.begin().unwrap();
    let id = draft.id();
    draft.write(&b"words of mail\r\n".repeat(500)).await.unwrap();
    (id, draft.commit(envelope()).await.is_ok())
}

#[test]
fn content_whose_message_was_in_doubt_goes_once_it_is_sure_that_the_message_does_not_count() {
    run(async {
        let (disk, index) = (SimDisk::new(), MemoryIndex::default());
        let spool = open(&disk, ROOT, &index).await;
        let contents = || disk.list(&Path::new(ROOT).join("content")).unwrap();
        // That of the content succeeds, those of the log and of the next segment don't.
        disk.fail_sync(1);
        disk.fail_sync(2);
        let (doubtful, taken) = take_large(&spool).await;
        assert_eq!((taken, contents()), (false, vec![doubtful.to_string()]), "its record may be found by the next start");
        let (sure, taken) = take_large(&spool).await;
        spool.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((taken, contents()), (true, vec![sure.to_string()]), "a later segment says that it doesn't count");
        spool.close().await.unwrap();
    });
}

#[test]
fn a_draft_that_is_given_up_before_its_file_is_made_leaves_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let disk = SimDisk::new();
        let system = System { workers: Workers::Threads, ..World::new(7).system(Arc::new(disk.clone())) };
        let (spool, _) = Spool::open(options(ROOT), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        // The only thread for the disk is busy.
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv().is_err());
        let mut draft = spool.begin().unwrap();
        let content = b"words of mail\r\n".repeat(500);
        assert!(pin!(draft.write(&content)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(draft);
        // The file that isn't there yet has been removed by then.
        let shared = spool.0.shared.clone();
        while !shared.lock().unlinks.is_empty() {
            shared.barrier().await.unwrap();
        }
        drop(go_on);
        assert!(busy.await.unwrap());
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        spool.close().await.unwrap();
        assert_eq!(disk.list(&Path::new(ROOT).join("content")).unwrap(), Vec::<String>::new());
    });
}
