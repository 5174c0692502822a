//! Every kind of notice, read by Python's email package and by flufl.bounce.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::neighbour::{helper, missing, python};
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::server::{Server, field, listing, run};

/// Whether there is a Python with flufl.bounce.
pub(crate) fn reader() -> bool {
    let found = python().is_some_and(|python| {
        Command::new(python).args(["-c", "import flufl.bounce"]).output().is_ok_and(|output| output.status.success())
    });
    if !found {
        missing("flufl.bounce is not installed");
    }
    found
}

/// A peer at far.test that knows nobody called "unknown", is busy for "slow", and takes no notices for closed.test.
fn peer() -> Peer {
    Peer::with(|line| {
        let refusal = if line.contains("<unknown") {
            "550-5.1.1 No such user here,\r\n550 5.1.1 <unknown> was never heard of"
        } else if line.contains("<slow") {
            "450 4.2.1 Mailbox busy"
        } else if line.contains("@closed.test>") && line.starts_with("RCPT") {
            "550 5.7.1 We take nothing"
        } else {
            return None;
        };
        Some(refusal.to_owned())
    })
}

fn start(peer: &Peer, sections: &str) -> (Home, Server) {
    let sections = format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n{sections}",
        peer.address()
    );
    let home = Home::new(&sections);
    let server = Server::start(&home);
    (home, server)
}

/// Sends a message that there will be a notice about; its id.
fn send(server: &Server, from: &str, to: &[&str]) -> String {
    server.client().send(from, to, &corpus::difficult("a letter")).unwrap().id().to_owned()
}

/// Waits for a notice about a message to lie in a mailbox, and reads it. Checks what holds for every notice.
fn read(home: &Home, server: &Server, id: &str, kind: &str, user: &str) -> Value {
    let notified = server.event("notified", |event| field(event, "id") == id && field(event, "kind") == kind);
    server.finished(field(&notified, "notice"));
    let files = maildir::files(&home.maildir(user));
    assert_eq!(files.len(), 1, "one notice");
    check(&files[0])
}

fn check(file: &Path) -> Value {
    let notice = helper("notices.py", [file]).expect("Python is there")[0].take();
    assert_eq!(notice["defects"], json!([]), "{notice:#}");
    assert_eq!(notice["type"], "multipart/report", "{notice:#}");
    assert_eq!(notice["report_type"], "delivery-status", "{notice:#}");
    assert_eq!(notice["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]), "{notice:#}");
    assert_eq!(notice["eight_bit"], false, "{notice:#}");
    assert!(notice["longest_line"].as_u64().unwrap() <= 998, "{notice:#}");
    let header = &notice["header"];
    assert_eq!(header["return-path"], "<>");
    assert!(header["auto-submitted"].as_str().unwrap().starts_with("auto-"), "{notice:#}");
    assert!(header["from"].as_str().unwrap().contains("MAILER-DAEMON@mail.example.test"), "{notice:#}");
    assert_eq!(header["in-reply-to"], "<a.letter@client.test>", "{notice:#}");
    for name in ["message-id", "subject", "to"] {
        assert!(header[name].is_string(), "no {name}: {notice:#}");
    }
    assert_eq!(notice["status"][0]["reporting-mta"], "dns; mail.example.test", "{notice:#}");
    assert!(notice["status"][0]["arrival-date"].is_string(), "{notice:#}");
    assert_eq!(notice["original"]["subject"], "a letter", "{notice:#}");
    notice
}

/// A field of the recipients' blocks, one entry a recipient, unfolded.
fn column(notice: &Value, name: &str) -> Vec<String> {
    let blocks = &notice["status"].as_array().unwrap()[1..];
    let unfolded = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    blocks.iter().map(|block| unfolded(block[name].as_str().unwrap_or(""))).collect()
}

#[test]
fn a_bounce_names_those_that_failed_with_the_peers_own_words() {
    if !reader() {
        return;
    }
    let peer = peer();
    let (home, server) = start(&peer, "");
    let id = send(&server, "ann@example.test", &["unknown@far.test", "fine@far.test", "unknown.too@far.test"]);
    let notice = read(&home, &server, &id, "bounce", "ann");
    assert_eq!(peer.next().to, ["fine@far.test"]);
    assert_eq!(notice["permanent"], json!(["unknown.too@far.test", "unknown@far.test"]), "{notice:#}");
    assert_eq!(notice["temporary"], json!([]));
    assert_eq!(column(&notice, "final-recipient"), ["rfc822; unknown@far.test", "rfc822; unknown.too@far.test"]);
    assert_eq!(column(&notice, "action"), ["failed", "failed"]);
    assert_eq!(column(&notice, "status"), ["5.1.1", "5.1.1"]);
    for diagnosis in column(&notice, "diagnostic-code") {
        assert!(diagnosis.starts_with("smtp;") && diagnosis.contains("was never heard of"), "{diagnosis}");
    }
    for remote in column(&notice, "remote-mta") {
        assert!(remote.starts_with("dns;"), "{remote}");
    }
    let text = notice["text"].as_str().unwrap();
    assert!(text.contains("unknown@far.test") && text.contains("No such user here") && !text.contains("fine@"), "{text}");
}

#[test]
fn a_delay_notice_says_that_it_goes_on() {
    if !reader() {
        return;
    }
    let (home, server) = start(&peer(), "[retry]\nfirst = \"1h\"\ndelay_notice = [\"1s\"]\n");
    let id = send(&server, "ann@example.test", &["slow@far.test"]);
    let notice = read(&home, &server, &id, "delay", "ann");
    assert_eq!(notice["temporary"], json!(["slow@far.test"]), "{notice:#}");
    assert_eq!(notice["permanent"], json!([]));
    assert_eq!(column(&notice, "action"), ["delayed"]);
    assert_eq!(column(&notice, "status"), ["4.2.1"]);
    assert!(column(&notice, "will-retry-until")[0].contains("2"), "{notice:#}");
}

#[test]
fn mail_that_expires_bounces_with_the_last_reason() {
    if !reader() {
        return;
    }
    let (home, server) =
        start(&peer(), "[retry]\nfirst = \"1s\"\nmax = \"1s\"\nlifetime = \"3s\"\nbounce_lifetime = \"3s\"\ndelay_notice = []\n");
    let id = send(&server, "ann@example.test", &["slow@far.test"]);
    let notice = read(&home, &server, &id, "bounce", "ann");
    assert_eq!(notice["permanent"], json!(["slow@far.test"]), "{notice:#}");
    assert_eq!(column(&notice, "action"), ["failed"]);
    assert!(["4.4.7", "5.4.7"].contains(&column(&notice, "status")[0].as_str()), "{notice:#}");
    assert!(column(&notice, "diagnostic-code")[0].contains("Mailbox busy"), "{notice:#}");
    assert_eq!(server.events("expired").len(), 1);
    assert!(server.events("deferred").len() > 1, "there was more than one attempt");
}

#[test]
fn a_notice_that_nobody_takes_goes_to_the_postmaster_and_no_further() {
    if !reader() {
        return;
    }
    let (home, server) = start(&peer(), "");
    let id = send(&server, "sue@closed.test", &["unknown@far.test"]);
    let bounce = server.event("notified", |event| field(event, "id") == id);
    let notified = server.event("notified", |event| field(event, "id") == field(&bounce, "notice"));
    assert_eq!(field(&notified, "kind"), "double-bounce");
    server.finished(field(&notified, "notice"));
    let files = maildir::files(&home.maildir("postmaster"));
    assert_eq!(files.len(), 1);
    // What it is about is our own notice, so its references are other than those of the rest.
    let notice = helper("notices.py", [&files[0]]).unwrap()[0].take();
    assert_eq!(notice["defects"], json!([]), "{notice:#}");
    assert_eq!(notice["permanent"], json!(["sue@closed.test"]), "{notice:#}");
    assert_eq!(notice["parts"], json!(["text/plain", "message/delivery-status", "text/rfc822-headers"]));
    assert!(listing(&home, &["queue", "list", "--json"]).is_empty());
}

#[test]
fn an_admins_bounce_is_a_notice_as_any_other() {
    if !reader() {
        return;
    }
    let (home, server) = start(&peer(), "[retry]\nfirst = \"1h\"\n");
    let id = send(&server, "ann@example.test", &["slow@far.test"]);
    server.event("deferred", |event| field(event, "id") == id);
    let output = run(&home, &["queue", "bounce", &id]);
    assert!(output.status.success(), "{output:?}");
    let notice = read(&home, &server, &id, "bounce", "ann");
    assert_eq!(notice["permanent"], json!(["slow@far.test"]), "{notice:#}");
    assert!(column(&notice, "status")[0].starts_with("5."), "{notice:#}");
}
