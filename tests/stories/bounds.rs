//! Bounds: connections to a destination, attempts in flight, messages in memory; and nobody waits for somebody else's slowness.

use std::time::Duration;

use posthouse::queue::Verb;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

fn stalling() -> Script {
    Script::default().always(Stage::Greeting, Act::Stall)
}

#[test]
fn a_destination_never_has_more_connections_than_it_may() {
    story(async {
        let server = Setup::new().config(|c| c.remote.concurrency = 3).start().await;
        let script = Script::default().always(Stage::Recipient("eve@far.test".to_owned()), Act::Stall);
        let far = server.domain("far.test", script).await;
        for to in ["eve@far.test", "joe@far.test"] {
            server.relay("ann@example.test", &[to], CONTENT).await;
        }
        for _ in 0..9 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        server.pass(MINUTE).await;
        assert_eq!((far.taken().len(), server.handle.levels().await.unwrap().attempts), (1, 3));
        assert!((3..=4).contains(&far.connections()), "{}", far.connections());
        far.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!(far.taken().len(), 11);
    });
}

#[test]
fn attempts_at_a_time_grow_with_success_and_shrink_with_failure() {
    story(async {
        let server = Setup::new().start().await;
        let busy = || Script::default().always(Stage::End, Act::Slow(Duration::from_millis(100)));
        let far = server.domain("far.test", busy()).await;
        server.handle.pause(None).await.unwrap();
        let mut client = server.client(TRUSTED).await;
        for n in 0..2500 {
            client.transaction("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT.as_bytes()).await.unwrap();
        }
        server.handle.resume(None).await.unwrap();
        let attempts = async |millis: u64| {
            server.pass(Duration::from_millis(millis)).await;
            server.handle.levels().await.unwrap().attempts
        };
        assert_eq!([attempts(50).await, attempts(100).await, attempts(100).await, attempts(5000).await], [2, 5, 6, 20]);
        // The host sends everybody away for a while, and is back.
        far.script(|script| script.set_always(Stage::Mail, Act::SayAndClose("421 4.3.2 going down".to_owned())));
        server.event("an outage", |event| (event.name() == "destination-down").then_some(())).await;
        far.script(|script| *script = busy());
        while server.count("destination-up") == 0 {
            server.pass(Duration::from_millis(50)).await;
        }
        let after = [attempts(50).await, attempts(4000).await];
        assert!(after[0] <= 5 && after[1] == 20, "{after:?}");
    });
}

#[test]
fn there_are_never_more_attempts_than_allowed() {
    story(async {
        let server = Setup::new().config(|c| c.queue.attempts = 4).start().await;
        let mut peers = Vec::new();
        for n in 0..10 {
            let domain = format!("far{n}.test");
            peers.push(server.domain(&domain, stalling()).await);
            server.relay("ann@example.test", &[&format!("eve@{domain}")], CONTENT).await;
        }
        server.pass(MINUTE).await;
        let connections: u64 = peers.iter().map(|peer| peer.connections()).sum();
        // One of the four is kept for mailboxes here.
        assert_eq!((connections, server.handle.levels().await.unwrap().attempts), (3, 3));
        server.send("eve@far.test", &["bob@example.test"], CONTENT).await;
        server.pass(Duration::from_secs(1)).await;
        assert_eq!(server.mailbox("bob").len(), 1);
        peers.iter().for_each(|peer| peer.script(|script| *script = Script::default()));
        server.empty().await;
        assert!(peers.iter().all(|peer| peer.taken().len() == 1));
    });
}

#[test]
fn a_slow_destination_does_not_hold_up_the_others() {
    story(async {
        let bounds = |c: &mut posthouse::config::Config| (c.queue.attempts, c.remote.concurrency, c.queue.active) = (10, 5, 100);
        let server = Setup::new().config(bounds).start().await;
        let slow = server.domain("slow.test", stalling()).await;
        for _ in 0..200 {
            server.relay("ann@example.test", &["eve@slow.test"], CONTENT).await;
        }
        let fast = server.domain("fast.test", Script::default()).await;
        for _ in 0..20 {
            server.relay("ann@example.test", &["eve@fast.test", "bob@example.test"], CONTENT).await;
        }
        server.pass(2 * MINUTE).await;
        assert_eq!((fast.taken().len(), server.mailbox("bob").len(), slow.connections()), (20, 20, 2));
    });
}

#[test]
fn a_long_queue_waits_on_disk_and_not_in_memory() {
    story(async {
        // With fewer, the small number that every line may have counts for more.
        let server = Setup::new().config(|c| c.queue.active = 100).start().await;
        let far = server.domain("far.test", stalling()).await;
        let mut client = server.client(TRUSTED).await;
        for _ in 0..300 {
            queue_id(&client.transaction("ann@example.test", &["eve@far.test"], CONTENT.as_bytes()).await.unwrap());
        }
        server.pass(MINUTE).await;
        let scheduled = server.handle.levels().await.unwrap().scheduled;
        assert!(scheduled <= 100, "{scheduled}");
        far.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!(far.taken().len(), 300);
    });
}

#[test]
fn ten_clients_at_a_time_are_served_side_by_side() {
    story(async {
        let server = Setup::new().start().await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(server.client(STRANGER).await);
        }
        for client in &mut clients {
            client.command("MAIL FROM:<eve@far.test>").await.unwrap();
            client.command("RCPT TO:<ann@example.test>").await.unwrap();
            client.command("DATA").await.unwrap();
        }
        for client in clients.iter_mut().rev() {
            assert!(client.content(CONTENT.as_bytes()).await.unwrap().starts_with("250 2.0.0"));
        }
        server.pass(Duration::from_secs(1)).await;
        assert_eq!(server.mailbox("ann").len(), 10);
    });
}

#[test]
fn an_order_to_retry_a_long_queue_does_not_fill_the_memory() {
    story(async {
        let server = Setup::new().config(|c| c.queue.active = 100).start().await;
        let far = server.domain("far.test", Script::default().always(Stage::Greeting, Act::say("421 4.3.2 later"))).await;
        for _ in 0..200 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        server.pass(4 * MINUTE).await;
        far.script(|script| *script = stalling());
        let ids: Vec<_> = server.queue().await.iter().map(|message| message.id).collect();
        assert_eq!(server.handle.change(Verb::Retry, ids).await.unwrap().touched, 200);
        server.pass(Duration::from_secs(1)).await;
        let scheduled = server.handle.levels().await.unwrap().scheduled;
        assert!((1..=100).contains(&scheduled), "{scheduled}");
        far.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!(far.taken().len(), 200);
    });
}

#[test]
fn a_message_that_waits_for_days_does_not_keep_the_space_of_the_others() {
    story(async {
        let server = Setup::new().config(|c| c.retry.delay_notice.clear()).start().await;
        let busy = server.domain("busy.test", Script::default().always(Stage::Data, Act::say("451 4.3.2 later"))).await;
        server.relay("ann@example.test", &["eve@busy.test"], CONTENT).await;
        let far = server.domain("far.test", Script::default()).await;
        let large = format!("Subject: large\r\n\r\n{}", "0123456789012345678901234567890123456789\r\n".repeat(2500));
        for n in 0..120 {
            let tail = if n % 10 == 0 { large.repeat(4) } else { String::new() };
            server.relay("ann@example.test", &["eve@far.test"], &format!("{large}{tail}")).await;
            server.pass(MINUTE).await;
        }
        server.pass(10 * MINUTE).await;
        assert_eq!((far.taken().len(), busy.taken().len(), server.queue().await.len()), (120, 0, 1));
        // More than fifteen megabytes went through; segments are of one. Eight are set aside for the day when the disk is full.
        let used = server.disk.used() - 8 * 1024 * 1024;
        assert!(used < 4 * 1024 * 1024, "{used} bytes");
        busy.script(|script| *script = Script::default());
        let server = server.restart().await;
        server.empty().await;
        assert_eq!(below_our_fields(&busy.taken()[0].content), CONTENT.as_bytes());
    });
}

#[test]
fn thousands_of_recipients_at_a_destination_go_in_transactions_of_a_thousand() {
    story(async {
        let names: Vec<String> = (0..2500).map(|n| format!("user{n}@far.test")).collect();
        let server = Setup::new().aliases(&format!("everybody: {}\n", names.join(", "))).start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.send("eve@other.test", &["everybody@example.test"], CONTENT).await;
        server.empty().await;
        let counts: Vec<usize> = far.taken().iter().map(|taken| taken.recipients.len()).collect();
        assert_eq!(counts, [1000, 1000, 500]);
        let mut taken: Vec<String> = far.taken().into_iter().flat_map(|taken| taken.recipients).collect();
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 2500);
    });
}
