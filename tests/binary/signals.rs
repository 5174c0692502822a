//! What the signals do: SIGTERM finishes what is in flight, SIGHUP reads the configuration again.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::client::{Client, stuffed};
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

#[test]
fn sigterm_lets_a_message_in_flight_finish_and_exits_0() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let content = corpus::large("in flight", 600_000);
    let (first, rest) = content.split_at(300_000);
    let mut busy = server.client();
    let mut idle = server.client();
    busy.envelope("sue@client.test", &["ann@example.test"]).unwrap();
    busy.write(first).unwrap();
    server.process().signal(Signal::TERM);
    server.event("stopping", |_| true);
    assert!(idle.reply().unwrap().code == 421, "who is idle is told to come back");
    assert!(Client::open(server.address()).is_err(), "no new connections are taken");
    busy.write(rest).unwrap();
    busy.write(b".\r\n").unwrap();
    busy.expect(250).unwrap();
    assert_eq!(busy.reply().unwrap().code, 421);
    let status = server.process().wait(PATIENCE);
    assert_eq!(status.code(), Some(0));

    // Delivered before the stop, or after the next start: at the end it is there once.
    let id = field(&server.events("accepted")[0], "id").to_owned();
    let done = server.events("finished").iter().any(|event| field(event, "id") == id);
    let next = Server::start(&home);
    if !done {
        next.finished(&id);
    }
    maildir::assert_content(&maildir::only(&home.maildir("ann")), &content);
}

#[test]
fn sigint_stops_the_server_as_sigterm_does() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    server.process().signal(Signal::INT);
    assert_eq!(server.process().wait(PATIENCE).code(), Some(0));
}

#[test]
fn sighup_with_a_bad_file_changes_nothing_and_with_a_good_one_everything() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let mut before = server.client();
    home.configure("", "[limits]\nrecipients = 1\nmessage_sise = 5\n");
    server.process().signal(Signal::HUP);
    let refused = server.event("reload-refused", |_| true);
    assert!(field(&refused, "reason").contains("message_sise"), "{refused}");
    assert_eq!(rcpt(&mut server.client(), "carol@example.test"), 550, "the old configuration is in force");

    home.configure("", "[limits]\nmessage_size = \"5MiB\"\n");
    home.users(["ann@example.test", "carol@example.test"]);
    server.process().signal(Signal::HUP);
    server.event("reloaded", |_| true);
    let mut after = server.client();
    assert_eq!(rcpt(&mut after, "carol@example.test"), 250);
    assert_eq!(rcpt(&mut after, "bob@example.test"), 550);
    assert_eq!(before.command("NOOP").unwrap().code, 250, "no connection was dropped");
    assert_eq!(after.command("EHLO x.test").unwrap().text.lines().find(|line| line.starts_with("SIZE")), Some("SIZE 5242880"));
}

fn rcpt(client: &mut Client, to: &str) -> u16 {
    client.command("RSET").unwrap();
    client.command("MAIL FROM:<sue@client.test>").unwrap();
    client.command(&format!("RCPT TO:<{to}>")).unwrap().code
}

#[test]
fn a_queue_that_was_full_at_sigterm_is_delivered_after_the_next_start() {
    let home = Home::new("[queue]\npaused = true\n");
    let mut server = Server::start(&home);
    let mut client = server.client();
    let contents: Vec<Vec<u8>> = (0..200).map(|number| corpus::difficult(&format!("number {number}"))).collect();
    let ids: Vec<String> = contents
        .iter()
        .map(|content| {
            client.send("sue@client.test", &["ann@example.test", "bob@example.test"], content).unwrap().id().to_owned()
        })
        .collect();
    assert_eq!(server.stop().code(), Some(0));
    assert!(maildir::files(&home.maildir("ann")).is_empty(), "delivery was paused");

    home.configure("", "");
    let server = Server::start(&home);
    ids.iter().for_each(|id| server.finished(id));
    for user in ["ann", "bob"] {
        let mut found: Vec<Vec<u8>> =
            maildir::files(&home.maildir(user)).iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert_eq!(found.len(), contents.len());
        for content in &contents {
            let at = found.iter().position(|message| message.ends_with(content)).expect("every message is there");
            maildir::assert_content(&found.swap_remove(at), content);
        }
    }
}

#[test]
fn a_client_that_is_cut_off_in_the_middle_leaves_nothing_behind() {
    let home = Home::new("");
    let mut server = Server::start(&home);
    let content = corpus::large("cut", 400_000);
    let mut client = server.client();
    client.envelope("sue@client.test", &["ann@example.test"]).unwrap();
    client.write(&stuffed(&content[..350_000])).unwrap();
    drop(client);
    server.event("disconnected", |_| true);
    assert!(server.events("accepted").is_empty());
    assert_eq!(server.stop().code(), Some(0));
    let mut server = Server::start(&home);
    assert!(maildir::files(&home.maildir("ann")).is_empty());
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_signal_stops_a_server_that_has_long_to_start() {
    let home = Home::new("");
    assert_eq!(Server::start(&home).stop().code(), Some(0));
    // A log that can't be read to its end in any time: behind the records a file without blocks goes on and on.
    let segment = fs::read_dir(home.at("spool/log")).unwrap().next().unwrap().unwrap().path();
    fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(4 << 40).unwrap();
    let lock = home.at("spool/lock");
    fs::remove_file(&lock).unwrap();
    let mut server = Server::launch(&home);
    let deadline = Instant::now() + PATIENCE;
    while !lock.exists() {
        assert!(Instant::now() < deadline, "the spool isn't opened");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    assert_eq!(server.stop().code(), Some(0));
    assert!(server.events("started").is_empty());
    assert_eq!(server.events("stopped").len(), 1);
}
