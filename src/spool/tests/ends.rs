//! Messages that come to their end.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::system::sim::OperationKind;

async fn take(spool: &Spool) -> QueueId {
    let mut draft = spool.begin().unwrap();
    draft.write(b"Subject: short\r\n\r\n").await.unwrap();
    draft.commit(envelope()).await.unwrap().id
}

#[test]
fn ends_are_written_together_and_hold_up_no_message() {
    run(async {
        let disk = SimDisk::new();
        let spool = open(&disk, ROOT, &MemoryIndex::default()).await;
        let mut ids = Vec::new();
        for _ in 0..6 {
            ids.push(take(&spool).await);
        }
        let writes = Arc::new(AtomicUsize::new(0));
        let seen = writes.clone();
        disk.watch(move |operation| {
            let is_record = operation.kind == OperationKind::Write && operation.bytes.iter().any(|byte| *byte != 0);
            seen.fetch_add(usize::from(is_record), Ordering::Relaxed);
        });
        let last = ids.pop().unwrap();
        for id in ids {
            spool.done(id);
            tokio::task::yield_now().await;
        }
        assert_eq!(writes.load(Ordering::Relaxed), 0, "they linger");
        spool.flush().await.unwrap();
        assert_eq!(writes.load(Ordering::Relaxed), 1, "all in one");
        spool.done(last);
        tokio::task::yield_now().await;
        let begun = tokio::time::Instant::now();
        take(&spool).await;
        assert_eq!(tokio::time::Instant::now(), begun, "nobody waited");
        assert_eq!(writes.load(Ordering::Relaxed), 2, "with the message");
    });
}
