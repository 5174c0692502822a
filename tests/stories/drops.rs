//! The drop folder: what can't be taken from there comes back to whoever left it, once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use posthouse::event::Event;
use posthouse::mail::Origin;
use posthouse::maildrop::Writer;
use posthouse::system::sim::OperationKind;
use posthouse::system::{Disk, OpenMode};

use crate::world::*;

const DROP: &str = "/spool/drop";
const TAKEN: &str = "/spool/drop/taken";
const REFUSED: &str = "/spool/drop/refused";
/// To bob; good, and with content that no server takes.
const GOOD: &str = "Subject: y\r\n\r\n";
const BAD: &str = "Subject: y\r\n\r\n\r";
const TO_BOB: [&str; 2] = ["MAIL FROM:<ann@example.test>", "RCPT TO:<bob@example.test>"];

/// Leaves a message there as `posthouse sendmail` does; the file's name.
pub(crate) fn leave(server: &Server, content: &str, commands: &[&str]) -> String {
    let system = server.world.system(Arc::clone(&server.disk) as Arc<dyn Disk>);
    let commands: Vec<String> = commands.iter().map(|command| (*command).to_owned()).collect();
    let mut writer = Writer::begin(&*server.disk, &*system.entropy, server.now(), Path::new(DROP), 10_000).unwrap();
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

/// Makes an empty file there, durably.
fn touch(server: &Server, path: &str) {
    let disk: &dyn Disk = &*server.disk;
    disk.open(Path::new(path), OpenMode::CreateNew).unwrap();
}

/// Leaves a message and lets this change of a name or sync of a folder fail with EIO, so often, on its way; the last of those there are.
async fn leave_failing(server: &Server, content: &str, times: u64, fails: impl Fn(OperationKind, &Path) -> bool) {
    let elsewhere = Setup::new().start().await;
    let namings = Arc::new(Mutex::new(Vec::<(OperationKind, PathBuf)>::new()));
    let told = Arc::clone(&namings);
    leave(&elsewhere, content, &TO_BOB);
    elsewhere.disk.watch(move |operation| {
        use OperationKind::{Create, Rename, SyncFolder, Unlink};
        if matches!(operation.kind, Create | Rename | SyncFolder | Unlink) {
            told.lock().unwrap().push((operation.kind, operation.path.to_owned()));
        }
    });
    elsewhere.until("the message", || elsewhere.mailbox("ann").len() + elsewhere.mailbox("bob").len() > 0).await;
    elsewhere.stop().await;
    let first = namings.lock().unwrap().iter().rposition(|(kind, path)| fails(*kind, path)).expect("there is such a change");
    leave(server, content, &TO_BOB);
    (0..times).for_each(|time| server.disk.fail_naming(first as u64 + time));
}

/// How a file's way out of `taken/` can fail: the message that it comes to, whose that is, and at what.
type Way = (&'static str, &'static str, fn(OperationKind, &Path) -> bool);
const WAYS: [Way; 5] = [
    (GOOD, "bob", |kind, path| kind == OperationKind::Unlink && path.starts_with(TAKEN)),
    (GOOD, "bob", |kind, path| kind == OperationKind::SyncFolder && path == Path::new(TAKEN)),
    (BAD, "ann", |kind, path| kind == OperationKind::Rename && path.starts_with(REFUSED)),
    (BAD, "ann", |kind, path| kind == OperationKind::Unlink && path.starts_with(TAKEN)),
    (BAD, "ann", |kind, path| kind == OperationKind::SyncFolder && path == Path::new(REFUSED)),
];

#[test]
fn what_was_committed_for_a_file_that_cannot_go_waits_until_it_can_and_comes_once() {
    for (content, whose, fails) in WAYS {
        story(async {
            let server = Setup::new().start().await;
            leave_failing(&server, content, 5, fails).await;
            server.until("trouble", || server.count("drop-trouble") == 1).await;
            server.pass(MINUTE).await;
            assert_eq!((server.mailbox(whose).len(), server.queue().await.len()), (0, 1), "to {whose}");
            server.until("the message", || server.mailbox(whose).len() == 1).await;
            assert_eq!((names(&server, TAKEN).len(), server.count("drop-trouble")), (0, 1));
            assert_eq!(server.count("taken-up") + server.count("drop-refused"), 1);
            let server = server.restart().await;
            server.pass(HOUR).await;
            assert_eq!(server.mailbox(whose).len(), 1, "to {whose}");
        });
    }
}

#[test]
fn what_waits_for_its_file_when_the_server_stops_or_the_power_goes_comes_once() {
    for (content, whose, fails) in WAYS {
        for seed in 0..6 {
            let wreck = story(async {
                let server = Setup::new().start().await;
                leave_failing(&server, content, 1, fails).await;
                server.until("trouble", || server.count("drop-trouble") == 1).await;
                if seed % 2 == 0 {
                    let server = server.restart_with_its_index().await;
                    server.until("the message", || server.mailbox(whose).len() == 1).await;
                    return server.wreck();
                }
                server.wreck()
            });
            story(async {
                let server = wreck.recover(seed).await;
                server.until("the message", || server.mailbox(whose).len() == 1).await;
                let server = server.restart().await;
                server.pass(HOUR).await;
                assert_eq!((server.mailbox(whose).len(), names(&server, TAKEN).len()), (1, 0), "to {whose}, {seed}");
            });
        }
    }
}

#[test]
fn only_so_many_wait_for_their_files() {
    story(async {
        let server = Setup::new().start().await;
        (0..102).for_each(|_| drop(leave(&server, GOOD, &TO_BOB)));
        // Of each file: a rename, which is two changes, the syncs of two folders, the end. And the same again for what waits.
        (0..100).for_each(|n| server.disk.fail_naming(5 * n + 4));
        (0..100).for_each(|n| server.disk.fail_naming(500 + n));
        server.pass(MINUTE * 3 / 4).await;
        assert_eq!((names(&server, DROP).len(), names(&server, TAKEN).len(), server.mailbox("bob").len()), (2, 100, 0));
        assert_eq!(server.count("drop-trouble"), 101);
        server.pass(HOUR).await;
        assert_eq!((names(&server, DROP).len(), names(&server, TAKEN).len(), server.mailbox("bob").len()), (0, 0, 102));
    });
}

/// Starts a stopped server, if need be again, and why it was needed; nothing comes before it has started.
async fn start_in_the_end(server: Server) -> (Server, Option<String>) {
    let before = server.mailbox("bob").len();
    match server.start_again().await {
        Ok(server) => (server, None),
        Err((server, why)) => {
            server.pass(HOUR).await;
            assert_eq!(server.mailbox("bob").len(), before, "{why}");
            (server.restart().await, Some(why.to_string()))
        }
    }
}

#[test]
fn a_start_that_cannot_clear_up_what_was_taken_delivers_nothing() {
    let mut refused = 0;
    for failing in 0..60 {
        story(async {
            let server = Setup::new().config(|config| config.queue.paused = true).start().await;
            leave_failing(&server, GOOD, 1, WAYS[0].2).await;
            server.event("a message", |event| matches!(event, Event::Accepted { .. }).then_some(())).await;
            server.configure(|config| config.queue.paused = false);
            server.stop().await;
            server.disk.fail_naming(failing);
            let (server, why) = start_in_the_end(server).await;
            refused += usize::from(why.is_some_and(|why| why.starts_with("sendmail.drop: can't clear up /spool/drop: ")));
            server.until("the message", || server.mailbox("bob").len() == 1).await;
            server.stop().await;
            let (server, _) = start_in_the_end(server).await;
            server.pass(HOUR).await;
            assert_eq!((server.mailbox("bob").len(), names(&server, TAKEN).len()), (1, 0), "{failing}");
        });
    }
    assert!(refused > 0);
}

#[test]
fn names_that_are_none_of_ours_are_in_nobodys_way_however_many() {
    story(async {
        let server = Setup::new().start().await;
        // The folder gives names in their order.
        (0..11_000).for_each(|n| touch(&server, &format!("{DROP}/core-{n:05}")));
        leave(&server, GOOD, &TO_BOB);
        server.pass(MINUTE).await;
        assert_eq!((server.mailbox("bob").len(), names(&server, DROP).len(), server.count("drop-trouble")), (1, 11_000, 0));
    });
}

#[test]
fn files_that_stay_where_they_are_are_in_nobodys_way_either() {
    story(async {
        let server = Setup::new().start().await;
        (0..1000).for_each(|n| touch(&server, &format!("{REFUSED}/old-{n}")));
        (0..1000).for_each(|n| touch(&server, &format!("{DROP}/mail-{n:05}")));
        server.pass(MINUTE).await;
        leave(&server, GOOD, &TO_BOB);
        server.pass(MINUTE).await;
        assert_eq!((server.mailbox("bob").len(), names(&server, DROP).len(), server.count("drop-refused")), (1, 1000, 1000));
    });
}
