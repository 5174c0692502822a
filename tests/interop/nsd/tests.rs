//! Mail goes where a real DNS server says.

use crate::nsd::Nsd;
use crate::postfix::Postfix;
use crate::support::client::Client;
use crate::support::corpus;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::server::{Server, field, run};

/// A Posthouse that relays for us, asks this name server and calls MX hosts on this port, loopback allowed.
fn start(home: &Home, nsd: &Nsd, port: u16) -> Server {
    home.configure(
        "",
        &format!(
            "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[dns]\nservers = [\"{}\"]\n[remote]\nport = {port}\nspecial_addresses = \"allow\"\n\
             connect_timeout = \"5s\"\n",
            nsd.address()
        ),
    );
    Server::start(home)
}

#[test]
fn mail_goes_to_the_mx_of_lowest_preference_that_answers() {
    let home = Home::new("");
    // On 127.0.0.2 nobody listens at the peer's port: the better MX doesn't answer.
    let zone = "plain MX 10 mx\nmx A 127.0.0.1\nbackup MX 5 down\nbackup MX 10 mx\ndown A 127.0.0.2\n";
    let Some(nsd) = Nsd::start(home.path(), zone) else { return };
    let peer = Peer::new();
    let server = start(&home, &nsd, peer.address().port());
    let content = corpus::difficult("by MX");
    for domain in ["plain.test", "backup.test"] {
        let to = format!("someone@{domain}");
        let id = server.client().send("sue@client.test", &[&to], &content).unwrap().id().to_owned();
        let mail = peer.next();
        assert_eq!(mail.to, [to.as_str()]);
        assert_eq!(maildir::above(&mail.content, &content).names(), ["Received"]);
        let delivered = server.delivered(&id, &to);
        assert!(field(&delivered, "next_hop").contains("mx.test"), "{delivered}");
    }
}

#[test]
fn a_domain_without_mx_is_called_itself_and_a_cname_is_followed() {
    let home = Home::new("");
    let zone = "implicit A 127.0.0.1\nalias CNAME real\nreal MX 10 mx\nmx A 127.0.0.1\nodd MX 10 www\nwww CNAME mx\n";
    let Some(nsd) = Nsd::start(home.path(), zone) else { return };
    let peer = Peer::new();
    let server = start(&home, &nsd, peer.address().port());
    for domain in ["implicit.test", "alias.test", "odd.test"] {
        let to = format!("someone@{domain}");
        server.client().send("sue@client.test", &[&to], b"Subject: x\r\n\r\nx\r\n").unwrap();
        assert_eq!(peer.next().to, [to]);
    }
}

#[test]
fn null_mx_and_a_domain_that_does_not_exist_bounce_at_once() {
    let home = Home::new("");
    let Some(nsd) = Nsd::start(home.path(), "nomail MX 0 .\nnomail A 127.0.0.1\nempty TXT \"neither MX nor address\"\n") else {
        return;
    };
    let server = start(&home, &nsd, Peer::new().address().port());
    for (domain, status) in [("nomail.test", "5.1.10"), ("missing.test", "5.1.2"), ("empty.test", "5.4.4")] {
        let to = format!("someone@{domain}");
        let id = server.client().send("ann@example.test", &[&to], b"Subject: x\r\n\r\nx\r\n").unwrap().id().to_owned();
        let failed = server.event("failed", |event| field(event, "id") == id);
        assert_eq!((field(&failed, "status"), field(&failed, "cause")), (status, "dns"), "{failed}");
        let notified = server.event("notified", |event| field(event, "id") == id);
        server.delivered(field(&notified, "notice"), "ann@example.test");
    }
    assert_eq!(maildir::files(&home.maildir("ann")).len(), 3);
}

#[test]
fn a_name_server_that_refuses_the_question_defers() {
    let home = Home::new("");
    let Some(nsd) = Nsd::start(home.path(), "") else { return };
    let server = start(&home, &nsd, Peer::new().address().port());
    // NSD is not responsible for this zone and answers REFUSED.
    let id = server.client().send("ann@example.test", &["x@foreign.zone"], b"Subject: x\r\n\r\nx\r\n").unwrap().id().to_owned();
    let deferred = server.event("deferred", |event| field(event, "id") == id);
    assert_eq!(field(&deferred, "cause"), "dns", "{deferred}");
    assert!(field(&deferred, "status").starts_with("4."), "{deferred}");
}

#[test]
fn by_default_an_mx_on_loopback_is_not_called() {
    let home = Home::new("");
    let Some(nsd) = Nsd::start(home.path(), "trap MX 10 mx\nmx A 127.0.0.1\n") else { return };
    let peer = Peer::new();
    home.configure(
        "",
        &format!(
            "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[dns]\nservers = [\"{}\"]\n[remote]\nport = {}\n",
            nsd.address(),
            peer.address().port()
        ),
    );
    let server = Server::start(&home);
    let id = server.client().send("ann@example.test", &["x@trap.test"], b"Subject: x\r\n\r\nx\r\n").unwrap().id().to_owned();
    let failed = server.event("failed", |event| field(event, "id") == id);
    assert!(field(&failed, "status").starts_with("5.4."), "{failed}");
}

#[test]
fn postfix_is_found_by_mx_and_takes_the_mail() {
    let home = Home::new("");
    let Some(nsd) = Nsd::start(home.path(), "partner MX 10 postfix\npostfix A 127.0.0.1\n") else { return };
    let peer = Peer::new();
    let relay = format!("relayhost = [127.0.0.1]:{}\n", peer.address().port());
    let Some(postfix) = Postfix::start(home.path(), &relay) else { return };
    let server = start(&home, &nsd, postfix.address().port());
    let content = corpus::overlong("to Postfix by MX");
    let id = server.client().send("sue@client.test", &["someone@partner.test"], &content).unwrap().id().to_owned();
    let delivered = server.delivered(&id, "someone@partner.test");
    assert!(field(&delivered, "next_hop").contains("postfix.test"), "{delivered}");
    assert!(field(&delivered, "reply").contains("queued as"), "{delivered}");
    let mail = peer.next();
    assert_eq!(maildir::above(&mail.content, &content).names(), ["Received", "Received"]);
}

#[test]
fn explain_shows_the_way_that_the_name_server_gives() {
    let home = Home::new("");
    let Some(nsd) = Nsd::start(home.path(), "partner MX 10 one\npartner MX 20 two\none A 127.0.0.1\ntwo A 127.0.0.2\n") else {
        return;
    };
    let server = start(&home, &nsd, 25);
    let output = run(&home, &["explain", "someone@partner.test"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = |name: &str| text.find(name).unwrap_or_else(|| panic!("no {name} in {output:?}"));
    assert!(at("one.test") < at("two.test"), "{text}");
    drop(Client::open(server.address()).unwrap());
}
