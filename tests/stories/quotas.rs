//! Quotas of Maildirs (Maildir++): what doesn't fit goes back or waits, and the mailbox's file says what is there.

use std::path::Path;
use std::time::Duration;

use posthouse::config::Quota;
use posthouse::event::Event;
use posthouse::mail::EnhancedCode;
use posthouse::system::{Disk, OpenMode};

use crate::world::*;

const SIZES: &str = "/mail/example.test/bob/maildirsize";

fn setup(octets: u64, bounce: bool) -> Setup {
    Setup::new().config(|config| config.domains[0].quota = Quota { octets: Some(octets), bounce })
}

/// A message with so many octets of content.
fn content(size: usize) -> String {
    format!("Subject: it\r\n\r\n{}", format!("{}\r\n", "x".repeat(78)).repeat(size / 80))
}

fn file(server: &Server) -> Option<String> {
    let disk: &dyn Disk = &*server.disk;
    disk.read(Path::new(SIZES), 1 << 20).ok().map(|bytes| String::from_utf8(bytes).unwrap())
}

/// What the file says is there.
fn sum(server: &Server) -> (u64, u64) {
    let text = file(server).unwrap();
    let lines = text.lines().skip(1).map(|line| line.split_once(' ').unwrap());
    lines.fold((0, 0), |(octets, count), line| (octets + line.0.parse::<u64>().unwrap(), count + line.1.parse::<u64>().unwrap()))
}

fn stored(server: &Server) -> (u64, u64) {
    let mails = server.mailbox("bob");
    (mails.iter().map(|mail| mail.len() as u64).sum(), mails.len() as u64)
}

#[test]
fn a_full_mailbox_sends_mail_back_and_the_sender_learns_why() {
    story(async {
        let server = setup(10_000, true).start().await;
        for _ in 0..2 {
            server.send("ann@example.test", &["bob@example.test", "sue@example.test"], &content(4000)).await;
        }
        server.empty().await;
        assert_eq!((stored(&server).1, sum(&server)), (2, stored(&server)));
        assert!(file(&server).unwrap().starts_with("10000S\n"));
        server.send("ann@example.test", &["bob@example.test"], &content(4000)).await;
        server.empty().await;
        assert_eq!((stored(&server).1, sum(&server)), (2, stored(&server)));
        let bounce = &server.mails("ann")[0];
        for part in [
            "Status: 5.2.2\r\n",
            "Action: failed\r\n",
            "the mailbox is full: ",
            "The mailbox is full. Send the message again later",
        ] {
            assert!(bounce.contains(part), "{part} is not in\n{bounce}");
        }
        // A smaller one still fits; larger than memory, too, none does.
        server.send("ann@example.test", &["bob@example.test"], "Subject: small\r\n\r\n").await;
        server.send("ann@example.test", &["bob@example.test"], &content(400_000)).await;
        server.empty().await;
        assert_eq!((stored(&server).1, sum(&server), server.mailbox("ann").len()), (3, stored(&server), 2));
        let disk: &dyn Disk = &*server.disk;
        assert_eq!(disk.list(Path::new("/mail/example.test/bob/tmp")).unwrap(), [""; 0]);
    });
}

/// The replies to MAIL and RCPT for bob and sue.
async fn asked(server: &Server, parameters: &str) -> [String; 3] {
    let mut client = server.client(STRANGER).await;
    let mut say = async |line: String| client.command(&line).await.unwrap();
    let mail = say(format!("MAIL FROM:<joe@far.test>{parameters}")).await;
    [mail, say("RCPT TO:<bob+tag@example.test>".to_owned()).await, say("RCPT TO:<sue@example.test>".to_owned()).await]
}

#[test]
fn a_full_mailbox_is_told_at_rcpt_where_the_others_go_on() {
    for (bounce, refusal) in [(true, "552 5.2.2 <bob+tag@example.test>: "), (false, "452 4.2.2 <bob+tag@example.test>: ")] {
        story(async {
            let server = setup(10_000, bounce).aliases("both: bob, sue\n").start().await;
            assert!(asked(&server, " SIZE=20000").await[1].starts_with("250"), "nobody has counted yet");
            server.send("ann@example.test", &["bob@example.test"], &content(9600)).await;
            server.empty().await;
            assert!(asked(&server, " SIZE=4000").await[1].starts_with("250"), "looked at less than 10 seconds ago");
            server.pass(Duration::from_secs(10)).await;
            let [mail, bob, sue] = asked(&server, " SIZE=4000").await;
            assert!(mail.starts_with("250") && bob.starts_with(refusal) && sue.starts_with("250"), "{bob}");
            assert!(asked(&server, "").await[1].starts_with("250"), "who knows how large it is");
            // What an alias leads to isn't asked for.
            server.send("ann@example.test", &["both@example.test"], "Subject: x\r\n\r\n").await;
            let refused = |event: &Event| matches!(event, Event::Refused { stage: "recipient", .. });
            assert_eq!(server.events.recorded().iter().filter(|event| refused(event)).count(), 1);
            // Its owner makes room by a program that doesn't know the file: a count says so, once what was counted is old.
            let disk: &dyn Disk = &*server.disk;
            let new = Path::new("/mail/example.test/bob/new");
            for name in disk.list(new).unwrap() {
                disk.unlink(&new.join(name)).unwrap();
            }
            server.pass(MINUTE * 16).await;
            assert!(asked(&server, " SIZE=4000").await[1].starts_with("250"));
        });
    }
}

#[test]
fn where_it_waits_it_comes_when_there_is_room() {
    story(async {
        let server = setup(5000, false).start().await;
        server.send("ann@example.test", &["bob@example.test"], &content(4000)).await;
        server.empty().await;
        server.send("ann@example.test", &["bob@example.test"], &content(4000)).await;
        let status = server.event("a deferral", |event| match event {
            Event::Deferred { status, .. } => Some(*status),
            _ => None,
        });
        assert_eq!(status.await, EnhancedCode(4, 2, 2));
        // Its owner reads it with a program that doesn't know the file.
        let disk: &dyn Disk = &*server.disk;
        let new = Path::new("/mail/example.test/bob/new");
        disk.unlink(&new.join(&disk.list(new).unwrap()[0])).unwrap();
        server.empty().await;
        assert_eq!((stored(&server).1, sum(&server), server.mailbox("ann").len()), (1, stored(&server), 0));
    });
}

#[test]
fn what_comes_in_one_round_does_not_overfill_a_mailbox() {
    story(async {
        let server = setup(20_000, true).config(|config| config.queue.paused = true).start().await;
        for _ in 0..40 {
            server.send("sue@example.test", &["bob@example.test"], &content(2000)).await;
        }
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        let (octets, count) = stored(&server);
        assert!(octets <= 20_000 && octets > 17_000, "{octets}");
        assert_eq!((octets, count), sum(&server));
        assert!(server.count("failed") >= 40 - count as usize);
    });
}

#[test]
fn a_users_own_quota_counts_more_than_the_domains_and_is_taken_up_by_a_reload() {
    story(async {
        let server = setup(1 << 20, true).start().await;
        let addresses = ["ann@example.test", "bob@example.test"];
        let own =
            |quota: &str| write(&server.disk, "/conf/users", &users(&addresses).replacen("\nbob", &format!("{quota}\nbob"), 1));
        own(" quota=5KB");
        server.reload(|_| {}).await.unwrap();
        server.send("bob@example.test", &addresses, &content(8000)).await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("bob").len()), (0, 2), "the mail, and ann's bounce");
        assert!(server.mails("bob").iter().any(|mail| mail.contains("Final-Recipient: rfc822; ann@example.test")));
        own(" quota=2MiB");
        server.reload(|_| {}).await.unwrap();
        server.send("bob@example.test", &addresses[..1], &content(8000)).await;
        server.empty().await;
        assert_eq!(server.mailbox("ann").len(), 1);
        own(" quota=much");
        let problems = server.reload(|_| {}).await.unwrap_err();
        assert!(problems[0].contains("the quota of ann@example.test is no size"), "{problems:?}");
    });
}

#[test]
fn a_file_that_is_there_counts_where_nothing_is_configured() {
    story(async {
        let server = Setup::new().start().await;
        server.send("ann@example.test", &["bob@example.test"], &content(4000)).await;
        server.empty().await;
        assert_eq!(file(&server), None, "nobody wants one");
        let disk: &dyn Disk = &*server.disk;
        disk.open(Path::new(SIZES), OpenMode::CreateNew).unwrap().write_at(0, b"0S,2C\n4000 1\n").unwrap();
        for _ in 0..2 {
            server.send("ann@example.test", &["bob@example.test"], &content(4000)).await;
            server.empty().await;
        }
        assert_eq!((stored(&server).1, server.mailbox("ann").len()), (2, 1));
        assert!(file(&server).unwrap().starts_with("2C\n"), "counted anew before it was refused: {:?}", file(&server));
    });
}
