//! Python's smtplib sends: many messages on one connection, every difficulty of content, refused recipients, 25 MB.

use std::fs;

use serde_json::{Value, json};

use crate::neighbour::helper;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::Server;

/// Lets smtplib send these contents on one connection; its report, one entry a message.
fn send(home: &Home, server: &Server, contents: &[Vec<u8>], recipients: &[&str]) -> Option<Vec<Value>> {
    let address = server.address();
    let mut arguments =
        vec![address.ip().to_string(), address.port().to_string(), "sue@python.test".to_owned(), recipients.join(",")];
    for (number, content) in contents.iter().enumerate() {
        let file = home.at(&format!("message-{number}"));
        fs::write(&file, content).unwrap();
        arguments.push(file.display().to_string());
    }
    Some(helper("send.py", arguments)?.as_array().unwrap().clone())
}

#[test]
fn every_difficult_content_that_smtplib_sends_arrives_byte_for_byte() {
    let home = Home::new("");
    let server = Server::start(&home);
    let contents = [
        corpus::difficult("difficult"),
        corpus::overlong("overlong"),
        corpus::header("only a header").into_bytes(),
        b"\r\nno header\r\n".to_vec(),
        b"\r\n".to_vec(),
        b".\r\n".to_vec(),
        b"Subject: dots\r\n\r\n.\r\n..\r\n...\r\n\r\n.\r\n".to_vec(),
        b"Subject: control\r\n\r\nnul \0 bell \x07 escape \x1b delete \x7f high \x80\xff\r\n".to_vec(),
    ];
    let Some(report) = send(&home, &server, &contents, &["ann@example.test"]) else { return };
    assert_eq!(report.len(), contents.len());
    for entry in &report {
        assert_eq!(entry["code"], 250, "{entry}");
        server.finished(entry["id"].as_str().unwrap());
    }
    let mut found: Vec<Vec<u8>> = maildir::files(&home.maildir("ann")).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(found.len(), contents.len());
    for (content, entry) in contents.iter().zip(&report) {
        // Each file is found by the queue id in its Received field.
        let id = entry["id"].as_str().unwrap();
        let at = found.iter().position(|message| String::from_utf8_lossy(message).contains(id)).expect("a file with the id");
        maildir::assert_content(&found.swap_remove(at), content);
    }
}

#[test]
fn a_hundred_messages_on_one_connection_all_arrive() {
    let home = Home::new("");
    let server = Server::start(&home);
    let contents: Vec<Vec<u8>> = (0..100).map(|number| corpus::difficult(&format!("number {number}"))).collect();
    let Some(report) = send(&home, &server, &contents, &["ann@example.test", "bob@example.test"]) else { return };
    for entry in &report {
        assert_eq!(entry["code"], 250, "{entry}");
        server.finished(entry["id"].as_str().unwrap());
    }
    assert_eq!(maildir::files(&home.maildir("ann")).len(), 100);
    assert_eq!(maildir::files(&home.maildir("bob")).len(), 100);
}

#[test]
fn a_message_of_25_mb_arrives_byte_for_byte() {
    let home = Home::new("");
    let server = Server::start(&home);
    let contents = [corpus::large("large", 25_000_000)];
    let Some(report) = send(&home, &server, &contents, &["ann@example.test"]) else { return };
    assert_eq!(report[0]["code"], 250, "{:?}", report[0]);
    server.finished(report[0]["id"].as_str().unwrap());
    maildir::assert_content(&maildir::only(&home.maildir("ann")), &contents[0]);
}

#[test]
fn smtplib_learns_which_recipients_are_refused_and_why() {
    let home = Home::new("[limits]\nmessage_size = \"1MiB\"\n");
    let server = Server::start(&home);
    let content = [corpus::difficult("to some")];
    let recipients = ["ann@example.test", "nobody@example.test", "stranger@elsewhere.test"];
    let Some(report) = send(&home, &server, &content, &recipients) else { return };
    assert_eq!(report[0]["refused"], json!({"nobody@example.test": [550, "5.1.1"], "stranger@elsewhere.test": [550, "5.7.1"]}));
    server.finished(report[0]["id"].as_str().unwrap());
    maildir::assert_content(&maildir::only(&home.maildir("ann")), &content[0]);

    let report = send(&home, &server, &content, &["nobody@example.test"]).unwrap();
    assert_eq!(report[0]["error"], "SMTPRecipientsRefused");
    let report = send(&home, &server, &[corpus::large("too large", 2_000_000)], &["ann@example.test"]).unwrap();
    assert_eq!((&report[0]["error"], &report[0]["code"]), (&json!("SMTPSenderRefused"), &json!(552)));
    assert_eq!(maildir::files(&home.maildir("ann")).len(), 1);
}
