//! At the bound on disk use a new message waits a moment for room.

use super::*;

/// How long a message needs to be accepted.
async fn acceptance(spool: &Spool) -> Duration {
    let clock = &spool.0.shared.clock;
    let begun = clock.monotonic();
    let mut draft = spool.begin().unwrap();
    draft.write(b"Subject: short\r\n\r\n").await.unwrap();
    draft.commit(envelope()).await.unwrap();
    clock.monotonic() - begun
}

#[test]
fn a_message_waits_at_the_bound_until_room_comes_back_or_for_a_moment_and_not_if_none_can() {
    run(async {
        let spool = open(&SimDisk::new(), ROOT, &MemoryIndex::default()).await;
        let shared = &spool.0.shared;
        let moment = Duration::from_millis(50);
        assert!(acceptance(&spool).await < moment, "there is room");
        {
            let mut state = shared.lock();
            let open = state.end.segment;
            state.segments.grow(open, 1 << 20);
            shared.note_bound(&state);
        }
        let waited = acceptance(&spool).await;
        assert!(waited >= moment && waited < moment * 2, "{waited:?}");
        let back = async {
            tokio::time::sleep(moment / 5).await;
            shared.note_release(true);
        };
        let (waited, ()) = tokio::join!(acceptance(&spool), back);
        assert!(waited >= moment / 5 && waited < moment, "{waited:?}");
        shared.note_release(false);
        assert!(acceptance(&spool).await < moment / 5, "what can't go wins nothing by waiting");
    });
}
