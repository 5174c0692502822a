//! Notices: bounces with what helps, double bounces to the postmaster, and never a notice about a notice.

use posthouse::event::{Event, NoticeKind};
use posthouse::mail::Address;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "From: Ann <ann@example.test>\r\nSubject: the plan\r\nX-Special: yes\r\n\r\nsecret words\r\n";

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
    use posthouse::system::{Disk, OpenMode};
    server.disk.create_dir_all("/mail/example.test".as_ref()).unwrap();
    server.disk.open("/mail/example.test/ann".as_ref(), OpenMode::CreateNew).unwrap();
}

fn make_room_for_the_mailbox(server: &Server) {
    use posthouse::system::Disk;
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
