//! A reader of the spool that knows nothing but docs/spool.md, in Python: it finds the messages that the command line finds.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::neighbour::{python, run};
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::peer::Peer;
use crate::support::server::{self, Server, field, listing};

/// A peer that is busy for "slow", knows nobody called "unknown", and takes the rest.
fn peer() -> Peer {
    Peer::with(|line| match line {
        line if line.contains("<unknown") => Some("550 5.1.1 No such user here".to_owned()),
        line if line.starts_with("RCPT") && line.contains("<slow") => {
            Some("450-4.2.1 Mailbox busy,\r\n450 4.2.1 sorry".to_owned())
        }
        _ => None,
    })
}

/// A server with this compression that relays everything to the peer.
fn home(peer: &Peer, compression: &str) -> Home {
    let relay = "[relay]\nnetworks = [\"127.0.0.1/32\"]\n";
    let home = Home::new(&format!("{relay}[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n", peer.address()));
    let file = home.at("conf/posthouse.toml");
    let text = fs::read_to_string(&file).unwrap().replace("[spool]\n", &format!("[spool]\ncompression = \"{compression}\"\n"));
    fs::write(file, text).unwrap();
    home
}

/// What both have to say of a message.
fn common(message: &Value) -> Value {
    let recipients: Vec<Value> =
        message["recipients"].as_array().unwrap().iter().map(|to| json!([to["address"], to["state"]])).collect();
    json!([message["id"], message["sender"], message["size"], message["arrived"], recipients])
}

/// Compares what the script finds with what the binary finds; how many messages there are. None: there is no Python.
fn compare(home: &Home) -> Option<Vec<Value>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/py/spool_reader.py");
    assert!(fs::read_to_string(script).unwrap().lines().count() < 100, "it shows that the format is simple");
    let output = run(Command::new(python()?).arg("-B").arg(script).arg(home.at("spool")));
    let read = String::from_utf8(output.stdout).unwrap();
    let read: Vec<Value> = read.lines().map(|line| common(&serde_json::from_str(line).unwrap())).collect();
    let listed: Vec<Value> = listing(home, &["queue", "list", "--json"]).iter().map(common).collect();
    assert_eq!(read, listed);
    Some(read)
}

/// Sends a message and waits until it is deferred for somebody.
fn deferred(server: &Server, from: &str, to: &[&str], content: &[u8]) -> String {
    let id = server.client().send(from, to, content).unwrap().id().to_owned();
    server.event("deferred", |event| field(event, "id") == id);
    id
}

fn mail_of_every_kind(compression: &str) {
    let peer = peer();
    let home = home(&peer, compression);
    let mut server = Server::start(&home);
    let done = server.client().send("sue@client.test", &["ann@example.test"], &corpus::difficult("done")).unwrap();
    server.finished(done.id());
    let large = deferred(&server, "sue@client.test", &["slow-one@far.test"], &corpus::large("large", 700_000));
    // The bounce can't be delivered, so it stays: a notice whose record carries a change of another message.
    let several = ["joe@far.test", "slow-two@far.test", "unknown@far.test", "\"joe o'neil\"@far.test"];
    let several = deferred(&server, "slow-sue@client.test", &several, &corpus::difficult("several"));
    let notified = server.event("notified", |event| field(event, "id") == several);
    let notice = field(&notified, "notice").to_owned();
    server.event("deferred", |event| field(event, "id") == notice);
    let held = deferred(&server, "tom@client.test", &["slow-four@far.test"], &corpus::overlong("held"));
    assert!(server::run(&home, &["queue", "hold", &held]).status.success());
    assert_eq!(server.stop().code(), Some(0));

    let Some(found) = compare(&home) else { return };
    let ids: Vec<&str> = found.iter().map(|message| message[0].as_str().unwrap()).collect();
    assert_eq!(ids, [&*large, &*several, &*notice, &*held]);
    let states = json!([
        ["joe@far.test", "delivered"],
        ["slow-two@far.test", "deferred"],
        ["unknown@far.test", "bounced"],
        ["\"joe o'neil\"@far.test", "delivered"]
    ]);
    assert_eq!(found[1][4], states);
    assert_eq!((&found[2][1], &found[2][4]), (&json!(""), &json!([["slow-sue@client.test", "deferred"]])));
    let stored = fs::metadata(home.at(&format!("spool/content/{large}"))).unwrap().len();
    assert_eq!(stored < found[0][2].as_u64().unwrap(), compression == "zstd");

    let mut server = Server::start(&home);
    let last = deferred(&server, "sue@client.test", &["slow-five@far.test"], &corpus::difficult("last"));
    server.kill();
    compare(&home).unwrap();
    let segments = home.at("spool/log");
    let newest = fs::read_dir(segments).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let bytes = fs::read(&newest).unwrap();
    // Behind the last record: one of an earlier life of the file; what a torn batch looks like, a record whose end is missing; zeros.
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let old = &bytes[4096..4096 + 40 + number(4096 + 8) + number(4096 + 12)];
    let behind = [old, &old[..90], old, &[0; 5000]].concat();
    fs::OpenOptions::new().append(true).open(&newest).unwrap().write_all(&behind).unwrap();
    let found = compare(&home).unwrap();
    assert!(found.len() == 5 && found[4][0] == *last, "{found:?}");
}

#[test]
fn a_reader_by_the_document_alone_finds_what_the_command_line_finds() {
    mail_of_every_kind("none");
}

#[test]
fn compressed_content_is_no_business_of_a_reader_of_the_queue() {
    mail_of_every_kind("zstd");
}
