//! Notices: bounces with what helps, double bounces to the postmaster, and never a notice about a notice.

use std::path::Path;

use mail_parser::MessageParser;
use posthouse::config::{AddressPattern, NoticeTo, Sender};
use posthouse::event::{Event, NoticeKind};
use posthouse::mail::Address;
use posthouse::system::Disk;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "From: Ann <ann@example.test>\r\nSubject: the plan\r\nX-Special: yes\r\n\r\nsecret words\r\n";

/// The text of a notice for people, and its subject, decoded.
fn read(notice: &[u8]) -> (String, String) {
    let parsed = MessageParser::default().parse(notice).unwrap();
    (parsed.subject().unwrap().to_owned(), parsed.body_text(0).unwrap().replace("\r\n", " "))
}

fn unknown() -> Script {
    Script::default().always(Stage::AnyRecipient, Act::say("550 5.1.1 no such user, try our web page"))
}

fn notified(server: &Server) -> Vec<NoticeKind> {
    let kind = |event: &Event| match event {
        Event::Notified { kind, .. } => Some(*kind),
        _ => None,
    };
    server.events.recorded().iter().filter_map(kind).collect()
}

#[test]
fn a_bounce_has_the_remotes_words_and_the_original_header() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", unknown()).await;
        let id = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        let bounce = &server.mails("ann")[0];
        for part in [
            "Return-Path: <>\r\n",
            "To: ann@example.test\r\n",
            "Auto-Submitted: auto-replied\r\n",
            "multipart/report; report-type=delivery-status",
            "Your message could not be delivered to eve@far.test.",
            "550 5.1.1 no such user, try our web page",
            "Reporting-MTA: dns; mail.example.test\r\n",
            "Final-Recipient: rfc822; eve@far.test\r\n",
            "Action: failed\r\n",
            "Status: 5.1.1\r\n",
            "X-Special: yes\r\n",
            "Subject: the plan\r\n",
            &id.to_string(),
        ] {
            assert!(bounce.contains(part), "{part} is not in\n{bounce}");
        }
        assert!(!bounce.contains("secret words"));
    });
}

#[test]
fn a_bounce_to_a_remote_sender_goes_out_with_the_null_reverse_path() {
    story(async {
        let server = Setup::new().aliases("abroad: gone@far.test\n").start().await;
        let _far = server.domain("far.test", unknown()).await;
        let home = server.domain("home.test", Script::default()).await;
        server.send("joe@home.test", &["abroad@example.test"], CONTENT).await;
        server.empty().await;
        let notice = &home.taken()[0];
        assert_eq!((notice.reverse_path.as_str(), &notice.recipients[..]), ("", &["joe@home.test".to_owned()][..]));
        let text = String::from_utf8_lossy(&notice.content).into_owned();
        assert!(text.contains("Original-Recipient: rfc822; abroad@example.test"), "{text}");
    });
}

#[test]
fn a_bounce_that_bounces_goes_to_the_postmaster() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", unknown()).await;
        server.relay("joe@far.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(notified(&server), [NoticeKind::Bounce, NoticeKind::DoubleBounce]);
        let mails = server.mails("postmaster");
        assert_eq!(mails.len(), 1);
        assert!(mails[0].replace("\r\n", " ").contains("you are told as postmaster"), "{}", mails[0]);
    });
}

#[test]
fn the_postmasters_own_failing_notice_is_the_end() {
    story(async {
        let postmaster = Address::parse("boss@far.test").unwrap();
        let server = Setup::new().config(|c| c.postmaster = postmaster).start().await;
        let far = server.domain("far.test", unknown()).await;
        server.relay("joe@far.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        server.pass(10 * DAY).await;
        assert_eq!(notified(&server), [NoticeKind::Bounce, NoticeKind::DoubleBounce]);
        assert_eq!((server.count("unnotified"), server.count("failed")), (1, 3));
        assert_eq!(far.commands().iter().filter(|line| line.starts_with("RCPT")).count(), 3);
    });
}

#[test]
fn several_failures_of_one_attempt_are_one_notice() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", unknown()).await;
        server.relay("ann@example.test", &["a@far.test", "b@far.test", "c@far.test"], CONTENT).await;
        server.empty().await;
        let bounces = server.mails("ann");
        assert_eq!(bounces.len(), 1);
        for name in ["a", "b", "c"] {
            assert!(bounces[0].contains(&format!("Final-Recipient: rfc822; {name}@far.test")));
        }
    });
}

#[test]
fn mail_to_a_mailbox_that_cannot_be_written_waits() {
    story(async {
        let server = Setup::new().start().await;
        write_file_where_the_mailbox_should_be(&server);
        server.send("sue@example.test", &["ann@example.test"], CONTENT).await;
        server.event("a deferral", |event| matches!(event, Event::Deferred { .. }).then_some(())).await;
        make_room_for_the_mailbox(&server);
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("sue").len()), (1, 0));
    });
}

fn write_file_where_the_mailbox_should_be(server: &Server) {
    use posthouse::system::OpenMode;
    server.disk.create_dir_all("/mail/example.test".as_ref()).unwrap();
    server.disk.open("/mail/example.test/ann".as_ref(), OpenMode::CreateNew).unwrap();
}

fn make_room_for_the_mailbox(server: &Server) {
    server.disk.unlink("/mail/example.test/ann".as_ref()).unwrap();
}

#[test]
fn a_nearly_full_disk_has_room_for_bounces() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default().always(Stage::Greeting, Act::say("421 4.3.2 later"))).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.disk.set_capacity(Some(server.disk.used() + 100_000));
        far.script(|script| *script = unknown());
        server.pass(10 * MINUTE).await;
        let replies = server.try_send("eve@far.test", &["ann@example.test"], CONTENT).await;
        assert!(replies.last().unwrap().starts_with("452 4.3.1"), "{replies:?}");
        assert_eq!((notified(&server), server.mailbox("ann").len()), (vec![NoticeKind::Bounce], 1));
    });
}

#[test]
fn a_notice_is_in_the_language_of_the_original_or_else_in_the_configured_one() {
    story(async {
        let server = Setup::new().config(|config| config.notice.language = "fr".to_owned()).start().await;
        let _far = server.domain("far.test", unknown()).await;
        for (language, subject, text) in [
            ("ja", "配信できませんでした: the plan", "お送りになったメールは eve@far.test に配信できませんでした。"),
            ("pt-BR, en", "Não entregue: the plan", "Não foi possível entregar a sua mensagem a eve@far.test."),
            ("tlh", "Non remis : the plan", "Votre message n'a pas pu être remis à eve@far.test."),
        ] {
            let content = format!("Content-Language: {language}\r\n{CONTENT}");
            server.relay("ann@example.test", &["eve@far.test"], &content).await;
            server.empty().await;
            let notice = server.mailbox("ann").pop().unwrap();
            let (title, said) = read(&notice);
            assert!(title == subject && said.starts_with(text), "{title}: {said}");
            assert!(said.contains("550 5.1.1 no such user, try our web page"), "{said}");
            assert!(notice.is_ascii(), "any reader can show it");
        }
    });
}

#[test]
fn an_operators_own_texts_are_used_and_changed_without_a_restart() {
    story(async {
        let setup = Setup::new().config(|config| config.notice.templates = Some("/conf/notices".into()));
        let disk: &dyn Disk = &*setup.disk;
        disk.create_dir_all("/conf/notices".as_ref()).unwrap();
        let write = |name: &str, text: &str| disk.replace(&Path::new("/conf/notices").join(name), text.as_bytes()).unwrap();
        let own = |text: &str| write("en.toml", &format!("[closing]\nhelp = \"{text}\""));
        own("Call {postmaster} or 555.");
        let server = setup.clone().start().await;
        let _far = server.domain("far.test", unknown()).await;
        let closing = async |expected: &str| {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            let (_, said) = read(&server.mailbox("ann").pop().unwrap());
            assert!(said.contains(expected), "{said}");
        };
        closing("Call postmaster@example.test or 555.").await;
        own("Call {boss}.");
        let problems = server.reload(|_| {}).await.unwrap_err();
        let expected = "/conf/notices/en.toml: closing.help: {boss} stands for nothing; here it knows {postmaster}";
        assert_eq!(problems, [expected]);
        closing("Call postmaster@example.test or 555.").await;
        own("Call nobody.");
        write("README.txt", "not ours");
        server.reload(|_| {}).await.unwrap();
        closing("Call nobody.").await;
        write("deutsch_1.toml", "");
        write("nl.toml", "many = \"x\"");
        let problems = server.reload(|config| config.notice.language = "it".to_owned()).await.unwrap_err();
        assert!(problems[0].starts_with("/conf/notices/deutsch_1.toml: its name is no language"), "{problems:?}");
        assert!(problems[1].starts_with("/conf/notices/nl.toml: time: it is missing"), "{problems:?}");
        assert!(problems.last().unwrap().starts_with("notice.language: there are no texts in \"it\""), "{problems:?}");
    });
}

#[test]
fn who_was_told_of_a_delay_is_told_that_it_is_over_where_that_is_wanted() {
    for wanted in [true, false] {
        story(async {
            let server = Setup::new().config(|config| config.notice.delay_over = wanted).start().await;
            let busy = Script::default().always(Stage::AnyRecipient, Act::say("450 4.2.1 busy"));
            let far = server.domain("far.test", busy).await;
            let closed =
                server.domain("closed.test", Script::default().always(Stage::AnyRecipient, Act::say("450 4.2.1 no"))).await;
            server.relay("ann@example.test", &["eve@far.test", "joe@closed.test"], CONTENT).await;
            server.event("a delay notice", |event| matches!(event, Event::Notified { .. }).then_some(())).await;
            far.script(|script| *script = Script::default());
            server.pass(5 * HOUR).await;
            let over = if wanted { vec![NoticeKind::Delay, NoticeKind::DelayOver] } else { vec![NoticeKind::Delay] };
            assert_eq!((far.taken().len(), notified(&server)), (1, over));
            closed.script(|script| *script = unknown());
            server.empty().await;
            // What fails is no delay that is over; and what wasn't late isn't spoken of.
            assert_eq!(notified(&server).len(), if wanted { 3 } else { 2 });
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            assert_eq!(notified(&server).len(), if wanted { 3 } else { 2 });
            let over = server.mailbox("ann").into_iter().find(|notice| read(notice).0 == "No longer delayed: the plan");
            assert_eq!(over.is_some(), wanted);
            if let Some(notice) = over {
                let text = String::from_utf8(notice).unwrap();
                assert!(text.contains("Final-Recipient: rfc822; eve@far.test\r\nAction: relayed\r\nStatus: 2.0.0\r\n"), "{text}");
                assert!(!text.contains("joe@closed.test"), "{text}");
            }
        });
    }
}

#[test]
fn bounces_of_one_moment_share_their_commits() {
    story(async {
        let server = Setup::new().config(|config| config.retry.delay_notice.clear()).start().await;
        let _far = server.domain("far.test", Script::default().always(Stage::AnyRecipient, Act::say("450 4.2.1 busy"))).await;
        for _ in 0..10 {
            let mut client = server.client(TRUSTED).await;
            for _ in 0..30 {
                queue_id(&client.transaction("joe@home.test", &["eve@far.test"], CONTENT.as_bytes()).await.unwrap());
            }
        }
        server.handle.pause(None).await.unwrap();
        // They all expire at the end of the pause; their bounces wait for a domain that doesn't answer.
        server.pass(6 * DAY).await;
        server.world.dns.silent("home.test");
        let before = server.handle.spool().gauges().batches;
        server.handle.resume(None).await.unwrap();
        server.until("all bounces", || notified(&server).len() == 300).await;
        let commits = server.handle.spool().gauges().batches - before;
        assert!(commits < 100, "{commits} commits for 300 bounces");
        assert_eq!(server.count("expired"), 300);
    });
}

/// Sends what will bounce, as a stranger, and waits for what becomes of it.
async fn bounce_for(server: &Server, from: &str) {
    server.send(from, &["abroad@example.test"], CONTENT).await;
    server.until("the end of it", || server.handle.spool().gauges().messages == 0).await;
}

#[test]
fn only_senders_that_are_known_are_told_where_that_is_wanted() {
    story(async {
        let setup = Setup::new().aliases("abroad: gone@far.test\nteam: bob, sue\n");
        let server = setup.config(|config| config.notice.to = NoticeTo::Known).start().await;
        let _far = server.domain("far.test", unknown()).await;
        let home = server.domain("home.test", Script::default()).await;
        // A stranger who says he is somebody else, or one of us whom there isn't.
        bounce_for(&server, "joe@home.test").await;
        bounce_for(&server, "nobody@example.test").await;
        assert_eq!((notified(&server), server.count("unnotified"), server.count("failed")), (vec![], 2, 2));
        // Who has a mailbox here, or an alias.
        bounce_for(&server, "bob@example.test").await;
        bounce_for(&server, "team@example.test").await;
        assert_eq!((notified(&server).len(), server.mailbox("bob").len(), server.mailbox("sue").len()), (2, 2, 1));
        // A client that may relay, whatever it calls its sender.
        server.relay("joe@home.test", &["eve@far.test"], CONTENT).await;
        server.until("the bounce", || home.taken().len() == 1).await;
        // Everybody again, also about mail that came before.
        server.handle.pause(None).await.unwrap();
        server.send("joe@home.test", &["abroad@example.test"], CONTENT).await;
        server.reload(|config| config.notice.to = NoticeTo::Everyone).await.unwrap();
        server.handle.resume(None).await.unwrap();
        server.until("the bounce", || home.taken().len() == 2).await;
    });
}

#[test]
fn a_stranger_is_told_neither_of_delay_nor_of_success_where_only_the_known_are() {
    for to in [NoticeTo::Known, NoticeTo::Everyone] {
        story(async {
            let setup = Setup::new().aliases("abroad: eve@far.test\n").config(|config| config.notice.to = to);
            let server = setup.start().await;
            let busy = Script::default().always(Stage::AnyRecipient, Act::say("450 4.2.1 busy"));
            let far = server.domain("far.test", busy).await;
            let home = server.domain("home.test", Script::default()).await;
            let asked = ["<abroad@example.test> NOTIFY=SUCCESS,DELAY"];
            server.client(STRANGER).await.ask("<joe@home.test>", &asked, CONTENT).await;
            server.pass(5 * HOUR).await;
            far.script(|script| *script = Script::default());
            server.empty().await;
            let told = if to == NoticeTo::Known { (0, 2) } else { (2, 0) };
            assert_eq!((home.taken().len(), server.count("unnotified"), far.taken().len()), (told.0, told.1, 1));
        });
    }
}

#[test]
fn who_logged_in_is_known_whatever_the_sender() {
    story(async {
        let setup = crate::submission::setup().config(|config| {
            config.notice.to = NoticeTo::Known;
            let addresses = vec![AddressPattern::Exact(Address::parse("joe@home.test").unwrap())];
            config.senders.push(Sender { login: None, addresses });
        });
        let server = setup.start().await;
        let _far = server.domain("far.test", unknown()).await;
        let home = server.domain("home.test", Script::default()).await;
        let mut client = crate::submission::ida(&server).await;
        let content = CONTENT.replace("ann@example.test", "joe@home.test");
        queue_id(&client.transaction("joe@home.test", &["eve@far.test"], content.as_bytes()).await.unwrap());
        server.empty().await;
        assert_eq!((notified(&server), home.taken().len()), (vec![NoticeKind::Bounce], 1));
    });
}

#[test]
fn a_known_client_is_told_also_when_the_message_can_no_longer_be_read_and_a_stranger_is_not() {
    story(async {
        let setup = Setup::new().aliases("abroad: gone@far.test\n").config(|config| {
            config.notice.to = NoticeTo::Known;
            config.retry.delay_notice.clear();
        });
        let server = setup.start().await;
        let home = server.domain("home.test", Script::default()).await;
        server.handle.pause(None).await.unwrap();
        // Too long for a record: it has a file.
        let content = CONTENT.to_owned() + &"all of it\r\n".repeat(20_000);
        for id in [
            server.relay("joe@home.test", &["eve@far.test"], &content).await,
            server.send("sue@home.test", &["abroad@example.test"], &content).await,
        ] {
            server.disk.unlink(format!("/spool/content/{id}").as_ref()).unwrap();
        }
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        let told: Vec<_> = home.taken().into_iter().flat_map(|taken| taken.recipients).collect();
        assert_eq!((told, server.count("unnotified")), (vec!["joe@home.test".to_owned()], 1));
    });
}

#[test]
fn who_logged_in_is_told_also_when_the_message_can_no_longer_be_read() {
    story(async {
        let setup = crate::submission::setup().config(|config| {
            config.notice.to = NoticeTo::Known;
            config.retry.delay_notice.clear();
            let addresses = vec![AddressPattern::Exact(Address::parse("joe@home.test").unwrap())];
            config.senders.push(Sender { login: None, addresses });
        });
        let server = setup.start().await;
        let home = server.domain("home.test", Script::default()).await;
        server.handle.pause(None).await.unwrap();
        let mut client = crate::submission::ida(&server).await;
        // Too long for a record: it has a file.
        let content = CONTENT.replace("ann@example.test", "joe@home.test") + &"all of it\r\n".repeat(20_000);
        let id = queue_id(&client.transaction("joe@home.test", &["eve@far.test"], content.as_bytes()).await.unwrap());
        server.disk.unlink(format!("/spool/content/{id}").as_ref()).unwrap();
        server.handle.resume(None).await.unwrap();
        server.pass(6 * DAY).await;
        server.empty().await;
        assert_eq!((notified(&server), home.taken().len()), (vec![NoticeKind::Bounce], 1));
    });
}

#[test]
fn the_postmaster_is_told_once_a_day_how_many_were_not() {
    story(async {
        let setup = Setup::new().aliases("abroad: gone@far.test\n").config(|config| config.notice.to = NoticeTo::Known);
        let server = setup.config(|config| config.notice.digest = DAY).start().await;
        let _far = server.domain("far.test", unknown()).await;
        server.pass(3 * DAY).await;
        assert_eq!(server.mailbox("postmaster").len(), 0);
        for from in ["joe@home.test", "eve@home.test", "sam@other.test"] {
            bounce_for(&server, from).await;
        }
        server.pass(23 * HOUR).await;
        assert_eq!(server.mailbox("postmaster").len(), 0);
        server.pass(2 * HOUR).await;
        let (subject, text) = read(&server.mailbox("postmaster")[0]);
        assert_eq!(subject, "Notices that were not sent: 3");
        assert!(text.contains("       2  home.test        1  other.test"), "{text}");
        assert_eq!(notified(&server), [NoticeKind::Digest]);
        // What was counted since then isn't forgotten by a stop.
        server.pass(3 * DAY).await;
        bounce_for(&server, "joe@home.test").await;
        assert_eq!(notified(&server).len(), 1);
        let server = server.restart().await;
        server.empty().await;
        assert_eq!(server.mailbox("postmaster").len(), 2);
        server.pass(3 * DAY).await;
        assert_eq!((server.mailbox("postmaster").len(), notified(&server).len()), (2, 2));
    });
}
