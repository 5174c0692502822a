//! What Exim and OpenSMTPD get from us arrives, with an exact result for each recipient, over few connections.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::Hop;
use crate::support::PATIENCE;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::server::{Server, field};

/// A server that gives mail for hop.test to this address, over one connection at a time.
fn server(home: &Home, to: SocketAddr) -> Server {
    home.configure(
        "",
        &format!(
            "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[remote]\nconcurrency = 1\n\
             [[route]]\ndomain = \"hop.test\"\nhosts = [\"{to}\"]\n"
        ),
    );
    Server::start(home)
}

/// The messages of the Maildir, once there are so many. Line ends as the hop wrote them are made CRLF, and a line end that it left out
/// at the end is put back.
fn arrived(folder: &Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = maildir::files(folder);
        if files.len() >= count {
            let texts = files.iter().map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned());
            return texts.map(|text| text.replace("\r\n", "\n").trim_end().replace('\n', "\r\n") + "\r\n").collect();
        }
        assert!(Instant::now() < deadline, "{} of {count} messages came", files.len());
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
}

fn relays_to(home: &Home, hop: &Hop, extensions: &[&str]) {
    let server = server(home, hop.address);
    let content = corpus::header("to another server") + "\r\n.dots\r\n..and more\r\ntext\r\n";
    let mut ids = Vec::new();
    for number in 0..20 {
        let joe = format!("joe{number}@hop.test");
        let to = [joe.as_str(), "nobody@hop.test", "eve@hop.test"];
        ids.push(server.client().send("sue@client.test", &to, content.as_bytes()).unwrap().id().to_owned());
    }
    for id in &ids {
        server.finished(id);
        let failed = server.event("failed", |event| field(event, "id") == id);
        assert_eq!((field(&failed, "to"), &field(&failed, "status")[..2]), ("nobody@hop.test", "5."), "{failed}");
        let delivered = server.delivered(id, "eve@hop.test");
        assert!(field(&delivered, "reply").starts_with("250"), "the hop's own words are kept: {delivered}");
    }
    let texts = arrived(&hop.maildir, 40);
    for number in 0..20 {
        let to_joe: Vec<_> = texts.iter().filter(|text| text.contains(&format!(": joe{number}@hop.test\r\n"))).collect();
        assert_eq!(to_joe.len(), 1, "nobody gets it twice");
        let (_, body) = to_joe[0].split_once("\r\n\r\n").unwrap();
        assert_eq!(body, content.split_once("\r\n\r\n").unwrap().1);
        let top = to_joe[0].lines().next().unwrap();
        assert!(top.eq_ignore_ascii_case("Return-Path: <sue@client.test>"), "{}", to_joe[0]);
        for extension in extensions {
            assert!(to_joe[0].contains(extension), "{}", to_joe[0]);
        }
    }
    let hops: Vec<Value> = server.events("delivered").into_iter().filter(|event| field(event, "to") == "eve@hop.test").collect();
    assert_eq!(hops.len(), 20);
}

#[test]
fn exim_takes_mail_with_a_result_for_each_recipient() {
    let home = Home::new("");
    let Some(hop) = Hop::exim(home.path()) else { return };
    relays_to(&home, &hop, &["by exim.test with esmtp (Exim"]);
    let log = fs::read_to_string(home.at("exim/var/log/exim4/mainlog")).unwrap();
    assert!(log.contains(" K "), "it came in chunks (BDAT): {log}");
}

#[test]
fn opensmtpd_takes_mail_with_a_result_for_each_recipient() {
    let home = Home::new("");
    let Some(hop) = Hop::opensmtpd(home.path()) else { return };
    relays_to(&home, &hop, &["by opensmtpd.test (OpenSMTPD) with ESMTP"]);
}

#[test]
fn exims_no_for_now_is_tried_again_and_its_no_for_good_bounces() {
    let home = Home::new("");
    let Some(hop) = Hop::exim(home.path()) else { return };
    let server = server(&home, hop.address);
    let content = corpus::difficult("two ways to say no");
    let to = ["later@hop.test", "nobody@hop.test"];
    let id = server.client().send("ann@example.test", &to, &content).unwrap().id().to_owned();
    let deferred = server.event("deferred", |event| field(event, "id") == id);
    assert!(field(&deferred, "to") == "later@hop.test" && field(&deferred, "reply").contains("not now"), "{deferred}");
    let failed = server.event("failed", |event| field(event, "id") == id);
    assert!(field(&failed, "to") == "nobody@hop.test" && field(&failed, "reply").contains("no such user"), "{failed}");
    let notice = server.event("delivered", |event| field(event, "to") == "ann@example.test");
    assert_ne!(field(&notice, "id"), id);
    let bounce = String::from_utf8_lossy(&maildir::only(&home.maildir("ann"))).into_owned();
    assert!(bounce.contains("no such user") && !bounce.contains("later@hop.test"), "{bounce}");
}
