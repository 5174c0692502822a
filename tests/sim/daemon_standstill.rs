//! The whole server on a disk that can be read and no longer written: a file system that was remounted read-only, or one that gives
//! nothing but errors.
//!
//! Always true: what is delivered meanwhile, and so again after the next start, is what was in flight when the disk failed, and not
//! the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use posthouse::system::sim::{Act, Peer, Script, Stage};

use crate::world::{HOUR, MINUTE, Server, Setup, story};

const EIO: i32 = 5;
const EROFS: i32 = 30;
const MESSAGES: usize = 100;
/// Attempts at a time.
const CONCURRENCY: usize = 4;

/// A server with a hundred deferred messages, and the peer that will take them from now on, each after a while.
async fn with_a_queue() -> (Server, Peer) {
    let server = Setup::new().config(|config| config.remote.concurrency = CONCURRENCY).start().await;
    let busy = Script::default().always(Stage::Data, Act::say("451 4.3.0 not now"));
    let far = server.domain("far.test", busy).await;
    for n in 0..MESSAGES {
        server.relay("ann@example.test", &["eve@far.test"], &format!("Subject: m-{n}\r\n\r\nhello\r\n")).await;
    }
    server.until("all deferred", || server.count("deferred") >= MESSAGES).await;
    server.pass(Duration::from_secs(1)).await;
    far.script(|script| *script = Script::default().always(Stage::Data, Act::Slow(Duration::from_millis(50))));
    (server, far)
}

/// How often each message was taken.
fn taken(peers: &[&Peer]) -> BTreeMap<String, usize> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for one in peers.iter().flat_map(|peer| peer.taken()) {
        let content = String::from_utf8(one.content).unwrap();
        let subject = content.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
        *taken.entry(subject).or_default() += 1;
    }
    taken
}

/// The disk fails for good while a hundred messages wait: how many come twice after a restart on one that works.
fn twice(error: i32) -> usize {
    let (wreck, first) = story(async move {
        let (server, far) = with_a_queue().await;
        server.disk.fail_changes(Some(error));
        server.pass(HOUR).await;
        (server.wreck(), far)
    });
    story(async move {
        wreck.world().dns.mx("far.test", &[(10, "mx.far.test")]);
        let server = wreck.recover(1).await;
        let again = server.host("mx.far.test", "50.1.0.1", Script::default()).await;
        server.empty().await;
        let taken = taken(&[&first, &again]);
        assert_eq!(taken.len(), MESSAGES, "something is lost");
        taken.values().filter(|count| **count > 1).count()
    })
}

#[test]
fn a_disk_that_can_not_be_written_any_more_stops_delivery_and_next_to_nothing_comes_twice() {
    for error in [EROFS, EIO] {
        let twice = twice(error);
        assert!(twice <= CONCURRENCY, "{twice} messages came twice");
    }
}

#[test]
fn once_the_disk_can_be_written_again_delivery_goes_on_and_nothing_comes_twice() {
    story(async {
        let (server, far) = with_a_queue().await;
        server.disk.fail_changes(Some(EROFS));
        server.pass(HOUR).await;
        let meanwhile = far.taken().len();
        let health = server.handle.health().await;
        assert!(health.spool.as_ref().is_some_and(|why| why.contains("Read-only file system")), "{health:?}");
        assert_eq!((server.count("delivery-stopped"), server.count("delivery-resumed")), (1, 0));
        server.disk.fail_changes(None);
        server.pass(2 * MINUTE).await;
        assert_eq!(server.handle.health().await.spool, None);
        server.empty().await;
        let taken = taken(&[&far]);
        assert!(taken.len() == MESSAGES && taken.values().all(|count| *count == 1), "{taken:?}");
        assert!(meanwhile <= CONCURRENCY, "{meanwhile} were delivered");
        assert_eq!((server.count("delivery-stopped"), server.count("delivery-resumed")), (1, 1));
    });
}
