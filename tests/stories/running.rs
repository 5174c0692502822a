//! The server's own life: restarts, crashes, pauses, operator verbs, stop, reload.

use std::collections::BTreeMap;
use std::time::Duration;

use posthouse::config::{LocalDomain, MailStore};
use posthouse::event::Event;
use posthouse::mail::{Domain, MessageState, QueueId};
use posthouse::queue::Verb;
use posthouse::system::Disk;
use posthouse::system::sim::{Act, Script, Stage};

use crate::client::Client;
use crate::world::*;

const CONTENT: &str = "From: ann@example.test\r\nSubject: hi\r\n\r\nhello\r\n";

fn busy() -> Script {
    Script::default().always(Stage::Data, Act::say("451 4.3.2 come back later"))
}

/// Sends so many numbered messages to bob and to eve, over a few connections.
async fn send_many(server: &Server, count: usize) {
    for chunk in 0..count.div_ceil(50) {
        let mut client = server.client(TRUSTED).await;
        for n in chunk * 50..count.min((chunk + 1) * 50) {
            let content = format!("Subject: number {n}\r\n\r\nhello\r\n");
            let to = ["bob@example.test", "eve@far.test"];
            queue_id(&client.transaction("ann@example.test", &to, content.as_bytes()).await.unwrap());
        }
    }
}

/// How often each subject is there.
fn subjects<'a>(mails: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for mail in mails {
        let text = String::from_utf8_lossy(mail);
        let subject = text.lines().find(|line| line.starts_with("Subject: ")).unwrap_or_default().to_owned();
        *counts.entry(subject).or_default() += 1;
    }
    counts
}

#[test]
fn a_restart_with_a_full_queue_delivers_all_exactly_once() {
    story(async {
        let server = Setup::new().config(|c| c.queue.active = 50).start().await;
        server.handle.pause(None).await.unwrap();
        send_many(&server, 500).await;
        assert_eq!(server.queue().await.len(), 500);
        let server = server.restart().await;
        assert_eq!(server.queue().await.len(), 500);
        let far = server.domain("far.test", Script::default()).await;
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        let taken = far.taken();
        for found in [subjects(&server.mailbox("bob")), subjects(taken.iter().map(|taken| &taken.content))] {
            assert_eq!((found.len(), found.values().max()), (500, Some(&1)));
        }
    });
}

#[test]
fn a_restart_in_the_middle_of_retries_keeps_to_the_schedule() {
    story(async {
        let server = Setup::new().config(|c| c.retry.delay_notice.clear()).start().await;
        let far = server.domain("far.test", busy()).await;
        server.relay("ann@example.test", &["eve@far.test", "bob@example.test"], CONTENT).await;
        server.pass(HOUR).await;
        let before = server.queue().await;
        let server = server.restart().await;
        assert_eq!(server.queue().await, before);
        far.script(|script| *script = Script::default());
        let next = before[0].next_attempt().since(server.now());
        server.pass(next - Duration::from_secs(5)).await;
        assert_eq!(far.taken().len(), 0);
        server.pass(Duration::from_secs(10)).await;
        assert_eq!((far.taken().len(), far.taken()[0].recipients.len(), server.mailbox("bob").len()), (1, 1, 1));
    });
}

#[test]
fn lifetimes_go_on_while_the_server_is_down() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", busy()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(HOUR).await;
        server.stop().await;
        server.pass(6 * DAY).await;
        let server = server.restart().await;
        server.empty().await;
        assert_eq!(server.count("expired"), 1);
        assert!(server.mails("ann").last().unwrap().contains("Status: 5.4.7"));
    });
}

#[test]
fn a_crash_behind_the_250_loses_nothing() {
    for seed in 0..20 {
        let wreck = story(async {
            let server = Setup::seeded(seed).start().await;
            let _far = server.domain("far.test", busy()).await;
            send_many(&server, 10).await;
            server.wreck()
        });
        story(async {
            let server = wreck.recover(seed).await;
            let far = server.domain("far.test", Script::default()).await;
            server.empty().await;
            let taken = far.taken();
            for found in [subjects(&server.mailbox("bob")), subjects(taken.iter().map(|taken| &taken.content))] {
                assert_eq!((found.len(), found.values().max()), (10, Some(&1)), "seed {seed}");
            }
        });
    }
}

#[test]
fn a_pause_outlives_a_restart_and_ends_with_resume() {
    story(async {
        let server = Setup::new().start().await;
        server.handle.pause(None).await.unwrap();
        server.send("eve@far.test", &["ann@example.test"], CONTENT).await;
        server.pass(HOUR).await;
        let server = server.restart().await;
        server.send("eve@far.test", &["ann@example.test"], CONTENT).await;
        server.pass(HOUR).await;
        assert_eq!((server.mailbox("ann").len(), server.queue().await.len()), (0, 2));
        assert!(server.handle.paused().await.unwrap().all);
        server.handle.resume(None).await.unwrap();
        server.pass(Duration::from_secs(1)).await;
        assert_eq!((server.mailbox("ann").len(), server.queue().await.len()), (2, 0));
    });
}

#[test]
fn a_paused_domain_waits_and_the_others_do_not() {
    story(async {
        let server = Setup::new().start().await;
        let (far, other) =
            (server.domain("far.test", Script::default()).await, server.domain("other.test", Script::default()).await);
        let paused = Some(Domain::parse("far.test").unwrap());
        server.handle.pause(paused.clone()).await.unwrap();
        server.relay("ann@example.test", &["eve@far.test", "joe@other.test"], CONTENT).await;
        server.pass(HOUR).await;
        let server = server.restart().await;
        server.pass(HOUR).await;
        assert_eq!((far.connections(), other.taken().len()), (0, 1));
        server.handle.resume(paused).await.unwrap();
        server.pass(2 * MINUTE).await;
        assert_eq!((far.taken().len(), other.taken().len()), (1, 1));
    });
}

#[test]
fn a_held_message_waits_for_its_release() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        let id = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.verb(Verb::Hold, id).await;
        far.script(|script| *script = Script::default());
        let server = server.restart().await;
        // Longer than its lifetime: held mail doesn't expire.
        server.pass(6 * DAY).await;
        assert_eq!((far.taken().len(), server.queue().await[0].state()), (0, MessageState::Held));
        server.verb(Verb::Release, id).await;
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("expired")), (1, 0));
    });
}

#[test]
fn a_released_message_goes_on_its_way() {
    story(async {
        let server = Setup::new().start().await;
        server.handle.pause(None).await.unwrap();
        let id = server.send("eve@far.test", &["ann@example.test"], CONTENT).await;
        server.verb(Verb::Hold, id).await;
        server.handle.resume(None).await.unwrap();
        server.pass(HOUR).await;
        assert_eq!(server.mailbox("ann").len(), 0);
        server.verb(Verb::Release, id).await;
        server.pass(Duration::from_secs(1)).await;
        assert_eq!(server.mailbox("ann").len(), 1);
    });
}

#[test]
fn retry_tries_at_once() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        let id = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(2 * HOUR).await;
        far.script(|script| *script = Script::default());
        server.verb(Verb::Retry, id).await;
        server.pass(Duration::from_secs(1)).await;
        assert_eq!((far.taken().len(), server.queue().await.len()), (1, 0));
    });
}

#[test]
fn bounce_tells_the_sender_and_ends_it() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        let id = server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.verb(Verb::Bounce, id).await;
        server.empty().await;
        let bounces = server.mails("ann");
        assert_eq!((bounces.len(), far.taken().len()), (1, 0));
        assert!(bounces[0].contains("eve@far.test") && bounces[0].contains("joe@far.test"));
        assert!(bounces[0].contains("451 4.3.2 come back later"));
    });
}

#[test]
fn bounces_of_many_messages_share_their_commits() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        let mut ids = Vec::new();
        for n in 0..200 {
            ids.push(server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await);
        }
        server.pass(MINUTE).await;
        server.handle.pause(None).await.unwrap();
        let before = server.handle.spool().gauges().batches;
        let twice = [&ids[..], &ids[..5]].concat();
        let changed = server.handle.change(Verb::Bounce, twice).await.unwrap();
        let batches = server.handle.spool().gauges().batches - before;
        assert_eq!((changed.touched, changed.unknown.len(), server.count("notified")), (200, 0, 200));
        assert!(batches <= 20, "{batches} batches for 200 bounces");
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), far.taken().len()), (200, 0));
    });
}

#[test]
fn remove_tells_nobody() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        let id = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.verb(Verb::Remove, id).await;
        server.empty().await;
        far.script(|script| *script = Script::default());
        let server = server.restart().await;
        server.pass(DAY).await;
        assert_eq!((server.mailbox("ann").len(), far.taken().len(), server.count("removed")), (0, 0, 1));
    });
}

#[test]
fn a_verb_on_an_unknown_id_says_so() {
    story(async {
        let server = Setup::new().start().await;
        let changed = server.handle.change(Verb::Retry, vec![QueueId(7)]).await.unwrap();
        assert_eq!((changed.touched, changed.unknown), (0, vec![QueueId(7)]));
    });
}

#[test]
fn a_stop_lets_an_attempt_in_flight_come_to_its_end() {
    story(async {
        let server = Setup::new().start().await;
        // The address takes ten seconds, less than the grace.
        server.world.dns.mx("far.test", &[(10, "mx.far.test")]);
        server.world.dns.silent("mx.far.test");
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(Duration::from_secs(1)).await;
        let begun = server.now();
        server.stop().await;
        assert_eq!(server.now().since(begun), Duration::from_secs(9));
        assert_eq!((server.count("deferred"), server.events.recorded().last()), (1, Some(&Event::Stopped { unfinished: 0 })));
    });
}

#[test]
fn a_stop_lets_a_message_come_in_that_has_begun() {
    story(async {
        let server = Setup::new().start().await;
        let (mut sending, mut idle) = (server.client(STRANGER).await, server.client(STRANGER).await);
        for line in ["MAIL FROM:<eve@far.test>", "RCPT TO:<ann@example.test>", "DATA"] {
            sending.command(line).await.unwrap();
        }
        sending.send(b"Subject: begun\r\n").await.unwrap();
        let address = server.address().await;
        server.handle.stop("the story wants it");
        server.pass(Duration::from_secs(1)).await;
        assert!(idle.reply().await.unwrap().starts_with("421 4.3.2"));
        assert!(Client::connect(&server.world.net, STRANGER, address).await.is_err());
        assert!(sending.content(b"\r\nand ended\r\n").await.unwrap().starts_with("250 2.0.0"));
        assert!(sending.reply().await.unwrap().starts_with("421 4.3.2"));
        let server = server.restart().await;
        server.empty().await;
        assert!(server.mails("ann")[0].ends_with("Subject: begun\r\n\r\nand ended\r\n"));
    });
}

#[test]
fn a_stop_waits_for_a_slow_peer_within_its_grace() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default().once(Stage::Data, Act::Stall)).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(Duration::from_secs(1)).await;
        let begun = server.now();
        server.stop().await;
        let waited = server.now().since(begun);
        assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(40), "{waited:?}");
        let server = server.restart().await;
        server.empty().await;
        assert_eq!(far.taken().len(), 1);
    });
}

#[test]
fn a_reload_brings_a_new_domain_to_new_sessions() {
    story(async {
        let server = Setup::new().user("zoe@new.test").start().await;
        let mut old = server.client(STRANGER).await;
        let new = LocalDomain {
            name: Domain::parse("new.test").unwrap(),
            store: MailStore::Maildir("/mail/{domain}/{user}".to_owned()),
            subaddress: String::new(),
            quota: Default::default(),
            catch_all: None,
            aliases: None,
        };
        let replies = server.try_send("eve@far.test", &["zoe@new.test"], "").await;
        assert!(replies[1].starts_with("550 5.7.1"), "{replies:?}");
        server.reload(|config| config.domains.push(new)).await.unwrap();
        server.send("eve@far.test", &["zoe@new.test"], CONTENT).await;
        // An open session goes on as it began.
        let replies = old.transaction("eve@far.test", &["ann@example.test"], CONTENT.as_bytes()).await.unwrap();
        queue_id(&replies);
        server.empty().await;
        assert_eq!((maildir(&server.disk, "/mail/new.test/zoe").len(), server.mailbox("ann").len()), (1, 1));
        assert_eq!(server.count("reloaded"), 1);
    });
}

#[test]
fn a_reload_of_something_wrong_changes_nothing() {
    story(async {
        let server = Setup::new().start().await;
        let problems = server.reload(|config| config.domains[0].aliases = Some("/conf/nothing".into())).await.unwrap_err();
        assert!(problems[0].contains("/conf/nothing"), "{problems:?}");
        server.send("eve@far.test", &["ann@example.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.count("reload-refused")), (1, 1));
    });
}

#[test]
fn a_reload_reads_users_and_aliases_again() {
    story(async {
        let server = Setup::new().start().await;
        write(&server.disk, "/conf/aliases", "team: ann, bob\n");
        server.reload(|_| {}).await.unwrap();
        server.send("eve@far.test", &["team@example.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("bob").len()), (1, 1));
    });
}

#[test]
fn a_mailbox_that_goes_away_while_mail_waits_for_it_bounces() {
    story(async {
        let server = Setup::new().start().await;
        server.handle.pause(None).await.unwrap();
        server.send("sue@example.test", &["ann@example.test"], CONTENT).await;
        write(&server.disk, "/conf/users", &users(&["sue@example.test"]));
        server.reload(|_| {}).await.unwrap();
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        let bounces = server.mails("sue");
        assert_eq!(bounces.len(), 1);
        assert!(bounces[0].contains("Status: 5.1.1") && bounces[0].contains("ann@example.test"), "{}", bounces[0]);
    });
}

#[test]
fn verbs_on_a_message_in_flight_never_make_two_ends_of_it() {
    for verb in [Verb::Bounce, Verb::Remove, Verb::Hold, Verb::Retry] {
        story(async {
            let server = Setup::new().start().await;
            // The peer takes the message and never says so: five minutes, twice, until that counts as doubt.
            let far = server.domain("far.test", Script::default().once(Stage::End, Act::Stall)).await;
            let id = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.pass(MINUTE).await;
            let changed = server.handle.change(verb, vec![id]).await.unwrap();
            server.pass(DAY).await;
            let ends = (far.taken().len(), server.mailbox("ann").len(), server.queue().await.len());
            match verb {
                // In flight it may be delivered this very moment: nothing is bounced.
                Verb::Bounce => assert_eq!((changed.touched, ends), (0, (1, 0, 0))),
                Verb::Remove => assert_eq!((changed.touched, ends), (1, (0, 0, 0))),
                Verb::Hold => assert_eq!((changed.touched, ends), (1, (0, 0, 1))),
                _ => assert_eq!(ends, (1, 0, 0)),
            }
        });
    }
}

#[test]
fn a_disk_error_in_the_spool_is_told_to_the_client_and_the_next_message_is_taken() {
    story(async {
        // No zeros in the background: the sync that fails is the message's.
        let server = Setup::new().config(|config| config.spool.zeros_ahead = false).start().await;
        server.disk.fail_sync(0);
        let replies = server.try_send("eve@far.test", &["ann@example.test"], CONTENT).await;
        assert!(replies.last().unwrap().starts_with("451 4.3.0"), "{replies:?}");
        server.send("eve@far.test", &["bob@example.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((server.mailbox("bob").len(), server.count("write-failed")), (1, 1));
        let server = server.restart().await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("bob").len()), (0, 1));
    });
}

#[test]
fn what_is_kept_is_delivered_while_the_disk_is_full() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.disk.set_capacity(Some(server.disk.used() + 100_000));
        let replies = server.try_send("eve@far.test", &["ann@example.test"], CONTENT).await;
        assert!(replies[0].starts_with("452 4.3.1"), "{replies:?}");
        far.script(|script| {
            *script = Script::default().always(Stage::Recipient("joe@far.test".to_owned()), Act::say("550 5.1.1 nobody"));
        });
        server.empty().await;
        // The bounce has room, too.
        assert_eq!((far.taken().len(), server.mailbox("ann").len()), (1, 1));
    });
}

#[test]
fn a_failed_sync_leaves_no_segment_of_the_log_behind() {
    for failing in 0..60 {
        story(async {
            let server = Setup::new().config(|c| c.spool.segment_size = 16 * 1024).start().await;
            server.disk.fail_sync(failing);
            let content = format!("Subject: filler\r\n\r\n{}", "0123456789\r\n".repeat(400));
            let mut accepted = 0;
            for _ in 0..15 {
                let replies = server.try_send("eve@far.test", &["ann@example.test"], &content).await;
                accepted += usize::from(replies.last().unwrap().starts_with("250"));
                server.pass(Duration::from_secs(1)).await;
            }
            server.empty().await;
            server.pass(MINUTE).await;
            let segments = server.disk.list("/spool/log".as_ref()).unwrap();
            // No gap: each says where the one before it ends.
            let numbers = segments.iter().filter_map(|name| name.strip_suffix(".seg")).map(|number| number.parse().unwrap());
            let numbers: Vec<u64> = numbers.collect();
            assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "sync {failing}: {segments:?}");
            assert_eq!(server.mailbox("ann").len(), accepted);
            assert!(accepted >= 14);
        });
    }
}

#[test]
fn a_damaged_letter_waits_for_a_decision_and_mail_behind_it_goes_on_in_no_more_room() {
    story(async {
        let server = Setup::new().config(|c| c.spool.segment_size = 16 * 1024).start().await;
        let far = server.domain("far.test", busy()).await;
        let content = format!("Subject: filler\r\n\r\n{}", "0123456789\r\n".repeat(400));
        let damaged = server.relay("ann@example.test", &["joe@far.test"], &content).await;
        server.pass(MINUTE).await;
        server.disk.flip_bit("/spool/log/00000001.seg".as_ref(), 6000 * 8).unwrap();
        for _ in 0..40 {
            server.send("eve@far.test", &["bob@example.test"], &content).await;
            server.pass(Duration::from_secs(1)).await;
        }
        let segments = server.disk.list("/spool/log".as_ref()).unwrap();
        assert!(segments.len() <= 4, "{segments:?}");
        assert_eq!((server.mailbox("bob").len(), server.count("quarantined"), server.count("content-missing")), (40, 1, 1));
        far.script(|script| *script = Script::default());
        server.pass(HOUR).await;
        let waiting = server.queue().await;
        assert_eq!((waiting.len(), waiting[0].id, far.taken().len()), (1, damaged, 0));
        let reason = &waiting[0].recipients[0].status.last_reply;
        assert!(reason.contains("damaged"), "{reason}");
        server.verb(Verb::Bounce, damaged).await;
        server.empty().await;
        let bounce = &server.mails("ann")[0];
        assert!(bounce.contains("joe@far.test"), "{bounce}");
    });
}

#[test]
fn a_letter_that_the_disk_can_not_read_goes_out_once_it_can_and_mail_behind_it_goes_on_in_no_more_room() {
    story(async {
        let server = Setup::new().config(|c| c.spool.segment_size = 16 * 1024).start().await;
        let far = server.domain("far.test", busy()).await;
        let content = format!("Subject: filler\r\n\r\n{}", "0123456789\r\n".repeat(400));
        let unread = server.relay("ann@example.test", &["joe@far.test"], &content).await;
        server.pass(MINUTE).await;
        server.disk.fail_reading("/spool/log/00000001.seg".as_ref(), 6000..6001).unwrap();
        for _ in 0..40 {
            server.send("eve@far.test", &["bob@example.test"], &content).await;
            server.pass(Duration::from_secs(1)).await;
        }
        let segments = server.disk.list("/spool/log".as_ref()).unwrap();
        assert!(segments.len() <= 4, "{segments:?}");
        let told = |event| server.count(event);
        assert_eq!((server.mailbox("bob").len(), told("segment-unreadable"), told("content-missing")), (40, 1, 0));
        far.script(|script| *script = Script::default());
        server.pass(HOUR).await;
        let waiting = server.queue().await;
        assert_eq!((waiting.len(), waiting[0].id, far.taken().len()), (1, unread, 0));
        let reason = &waiting[0].recipients[0].status.last_reply;
        assert!(reason.contains("can't read /spool/unreadable/00000001.seg: ") && reason.contains("os error 5"), "{reason}");
        server.disk.fail_reading("/spool/unreadable/00000001.seg".as_ref(), 0..0).unwrap();
        server.empty().await;
        assert!(far.taken().len() == 1 && server.mails("ann").is_empty());
        server.pass(2 * HOUR).await;
        assert_eq!((told("segment-readable"), server.disk.list("/spool/unreadable".as_ref()).unwrap().len()), (1, 0));
    });
}

#[test]
fn a_reload_is_answered_before_the_old_connections_have_said_goodbye() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default().always(Stage::Quit, Act::Stall)).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(Duration::from_secs(1)).await;
        let before = tokio::time::Instant::now();
        server.reload(|_| {}).await.unwrap();
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        server.pass(Duration::from_secs(1)).await;
        assert!(far.commands().contains(&"QUIT".to_owned()));
    });
}

#[test]
fn what_is_delivered_while_the_server_stops_is_done_with() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default().always(Stage::End, Act::Slow(Duration::from_secs(2)))).await;
        let large = format!("Subject: large\r\n\r\n{}", "words and words\r\n".repeat(20_000));
        server.relay("ann@example.test", &["eve@far.test"], &large).await;
        server.pass(Duration::from_secs(1)).await;
        let content = || server.disk.list(std::path::Path::new("/spool/content")).unwrap().len();
        assert_eq!((content(), server.count("finished")), (1, 0), "its last reply is awaited");
        server.stop().await;
        assert_eq!((content(), far.taken().len(), server.count("finished")), (0, 1, 1));
    });
}

#[test]
fn what_comes_in_a_pause_waits_in_the_index_and_goes_when_it_ends() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.handle.pause(None).await.unwrap();
        let id = server.relay("ann@example.test", &["eve@far.test", "bob@example.test"], CONTENT).await;
        server.pass(Duration::from_secs(1)).await;
        assert!(server.handle.spool().active(id).is_none(), "it takes no room in memory");
        assert_eq!(server.queue().await.len(), 1);
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        assert_eq!((far.taken().len(), server.mailbox("bob").len()), (1, 1));
    });
}
