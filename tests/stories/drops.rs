//! The drop folder: what can't be taken from there comes back to whoever left it, once.

use std::path::Path;
use std::sync::Arc;

use posthouse::event::Event;
use posthouse::mail::Origin;
use posthouse::maildrop::Writer;
use posthouse::system::{Disk, OpenMode};

use crate::world::*;

const DROP: &str = "/spool/drop";

/// Leaves a message there as `posthouse sendmail` does; the file's name.
pub(crate) fn leave(server: &Server, content: &str, commands: &[&str]) -> String {
    let system = server.world.system(Arc::clone(&server.disk) as Arc<dyn Disk>);
    let commands: Vec<String> = commands.iter().map(|command| (*command).to_owned()).collect();
    let mut writer = Writer::begin(&*server.disk, &*system.entropy, server.now(), Path::new(DROP), 1000).unwrap();
    writer.write(content.as_bytes()).unwrap();
    writer.finish(&commands).unwrap()
}

/// Names in a folder, and no subfolders'.
fn names(server: &Server, folder: &str) -> Vec<String> {
    let mut names = server.disk.list(Path::new(folder)).unwrap();
    names.retain(|name| name != "taken" && name != "refused");
    names
}

/// Waits until so many files were refused and what is told of that has arrived.
async fn refused(server: &Server, count: usize) {
    server.until("a refused file", || server.count("drop-refused") == count).await;
    server.empty().await;
    assert_eq!((names(server, DROP), names(server, "/spool/drop/taken")), (Vec::new(), Vec::new()));
    assert_eq!(names(server, "/spool/drop/refused").len(), count);
}

#[test]
fn a_message_that_is_too_large_comes_back_to_its_sender() {
    story(async {
        let server = Setup::new().config(|config| config.limits.message_size = 2000).start().await;
        let to = ["MAIL FROM:<ann@example.test> RET=FULL ENVID=e-7", "RCPT TO:<bob@example.test>", "RCPT TO:<joe@far.test>"];
        let large = format!("Subject: a film\r\n\r\n{}", "x\r\n".repeat(1000));
        let name = leave(&server, &large, &to);
        refused(&server, 1).await;
        let bounces = server.mails("ann");
        assert_eq!((bounces.len(), server.mailbox("bob").len(), server.mailbox("postmaster").len()), (1, 0, 0));
        for (part, count) in [
            ("Subject: Not delivered: a film\r\n", 1),
            ("Action: failed\r\nStatus: 5.3.4\r\n", 2),
            ("Final-Recipient: rfc822; joe@far.test\r\n", 1),
            ("Original-Envelope-Id: e-7\r\n", 1),
            ("The message is too large. Send a smaller one", 2),
        ] {
            assert_eq!(bounces[0].matches(part).count(), count, "{part} in\n{}", bounces[0]);
        }
        assert_eq!(names(&server, "/spool/drop/refused"), [name]);
        // It isn't told again.
        let server = server.restart().await;
        server.pass(HOUR).await;
        assert_eq!((server.mails("ann").len(), names(&server, "/spool/drop/refused").len()), (1, 1));
    });
}

#[test]
fn mail_without_a_sender_is_this_machines_and_no_notice() {
    story(async {
        let server = Setup::new().config(|config| config.queue.paused = true).start().await;
        leave(&server, "Subject: x\r\n\r\nx\r\n", &["MAIL FROM:<>", "RCPT TO:<joe@far.test>"]);
        server.event("a message", |event| matches!(event, Event::Accepted { .. }).then_some(())).await;
        assert_eq!(Origin::of(&server.queue().await[0]).to_string(), "domain:mail.example.test");
    });
}

#[test]
fn what_has_no_recipients_comes_back_as_a_letter_and_what_is_no_message_to_the_postmaster() {
    story(async {
        let server = Setup::new().user("postmaster@example.test").start().await;
        let nobody = leave(&server, "Subject: x\r\n\r\n", &["MAIL FROM:<ann@example.test>"]);
        refused(&server, 1).await;
        let letter = &server.mails("ann")[0];
        assert!(letter.contains("Mail from the drop folder was not sent") && letter.contains(&nobody), "{letter}");
        assert!(letter.contains("\r\n    554 5.5.1 ") || letter.contains("\r\n    503 5.5.1 "), "{letter}");
        let disk: &dyn Disk = &*server.disk;
        let file = disk.open(Path::new("/spool/drop/mail-junk"), OpenMode::CreateNew).unwrap();
        file.write_at(0, b"From me to you").unwrap();
        refused(&server, 2).await;
        let letter = &server.mails("postmaster")[0];
        assert!(letter.contains("mail-junk") && letter.contains("too short for a message"), "{letter}");
        leave(&server, "Subject: y\r\n\r\n\r", &["MAIL FROM:<>", "RCPT TO:<bob@example.test>"]);
        refused(&server, 3).await;
        assert!(server.mails("postmaster")[1].contains("Final-Recipient: rfc822; bob@example.test"));
        leave(&server, "Subject: z\r\n\r\n\r", &["MAIL FROM:<ann@example.test>", "RCPT TO:<bob@example.test> NOTIFY=NEVER"]);
        refused(&server, 4).await;
        assert_eq!((server.mailbox("ann").len(), server.mailbox("bob").len(), server.mailbox("postmaster").len()), (1, 0, 2));
    });
}

#[test]
fn with_too_many_refused_files_the_next_one_stays_and_is_told_of_when_there_is_room() {
    story(async {
        let server = Setup::new().start().await;
        let disk: &dyn Disk = &*server.disk;
        for n in 0..1000 {
            disk.open(Path::new(&format!("/spool/drop/refused/old-{n}")), OpenMode::CreateNew).unwrap();
        }
        let name = leave(&server, "Subject: y\r\n\r\n\r", &["MAIL FROM:<ann@example.test>", "RCPT TO:<bob@example.test>"]);
        let told = |event: &Event| matches!(event, Event::DropRefused { .. }).then_some(());
        server.event("a refused file", told).await;
        server.pass(HOUR).await;
        assert_eq!((names(&server, DROP), server.mailbox("ann").len()), (vec![name.clone()], 0));
        server.stop().await;
        disk.unlink(Path::new("/spool/drop/refused/old-7")).unwrap();
        let server = server.restart().await;
        server.until("a notice", || server.mailbox("ann").len() == 1).await;
        assert!(disk_has(&server, &name) && names(&server, DROP).is_empty());
    });
}

#[test]
fn a_file_that_cannot_be_read_for_a_while_is_in_nobodys_way_and_is_sent_when_it_can() {
    story(async {
        let server = Setup::new().start().await;
        let to = |who: &str| format!("RCPT TO:<{who}@example.test>");
        let name = leave(&server, "Subject: y\r\n\r\n", &["MAIL FROM:<ann@example.test>", &to("bob")]);
        leave(&server, "Subject: z\r\n\r\n", &["MAIL FROM:<bob@example.test>", &to("ann")]);
        server.disk.fail_opening(Some(&Path::new(DROP).join(&name)));
        server.until("the other's mail", || server.mailbox("ann").len() == 1).await;
        server.pass(HOUR).await;
        assert_eq!((names(&server, DROP), server.count("drop-trouble"), server.mailbox("bob").len()), (vec![name], 1, 0));
        server.disk.fail_opening(None);
        server.until("its mail", || server.mailbox("bob").len() == 1).await;
        assert!(names(&server, DROP).is_empty() && server.mailbox("ann").len() == 1);
    });
}

fn disk_has(server: &Server, name: &str) -> bool {
    server.disk.exists(&Path::new("/spool/drop/refused").join(name))
}
