//! Dovecot reads what Posthouse delivered, and takes mail from it over LMTP.

use std::fs;

use serde_json::Value;

use super::{Dovecot, OWNER};
use crate::neighbour::helper;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

/// What Python's imaplib sees in a mailbox: a list of messages.
fn look(home: &Home, dovecot: &Dovecot, user: &str) -> Vec<Value> {
    let folder = home.at("fetched");
    fs::create_dir_all(&folder).unwrap();
    let arguments = ["127.0.0.1".to_owned(), dovecot.imap.port().to_string(), user.to_owned(), folder.display().to_string()];
    helper("imap.py", arguments).expect("Python is there").as_array().unwrap().clone()
}

#[test]
fn dovecot_reads_the_maildir_over_imap() {
    let home = Home::new("");
    let Some(dovecot) = Dovecot::start(home.path()) else { return };
    home.configure(&format!("user = \"{OWNER}\""), "");
    let server = Server::start(&home);
    let contents = [corpus::difficult("first"), corpus::overlong("second"), corpus::large("third", 1_000_000)];
    for content in &contents {
        let id = server.client().send("sue@client.test", &["ann@example.test"], content).unwrap().id().to_owned();
        server.finished(&id);
    }
    let messages = look(&home, &dovecot, "ann@example.test");
    assert_eq!(messages.len(), 3);
    for (content, subject) in contents.iter().zip(["first", "second", "third"]) {
        let message = messages.iter().find(|message| message["subject"] == subject).expect("each message is listed");
        let fetched = fs::read(message["file"].as_str().unwrap()).unwrap();
        assert_eq!(message["size"].as_u64().unwrap(), fetched.len() as u64, "RFC822.SIZE is the size");
        let fields = maildir::assert_content(&fetched, content);
        assert_eq!(fields.get("Delivered-To"), "ann@example.test");
        let age = message["age"].as_f64().unwrap();
        assert!((-5.0..300.0).contains(&age), "INTERNALDATE is the time of delivery: {message}");
        assert_eq!(message["flags"], "", "a message that nobody has read has no flags");
    }
}

#[test]
fn dovecot_keeps_the_same_quota_file() {
    let home = Home::new("");
    let Some(dovecot) = Dovecot::start(home.path()) else { return };
    home.users(["ann@quota.test"]);
    let domain = "[[domain]]\nname = \"quota.test\"\nquota = \"100KiB\"\nmaildir = \"mail/{domain}/{user}\"\n";
    home.configure(&format!("user = \"{OWNER}\""), domain);
    let server = Server::start(&home);
    let quota = |arguments: &[&str]| {
        let port = dovecot.imap.port().to_string();
        let known = helper("quota.py", [&["127.0.0.1", &port, "ann@quota.test"], arguments].concat()).expect("Python is there");
        (known["usage"].as_u64().unwrap(), known["limit"].as_u64().unwrap())
    };
    let send = |size: usize| {
        let content = corpus::large("so long", size);
        let id = server.client().send("sue@client.test", &["ann@quota.test"], &content).unwrap().id().to_owned();
        server.finished(&id);
        let ends = |event: &Value| ["delivered", "failed"].contains(&field(event, "event")) && field(event, "id") == id;
        server.all_events().into_iter().find(ends).expect("it has come to an end")
    };
    let event = |event: &Value| field(event, "event").to_owned();
    assert_eq!([send(40_000), send(40_000)].map(|it| event(&it)), ["delivered", "delivered"]);
    let lies = || {
        let files = maildir::files(&home.at("mail/quota.test/ann"));
        files.iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>()
    };
    assert_eq!(quota(&[]), (lies().div_ceil(1024), 100));
    let full = send(40_000);
    assert_eq!((event(&full).as_str(), field(&full, "status")), ("failed", "5.2.2"));
    // What Dovecot's user removes makes room at once.
    assert_eq!(quota(&["remove"]), (lies().div_ceil(1024), 100));
    assert_eq!(event(&send(40_000)), "delivered");
    assert_eq!(quota(&[]), (lies().div_ceil(1024), 100));
    assert_eq!(event(&send(40_000)), "failed");
}

#[test]
fn dovecot_takes_mail_over_lmtp_on_a_socket_and_on_a_port() {
    let home = Home::new("");
    let Some(dovecot) = Dovecot::start(home.path()) else { return };
    home.users(["ann@socket.test", "bob@socket.test", "ann@port.test"]);
    let socket = home.at("dovecot/lmtp");
    home.configure(
        "",
        &format!(
            "[[domain]]\nname = \"socket.test\"\nlmtp = \"unix:{}\"\n[[domain]]\nname = \"port.test\"\nlmtp = \"{}\"\n",
            socket.display(),
            dovecot.lmtp
        ),
    );
    let server = Server::start(&home);
    let content = corpus::difficult("over LMTP");
    let to = ["ann@socket.test", "bob@socket.test", "ann@port.test"];
    let id = server.client().send("sue@client.test", &to, &content).unwrap().id().to_owned();
    server.finished(&id);
    for user in to {
        let delivered = server.delivered(&id, user);
        assert!(field(&delivered, "destination").starts_with("lmtp:"), "{delivered}");
        let messages = look(&home, &dovecot, user);
        assert_eq!(messages.len(), 1, "{user}");
        let fetched = fs::read(messages[0]["file"].as_str().unwrap()).unwrap();
        let fields = maildir::above(&fetched, &content);
        assert_eq!(fields.get("Return-Path"), "<sue@client.test>");
        assert_eq!(fields.names().iter().filter(|name| **name == "Received").count(), 2, "{fields:?}");
    }
}

/// Many messages over few connections, each with several recipients; `POSTHOUSE_FIGURES=1` prints how fast.
#[test]
fn dovecot_takes_many_messages_over_kept_connections_by_domain_and_by_route() {
    const MESSAGES: usize = 200;
    const CONNECTIONS: usize = 4;
    let home = Home::new("");
    let Some(dovecot) = Dovecot::start(home.path()) else { return };
    home.users(["ann@here.test", "bob@here.test"]);
    let local = format!("[[domain]]\nname = \"here.test\"\nlmtp = \"{}\"\n", dovecot.lmtp);
    let socket = home.at("dovecot/lmtp");
    let route = format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[remote]\nconcurrency = {CONNECTIONS}\n\
         [[route]]\ndomain = \"store.test\"\nprotocol = \"lmtp\"\nhosts = [\"unix:{}\"]\n",
        socket.display()
    );
    home.configure("", &format!("{local}{route}"));
    let server = Server::start(&home);
    for domain in ["here.test", "store.test"] {
        let began = std::time::Instant::now();
        let before = dovecot.connections();
        let [ann, bob] = ["ann", "bob"].map(|user| format!("{user}@{domain}"));
        let content = corpus::large("by the hundred", 4096);
        let mut client = server.client();
        let send = |client: &mut crate::support::client::Client| {
            client.send("sue@client.test", &[&ann, &bob], &content).unwrap().id().to_owned()
        };
        let ids: Vec<String> = (0..MESSAGES).map(|_| send(&mut client)).collect();
        ids.iter().for_each(|id| server.finished(id));
        let took = began.elapsed();
        assert_eq!(look(&home, &dovecot, &bob).len(), MESSAGES);
        let connections = dovecot.connections() - before;
        assert!((1..=CONNECTIONS).contains(&connections), "{domain}: {connections}");
        if std::env::var_os("POSTHOUSE_FIGURES").is_some() {
            eprintln!("{domain}: {MESSAGES} messages to two each in {took:?} over {connections} connections");
        }
    }
}
