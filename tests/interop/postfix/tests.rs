//! Mail between Posthouse and Postfix, both ways.

use std::fs;

use super::Postfix;
use crate::support::client::Client;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::server::{Server, field};

const CONTENTS: [fn(&str) -> Vec<u8>; 2] = [corpus::difficult, corpus::overlong];

#[test]
fn postfix_sends_its_mail_through_posthouse_as_its_relay_host() {
    let peer = Peer::new();
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
        peer.address()
    ));
    let server = Server::start(&home);
    let relay = format!("relayhost = [127.0.0.1]:{}\n", server.address().port());
    let Some(postfix) = Postfix::start(home.path(), &relay) else { return };
    let mut client = Client::open(postfix.address()).unwrap();
    for content in CONTENTS.map(|make| make("through the relay host")) {
        client.send("sue@away.test", &["x@far.test", "y@far.test"], &content).unwrap();
        let mail = peer.next();
        assert_eq!((mail.from.as_str(), mail.to), ("sue@away.test", vec!["x@far.test".to_owned(), "y@far.test".to_owned()]));
        let fields = maildir::above(&mail.content, &content);
        assert_eq!(fields.names(), ["Received", "Received"]);
        assert!(fields.0[0].1.contains("from postfix.test") && fields.0[0].1.contains("by mail.example.test"), "{fields:?}");
    }
}

/// A Posthouse that gives mail for away.test to Postfix, which gives it back as mail for example.test: the whole way out and in. Postfix
/// gets `more` settings.
pub(super) fn round_trip(users: &[String], more: &str) -> Option<(Home, Server, Postfix)> {
    let home = Home::new("");
    home.users(users);
    let folder = home.at("");
    // Postfix' port is needed for our route, ours for Postfix' transport: Posthouse starts first and is told the route later.
    let server = Server::start(&home);
    fs::write(home.at("rewrite"), "/^(.*)@away\\.test$/ $1@example.test\n").unwrap();
    let settings = format!(
        "virtual_alias_domains =\nvirtual_alias_maps = regexp:{}\nrelayhost = [127.0.0.1]:{}\n{more}",
        home.at("rewrite").display(),
        server.address().port()
    );
    let postfix = Postfix::start(&folder, &settings)?;
    let route = format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[[route]]\ndomain = \"away.test\"\nhosts = [\"{}\"]\n",
        postfix.address()
    );
    home.configure("", &route);
    let mut server = server;
    server.process().signal(rustix::process::Signal::HUP);
    server.event("reloaded", |_| true);
    Some((home, server, postfix))
}

#[test]
fn every_difficult_content_survives_the_way_through_postfix_and_back() {
    let Some((home, server, _postfix)) = round_trip(&["ann@example.test".to_owned()], "") else { return };
    let mut client = server.client();
    for (number, make) in CONTENTS.into_iter().enumerate() {
        let content = make("out and in");
        client.send("sue@client.test", &["ann@away.test"], &content).unwrap();
        // The first accepted event of each pair is the way out, the second the way in.
        let back = server.accepted(2 * number + 1);
        server.delivered(field(&back, "id"), "ann@example.test");
        let file = maildir::only(&home.maildir("ann"));
        let fields = maildir::above(&file, &content);
        assert_eq!(fields.names(), ["Return-Path", "Delivered-To", "Received", "Received", "Received"]);
        assert_eq!(fields.get("Return-Path"), "<sue@client.test>");
        maildir::files(&home.maildir("ann")).iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

#[test]
fn a_thousand_recipients_go_through_postfix_and_back_in_one_message() {
    let users: Vec<String> = (0..1000).map(|number| format!("u{number}@example.test")).collect();
    let Some((home, server, _postfix)) = round_trip(&users, "") else { return };
    let away: Vec<String> = (0..1000).map(|number| format!("u{number}@away.test")).collect();
    let content = corpus::difficult("to a thousand");
    let to: Vec<&str> = away.iter().map(String::as_str).collect();
    let id = server.client().send("sue@client.test", &to, &content).unwrap().id().to_owned();
    server.finished(&id);
    let back = server.accepted(1);
    assert_eq!(back["recipients"], 1000, "Postfix sends one message with all recipients");
    server.finished(field(&back, "id"));
    for number in 0..1000 {
        let fields = maildir::above(&maildir::only(&home.maildir(&format!("u{number}"))), &content);
        assert_eq!(fields.get("Delivered-To"), format!("u{number}@example.test"));
    }
}

#[test]
fn a_message_of_25_mb_goes_through_postfix_and_back() {
    let Some((home, server, _postfix)) = round_trip(&["ann@example.test".to_owned()], "") else { return };
    let content = corpus::large("large", 25_000_000);
    server.client().send("sue@client.test", &["ann@away.test"], &content).unwrap();
    server.finished(field(&server.accepted(1), "id"));
    maildir::above(&maildir::only(&home.maildir("ann")), &content);
}
