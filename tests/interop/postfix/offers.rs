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

/// Asks for something through a Postfix with these settings, as bob. What bob is told; and ann's mail, if that is to come.
fn told(settings: &str, mail: &str, recipient: &str, content: &str, comes: bool) -> Option<(String, Vec<u8>)> {
    let users = ["ann@example.test", "bob@example.test"].map(str::to_owned);
    let (home, server, _postfix) = round_trip(&users, settings)?;
    let mut client = server.client();
    for (line, code) in [(format!("MAIL FROM:{mail}"), 250), (format!("RCPT TO:{recipient}"), 250), ("DATA".to_owned(), 354)] {
        client.say(&line).unwrap();
        client.expect(code).unwrap();
    }
    client.write(format!("{content}.\r\n").as_bytes()).unwrap();
    client.expect(250).unwrap();
    let arrived = |user: &str| {
        let event = server.event("delivered", |event| field(event, "to") == format!("{user}@example.test"));
        server.finished(field(&event, "id"));
        maildir::only(&home.maildir(user))
    };
    let notice = String::from_utf8_lossy(&arrived("bob")).into_owned();
    Some((notice, if comes { arrived("ann") } else { Vec::new() }))
}

#[test]
fn postfix_takes_the_duty_to_notify_over_or_leaves_it_to_us() {
    let (mail, recipient) =
        ("<bob@example.test> RET=HDRS ENVID=QQ+2B314159", "<ann@away.test> NOTIFY=SUCCESS ORCPT=rfc822;ann@old.test");
    for (withheld, reporter, action) in [("", "postfix.test", "expanded"), ("dsn", "mail.example.test", "relayed")] {
        let settings = format!("smtpd_discard_ehlo_keywords = {withheld}\n");
        let Some((notice, _)) = told(&settings, mail, recipient, "Subject: x\r\n\r\nx\r\n", true) else { return };
        for line in [
            format!("Reporting-MTA: dns; {reporter}\r\n"),
            "Original-Envelope-Id: QQ+314159\r\n".to_owned(),
            "ann@old.test\r\n".to_owned(),
            format!("Action: {action}\r\n"),
        ] {
            assert!(notice.contains(&line), "{line} is not in\n{notice}");
        }
    }
}

#[test]
fn postfix_takes_header_fields_beyond_ascii_or_the_sender_hears_why_not() {
    let (mail, recipient) = ("<bob@example.test> BODY=8BITMIME SMTPUTF8", "<ann@away.test> NOTIFY=SUCCESS,FAILURE");
    let content = "From: Bob <bob@example.test>\r\nSubject: Grüße\r\n\r\nx\r\n";
    let Some((_, mail_of_ann)) = told("smtputf8_enable = yes\n", mail, recipient, content, true) else { return };
    assert!(mail_of_ann.ends_with(content.as_bytes()));
    let (notice, _) = told("smtputf8_enable = no\n", mail, recipient, content, false).unwrap();
    assert!(notice.contains("Action: failed\r\nStatus: 5.6.9\r\n"), "{notice}");
}
