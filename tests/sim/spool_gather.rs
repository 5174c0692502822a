//! Messages on their way share a sync: nobody is held up for long by a client that is slow. In simulated time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use posthouse::mail::{Message, Update};
use posthouse::spool::index::MemoryIndexFactory;
use posthouse::spool::{Draft, Spool};
use posthouse::system::sim::{OperationKind, SimDisk};
use tokio::time::{Instant, sleep};

use crate::spool_world::{envelope, options, run, simulated, slow, slow_syncs};

/// Pieces of 64 KiB of a large message.
const PIECES: u64 = 200;

async fn commit(draft: Draft) -> std::sync::Arc<Message> {
    draft.commit(envelope()).await.unwrap()
}

async fn begin(spool: &Spool) -> Draft {
    let mut draft = spool.begin().unwrap();
    draft.write(b"Subject: x\r\n\r\n").await.unwrap();
    draft
}

#[test]
fn a_client_that_never_ends_holds_others_up_less_and_less_often() {
    run(async {
        let system = simulated(&SimDisk::new(), 1);
        let (spool, _) = Spool::open(options("/spool"), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        let alone = Instant::now();
        let first = commit(begin(&spool).await).await;
        assert_eq!(alone.elapsed(), Duration::ZERO, "who is alone waits for nobody");

        // With two of them, he isn't half of those who send.
        let slow = (begin(&spool).await, begin(&spool).await);
        let (begun, mut held_up) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(60) {
            // What nobody waits for comes in between.
            spool.update(Update { delays_noticed: Some(1), ..Update::new(first.id) });
            sleep(Duration::from_millis(10)).await;
            let before = Instant::now();
            let message = commit(begin(&spool).await).await;
            held_up += u32::from(before.elapsed() > Duration::ZERO);
            assert!(before.elapsed() < Duration::from_millis(10));
            spool.done(message.id);
            sleep(Duration::from_millis(10)).await;
        }
        // At 0, 0.25, 0.75, 1.75, 3.75 and 7.75 seconds, and then every 8.
        assert!((3..=13).contains(&held_up), "{held_up}");
        drop(slow);
        spool.close().await.unwrap();
    });
}

#[test]
fn who_is_under_way_comes_into_the_same_batch() {
    run(async {
        let system = simulated(&SimDisk::new(), 1);
        let (spool, _) = Spool::open(options("/spool"), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        // Half of them are enough: two of three.
        let (early, late, last) = (begin(&spool).await, begin(&spool).await, begin(&spool).await);
        let batches = spool.gauges().batches;
        let late = tokio::spawn(async move {
            sleep(Duration::from_millis(2)).await;
            commit(late).await
        });
        commit(early).await;
        late.await.unwrap();
        assert_eq!(spool.gauges().batches, batches + 1);
        drop(last);
        spool.close().await.unwrap();
    });
}

#[test]
fn where_syncs_are_slow_nobody_is_told_later_than_the_next_batch_is_written() {
    run(async {
        let (spool, _) =
            Spool::open(options("/spool"), &slow(&SimDisk::new(), 1), Box::new(MemoryIndexFactory::default())).await.unwrap();
        let begun = Instant::now();
        let clients = (0..20).map(|client| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let message = commit(begin(&spool).await).await;
                    if client % 2 == 0 {
                        spool.done(message.id);
                    }
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "no answer waits for anything but the disk");
        spool.close().await.unwrap();
    });
}

#[test]
fn where_all_are_back_sooner_than_a_sync_is_done_they_make_one_batch() {
    run(async {
        let system = slow_syncs(&SimDisk::new(), 1, 8);
        let (spool, _) = Spool::open(options("/spool"), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        let batches = spool.gauges().batches;
        let clients = (0..20).map(|client| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    sleep(Duration::from_millis(1 + client % 3)).await;
                    commit(begin(&spool).await).await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let batches = spool.gauges().batches - batches;
        assert!((50..60).contains(&batches), "{batches}");
        spool.close().await.unwrap();
    });
}

#[test]
fn large_messages_on_their_way_hold_up_no_small_ones() {
    run(async {
        let (disk, pieces) = (SimDisk::new(), Arc::new(AtomicU64::new(0)));
        let written = pieces.clone();
        disk.watch(move |operation| {
            let is_piece = operation.kind == OperationKind::Write && operation.path.starts_with("/spool/content");
            written.fetch_add(u64::from(is_piece), Ordering::Relaxed);
        });
        let system = slow(&disk, 1);
        let (spool, _) = Spool::open(options("/spool"), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
        let upload = || {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut draft = spool.begin().unwrap();
                for _ in 0..PIECES {
                    draft.write(&[b'x'; 64 * 1024]).await.unwrap();
                    sleep(Duration::from_millis(1)).await;
                }
                commit(draft).await
            })
        };
        let uploads = [upload(), upload(), upload(), upload()];
        let mut small = 0;
        while !uploads.iter().any(tokio::task::JoinHandle::is_finished) {
            let before = pieces.load(Ordering::Relaxed);
            let message = commit(begin(&spool).await).await;
            let beside = pieces.load(Ordering::Relaxed) - before;
            // Each of the large ones has its turn, and the sync after it is the small one's.
            assert!(
                beside <= 2 * uploads.len() as u64,
                "{beside} pieces were written while message {small} waited for its commit"
            );
            spool.done(message.id);
            small += 1;
            sleep(Duration::from_millis(1)).await;
        }
        assert!(small >= PIECES * 9 / 10, "{small} small messages while each large one sent {PIECES} pieces");
        for upload in uploads {
            upload.await.unwrap();
        }
        spool.close().await.unwrap();
    });
}
