//! Messages that are given up while they come in.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use super::*;

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
