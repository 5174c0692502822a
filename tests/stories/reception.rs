//! Clients and their limits: size, space, hops, connections, patience.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use posthouse::mail::{Address, BodyType, Recipient, ReversePath, Timestamp};
use posthouse::spool::Accept;
use posthouse::system::sim::OperationKind;

use crate::client::Client;
use crate::world::*;

#[test]
fn a_message_over_the_size_limit_is_refused_before_or_after_it_is_sent() {
    story(async {
        let server = Setup::new().config(|c| c.limits.message_size = 10_000).start().await;
        let mut client = server.client(STRANGER).await;
        let reply = client.command("MAIL FROM:<eve@far.test> SIZE=10001").await.unwrap();
        assert!(reply.starts_with("552 5.3.4"), "{reply}");
        let big = format!("Subject: big\r\n\r\n{}", "0123456789\r\n".repeat(1000));
        let replies = client.transaction("eve@far.test", &["ann@example.test"], big.as_bytes()).await.unwrap();
        assert!(replies.last().unwrap().starts_with("552 5.3.4"), "{replies:?}");
        let replies = client.transaction("eve@far.test", &["ann@example.test"], b"\r\nsmall\r\n").await.unwrap();
        queue_id(&replies);
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
    });
}

#[test]
fn a_large_message_comes_through_unharmed() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Default::default()).await;
        let line = "The quick brown fox jumps over the lazy dog, again and again and again.\r\n";
        let content = format!("Subject: large\r\n\r\n{}", line.repeat(70_000));
        server.relay("ann@example.test", &["bob@example.test", "eve@far.test"], &content).await;
        server.empty().await;
        assert!(below_our_fields(&server.mailbox("bob")[0]) == content.as_bytes());
        assert!(below_our_fields(&far.taken()[0].content) == content.as_bytes());
    });
}

#[test]
fn a_full_disk_says_452_until_there_is_room_again() {
    story(async {
        let server = Setup::new().start().await;
        server.send("eve@far.test", &["ann@example.test"], "\r\none\r\n").await;
        server.empty().await;
        server.disk.set_capacity(Some(server.disk.used() + 1000));
        server.pass(MINUTE).await;
        let replies = server.try_send("eve@far.test", &["ann@example.test"], "\r\ntwo\r\n").await;
        assert!(replies.last().unwrap().starts_with("452 4.3.1"), "{replies:?}");
        server.disk.set_capacity(None);
        server.pass(MINUTE).await;
        server.send("eve@far.test", &["ann@example.test"], "\r\nthree\r\n").await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 2);
    });
}

#[test]
fn a_message_that_has_come_round_too_often_is_refused() {
    story(async {
        let server = Setup::new().config(|c| c.limits.hops = 5).start().await;
        let hops = |count: usize| format!("{}\r\nhello\r\n", "Received: from a by b; now\r\n".repeat(count));
        let replies = server.try_send("eve@far.test", &["ann@example.test"], &hops(6)).await;
        assert!(replies.last().unwrap().starts_with("554 5.4.6"), "{replies:?}");
        server.send("eve@far.test", &["ann@example.test"], &hops(5)).await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
    });
}

#[test]
fn a_client_with_too_many_connections_hears_421_and_others_do_not() {
    story(async {
        let server = Setup::new().config(|c| c.limits.connections_per_client = 2).start().await;
        let (one, _two) = (server.client(STRANGER).await, server.client(STRANGER).await);
        let reply = call(&server, STRANGER).await.unwrap().reply().await.unwrap();
        assert!(reply.starts_with("421 4.7.0"), "{reply}");
        server.client(TRUSTED).await;
        drop(one);
        server.pass(Duration::from_secs(1)).await;
        server.client(STRANGER).await;
        assert_eq!(server.count("limited"), 1);
    });
}

#[test]
fn too_many_connections_in_all_hear_421() {
    story(async {
        let server = Setup::new().config(|c| c.limits.connections = 1).start().await;
        let _one = server.client(STRANGER).await;
        let reply = call(&server, TRUSTED).await.unwrap().reply().await.unwrap();
        assert!(reply.starts_with("421 4.3.2"), "{reply}");
    });
}

#[test]
fn a_client_that_says_nothing_is_sent_away() {
    story(async {
        let server = Setup::new().start().await;
        let mut client = server.client(STRANGER).await;
        let begun = server.now();
        let reply = client.reply().await.unwrap();
        assert!(reply.starts_with("421 4.4.2"), "{reply}");
        assert_eq!(server.now().since(begun), 5 * MINUTE);
        assert!(client.reply().await.is_err());
        assert_eq!(server.handle.connections(), 0);
    });
}

#[test]
fn content_that_drips_too_slowly_is_given_up() {
    story(async {
        let server = Setup::new().start().await;
        let mut client = server.client(STRANGER).await;
        for line in ["MAIL FROM:<eve@far.test>", "RCPT TO:<ann@example.test>", "DATA"] {
            client.command(line).await.unwrap();
        }
        client.send(b"Subject: slow\r\n").await.unwrap();
        let reply = client.reply().await.unwrap();
        assert!(reply.starts_with("421 4.4.2"), "{reply}");
        server.empty().await;
        assert_eq!(server.count("accepted"), 0);
    });
}

#[test]
fn a_client_that_goes_away_in_the_middle_leaves_nothing_behind() {
    story(async {
        let server = Setup::new().start().await;
        for lines in [1, 2, 3, 4] {
            let mut client = server.client(STRANGER).await;
            let steps = ["MAIL FROM:<eve@far.test>", "RCPT TO:<ann@example.test>", "DATA", "Subject: unfinished"];
            for line in &steps[..lines] {
                client.send(format!("{line}\r\n").as_bytes()).await.unwrap();
            }
            server.pass(Duration::from_secs(1)).await;
        }
        server.pass(Duration::from_secs(1)).await;
        assert_eq!((server.handle.connections(), server.queue().await.len(), server.count("accepted")), (0, 0, 0));
    });
}

#[test]
fn too_many_mistakes_end_the_session() {
    story(async {
        let server = Setup::new().config(|c| c.limits.errors = 3).start().await;
        let mut client = server.client(STRANGER).await;
        let mut replies = Vec::new();
        while let Ok(reply) = client.command("WHAT").await {
            replies.push(reply);
        }
        assert!(replies.len() <= 4 && replies.last().unwrap().starts_with("421 4.7.0"), "{replies:?}");
    });
}

#[test]
fn a_message_with_more_recipients_than_allowed_keeps_the_first() {
    story(async {
        let server = Setup::new().config(|c| c.limits.recipients = 2).start().await;
        let to = ["ann@example.test", "bob@example.test", "sue@example.test"];
        let replies = server.try_send("eve@far.test", &to, "\r\nhello\r\n").await;
        assert!(replies[3].starts_with("452 4.5.3"), "{replies:?}");
        server.empty().await;
        assert_eq!(["ann", "bob", "sue"].map(|user| server.mailbox(user).len()), [1, 1, 0]);
    });
}

#[test]
fn the_queue_knows_what_the_client_declared() {
    story(async {
        let server = Setup::new().start().await;
        server.handle.pause(None).await.unwrap();
        let mut client = server.client(STRANGER).await;
        client.command("MAIL FROM:<eve@far.test> BODY=8BITMIME SIZE=11").await.unwrap();
        client.command("RCPT TO:<ann@example.test>").await.unwrap();
        client.command("DATA").await.unwrap();
        client.content(b"\r\ncaf\xc3\xa9\r\n").await.unwrap();
        let queue = server.queue().await;
        assert_eq!((queue.len(), queue[0].body), (1, BodyType::EightBitMime));
        assert!(queue[0].arrived > Timestamp::ZERO && queue[0].size > 9);
    });
}

/// A session begins to commit a message for ann and is gone after so many looks; whether that was too late.
async fn vanish(server: &Server, looks: usize) -> bool {
    let mut draft = server.handle.spool().begin().unwrap();
    draft.write(b"\r\nhello\r\n").await.unwrap();
    let now = server.now();
    let accept = Accept {
        arrived: now,
        reverse_path: ReversePath::Null,
        body: BodyType::SevenBit,
        request: None,
        origin: None,
        recipients: vec![Recipient::new(Address::parse("ann@example.test").unwrap(), None, now)],
        updates: Vec::new(),
    };
    let mut commit = pin!(draft.commit(accept));
    for _ in 0..looks {
        if commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[test]
fn a_message_whose_session_is_gone_when_it_is_durable_is_delivered_though_nothing_else_happens() {
    story(async {
        let server = Setup::new().start().await;
        let mut looks = 1;
        while !vanish(&server, looks).await {
            server.pass(Duration::from_secs(1)).await;
            assert_eq!(server.mailbox("ann").len(), looks);
            looks += 1;
        }
        assert!(looks > 1, "one was gone in time");
    });
}

#[test]
fn while_too_much_waits_in_memory_for_an_index_that_is_gone_mail_is_refused() {
    story(async {
        let server = Setup::new().config(|c| (c.queue.paused, c.queue.active, c.spool.index_cache) = (true, 5, 1)).start().await;
        server.index.broken.store(true, Ordering::Relaxed);
        // Many recipients, so that few messages do.
        let to: Vec<String> = (0..1000).map(|n| format!("r{n}@far.test")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let mut taken = 0;
        let refused = loop {
            let mut client = server.client(TRUSTED).await;
            let replies = client.transaction("ann@example.test", &to, b"Subject: hi\r\n\r\nhello\r\n").await.unwrap();
            if !replies.last().unwrap().starts_with("250 2.0.0") {
                break replies;
            }
            taken += 1;
            assert!(taken < 300, "there is no bound");
        };
        assert!(refused[0].starts_with("452 4.3.1 Too much mail waits here"), "{refused:?}");
        let health = server.handle.health().await;
        assert!(taken > 100 && health.spool.is_some_and(|why| why.contains("index")), "{taken}");
        server.index.broken.store(false, Ordering::Relaxed);
        server.pass(2 * MINUTE).await;
        server.relay("ann@example.test", &["r@far.test"], "Subject: hi\r\n\r\nhello\r\n").await;
        assert_eq!((server.count("index-behind"), server.count("index-caught-up")), (1, 1));
        assert_eq!(server.queue().await.len(), taken + 1);
    });
}

/// Whether a client is answered sooner than a task runs that was there after the command.
async fn is_answered_at_once(client: &mut Client) -> bool {
    client.send(b"NOOP\r\n").await.unwrap();
    tokio::spawn(async {}).await.unwrap();
    let mut reply = pin!(client.reply());
    let at_once = reply.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
    if !at_once {
        reply.await.unwrap();
    }
    at_once
}

#[test]
fn where_syncs_are_slow_all_who_can_go_on_do_before_the_first_is_answered() {
    story(async {
        let server = Setup::new().start().await;
        let mut client = server.client(TRUSTED).await;
        server.send("eve@far.test", &["ann@example.test"], "\r\none\r\n").await;
        assert!(is_answered_at_once(&mut client).await);
        let clock = server.world.clock.clone();
        server.disk.watch(move |operation| {
            if operation.kind == OperationKind::Sync {
                clock.take(Duration::from_millis(2));
            }
        });
        server.send("eve@far.test", &["ann@example.test"], "\r\none\r\n").await;
        assert!(!is_answered_at_once(&mut client).await);
        server.empty().await;
    });
}
