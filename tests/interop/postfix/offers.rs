//! What Posthouse gives a Postfix that offers more or less than usual.

use std::time::{Duration, Instant};

use mail_parser::MessageParser;

use super::tests::round_trip;
use crate::support::PATIENCE;
use crate::support::corpus;
use crate::support::maildir;
use crate::support::server::field;

/// Sends content out through a Postfix that doesn't offer these extensions, and back in. What came back, once Postfix has counted these
/// commands in a session.
fn through(withheld: &str, content: &[u8], counted: &str) -> Option<Vec<u8>> {
    let settings = format!("smtpd_discard_ehlo_keywords = {withheld}\n");
    let (home, server, postfix) = round_trip(&["ann@example.test".to_owned()], &settings)?;
    server.client().send("sue@client.test", &["ann@away.test"], content).unwrap();
    server.finished(field(&server.accepted(1), "id"));
    // Our connection waits for another message; Postfix sums it up when it ends.
    drop(server);
    let deadline = Instant::now() + PATIENCE;
    while !postfix.log().contains(counted) {
        assert!(Instant::now() < deadline, "no {counted} in its log");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Some(maildir::only(&home.maildir("ann")))
}

#[test]
fn postfix_takes_content_in_chunks_and_without_them() {
    let content = corpus::large("in chunks", 3_000_000);
    for (withheld, counted) in [("", " rcpt=1 bdat=3 "), ("chunking", " rcpt=1 data=1 ")] {
        let Some(back) = through(withheld, &content, counted) else { return };
        maildir::above(&back, &content);
    }
}

#[test]
fn a_postfix_without_8bitmime_gets_the_same_text_in_7_bit() {
    let content = corpus::difficult("in 7 bit");
    let Some(back) = through("8bitmime", &content, " bdat=1 ") else { return };
    assert!(back.is_ascii());
    let text = |content: &[u8]| MessageParser::default().parse(content).unwrap().body_text(0).unwrap().into_owned();
    assert_eq!(text(&back), text(&content));
}
