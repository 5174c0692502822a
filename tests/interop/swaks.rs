//! swaks sends.

use std::fs;
use std::process::Command;

use crate::neighbour::{find, run};
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::Server;

#[test]
fn a_message_from_swaks_lies_in_the_maildir_byte_for_byte() {
    let Some(swaks) = find("swaks") else { return };
    let home = Home::new("");
    let server = Server::start(&home);
    let content = corpus::difficult("from swaks");
    // swaks puts a line end of its own between the file and the final dot.
    fs::write(home.at("message"), content.strip_suffix(b"\r\n").unwrap()).unwrap();
    let address = server.address();
    let output = run(Command::new(swaks)
        .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--ehlo", "swaks.test", "--from", "sue@swaks.test", "--to", "ann@example.test"])
        .arg("--data")
        .arg(format!("@{}", home.at("message").display())));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text.split("queued as ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("swaks shows the queue id");
    server.finished(id);
    let fields = maildir::assert_content(&maildir::only(&home.maildir("ann")), &content);
    assert_eq!(fields.get("Return-Path"), "<sue@swaks.test>");
    assert_eq!(fields.get("Delivered-To"), "ann@example.test");
    let received = fields.get("Received");
    for part in ["from swaks.test", "[127.0.0.1]", "by mail.example.test", "with ESMTP", id] {
        assert!(received.contains(part), "no {part} in {received}");
    }
}

#[test]
fn swaks_is_told_why_a_stranger_may_not_relay() {
    let Some(swaks) = find("swaks") else { return };
    let home = Home::new("");
    let server = Server::start(&home);
    let address = server.address();
    let output = Command::new(swaks)
        .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--from", "sue@swaks.test", "--to", "someone@elsewhere.test"])
        .output()
        .unwrap();
    // 24: swaks' status for "no recipient was accepted".
    assert_eq!(output.status.code(), Some(24), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("<** 550 5.7.1"), "{output:?}");
}
