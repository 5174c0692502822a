//! `sendmail` as cron, PHP, git and mutt call it, with the server down and up; nothing lost and nothing doubled when it is killed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field, posthouse, without_settings};

/// Runs a command line with this on its standard input.
fn fed(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails early doesn't read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// `posthouse sendmail …` in a home; must succeed.
fn sendmail(home: &Home, line: &str, input: &str) {
    let output = try_sendmail(home, line, input);
    assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{line}: cron mails whatever is said: {output:?}");
}

fn try_sendmail(home: &Home, line: &str, input: &str) -> Output {
    fed(posthouse(home).arg("sendmail").args(line.split_whitespace()).env("NAME", "Test Er"), input.as_bytes())
}

/// Waits for the message that is taken up as number `number`; returns its events `taken-up` and `accepted`.
fn taken_up(server: &Server, number: usize) -> (Value, Value) {
    let mut seen = 0;
    let taken = server.event("taken-up", |_| {
        seen += 1;
        seen > number
    });
    let accepted = server.event("accepted", |event| field(event, "id") == field(&taken, "id"));
    (taken, accepted)
}

/// The names in the drop folder, without its own folders.
fn waiting(home: &Home) -> Vec<String> {
    let names = fs::read_dir(home.at("spool/drop")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "taken" && name != "refused").collect();
    names.sort();
    names
}

fn only(home: &Home, user: &str) -> String {
    String::from_utf8(maildir::only(&home.maildir(user))).unwrap()
}

/// A home whose server ran once: it has a drop folder.
fn prepared() -> Home {
    let home = Home::new("");
    let mut server = Server::start(&home);
    assert_eq!(server.stop().code(), Some(0));
    home
}

#[test]
fn mail_that_waited_for_the_server_is_delivered_and_so_is_what_comes_while_it_runs() {
    let home = prepared();
    // As PHP's mail() does it.
    sendmail(&home, "-t -i", "To: ann\nSubject: from PHP\nBcc: bob@example.test\nX-PHP-Originating-Script: 33:x.php\n\n.\nend\n");
    assert_eq!(waiting(&home).len(), 1);
    let mode = fs::metadata(home.at("spool/drop").join(&waiting(&home)[0])).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let server = Server::start(&home);
    let (_, accepted) = taken_up(&server, 0);
    assert_eq!((field(&accepted, "protocol"), accepted["recipients"].as_u64()), ("local", Some(2)));
    server.finished(field(&accepted, "id"));
    for user in ["ann", "bob"] {
        let mail = only(&home, user);
        let own = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        let sender = format!("{}@example.test", own.trim());
        for part in [
            format!("Return-Path: <{sender}>\r\n"),
            "Received: by mail.example.test (Posthouse, from uid-".to_owned(),
            "To: ann@example.test\r\n".to_owned(),
            format!("From: Test Er <{sender}>\r\n"),
            "Message-ID: <".to_owned(),
            "Date: ".to_owned(),
            "\r\n\r\n.\r\nend\r\n".to_owned(),
        ] {
            assert!(mail.contains(&part), "{part:?} is missing in {mail}");
        }
        assert!(!mail.contains("Bcc"), "{mail}");
    }
    assert!(waiting(&home).is_empty());
    // While it runs, it is told at once; here it would else take half a minute.
    sendmail(&home, "-FCronDaemon -i -B8BITMIME -oem ann", "From: root (Cron Daemon)\nTo: ann\nSubject: Cron\n\nJürgen\n");
    let (_, accepted) = taken_up(&server, 1);
    server.finished(field(&accepted, "id"));
    assert!(waiting(&home).is_empty());
}

#[test]
fn the_command_lines_of_git_mutt_and_mailx_work() {
    let home = prepared();
    let full = "From: Sue <sue@example.org>\nTo: Ann <ann@example.test>\nSubject: x\nDate: Sun, 22 Nov 2026 02:00:00 +0000\n\
                Message-ID: <1@example.org>\n\nbody\n";
    sendmail(&home, "-f sue@example.org -i ann@example.test", full);
    sendmail(&home, "-oem -oi -f sue@example.org -- ann@example.test", full);
    sendmail(&home, "-odb -om -f <> ann@example.test", &format!("{full}.\nlost\n"));
    let server = Server::start(&home);
    for number in 0..3 {
        let (_, accepted) = taken_up(&server, number);
        assert_eq!(field(&accepted, "from"), if number == 2 { "" } else { "sue@example.org" });
        server.finished(field(&accepted, "id"));
    }
    let mails = maildir::files(&home.maildir("ann"));
    assert_eq!(mails.len(), 3);
    for mail in mails {
        let mail = fs::read_to_string(mail).unwrap();
        assert!(mail.ends_with(&full.replace('\n', "\r\n")), "{mail}");
    }
}

#[test]
fn what_goes_nowhere_comes_back_to_its_sender() {
    let home = Home::new("");
    let server = Server::start(&home);
    sendmail(&home, "-f ann@example.test nobody", "Subject: lost\n\n");
    let (_, accepted) = taken_up(&server, 0);
    server.event("notified", |event| field(event, "id") == field(&accepted, "id"));
    server.event("delivered", |event| field(event, "to") == "ann@example.test");
    assert!(only(&home, "ann").contains("nobody@example.test"));
}

#[test]
fn wrong_uses_have_the_exit_statuses_of_sysexits() {
    let home = prepared();
    home.fragment("limits", "[limits]\nmessage_size = \"1KiB\"\nrecipients = 2\n");
    let large = format!("Subject: x\n\n{}\n", "x".repeat(2000));
    for (line, input, expected) in [
        ("", "Subject: x\n\n", 64),
        ("-Z ann", "", 64),
        ("-bd", "", 64),
        ("-N sometimes ann", "", 64),
        ("-t", "Subject: to nobody\n\n", 65),
        ("-t", "To: Ann Example\n\n", 65),
        ("ann@@example.test", "", 65),
        ("ann@example..test", "", 65),
        ("ann,bob,eve", "", 65),
        ("ann", &large, 65),
        ("-bv ann", "", 0),
        ("-bv nobody", "", 67),
        ("-q", "", 69),
        ("-C conf/none.toml ann", "", 78),
        ("-bi", "", 0),
        ("-bp", "", 0),
    ] {
        let output = try_sendmail(&home, line, input);
        assert_eq!(output.status.code(), Some(expected), "{line}: {output:?}");
        assert_eq!(output.stderr.is_empty(), expected == 0, "{line}: {output:?}");
    }
    assert!(waiting(&home).is_empty(), "nothing of them is sent");
    let home = Home::new("");
    assert_eq!(try_sendmail(&home, "ann", "").status.code(), Some(75), "no server ever ran");
    home.configure("", "[sendmail]\ndrop = \"\"\n");
    assert_eq!(try_sendmail(&home, "ann", "").status.code(), Some(69), "it is turned off");
}

#[test]
fn no_more_messages_wait_than_may() {
    let home = prepared();
    home.fragment("waiting", "[sendmail]\nwaiting = 2\n");
    for _ in 0..2 {
        sendmail(&home, "ann", "Subject: x\n\n");
    }
    assert_eq!(try_sendmail(&home, "ann", "Subject: x\n\n").status.code(), Some(75));
    assert_eq!(waiting(&home).len(), 2);
}

#[test]
fn the_classic_names_are_the_same_program() {
    let home = prepared();
    let config = home.at("conf/posthouse.toml");
    let call = |name: &str, arguments: &[&str], input: &str| {
        let link = home.at(name);
        if !link.exists() {
            symlink(env!("CARGO_BIN_EXE_posthouse"), &link).unwrap();
        }
        let mut command = Command::new(&link);
        without_settings(&mut command);
        let output = fed(command.current_dir(home.path()).arg("-C").arg(&config).args(arguments), input.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(call("mailq", &[], ""), "Mail queue is empty\n");
    assert!(call("newaliases", &[], "").starts_with("the aliases are right"));
    call("sendmail", &["-f", "sue@example.org", "joe@unreachable.test"], "Subject: x\n\n");
    home.fragment("route", "[[route]]\ndomain = \"*\"\nhosts = [\"127.0.0.1:1\"]\n");
    let server = Server::start(&home);
    server.event("deferred", |_| true);
    let listed = call("mailq", &[], "");
    for part in ["  sue@example.org\n", "joe@unreachable.test\n", " Kbytes in 1 Request.\n"] {
        assert!(listed.contains(part), "{part:?} is missing in {listed}");
    }
    let deferred = server.events("deferred").len();
    call("sendmail", &["-q"], "");
    server.event("retried", |_| true);
    assert!(deferred > 0);
    assert_eq!(call("sendmail", &["-bv", "ann"], "").lines().filter(|line| line.contains("ann")).count(), 1);
}

#[test]
fn smtp_on_standard_input_takes_mail_with_the_server_down() {
    let home = prepared();
    let talk = "EHLO here\nMAIL FROM:<sue@example.org> SIZE=100\nRCPT TO:<ann@example.test>\nDATA\nSubject: x\n\n..dot\n.\nMAIL FROM:<>\n\
                RCPT TO:<nobody>\nQUIT\n";
    let output = try_sendmail(&home, "-bs", talk);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "250", "501", "221"], "{said}");
    assert!(said.contains("250 2.0.0 Ok: waits in the drop folder as mail-"), "{said}");
    assert_eq!(waiting(&home).len(), 1);
    let server = Server::start(&home);
    let (_, accepted) = taken_up(&server, 0);
    server.finished(field(&accepted, "id"));
    let mail = only(&home, "ann");
    assert!(mail.contains("From: Test Er <") && mail.ends_with("\r\n\r\n.dot\r\n"), "{mail}");
}

#[test]
fn what_strangers_put_there_is_set_aside_and_harms_nobody() {
    let home = prepared();
    sendmail(&home, "-f sue@example.org ann", "Subject: good\n\n");
    let drop = home.at("spool/drop");
    let good = fs::read(drop.join(&waiting(&home)[0])).unwrap();
    fs::write(drop.join("mail-0-garbage"), "garbage").unwrap();
    symlink("/etc/passwd", drop.join("mail-0-link")).unwrap();
    fs::create_dir(drop.join("mail-0-folder")).unwrap();
    fs::write(drop.join("mail-0-cut"), &good[..good.len() - 1]).unwrap();
    // A bare line feed, which must not get in by this way either.
    let bare = String::from_utf8(good.clone()).unwrap().replacen("good\r\n", "good\nX", 1);
    fs::write(drop.join("mail-0-bare"), bare).unwrap();
    fs::write(drop.join("notes.txt"), "somebody's").unwrap();
    let mut server = Server::start(&home);
    let (_, accepted) = taken_up(&server, 0);
    server.finished(field(&accepted, "id"));
    for name in ["mail-0-garbage", "mail-0-cut", "mail-0-bare", "mail-0-link"] {
        server.event("drop-refused", |event| field(event, "path").ends_with(&format!("refused/{name}")));
        assert!(drop.join("refused").join(name).symlink_metadata().is_ok(), "{name}");
    }
    let mut letters = server.events("notified");
    // Sue's own can't be delivered, and may have come back already.
    letters.retain(|event| event["id"] == event["notice"]);
    let told = |to: &str| letters.iter().filter(|event| field(event, "to") == to).count();
    assert_eq!((told("postmaster@example.test"), told("sue@example.org")), (3, 1));
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(waiting(&home), ["mail-0-folder", "notes.txt"]);
    assert_eq!(maildir::files(&home.maildir("ann")).len(), 1);
}

/// The names of what lies in `taken/`: empty when all is quiet.
fn taken(home: &Home) -> usize {
    fs::read_dir(home.at("spool/drop/taken")).unwrap().count()
}

#[test]
fn kill_9_while_mail_is_taken_up_neither_loses_nor_doubles_any() {
    let home = prepared();
    let messages = 60;
    for number in 0..messages {
        sendmail(&home, "-f sue@example.org ann", &format!("Subject: number {number}\n\n"));
    }
    let mut kills = 0;
    let mut server = Server::launch(&home);
    server.wait_until_listening();
    while kills < 8 && !waiting(&home).is_empty() {
        // In the midst of it: as soon as one more is in.
        server.event("taken-up", |_| true);
        server.kill();
        kills += 1;
        server = Server::launch(&home);
        server.wait_until_listening();
    }
    let patience = std::time::Instant::now() + crate::support::PATIENCE;
    let done = || waiting(&home).is_empty() && taken(&home) == 0 && maildir::files(&home.maildir("ann")).len() >= messages;
    while !done() && std::time::Instant::now() < patience {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    let subjects = subjects(&home.maildir("ann"));
    let mut expected: Vec<String> = (0..messages).map(|number| format!("Subject: number {number}")).collect();
    expected.sort();
    // A delivery that the kill met between the mailbox and its record is tried again; what was taken up twice would have two ids.
    let ids =
        |mails: &[(String, String)]| mails.iter().map(|(_, id)| id.clone()).collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(ids(&subjects), messages, "after {kills} kills");
    let mut names: Vec<String> = subjects.into_iter().map(|(subject, _)| subject).collect();
    names.sort();
    names.dedup();
    assert_eq!(names, expected);
    assert!(kills > 0);
}

/// Subject and queue id of each mail.
fn subjects(folder: &Path) -> Vec<(String, String)> {
    let read = |path| {
        let mail = fs::read_to_string(path).unwrap();
        let line = |start: &str| mail.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        (line("Subject: "), line("\tid "))
    };
    maildir::files(folder).into_iter().map(read).collect()
}
