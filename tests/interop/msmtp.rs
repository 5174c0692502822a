//! msmtp sends.

use std::fs::{self, File};
use std::process::Command;

use crate::neighbour::{find, run};
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

#[test]
fn a_message_from_msmtp_lies_in_the_maildir_byte_for_byte() {
    let Some(msmtp) = find("msmtp") else { return };
    let home = Home::new("");
    let server = Server::start(&home);
    let content = corpus::difficult("from msmtp");
    // On the command line a message has the system's line ends; msmtp makes CRLF of them.
    let lines = String::from_utf8(content.clone()).unwrap().replace("\r\n", "\n");
    fs::write(home.at("message"), lines).unwrap();
    fs::write(home.at("msmtprc"), "").unwrap();
    let address = server.address();
    run(Command::new(msmtp)
        .arg(format!("--file={}", home.at("msmtprc").display()))
        .args([format!("--host={}", address.ip()), format!("--port={}", address.port())])
        .args(["--domain=msmtp.test", "--from=sue@msmtp.test", "--tls=off", "--auth=off"])
        .args(["--undisclosed-recipients=off", "--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off"])
        .args(["ann@example.test", "bob@example.test"])
        .stdin(File::open(home.at("message")).unwrap()));
    server.finished(field(&server.accepted(0), "id"));
    for user in ["ann", "bob"] {
        let fields = maildir::assert_content(&maildir::only(&home.maildir(user)), &content);
        assert_eq!(fields.get("Return-Path"), "<sue@msmtp.test>");
        assert_eq!(fields.get("Delivered-To"), format!("{user}@example.test"));
    }
}
